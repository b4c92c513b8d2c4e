package node

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// countsOf creates a directory of these namespaces and counts one request in each. It returns the
// directory and all counts.
func countsOf(k *Node, ids ...string) (*keystore.Directory, map[string]uint64) {
	p := new(keystore.Policy)
	for _, id := range ids {
		p.Namespaces = append(p.Namespaces, keystore.Namespace{ID: id})
	}
	d := keystore.NewDirectory(new(keystore.Policy)).With(p, &k.requests)
	for _, id := range ids {
		k.Count(d.Namespace(id), nil, keystore.OK)
	}
	counted := make(map[string]uint64)
	k.RequestCounts(func(namespace string, _ keystore.Outcome, n uint64) {
		counted[namespace] += n
	})
	return d, counted
}

// TestDeletedNamespacesFreeTheirCounters creates and deletes thousands of namespaces. New ones must
// still get their own counters.
func TestDeletedNamespacesFreeTheirCounters(t *testing.T) {
	k := new(Node)
	var old *keystore.Namespace // of the previous round
	for round := range 5 {
		ids := []string{"stays"}
		for i := range 600 {
			ids = append(ids, fmt.Sprintf("n%d-%d", round, i))
		}
		d, counted := countsOf(k, ids...)
		if len(counted) != len(ids) || counted["stays"] != uint64(round+1) ||
			counted[ids[600]] != 1 {
			t.Fatalf("round %d: %d labels, %d requests in an old namespace, %d in a new one",
				round, len(counted), counted["stays"], counted[ids[600]])
		}
		if old != nil { // a request that still runs in a deleted namespace
			k.Count(old, nil, keystore.OK)
		}
		old = d.Namespace(ids[1])
	}
	var many []string
	for i := range countedNamespaces + 5 {
		many = append(many, fmt.Sprint("many", i))
	}
	if _, counted := countsOf(k, many...); len(counted) != countedNamespaces+1 ||
		counted[otherNamespace] != 5 {
		t.Errorf("%d labels, %d requests in %s", len(counted), counted[otherNamespace],
			otherNamespace)
	}
}

// TestInvalidNamespaceIDsShareCounter counts requests in namespaces with ids that only SQL can
// create. They may not be valid UTF-8, so they cannot be labels.
func TestInvalidNamespaceIDsShareCounter(t *testing.T) {
	k := new(Node)
	_, counted := countsOf(k, "good", "\xff", "a\nb", "", otherNamespace, keystore.HomeNamespace)
	if len(counted) != 2 || counted["good"] != 1 || counted[otherNamespace] != 5 {
		t.Errorf("%v", counted)
	}
}
