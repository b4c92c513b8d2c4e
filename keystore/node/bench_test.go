package node_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
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

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
