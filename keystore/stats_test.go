package keystore

import (
	"fmt"
	"testing"
)

// countsOf takes a directory of these namespaces, counts one request in each, and returns what is
// counted by then.
func (k *Keystore) countsOf(ids ...string) map[string]uint64 {
	p := new(Policy)
	for _, id := range ids {
		p.Namespaces = append(p.Namespaces, Namespace{ID: id})
	}
	d := builtin.with(p, &k.requests)
	for _, id := range ids {
		k.Count(d.Namespace(id), OK)
	}
	counted := make(map[string]uint64)
	k.RequestCounts(func(namespace string, _ Outcome, n uint64) { counted[namespace] += n })
	return counted
}

// TestDeletedNamespacesGiveTheirCountersBack: thousands that come and go do not make a new one
// count as another.
func TestDeletedNamespacesGiveTheirCountersBack(t *testing.T) {
	k := new(Keystore)
	var old *Namespace
	for round := range 5 {
		ids := []string{"stays"}
		for i := range 600 {
			ids = append(ids, fmt.Sprintf("n%d-%d", round, i))
		}
		counted := k.countsOf(ids...)
		if len(counted) != len(ids) || counted["stays"] != uint64(round+1) ||
			counted[ids[600]] != 1 {
			t.Fatalf("round %d: %d labels, %d requests in the one that stays, %d in a new one",
				round, len(counted), counted["stays"], counted[ids[600]])
		}
		if old != nil { // a request that still runs in a namespace deleted meanwhile
			k.Count(old, OK)
		}
		old = &Namespace{ID: ids[1], counts: k.requests.of(ids[1])}
	}
	var many []string
	for i := range countedNamespaces + 5 {
		many = append(many, fmt.Sprint("many", i))
	}
	if counted := k.countsOf(many...); len(counted) != countedNamespaces+1 ||
		counted[otherNamespace] != 5 {
		t.Errorf("%d labels, %d requests in %s", len(counted), counted[otherNamespace],
			otherNamespace)
	}
}

// TestIDsThatTheAPIRefusesGetNoCounter: they come from SQL, may be no UTF-8, and are no label.
func TestIDsThatTheAPIRefusesGetNoCounter(t *testing.T) {
	k := new(Keystore)
	counted := k.countsOf("good", "\xff", "a\nb", "", otherNamespace, HomeNamespace)
	if len(counted) != 2 || counted["good"] != 1 || counted[otherNamespace] != 5 {
		t.Errorf("%v", counted)
	}
}
