package node_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func TestNodesShareRecords(t *testing.T) {
	d, cache := fleet.New(t), new(fleet.Hostile)
	a, _ := d.Node(node.Settings{Cache: cache})
	b, fb := d.Node(node.Settings{Cache: cache})
	_, token := fleet.Mint(t, a, manage.KeySpec{Name: "n",
		Metadata: map[string]string{"team": "erp"}})
	fleet.Want(t, "from the database", fleet.Ask(a, token), keystore.OK)
	b.Health(ctx) // applies the revision of the mint
	loads := fb.Loads.Load()
	fleet.Want(t, "from the shared cache", fleet.Ask(b, token), keystore.OK)
	if n := fb.Loads.Load() - loads; n != 0 {
		t.Errorf("%d queries", n)
	}
	answer, err := b.Lookup(ctx, token, time.Now())
	if err != nil || answer.Record.Name != "n" || answer.Record.Metadata("team") != "erp" ||
		answer.Record.Set(b.Policy(), b.Policy().Namespace("default"), nil).String() != "read" {
		t.Errorf("%+v %v", answer.Record, err)
	}
	for name, entry := range cache.Snapshot() {
		for _, secret := range []string{token, token[20:40]} {
			if bytes.Contains(entry, []byte(secret)) ||
				bytes.Contains([]byte(name), []byte(secret)) {
				t.Error("the shared cache contains a token")
			}
		}
	}
}

// The states stand for an old record that was written back, a flush, and a stale replica.
func TestRolledBackSharedCacheIsIgnored(t *testing.T) {
	d, cache := fleet.New(t), new(fleet.Hostile)
	a, _ := d.Node(node.Settings{Cache: cache})
	key, token := fleet.Mint(t, a, manage.KeySpec{})
	fleet.Want(t, "before", fleet.Ask(a, token), keystore.OK)
	old := cache.Snapshot()
	fleet.Revoke(t, a, key.ID, 0)
	for _, state := range []map[string][]byte{old, nil, old} {
		cache.Restore(state)
		fleet.Want(t, "here", fleet.Ask(a, token), keystore.Revoked)
		// A new node has applied no change, but its revision is later.
		late, _ := d.Node(node.Settings{Cache: cache})
		cache.Restore(state)
		fleet.Want(t, "on a node that started later", fleet.Ask(late, token), keystore.Revoked)
	}
}

func TestForgedSharedEntryIsIgnored(t *testing.T) {
	d, cache := fleet.New(t), new(fleet.Hostile)
	a, _ := d.Node(node.Settings{Cache: cache})
	b, _ := d.Node(node.Settings{Cache: cache})
	reader, strong := fleet.Mint(t, a, manage.KeySpec{})
	_, weak := fleet.Mint(t, a, manage.KeySpec{
		Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "write"}}}})
	// fresh returns a key's entry and its name as a node writes them after a load. No node has
	// cached the key then.
	fresh := func(token string) (string, []byte) {
		t.Helper()
		if _, _, err := a.EditKey(ctx, fleet.Root, mustID(t, a, token),
			manage.KeyPatch{Metadata: map[string]*string{}},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		cache.Restore(nil)
		mustID(t, a, token)
		for name, entry := range cache.Snapshot() {
			return name, entry
		}
		t.Fatal("the shared cache is empty")
		return "", nil
	}
	// taken reports whether b uses the entry for a request with the key.
	taken := func(name string, entry []byte, token string, expect keystore.Outcome) bool {
		t.Helper()
		cache.Restore(map[string][]byte{name: entry})
		before := b.Stats().Lookups[node.TierRedis][node.Hit]
		fleet.Want(t, "with that entry", fleet.Ask(b, token), expect)
		return b.Stats().Lookups[node.TierRedis][node.Hit] != before
	}

	name, entry := fresh(strong)
	if !taken(name, entry, strong, keystore.OK) {
		t.Fatal("an authentic entry is not used, so this test shows nothing")
	}
	for i := 0; i < len(entry); i += 1 + len(entry)/40 {
		name, forged := fresh(strong)
		forged = bytes.Clone(forged)
		forged[i] ^= 1
		if taken(name, forged, strong, keystore.OK) {
			t.Errorf("an entry of %d bytes with a changed byte %d is used", len(forged), i)
		}
	}
	_, entry = fresh(strong)
	name, _ = fresh(weak)
	if taken(name, entry, weak, keystore.Forbidden) {
		t.Error("the entry of another key is used")
	}
	name, entry = fresh(strong)
	fleet.Revoke(t, a, reader.ID, 0)
	if taken(name, entry, strong, keystore.Revoked) {
		t.Error("an entry from before the revoke is used")
	}
}

func mustID(t testing.TB, k *manage.Keystore, token string) string {
	t.Helper()
	a, err := k.Lookup(ctx, token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a.Record.KeyID
}

// TestSharedEntryOfLostHistoryIsIgnored loses a change that one node has read and another node has
// never seen. The latter must not use the entry of the former, although it has applied a change
// with the same revision.
func TestSharedEntryOfLostHistoryIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, cache := fleet.New(t), new(fleet.Hostile)
		a, _ := d.Node(node.Settings{Cache: cache})
		b, fb := d.Node(node.Settings{Cache: cache})
		key, token := fleet.Mint(t, a, manage.KeySpec{Inactive: true})
		kept := a.Health(ctx).Revision
		if h := b.Health(ctx); h.Revision != kept {
			t.Fatalf("%+v", h)
		}
		fb.Mute.Store(true)
		on := true
		if _, _, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &on},
			manage.ChangeOptions{Wait: -1}); err != nil {
			t.Fatal(err)
		}
		a.Health(ctx)
		fleet.Want(t, "while it was active", fleet.Ask(a, token), keystore.OK)
		if len(cache.Snapshot()) == 0 {
			t.Fatal("no entry was shared, so this test shows nothing")
		}
		hits := b.Stats().Lookups[node.TierRedis][node.Hit]
		fleet.Want(t, "on the other node", fleet.Ask(b, token), keystore.OK)
		if n := b.Stats().Lookups[node.TierRedis][node.Hit]; n != hits {
			t.Error("an entry that is newer than the node's applied revision is used")
		}
		d.Lose(kept, "UPDATE keys SET active = 0")
		if h := a.Health(ctx); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		for range 3 { // the revision of the lost change is taken again
			fleet.Mint(t, a, manage.KeySpec{})
		}
		fb.Mute.Store(false)
		if h := b.Health(ctx); h.Problem != "" || h.Revision <= kept {
			t.Fatalf("%+v", h)
		}
		fleet.Want(t, "after the change was lost", fleet.Ask(b, token), keystore.Inactive)
	})
}

// TestSharedEntryOfFormerPrimaryIsIgnored checks that entries from before a takeover are not used:
// the standby may lack the commits that they were read from.
func TestSharedEntryOfFormerPrimaryIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, cache := fleet.New(t), new(fleet.Hostile)
		a, fa := d.Node(node.Settings{Cache: cache})
		b, fb := d.Node(node.Settings{Cache: cache})
		_, first := fleet.Mint(t, a, manage.KeySpec{})
		_, second := fleet.Mint(t, a, manage.KeySpec{})
		timeline := func(name string) {
			for _, f := range []*fleet.Faulty{fa, fb} {
				f.Timeline.Store(name)
			}
			for _, k := range []*manage.Keystore{a, b} {
				if h := k.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
			}
		}
		loadsOf := func(token string) int64 {
			before := fb.Loads.Load()
			fleet.Want(t, "there", fleet.Ask(b, token), keystore.OK)
			return fb.Loads.Load() - before
		}
		timeline("1")
		for _, token := range []string{first, second} {
			fleet.Want(t, "here", fleet.Ask(a, token), keystore.OK)
		}
		if n := loadsOf(first); n != 0 {
			t.Errorf("%d loads before the takeover", n)
		}
		timeline("2")
		if n := loadsOf(second); n != 1 {
			t.Errorf("%d loads after the takeover", n)
		}
	})
}
