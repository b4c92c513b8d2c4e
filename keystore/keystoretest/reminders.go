package keystoretest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testReminders(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second) }
	key := func(id string, created, expires int) *keystore.Key {
		k := plain(id)
		k.CreatedAt, k.ExpiresAt = at(created), time.Time{}
		if expires > 0 {
			k.ExpiresAt = at(expires)
		}
		return k
	}
	off, revoked := key("off", 3, 200), key("revoked", 4, 200)
	off.Active = false
	revoked.RevokedAt, revoked.RevokedBy = at(5), "root"
	personal := key("personal", 5, 200)
	personal.Personal = true
	insert(t, db, key("b", 1, 200), key("a", 2, 200), key("c", 6, 201), key("never", 7, 0), off,
		revoked, personal)

	// The order is that of the expiry, then of the id.
	position := func(id string, expires int) keystore.ExpiryPosition {
		return keystore.ExpiryPosition{ExpiresAt: at(expires), ID: id}
	}
	all := []keystore.ExpiryPosition{position("a", 200), position("b", 200), position("off", 200),
		position("c", 201)}
	for _, c := range []struct {
		after        keystore.ExpiryPosition
		until, limit int
		want         []keystore.ExpiryPosition
	}{
		{keystore.ExpiryPosition{}, 300, 10, all},
		{keystore.ExpiryPosition{}, 300, 2, all[:2]},
		{keystore.ExpiryPosition{}, 200, 10, all[:3]},
		{keystore.ExpiryPosition{}, 199, 10, nil},
		{all[1], 300, 10, all[2:]},
		{keystore.AfterExpiry(at(200)), 300, 10, all[3:]},
		{keystore.AfterExpiry(at(199)), 300, 10, all},
	} {
		got, err := other.ExpiringKeys(ctx, c.after, at(c.until), c.limit)
		must(t, err)
		if !slices.Equal(got, c.want) {
			t.Errorf("after %v until %d: %v, want %v", c.after, c.until, got, c.want)
		}
	}

	// Positions, which take no revision.
	before := head(t, db)
	update(t, db, func(tx keystore.Tx) error {
		p, err := tx.ReminderPosition(time.Hour)
		must(t, err)
		if p != (keystore.ExpiryPosition{}) {
			t.Errorf("position %v before one was stored", p)
		}
		must(t, tx.SetReminderPosition(0, all[0]))
		must(t, tx.SetReminderPosition(time.Hour, all[0]))
		return tx.SetReminderPosition(time.Hour, keystore.AfterExpiry(at(200)))
	})
	positions, err := other.ReminderPositions(ctx)
	must(t, err)
	if want := map[time.Duration]keystore.ExpiryPosition{0: all[0],
		time.Hour: keystore.AfterExpiry(at(200))}; !maps.Equal(positions, want) {
		t.Errorf("positions %v, want %v", positions, want)
	}

	unused := func(f keystore.UnusedFilter, want ...string) {
		t.Helper()
		keys, next, err := other.UnusedKeys(ctx, f, "")
		must(t, err)
		ids := make([]string, len(keys))
		for i, k := range keys {
			ids[i] = k.ID
		}
		if !slices.Equal(ids, want) || next != "" {
			t.Errorf("unused %+v: %v %q, want %v", f, ids, next, want)
		}
	}
	f := keystore.UnusedFilter{Now: at(100), Since: at(100)}
	unused(f, "b", "a", "c", "never")
	unused(keystore.UnusedFilter{Now: at(100), Since: at(1)}, "b")
	unused(keystore.UnusedFilter{Now: at(200), Since: at(100)}, "c", "never") // others expired
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"a": {At: at(50)}}))
	unused(keystore.UnusedFilter{Now: at(100), Since: at(49)}, "b", "c", "never")
	unused(keystore.UnusedFilter{Now: at(100), Since: at(50)}, "b", "a", "c", "never")
	reports := map[string]keystore.UnusedReport{"a": {Since: at(50)},
		"b": {Since: at(1), Inactivated: true}, "c": {Since: at(5)}} // c was used or created since
	update(t, db, func(tx keystore.Tx) error {
		must(t, tx.NoteUnused(map[string]keystore.UnusedReport{"a": {Since: at(2)}}))
		must(t, tx.NoteUnused(reports))
		got, err := tx.ReportedUnused([]string{"a", "b", "c", "never"})
		must(t, err)
		if !reflect.DeepEqual(got, reports) {
			t.Errorf("reports %v, want %v", got, reports)
		}
		return nil
	})
	unused(f, "c", "never")
	f.Reported = true
	unused(f, "a", "c", "never")
	found, _, err := other.UnusedKeys(ctx, f, "")
	must(t, err)
	if want := []keystore.UnusedKey{
		{ID: "a", Namespace: keystore.DefaultNamespace, Since: at(50), Reported: reports["a"]},
		{ID: "c", Namespace: keystore.DefaultNamespace, Since: at(6), Reported: reports["c"]},
		{ID: "never", Namespace: keystore.DefaultNamespace, Since: at(7)},
	}; !reflect.DeepEqual(found, want) {
		t.Errorf("unused %+v, want %+v", found, want)
	}
	if now := head(t, db); now != before {
		t.Errorf("reminders took revisions %d to %d", before, now)
	}
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("a") })
	update(t, db, func(tx keystore.Tx) error {
		got, err := tx.ReportedUnused([]string{"a"})
		must(t, err)
		if len(got) > 0 {
			t.Errorf("reports of a deleted key: %v", got)
		}
		return nil
	})

	// A call examines a few thousand keys.
	var many []*keystore.Key
	for i := range 6000 {
		many = append(many, key(fmt.Sprint("many", i), 10, 0))
	}
	insert(t, db, many...)
	f.Since, f.Reported = at(10), false
	seen := make(map[string]bool)
	calls := 0
	for cursor := ""; ; calls++ {
		keys, next, err := db.UnusedKeys(ctx, f, cursor)
		must(t, err)
		for _, k := range keys {
			if seen[k.ID] {
				t.Errorf("%s was returned twice", k.ID)
			}
			seen[k.ID] = true
		}
		if cursor = next; next == "" {
			break
		}
	}
	if len(seen) != 6002 || calls != 1 {
		t.Errorf("%d keys after %d further calls", len(seen), calls)
	}
}
