//go:build unix

package sqldb

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
)

// TestSearchIsBounded: all pages together have the same keys as without the bound, and a page
// without a match examines only as many keys as the bound.
func TestSearchIsBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			for i := range 40 {
				// two keys with the same time
				k := benchKey(i, tx.Now().Add(time.Duration(i/2)*time.Second))
				k.Name = fmt.Sprintf("key %d of 40", i)
				k.Namespace = []string{"a", "a", "a", "b", "c"}[i%5]
				k.Owner = []string{"root", "m"}[i%2]
				if err := insertKey(tx, k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		list := func(f keystore.KeyFilter, bound int) (names []string, pages int) {
			d.maxScan = bound
			for cursor := ""; pages == 0 || cursor != ""; pages++ {
				keys, next, err := d.Keys(ctx, f, cursor, 2)
				if err != nil || pages > 40 {
					t.Fatal(pages, err)
				}
				for i := range keys {
					names = append(names, keys[i].Name)
				}
				cursor = next
			}
			return names, pages
		}
		for _, f := range []keystore.KeyFilter{
			{}, {Namespaces: []string{"a"}}, {Namespaces: []string{"a", "b"}},
			{Visible: []string{"b", "c"}, OrOwners: []string{"m"}},
			{Visible: []string{"c"}, OrOwners: []string{"m"}, Namespaces: []string{"a", "c"}}, {Owner: "m"},
			{Visible: []string{}},
			{Sort: "created_at"}, {Sort: "created_at", Namespaces: []string{"a", "b"}},
		} {
			for _, text := range []string{"key", "7", "key 1", "39 of", "nothing"} {
				f.Text = text
				want, _ := list(f, 1000)
				got, pages := list(f, 3)
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%+v: %v, want %v", f, got, want)
				}
				if limit := 40/3 + 1 + len(want)/2; pages > limit {
					t.Errorf("%+v: %d pages for %d keys, want %d at most", f, pages, len(want),
						limit)
				}
				if f.Namespaces == nil && f.Visible == nil && f.Owner == "" && text == "nothing" &&
					pages != 40/3+1 {
					t.Errorf("%+v: %d pages of 3 examined keys each, for 40 keys", f, pages)
				}
			}
		}
		d.maxScan = 8
		for f, fits := range map[*keystore.KeyFilter]bool{
			// the numbers of examined keys
			{Namespaces: []string{"b"}}:                  true,  // 8
			{Namespaces: []string{"b", "c"}, Owner: "m"}: true,  // 8
			{Namespaces: []string{"b", "c"}}:             false, // 16
			// 24
			{Namespaces: []string{"a"}, Text: "nothing"}:                       false,
			{Namespaces: []string{"b"}, Text: "nothing"}:                       true,  // 8
			{Owner: "m", Text: "nothing"}:                                      false, // 20
			{Namespaces: []string{"a"}, Metadata: map[string]string{"a": "b"}}: false,
			{Status: keystore.StatusRevoked}:                                   true,
		} {
			f.Sort = "name"
			_, _, err := d.Keys(ctx, *f, "", 2)
			e, refused := errors.AsType[*keystore.Error](err)
			if fits && err != nil || !fits &&
				(!refused || len(e.Fields) != 1 || e.Fields[0].Field != "sort") {
				t.Errorf("%+v, sorted with a limit of 8 keys: %v", f, err)
			}
		}
	})
}

// TestNotOwnersIsBounded: keys of excluded owners, however many, do not make lists and their totals
// slow. A page and a total examine at most maxScan keys, and a sort finds at most maxScan.
func TestNotOwnersIsBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			for i := range 40 { // the newest 30 are those of m, and 3 of the others are not active
				k := benchKey(i, tx.Now().Add(time.Duration(i)*time.Second))
				k.Namespace = string("abab"[i%4])
				if k.Owner = "root"; i >= 10 {
					k.Owner = "m"
				}
				if err := insertKey(tx, k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		const bound = 8
		d.maxScan = bound
		for name, rare := range map[string]keystore.KeyFilter{
			"active":          {Status: keystore.StatusActive},
			"two other paths": {Owner: "m", Namespaces: []string{"a"}},
		} {
			rare.Now = time.Now()
			keys, next, err := d.Keys(ctx, rare, "", 20)
			if err != nil || len(keys) > bound || next == "" {
				t.Errorf("%s: a page of %d keys, next %q: %v", name, len(keys), next, err)
			}
		}
		f := keystore.KeyFilter{NotOwners: []string{"m"}, Status: keystore.StatusActive,
			Now: time.Now()}
		found, empty := 0, 0
		for cursor, pages := "", 0; pages == 0 || cursor != ""; pages++ {
			keys, next, err := d.Keys(ctx, f, cursor, 20)
			if err != nil || pages > 40/bound {
				t.Fatalf("page %d: %v", pages, err)
			}
			if found, cursor = found+len(keys), next; len(keys) == 0 {
				empty++
			}
		}
		if found != 7 || empty != 30/bound+1 { // the last page too
			t.Errorf("the pages have %d keys, and %d are empty", found, empty)
		}
		for _, row := range []struct {
			not, namespace string
			limit, n       int
			ok             bool
		}{
			{"m", "", 100, 0, false},
			{"root", "", bound, bound, true}, // the newest suffice
			{"root", "", bound + 1, bound, false},
			{"root", "none", 100, 0, true},
		} {
			f := keystore.KeyFilter{NotOwners: []string{row.not}, Now: f.Now}
			if row.namespace != "" {
				f.Namespaces = []string{row.namespace}
			}
			n, ok, err := d.CountMatching(ctx, f, row.limit)
			if n != row.n || ok != row.ok || err != nil {
				t.Errorf("%+v: %d, %v, %v", row, n, ok, err)
			}
		}
		// Both filters have an access path with more than bound keys.
		both := keystore.KeyFilter{Owner: "m", Namespaces: []string{"a"}, Now: f.Now}
		if n, ok, err := d.CountMatching(ctx, both, 100); n > bound || ok || err != nil {
			t.Errorf("keys of m in a: %d, %v, %v", n, ok, err)
		}
		// The database counts the keys to sort without looking at their owners.
		f.Sort = "name"
		for _, d.maxScan = range []int{36, 37} { // of active keys
			keys, _, err := d.Keys(ctx, f, "", 20)
			if fits := d.maxScan == 37; fits != (len(keys) == 7 && err == nil) {
				t.Errorf("%d sorted keys with a limit of %d: %v", len(keys), d.maxScan, err)
			}
		}
	})
}

// onBoth runs a test on an empty SQLite and an empty PostgreSQL database.
func onBoth(t *testing.T, test func(t *testing.T, d *DB)) {
	for name, store := range map[string]keystoretest.Store{"SQLite": newSQLite(t),
		"PostgreSQL": newPostgresStore(t)} {
		t.Run(name, func(t *testing.T) {
			d := store.Open(t).(*closeOnce).DB
			if _, err := d.Deployment(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			test(t, d)
		})
	}
}
