package node_test

import (
	"fmt"
	"net/netip"
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

// BenchmarkVerifiedMemory measures the memory of as many verified derived tokens as a process
// remembers. The limit is 64 MiB, whatever the tokens contain.
func BenchmarkVerifiedMemory(b *testing.B) {
	const token = "imported-0123456789"
	k := keystore.NewDerivingKey(token, keystore.ForeignPrefix(token, nil))
	list := func(format string) []string {
		texts := make([]string, 100)
		for i := range texts {
			texts[i] = fmt.Sprintf(format, i)
		}
		return texts
	}
	var ranges []netip.Prefix
	for _, address := range list("2001:db8::%x/128") {
		ranges = append(ranges, netip.MustParsePrefix(address))
	}
	for _, test := range []struct {
		name    string
		caveats func(i int) keystore.Caveats
	}{
		{"small", func(int) keystore.Caveats {
			return keystore.Caveats{Permissions: []string{"read"}}
		}},
		{"permissions", func(i int) keystore.Caveats {
			return keystore.Caveats{Permissions: list(fmt.Sprintf("r%d-%%d:op", i))}
		}},
		{"namespaces", func(int) keystore.Caveats {
			return keystore.Caveats{Namespaces: list("n%d")}
		}},
		{"addresses", func(int) keystore.Caveats {
			return keystore.Caveats{AllowedIPs: ranges}
		}},
	} {
		b.Run(test.name, func(b *testing.B) {
			for b.Loop() {
				cache, capacity := node.NewVerifiedCache()
				before := heap()
				for i := range 2 * capacity {
					c := test.caveats(i)
					c.ExpiresAt, c.Note = time.Now().Add(time.Hour), fmt.Sprint(i)
					derived, err := keystore.Derive(token, c)
					if err != nil {
						b.Fatal(err)
					}
					cache.Remember(derived, k)
				}
				b.ReportMetric(float64(cache.Parts())*float64(heap()-before)/(1<<20), "MiB")
				runtime.KeepAlive(cache)
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
