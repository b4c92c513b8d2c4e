// Package webhooks tests deliveries of events by fleets of real Caddys. The receiver verifies
// signatures with the library of the Standard Webhooks project.
package webhooks

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// A receiver records the events that it gets.
type receiver struct {
	*httptest.Server
	t        *testing.T
	verifier *standardwebhooks.Webhook

	mu    sync.Mutex
	first []event // without repetitions
	seen  map[string]bool
	hangs chan struct{} // nil: it answers
}

type event struct {
	Type string
	Data struct {
		Key       struct{ ID, Name string }
		Namespace string
	}
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{t: t, verifier: verifier, seen: make(map[string]bool)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return // the node was killed
	}
	if err := r.verifier.Verify(body, q.Header); err != nil {
		r.t.Errorf("the signature of %s: %v", q.Header.Get("webhook-id"), err)
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		r.t.Errorf("%v in %s", err, body)
	}
	if q.URL.Path == elsewhere {
		r.t.Error("a redirect was followed")
	}
	r.mu.Lock()
	hangs := r.hangs
	id := q.Header.Get("webhook-id")
	fault := func(http.ResponseWriter, *http.Request) {}
	if !r.seen[id] && hangs == nil {
		if n := len(r.first); n%200 == 199 {
			fault = faults[n/200%len(faults)]
		}
		r.seen[id] = true
		r.first = append(r.first, e)
	}
	r.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-q.Context().Done():
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fault(w, q)
}

// elsewhere is the path to which a receiver redirects.
const elsewhere = "/elsewhere"

// faults are the wrong answers of a receiver to some events, which it has recorded.
var faults = []func(http.ResponseWriter, *http.Request){
	func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, elsewhere, http.StatusTemporaryRedirect)
	},
	func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	func(w http.ResponseWriter, _ *http.Request) {
		for range 1 << 10 { // a gigabyte
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	},
}

func (r *receiver) events() []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.first)
}

// await waits until the receiver has a number of events.
func (r *receiver) await(t *testing.T, n int, within time.Duration) []event {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		if got := r.events(); len(got) >= n || time.Now().After(end) {
			return got
		}
	}
}

func options(url string) string {
	return fmt.Sprintf("webhook %s {\nsecret %s\nevents key.*\nallow_private\n}\n", url, secret)
}

// deliverer returns the index of the node that delivers the webhook, as node `by` sees it.
func deliverer(t *testing.T, nodes []*gate.Gate, by int) int {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		items, _ := nodes[by].Call(t, "GET", "/webhooks", nil).JSON()["items"].([]any)
		if len(items) != 1 {
			continue
		}
		for i := range nodes {
			holder, _ := items[0].(gate.JSON)["node"].(string)
			if strings.HasSuffix(holder, fmt.Sprintf("/%d", nodes[i].Pid())) {
				return i
			}
		}
	}
	t.Fatal("no node delivers the webhook")
	return -1
}

// awaitActive waits until a node delivers n webhooks. They begin with the events after that.
func awaitActive(t *testing.T, g *gate.Gate, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if strings.Count(strings.ReplaceAll(string(g.Call(t, "GET", "/webhooks", nil).Body), " ", ""),
			`"state":"active"`) == n {
			return
		}
	}
	t.Fatalf("%d webhooks are not active", n)
}

// TestFaults: a thousand changes arrive complete and in order while the node that delivers is
// killed, stopped and cut off from the database, and the receiver fails in several ways.
func TestFaults(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	f := gate.StartFleet(t, gate.FleetConfig{Nodes: 3, NoCache: true, Lease: 5 * time.Second,
		Config: gate.Config{Site: "api_key\nrespond 200", APIKeys: options(r.URL + "/events")}})
	deliverer(t, f.Nodes, 0)
	var want []string
	change := func(node, n int) {
		t.Helper()
		for range n {
			name := fmt.Sprint("key ", len(want))
			f.Nodes[node].Mint(t, gate.JSON{"name": name, "access": "read_only"})
			want = append(want, name)
		}
	}
	change(0, 250)
	for _, fault := range []string{"kill", "stop", "cut off"} {
		victim := deliverer(t, f.Nodes, 0)
		other := (victim + 1) % 3
		switch fault {
		case "kill":
			f.Nodes[victim].Kill()
		case "stop":
			f.Nodes[victim].Pause(t)
		default:
			f.Isolate(victim)
		}
		change(other, 250)
		if got := r.await(t, len(want), 90*time.Second); len(got) < len(want) {
			t.Errorf("%s: %d of %d events arrived", fault, len(got), len(want))
		}
		switch fault {
		case "kill":
			f.Nodes[victim].Start(t)
		case "stop":
			f.Nodes[victim].Resume()
		default:
			f.HealNode(victim)
		}
	}
	got := r.await(t, len(want), time.Minute)
	var names []string
	for _, e := range got {
		if e.Type != "key.created" || e.Data.Namespace != "default" {
			t.Errorf("%+v", e)
		}
		names = append(names, e.Data.Key.Name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("received %d events, want %d in order: %s", len(names), len(want),
			strings.Join(names, ", "))
	}
}

// TestDeadReceiver: a receiver that answers nothing delays neither another webhook nor a revoke nor
// a request.
func TestDeadReceiver(t *testing.T) {
	dead, alive := newReceiver(t), newReceiver(t)
	release := make(chan struct{})
	defer close(release)
	dead.hangs = release
	g := gate.Start(t, gate.Config{Site: "api_key\nrespond 200",
		APIKeys: options(dead.URL) + options(alive.URL)})
	awaitActive(t, g, 2)
	const keys = 20
	var request, revoke time.Duration // the slowest
	for i := range keys {
		k := g.Mint(t, gate.JSON{"name": fmt.Sprint(i), "access": "read_only"})
		began := time.Now()
		if r := g.Get(t, "/", k.Token); r.Status != 200 {
			t.Fatalf("%v", r)
		}
		request = max(request, time.Since(began))
		began = time.Now()
		g.Revoke(t, k.ID)
		revoke = max(revoke, time.Since(began))
	}
	t.Logf("of %d keys, the slowest request took %v, the slowest revoke %v", keys, request, revoke)
	if request > 5*time.Second || revoke > 5*time.Second { // an attempt takes 10 s
		t.Errorf("a request took %v, a revoke %v", request, revoke)
	}
	if got := alive.await(t, 2*keys, 30*time.Second); len(got) != 2*keys {
		t.Errorf("%d events of %d arrived", len(got), 2*keys)
	}
	text := g.Call(t, "GET", "/webhooks", nil).String()
	if !strings.Contains(text, `"backlog"`) {
		t.Errorf("%s", text)
	}
}

// TestLostRows: a failover to an asynchronous standby loses rows that the webhook has filtered out.
// The event that takes the place of the first of them arrives.
func TestLostRows(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	f := gate.StartFleet(t, gate.FleetConfig{NoCache: true, Lease: 5 * time.Second,
		Config: gate.Config{Site: "api_key\nrespond 200",
			APIKeys: strings.Replace(options(r.URL), "key.*", "member.*", 1)}})
	g := f.Nodes[0]
	awaitActive(t, g, 1)
	standby := f.Postgres.Standby(t)
	position := func() string {
		t.Helper()
		at, err := f.Postgres.Query(f.Schema, "SELECT position FROM webhooks")
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	g.Mint(t, gate.JSON{"name": "kept", "access": "read_only"})
	gate.Until(t, "the position is saved", func() bool { return position() == "1" })
	gate.Until(t, "the standby has it", func() bool {
		at, err := standby.Query(f.Schema, "SELECT position FROM webhooks")
		return err == nil && at == "1"
	})
	if err := standby.Detach(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		g.Mint(t, gate.JSON{"name": "lost", "access": "read_only"})
	}
	t.Logf("the position is %s when the primary fails", position()) // the node is at 3
	if err := f.Postgres.Halt(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	f.Edge(0, gate.Database).LeadTo(standby.Address())
	gate.Until(t, "a member is created", func() bool {
		return g.Try(t.Context(), "POST", "/members", gate.JSON{"name": "Ada"}).Status == 201
	})
	if got := r.await(t, 1, 2*time.Minute); len(got) != 1 || got[0].Type != "member.created" {
		t.Errorf("received %+v", got)
	}
}
