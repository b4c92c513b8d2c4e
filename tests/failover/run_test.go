package failover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-apikeys/caddy-apikeys/tests/faults"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// run is a cluster with gates and their load, and the history of both.
type run struct {
	*cluster
	timing   timing
	lease    time.Duration
	gates    []*gate.Gate
	clients  []*http.Client
	receiver *receiver

	done chan struct{} // closed to end the load
	work sync.WaitGroup

	mu      sync.Mutex
	history faults.History
	keys    []key // in the order in which they were minted
	round   int   // number of keys when the round began
}

// key is a key and the names of its accesses in the history.
type key struct {
	gate.Key
	read, write faults.Access
	minted      time.Time // when the mint had returned
}

func (k key) all() []faults.Access { return []faults.Access{k.read, k.write} }

const (
	changers = 2  // goroutines that change keys
	users    = 2  // goroutines that use keys, per gate
	recent   = 40 // number of recent keys from which they choose
	allGates = -1
)

// start starts the cluster and the gates, and returns when the gates are under load.
func start(t testing.TB, timing timing, lease time.Duration, gates int) *run {
	t.Helper()
	r := &run{cluster: startCluster(t, timing, gates), timing: timing, lease: lease,
		receiver: newReceiver(t), done: make(chan struct{})}
	t.Cleanup(r.keepHistory)
	r.exec("CREATE SCHEMA " + schema +
		"; CREATE TABLE public.watch (n bigint); INSERT INTO public.watch VALUES (0)")
	for g := range gates {
		started := gate.Start(t, gate.Config{
			Env: []string{"FAILOVER_DATABASE=" +
				r.url(func(m *member) string { return m.gates[g].Address() })},
			APIKeys: fmt.Sprintf("database postgres {env.FAILOVER_DATABASE}\nlease %v\n", lease) +
				r.receiver.options(),
		})
		client, _ := started.Client(t, gate.HTTP1)
		client.Transport.(*http.Transport).MaxIdleConnsPerHost = 16
		r.gates, r.clients = append(r.gates, started), append(r.clients, client)
	}
	t.Cleanup(r.stop)
	r.work.Go(r.watch)
	for range changers {
		r.work.Go(r.changeKeys)
	}
	for g := range gates {
		for range users {
			r.work.Go(func() { r.useRecent(g) })
		}
	}
	return r
}

// stop ends the load and waits for its requests.
func (r *run) stop() {
	if !over(r.done) {
		close(r.done)
	}
	r.work.Wait()
}

// finish runs without faults for a while, uses every key on every gate, and judges the history.
func (r *run) finish() ([]faults.Violation, *faults.History) {
	r.t.Helper()
	s := settling(r.lease)
	time.Sleep(s.Node + r.lease)
	r.stop()
	r.mu.Lock()
	r.round = 0
	r.mu.Unlock()
	r.useAllOfRound()
	for _, g := range r.gates { // too long to be searched for each token
		logs, _ := filepath.Glob(filepath.Join(g.Dir, "access*"))
		for _, log := range logs {
			os.Remove(log)
		}
	}
	return r.history.Check(s), &r.history
}

// keepHistory writes the history of a run that failed.
func (r *run) keepHistory() {
	if !r.t.Failed() {
		return
	}
	path := filepath.Join(r.dir, "history.jsonl")
	file, err := os.Create(path)
	if err != nil {
		r.t.Error(err)
		return
	}
	out := bufio.NewWriter(file)
	lines := json.NewEncoder(out)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.history.Faults {
		lines.Encode(gate.JSON{"fault": e}) // Flush returns the error
	}
	for _, e := range r.history.Changes {
		lines.Encode(gate.JSON{"change": e})
	}
	for _, e := range r.history.Requests {
		lines.Encode(gate.JSON{"request": e})
	}
	if err := errors.Join(out.Flush(), file.Close()); err != nil {
		r.t.Error(err)
	}
	r.t.Logf("the history is in %s", path)
}

func now() int64 { return time.Now().UnixNano() }

func over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// excuses are those of a gate without a database. It cuts its running requests, without a response,
// when its lease expires.
var excuses = faults.Excuses{Unavailable: true, NoAnswer: true, LateCut: true}

// fault records the beginning of a fault of all gates and returns the function that records its
// end.
func (r *run) fault(what string) (over func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.history.Faults)
	r.history.Faults = append(r.history.Faults,
		faults.Fault{Begin: now(), Node: allGates, What: what, Excuses: excuses})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.history.Faults[i].End = now()
	}
}

// watch records times without commits although nothing was broken: on a busy machine, Patroni may
// fail over by itself.
func (r *run) watch() {
	const most = 700 * time.Millisecond
	var conn *pgx.Conn
	last := now()
	for !over(r.done) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var err error
		if conn == nil {
			conn, err = pgx.Connect(ctx, r.direct())
		}
		if err == nil {
			_, err = conn.Exec(ctx, "UPDATE public.watch SET n = n + 1")
		}
		if err != nil && conn != nil {
			conn.Close(ctx)
			conn = nil
		}
		if err == nil {
			if t := now(); t-last > int64(most) {
				r.mu.Lock()
				r.history.Faults = append(r.history.Faults,
					faults.Fault{Begin: last, End: t, Node: allGates, What: "no server commits",
						Excuses: excuses})
				r.mu.Unlock()
			}
			last = now()
		}
		cancel()
		r.pause(100 * time.Millisecond)
	}
	if conn != nil {
		conn.Close(context.Background())
	}
}

// pause sleeps for a random time of less than d, or until the load ends.
func (r *run) pause(d time.Duration) {
	select {
	case <-r.done:
	case <-time.After(time.Duration(rand.Int64N(int64(d)))):
	}
}

// change makes one change through a gate and records it.
func (r *run) change(
	g int, what, method, path string, body gate.JSON, gives, takes []faults.Access,
) gate.Response {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := faults.Change{Call: now(), What: what, Node: g, Gives: gives, Takes: takes}
	answer := r.gates[g].Try(ctx, method, path, body)
	c.Return, c.Status, c.Done = now(), answer.Status, answer.Complete()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Changes = append(r.history.Changes, c)
	return answer
}

func (r *run) tryMint(g int) (key, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := faults.Change{Call: now(), What: "mint", Node: g}
	due := time.Second + time.Duration(rand.Int64N(int64(15*time.Second)))
	answer := r.gates[g].Try(ctx, "POST", "/keys", gate.JSON{"name": "k", "access": "read_write",
		"expires_at": time.Now().Add(reminded + due).UTC()})
	c.Return, c.Status, c.Done = now(), answer.Status, answer.Status == 201
	minted, ok := answer.Key()
	k := key{minted, faults.Access(minted.ID + " read"), faults.Access(minted.ID + " write"),
		time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ok {
		c.Gives = k.all()
		r.keys = append(r.keys, k)
	}
	r.history.Changes = append(r.history.Changes, c)
	return k, ok
}

// mint repeats a mint until it succeeds.
func (r *run) mint(g int) key {
	r.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if k, ok := r.tryMint(g); ok {
			return k
		}
	}
	r.t.Fatalf("gate %d mints no key within %v", g, patience)
	return key{}
}

func (r *run) mints(n int) (keys []key) {
	r.t.Helper()
	for i := range n {
		keys = append(keys, r.mint(i%len(r.gates)))
	}
	return keys
}

const wait = "?wait=90s" // longer than all leases of the tests

func (r *run) revoke(g int, k key) bool {
	return r.change(g, "revoke", "POST", "/keys/"+k.ID+"/revoke"+wait, gate.JSON{"reason": "test"},
		nil, k.all()).Complete()
}

func (r *run) activate(g int, k key, active bool) bool {
	gives, takes := k.all(), []faults.Access(nil)
	if !active {
		gives, takes = takes, gives
	}
	return r.change(g, fmt.Sprintf("active=%v", active), "PATCH", "/keys/"+k.ID+wait,
		gate.JSON{"active": active}, gives, takes).Complete()
}

// changeKeys mints, changes and revokes one key after the other. Once a change is not complete, its
// outcome is unknown, and the key is only revoked.
func (r *run) changeKeys() {
	anyGate := func() int { return rand.IntN(len(r.gates)) }
	for !over(r.done) {
		k, ok := r.tryMint(anyGate())
		if !ok {
			r.pause(200 * time.Millisecond)
			continue
		}
		for range rand.IntN(4) {
			r.pause(600 * time.Millisecond)
			if !r.activate(anyGate(), k, false) {
				break
			}
			r.pause(300 * time.Millisecond)
			if !r.activate(anyGate(), k, true) {
				break
			}
		}
		if rand.IntN(2) == 0 {
			r.change(anyGate(), "narrow", "PATCH", "/keys/"+k.ID+wait,
				gate.JSON{"access": "read_only"}, nil, []faults.Access{k.write})
		}
		if rand.IntN(4) == 0 {
			continue // this key stays valid
		}
		r.pause(600 * time.Millisecond)
		for !r.revoke(anyGate(), k) && !over(r.done) {
			r.pause(200 * time.Millisecond)
		}
	}
}

// use sends a request with a key, records the response and returns its status.
func (r *run) use(g int, k key, method string) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	used := faults.Request{Access: k.read, Node: g}
	if method != "GET" {
		used.Access = k.write
	}
	request, err := http.NewRequestWithContext(ctx, method, r.gates[g].URL+"/v1/items/1", nil)
	if err != nil {
		r.t.Error(err)
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+string(k.Token))
	used.Send = now()
	if answer, err := r.clients[g].Do(request); err == nil {
		used.Status = answer.StatusCode
		answer.Body.Close()
	}
	used.Recv = now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Requests = append(r.history.Requests, used)
	return used.Status
}

// useRecent uses recent keys, valid or not.
func (r *run) useRecent(g int) {
	for !over(r.done) {
		r.pause(100 * time.Millisecond)
		r.mu.Lock()
		keys := r.keys[max(0, len(r.keys)-recent):]
		r.mu.Unlock()
		if len(keys) == 0 {
			continue
		}
		method := "GET"
		if rand.IntN(3) == 0 {
			method = "POST"
		}
		r.use(g, keys[rand.IntN(len(keys))], method)
	}
}

// answered uses a key until the status is not 503.
func (r *run) answered(g int, k key) {
	r.t.Helper()
	for end := time.Now().Add(patience); r.use(g, k,
		"GET") == 503; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("gate %d answers 503 for %v", g, patience)
		}
	}
}

// useAllOfRound uses the keys that were minted since the last call on every gate. The oracle judges
// the responses.
func (r *run) useAllOfRound() {
	r.t.Helper()
	r.mu.Lock()
	keys := r.keys[r.round:]
	r.round = len(r.keys)
	r.mu.Unlock()
	for g := range r.gates {
		for _, k := range keys {
			r.answered(g, k)
			r.use(g, k, "POST")
		}
	}
}

// probes measure the effects of a failover at each gate.
type probes struct {
	*run
	done chan struct{}
	work sync.WaitGroup

	measured []measured // by gate
}

type measured struct{ known, unknown, revoke time.Duration }

// probe begins at once to use a key that each gate has cached and keys that none has, and to revoke
// one key at each gate.
func (r *run) probe(known key, unknown, victims []key, begun time.Time) *probes {
	p := &probes{run: r, done: make(chan struct{}), measured: make([]measured, len(r.gates))}
	for g := range r.gates {
		m := &p.measured[g]
		p.work.Go(func() {
			m.known = p.longest(50*time.Millisecond,
				func() bool { return r.use(g, known, "GET") == 200 })
		})
		p.work.Go(func() {
			left := unknown // a gate caches a key only after a response other than 503
			m.unknown = p.longest(lookUpEvery, func() bool {
				if len(left) == 0 {
					return true
				}
				ok := r.use(g, left[0], "GET") == 200
				if ok {
					left = left[1:]
				}
				return ok
			})
		})
		p.work.Go(func() {
			for !r.revoke(g, victims[g]) {
				if time.Since(begun) > patience {
					r.t.Errorf("gate %d: a revoke is not complete after %v", g, patience)
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			m.revoke = time.Since(begun)
		})
	}
	return p
}

// lookUpEvery is the interval at which a probe uses a key that its gate has not cached.
const lookUpEvery = 200 * time.Millisecond

// longest repeats a request until the probes stop, and returns the longest time for which it
// failed.
func (p *probes) longest(every time.Duration, ask func() bool) (longest time.Duration) {
	var failing time.Time // since when requests fail; zero if they do not
	for ; !over(p.done) || !failing.IsZero(); time.Sleep(every) {
		begun := time.Now()
		switch ok := ask(); {
		case ok && !failing.IsZero():
			longest = max(longest, time.Since(failing))
			failing = time.Time{}
		case !ok && failing.IsZero():
			failing = begun
		}
		if !failing.IsZero() && time.Since(failing) > patience {
			p.t.Errorf("a valid key is not accepted for %v", patience)
			return patience
		}
	}
	return longest
}

// stop waits until all requests succeed again.
func (p *probes) stop() []measured {
	close(p.done)
	p.work.Wait()
	return p.measured
}
