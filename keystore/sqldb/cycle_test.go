//go:build unix

package sqldb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestNamespaceCycle: a cycle of namespaces, created manually in SQL, stops no node and no change.
// Grants in the namespaces in it and below it give nothing until it is repaired.
func TestNamespaceCycle(t *testing.T) {
	ctx := context.Background()
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		a, db := node()
		read := []keystore.Permission{{Action: "read"}}
		tokens := make(map[string]string)
		ids := make(map[string]string)
		mint := func(name, namespace string, connected bool) error {
			key, token, err := a.MintKey(ctx, importer, manage.KeySpec{
				Namespace: strings.Trim(namespace, "*"),
				Grants: []keystore.Grant{{Namespace: namespace, Connected: connected,
					Permissions: read}},
			}, nil)
			if err == nil {
				tokens[name], ids[name] = token.Reveal(), key.ID
			}
			return err
		}
		revoke := func(name string) {
			t.Helper()
			start := time.Now()
			_, p, err := a.RevokeKey(ctx, importer, ids[name], "", false, manage.ChangeOptions{})
			must(err)
			if !p.Complete {
				t.Errorf("after %v: %+v", time.Since(start), p)
			}
		}
		for _, ns := range []keystore.Namespace{
			{ID: "top"}, {ID: "one", Parent: "top", Reach: []string{"k"}},
			{ID: "two", Parent: "one", Kind: "k"}, {ID: "below", Parent: "two", Kind: "k"},
			{ID: "apart", Reach: []string{"k"}}, {ID: "child", Parent: "apart"},
		} {
			_, err := a.CreateNamespace(ctx, importer, ns)
			must(err)
			must(mint(ns.ID, ns.ID, true))
		}
		must(mint("*", keystore.AnyNamespace, false))
		asks := func(k *manage.Keystore, key, namespace string, want keystore.Outcome) {
			t.Helper()
			if h := k.Health(ctx); h.Problem != "" { // this also applies all changes
				t.Fatal(h.Problem)
			}
			now := time.Now()
			a, err := k.Lookup(ctx, tokens[key], now)
			must(err)
			q := keystore.Request{Now: a.Now, Policy: k.Policy(),
				Namespace: k.Policy().Namespace(namespace)}
			if got := keystore.Decide(a.Record, &q); got != want {
				t.Errorf("the key of %s in %s: %v, want %v", key, namespace, got, want)
			}
		}
		sql := func(format string, args ...any) {
			t.Helper()
			d := db.Database.(*DB)
			must(d.exec(ctx, d.writer, "changing a row by hand", fmt.Sprintf(format, args...)))
		}
		inCycle := func(k *manage.Keystore, want keystore.Outcome) {
			t.Helper()
			for _, ns := range []string{"one", "two", "below"} {
				asks(k, ns, ns, want)
				asks(k, "one", ns, want) // by its reach, or as a child
				asks(k, "*", ns, keystore.OK)
			}
			asks(k, "apart", "apart", keystore.OK)
			asks(k, "apart", "child", keystore.OK)
			asks(k, "apart", "two", keystore.Forbidden)
			asks(k, "top", "top", keystore.OK)
		}
		inCycle(a, keystore.OK)
		_, err := a.CreateMember(ctx, importer,
			keystore.Member{Name: "Ada", Login: "ada", Grants: []keystore.Grant{
				{Namespace: "apart", Permissions: []keystore.Permission{{Resource: "admin",
					Action: "*"}}},
			}})
		must(err)
		ada, err := a.CallerByLogin(ctx, "ada", nil, "test", time.Now())
		must(err)
		for i, parent := range []string{"below", "two", "one"} {
			sql("UPDATE namespaces SET parent = '%s' WHERE id = 'one'", parent)
			b, _ := node() // a node can start
			for _, k := range []*manage.Keystore{a, b} {
				inCycle(k, keystore.Forbidden)
			}
			list, err := b.ListNamespaces(ctx, importer)
			must(err)
			for _, ns := range list {
				if broken := ns.ID == "one" || ns.ID == "two" ||
					ns.ID == "below"; broken != (ns.Unreadable != "") {
					t.Errorf("%s is listed with %q", ns.ID, ns.Unreadable)
				}
			}
			name := "N"
			patch := manage.NamespacePatch{Name: &name}
			// The edit searches for the namespaces that apart reaches.
			_, _, err = a.EditNamespace(ctx, ada, "apart", patch, manage.ChangeOptions{})
			must(err)
			must(mint("short", "apart", false))
			revoke("short")
			asks(b, "short", "apart", keystore.Revoked)
			if err := mint("refused", "one", false); code(err) != "invalid_fields" {
				t.Errorf("a key was created in a namespace of the cycle: %v", err)
			}
			_, _, err = a.EditNamespace(ctx, importer, "one", patch, manage.ChangeOptions{})
			if code(err) != "invalid_fields" {
				t.Errorf("an edit that keeps the cycle: %v", err)
			}
			if i == 0 {
				repaired := "top"
				patch := manage.NamespacePatch{Parent: &repaired}
				_, _, err := a.EditNamespace(ctx, importer, "one", patch, manage.ChangeOptions{})
				must(err)
			} else {
				sql("UPDATE namespaces SET parent = 'top' WHERE id = 'one'")
			}
			inCycle(a, keystore.OK)
			inCycle(b, keystore.OK)
		}
		sql("UPDATE namespaces SET parent = 'one' WHERE id = 'one'")
		revoke("two")
		asks(a, "two", "two", keystore.Revoked)
	})
}

// TestMovingASubtreeCountsItsDepth: the depth limit includes the descendants of a moved namespace.
func TestMovingASubtreeCountsItsDepth(t *testing.T) {
	ctx := context.Background()
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		k, _ := node()
		for _, chain := range []string{"a", "b"} {
			for i := 1; i <= 20; i++ {
				ns := keystore.Namespace{ID: fmt.Sprint(chain, i)}
				if i > 1 {
					ns.Parent = fmt.Sprint(chain, i-1)
				}
				if _, err := k.CreateNamespace(ctx, importer, ns); err != nil {
					t.Fatal(err)
				}
			}
		}
		move := func(id, parent string) error {
			patch := manage.NamespacePatch{Parent: &parent}
			_, _, err := k.EditNamespace(ctx, importer, id, patch, manage.ChangeOptions{})
			return err
		}
		for _, parent := range []string{"a20", "a13"} {
			if err := move("b1", parent); code(err) != "invalid_fields" {
				t.Errorf("20 levels below %s: %v", parent, err)
			}
		}
		if err := move("b1", "a12"); err != nil {
			t.Errorf("20 levels below a12: %v", err)
		}
		_, err := k.CreateNamespace(ctx, importer, keystore.Namespace{ID: "deepest", Parent: "b20"})
		if code(err) != "invalid_fields" {
			t.Errorf("a 33rd level: %v", err)
		}
		if err := move("a1", "b20"); code(err) != "invalid_fields" {
			t.Errorf("into itself: %v", err)
		}
		for _, ns := range []string{"b1", "b20", "a20"} {
			if why := k.Policy().Namespace(ns).Unreadable; why != "" {
				t.Errorf("%s: %s", ns, why)
			}
		}
	})
}

func code(err error) string {
	if refusal, ok := errors.AsType[*keystore.Error](err); ok {
		return refusal.Code
	}
	return fmt.Sprint(err)
}
