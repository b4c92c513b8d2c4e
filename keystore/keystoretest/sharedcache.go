package keystoretest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestSharedCache tests the contract of [keystore.SharedCache]. Each call of open returns the cache
// of another node on the same server, and arranges that it is closed at the end of the test.
func TestSharedCache(t *testing.T, open func(t *testing.T) keystore.SharedCache) {
	// prefix keeps the names of the tests apart. They look like those of the keystore.
	prefix := func(t *testing.T) string {
		return "apikeys:{" + keystore.NewID() + "}:" + t.Name() + ":"
	}

	t.Run("Shared", func(t *testing.T) {
		one, two, name := open(t), open(t), prefix(t)
		wantCached(t, two, name, nil)
		value := []byte("\x00\r\n\xff whatever")
		keep(t, one, two, name, value)
		wantCached(t, two, name+"x", nil)
		keep(t, one, two, name, []byte("newer"))
	})
	t.Run("Expires", func(t *testing.T) {
		cache, name := open(t), prefix(t)
		keep(t, cache, cache, name+"long", []byte("value"))
		cache.Put(name, []byte("value"), 50*time.Millisecond)
		keep(t, cache, cache, name+"next", []byte("value"))
		wantCached(t, cache, name, nil)
		wantCached(t, cache, name+"long", []byte("value"))
	})
	t.Run("Large", func(t *testing.T) {
		cache, name, value := open(t), prefix(t), bytes.Repeat([]byte("x"), 32<<10)
		keep(t, cache, cache, name, value)
	})
	t.Run("Concurrent", func(t *testing.T) {
		cache, name := open(t), prefix(t)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 20 {
					value := fmt.Appendf(nil, "%d %d", i, j)
					keep(t, cache, cache, name+string(value), value)
				}
			})
		}
		wg.Wait()
	})
	t.Run("Cancelled", func(t *testing.T) {
		cache, name := open(t), prefix(t)
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		for range 20 { // a cancelled call is not a failure of the server
			if got, err := cache.Get(cancelled, name); got != nil || err == nil {
				t.Fatalf("a Get that was cancelled: %q, %v", got, err)
			}
		}
		keep(t, cache, cache, name, []byte("value"))
	})
	t.Run("Closed", func(t *testing.T) {
		cache, other, name := open(t), open(t), prefix(t)
		must(t, cache.Close())
		cache.Put(name, []byte("value"), time.Minute)
		if got, err := cache.Get(ctx, name); got != nil || err == nil {
			t.Errorf("Get after Close: %q, %v", got, err)
		}
		must(t, cache.Close())
		keep(t, other, other, name, []byte("other"))
	})
}

// keep puts a value into one cache until another returns it. A Put does not report when it is done,
// and a cache may drop any value, for example because its server took too long to answer.
func keep(t *testing.T, into, from keystore.SharedCache, name string, value []byte) {
	t.Helper()
	eventuallyCached(t, from, name, value, func() { into.Put(name, value, time.Minute) })
}

// wantCached waits until the cache has a value under a name, or none if want is nil.
func wantCached(t *testing.T, cache keystore.SharedCache, name string, want []byte) {
	t.Helper()
	eventuallyCached(t, cache, name, want, func() {})
}

func eventuallyCached(
	t *testing.T, cache keystore.SharedCache, name string, want []byte, before func(),
) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(time.Minute)
	for {
		before()
		got, err := cache.Get(ctx, name)
		if err == nil && bytes.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s has %.40q, %v; want %.40q", name, got, err, want)
			return
		}
		<-tick.C
	}
}
