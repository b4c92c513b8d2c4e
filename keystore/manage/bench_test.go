package manage_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func client() netip.Addr { return netip.Addr{} }

// decide does what the handler does from the credential to the outcome.
func decide(b testing.TB, k *manage.Keystore, token string) {
	now := time.Now()
	a, err := k.Lookup(context.Background(), token, now)
	if err != nil {
		b.Fatal(err)
	}
	q := keystore.Request{Now: a.Now, Policy: k.Policy(),
		Namespace: k.Policy().Namespace("default"), Narrowing: a.Narrowing}
	if o := keystore.Decide(a.Record, &q); o != keystore.OK {
		b.Fatal(o)
	}
	k.Used(a.Record, a.Narrowing, a.Now, client)
}

// BenchmarkDecision measures a decision about a cached key. The limit: at most 300 ns and no
// allocation.
func BenchmarkDecision(b *testing.B) {
	k, _ := fleet.New(b).Node(node.Settings{})
	_, token := fleet.Mint(b, k, manage.KeySpec{})
	decide(b, k, token)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			decide(b, k, token)
		}
	})
	// The minimum: reading the clock and computing the hash.
	b.Run("least", func(b *testing.B) {
		for b.Loop() {
			_ = time.Now()
			_ = keystore.DigestOf(token)
		}
	})
	for _, goroutines := range []int{1, 8, 64} { // per processor
		name := "parallel"
		if goroutines > 1 {
			name += fmt.Sprint("_", goroutines)
		}
		b.Run(name, func(b *testing.B) { // each goroutine has its own key
			b.ReportAllocs()
			b.SetParallelism(goroutines)
			var keys atomic.Uint64
			tokens := make([]string, goroutines*runtime.GOMAXPROCS(0))
			for i := range tokens {
				_, tokens[i] = fleet.Mint(b, k, manage.KeySpec{})
				decide(b, k, tokens[i])
			}
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				token := tokens[keys.Add(1)-1]
				for pb.Next() {
					decide(b, k, token)
				}
			})
		})
	}
	b.Run("running", func(b *testing.B) { // and registering the request to be cut
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

// deriveFrom derives a token with every kind of caveat.
func deriveFrom(b testing.TB, token, note string) string {
	b.Helper()
	derived, err := keystore.Derive(token, keystore.Caveats{
		ExpiresAt: time.Now().Add(time.Hour), Permissions: []string{"orders:read", "read"},
		Namespaces: []string{"default", "acme"}, Note: note})
	if err != nil {
		b.Fatal(err)
	}
	return derived
}

// BenchmarkDerivedDecision measures decisions about derived tokens. One that was verified before
// may take 1.3 times as long as in BenchmarkDecision, without an allocation. One that was not also
// takes the verification of a signature.
func BenchmarkDerivedDecision(b *testing.B) {
	k, _ := fleet.New(b).Node(node.Settings{})
	_, token := fleet.Mint(b, k, manage.KeySpec{})
	b.Run("key", func(b *testing.B) {
		for b.Loop() {
			decide(b, k, token)
		}
	})
	derived := deriveFrom(b, token, "nightly job")
	b.Run("verified", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			decide(b, k, derived)
		}
	})
	b.Run("fresh", func(b *testing.B) {
		fresh := make([]string, b.N)
		for i := range fresh {
			fresh[i] = deriveFrom(b, token, fmt.Sprint(i))
		}
		b.ResetTimer()
		for _, one := range fresh {
			decide(b, k, one)
		}
	})
}

// BenchmarkForgedDerived measures the refusal of derived tokens that anyone can make up. Some have
// wrong signatures, in the names of so many keys that none is throttled. Others have the maximum
// size, and are expired or have hundreds of claims. See docs/derived.md, "Floods".
func BenchmarkForgedDerived(b *testing.B) {
	k, _ := fleet.New(b).Node(node.Settings{})
	refuse := func(b *testing.B, token string, want keystore.Outcome) {
		b.Helper()
		a, err := k.Lookup(context.Background(), token, time.Now())
		if err != nil || a.Outcome != want {
			b.Fatal(a.Outcome, err)
		}
	}
	b.Run("signature", func(b *testing.B) {
		forged := make([]string, 2000)
		for i := range forged {
			_, token := fleet.Mint(b, k, manage.KeySpec{})
			derived := deriveFrom(b, token, "")
			forged[i] = derived[:len(derived)-86] + strings.Repeat("A", 86)
			refuse(b, forged[i], keystore.Malformed) // the key is cached
		}
		for i := 0; b.Loop(); i++ {
			refuse(b, forged[i%len(forged)], keystore.Malformed)
		}
	})
	// Wrong signatures of one key take at most a tenth of a core, whatever the flood.
	b.Run("one key", func(b *testing.B) {
		_, token := fleet.Mint(b, k, manage.KeySpec{})
		derived := deriveFrom(b, token, "")
		forged := derived[:len(derived)-86] + strings.Repeat("A", 86)
		parsed, err := keystore.ParseDerived(forged)
		if err != nil {
			b.Fatal(err)
		}
		public := keystore.NewDerivingKey(token, "").Public
		const tries = 1000
		begun := time.Now()
		for range tries {
			parsed.Verify(&public)
		}
		one := time.Since(begun) / tries
		refuse(b, forged, keystore.Malformed)              // the key is cached
		b.SetParallelism(max(1, 32/runtime.GOMAXPROCS(0))) // fewer than may wait
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				refuse(b, forged, keystore.Malformed)
			}
		})
		b.ReportMetric(100*float64(one)*float64(b.N)/float64(b.Elapsed()), "%")
	})
	b.Run("expired", func(b *testing.B) {
		var namespaces []string
		for i := range 52 {
			namespaces = append(namespaces, strings.Repeat("n", 50)+fmt.Sprint(i))
		}
		expired, err := keystore.Derive("key-0123456789-0123456789", keystore.Caveats{
			ExpiresAt: time.Now().Add(-time.Hour), Namespaces: namespaces})
		if err != nil || len(expired) < keystore.MaxDerivedLen-200 {
			b.Fatal(len(expired), err)
		}
		b.ReportAllocs()
		for b.Loop() {
			refuse(b, expired, keystore.Expired)
		}
	})
	b.Run("claims", func(b *testing.B) {
		header, _, _ := strings.Cut(deriveFrom(b, "nobody-0123456789", ""), ".")
		claims := fmt.Sprintf(`{"exp":%d%s}`, time.Now().Add(time.Hour).Unix(),
			strings.Repeat(`,"\n":1`, 400))
		forged := header + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." +
			strings.Repeat("A", 86)
		b.ReportAllocs()
		for b.Loop() {
			refuse(b, forged, keystore.Malformed)
		}
	})
}

// BenchmarkLargeKey measures decisions about a key with grants in 50 namespaces, 20 roles and 500
// permissions. The limit is that of BenchmarkDecision.
func BenchmarkLargeKey(b *testing.B) {
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
	decideIn := func(i int) {
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
		decideIn(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		decideIn(i)
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

// BenchmarkColdLookup measures the first request of a key that the node has not cached: one query.
func BenchmarkColdLookup(b *testing.B) {
	k, _ := fleet.New(b).Node(node.Settings{LocalCache: 1})
	tokens := make([]string, 2000)
	for i := range tokens {
		_, tokens[i] = fleet.Mint(b, k, manage.KeySpec{})
	}
	for i := 0; b.Loop(); i++ {
		decide(b, k, tokens[i%len(tokens)])
	}
}

func TestDecisionDoesNotAllocate(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{
		TokenPrefixes: []string{"ak", strings.Repeat("a", 24), strings.Repeat("b", 24)}})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	const imported = "other_0123456789abcdef"
	if _, _, err := k.ImportKeys(t.Context(), fleet.Root, []manage.ImportSpec{{Token: imported,
		KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, credential := range []string{token, deriveFrom(t, token, ""), imported} {
		decide(t, k, credential)
		if n := testing.AllocsPerRun(1000, func() { decide(t, k, credential) }); n > 0 {
			t.Errorf("%v allocations", n)
		}
	}
}
