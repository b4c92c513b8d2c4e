package node_test

import (
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
	if _, _, err := a.EditNamespace(ctx, fleet.Root, "default", manage.NamespacePatch{Name: &name},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
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

// TestTruncatedChangeLog lets a node miss changes that the change log no longer has. The node must
// treat everything as changed.
func TestTruncatedChangeLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		role := keystore.RoleID{Namespace: "default", Name: "clerk"}
		if _, err := a.CreateRole(ctx, fleet.Root, keystore.Role{Namespace: role.Namespace,
			Name: role.Name, Permissions: fleet.Read}); err != nil {
			t.Fatal(err)
		}
		revoked, revokedToken := fleet.Mint(t, a, manage.KeySpec{})
		_, narrowed := fleet.Mint(t, a,
			manage.KeySpec{Home: &keystore.Grant{Roles: []string{role.Name}}})
		_, unchanged := fleet.Mint(t, a, manage.KeySpec{ExpiresAt: a.Now().Add(time.Hour)})
		var cuts [2]atomic.Int32
		for i, token := range []string{revokedToken, unchanged} {
			defer b.Leave(run(t, b, token, &cuts[i]))
		}
		fleet.Want(t, "before", fleet.Ask(b, narrowed), keystore.OK)

		fb.Mute.Store(true)
		fleet.Revoke(t, a, revoked.ID, -1)
		if _, _, err := a.EditRole(ctx, fleet.Root, role,
			manage.RolePatch{Permissions: []keystore.Permission{{Action: "write"}}},
			manage.ChangeOptions{Wait: -1}); err != nil {
			t.Fatal(err)
		}
		d.Tamper("DELETE FROM change_log")
		fb.Mute.Store(false)
		if h := b.Health(ctx); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		for i, want := range []int32{1, 0} {
			if n := cuts[i].Load(); n != want {
				t.Errorf("request %d was cut %d times, want %d", i, n, want)
			}
		}
		fleet.Want(t, "a revoked key", fleet.Ask(b, revokedToken), keystore.Revoked)
		fleet.Want(t, "a key of an edited role", fleet.Ask(b, narrowed), keystore.Forbidden)
		fleet.Want(t, "an unchanged key", fleet.Ask(b, unchanged), keystore.OK)
	})
}
