package gate_test

import (
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestFleet(t *testing.T) {
	const lease = 3 * time.Second
	f := gate.StartFleet(t, gate.FleetConfig{Nodes: 2, Lease: lease})
	use := func(i int, k gate.Key) int { return f.Nodes[i].Get(t, "/v1/items/1", k.Token).Status }

	k := f.Nodes[0].Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	for i := range f.Nodes {
		if got := use(i, k); got != 200 {
			t.Fatalf("node %d, a new key: %d", i, got)
		}
	}
	breaks := map[string]func(*gate.Edge){
		"cut": (*gate.Edge).Cut, "hanging": (*gate.Edge).Hang,
		"hanging one way": (*gate.Edge).HangReplies, "reset": (*gate.Edge).Reset,
		"slow": func(e *gate.Edge) { e.Slow(10 * time.Second) },
	}
	for name, broken := range breaks {
		k := f.Nodes[0].Mint(t, gate.JSON{"name": "k", "access": "read_only"})
		broken(f.Edge(1, gate.Database))
		if got := use(1, k); got != 503 {
			t.Errorf("database connection %s: a key that is not cached got %d", name, got)
		}
		f.Heal()
		gate.Until(t, "the node serves after "+name, func() bool { return use(1, k) == 200 })
	}

	f.Isolate(1)
	f.Nodes[0].Revoke(t, k.ID) // fails the test unless it is complete
	if got := use(1, k); got != 503 {
		t.Errorf("an isolated node, after a revoke: %d", got)
	}
	f.Heal()
	gate.Until(t, "the node refuses the revoked key", func() bool { return use(1, k) == 401 })
}
