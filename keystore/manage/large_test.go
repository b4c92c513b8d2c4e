package manage

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestAnyMove moves namespaces with random parents, cycles included, as SQL may write them. A move
// must be refused exactly if a namespace would become its own ancestor or be nested too deep.
func TestAnyMove(t *testing.T) {
	for seed := range uint64(30) {
		checkMoves(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func checkMoves(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 2))
	n := 1 + rng.IntN(3*keystore.MaxDepth)
	long := rng.IntN(3) > 0 // mostly the previous namespace, for long chains
	parents := make(map[string]string)
	p := new(keystore.Policy)
	for i := range n {
		id, parent := fmt.Sprint("n", i), ""
		switch {
		case i > 0 && long && rng.IntN(40) > 0:
			parent = fmt.Sprint("n", i-1)
		case rng.IntN(n) > n/8:
			parent = fmt.Sprint("n", rng.IntN(n))
		}
		parents[id] = parent
		p.Namespaces = append(p.Namespaces, keystore.Namespace{ID: id, Parent: parent, Kind: "k"})
	}
	d := keystore.NewDirectory(p)
	fits := func(parents map[string]string, id string) bool {
		levels := 1
		for at := parents[id]; at != "" && levels <= keystore.MaxDepth; at = parents[at] {
			levels++
		}
		return levels <= keystore.MaxDepth
	}
	for range 20 {
		moved := *d.Namespace(fmt.Sprint("n", rng.IntN(n)))
		moved.Parent = fmt.Sprint("n", rng.IntN(n))
		after := maps.Clone(parents)
		after[moved.ID] = moved.Parent
		want := fits(after, moved.ID)
		for id := range after {
			below := false
			for at, n := id, 0; at != "" && n < len(after); at, n = after[at], n+1 {
				below = below || at == moved.ID
			}
			if below && !fits(after, id) {
				want = false
			}
		}
		if moved.Parent == parents[moved.ID] {
			continue
		}
		if err := checkNamespace(&moved, d, nil, new(keystore.Namespace)); (err == nil) != want {
			t.Errorf("%s from %q to %s: %v", moved.ID, parents[moved.ID], moved.Parent, err)
		}
	}
}

// TestLargeMoves checks that a change of a namespace takes about as long as building the directory,
// with deeply nested namespaces that reach many others.
func TestLargeMoves(t *testing.T) {
	p := new(keystore.Policy)
	for i := range 6000 {
		ns := keystore.Namespace{ID: fmt.Sprint("n", i), Kind: "k", Reach: []string{"k"},
			ChildPrefix: "n"}
		if i%keystore.MaxDepth > 0 {
			ns.Parent = fmt.Sprint("n", i-1)
		}
		p.Namespaces = append(p.Namespaces, ns)
	}
	took := func(f func()) time.Duration {
		least := time.Hour
		for range 3 {
			start := time.Now()
			f()
			least = min(least, time.Since(start))
		}
		return least
	}
	var d *keystore.Directory
	build := took(func() { d = keystore.NewDirectory(p) })
	for name, check := range map[string]func(){
		"reach": func() {
			auth := authority{policy: d, memberGrants: keystore.NoGrants}
			if err := auth.checkNewReach(d); err != nil {
				t.Fatal(err)
			}
		},
		"move": func() {
			var p fieldErrors
			_, descendants := d.Descendants("n3")
			p.childPrefixes(d, d.Namespace("n3"), descendants)
		},
	} {
		if cost := took(check); cost > 30*build { // quadratic code takes hundreds of times as long
			t.Errorf("%s: %v; building the directory took %v", name, cost, build)
		}
	}
}
