package node_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// BenchmarkCachedKeyMemory measures the memory per cached key. The limit is 400 bytes. Run it with
// -benchtime 1x.
func BenchmarkCachedKeyMemory(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		before := heap()
		cache := node.FillCache(n, func(i int) *keystore.Key {
			return &keystore.Key{
				ID: fmt.Sprintf("%012d", i), Name: fmt.Sprintf("key number %d", i),
				Namespace: fmt.Sprintf("account-%d", i%10_000), Owner: keystore.RootMember,
				Active: true,
				Grants: []keystore.Grant{{Namespace: fmt.Sprintf("account-%d", i%10_000),
					Permissions: fleet.Read}},
			}
		})
		b.ReportMetric(float64(heap()-before)/n, "B/key")
		runtime.KeepAlive(cache)
	}
}

// BenchmarkCountUse measures counting a request with a cached key. The limit: at most 40 ns and no
// allocation. A flush every 4 s would not change that.
func BenchmarkCountUse(b *testing.B) {
	a, _ := fleet.New(b).Node(node.Settings{})
	use := node.Use{Operation: "read", Units: 1, Status: 200, BytesIn: 12, BytesOut: 345,
		Ended: time.Now(), Took: 20 * time.Millisecond}
	answer := func() node.Answer {
		_, token := fleet.Mint(b, a, manage.KeySpec{})
		for {
			found, err := a.Lookup(b.Context(), token, time.Now())
			if err != nil {
				b.Fatal(err)
			}
			if found.Cached() {
				return found
			}
		}
	}
	b.Run("one key", func(b *testing.B) {
		found := answer()
		b.ReportAllocs()
		for b.Loop() {
			a.CountUse(found, use)
		}
	})
	b.Run("a key each", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for found := answer(); pb.Next(); {
				a.CountUse(found, use)
			}
		})
	})
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
