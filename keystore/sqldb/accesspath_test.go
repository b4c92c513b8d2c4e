//go:build unix

package sqldb

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestAccessPathsAgree: the content of a list does not depend on the access path.
func TestAccessPathsAgree(t *testing.T) {
	onBoth(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		const keys = 40
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			var rows []*keystore.AuditRow
			for i := range keys {
				k := benchKey(i, tx.Now().Add(time.Duration(i/2)*time.Second))
				k.Namespace = string(rune('a' + i%3))
				k.Owner = fmt.Sprint("m", i%4)
				k.CreatedBy = fmt.Sprint("m", i%5)
				k.Grants = []keystore.Grant{{Namespace: "x", Roles: []string{"one"}},
					{Namespace: "y", Roles: []string{fmt.Sprint("of", i%7), "one"}}}
				k.Plan = []string{"", "gold", "gold", "free"}[i%4]
				if i%2 == 0 {
					k.RevokedAt = tx.Now()
				}
				if err := insertKey(tx, k); err != nil {
					return err
				}
				rows = append(rows, &keystore.AuditRow{Seq: int64(i + 1), At: k.CreatedAt,
					Actor: k.Owner, Action: k.CreatedBy, Object: fmt.Sprint(i % 7),
					Namespaces: []string{k.Namespace, string(rune('a' + i%2))}})
			}
			return tx.AppendAudit(rows)
		})
		if err != nil {
			t.Fatal(err)
		}
		var crowd []string
		for i := range maxUnion {
			crowd = append(crowd, fmt.Sprint("nowhere", i))
		}
		found := 0
		same := func(f any, list func(cursor string) (ids []string, next string, err error)) {
			t.Helper()
			var got [2][]string
			for i, bound := range []int{keys, 5} {
				d.maxScan = bound
				for cursor, pages := "", 0; pages == 0 || cursor != ""; pages++ {
					ids, next, err := list(cursor)
					if err != nil || pages > keys {
						t.Fatalf("%+v: %v after %d pages", f, err, pages)
					}
					got[i], cursor = append(got[i], ids...), next
				}
			}
			if !reflect.DeepEqual(got[0], got[1]) {
				t.Errorf("%+v: %v with a high maxScan, %v with a low one", f, got[0], got[1])
			}
			found += len(got[0])
		}
		// Every fifth combination is enough to cover all pairs of conditions.
		for i := 0; i < 3*3*2*2*3*2*2*3; i += 5 {
			rest := i
			choose := func(n int) int { c := rest % n; rest /= n; return c }
			f := keystore.KeyFilter{
				Namespaces: [][]string{nil, {"a", "b"},
					append(crowd[:maxUnion:maxUnion], "a", "c")}[choose(3)],
				Visible: [][]string{nil, {"a"}, append(crowd[:maxUnion:maxUnion], "b")}[choose(3)],
				Owner:   []string{"", "m1"}[choose(2)], CreatedBy: []string{"", "m2"}[choose(2)],
				Role:   []string{"", "one", "of3"}[choose(3)],
				Status: []keystore.Status{"", keystore.StatusRevoked}[choose(2)],
				Text:   []string{"", "number 1"}[choose(2)], Now: time.Now(),
				Plan: []string{"", "gold", "free"}[choose(3)],
			}
			if f.Visible != nil {
				f.OrOwners = []string{"m1"}
			}
			same(f, func(cursor string) (ids []string, next string, err error) {
				list, next, err := d.Keys(ctx, f, cursor, 10)
				for _, k := range list {
					ids = append(ids, k.ID)
				}
				return ids, next, err
			})
		}
		for i := 0; i < 3*3*2*2*2*2; i += 5 {
			rest := i
			choose := func(n int) int { c := rest % n; rest /= n; return c }
			f := keystore.AuditFilter{
				Namespaces: [][]string{nil, {"a", "b"},
					append(crowd[:maxUnion:maxUnion], "a", "c")}[choose(3)],
				Namespace: []string{"", "a", "b"}[choose(3)],
				Actor:     []string{"", "m1"}[choose(2)], Action: []string{"", "m2"}[choose(2)],
				Object: []string{"", "3"}[choose(2)],
			}
			if choose(2) == 1 {
				f.From = time.Now().Add(10 * time.Second)
			}
			same(f, func(cursor string) (ids []string, next string, err error) {
				list, next, err := d.Audits(ctx, f, cursor, 10)
				for _, r := range list {
					ids = append(ids, fmt.Sprint(r.Seq))
				}
				return ids, next, err
			})
		}
		if found < 5*keys {
			t.Errorf("all lists together have %d rows", found)
		}
	})
}

// TestMostSelectivePath: a query uses the index of its most selective condition.
func TestMostSelectivePath(t *testing.T) {
	d := fill(t, 2000)
	d.maxScan = 100
	_, err := d.Update(t.Context(), func(tx keystore.Tx) error {
		var rows []*keystore.AuditRow
		for i := range 2000 {
			k := benchKey(i, tx.Now())
			rows = append(rows, &keystore.AuditRow{Seq: int64(i + 1), At: k.CreatedAt,
				Actor: k.Owner, Action: "key.mint", Object: k.ID,
				Namespaces: []string{k.Namespace}})
		}
		return tx.AppendAudit(rows)
	})
	if err != nil {
		t.Fatal(err)
	}
	must := func(query string, args ...any) {
		if _, err := d.writer.Exec(query, args...); err != nil {
			t.Fatal(err)
		}
	}
	const insert = "INSERT INTO key_limits (key_id, namespace, plan) SELECT id, namespace, ? FROM " +
		"keys WHERE id "
	must(insert+"NOT LIKE '%7'", "free")
	must(insert+"LIKE '%77'", "gold")
	var crowd []string
	for i := range maxUnion + 1 {
		crowd = append(crowd, fmt.Sprint("ns", i))
	}
	big := []string{keystore.DefaultNamespace}
	var query string
	d.bind = func(q string) string { query = q; return q }
	check := func(f any, by string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		plan := explained(t, d, query)
		others := strings.ReplaceAll(plan, by, "")
		if others == plan || strings.Contains(others, "SCAN k") ||
			strings.Contains(others, "SCAN a") {
			t.Errorf("%+v: the plan does not use %s:\n%s", f, by, plan)
		}
	}
	for _, row := range []struct {
		f  keystore.KeyFilter
		by string
	}{
		{keystore.KeyFilter{Role: "rare"}, "(role=?)"},
		{keystore.KeyFilter{Role: "nobody's", Namespaces: big}, "(role=? AND home=?)"},
		{keystore.KeyFilter{Role: "rare", Text: "x"}, "(role=?)"},
		{keystore.KeyFilter{Role: "member", Namespaces: big}, "(role=? AND home=?)"},
		{keystore.KeyFilter{Role: "member", Namespaces: crowd[1:2]}, "keys_namespace (namespace=?"},
		{keystore.KeyFilter{Owner: "m_5", Namespaces: big}, "keys_owner (owner=?"},
		{keystore.KeyFilter{Owner: "m_5", Namespaces: crowd[1:2]}, "keys_namespace (namespace=?"},
		{keystore.KeyFilter{Owners: []string{"m_5", "m_6"}, Namespaces: big},
			"keys_owner (owner=?"},
		{keystore.KeyFilter{Owners: []string{"m_5"}, Namespaces: crowd[1:2]},
			"keys_namespace (namespace=?"},
		{keystore.KeyFilter{Owner: "m_5", CreatedBy: keystore.RootMember}, "keys_owner (owner=?"},
		{keystore.KeyFilter{Owner: "m_5", CreatedBy: "nobody"}, "keys_created_by (created_by=?"},
		// Neither is selective.
		{keystore.KeyFilter{CreatedBy: keystore.RootMember, Namespaces: big},
			"keys_namespace (namespace=?"},
		{keystore.KeyFilter{Status: keystore.StatusInactive, Namespaces: big},
			"SCAN k USING INDEX keys_inactive"},
		{keystore.KeyFilter{Status: keystore.StatusExpired, Namespaces: big},
			"SCAN k USING INDEX keys_expiring_page"},
		{keystore.KeyFilter{Expiring: time.Hour, Namespaces: big},
			"keys_expiring (expires_at>? AND "},
		{keystore.KeyFilter{Status: keystore.StatusRevoked, Namespaces: big},
			"SCAN k USING INDEX keys_revoked"},
		{keystore.KeyFilter{Visible: crowd, OrOwners: []string{"nobody"}}, "keys_namespace (namespace=?"},
		{keystore.KeyFilter{Plan: "gold"}, "key_limits_plan (plan=?)"},
		{keystore.KeyFilter{Plan: "gold", Text: "x"}, "key_limits_plan (plan=?)"},
		{keystore.KeyFilter{Plan: "gold", Namespaces: big},
			"key_limits_plan (plan=? AND namespace=?)"},
		{keystore.KeyFilter{Plan: "nobody's", Owner: "m_5"}, "key_limits_plan (plan=?)"},
		{keystore.KeyFilter{Plan: "free", Owner: "m_5"}, "keys_owner (owner=?"},
	} {
		_, _, err := d.Keys(t.Context(), row.f, "", 10)
		check(row.f, row.by, err)
	}
	_, err = d.CountPrefixes(t.Context(), []string{"ak", "ak_live"})
	for _, part := range []string{"prefix<?", "prefix>? AND prefix<?", "prefix>?"} {
		check(part, "keys_prefix ("+part+")", err)
	}
	_, err = d.OwnedHomes(t.Context(), "m_5")
	check("OwnedHomes", "keys_homes (owner=? AND namespace>?)", err)
	_, err = d.Update(t.Context(), func(tx keystore.Tx) error {
		_, err := tx.OwnedKeys("m_5", 10)
		check("OwnedKeys", "keys_owner (owner=?", err)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		f  keystore.AuditFilter
		by string
	}{
		{keystore.AuditFilter{Actor: "m_5", Namespace: big[0]}, "audit_actor (actor=?"},
		{keystore.AuditFilter{Actor: "m_5", Namespaces: crowd[1:2]}, "(namespace=?"},
		{keystore.AuditFilter{Actor: "m_5", Action: "key.mint"}, "audit_actor (actor=?"},
		{keystore.AuditFilter{Actor: "m_5", Action: "role.edit"}, "audit_action (action=?"},
		// Neither is selective.
		{keystore.AuditFilter{Action: "key.mint", Namespace: big[0]}, "(namespace=? AND seq<?)"},
		{keystore.AuditFilter{Namespaces: crowd}, "(namespace=?"},
		{keystore.AuditFilter{Namespace: big[0]}, "(namespace=? AND seq<?)"},
		{keystore.AuditFilter{From: time.Now()}, "(rowid>? AND rowid<?)"},
	} {
		_, _, err := d.Audits(t.Context(), row.f, "1000", 10)
		check(row.f, row.by, err)
	}
}

// explained returns SQLite's plan of a query.
func explained(t *testing.T, d *DB, query string) string {
	t.Helper()
	rows, err := d.readers.Query("EXPLAIN QUERY PLAN "+query,
		make([]any, strings.Count(query, "?"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var line string
		if err := rows.Scan(&id, &parent, &unused, &line); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&plan, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}
