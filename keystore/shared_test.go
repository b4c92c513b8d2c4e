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

// hostile is a shared cache in the hands of an attacker: everything in it can be read, kept and put
// back.
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
	if err != nil || answer.Record.Name != "n" || answer.Record.Metadata["team"] != "erp" ||
		answer.Record.Set(b.Policy(), b.Policy().Namespace("default")).String() != "read" {
		t.Errorf("%+v %v", answer.Record, err)
	}
	for name, entry := range cache.snapshot() {
		for _, secret := range []string{token, token[20:40]} {
			if bytes.Contains(entry, []byte(secret)) ||
				bytes.Contains([]byte(name), []byte(secret)) {
				t.Error("the cache holds a token")
			}
		}
	}
}

// An old record written back, a flush, a replica that lags.
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
		// has not seen the change, but knows that there was one
		late, _ := d.node(keystore.Settings{Cache: cache})
		cache.restore(state)
		want(t, "on a node that started later", ask(late, token), keystore.Revoked)
	}
}

func TestAForgedEntryOfTheSharedCacheOpensNothing(t *testing.T) {
	d, cache := newDeployment(t), new(hostile)
	a, _ := d.node(keystore.Settings{Cache: cache})
	b, _ := d.node(keystore.Settings{Cache: cache})
	reader, strong := mint(t, a, keystore.KeySpec{})
	_, weak := mint(t, a,
		keystore.KeySpec{Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "write"}}}})
	// fresh returns a key's entry, and the name it has, as a node that has just read it writes
	// them. No node knows the key then.
	fresh := func(token string) (string, []byte) {
		t.Helper()
		if _, _, err := a.EditKey(ctx, root, mustID(t, a, token),
			keystore.KeyPatch{Metadata: map[string]*string{}},
			keystore.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		cache.restore(nil)
		mustID(t, a, token)
		for name, entry := range cache.snapshot() {
			return name, entry
		}
		t.Fatal("nothing was put into the cache")
		return "", nil
	}
	// taken asks b about the key, and reports whether it took the entry.
	taken := func(name string, entry []byte, token string, expect keystore.Outcome) bool {
		t.Helper()
		cache.restore(map[string][]byte{name: entry})
		before := b.Stats().Lookups[keystore.TierRedis][keystore.Hit]
		want(t, "with that entry", ask(b, token), expect)
		return b.Stats().Lookups[keystore.TierRedis][keystore.Hit] != before
	}

	name, entry := fresh(strong)
	if !taken(name, entry, strong, keystore.OK) {
		t.Fatal("an entry as a node writes it is not taken, so that what follows shows nothing")
	}
	for i := 0; i < len(entry); i += 1 + len(entry)/40 {
		name, bent := fresh(strong)
		bent = bytes.Clone(bent)
		bent[i] ^= 1
		if taken(name, bent, strong, keystore.OK) {
			t.Errorf("an entry of %d bytes with a bit of byte %d turned is taken", len(bent), i)
		}
	}
	_, entry = fresh(strong)
	name, _ = fresh(weak)
	if taken(name, entry, weak, keystore.Forbidden) {
		t.Error("another key's entry is taken")
	}
	name, entry = fresh(strong)
	revoke(t, a, reader.ID, 0)
	if taken(name, entry, strong, keystore.Revoked) {
		t.Error("an entry from before the revoke is taken")
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
