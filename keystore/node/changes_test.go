package node_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestChangeKeepsOtherRecords checks that nodes follow changes without loading again what has not
// changed.
func TestChangeKeepsOtherRecords(t *testing.T) {
	d := fleet.New(t)
	a, fa := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	key, _ := fleet.Mint(t, a, manage.KeySpec{})
	_, other := fleet.Mint(t, a, manage.KeySpec{})
	for _, k := range []*manage.Keystore{a, b} {
		k.Health(ctx) // applies the mints, so that the record can be cached
		fleet.Want(t, "before", fleet.Ask(k, other), keystore.OK)
	}
	loads := fa.Loads.Load() + fb.Loads.Load()
	policies := fa.WholePolicies.Load() + fb.WholePolicies.Load()

	name := "another"
	if _, err := a.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	b.Health(ctx) // applies the member, whose row would be counted below
	rows := fb.PolicyRows.Load()
	if _, _, err := a.EditNamespace(ctx, fleet.Root, "default", manage.NamespacePatch{Name: &name},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := fb.PolicyRows.Load() - rows; n != 1 {
		t.Errorf("%d rows of the policy were read for one change", n)
	}
	fleet.Mint(t, a, manage.KeySpec{})
	if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	fleet.Want(t, "here", fleet.Ask(a, other), keystore.OK)
	fleet.Want(t, "there", fleet.Ask(b, other), keystore.OK)
	if n := fa.Loads.Load() + fb.Loads.Load() - loads; n != 0 {
		t.Errorf("%d keys were loaded again", n)
	}
	if n := fa.WholePolicies.Load() + fb.WholePolicies.Load() - policies; n != 0 {
		t.Errorf("%d whole policies were read again", n)
	}
}

// TestChangesThatAreNotListed lets a node miss changes that the change log does not describe. The
// node must treat everything as changed.
func TestChangesThatAreNotListed(t *testing.T) {
	for name, forget := range map[string]func(fleet.Fleet, *fleet.Faulty){
		"truncated before the node reads it": func(d fleet.Fleet, _ *fleet.Faulty) {
			d.Tamper("DELETE FROM change_log")
		},
		"truncated before the node reads the policy": func(d fleet.Fleet, f *fleet.Faulty) {
			truncate := func() { d.Tamper("DELETE FROM change_log") }
			f.BeforePolicy.Store(&truncate)
		},
		"one change that stands for anything": func(d fleet.Fleet, _ *fleet.Faulty) {
			d.Tamper("UPDATE change_log SET kind = 'all', key_id = NULL, digest = NULL, " +
				"object = NULL, namespace = NULL, name = NULL")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testNotListed(t, forget) })
		})
	}
}

func testNotListed(t *testing.T, forget func(fleet.Fleet, *fleet.Faulty)) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	role := keystore.RoleID{Namespace: "default", Name: "clerk"}
	if _, err := a.CreateRole(ctx, fleet.Root, keystore.Role{Namespace: role.Namespace,
		Name: role.Name, Permissions: fleet.Read}); err != nil {
		t.Fatal(err)
	}
	revoked, revokedToken := fleet.Mint(t, a, manage.KeySpec{})
	deleted, deletedToken := fleet.Mint(t, a, manage.KeySpec{})
	_, narrowed := fleet.Mint(t, a,
		manage.KeySpec{Home: &keystore.Grant{Roles: []string{role.Name}}})
	_, unchanged := fleet.Mint(t, a, manage.KeySpec{ExpiresAt: a.Now().Add(time.Minute)})
	var cuts [3]atomic.Int32
	wantCuts := func(want ...int32) {
		t.Helper()
		for i := range cuts {
			if n := cuts[i].Load(); n != want[i] {
				t.Errorf("request %d was cut %d times, want %d", i, n, want[i])
			}
		}
	}
	for i, token := range []string{revokedToken, deletedToken, unchanged} {
		defer b.Leave(run(t, b, token, &cuts[i]))
	}
	fleet.Want(t, "before", fleet.Ask(b, narrowed), keystore.OK)

	fb.Mute.Store(true)
	fleet.Revoke(t, a, revoked.ID, -1)
	fleet.Revoke(t, a, deleted.ID, -1)
	if _, _, err := a.DeleteKey(ctx, fleet.Root, deleted.ID,
		manage.ChangeOptions{Wait: -1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.EditRole(ctx, fleet.Root, role,
		manage.RolePatch{Permissions: []keystore.Permission{{Action: "write"}}},
		manage.ChangeOptions{Wait: -1}); err != nil {
		t.Fatal(err)
	}
	forget(d, fb)
	fb.Mute.Store(false)
	if h := b.Health(ctx); h.Problem != "" {
		t.Fatal(h.Problem)
	}
	wantCuts(1, 1, 0)
	fleet.Want(t, "a revoked key", fleet.Ask(b, revokedToken), keystore.Revoked)
	fleet.Want(t, "a deleted key", fleet.Ask(b, deletedToken), keystore.Unknown)
	fleet.Want(t, "a key of an edited role", fleet.Ask(b, narrowed), keystore.Forbidden)
	fleet.Want(t, "an unchanged key", fleet.Ask(b, unchanged), keystore.OK)
	time.Sleep(2 * time.Minute)
	wantCuts(1, 1, 1)
}

// TestLargeImportIsInForceAtOnce imports so many keys that the change log does not list them.
func TestLargeImportIsInForceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, _ := d.Node(node.Settings{})
		var specs []manage.ImportSpec
		for i := range 300 {
			specs = append(specs, readImport(fmt.Sprint("legacy/", i)))
		}
		first := readImport("legacy/first")
		if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{first}, false,
			nil); err != nil {
			t.Fatal(err)
		}
		for _, k := range []*manage.Keystore{a, b} {
			fleet.Want(t, "before", fleet.Ask(k, specs[7].Token), keystore.Unknown)
		}
		if _, _, err := a.ImportKeys(ctx, fleet.Root, specs, false, nil); err != nil {
			t.Fatal(err)
		}
		for _, k := range []*manage.Keystore{a, b} {
			fleet.Want(t, "afterwards", fleet.Ask(k, specs[7].Token), keystore.OK)
		}
	})
}

// TestPolicyChangesOfSlowDatabase checks that a node which cannot read the changes of the policy
// within one renewal reads the whole policy instead.
func TestPolicyChangesOfSlowDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		policies := fb.WholePolicies.Load()
		slow := func() { time.Sleep(time.Minute) }
		fb.BeforePolicy.Store(&slow)
		owner, err := a.CreateMember(ctx, fleet.Root,
			keystore.Member{Name: "Ada", Grants: fleet.Grants(t, "default=read")})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if b.Policy().Member(owner.ID) == nil {
			t.Error("the node does not know the new member")
		}
		if n := fb.WholePolicies.Load() - policies; n != 1 {
			t.Errorf("the whole policy was read %d times", n)
		}
	})
}

// TestLoadOvertakenByDroppedCache holds a load while the node drops its cache, because the change
// log does not say what has changed. The record must not be cached afterwards.
func TestLoadOvertakenByDroppedCache(t *testing.T) {
	for _, forget := range []string{"DELETE FROM change_log",
		"UPDATE change_log SET kind = 'all', key_id = NULL, digest = NULL"} {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		b.Health(ctx) // applies the mint: it could not cache a newer record
		fb.Mute.Store(true)
		read, release := fb.HoldOne()
		answered := make(chan keystore.Outcome)
		go func() { answered <- fleet.Ask(b, token) }()
		<-read
		fleet.Revoke(t, a, key.ID, -1)
		d.Tamper(forget)
		fb.Mute.Store(false)
		if h := b.Health(ctx); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		close(release)
		<-answered
		fleet.Want(t, forget, fleet.Ask(b, token), keystore.Revoked)
	}
}

// TestUnreadableRowIsLoggedOnce checks that a node names a row that it ignores when it first reads
// it, and not with each change afterwards.
func TestUnreadableRowIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		var log bytes.Buffer
		open := func(
			ctx context.Context, db keystore.Database, s node.Settings, o node.Observer,
		) (*manage.Keystore, error) {
			return manage.Open(ctx, db, nil, s, o, slog.New(slog.NewTextHandler(&log, nil)))
		}
		a, _ := d.OpenWith(fleet.Observer{}, node.Settings{}, open, func(*fleet.Faulty) {})
		roles := []string{"clerk", "driver"}
		for _, name := range roles {
			if _, err := a.CreateRole(ctx, fleet.Root, keystore.Role{Namespace: "default",
				Name: name, Permissions: fleet.Read}); err != nil {
				t.Fatal(err)
			}
		}
		for i, name := range roles {
			d.Tamper("UPDATE roles SET permissions = '[5]' WHERE name = '" + name + "'")
			a.Health(ctx)
			if _, err := a.CreateMember(ctx, fleet.Root,
				keystore.Member{Name: "Ada"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if n := strings.Count(log.String(), "\n"); n != i+1 ||
				strings.Count(log.String(), name) != 1 {
				t.Errorf("%d lines, want one for each unreadable row: %s", n, log.String())
			}
		}
	})
}
