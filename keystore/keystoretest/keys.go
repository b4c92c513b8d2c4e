package keystoretest

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testKey(t *testing.T, s Store) {
	db := ready(t, s)
	other := s.Open(t)
	bare := &keystore.Key{ID: "bare", Namespace: "default", CreatedAt: start, Version: 1}
	for _, k := range []*keystore.Key{plain("plain"), full("full"), bare} {
		want := *k
		passed := *k
		passed.Metadata = map[string]string{}
		for name, value := range k.Metadata {
			passed.Metadata[name] = value
		}
		passed.Grants, passed.Secrets = slices.Clone(k.Grants), slices.Clone(k.Secrets)
		at := insert(t, db, &passed)
		// The database must not keep references to its arguments.
		passed.Metadata["team"] = "changed"
		for i := range passed.Grants {
			passed.Grants[i].Namespace = "changed"
		}
		passed.Secrets = append(passed.Secrets[:0], keystore.Secret{})

		for _, db := range []keystore.Database{db, other} {
			got, err := db.Key(ctx, k.ID)
			must(t, err)
			wantKey(t, got, &want)
			for _, secret := range want.Secrets {
				got, asOf, err := db.KeyByDigest(ctx, secret.Digest)
				must(t, err)
				wantKey(t, got, &want)
				if asOf.Revision != at || asOf.Mark == "" {
					t.Fatalf("head %+v, want %d", asOf, at)
				}
			}
			list, _, err := db.Keys(ctx, keystore.KeyFilter{Text: k.ID}, "", 10)
			must(t, err)
			if len(list) != 1 {
				t.Fatalf("listed %d times", len(list))
			}
			wantKey(t, &list[0], &want)
		}
		update(t, db, func(tx keystore.Tx) error {
			got, err := tx.Key(k.ID)
			must(t, err)
			wantKey(t, got, &want)
			return nil
		})
	}

	// UpdateKey replaces every field.
	now := full("plain")
	update(t, db, func(tx keystore.Tx) error { return tx.UpdateKey(now) })
	got, err := other.Key(ctx, "plain")
	must(t, err)
	wantKey(t, got, now)
	if lookup(t, other, digest("plain")) != "" {
		t.Fatal("a removed secret is valid")
	}
	if lookup(t, other, digest("plain old")) != "plain" {
		t.Fatal("the new secret is not valid")
	}
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("plain") })
	if lookup(t, other, digest("plain old")) != "" {
		t.Fatal("a secret of a deleted key is valid")
	}
}

// testRotated: the digest of a dropped secret still finds its key, until the key is deleted.
func testRotated(t *testing.T, s Store) {
	db := ready(t, s)
	insert(t, db, full("k"))
	edit(t, db, "k", func(k *keystore.Key) { k.Secrets = k.Secrets[:1] })
	k, _, err := db.KeyByDigest(ctx, digest("k old"))
	must(t, err)
	want := full("k")
	want.Secrets, want.Version = want.Secrets[:1], want.Version+1
	wantKey(t, k, want)
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("k") })
	if k, _, err := db.KeyByDigest(ctx, digest("k old")); k != nil || err != nil {
		t.Fatalf("of a deleted key: %+v, %v", k, err)
	}
}

func testMissing(t *testing.T, s Store) {
	db := ready(t, s)
	at := insert(t, db, plain("k"))
	for _, d := range []keystore.Digest{{}, digest("nobody's")} {
		k, asOf, err := db.KeyByDigest(ctx, d)
		must(t, err)
		if k != nil || asOf.Revision != at {
			t.Fatalf("key %v at %+v, want none at %d", k, asOf, at)
		}
	}
	_, err := db.Key(ctx, "K") // ids differ by case
	wantErr(t, err, keystore.ErrNotFound)
	update(t, db, func(tx keystore.Tx) error {
		_, err := tx.Key("nobody")
		wantErr(t, err, keystore.ErrNotFound)
		wantErr(t, tx.UpdateKey(plain("nobody")), keystore.ErrNotFound)
		wantErr(t, tx.DeleteKey("nobody"), keystore.ErrNotFound)
		k := plain("k")
		k.Secrets = nil
		wantErr(t, insertKey(tx, k), keystore.ErrExists)
		return nil
	})
	if got := head(t, db); got != at {
		t.Fatalf("refusals moved the head from %d to %d", at, got)
	}
}

// testSpent: a credential can be stored only once.
func testSpent(t *testing.T, s Store) {
	db := ready(t, s)
	k := plain("a")
	k.Secrets = []keystore.Secret{secret("dropped"), secret("kept")}
	insert(t, db, k, plain("gone"))
	edit(t, db, "a", func(k *keystore.Key) {
		k.Secrets = slices.DeleteFunc(k.Secrets,
			func(s keystore.Secret) bool { return s.Digest == digest("dropped") })
	})
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("gone") })

	before := head(t, db)
	for _, name := range []string{"kept", "dropped", "gone"} {
		update(t, db, func(tx keystore.Tx) error {
			fresh := plain("fresh")
			fresh.Secrets = []keystore.Secret{secret("fresh"), secret(name)}
			wantErr(t, insertKey(tx, fresh), keystore.ErrSpent)
			return nil
		})
	}
	update(t, db, func(tx keystore.Tx) error {
		twice := plain("fresh")
		twice.Secrets = []keystore.Secret{secret("fresh"), secret("fresh")}
		wantErr(t, insertKey(tx, twice), keystore.ErrSpent)
		for _, name := range []string{"dropped", "gone"} {
			k, err := tx.Key("a")
			must(t, err)
			k.Secrets = append(k.Secrets, secret("fresh"), secret(name))
			wantErr(t, tx.UpdateKey(k), keystore.ErrSpent)
		}
		return nil
	})
	// The transactions continued after the refusal and committed. They stored no part of the refused
	// keys.
	if got := head(t, db); got != before {
		t.Fatalf("refusals moved the head from %d to %d", before, got)
	}
	insert(t, db, plain("fresh"))

	// A key with the id of a deleted one inherits nothing.
	again := plain("gone")
	again.Secrets = []keystore.Secret{secret("second life")}
	insert(t, db, again)
	if lookup(t, db, digest("gone")) != "" {
		t.Fatal("a secret of a deleted key is valid for the next key with its id")
	}
	got, err := db.Key(ctx, "gone")
	must(t, err)
	wantKey(t, got, again)
}

// testReturnedValues: the caller may change returned values.
func testReturnedValues(t *testing.T, s Store) {
	db := ready(t, s)
	insert(t, db, full("k"))
	for range 2 {
		k, _, err := db.KeyByDigest(ctx, digest("k old"))
		must(t, err)
		wantKey(t, k, full("k"))
		k.Metadata["team"], k.Grants[0].Roles[0], k.Secrets[0] = "mine", "mine", keystore.Secret{}
	}
	for range 2 {
		list := policy(t, db).Namespaces
		if list[0].ID != keystore.DefaultNamespace {
			t.Fatal("a returned list is used again")
		}
		list[0].ID = "mine"
	}
}

func testLastUse(t *testing.T, s Store) {
	db := ready(t, s)
	insert(t, db, plain("a"), plain("b"))
	used := func(id string) time.Time {
		t.Helper()
		k, err := db.Key(ctx, id)
		must(t, err)
		return k.LastUsedAt
	}
	if !used("a").IsZero() {
		t.Fatal("used before its first use")
	}
	must(t, db.RecordUse(ctx, nil))
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": {At: start.Add(time.Hour)},
		"b": {At: start}, "nobody": {At: start}}))
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": {At: start},
		"b": {At: start.Add(time.Second)}}))
	edit(t, db, "a", func(k *keystore.Key) { k.LastUsedAt = start.Add(48 * time.Hour) })
	if got := used("a"); !got.Equal(start.Add(time.Hour)) {
		t.Fatalf("a was last used at %v: a time in the past or an edit changed it", got)
	}
	if got := used("b"); !got.Equal(start.Add(time.Second)) {
		t.Fatalf("b was last used at %v", got)
	}
	if k, _, err := db.KeyByDigest(ctx, digest("a")); err != nil ||
		!k.LastUsedAt.Equal(start.Add(time.Hour)) {
		t.Fatal("the last use is missing in KeyByDigest", err)
	}
	many := map[string]keystore.LastUse{"a": {At: start.Add(2 * time.Hour)}}
	for i := range 2500 {
		many["nobody "+string(rune('a'+i))] = keystore.LastUse{At: start}
	}
	must(t, db.RecordUse(ctx, many))
	if len(many) > 0 {
		t.Errorf("%d uses are left", len(many))
	}
	if got := used("a"); !got.Equal(start.Add(2 * time.Hour)) {
		t.Fatalf("a was last used at %v after a long batch", got)
	}
	// The next key with that id has not been used.
	update(t, db, func(tx keystore.Tx) error {
		must(t, tx.DeleteKey("b"))
		k := plain("b")
		k.Secrets = nil
		return insertKey(tx, k)
	})
	if !used("b").IsZero() {
		t.Fatal("the last use of a deleted key remains")
	}
}

// testLastAddress: the address of the last use is stored with its time.
func testLastAddress(t *testing.T, s Store) {
	db := ready(t, s)
	insert(t, db, plain("a"), plain("b"), plain("c"))
	four, six := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	use := func(seconds int, from netip.Addr) keystore.LastUse {
		return keystore.LastUse{At: start.Add(time.Duration(seconds) * time.Second), From: from}
	}
	want := func(id string, from netip.Addr) {
		t.Helper()
		k, err := db.Key(ctx, id)
		must(t, err)
		byDigest, _, err := db.KeyByDigest(ctx, digest(id))
		must(t, err)
		if k.LastUsedFrom != from || byDigest.LastUsedFrom != from {
			t.Errorf("%s was last used from %v and %v, want %v", id, k.LastUsedFrom,
				byDigest.LastUsedFrom, from)
		}
	}
	want("a", netip.Addr{})
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": use(5, four), "b": use(5, six),
		"c": use(5, netip.Addr{}), "nobody": use(5, four)}))
	want("a", four)
	want("b", six)
	want("c", netip.Addr{})
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": use(4, six), "b": use(6, four),
		"c": use(7, six)}))
	want("a", four)
	want("b", four)
	want("c", six)
	// The address of a former use is not that of the last one.
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": use(8, netip.Addr{})}))
	want("a", netip.Addr{})
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": use(9, six)}))
	want("a", six)
	must(t, s.Exec("UPDATE last_addresses SET address = 'by hand' WHERE key_id = 'a'"))
	want("a", netip.Addr{})
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("c") })
	must(t, s.Exec("INSERT INTO last_addresses (key_id, used_at, address) VALUES ('c', 0, '')"))
}

// testLastDerived: the last use with a derived token is stored with its note, whatever other uses
// there are.
func testLastDerived(t *testing.T, s Store) {
	db := ready(t, s)
	insert(t, db, plain("a"), plain("b"), plain("c"))
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	use := func(seconds int, note string) keystore.LastUse {
		return keystore.LastUse{At: at(seconds),
			Derived: keystore.DerivedUse{At: at(seconds), Note: note}}
	}
	want := func(id string, used int, want keystore.DerivedUse) {
		t.Helper()
		k, err := db.Key(ctx, id)
		must(t, err)
		byDigest, _, err := db.KeyByDigest(ctx, digest(id))
		must(t, err)
		if k.LastDerived != want || byDigest.LastDerived != want {
			t.Errorf("%s: %+v and %+v, want %+v", id, k.LastDerived, byDigest.LastDerived, want)
		}
		if used >= 0 && !k.LastUsedAt.Equal(at(used)) {
			t.Errorf("%s was last used at %v", id, k.LastUsedAt)
		}
	}
	long := strings.Repeat("\U0001F600", 199) + "'"
	want("a", -1, keystore.DerivedUse{})
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": use(5, "nightly job"),
		"b": use(5, long), "c": {At: at(5)}, "nobody": use(5, "x")}))
	want("a", 5, use(5, "nightly job").Derived)
	want("b", 5, use(5, long).Derived)
	want("c", 5, keystore.DerivedUse{})
	// An earlier use, one without a derived token, and one with an earlier derived token.
	earlier := use(4, "earlier")
	earlier.At = at(7)
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": use(4, "earlier"), "b": {At: at(6)},
		"c": earlier}))
	want("a", 5, use(5, "nightly job").Derived)
	want("b", 6, use(5, long).Derived)
	want("c", 7, use(4, "earlier").Derived)
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": use(8, "")}))
	want("a", 8, use(8, "").Derived)
	edit(t, db, "a", func(k *keystore.Key) { k.LastDerived = use(9, "edited").Derived })
	want("a", 8, use(8, "").Derived)
	list, _, err := db.Keys(ctx, keystore.KeyFilter{Text: "c"}, "", 10)
	must(t, err)
	for i := range list {
		if k := &list[i]; k.ID == "c" && k.LastDerived != use(4, "earlier").Derived {
			t.Errorf("in a list: %+v", k.LastDerived)
		}
	}
	// The next key with that id has not been used.
	update(t, db, func(tx keystore.Tx) error {
		must(t, tx.DeleteKey("b"))
		k := plain("b")
		k.Secrets = nil
		return insertKey(tx, k)
	})
	if k, err := db.Key(ctx, "b"); err != nil || k.LastDerived != (keystore.DerivedUse{}) {
		t.Errorf("the last use of a deleted key remains: %+v, %v", k.LastDerived, err)
	}
}

func testKeysCreatedBy(t *testing.T, s Store) {
	db := ready(t, s)
	a, b, c := plain("a"), plain("b"), plain("c")
	a.CreatedBy, c.CreatedBy = "creator", "creator"
	c.CreatedAt = start.Add(time.Second)
	insert(t, db, a, b, c)
	update(t, db, func(tx keystore.Tx) error {
		got, err := tx.KeysCreatedBy("creator")
		must(t, err)
		slices.Sort(got)
		if !slices.Equal(got, []string{"a", "c"}) {
			t.Fatalf("created: %v", got)
		}
		got, err = tx.KeysCreatedBy("a")
		must(t, err)
		if len(got) != 0 {
			t.Fatalf("created by a: %v", got)
		}
		got, err = tx.KeysCreatedBy("a", "creator", keystore.RootMember)
		must(t, err)
		slices.Sort(got)
		if !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Fatalf("created by several: %v", got)
		}
		must(t, tx.RevokeKeys(map[string]string{"a": "one", "c": "two", "unknown": "three"}, "me"))
		must(t, tx.RevokeKeys(map[string]string{"a": "again"}, "another"))
		keys, err := tx.Keys([]string{"c", "unknown", "b", "a"})
		must(t, err)
		for i, want := range []*keystore.Key{a, b, c} {
			if reason := map[string]string{"a": "one", "c": "two"}[want.ID]; reason != "" {
				want.RevokedAt, want.RevokedBy, want.RevokeReason, want.Version = tx.Now(), "me",
					reason, 2
			}
			wantKey(t, &keys[i], want)
		}
		return nil
	})
}

func testSetAll(t *testing.T, s Store) {
	db := ready(t, s)
	a, b, c, revoked := plain("a"), plain("b"), full("c"), plain("revoked")
	for i, k := range []*keystore.Key{c, b, a, revoked} {
		k.Owner, k.CreatedAt = "m_1", start.Add(time.Duration(i)*time.Second)
	}
	c.RevokedAt, c.RevokedBy, c.RevokeReason = never, "", ""
	revoked.RevokedAt = start.Add(time.Minute)
	insert(t, db, a, b, c, revoked)
	update(t, db, func(tx keystore.Tx) error {
		ids, err := tx.OwnedKeys("m_1", 2)
		must(t, err)
		if !slices.Equal(ids, []string{"c", "b"}) {
			t.Errorf("the oldest keys: %q", ids)
		}
		must(t, tx.SetOwner([]string{"a", "c", "revoked", "unknown"}, "m_2"))
		keys, err := tx.Keys([]string{"a", "b", "c", "revoked"})
		must(t, err)
		for _, k := range []*keystore.Key{a, c} {
			k.Owner, k.Version = "m_2", k.Version+1
		}
		for i, want := range []*keystore.Key{a, b, c, revoked} {
			wantKey(t, &keys[i], want)
		}
		for owner, want := range map[string]int64{"m_1": 2, "m_2": 2} {
			if n, err := tx.CountOwned(owner); n != want || err != nil {
				t.Errorf("%s owns %d keys (%v), want %d", owner, n, err, want)
			}
		}
		must(t, tx.InactivateKeys([]string{"b", "c", "revoked", "unknown"}))
		keys, err = tx.Keys([]string{"a", "b", "c", "revoked"})
		must(t, err)
		for _, k := range []*keystore.Key{b, c} {
			k.Active, k.Version = false, k.Version+1
		}
		for i, want := range []*keystore.Key{a, b, c, revoked} {
			wantKey(t, &keys[i], want)
		}
		return nil
	})
}

func testReopen(t *testing.T, s Store) {
	db := ready(t, s)
	first, err := db.Deployment(ctx, nil)
	must(t, err)
	at := insert(t, db, full("k"))
	must(t, db.Close())

	db = s.Open(t)
	again, err := db.Deployment(ctx, nil)
	must(t, err)
	if again != first || head(t, db) != at {
		t.Fatal("another deployment or head after a restart")
	}
	got, err := db.Key(ctx, "k")
	must(t, err)
	wantKey(t, got, full("k"))
	changes, err := db.Changes(ctx, 0, at)
	must(t, err)
	if len(changes) < int(at) {
		t.Fatalf("%d changes up to %d", len(changes), at)
	}
}

func testCountPrefixes(t *testing.T, s Store) {
	db := ready(t, s)
	key := func(id, prefix string, change func(*keystore.Key)) *keystore.Key {
		k := plain(id)
		k.Prefix = prefix
		if change != nil {
			change(k)
		}
		return k
	}
	insert(t, db,
		key("1", "ak", nil), key("2", "ak_live", nil), key("3", "ak1", nil), key("4", "akz", nil),
		key("5", "akz", nil),
		key("inactive", "akz", func(k *keystore.Key) { k.Active = false }),
		key("later", "akz",
			func(k *keystore.Key) {
				k.ExpiresAt = time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
			}),
		key("revoked", "akz", func(k *keystore.Key) { k.RevokedAt = start }),
		key("expired", "akz", func(k *keystore.Key) { k.ExpiresAt = start }),
		key("personal", "akz", func(k *keystore.Key) { k.Personal = true }),
		key("imported", "akz", func(k *keystore.Key) { k.Secrets[0].Imported = true }),
	)
	for _, row := range []struct {
		except []string
		want   map[string]int64
	}{
		{nil, map[string]int64{"ak": 1, "ak_live": 1, "ak1": 1, "akz": 4}},
		{[]string{"ak"}, map[string]int64{"ak_live": 1, "ak1": 1, "akz": 4}},
		{[]string{"ak_live", "ak"}, map[string]int64{"ak1": 1, "akz": 4}},
		{[]string{"akz", "ak1", "ak_live", "ak"}, map[string]int64{}},
		{[]string{"b"}, map[string]int64{"ak": 1, "ak_live": 1, "ak1": 1, "akz": 4}},
	} {
		got, err := db.CountPrefixes(ctx, row.except)
		must(t, err)
		if !maps.Equal(got, row.want) {
			t.Errorf("all but %v: %v, want %v", row.except, got, row.want)
		}
	}
}
