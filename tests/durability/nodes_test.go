package durability

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestNodesList checks that each node lists both nodes, and shows when the other is stopped.
func TestNodesList(t *testing.T) {
	t.Parallel()
	f := gate.StartFleet(t, gate.FleetConfig{Nodes: 2, NoCache: true, Direct: true,
		Lease: 3 * time.Second})
	type node struct {
		Address, State string
		Self           bool
		Behind         int
	}
	list := func(g *gate.Gate) []node {
		t.Helper()
		r := g.APIKeys(t, "", "nodes", "--json")
		var nodes struct{ Items []node }
		if err := json.Unmarshal([]byte(r.Stdout), &nodes); r.Exit != 0 || err != nil {
			t.Fatalf("%v, %v", r, err)
		}
		return nodes.Items
	}
	// healthy reports whether both nodes are healthy according to node i.
	healthy := func(i int) bool {
		nodes := list(f.Nodes[i])
		if len(nodes) != 2 {
			return false
		}
		for j, n := range nodes {
			if n.Self != (i == j) || n.State != "active" || n.Behind != 0 {
				return false
			}
		}
		return true
	}
	for i := range f.Nodes {
		gate.Until(t, "both nodes are healthy", func() bool { return healthy(i) })
	}
	stopped := list(f.Nodes[1])[1].Address
	f.Nodes[1].Pause(t)
	f.Nodes[0].Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	gate.Until(t, "the stopped node is silent, then fenced, then removed",
		func() bool {
			for _, n := range list(f.Nodes[0]) {
				if n.Address == stopped && (n.State == "active" || n.Behind == 0) {
					return false
				}
			}
			return true
		})
	f.Nodes[1].Resume()
	gate.Until(t, "the node has joined again", func() bool { return healthy(1) })
}
