package manage_test

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestMay checks that the methods in may.go agree with what the operations allow.
func TestMay(t *testing.T) {
	callers := []string{
		"acme=*,admin:*", "acme=read,admin:*", "acme=*,admin.keys:*,admin:read",
		"acme=*,admin:* other=*,admin:*", "acme=*,admin:* other=*", "*=*,admin:*",
		"other=*,admin:*",
		"acme=read,orders:*,admin.keys:create", "acme+=*,admin.keys:*", "",
	}
	for _, grants := range callers {
		t.Run(grants, func(t *testing.T) {
			w := newWorld(t, "acme", "other")
			bob, both := w.member("bob", "acme=read,write,admin.keys:create"),
				w.member("both", "acme=read,write,admin.keys:create other=write,admin.keys:create")
			key := func(name string, who manage.Caller, home, grants string) {
				key, _ := w.key(who, home, grants)
				w.ids[name] = key.ID
			}
			key("root's", fleet.Root, "acme", "acme=read")
			key("bob's", bob, "acme", "acme=read")
			key("both's", both, "other", "acme=read other=write")
			idle := w.member("idle", "").Member()
			_, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "other", Owner: idle,
				Grants: roleGrants(t, "other=read")}, nil)
			if err != nil {
				t.Fatal(err)
			}
			who := w.member("who", grants)
			own, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "acme",
				Owner: who.Member(), Grants: roleGrants(t, "acme=orders:read")}, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.ids["its own"] = own.ID
			// in_use: the caller may delete the member after its keys
			allowed := func(err error) bool { return err == nil || fleet.Code(err) == "in_use" }

			_, _, err = w.MintKey(ctx, who, manage.KeySpec{Namespace: "acme",
				Home: &keystore.Grant{Permissions: permissions(t, "read"), Connected: true}}, nil)
			if offered := w.MayConnect(who, "acme") &&
				w.MayIn(who, "admin.keys", "create", "acme"); offered != allowed(err) {
				t.Errorf("a connected grant: offered %t, %v", offered, err)
			}
			for _, p := range permissions(t, "*,read,write,orders:read,orders:find,admin.keys:create,admin:*") {
				_, _, err := w.MintKey(ctx, who, manage.KeySpec{Namespace: "acme",
					Home: &keystore.Grant{Permissions: []keystore.Permission{p}}}, nil)
				if fleet.Code(err) == "insufficient_permission" {
					break // the caller may create no keys
				}
				if offered := w.MayGive(who, "acme")(p); offered != allowed(err) {
					t.Errorf("giving %s: offered %t, %v", p, offered, err)
				}
			}
			for _, name := range []string{"root's", "bob's", "both's", "its own"} {
				key, err := w.FindKey(ctx, fleet.Root, w.ids[name])
				if err != nil {
					t.Fatal(err)
				}
				offered := w.MayRotate(who, key)
				if _, _, _, err := w.RotateKey(ctx, who, key.ID, 0,
					manage.ChangeOptions{}); offered != allowed(err) {
					t.Errorf("rotate %s key: offered %t, %v", name, offered, err)
				}
			}
			for _, name := range []string{"bob", "both", "who", "none", "idle"} {
				id := w.id(name)
				rename := name + " again"
				offered := w.MayMember(who, "update", id)
				if _, _, err := w.EditMember(ctx, who, id, manage.MemberPatch{Name: &rename},
					manage.ChangeOptions{}); offered != allowed(err) {
					t.Errorf("rename %s: offered %t, %v", name, offered, err)
				}
				offered, err := w.MaySignInAs(ctx, who, id)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, _, err := w.NewMemberToken(ctx, who, id, manage.TokenSpec{},
					manage.ChangeOptions{}); offered != allowed(err) {
					t.Errorf("a token for %s: offered %t, %v", name, offered, err)
				}
			}
			for _, name := range []string{"bob", "both", "none", "root"} {
				id := w.id(name)
				offered := w.MayMember(who, "delete", id)
				if _, _, err := w.DeleteMember(ctx, who, id,
					manage.ChangeOptions{}); offered != allowed(err) {
					t.Errorf("delete %s: offered %t, %v", name, offered, err)
				}
			}
		})
	}
}

// TestMayGiveOfKeys checks that a key may give a permission only if both the key and its owner have
// it.
func TestMayGiveOfKeys(t *testing.T) {
	w := newWorld(t, "acme")
	ada := w.member("ada", "acme=read,admin.keys:create").Member()
	_, token, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "acme", Owner: ada,
		Grants: roleGrants(t, "acme=read,orders:*,admin:*")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	who := w.keyCaller(token.Reveal())
	give := w.MayGive(who, "acme")
	for _, p := range permissions(t, "read,write,orders:read,orders:write,admin.keys:create,admin.keys:read") {
		_, _, err := w.MintKey(ctx, who, manage.KeySpec{Namespace: "acme",
			Home: &keystore.Grant{Permissions: []keystore.Permission{p}}}, nil)
		if give(p) != (err == nil) {
			t.Errorf("giving %s: offered %t, %v", p, give(p), err)
		}
	}
}

// TestPermissions checks the permissions of a key, which are limited by those of its owner.
func TestPermissions(t *testing.T) {
	w := newWorld(t, "acme", "other")
	ada := w.member("ada", "acme=read,orders:search other=read")
	_, token, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "acme",
		Owner: ada.Member(), Grants: roleGrants(t, "acme=read,write other=write default=read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		who  manage.Caller
		want string
	}{
		"root":   {fleet.Root, "map[*:[* admin:*]]"},
		"member": {ada, "map[acme:[orders:search read] other:[read]]"},
		"key":    {w.keyCaller(token.Reveal()), "map[acme:[orders:search read]]"},
	} {
		if got := fmt.Sprint(w.Permissions(c.who)); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

// TestPrefixes checks the prefixes of tokens that ListPrefixes returns.
func TestPrefixes(t *testing.T) {
	w := newWorld(t)
	w.key(fleet.Root, "default", "default=read")
	w.Configure(node.Settings{TokenPrefixes: []string{"new", "next"}})
	accepted, others, err := w.ListPrefixes(ctx, fleet.Root)
	if err != nil || fmt.Sprint(accepted) != "[new next]" || len(others) != 1 ||
		others[0].Prefix != keystore.DefaultPrefix {
		t.Errorf("%v, %+v, %v", accepted, others, err)
	}
}
