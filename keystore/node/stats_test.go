package node

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// countsOf takes a directory of these namespaces, counts one request in each, and returns what is
// counted by then.
func countsOf(k *Node, ids ...string) (*keystore.Directory, map[string]uint64) {
	p := new(keystore.Policy)
	for _, id := range ids {
		p.Namespaces = append(p.Namespaces, keystore.Namespace{ID: id})
	}
	d := keystore.NewDirectory(new(keystore.Policy)).With(p, &k.requests)
	for _, id := range ids {
		k.Count(d.Namespace(id), keystore.OK)
	}
	counted := make(map[string]uint64)
	k.RequestCounts(func(namespace string, _ keystore.Outcome,
		n uint64) {
		counted[namespace] += n
	})
	return d, counted
}

// TestDeletedNamespacesGiveTheirCountersBack: thousands that come and go do not make a new one
// count as another.
func TestDeletedNamespacesGiveTheirCountersBack(t *testing.T) {
	k := new(Node)
	var old *keystore.Namespace // of the round before
	for round := range 5 {
		ids := []string{"stays"}
		for i := range 600 {
			ids = append(ids, fmt.Sprintf("n%d-%d", round, i))
		}
		d, counted := countsOf(k, ids...)
		if len(counted) != len(ids) || counted["stays"] != uint64(round+1) ||
			counted[ids[600]] != 1 {
			t.Fatalf("round %d: %d labels, %d requests in the one that stays, %d in a new one",
				round, len(counted), counted["stays"], counted[ids[600]])
		}
		if old != nil { // a request that still runs in a namespace deleted meanwhile
			k.Count(old, keystore.OK)
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

// TestIDsThatTheAPIRefusesGetNoCounter: they come from SQL, may be no UTF-8, and are no label.
func TestIDsThatTheAPIRefusesGetNoCounter(t *testing.T) {
	k := new(Node)
	_, counted := countsOf(k, "good", "\xff", "a\nb", "", otherNamespace, keystore.HomeNamespace)
	if len(counted) != 2 || counted["good"] != 1 || counted[otherNamespace] != 5 {
		t.Errorf("%v", counted)
	}
}
