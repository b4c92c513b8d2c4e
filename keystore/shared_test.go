package keystore_test

import (
	"bytes"
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// hostile is a shared cache in the hands of an attacker: everything in it can be read, kept and put back.
type hostile struct {
	mu      sync.Mutex
	entries map[string][]byte
}

func (h *hostile) Get(_ context.Context, name string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.entries[name], nil
}

func (h *hostile) Put(name string, value []byte, _ time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.entries == nil {
		h.entries = make(map[string][]byte)
	}
	h.entries[name] = value
}

func (h *hostile) Close() error { return nil }

func (h *hostile) snapshot() map[string][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.entries)
}

func (h *hostile) restore(entries map[string][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = maps.Clone(entries)
}

func TestANodeTakesFromTheSharedCacheWhatAnotherHasRead(t *testing.T) {
	d, cache := newDeployment(t), new(hostile)
	a, _ := d.node(keystore.Settings{Cache: cache})
	b, fb := d.node(keystore.Settings{Cache: cache})
	_, token := mint(t, a, keystore.KeySpec{Name: "n", Metadata: map[string]string{"team": "erp"}})
	want(t, "there", ask(a, token), keystore.OK)
	b.Health(ctx) // it has seen the mint's revision
	loads := fb.loads.Load()
	want(t, "here", ask(b, token), keystore.OK)
	if n := fb.loads.Load() - loads; n != 0 {
		t.Errorf("%d queries", n)
	}
	answer, err := b.Lookup(ctx, token, time.Now())
	if err != nil || answer.Record.Name != "n" || answer.Record.Metadata["team"] != "erp" || answer.Record.Set(b.Namespace("default")).String() != "read" {
		t.Errorf("%+v %v", answer.Record, err)
	}
	for name, entry := range cache.snapshot() {
		for _, secret := range []string{token, token[20:40]} {
			if bytes.Contains(entry, []byte(secret)) || bytes.Contains([]byte(name), []byte(secret)) {
				t.Error("the cache holds a token")
			}
		}
	}
}

// adversarial.md 89: an old record written back, a flush, a replica that lags.
func TestARolledBackSharedCacheRevivesNothing(t *testing.T) {
	d, cache := newDeployment(t), new(hostile)
	a, _ := d.node(keystore.Settings{Cache: cache})
	key, token := mint(t, a, keystore.KeySpec{})
	want(t, "before", ask(a, token), keystore.OK)
	old := cache.snapshot()
	revoke(t, a, key.ID, 0)
	for _, state := range []map[string][]byte{old, nil, old} {
		cache.restore(state)
		want(t, "here", ask(a, token), keystore.Revoked)
		late, _ := d.node(keystore.Settings{Cache: cache}) // has not seen the change, but knows that there was one
		cache.restore(state)
		want(t, "on a node that started later", ask(late, token), keystore.Revoked)
	}
}

// adversarial.md 90.
func TestAForgedEntryOfTheSharedCacheOpensNothing(t *testing.T) {
	d, cache := newDeployment(t), new(hostile)
	a, _ := d.node(keystore.Settings{Cache: cache})
	_, strong := mint(t, a, keystore.KeySpec{})
	weak, weakToken := mint(t, a, keystore.KeySpec{})
	want(t, "warm", ask(a, strong), keystore.OK)
	names := cache.snapshot()
	want(t, "warm", ask(a, weakToken), keystore.OK)
	revoke(t, a, weak.ID, 0)

	// The live key's entry under the name of the revoked one's, and each entry with one bit turned.
	forged := cache.snapshot()
	var strongEntry []byte
	for _, entry := range names {
		strongEntry = entry
	}
	for name := range forged {
		forged[name] = strongEntry
	}
	b, _ := d.node(keystore.Settings{Cache: cache})
	cache.restore(forged)
	want(t, "another key's entry", ask(b, weakToken), keystore.Revoked)
	for i := range strongEntry {
		bent := bytes.Clone(strongEntry)
		bent[i] ^= 1
		for name := range names {
			cache.restore(map[string][]byte{name: bent})
		}
		c := b.Stats().Lookups[keystore.TierRedis][keystore.Hit]
		b.Configure(keystore.Settings{Cache: cache, LocalCache: 1})
		want(t, "a bent entry", ask(b, strong), keystore.OK) // out of the database
		if b.Stats().Lookups[keystore.TierRedis][keystore.Hit] != c {
			t.Fatalf("byte %d: taken", i)
		}
		if i == 60 {
			break
		}
		if _, _, err := a.EditKey(ctx, root, mustID(t, a, strong), keystore.KeyPatch{Metadata: map[string]*string{}}, keystore.ChangeOptions{}); err != nil {
			t.Fatal(err) // so that the next round asks again
		}
	}
}

func mustID(t testing.TB, k *keystore.Keystore, token string) string {
	t.Helper()
	a, err := k.Lookup(ctx, token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a.Record.KeyID
}
