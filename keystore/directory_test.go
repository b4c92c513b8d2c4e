package keystore

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestAnyParents builds directories from random parents, cycles included, as SQL may write them.
// Every walk must end, and agree with lineage.
func TestAnyParents(t *testing.T) {
	for seed := range uint64(30) {
		checkParents(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzParents(f *testing.F) {
	f.Fuzz(func(t *testing.T, seed uint64) { checkParents(t, seed) })
}

// lineage returns the ancestors of a namespace, the nearest first. ok is false when they do not end
// or are too many.
func lineage(parents map[string]string, id string) (above []string, ok bool) {
	for at := parents[id]; at != ""; at = parents[at] {
		if above = append(above, at); len(above) == maxDepth {
			return nil, false
		}
	}
	return above, true
}

func checkParents(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	n := 1 + rng.IntN(3*maxDepth)
	far := rng.IntN(3) // 0: any parent; else mostly the one before, for long chains
	parents := make(map[string]string)
	p := new(Policy)
	for i := range n {
		id, parent := fmt.Sprint("n", i), ""
		switch {
		case i > 0 && far > 0 && rng.IntN(40) > 0:
			parent = fmt.Sprint("n", i-1)
		case rng.IntN(n) > n/8:
			parent = fmt.Sprint("n", rng.IntN(n))
		}
		parents[id] = parent
		ns := Namespace{ID: id, Parent: parent, Kind: "k"}
		if rng.IntN(2) == 0 {
			ns.Reach = []string{"k"}
		}
		p.Namespaces = append(p.Namespaces, ns)
	}
	d := NewDirectory(p)
	record := func(home string, connected bool) *Record {
		k := &Key{ID: "k", Namespace: home, Owner: RootMember, Active: true, Secrets: []Secret{{Digest: Digest{1}}},
			Grants: []Grant{{Namespace: home, Connected: connected, Permissions: mustParse("read")}}}
		return NewRecord(k, Digest{1})
	}
	everywhere := record(AnyNamespace, false)
	for _, listed := range p.Namespaces {
		ns := d.Namespace(listed.ID)
		above, ok := lineage(parents, ns.ID)
		if got := ns.Unreadable == ""; got != ok || listed.Unreadable != ns.Unreadable {
			t.Errorf("%s below %v: unreadable %q, listed as %q", ns.ID, above, ns.Unreadable, listed.Unreadable)
		}
		if got := Decide(everywhere, &Request{Policy: d, Namespace: ns}); got != OK {
			t.Errorf("a grant in all namespaces gives %v in %s", got, ns.ID)
		}
		for _, other := range p.Namespaces {
			from := d.Namespace(other.ID)
			reached, lies := len(from.Reach) > 0, false
			for _, id := range above {
				lies = lies || id == from.ID
			}
			if got := d.ancestor(from.ID, ns); got != lies {
				t.Errorf("%s is an ancestor of %s: %t", from.ID, ns.ID, got)
			}
			for _, connected := range []bool{false, true} {
				want := Forbidden
				if ok && (from == ns || connected && ns.Parent == from.ID || reached && lies) {
					want = OK
				}
				if got := Decide(record(from.ID, connected), &Request{Policy: d, Namespace: ns}); got != want {
					t.Errorf("a grant in %s, connected %t, gives %v in %s, want %v",
						from.ID, connected, got, ns.ID, want)
				}
			}
		}
	}
	// What is moved may not come to lie in itself or too deep, wherever it is moved.
	for range 20 {
		moved := *d.Namespace(fmt.Sprint("n", rng.IntN(n)))
		moved.Parent, moved.Reach = fmt.Sprint("n", rng.IntN(n)), nil
		then := make(map[string]string)
		for id, parent := range parents {
			then[id] = parent
		}
		then[moved.ID] = moved.Parent
		_, want := lineage(then, moved.ID)
		for id := range then {
			below := false
			for at, n := id, 0; at != "" && n < len(then); at, n = then[at], n+1 {
				below = below || at == moved.ID
			}
			if _, fits := lineage(then, id); below && !fits {
				want = false
			}
		}
		if err := moved.check(d, nil, new(Namespace)); (err == nil) != want && moved.Parent != parents[moved.ID] {
			t.Errorf("%s from %q to %s: %v", moved.ID, parents[moved.ID], moved.Parent, err)
		}
	}
}
