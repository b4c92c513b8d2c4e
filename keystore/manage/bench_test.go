package manage_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// decision is what the handler does between having a credential in hand and knowing the outcome.
func decision(b testing.TB, k *manage.Keystore, token string) {
	now := time.Now()
	a, err := k.Lookup(context.Background(), token, now)
	if err != nil {
		b.Fatal(err)
	}
	q := keystore.Request{Now: a.Now, Policy: k.Policy(),
		Namespace: k.Policy().Namespace("default")}
	if o := keystore.Decide(a.Record, &q); o != keystore.OK {
		b.Fatal(o)
	}
	k.Used(a.Record, a.Now)
}

// The bar: at most 300 ns and no allocation.
func BenchmarkDecision(b *testing.B) {
	k, _ := fleet.New(b).Node(node.Settings{})
	_, token := fleet.Mint(b, k, manage.KeySpec{})
	decision(b, k, token)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			decision(b, k, token)
		}
	})
	// what none can do without: a reading of the clock, and the hash
	b.Run("least", func(b *testing.B) {
		for b.Loop() {
			_ = time.Now()
			_ = keystore.DigestOf(token)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				decision(b, k, token)
			}
		})
	})
	b.Run("running", func(b *testing.B) { // with what it takes to be cut
		b.ReportAllocs()
		r := &node.Running{Cut: func() {}}
		for b.Loop() {
			a, _ := k.Lookup(context.Background(), token, time.Now())
			if k.Enter(a, r) {
				k.Leave(r)
			}
		}
	})
}

// BenchmarkDecisionOfALargeKey: with grants in 50 namespaces, 20 roles and 500 permissions, asked
// for in turn; the same bar.
func BenchmarkDecisionOfALargeKey(b *testing.B) {
	var spaces []string
	for i := range 50 {
		spaces = append(spaces, fmt.Sprint("ns", i))
	}
	w := newWorld(b, spaces...)
	var holds []string
	for i := range 20 {
		w.role("*", fmt.Sprint("role", i), fmt.Sprintf("orders%d:read,orders%d:op", i, i))
	}
	for i, ns := range spaces {
		var words []string
		for p := range 10 {
			words = append(words, fmt.Sprintf("things%d:op%d", p, i))
		}
		holds = append(holds, ns+"="+strings.Join(words, ",")+",@role"+fmt.Sprint(i%20))
	}
	_, token := w.key(fleet.Root, "ns0", strings.Join(holds, " "))
	need := keystore.Need{Class: keystore.Read, Resource: "orders7", Operation: "op"}
	decide := func(i int) {
		now := time.Now()
		a, err := w.Lookup(context.Background(), token, now)
		if err != nil {
			b.Fatal(err)
		}
		d := w.Policy()
		keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: d,
			Namespace: d.Namespace(spaces[i%len(spaces)]), Need: need})
	}
	for i := range spaces {
		decide(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		decide(i)
	}
}

func BenchmarkForgedToken(b *testing.B) {
	k, _ := fleet.New(b).Node(node.Settings{})
	other, _ := fleet.New(b).Node(node.Settings{})
	_, forged := fleet.Mint(b, other, manage.KeySpec{})
	b.ReportAllocs()
	for b.Loop() {
		if a, err := k.Lookup(context.Background(), forged, time.Now()); err != nil ||
			a.Outcome != keystore.Malformed {
			b.Fatal(a.Outcome, err)
		}
	}
}

// A first request of a key that the node does not know: one query.
func BenchmarkColdLookup(b *testing.B) {
	k, _ := fleet.New(b).Node(node.Settings{LocalCache: 1})
	tokens := make([]string, 2000)
	for i := range tokens {
		_, tokens[i] = fleet.Mint(b, k, manage.KeySpec{})
	}
	for i := 0; b.Loop(); i++ {
		decision(b, k, tokens[i%len(tokens)])
	}
}

func TestDecisionDoesNotAllocate(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	decision(t, k, token)
	if n := testing.AllocsPerRun(1000, func() { decision(t, k, token) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
