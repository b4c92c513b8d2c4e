package keystoretest

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testFilters(t *testing.T, s Store) {
	db := ready(t, s)
	now := start.Add(time.Hour)
	// Each key is a second newer than the one before.
	for i, row := range []struct{ id, namespace, owner, by, role, state, plan string }{
		{"k0", "a", "m1", "root", "", "active", "gold"},
		{"k1", "a", "m2", "root", "billing", "inactive", "go"},
		{"k2", "b", "m1", "k0", "", "revoked", "gold"},
		{"k3", "b", "m2", "root", "billing", "expired", ""},
		{"k4", "c", "m1", "k0", "bill", "later", "GOLD"},
		{"k5", "a", "m1", "k0", "billing", "revoked inactive expired", "gold"},
		{"k6", "c", "m2", "k1", "", "inactive expired", ""},
	} {
		k := plain(row.id)
		k.Namespace, k.Owner, k.CreatedBy = row.namespace, row.owner, row.by
		k.CreatedAt = start.Add(time.Duration(i) * time.Second)
		k.Secrets = append(k.Secrets, secret("second of "+row.id)) // must not list the key twice
		if row.role != "" {
			k.Grants = append(k.Grants, keystore.Grant{Namespace: "z",
				Roles: []string{"other", row.role}})
		}
		k.Plan = row.plan
		if row.id == "k6" {
			k.Quota = keystore.Quota{Units: 1, Per: keystore.Day} // limits without a plan
		}
		k.Active = !strings.Contains(row.state, "inactive")
		if strings.Contains(row.state, "revoked") {
			k.RevokedAt = start
		}
		switch {
		case strings.Contains(row.state, "expired"):
			k.ExpiresAt = now // expired at exactly this time
		case row.state == "later":
			k.ExpiresAt = now.Add(time.Microsecond)
		}
		insert(t, db, k)
	}
	for _, row := range []struct {
		filter keystore.KeyFilter
		want   string
	}{
		{keystore.KeyFilter{}, "k6 k5 k4 k3 k2 k1 k0"},
		{keystore.KeyFilter{Namespaces: []string{}}, ""},
		{keystore.KeyFilter{Namespaces: []string{"a"}}, "k5 k1 k0"},
		{keystore.KeyFilter{Namespaces: []string{"c", "a", "a", "nowhere"}}, "k6 k5 k4 k1 k0"},
		{keystore.KeyFilter{Namespaces: []string{"A"}}, ""},
		{keystore.KeyFilter{In: "a"}, "k5 k1 k0"},
		{keystore.KeyFilter{In: "z"}, "k5 k4 k3 k1"},
		{keystore.KeyFilter{In: "c"}, "k6 k4"},
		{keystore.KeyFilter{In: "nowhere"}, ""},
		{keystore.KeyFilter{In: "z", Namespaces: []string{"a"}}, "k5 k1"},
		{keystore.KeyFilter{In: "z", Visible: []string{"b"}, OrOwners: []string{"m1"}}, "k5 k4 k3"},
		{keystore.KeyFilter{In: "z", Owner: "m2", Text: "key"}, "k3 k1"},
		{keystore.KeyFilter{In: "z", Role: "billing", Status: keystore.StatusRevoked}, "k5"},
		{keystore.KeyFilter{Status: keystore.StatusActive}, "k4 k0"},
		{keystore.KeyFilter{Status: keystore.StatusInactive}, "k1"},
		{keystore.KeyFilter{Status: keystore.StatusExpired}, "k6 k3"},
		{keystore.KeyFilter{Status: keystore.StatusRevoked}, "k5 k2"},
		{keystore.KeyFilter{Owner: "m1"}, "k5 k4 k2 k0"},
		{keystore.KeyFilter{Owners: []string{}}, ""},
		{keystore.KeyFilter{Owners: []string{"m2"}}, "k6 k3 k1"},
		{keystore.KeyFilter{Owners: []string{"m2", "m1", "m1", "nobody"}}, "k6 k5 k4 k3 k2 k1 k0"},
		{keystore.KeyFilter{Owners: []string{"M1"}}, ""},
		{keystore.KeyFilter{Owners: []string{"m1", "nobody"}, Status: keystore.StatusActive},
			"k4 k0"},
		{keystore.KeyFilter{Owners: []string{"m1"}, Owner: "m2"}, ""},
		{keystore.KeyFilter{NotOwners: []string{"m1", "M2", "nobody"}}, "k6 k3 k1"},
		{keystore.KeyFilter{NotOwners: []string{"m2"}, In: "z"}, "k5 k4"},
		{keystore.KeyFilter{NotOwners: []string{"m2"}, Status: keystore.StatusActive}, "k4 k0"},
		{keystore.KeyFilter{NotOwners: []string{"m2"}, Plan: "gold", Text: "KEY"}, "k5 k2 k0"},
		{keystore.KeyFilter{Owners: []string{"m1"}, In: "z", Visible: []string{"a"},
			OrOwners: []string{"m1"}, Text: "KEY"}, "k5 k4"},
		{keystore.KeyFilter{Owners: []string{"m1", "m2"}, Role: "billing",
			Namespaces: []string{"a", "b"}}, "k5 k3 k1"},
		{keystore.KeyFilter{CreatedBy: "k0"}, "k5 k4 k2"},
		{keystore.KeyFilter{Role: "billing"}, "k5 k3 k1"},
		{keystore.KeyFilter{Role: "bill"}, "k4"},
		{keystore.KeyFilter{Plan: "gold"}, "k5 k2 k0"},
		{keystore.KeyFilter{Plan: "go"}, "k1"},
		{keystore.KeyFilter{Plan: "nobody's"}, ""},
		{keystore.KeyFilter{Plan: "gold", Namespaces: []string{"a"}}, "k5 k0"},
		{keystore.KeyFilter{Plan: "gold", Namespaces: []string{"c"}}, ""},
		{keystore.KeyFilter{Plan: "gold", In: "z"}, "k5"},
		{keystore.KeyFilter{Plan: "gold", Visible: []string{"b"}, OrOwners: []string{"m2"}}, "k2"},
		{keystore.KeyFilter{Plan: "gold", Status: keystore.StatusActive, Text: "KEY"}, "k0"},
		{keystore.KeyFilter{Plan: "gold", Role: "billing", Owner: "m1", CreatedBy: "k0"}, "k5"},
		{keystore.KeyFilter{Expiring: time.Second}, "k4"},
		{keystore.KeyFilter{Expiring: time.Second, Owner: "m2"}, ""},
		{keystore.KeyFilter{Expiring: time.Second, Status: keystore.StatusActive, Text: "KEY"},
			"k4"},
		{keystore.KeyFilter{Unused: time.Hour - 2*time.Second}, "k1 k0"},
		{keystore.KeyFilter{Unused: time.Hour - 5*time.Second, In: "z"}, "k4 k1"},
		{keystore.KeyFilter{Unused: time.Second, Expiring: time.Second}, "k4"},
		{keystore.KeyFilter{Text: "k3"}, "k3"},
		{keystore.KeyFilter{Namespaces: []string{"a", "b"}, Status: keystore.StatusRevoked,
			Owner: "m1", CreatedBy: "k0", Role: "billing", Text: "KEY"}, "k5"},
		{keystore.KeyFilter{Namespaces: []string{"b", "a"}, Status: keystore.StatusActive,
			Text: "key"}, "k0"},
		{keystore.KeyFilter{Owner: "m1", CreatedBy: "root", Status: keystore.StatusActive}, "k0"},
		{keystore.KeyFilter{Namespaces: []string{"c"}, Owner: "m2"}, "k6"},
		{keystore.KeyFilter{Visible: []string{}}, ""},
		{keystore.KeyFilter{Visible: []string{}, Namespaces: []string{"a"}}, ""},
		{keystore.KeyFilter{Visible: []string{"c", "a", "a"}}, "k6 k5 k4 k1 k0"},
		{keystore.KeyFilter{Visible: []string{"a", "b"}, Namespaces: []string{"b", "c"}}, "k3 k2"},
		{keystore.KeyFilter{Visible: []string{}, OrOwners: []string{"m1"}}, "k5 k4 k2 k0"},
		{keystore.KeyFilter{OrOwners: []string{"m1"}}, "k6 k5 k4 k3 k2 k1 k0"},
		{keystore.KeyFilter{Visible: []string{"b"}, OrOwners: []string{"m1"}}, "k5 k4 k3 k2 k0"},
		{keystore.KeyFilter{Visible: []string{"b"}, OrOwners: []string{"m1"}, Namespaces: []string{"a", "b"}},
			"k5 k3 k2 k0"},
		{keystore.KeyFilter{Visible: []string{"b"}, OrOwners: []string{"m1"}, Namespaces: []string{"c"}},
			"k4"},
		{keystore.KeyFilter{Visible: []string{"b"}, OrOwners: []string{"m1"}, Owner: "m2"}, "k3"},
		{keystore.KeyFilter{Visible: []string{"b"}, OrOwners: []string{"m1"}, Status: keystore.StatusActive},
			"k4 k0"},
	} {
		row.filter.Now = now
		fit := len(strings.Fields(row.want))
		count := func() {
			t.Helper()
			// Nothing else narrows down the search for a text or for unused keys.
			searches := reflect.DeepEqual(row.filter, keystore.KeyFilter{Text: row.filter.Text,
				Unused: row.filter.Unused, Now: now}) &&
				(row.filter.Text != "" || row.filter.Unused > 0)
			for _, limit := range []int{1, 3, 100} {
				n, ok, err := db.CountMatching(ctx, row.filter, limit)
				if err != nil || ok == searches || ok && n != min(fit, limit) {
					t.Errorf("%+v: %d keys up to %d, %v, %v", row.filter, n, limit, ok, err)
				}
			}
		}
		for _, limit := range []int{1, 2, 100} {
			if got := strings.Join(all(t, db, row.filter, limit), " "); got != row.want {
				t.Errorf("%+v in pages of %d: %q, want %q", row.filter, limit, got, row.want)
			}
		}
		count()
		// Many namespaces and owners.
		if len(row.filter.Namespaces)+len(row.filter.Owners) > 0 {
			if len(row.filter.Namespaces) > 0 {
				row.filter.Namespaces = many(row.filter.Namespaces...)
			}
			if row.filter.Visible != nil {
				row.filter.Visible = many(row.filter.Visible...)
			}
			if len(row.filter.Owners) > 0 {
				row.filter.Owners = many(row.filter.Owners...)
			}
			if got := strings.Join(all(t, db, row.filter, 2), " "); got != row.want {
				t.Errorf("with many namespaces and owners: %q, want %q", got, row.want)
			}
			count()
		}
	}
	_, _, err := db.Keys(ctx, keystore.KeyFilter{}, "not a cursor", 5)
	isInvalid(t, "a bad cursor", err)
}

func isInvalid(t *testing.T, what string, err error) {
	t.Helper()
	if e, ok := errors.AsType[*keystore.Error](err); !ok || e.Kind != keystore.KindInvalid {
		t.Errorf("%s: %v", what, err)
	}
}

func testOrders(t *testing.T, s Store) {
	db := ready(t, s)
	used := make(map[string]keystore.LastUse)
	// Each key is a second newer than the one before.
	for i, row := range []struct {
		id, name      string
		expires, used int // minutes from the start; 0: never
	}{
		{"k0", "zebra", 5, 0},
		{"k1", "Apple", 0, 9},
		{"k2", "apple", 9, 3},
		{"k3", "äpfel_2.0", 5, 3},
		{"k4", "Zebra", 0, 0},
		{"k5", "", 1, 4},
		{"k6", "Öl", 2, 5}, // before ä, because case is ignored only in ASCII
	} {
		k := plain(row.id)
		k.Name, k.CreatedAt = row.name, start.Add(time.Duration(i)*time.Second)
		if row.expires != 0 {
			k.ExpiresAt = start.Add(time.Duration(row.expires) * time.Minute)
		}
		if row.used != 0 {
			used[k.ID] = keystore.LastUse{At: start.Add(time.Duration(row.used) * time.Minute)}
		}
		k.Namespace = []string{"a", "b"}[i%2]
		insert(t, db, k)
	}
	must(t, db.RecordUse(ctx, used))
	for _, row := range []struct {
		filter keystore.KeyFilter
		want   string
	}{
		{keystore.KeyFilter{Sort: keystore.NewestFirst}, "k6 k5 k4 k3 k2 k1 k0"},
		{keystore.KeyFilter{Sort: "created_at"}, "k0 k1 k2 k3 k4 k5 k6"},
		{keystore.KeyFilter{Sort: "name"}, "k5 k1 k2 k0 k4 k6 k3"},
		{keystore.KeyFilter{Sort: "expires_at"}, "k5 k6 k0 k3 k2 k1 k4"},
		{keystore.KeyFilter{Sort: "last_used_at"}, "k0 k4 k2 k3 k5 k6 k1"},
		{keystore.KeyFilter{Sort: "name", Namespaces: []string{"a"}}, "k2 k0 k4 k6"},
		{keystore.KeyFilter{Sort: "name", Namespaces: []string{"a", "b"}}, "k5 k1 k2 k0 k4 k6 k3"},
		{keystore.KeyFilter{Sort: "created_at", Namespaces: []string{"a", "b"}, Text: "apple"},
			"k1 k2"},
		{keystore.KeyFilter{Sort: "expires_at", Text: "apple"}, "k2 k1"},
		{keystore.KeyFilter{Sort: "last_used_at", Status: keystore.StatusRevoked}, ""},
	} {
		for _, limit := range []int{1, 2, 100} {
			if got := strings.Join(all(t, db, row.filter, limit), " "); got != row.want {
				t.Errorf("%+v in pages of %d: %q, want %q", row.filter, limit, got, row.want)
			}
			down := row.filter
			if down.Sort == keystore.NewestFirst {
				down.Sort = "created_at"
			}
			down.Sort = "-" + down.Sort
			want := strings.Fields(row.want)
			if row.filter.Sort != keystore.NewestFirst {
				slices.Reverse(want)
			}
			if got := all(t, db, down, limit); !slices.Equal(got, want) {
				t.Errorf("%+v in pages of %d: %q, want %q", down, limit, got, want)
			}
		}
	}
	// With the opposite order, a cursor leads to the previous keys.
	for _, sort := range []keystore.KeySort{"created_at", "name", "expires_at", "last_used_at"} {
		ids := all(t, db, keystore.KeyFilter{Sort: sort}, 100)
		for n := 1; n < len(ids); n++ {
			_, cursor, err := db.Keys(ctx, keystore.KeyFilter{Sort: sort}, "", n)
			must(t, err)
			before, _, err := db.Keys(ctx, keystore.KeyFilter{Sort: "-" + sort}, cursor, 100)
			must(t, err)
			slices.Reverse(before)
			if len(before) != n-1 || n > 1 && (before[0].ID != ids[0] ||
				before[n-2].ID != ids[n-2]) {
				t.Errorf("%d keys before key %d by %s", len(before), n, sort)
			}
		}
	}
	for _, sort := range []keystore.KeySort{"-", "owner", "name ", "--name"} {
		_, _, err := db.Keys(ctx, keystore.KeyFilter{Sort: sort}, "", 5)
		isInvalid(t, fmt.Sprintf("the order %q", sort), err)
	}
	_, next, err := db.Keys(ctx, keystore.KeyFilter{Sort: "expires_at"}, "", 1)
	must(t, err)
	for _, sort := range []keystore.KeySort{"", "name", "last_used_at"} {
		_, _, err := db.Keys(ctx, keystore.KeyFilter{Sort: sort}, next, 1)
		isInvalid(t, fmt.Sprintf("a cursor of another order with %q", sort), err)
	}
	_, _, err = db.Keys(ctx, keystore.KeyFilter{Sort: "name"}, "name.?_k1", 1)
	isInvalid(t, "a bad cursor of names", err)
}

// all returns the ids on all pages of a list.
func all(t *testing.T, db keystore.Database, f keystore.KeyFilter, limit int) (ids []string) {
	t.Helper()
	for cursor := ""; ; {
		page, next, err := db.Keys(ctx, f, cursor, limit)
		must(t, err)
		if len(page) > limit || next != "" && len(page) == 0 {
			t.Fatalf("a page of %d keys, limit %d", len(page), limit)
		}
		for _, k := range page {
			ids = append(ids, k.ID)
		}
		if next == "" {
			return ids
		}
		cursor = next
	}
}

func testText(t *testing.T, s Store) {
	db := ready(t, s)
	for i, name := range []string{"plain", "50% off", "under_score", "star*", `back\slash`,
		"Ärger", "quote'd", ""} {
		k := plain(fmt.Sprintf("0123456789x%d", i))
		k.Name = name
		insert(t, db, k)
	}
	special := plain("AbCdEfGhIjKl")
	special.Prefix = "ak_live"
	insert(t, db, special)
	for text, want := range map[string]int{
		"%": 1, "_score": 1, "*": 1, `\`: 1, "'": 1, "?": 0, "PLAIN": 1, "0% OFF": 1, "Är": 1,
		"ÄRGER":           1,
		"är":              0, // case is ignored only in ASCII
		"0123456789x":     8,
		"0123456789X3":    1,
		"abcdefghijkl":    1,
		"AK_LIVE_abcdefg": 1,
		"ak_live_":        1,
		"ak_01234567…":    8,
		"_":               9, // every listed prefix
		"ak_0123456789":   0,
		"plain0123":       0, // not across fields
	} {
		if got := all(t, db, keystore.KeyFilter{Text: text}, 100); len(got) != want {
			t.Errorf("%q finds %d, want %d: %v", text, len(got), want, got)
		}
	}
}

func testMetadata(t *testing.T, s Store) {
	db := ready(t, s)
	for i, m := range []map[string]string{
		nil, {"team": "erp"}, {"team": "ERP", "a": ""}, {"team": "erp", "b.c": "1", "$": "2"},
		{"<'\"&>\\": "é'<\"\\", "team": "erp\t"}, {"nul\x00": "x", "team": "erp"},
		{"erp": "team", "0": "1"},
	} {
		k := plain(fmt.Sprint("k", i))
		k.Metadata, k.CreatedAt = m, start.Add(time.Duration(i)*time.Second)
		insert(t, db, k)
	}
	for _, row := range []struct {
		metadata map[string]string
		want     string
	}{
		{map[string]string{"team": "ERP"}, "k2"},
		{map[string]string{"a": ""}, "k2"},
		{map[string]string{"b.c": "1"}, "k3"},
		{map[string]string{"$": "2"}, "k3"},
		{map[string]string{"team": "erp", "b.c": "1"}, "k3"},
		{map[string]string{"team": "ERP", "b.c": "1"}, ""},
		{map[string]string{"<'\"&>\\": "é'<\"\\"}, "k4"},
		{map[string]string{"team": "erp\t"}, "k4"},
		{map[string]string{"0": "1"}, "k6"},
		{map[string]string{"$.team": "erp"}, ""},
		{map[string]string{"b": ""}, ""},
		{map[string]string{"": ""}, ""},
	} {
		if got := strings.Join(all(t, db, keystore.KeyFilter{Metadata: row.metadata}, 3),
			" "); got != row.want {
			t.Errorf("%q: %q, want %q", row.metadata, got, row.want)
		}
	}
	// A key with a zero byte, which can no longer be stored, may be missing from the list.
	got := all(t, db, keystore.KeyFilter{Metadata: map[string]string{"team": "erp"}}, 3)
	if got = slices.DeleteFunc(got, func(id string) bool { return id == "k5" }); strings.Join(got,
		" ") != "k3 k1" {
		t.Errorf("team=erp finds %v", got)
	}
}

// testPages: while keys are created and deleted, no other key is missing or listed twice.
func testPages(t *testing.T, s Store) {
	db := ready(t, s)
	var want []string
	for i := range 20 {
		k := plain(fmt.Sprintf("k%02d", i))
		k.CreatedAt = start.Add(time.Duration(i/4) * time.Second) // four at the same time
		insert(t, db, k)
		want = append(want, k.ID)
	}
	slices.Reverse(want)
	var got []string
	cursor := ""
	for n := 0; ; n++ {
		page, next, err := db.Keys(ctx, keystore.KeyFilter{}, cursor, 3)
		must(t, err)
		for _, k := range page {
			if strings.HasPrefix(k.ID, "k") {
				got = append(got, k.ID)
			}
		}
		if cursor = next; cursor == "" {
			break
		}
		// A newer key is created, and the key at the cursor is deleted.
		k := plain(fmt.Sprint("new", n))
		k.CreatedAt = start.Add(time.Hour)
		insert(t, db, k)
		update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey(page[len(page)-1].ID) })
	}
	if !slices.Equal(got, want) {
		t.Fatalf("pages %v, want %v", got, want)
	}
	page, next, err := db.Keys(ctx, keystore.KeyFilter{Text: "new"}, "",
		len(all(t, db, keystore.KeyFilter{Text: "new"}, 100)))
	must(t, err)
	if len(page) == 0 || next != "" {
		t.Fatal("a list with exactly one full page has a next page")
	}
}

func testCount(t *testing.T, s Store) {
	db := ready(t, s)
	check := func(want map[keystore.Status]int64) {
		t.Helper()
		got, err := db.CountKeys(ctx)
		must(t, err)
		maps.DeleteFunc(got, func(_ keystore.Status, n int64) bool { return n == 0 })
		if !maps.Equal(got, want) {
			t.Fatalf("counts %v, want %v", got, want)
		}
	}
	check(map[keystore.Status]int64{})
	for i, change := range []func(*keystore.Key){
		func(k *keystore.Key) {},
		func(k *keystore.Key) { k.ExpiresAt = time.Now().Add(time.Hour) },
		func(k *keystore.Key) { k.Active = false },
		func(k *keystore.Key) { k.Active, k.ExpiresAt = false, time.Now().Add(time.Hour) },
		func(k *keystore.Key) { k.Active, k.ExpiresAt = false, start.AddDate(-10, 0, 0) },
		func(k *keystore.Key) { k.ExpiresAt = start.AddDate(-10, 0, 0) },
		func(k *keystore.Key) { k.RevokedAt = start },
		func(k *keystore.Key) {
			k.RevokedAt, k.Active, k.ExpiresAt = start, false, start.AddDate(-10, 0, 0)
		},
	} {
		k := plain(fmt.Sprint(i))
		change(k)
		insert(t, db, k)
	}
	check(map[keystore.Status]int64{keystore.StatusActive: 2, keystore.StatusInactive: 2,
		keystore.StatusExpired: 2, keystore.StatusRevoked: 2})
	edit(t, db, "0", func(k *keystore.Key) { k.RevokedAt = start })
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("7") })
	check(map[keystore.Status]int64{keystore.StatusActive: 1, keystore.StatusInactive: 2,
		keystore.StatusExpired: 2, keystore.StatusRevoked: 2})
}

// testPageBytes: a page of large objects ends before its limit.
func testPageBytes(t *testing.T, s Store) {
	db := ready(t, s)
	const n = 30
	large := strings.Repeat("x", keystore.PageBytes/10)
	rows := make([]*keystore.AuditRow, n)
	for i := range n {
		k := plain(fmt.Sprintf("k%02d", i))
		k.CreatedAt = start.Add(time.Duration(i) * time.Second)
		k.Metadata = map[string]string{"large": large}
		insert(t, db, k)
		rows[i] = &keystore.AuditRow{Seq: int64(i + 1), At: start, After: `"` + large + `"`}
	}
	update(t, db, func(tx keystore.Tx) error { return tx.AppendAudit(rows) })
	each := func(what string, page func(cursor string) (size int64, ids []string, next string,
		err error)) {
		seen := make(map[string]bool)
		pages := 0
		for cursor := ""; pages == 0 || cursor != ""; pages++ {
			size, ids, next, err := page(cursor)
			must(t, err)
			if size > keystore.PageBytes*5/4 || len(ids) == 0 {
				t.Fatalf("%s: a page of %d objects with %d bytes", what, len(ids), size)
			}
			for _, id := range ids {
				if seen[id] {
					t.Errorf("%s: %s is listed twice", what, id)
				}
				seen[id] = true
			}
			cursor = next
		}
		if len(seen) != n || pages != 3 {
			t.Errorf("%s: %d objects on %d pages", what, len(seen), pages)
		}
	}
	for _, sort := range []keystore.KeySort{keystore.NewestFirst, "name"} {
		each("keys by "+string(sort), func(cursor string) (size int64, ids []string, next string,
			err error) {
			keys, next, err := db.Keys(ctx, keystore.KeyFilter{Sort: sort}, cursor, 1000)
			for i := range keys {
				size, ids = size+keys[i].Size(), append(ids, keys[i].ID)
			}
			return size, ids, next, err
		})
	}
	each("the audit log", func(cursor string) (size int64, ids []string, next string, err error) {
		rows, next, err := db.Audits(ctx, keystore.AuditFilter{}, cursor, 1000)
		for i := range rows {
			size, ids = size+rows[i].Size(), append(ids, fmt.Sprint(rows[i].Seq))
		}
		return size, ids, next, err
	})
}
