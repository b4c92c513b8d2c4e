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

// TestSharedCache checks the contract of [keystore.SharedCache]. open returns one more cache on the same server, as another node would
// have it, and closes it at the end of the test.
func TestSharedCache(t *testing.T, open func(t *testing.T) keystore.SharedCache) {
	// prefix keeps the names of the tests apart, in the shape that the keystore's have.
	prefix := func(t *testing.T) string { return "apikeys:{" + keystore.NewID() + "}:" + t.Name() + ":" }

	t.Run("Shared", func(t *testing.T) {
		one, two, name := open(t), open(t), prefix(t)
		got, err := two.Get(ctx, name)
		if must(t, err); got != nil {
			t.Errorf("what was never put is %q", got)
		}
		value := []byte("\x00\r\n\xff whatever")
		one.Put(name, value, time.Minute)
		wantCached(t, two, name, value)
		got, err = two.Get(ctx, name+"x")
		if must(t, err); got != nil {
			t.Errorf("another name has %q", got)
		}
		one.Put(name, []byte("newer"), time.Minute)
		wantCached(t, two, name, []byte("newer"))
	})
	t.Run("Expires", func(t *testing.T) {
		cache, name := open(t), prefix(t)
		cache.Put(name+"long", []byte("value"), time.Minute)
		wantCached(t, cache, name+"long", []byte("value"))
		cache.Put(name, []byte("value"), 50*time.Millisecond)
		cache.Put(name+"next", []byte("value"), time.Minute)
		wantCached(t, cache, name+"next", []byte("value"))
		wantCached(t, cache, name, nil)
		wantCached(t, cache, name+"long", []byte("value"))
	})
	t.Run("Large", func(t *testing.T) {
		cache, name, value := open(t), prefix(t), bytes.Repeat([]byte("x"), 32<<10)
		cache.Put(name, value, time.Minute)
		wantCached(t, cache, name, value)
	})
	t.Run("Concurrent", func(t *testing.T) {
		cache, name := open(t), prefix(t)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 20 {
					value := fmt.Appendf(nil, "%d %d", i, j)
					cache.Put(name+string(value), value, time.Minute)
					wantCached(t, cache, name+string(value), value)
				}
			})
		}
		wg.Wait()
	})
	t.Run("Cancelled", func(t *testing.T) {
		cache, name := open(t), prefix(t)
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		for range 20 { // callers who go away are not the server's fault
			if got, err := cache.Get(cancelled, name); got != nil || err == nil {
				t.Fatalf("a Get that was cancelled: %q, %v", got, err)
			}
		}
		_, err := cache.Get(ctx, name)
		must(t, err)
	})
	t.Run("Closed", func(t *testing.T) {
		cache, other, name := open(t), open(t), prefix(t)
		must(t, cache.Close())
		cache.Put(name, []byte("value"), time.Minute)
		if got, err := cache.Get(ctx, name); got != nil || err == nil {
			t.Errorf("Get after Close: %q, %v", got, err)
		}
		must(t, cache.Close())
		other.Put(name, []byte("other"), time.Minute)
		wantCached(t, other, name, []byte("other"))
	})
}

// wantCached waits until there is a value under a name; nil: until there is none. A Put gives no sign when it is done.
func wantCached(t *testing.T, cache keystore.SharedCache, name string, want []byte) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(10 * time.Second)
	for {
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
