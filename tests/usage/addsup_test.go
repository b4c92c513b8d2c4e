package usage

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

var requests = flag.Int64("usage.requests", 30_000, "number of requests of TestAddsUp")

func TestMain(m *testing.M) { gate.Main(m) }

const (
	keys = 20
	// mayLose is the time before a kill whose answers the node may not have written.
	mayLose = 10 * time.Second
)

// TestAddsUp kills nodes and stops PostgreSQL under load. Afterwards usage has every answer of
// every key once, except for the last 10 s of each killed node.
func TestAddsUp(t *testing.T) {
	// The lease outlasts the outages of PostgreSQL. Requests with keys that are not cached are refused
	// meanwhile, and do not matter here.
	f := gate.StartFleet(t, gate.FleetConfig{Nodes: 3, NoCache: true, Direct: true,
		Lease: 2 * time.Minute, Config: gate.Config{Site: "api_key\nrespond 200"}})
	var list []gate.Key
	for i := range keys {
		list = append(list, f.Nodes[0].Mint(t, gate.JSON{"name": fmt.Sprint("key ", i),
			"access": "read_only"}))
	}
	began := time.Now()
	l := start(f.Nodes, list, *requests)
	lost := make([]int64, keys) // by killed nodes, at most
	inFlight := int64(0)        // answers that a client may not have got
	rounds := 0
	for ; rounds == 0 || l.left.Load() > 0; rounds++ {
		victim := rounds % len(f.Nodes)
		if err := f.Postgres.Halt(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if err := f.Postgres.Run(); err != nil {
			t.Fatal(err)
		}
		before := l.counts(victim)
		time.Sleep(mayLose)
		f.Nodes[victim].Kill()
		// After this time, the load has counted the answers that were on their way to it.
		time.Sleep(time.Second)
		for i, n := range l.counts(victim) {
			lost[i] += n - before[i]
		}
		inFlight += connections * pipelined
		f.Nodes[victim].Start(t)
	}
	l.done.Wait()
	for _, g := range f.Nodes {
		g.Stop(t) // writes what is not written yet
	}
	f.Nodes[0].Start(t)
	var sum, counted, mayBeLost int64
	for i, k := range list {
		var answered int64
		for node := range f.Nodes {
			answered += l.answered[node][i].Load()
		}
		got := allowed(t, f.Nodes[0], k.ID, began)
		if got < answered-lost[i] || got > answered+inFlight {
			t.Errorf("%s: %d requests are counted of %d that were answered. Killed nodes may have "+
				"lost %d, and %d may have been under way", k.ID, got, answered, lost[i], inFlight)
		}
		sum, counted, mayBeLost = sum+answered, counted+got, mayBeLost+lost[i]
	}
	if counted > sum+inFlight {
		t.Errorf("%d requests are counted, %d were answered", counted, sum)
	}
	t.Logf("%d answers in %.0f s, %d kills and outages, %d counted: %d fewer of at most %d. "+
		"%d other answers", sum, time.Since(began).Seconds(), rounds, counted, sum-counted, mayBeLost,
		l.refused.Load())
}

// allowed returns the number of allowed requests with a key. All steps must agree on it.
func allowed(t *testing.T, g *gate.Gate, id string, since time.Time) int64 {
	t.Helper()
	counts := make(map[string]int64)
	for _, step := range []string{"minute", "hour", "day", "month"} {
		r := g.Call(t, "GET", fmt.Sprintf("/keys/%s/usage?step=%s&from=%s", id, step,
			since.UTC().Format(time.RFC3339)), nil)
		total, ok := r.JSON()["total"].(gate.JSON)
		if r.Status != 200 || !ok {
			t.Fatalf("reading usage: %v", r)
		}
		counts[step] = int64(total["allowed"].(float64))
		if counts[step] != counts["minute"] {
			t.Errorf("%s: the steps do not agree: %v", id, counts)
		}
	}
	return counts["minute"]
}
