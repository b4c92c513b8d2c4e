//go:build unix

package caddymodule

import (
	"os"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/redistest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/redis/go-redis/v9"
)

// TestSharedCache checks that a reload may add, change and remove the cache, and that keys which
// one process has looked up are in it for others.
func TestSharedCache(t *testing.T) {
	const password = "s3cr3t%25"
	first, second := redistest.Start(t, "requirepass s3cr3t%"), redistest.Start(t)
	operators := []*redis.Client{
		redis.NewClient(&redis.Options{Addr: first.Addr(), Password: "s3cr3t%"}),
		redis.NewClient(&redis.Options{Addr: second.Addr()}),
	}
	// until waits until each of the two caches has connections or not.
	until := func(want ...bool) {
		t.Helper()
		for i, operator := range operators {
			deadline := time.Now().Add(20 * time.Second)
			for {
				list, err := operator.ClientList(t.Context()).Result()
				if err != nil {
					t.Fatal(err)
				}
				if got := countLines(list) > 1; got == want[i] { // one is the test's own
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("connections to cache %d: %s", i, list)
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
	defer func() {
		for _, operator := range operators {
			_ = operator.Close()
		}
	}()

	g := newInstance(t)
	if err := os.WriteFile(g.path("password"), []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(url string) object {
		return g.config(sqlite(g.path("keys.db"),
			object{"local_cache": 1, "cache": object{"url": url}}))
	}
	firstURL := "redis://:{file." + g.path("password") + "}@" + first.Addr()
	g.load(g.config(sqlite(g.path("keys.db"), object{"local_cache": 1})))
	// Each shard of the local cache has room for one key: two keys in one shard evict each other.
	byPart, tokens := make(map[byte][]string), []string(nil)
	for len(tokens) < 2 {
		token := g.mint(nil)
		part := keystore.DigestOf(token)[0]
		byPart[part] = append(byPart[part], token)
		tokens = byPart[part]
	}
	// use looks up both keys. At least one of them is not in the local cache.
	use := func() {
		t.Helper()
		for _, token := range tokens {
			if got := lookup(t, runningApp().Keystore(), token); got != keystore.OK {
				t.Fatal(got)
			}
		}
	}
	use()
	until(false, false)

	g.load(with(firstURL))
	use()
	until(true, false)
	if hits := runningApp().Keystore().Stats().Lookups[node.TierRedis][node.Hit]; hits != 0 {
		t.Errorf("%d hits of an empty cache", hits)
	}
	// The node writes to the cache in the background.
	for runningApp().Keystore().Stats().Lookups[node.TierRedis][node.Hit] == 0 {
		use()
	}
	g.load(with(firstURL))
	use()
	until(true, false)
	g.load(with("redis://" + second.Addr()))
	use()
	until(false, true)
	if err := g.tryLoad(with("redis://secret@")); err == nil {
		t.Error("a config with an invalid URL was loaded")
	}
	use()
	until(false, true)
	g.load(g.config(sqlite(g.path("keys.db"), object{"local_cache": 1})))
	use()
	until(false, false)

	// A failed reload closes the cache it has opened, and the previous one is used again.
	g.load(with(firstURL))
	bad := with("redis://" + second.Addr())
	bad["admin"].(object)["remote"] = object{}
	if err := g.tryLoad(bad); err == nil {
		t.Fatal("the config was loaded")
	}
	use()
	until(true, false)

	if err := operators[0].FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	use()
	first.Stop() // the cache no longer responds
	use()
	first.Continue()
	if sharedCacheErrors.Load() == 0 {
		t.Error("no error was counted for a cache that does not respond")
	}
	first.Kill() // the cache has stopped
	use()
}

func countLines(text string) (n int) {
	for _, r := range text {
		if r == '\n' {
			n++
		}
	}
	return n
}
