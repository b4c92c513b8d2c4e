package keystoretest

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testNamespaceInUse(t *testing.T, s Store) {
	db := ready(t, s)
	k := plain("k")
	k.Namespace = "home"
	k.Grants = []keystore.Grant{{Namespace: "x"}, {Namespace: "x", Connected: true},
		{Namespace: "xy"}}
	insert(t, db, k)
	check := func(used map[string]bool) {
		t.Helper()
		update(t, db, func(tx keystore.Tx) error {
			for id, want := range used {
				by, err := tx.NamespaceInUse(id)
				must(t, err)
				if want && by != "k" || !want && by != "" {
					t.Errorf("%q is used by %q", id, by)
				}
			}
			return nil
		})
	}
	check(map[string]bool{"home": true, "x": true, "xy": true, "X": false, "y": false, "%": false,
		"": false, "default": false})
	edit(t, db, "k", func(k *keystore.Key) {
		k.Grants, k.RevokedAt = []keystore.Grant{{Namespace: "y"}}, start
	})
	check(map[string]bool{"home": true, "x": false, "xy": false, "y": true})
	must(t, s.Exec(`UPDATE keys SET grants = '[{"namespace":"by hand"}]' WHERE id = 'k'`))
	check(map[string]bool{"home": true, "y": false, "by hand": true})
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("k") })
	check(map[string]bool{"home": false, "by hand": false})
}

func testAudit(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	update(t, db, func(tx keystore.Tx) error {
		last, err := tx.LastAudit()
		if last != nil || err != nil {
			t.Fatalf("last row %v, %v, before the first", last, err)
		}
		return nil
	})
	rows := []keystore.AuditRow{
		{Seq: 1, At: start, Actor: "root", From: "127.0.0.1:1", Action: "key.mint", Object: "k",
			Namespaces: []string{"a", "b"}, After: `{"name":"ü"}`, Hash: digest("1")},
		{Seq: 2, At: start.Add(time.Microsecond), Before: `{}`, Hash: digest("2")},
		// Empty differs from nil: the hash depends on it.
		{Seq: 3, At: start, Namespaces: []string{}, Hash: digest("3")},
	}
	for i := range rows {
		update(t, []keystore.Database{db, other}[i%2],
			func(tx keystore.Tx) error { return tx.AppendAudit([]*keystore.AuditRow{&rows[i]}) })
		update(t, db, func(tx keystore.Tx) error {
			last, err := tx.LastAudit()
			must(t, err)
			if !reflect.DeepEqual(*last, rows[i]) {
				t.Fatalf("row %+v, want %+v", *last, rows[i])
			}
			return nil
		})
	}
	for _, seq := range []int64{0, 3, 5} {
		_, err := db.Update(ctx,
			func(tx keystore.Tx) error {
				return tx.AppendAudit([]*keystore.AuditRow{{Seq: seq, At: start}})
			})
		if err == nil {
			t.Fatalf("row %d after row 3", seq)
		}
	}
	var many []*keystore.AuditRow
	for seq := range int64(300) {
		many = append(many, &keystore.AuditRow{Seq: 4 + seq, At: start,
			Action: fmt.Sprint("many ", seq), Namespaces: []string{"a"},
			Hash: digest(fmt.Sprint(seq))})
	}
	for _, wrong := range [][]*keystore.AuditRow{many[1:], append(many[:2:2], many[3:]...),
		append(many[:20:20], many[19])} {
		if _, err := db.Update(ctx,
			func(tx keystore.Tx) error { return tx.AppendAudit(wrong) }); err == nil {
			t.Fatal("rows with gaps were added")
		}
	}
	for _, part := range [][]*keystore.AuditRow{nil, many[:2], many[2:]} {
		update(t, db, func(tx keystore.Tx) error { return tx.AppendAudit(part) })
	}
	update(t, db, func(tx keystore.Tx) error {
		last, err := tx.LastAudit()
		must(t, err)
		if want := many[len(many)-1]; !reflect.DeepEqual(last, want) {
			t.Fatalf("row %+v, want %+v", last, want)
		}
		return nil
	})
	const byHand = "INSERT INTO audit (seq, at, actor, source, action, object, namespaces, " +
		"before, after, hash) SELECT %d, at, actor, source, action, object, '%s', before, after, " +
		"hash FROM audit WHERE seq = 1"
	must(t, s.Exec(fmt.Sprintf(byHand, 500, `["a", "a"]`)))
	must(t, s.Exec(fmt.Sprintf(byHand, 501, "null")))
	for _, statement := range []string{
		"UPDATE audit SET actor = 'nobody' WHERE seq = 1", "DELETE FROM audit WHERE seq = 3",
		"REPLACE INTO audit SELECT * FROM audit",
		// These would hide a row.
		"UPDATE touched SET namespace = 'b'", "DELETE FROM touched WHERE seq = 4",
		// These would be unreadable.
		fmt.Sprintf(byHand, 502, `"a"`), fmt.Sprintf(byHand, 502, `{"a": "a"}`),
	} {
		if s.Exec(statement) == nil {
			t.Fatalf("%s: succeeded", statement)
		}
	}
}

func testRemembered(t *testing.T, s Store) {
	db := ready(t, s)
	var now time.Time
	remembered := func(scope, key string, since time.Time) (value string) {
		t.Helper()
		update(t, db, func(tx keystore.Tx) (err error) {
			value, err = tx.Remembered(scope, key, since)
			return err
		})
		return value
	}
	long := strings.Repeat("key", 100)
	update(t, db, func(tx keystore.Tx) error {
		now = tx.Now()
		must(t, tx.Remember("a", "key", "first", now.Add(-time.Hour)))
		return tx.Remember("a", long, "long", now.Add(-time.Hour))
	})
	for _, row := range []struct {
		scope, key string
		since      time.Time
		want       string
	}{
		{"a", "key", now.Add(-time.Hour), "first"},
		{"a", "key", now, "first"},
		{"a", "key", now.Add(time.Microsecond), ""},
		{"a", long, now, "long"},
		{"b", "key", now.Add(-time.Hour), ""},
		{"a", "KEY", now.Add(-time.Hour), ""},
	} {
		if got := remembered(row.scope, row.key, row.since); got != row.want {
			t.Errorf("%q %q since %v: %q, want %q", row.scope, row.key, row.since, got, row.want)
		}
	}
	update(t, db, func(tx keystore.Tx) error {
		return tx.Remember("b", "key", "b's", tx.Now()) // deletes older values
	})
	if got := remembered("a", "key", time.Time{}); got != "" {
		t.Errorf("%q, want none", got)
	}
	// A single change deletes only some of the old values: after a day, there may be a million.
	const many = 150
	name := func(i int) string { return fmt.Sprint("many ", i) }
	update(t, db, func(tx keystore.Tx) error {
		for i := range many {
			must(t, tx.Remember("a", name(i), "old", now.Add(-time.Hour)))
		}
		return nil
	})
	left := func() (n int) {
		update(t, db, func(tx keystore.Tx) error {
			must(t, tx.Remember("b", "key", "b's", tx.Now()))
			for i := range many {
				value, err := tx.Remembered("a", name(i), time.Time{})
				must(t, err)
				if value != "" {
					n++
				}
			}
			return nil
		})
		return n
	}
	if first, second := left(), left(); first == 0 || second != 0 {
		t.Errorf("%d of %d old values are left, then %d", first, many, second)
	}
	update(t, db, func(tx keystore.Tx) error { return tx.Remember("b", "key", "newer", now) })
	if got := remembered("b", "key", time.Time{}); got != "newer" {
		t.Errorf("%q, want the newer one", got)
	}
}
