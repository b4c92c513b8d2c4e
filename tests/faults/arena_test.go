package faults

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// patience limits each wait of a test. It is not a promise of the product.
const patience = 2 * time.Minute

// arena is a fleet whose requests and changes are recorded, and whose processes can be held at
// points of the protocol. It is safe for concurrent use.
type arena struct {
	*gate.Fleet
	*Recorder

	t       testing.TB
	lease   time.Duration
	ablated bool // then only the oracle judges the product

	dirs []string // APIKEYS_FAULTS by node

	mu      sync.Mutex
	gates   []*gate.Gate // Nodes, for goroutines other than the test's
	clients []*http.Client

	serial  atomic.Int64
	streams sync.WaitGroup
}

type setting struct {
	nodes      int
	lease      time.Duration
	leases     []time.Duration // leases of the first nodes, if they differ from lease
	clocks     []string        // rates of the node clocks; "" is the machine's rate
	ablation   string
	postgres   *postgrestest.Server
	site       string // the site of each node, as in gate.Config
	file       bool   // use one SQLite file for all nodes, without PostgreSQL and Redis
	binary     string // the Caddy to run; "" is the one under test
	cacheQuery string // as in gate.FleetConfig
}

// startOnFile starts nodes that share one SQLite file.
func startOnFile(
	t testing.TB, nodes int, each func(i int, dir string, c *gate.Config),
) *gate.Fleet {
	t.Helper()
	f := &gate.Fleet{}
	for i := range nodes {
		var c gate.Config
		if i > 0 {
			c.DataOf = f.Nodes[0]
		}
		each(i, t.TempDir(), &c)
		f.Nodes = append(f.Nodes, gate.Start(t, c))
	}
	return f
}

func newArena(t testing.TB, s setting) *arena {
	t.Helper()
	path := filepath.Join(os.TempDir(),
		fmt.Sprintf("apikeys-history-%d-%s.jsonl", os.Getpid(),
			strings.NewReplacer("/", "-").Replace(t.Name())))
	recorder, err := Record(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		recorder.Close()
		if t.Failed() {
			t.Logf("the history is in %s", path)
		} else {
			os.Remove(path)
		}
	})
	a := &arena{Recorder: recorder, t: t, lease: s.lease, ablated: s.ablation != ""}
	each := func(i int, dir string, c *gate.Config) {
		lease := s.lease
		if i < len(s.leases) {
			lease = s.leases[i]
		}
		c.Binary = s.binary
		c.APIKeys += fmt.Sprintf("lease %v\n", lease)
		c.Env = append(c.Env, "APIKEYS_FAULTS="+dir)
		a.write(dir, "ablate", s.ablation)
		if i < len(s.clocks) {
			a.write(dir, "clock", s.clocks[i])
		}
		a.dirs = append(a.dirs, dir)
	}
	if s.file {
		a.Fleet = startOnFile(t, s.nodes, each)
	} else {
		a.Fleet = gate.StartFleet(t, gate.FleetConfig{
			Nodes: s.nodes, Config: gate.Config{Site: s.site,
				APIKey: "namespace_path /in/{namespace}/**\n"},
			Postgres: s.postgres, Each: each, CacheQuery: s.cacheQuery,
		})
	}
	for _, g := range a.Nodes {
		a.admit(g)
	}
	return a
}

// admit adds a node to those that can be used.
func (a *arena) admit(g *gate.Gate) {
	client, _ := g.Client(a.t, gate.HTTP1)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gates, a.clients = append(a.gates, g), append(a.clients, client)
}

// join starts one more node.
func (a *arena) join() { a.admit(a.Join(a.t)) }

func (a *arena) node(i int) (*gate.Gate, *http.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gates[i], a.clients[i]
}

// database returns Postgres, for goroutines other than the test's.
func (a *arena) database() *postgrestest.Server {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Postgres
}

func (a *arena) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.gates)
}

func (a *arena) write(dir, name, text string) {
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		a.t.Error(err)
	}
}

// finish closes the history and judges it.
func (a *arena) finish(s Settling) []Violation {
	a.t.Helper()
	a.streams.Wait()
	h, err := a.Close()
	if err != nil {
		a.t.Fatal(err)
	}
	return h.Check(s)
}

// want checks a promise that the oracle does not see. With an ablation it checks nothing.
func (a *arena) want(ok bool, format string, args ...any) {
	a.t.Helper()
	if !ok && !a.ablated {
		a.t.Errorf(format, args...)
	}
}

// key is one token of a key.
type key struct {
	gate.Key
	read, write Access
	narrowed    bool   // to reading
	namespace   string // of its requests; "" is default
}

// target returns a path in the namespace of the key's requests.
func (k key) target(path string) string {
	if k.namespace == "" {
		return path
	}
	return "/in/" + k.namespace + path
}

// all returns the accesses of a valid key.
func (k key) all() []Access {
	if k.narrowed {
		return []Access{k.read}
	}
	return []Access{k.read, k.write}
}

func (a *arena) named(k gate.Key, narrowed bool) key {
	name := fmt.Sprintf("%s.%d", k.ID, a.serial.Add(1))
	return key{Key: k, read: Access(name + " read"), write: Access(name + " write"),
		narrowed: narrowed}
}

// attempt makes one change and records it once it has a response or failed.
func (a *arena) attempt(
	node int, what, method, path string, body gate.JSON, gives, takes []Access,
) gate.Response {
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	c := Change{Call: now(), What: what, Node: node, Gives: gives, Takes: takes}
	g, _ := a.node(node)
	r := g.Try(ctx, method, path, body)
	c.Return, c.Status, c.Done = now(), r.Status, r.Complete()
	a.change(c)
	return r
}

// create is attempt for a change that creates a token. If former has accesses, the token replaces
// it.
func (a *arena) create(
	node int, what, path string, body gate.JSON, former key,
) (key, gate.Response) {
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	c := Change{Call: now(), What: what, Node: node}
	if former.read != "" {
		c.Takes = former.all()
	}
	g, _ := a.node(node)
	r := g.Try(ctx, "POST", path, body)
	c.Return, c.Status, c.Done = now(), r.Status, r.Status == 201 || r.Complete()
	created, ok := r.Key()
	k := key{}
	if ok {
		k = a.named(created, former.narrowed)
		c.Gives = k.all()
	}
	a.change(c)
	return k, r
}

// insist repeats a change until its outcome is known. A node without a lease answers 503, and leases
// lapse while the machine is busy.
func (a *arena) insist(change func() gate.Response) gate.Response {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		r := change()
		if r.Err == nil && r.Status != 503 || time.Now().After(end) {
			return r
		}
	}
}

// complete repeats a change until it is complete: a change that a node makes just after a failover may
// be incomplete.
func (a *arena) complete(change func() gate.Response) {
	a.t.Helper()
	for end := time.Now().Add(patience); ; {
		switch r := a.insist(change); {
		case r.Complete():
			return
		case r.Status/100 != 2 || time.Now().After(end):
			a.t.Fatalf("want a complete change, got %v", r)
		}
	}
}

func (a *arena) tryMint(node int) (key, gate.Response) {
	return a.create(node, "mint", "/keys", gate.JSON{"name": "k", "access": "read_write"}, key{})
}

func (a *arena) mint(node int) key {
	a.t.Helper()
	return a.mintWith(node, gate.JSON{"access": "read_write"})
}

// mintApplied mints a key on node 0 and waits until node 1 has applied the mint, so that node 1
// does not read a revision of the key that it has not applied.
func (a *arena) mintApplied() key {
	a.t.Helper()
	k := a.mint(0)
	a.psqlUntil("node 1 has applied the mint",
		"SELECT coalesce(max(acked), 0) >= (SELECT revision FROM head) FROM nodes WHERE "+a.is(1))
	return k
}

// mintWith mints a key with these fields and a name.
func (a *arena) mintWith(node int, fields gate.JSON) (k key) {
	a.t.Helper()
	fields["name"] = "k"
	r := a.insist(func() (r gate.Response) {
		k, r = a.create(node, "mint", "/keys", fields, key{})
		return r
	})
	if r.Status != 201 {
		a.t.Fatalf("minting a key with %v: %v", fields, r)
	}
	return k
}

// wait is longer than all leases of the tests.
const wait = "?wait=90s"

func (a *arena) revoke(node int, k key) gate.Response {
	return a.attempt(node, "revoke", "POST", "/keys/"+k.ID+"/revoke"+wait,
		gate.JSON{"reason": "test"}, nil, k.all())
}

func (a *arena) revokeIn(d time.Duration, node int, k key) gate.Response {
	return a.attempt(node, "revoke", "POST", "/keys/"+k.ID+"/revoke?wait="+d.String(),
		gate.JSON{"reason": "test"}, nil, k.all())
}

func (a *arena) activate(node int, k key, active bool) gate.Response {
	gives, takes := k.all(), []Access(nil)
	if !active {
		gives, takes = takes, gives
	}
	return a.attempt(node, fmt.Sprintf("active=%v", active), "PATCH", "/keys/"+k.ID+wait,
		gate.JSON{"active": active}, gives, takes)
}

func (a *arena) narrow(node int, k key) gate.Response {
	return a.attempt(node, "narrow", "PATCH", "/keys/"+k.ID+wait, gate.JSON{"access": "read_only"},
		nil, []Access{k.write})
}

func (a *arena) rotate(node int, k key) (key, gate.Response) {
	return a.create(node, "rotate", "/keys/"+k.ID+"/rotate"+wait, gate.JSON{"grace": "0s"}, k)
}

func (a *arena) mustRevoke(node int, k key) {
	a.t.Helper()
	a.complete(func() gate.Response { return a.revoke(node, k) })
}

// get and post send a request with a key and return the status.
func (a *arena) get(node int, k key) int { return a.use(node, k, "GET", nil) }

func (a *arena) post(node int, k key) int { return a.use(node, k, "POST", nil) }

// use sends a request with a key and returns the status. It calls sent, unless that is nil, when
// the request has been written.
func (a *arena) use(node int, k key, method string, sent func()) int {
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	if sent != nil {
		ctx = httptrace.WithClientTrace(ctx,
			&httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent() }})
	}
	return a.useWithin(ctx, node, k, method)
}

func (a *arena) useWithin(ctx context.Context, node int, k key, method string) int {
	r := Request{Access: k.read, Node: node}
	if method != "GET" {
		r.Access = k.write
	}
	g, client := a.node(node)
	request, err := http.NewRequestWithContext(ctx, method, g.URL+k.target("/v1/items/1"), nil)
	if err != nil {
		a.t.Error(err)
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+string(k.Token))
	r.Send = now()
	if answer, err := client.Do(request); err == nil {
		r.Status = answer.StatusCode
		answer.Body.Close()
	}
	r.Recv = now()
	if r.Status == 0 && a.t.Context().Err() != nil {
		return 0 // the test is over
	}
	a.request(r)
	return r.Status
}

// useFor sends requests with a key for d or until one is accepted, and reports whether one was.
func (a *arena) useFor(d time.Duration, node int, k key) bool {
	ctx, cancel := context.WithTimeout(a.t.Context(), d)
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		if a.useWithin(ctx, node, k, "GET") == 200 {
			return true
		}
	}
	return false
}

// warm makes every node cache a key.
func (a *arena) warm(k key) {
	a.t.Helper()
	for i := range a.Nodes {
		if got := a.settled(i, k); got != 200 {
			a.t.Fatalf("node %d, a new key: %d", i, got)
		}
	}
}

// background runs f and returns a channel that is closed at its end.
func background(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

func over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// hold makes node i wait at a point.
func (a *arena) hold(i int, point string) {
	os.Remove(filepath.Join(a.dirs[i], "held."+point))
	a.write(a.dirs[i], "hold."+point, "")
}

func (a *arena) release(i int, point string) { os.Remove(filepath.Join(a.dirs[i], "hold."+point)) }

// held waits until node i waits at a point, and reports whether it does. A point may exist with one
// ablation only: held then returns false once one of instead is closed.
func (a *arena) held(i int, point string, instead ...<-chan struct{}) bool {
	a.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(a.dirs[i], "held."+point)); err == nil {
			return true
		}
		for _, done := range instead {
			if over(done) {
				return false
			}
		}
		if time.Now().After(end) {
			a.t.Fatalf("node %d did not reach %s", i, point)
		}
	}
}

// psql runs SQL as the database operator.
func (a *arena) psql(statements string) string {
	a.t.Helper()
	out, err := a.Postgres.Query(a.Schema, statements)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

func (a *arena) psqlNumber(statements string) int64 {
	a.t.Helper()
	n, err := strconv.ParseInt(a.psql(statements), 10, 64)
	if err != nil {
		a.t.Fatal(err)
	}
	return n
}

// revisionAfter waits until a revision later than r has been committed.
func (a *arena) revisionAfter(r int64) {
	a.t.Helper()
	a.until("the change is committed", func() bool { return a.revision() > r })
}

func (a *arena) revision() int64 { return a.psqlNumber("SELECT revision FROM head") }

// events is an open stream of server-sent events.
type events struct {
	status int
	last   atomic.Int64 // when the upstream sent the last event
	ended  chan struct{}
	hangUp context.CancelFunc
}

// listen opens a stream of events and records it when it has ended.
func (a *arena) listen(node int, k key) *events {
	ctx, cancel := context.WithCancel(a.t.Context())
	e := &events{ended: make(chan struct{}), hangUp: cancel}
	r := Request{Access: k.read, Node: node}
	g, client := a.node(node)
	request, err := http.NewRequestWithContext(ctx, "GET", g.URL+k.target("/v1/sse"), nil)
	if err != nil {
		a.t.Error(err)
	}
	request.Header.Set("Authorization", "Bearer "+string(k.Token))
	r.Send = now()
	answer, err := client.Do(request)
	r.Recv = now()
	if err == nil {
		r.Status = answer.StatusCode
	}
	if e.status = r.Status; a.t.Context().Err() == nil {
		a.request(r)
	}
	if e.status != 200 {
		if answer != nil {
			answer.Body.Close()
		}
		cancel()
		close(e.ended)
		return e
	}
	a.streams.Go(func() {
		defer close(e.ended)
		defer cancel()
		defer answer.Body.Close()
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			if data, is := strings.CutPrefix(lines.Text(), "data: "); is {
				if at, err := strconv.ParseInt(data, 10, 64); err == nil {
					e.last.Store(at)
				}
			}
		}
		a.stream(Stream{Open: r.Send, Last: e.last.Load(), End: now(), Access: k.read, Node: node})
	})
	return e
}

// outlives waits until the stream ends or receives an event that was sent after t, and reports
// which.
func (e *events) outlives(t int64) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if e.last.Load() > t {
			return true
		}
		if over(e.ended) {
			return false
		}
	}
	return true
}
