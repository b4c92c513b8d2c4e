package manage_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

var ctx = context.Background()

// TestKeyMints checks which keys a key can create.
func TestKeyMints(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme", "other")
	for _, c := range []struct{ grants, home, gives, want string }{
		{"acme=admin.keys:create,read", "acme", "acme=read", "ok"},
		{"acme=admin.keys:create,read", "acme", "acme=orders:read", "ok"},
		{"acme=admin.keys:create,read", "acme", "acme=write", "exceeds_caller"},
		{"acme=admin.keys:create,read", "acme", "acme=orders:search", "exceeds_caller"},
		{"acme=admin.keys:create,read", "acme", "acme=admin.keys:create", "ok"},
		{"acme=admin.keys:create,read", "acme", "acme=admin.keys:read", "exceeds_caller"},
		{"acme=admin:*", "acme", "acme=read", "exceeds_caller"},
		{"acme=*", "acme", "acme=read", "insufficient_permission"},
		{"acme=admin.keys:create,read", "other", "other=read", "insufficient_permission"},
		// the same as for a namespace that exists
		{"acme=admin.keys:create,read", "nowhere", "nowhere=read", "insufficient_permission"},
		{"acme=admin.keys:create,read", "acme", "acme=read other=read", "exceeds_caller"},
		{"acme=admin.keys:create,read other=read", "acme", "acme=read other=read", "ok"},
		{"acme=admin.keys:create,read", "acme", "*=read", "exceeds_caller"},
		{"*=admin.keys:create,read", "acme", "*=read", "ok"},
		{"*=admin.keys:create,read", "acme", "acme+=read", "ok"},
		{"*=admin.keys:create,read", "nowhere", "nowhere=read", "invalid_fields"},
		{"acme=admin.keys:create,read", "acme", "acme+=read", "exceeds_caller"},
		{"acme+=admin.keys:create,read", "acme", "acme+=read", "ok"},
		{"acme=admin.keys:create,read,write", "acme", "acme=*", "ok"},
	} {
		who, _ := fleet.Caller(t, k, manage.KeySpec{Namespace: "acme",
			Grants: fleet.Grants(t, c.grants)})
		_, _, err := k.MintKey(ctx, who,
			manage.KeySpec{Namespace: c.home, Grants: fleet.Grants(t, c.gives)}, nil)
		if got := fleet.Code(err); got != c.want {
			t.Errorf("a key with %s creates one with %s: %s, want %s", c.grants, c.gives, got,
				c.want)
		}
	}
}

// TestCreatedKeyLimits checks that a key which a key creates expires no later and is accepted from
// no other addresses (docs/authority.md, rule 11).
func TestCreatedKeyLimits(t *testing.T) {
	k := fleet.WithNamespaces(t)
	expiry := time.Now().Add(time.Hour)
	inside, outside := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/0")
	who, _ := fleet.Caller(t, k,
		manage.KeySpec{Grants: fleet.Grants(t, "default=admin.keys:*,read"),
			ExpiresAt: expiry, AllowedIPs: []netip.Prefix{inside}})
	for _, c := range []struct {
		name       string
		expiry     time.Time
		allowedIPs []netip.Prefix
		want       string
	}{
		{"within", expiry, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, "ok"},
		{"never expires", time.Time{}, []netip.Prefix{inside}, "exceeds_caller"},
		{"expires a second later", expiry.Add(time.Second), []netip.Prefix{inside},
			"exceeds_caller"},
		{"all addresses", expiry, nil, "exceeds_caller"},
		{"more addresses", expiry, []netip.Prefix{inside, outside}, "exceeds_caller"},
		{"other addresses", expiry, []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8")},
			"exceeds_caller"},
		{"twice as many addresses", expiry, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/7")},
			"exceeds_caller"},
	} {
		_, _, err := k.MintKey(ctx, who,
			manage.KeySpec{Grants: fleet.Grants(t, "default=read"), ExpiresAt: c.expiry,
				AllowedIPs: c.allowedIPs}, nil)
		if got := fleet.Code(err); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		target, _ := fleet.Mint(t, k, manage.KeySpec{ExpiresAt: c.expiry,
			AllowedIPs: c.allowedIPs})
		_, _, _, err = k.RotateKey(ctx, who, target.ID, 0, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("rotate, %s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestKeyEdits checks how a key can edit another one.
func TestKeyEdits(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme", "other")
	on, off := true, false
	everywhere, inside := []netip.Prefix{}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	name := "n"
	gives := func(text string) *[]keystore.Grant { g := fleet.Grants(t, text); return &g }
	for _, c := range []struct {
		name, grants, target string
		patch                manage.KeyPatch
		inactive             bool
		want                 string
	}{
		{"rename", "acme=admin.keys:update", "acme=*", manage.KeyPatch{Name: &name}, false, "ok"},
		{"rename an inactive key", "acme=admin.keys:update", "acme=*",
			manage.KeyPatch{Name: &name}, true, "ok"},
		{"remove the owner", "acme=admin.keys:update,*", "acme=*",
			manage.KeyPatch{Owner: new(string)}, false, "exceeds_caller"},
		{"remove a permission", "acme=admin.keys:update", "acme=*",
			manage.KeyPatch{Grants: gives("acme=read")}, false, "ok"},
		{"keep a permission that the caller lacks, remove another", "acme=admin.keys:update",
			"acme=*,admin:*", manage.KeyPatch{Grants: gives("acme=*")}, false, "ok"},
		{"add a permission that the caller has", "acme=admin.keys:update,read", "acme=write",
			manage.KeyPatch{Grants: gives("acme=read,write")}, false, "ok"},
		{"add a permission that the caller lacks", "acme=admin.keys:update", "acme=write",
			manage.KeyPatch{Grants: gives("acme=read,write")}, false, "exceeds_caller"},
		{"connect a grant", "acme=admin.keys:update", "acme=write",
			manage.KeyPatch{Connected: &on}, false, "exceeds_caller"},
		{"add a namespace", "acme=admin.keys:update", "acme=write",
			manage.KeyPatch{Grants: gives("acme=write other=write")}, false, "exceeds_caller"},
		{"deactivate", "acme=admin.keys:update", "acme=*", manage.KeyPatch{Active: &off}, false,
			"ok"},
		{"activate", "acme=admin.keys:update", "acme=*", manage.KeyPatch{Active: &on}, true,
			"exceeds_caller"},
		{"activate with the key's permissions", "acme=admin.keys:update,*", "acme=*",
			manage.KeyPatch{Active: &on}, true, "ok"},
		{"widen addresses", "acme=admin.keys:update", "acme=*",
			manage.KeyPatch{AllowedIPs: &everywhere}, false, "exceeds_caller"},
		{"narrow addresses", "acme=admin.keys:update", "acme=*",
			manage.KeyPatch{AllowedIPs: &inside}, false, "ok"},
		{"without the permission", "acme=admin.keys:read,*", "acme=*",
			manage.KeyPatch{Name: &name}, false, "insufficient_permission"},
		{"a key that the caller may not read", "other=admin.keys:*,*", "acme=*",
			manage.KeyPatch{Name: &name}, false,
			"not_found"},
		{"a key that the caller may only read", "other=admin.keys:* acme=admin.keys:read", "acme=*",
			manage.KeyPatch{Name: &name}, false, "insufficient_permission"},
	} {
		who, _ := fleet.Caller(t, k, manage.KeySpec{Namespace: "acme",
			Grants: fleet.Grants(t, c.grants)})
		target, _, err := k.MintKey(ctx, fleet.Root,
			manage.KeySpec{Namespace: "acme", Grants: fleet.Grants(t, c.target),
				Inactive:   c.inactive,
				AllowedIPs: inside}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = k.EditKey(ctx, who, target.ID, c.patch, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestRotateRequiresAllPermissions(t *testing.T) {
	k := fleet.WithNamespaces(t)
	target, _ := fleet.Mint(t, k,
		manage.KeySpec{Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "*"}}}})
	weak, self := fleet.Caller(t, k,
		manage.KeySpec{Grants: fleet.Grants(t, "default=admin.keys:*,read")})
	strong, _ := fleet.Caller(t, k,
		manage.KeySpec{Grants: fleet.Grants(t, "default=admin.keys:*,*")})
	for _, c := range []struct {
		who  manage.Caller
		id   string
		want string
	}{{weak, target.ID, "exceeds_caller"}, {weak, self.ID, "own_key"}, {strong, target.ID, "ok"}} {
		_, _, _, err := k.RotateKey(ctx, c.who, c.id, 0, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	if _, _, err := k.RevokeKey(ctx, weak, self.ID, "leaked", false,
		manage.ChangeOptions{}); err != nil {
		t.Errorf("a key revokes itself: %v", err)
	}
	if _, _, err := k.MintKey(ctx, weak, manage.KeySpec{Grants: fleet.Grants(t, "default=read")},
		nil); fleet.Code(err) != "key_revoked" {
		t.Errorf("a revoked key creates another: %v", err)
	}
}

func TestGrowOnly(t *testing.T) {
	k := fleet.WithNamespaces(t)
	if _, err := k.CreateNamespace(ctx, fleet.Root,
		keystore.Namespace{ID: "portal", EditPolicy: keystore.EditGrowOnly}); err != nil {
		t.Fatal(err)
	}
	off := false
	key, _, err := k.MintKey(ctx, fleet.Root,
		manage.KeySpec{Namespace: "portal", Grants: fleet.Grants(t, "portal+=read,x:op")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ to, want string }{
		{"portal+=read,x:op,y:op", "ok"}, {"portal+=read,write", "ok"}, {"portal+=*", "ok"},
		{"portal=*", "grow_only"}, {"portal+=read,x:op", "grow_only"}, {"default=*", "grow_only"},
	} {
		g := fleet.Grants(t, c.to)
		if _, _, err := k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Grants: &g},
			manage.ChangeOptions{}); fleet.Code(err) != c.want {
			t.Errorf("to %s: %s, want %s", c.to, fleet.Code(err), c.want)
		}
	}
	if _, _, err := k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Errorf("deactivate: %v", err)
	}
}

// TestGrowOnlyBelow checks that a key in a grow_only namespace also keeps its permissions in the
// descendants that its grants reach.
func TestGrowOnlyBelow(t *testing.T) {
	w := newWorld(t, "top", "portal<top", "below:workspace<portal")
	grow := keystore.EditGrowOnly
	if _, _, err := w.EditNamespace(ctx, fleet.Root, "portal",
		manage.NamespacePatch{EditPolicy: &grow, Reach: &[]string{"workspace"}},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	key, _ := w.key(fleet.Root, "portal", "portal=read")
	for _, c := range []struct{ to, want string }{{"top+=read", "grow_only"},
		{"top+=read below=read", "ok"}, {"*=read", "ok"}} {
		g := roleGrants(t, c.to)
		if _, _, err := w.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Grants: &g},
			manage.ChangeOptions{}); fleet.Code(err) != c.want {
			t.Errorf("to %s: %s, want %s", c.to, fleet.Code(err), c.want)
		}
	}
}

// TestGrowOnlyRoles checks that no edit of a role removes a permission from a key in a grow_only
// namespace, and that the refusal names only keys that the caller may read.
func TestGrowOnlyRoles(t *testing.T) {
	w := newWorld(t, "acme", "portal")
	grow := keystore.EditGrowOnly
	if _, _, err := w.EditNamespace(ctx, fleet.Root, "portal",
		manage.NamespacePatch{EditPolicy: &grow}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	w.role("*", "held", "read,x:op")
	w.role("*", "free", "read,x:op")
	key, _ := w.key(fleet.Root, "portal", "portal=@held,z:op")
	name := "shop"
	if _, _, err := w.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: &name},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	w.key(fleet.Root, "acme", "acme=@held,@free")
	blind := w.member("blind", "*=*,admin.roles:*")
	for _, c := range []struct {
		who      manage.Caller
		role, to string
		want     string
	}{
		{fleet.Root, "held", "x:op", "grow_only"},
		{blind, "held", "x:op", "grow_only"},
		{fleet.Root, "held", "read,x:op,y:op", "ok"},
		{fleet.Root, "held", "read,y:op", "grow_only"},
		{fleet.Root, "held", "read,x:*,y:*", "ok"}, // covers what it replaces
		{fleet.Root, "free", "x:op", "ok"},
	} {
		_, _, err := w.EditRole(ctx, c.who, keystore.RoleID{Namespace: "*", Name: c.role},
			manage.RolePatch{Permissions: permissions(t, c.to)}, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("role %s to %s: %v, want %s", c.role, c.to, err, c.want)
		}
		refused, is := errors.AsType[*keystore.Error](err)
		if !is {
			continue
		}
		if named := len(refused.Fields) == 1 &&
			strings.Contains(refused.Fields[0].Detail,
				fmt.Sprintf("key %q (%s)", name, key.ID)); named != (c.who == fleet.Root) {
			t.Errorf("role %s to %s: %+v", c.role, c.to, refused.Fields)
		}
	}
	for range 25 {
		w.key(fleet.Root, "portal", "portal=@held")
	}
	_, _, err := w.EditRole(ctx, fleet.Root, keystore.RoleID{Namespace: "*", Name: "held"},
		manage.RolePatch{Permissions: permissions(t, "y:op")}, manage.ChangeOptions{})
	if refused, is := errors.AsType[*keystore.Error](err); !is || len(refused.Fields) != 20 {
		t.Errorf("of many keys: %v", err)
	}
}

func TestKeyRoles(t *testing.T) {
	k := fleet.WithNamespaces(t)
	for _, name := range []string{"member", "other"} {
		if _, err := k.CreateRole(ctx, fleet.Root,
			keystore.Role{Namespace: keystore.AnyNamespace, Name: name,
				Permissions: fleet.Grants(t, "x=read")[0].Permissions}); err != nil {
			t.Fatal(err)
		}
	}
	for id, roles := range map[string][]string{"exactly": {"member"}, "some": {keystore.AnyRole},
		"any": nil} {
		if _, err := k.CreateNamespace(ctx, fleet.Root,
			keystore.Namespace{ID: id, KeyRoles: roles}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.CreateNamespace(ctx, fleet.Root,
		keystore.Namespace{ID: "both",
			KeyRoles: []string{keystore.AnyRole, "member"}}); fleet.Code(err) != "invalid_fields" {
		t.Errorf("key_roles with * and another: %s", fleet.Code(err))
	}
	for _, c := range []struct{ namespace, roles, minted, edited string }{
		{"exactly", "", "member", "member"}, {"exactly", "member", "member", "member"},
		{"exactly", "other", "", ""}, {"exactly", "member other", "", ""},
		{"some", "", "", ""}, {"some", "member", "member", "member"},
		{"some", "member other", "member other", "member other"},
		{"any", "", "none", "none"}, {"any", "other", "other", "other"},
	} {
		roles := strings.Fields(c.roles)
		is := func(key *keystore.Key, err error) string {
			switch {
			case fleet.Code(err) == "invalid_fields":
				return ""
			case err != nil:
				t.Fatal(err)
			case key.HomeGrant() == nil || len(key.HomeGrant().Roles) == 0:
				return "none"
			}
			return strings.Join(key.HomeGrant().Roles, " ")
		}
		key, _, err := k.MintKey(ctx, fleet.Root,
			manage.KeySpec{Namespace: c.namespace,
				Home: &keystore.Grant{Roles: roles,
					Permissions: fleet.Grants(t, "x=write")[0].Permissions}}, nil)
		if got := is(key, err); got != c.minted {
			t.Errorf("minted in %s with %q: %q, want %q", c.namespace, roles, got, c.minted)
		}
		key, _, err = k.MintKey(ctx, fleet.Root,
			manage.KeySpec{Namespace: c.namespace,
				Home:   &keystore.Grant{Roles: []string{"member"}},
				Grants: fleet.Grants(t, "default=read")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		key, _, err = k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Roles: &roles},
			manage.ChangeOptions{})
		if got := is(key, err); got != c.edited {
			t.Errorf("edited in %s to %q: %q, want %q", c.namespace, roles, got, c.edited)
		}
	}
	elsewhere := fleet.Grants(t, "any=read")
	key, _, err := k.MintKey(ctx, fleet.Root,
		manage.KeySpec{Namespace: "exactly", Grants: elsewhere}, nil)
	if err != nil || key.HomeGrant() == nil || len(key.HomeGrant().Roles) != 1 {
		t.Errorf("a key without a home grant does not get the required role: %+v, %v", key, err)
	}
	if _, _, err := k.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "some", Grants: elsewhere},
		nil); fleet.Code(err) != "invalid_fields" {
		t.Errorf("a key without a home grant, where a role is required: %s", fleet.Code(err))
	}
}

func TestSecretsOfARotatedKey(t *testing.T) {
	k := fleet.WithNamespaces(t)
	key, first := fleet.Mint(t, k, manage.KeySpec{ExpiresAt: time.Now().Add(time.Hour)})
	rotate := func(grace time.Duration) string {
		_, token, _, err := k.RotateKey(ctx, fleet.Root, key.ID, grace, manage.ChangeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return token.Reveal()
	}
	second := rotate(2 * time.Hour)
	fleet.Want(t, "the old token during the grace period", fleet.Ask(k, first), keystore.OK)
	fleet.Want(t, "the new token", fleet.Ask(k, second), keystore.OK)
	found, err := k.FindKey(ctx, fleet.Root, key.ID)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(found.Secrets); n != 2 || !found.Secrets[1].ExpiresAt.Equal(found.ExpiresAt) {
		t.Errorf("%d secrets, the old one until %v; the key expires at %v", n,
			found.Secrets[n-1].ExpiresAt, found.ExpiresAt)
	}
	third := rotate(time.Minute)
	if found, err = k.FindKey(ctx, fleet.Root, key.ID); err != nil || len(found.Secrets) != 2 ||
		!found.Secrets[1].ExpiresAt.Before(found.ExpiresAt) {
		t.Errorf("after a grace period of a minute: %+v, %v", found, err)
	}
	fleet.Want(t, "the oldest token after a second rotation", fleet.Ask(k, first), keystore.Rotated)
	fleet.Want(t, "the previous token", fleet.Ask(k, second), keystore.OK)
	fleet.Want(t, "the newest token", fleet.Ask(k, third), keystore.OK)
	for _, grace := range []time.Duration{-1, manage.MaxGrace + 1} {
		if _, _, _, err := k.RotateKey(ctx, fleet.Root, key.ID, grace,
			manage.ChangeOptions{}); fleet.Code(err) != "invalid_fields" {
			t.Errorf("grace %v: %v", grace, err)
		}
	}
}

func TestRevokedIsFinal(t *testing.T) {
	k := fleet.WithNamespaces(t)
	key, token := fleet.Mint(t, k, manage.KeySpec{})
	first, _, err := k.RevokeKey(ctx, fleet.Root, key.ID, "leaked", false, manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again, p, err := k.RevokeKey(ctx, fleet.Root, key.ID, "another reason", false,
		manage.ChangeOptions{})
	if err != nil || again.RevokeReason != "leaked" || again.Version != first.Version ||
		!p.Complete {
		t.Errorf("again: %+v %+v %v", again, p, err)
	}
	on := true
	_, _, edit := k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &on},
		manage.ChangeOptions{})
	_, _, _, rotate := k.RotateKey(ctx, fleet.Root, key.ID, 0, manage.ChangeOptions{})
	if fleet.Code(edit) != "revoked" || fleet.Code(rotate) != "revoked" {
		t.Errorf("edit: %v, rotate: %v", edit, rotate)
	}
	if _, _, err := k.DeleteKey(ctx, fleet.Root, key.ID, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	fleet.Want(t, "deleted", fleet.Ask(k, token), keystore.Unknown)
	_, refused, err := k.ImportKeys(ctx, fleet.Root,
		[]manage.ImportSpec{{KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
			Line: 1, Token: token}}, false, nil)
	if err != nil || len(refused) != 1 || refused[0].Code != "already_used" {
		t.Errorf("an import of the token: %v %v", refused, err)
	}
	fleet.Want(t, "imported", fleet.Ask(k, token), keystore.Unknown)
}

func TestRevokeCreatedKeys(t *testing.T) {
	k := fleet.WithNamespaces(t)
	who, key := fleet.Caller(t, k,
		manage.KeySpec{Grants: fleet.Grants(t, "default=admin.keys:*,read")})
	_, token, err := k.MintKey(ctx, who,
		manage.KeySpec{Grants: fleet.Grants(t, "default=admin.keys:create,read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Lookup(ctx, token.Reveal(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, grandchild, err := k.MintKey(ctx, manage.KeyCaller(a.Record, ""),
		manage.KeySpec{Grants: fleet.Grants(t, "default=read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, bystander := fleet.Mint(t, k, manage.KeySpec{})
	if _, _, err := k.RevokeKey(ctx, fleet.Root, key.ID, "", true,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	fleet.Want(t, "created by it", fleet.Ask(k, token.Reveal()), keystore.Revoked)
	fleet.Want(t, "created by a key that it created", fleet.Ask(k, grandchild.Reveal()),
		keystore.Revoked)
	fleet.Want(t, "created by another", fleet.Ask(k, bystander), keystore.OK)
}

// TestRevokeCreatedWaits checks that revoking a key with the keys that it created waits for every
// node, also if it created none.
func TestRevokeCreatedWaits(t *testing.T) {
	for _, creates := range []bool{false, true} {
		w := newWorld(t)
		_, silent := w.fleet.Node(node.Settings{})
		key, token := w.key(fleet.Root, "default", "default=read,admin.keys:create")
		if creates {
			w.key(w.keyCaller(token), "default", "default=read")
		}
		silent.Mute.Store(true)
		_, p, err := w.RevokeKey(ctx, fleet.Root, key.ID, "", true, manage.ChangeOptions{Wait: -1})
		if err != nil || p.Complete || p.Revision == 0 {
			t.Errorf("with a silent node: %+v, %v", p, err)
		}
		silent.Mute.Store(false)
		_, p, err = w.RevokeKey(ctx, fleet.Root, key.ID, "", true, manage.ChangeOptions{})
		if err != nil || !p.Complete {
			t.Errorf("with all nodes: %+v, %v", p, err)
		}
	}
}

// recorded is a [manage.Once] that records its calls and can fail.
type recorded struct {
	actor, created string
	before, after  error
}

func (o *recorded) Before(_ keystore.Tx, actor string) error {
	o.actor = actor
	return o.before
}

func (o *recorded) After(_ keystore.Tx, actor, created string) error {
	o.actor, o.created = o.actor+" "+actor, created
	return o.after
}

// TestOnce checks that a change is made only if both methods of its Once succeed.
func TestOnce(t *testing.T) {
	k := fleet.WithNamespaces(t)
	who, creator := fleet.Caller(t, k, manage.KeySpec{Grants: fleet.Grants(t,
		"default=admin.keys:create,read")})
	spec := manage.KeySpec{Grants: fleet.Grants(t, "default=read")}
	changes := map[string]func(manage.Once) (id string, err error){
		"mint": func(once manage.Once) (string, error) {
			key, _, err := k.MintKey(ctx, who, spec, once)
			if err != nil {
				return "", err
			}
			return key.ID, nil
		},
		"import": func(once manage.Once) (string, error) {
			specs := []manage.ImportSpec{{KeySpec: spec, Line: 1, Token: rand.Text()}}
			_, _, err := k.ImportKeys(ctx, who, specs, false, once)
			return specs[0].ID, err
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			once := new(recorded)
			if id, err := change(once); err != nil || once.created != id ||
				once.actor != creator.ID+" "+creator.ID {
				t.Errorf("id %q, error %v, calls %+v", id, err, once)
			}
			refusal := &keystore.Error{Kind: keystore.KindConflict, Code: "repeat"}
			for _, once := range []*recorded{{before: refusal}, {after: refusal}} {
				before := keyCount(t, k)
				if _, err := change(once); !errors.Is(err, refusal) {
					t.Errorf("got error %v, want %v", err, refusal)
				}
				if n := keyCount(t, k); n != before {
					t.Errorf("%d keys, want %d", n, before)
				}
			}
		})
	}
}

func keyCount(t *testing.T, k *manage.Keystore) int {
	t.Helper()
	list, _, err := k.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestFieldErrors checks that a refusal names the invalid field.
func TestFieldErrors(t *testing.T) {
	k := fleet.WithNamespaces(t)
	many := make([]keystore.Permission, 501)
	for i := range many {
		many[i] = keystore.Permission{Resource: fmt.Sprintf("r%d", i), Action: "read"}
	}
	home := &keystore.Grant{Permissions: fleet.Read}
	_, token := fleet.Mint(t, fleet.WithNamespaces(t), manage.KeySpec{})
	manyRoles := make([]string, 51)
	for i := range manyRoles {
		manyRoles[i] = fmt.Sprint("r", i)
	}
	for field, spec := range map[string]manage.KeySpec{
		"name":                    {Home: home, Name: strings.Repeat("é", 201)},
		"name, not UTF-8":         {Home: home, Name: "a\xff"},
		"name, a token":           {Home: home, Name: "for " + token},
		"metadata, a token":       {Home: home, Metadata: map[string]string{token: "x"}},
		"metadata, only a token":  {Home: home, Metadata: map[string]string{token: ""}},
		"metadata, not UTF-8":     {Home: home, Metadata: map[string]string{"a\xff": "x"}},
		"metadata, a control":     {Home: home, Metadata: map[string]string{"a\x07": "x"}},
		"metadata, an empty name": {Home: home, Metadata: map[string]string{"": "x"}},
		"metadata.x, a token":     {Home: home, Metadata: map[string]string{"x": token}},
		"expires_at, too late":    {Home: home, ExpiresAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"grants, too many":        {Grants: make([]keystore.Grant, 101)},
		"roles, too many":         {Home: &keystore.Grant{Roles: manyRoles}},
		"metadata.team":           {Home: home, Metadata: map[string]string{"team": "a\x00b"}},
		"metadata": {Home: home,
			Metadata: map[string]string{"x": strings.Repeat("y", 4096)}},
		"allowed_ips[0]": {Home: home, AllowedIPs: []netip.Prefix{{}}},
		"expires_at":     {Home: home, ExpiresAt: time.Now().Add(-time.Second)},
		"owner":          {Home: home, Owner: "m_nobody"},
		"permissions":    {},
		"roles": {Home: &keystore.Grant{Permissions: fleet.Read,
			Roles: []string{"billing"}}},
		"grants[0].namespace":      {Home: home, Grants: fleet.Grants(t, "default=write")},
		"grants[0].namespace, too": {Grants: fleet.Grants(t, "nowhere=write")},
		"namespace":                {Home: home, Namespace: "nowhere"},
		"permissions, too many":    {Home: &keystore.Grant{Permissions: many}},
		"permissions, a token": {Home: &keystore.Grant{
			Permissions: []keystore.Permission{{Resource: "r", Action: token}}}},
	} {
		_, _, err := k.MintKey(ctx, fleet.Root, spec, nil)
		var e *keystore.Error
		name, _, _ := strings.Cut(field, ",")
		if !errors.As(err, &e) || e.Kind != keystore.KindInvalid || len(e.Fields) != 1 ||
			e.Fields[0].Field != name {
			t.Errorf("%s: %v", field, err)
		}
	}
	// The largest values are valid.
	if _, _, err := k.MintKey(ctx, fleet.Root, manage.KeySpec{Name: strings.Repeat("é", 200),
		Home:      &keystore.Grant{Permissions: many[:500]},
		Metadata:  map[string]string{"x": strings.Repeat("y", 4095)},
		ExpiresAt: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}, nil); err != nil {
		t.Error(err)
	}
	if keys, _, err := k.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 10); err != nil ||
		len(keys) != 1 {
		t.Errorf("a refused key was created: %v %v", keys, err)
	}
}

func TestDeleteNamespaceInUse(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme", "other")
	key, _ := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme",
		Grants: fleet.Grants(t, "other=read")})
	for id, want := range map[string]string{"acme": "in_use", "other": "in_use",
		"default": "in_use", "nowhere": "not_found"} {
		if _, _, err := k.DeleteNamespace(ctx, fleet.Root, id,
			manage.ChangeOptions{}); fleet.Code(err) != want {
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
	fleet.Revoke(t, k, key.ID, 0)
	if _, _, err := k.DeleteKey(ctx, fleet.Root, key.ID, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"acme", "other"} {
		if _, _, err := k.DeleteNamespace(ctx, fleet.Root, id, manage.ChangeOptions{}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if k.Policy().Namespace(id) != nil {
			t.Errorf("%s is still known", id)
		}
	}
	for _, id := range []string{"", "home", "*", "-a", "a/b", strings.Repeat("a", 65), "default"} {
		if _, err := k.CreateNamespace(ctx, fleet.Root, keystore.Namespace{ID: id}); err == nil {
			t.Errorf("namespace %q was created", id)
		}
	}
}

func TestVerifyUnreadableKey(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme", "other")
	_, token := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme",
		Grants:     fleet.Grants(t, "acme=orders:search"),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	who, _ := fleet.Caller(t, k, manage.KeySpec{Namespace: "other",
		Grants: fleet.Grants(t, "other=admin.keys:read")})
	for _, c := range []struct {
		who                   manage.Caller
		namespace, permission string
		want                  keystore.Outcome
	}{
		{fleet.Root, "acme", "orders:search", keystore.OK},
		{fleet.Root, "", "orders:search", keystore.OK},
		{fleet.Root, "acme", "read", keystore.Forbidden},
		{fleet.Root, "other", "orders:search", keystore.Forbidden},
		{fleet.Root, "nowhere", "orders:search", keystore.Forbidden},
		{who, "acme", "orders:search", keystore.Unknown},
	} {
		v, err := k.Verify(ctx, c.who, token,
			manage.VerifyRequest{Namespace: c.namespace, Permission: c.permission})
		if err != nil || v.Outcome != c.want || (v.Key != nil) != (c.want != keystore.Unknown) {
			t.Errorf("%s %s: %+v %v", c.namespace, c.permission, v, err)
		}
	}
}

// TestVerifyForgedDerived: anyone who has seen a derived token can forge one that names its key. The
// outcome does not show whether the key exists.
func TestVerifyForgedDerived(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme", "other")
	_, token := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme"})
	who, _ := fleet.Caller(t, k, manage.KeySpec{Namespace: "other",
		Grants: fleet.Grants(t, "other=admin.keys:read")})
	for _, named := range []string{token, "no-key-has-this"} {
		derived := deriveFrom(t, named, "")
		forged := derived[:len(derived)-86] + strings.Repeat("A", 86)
		v, err := k.Verify(ctx, who, forged, manage.VerifyRequest{})
		if err != nil || v.Outcome != keystore.Malformed {
			t.Errorf("a forged derived token: %+v %v", v, err)
		}
	}
}

// TestVerifyAddress checks addresses: if the request names none, any that both the key and a derived
// token accept is enough.
func TestVerifyAddress(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme")
	for _, c := range []struct {
		key, derived, client string
		want                 keystore.Outcome
	}{
		{"10.0.0.0/8", "", "", keystore.OK},
		{"10.0.0.0/8", "", "192.0.2.1", keystore.Address},
		{"", "192.0.2.1/32", "", keystore.OK},
		{"", "192.0.2.1/32", "192.0.2.2", keystore.Address},
		{"10.0.0.0/8", "192.0.2.1/32 10.1.0.0/16", "", keystore.OK},
		{"192.0.2.1/32 10.1.0.0/16", "10.0.0.0/8", "", keystore.OK},
		{"10.0.0.0/8", "192.0.2.1/32", "", keystore.Address},
		{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", keystore.OK},
		{"10.0.0.0/8", "10.1.0.0/16", "10.2.0.1", keystore.Address},
	} {
		_, token := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme",
			AllowedIPs: prefixes(c.key)})
		if c.derived != "" {
			var err error
			if token, err = keystore.Derive(token, keystore.Caveats{
				ExpiresAt: time.Now().Add(time.Hour), AllowedIPs: prefixes(c.derived),
			}); err != nil {
				t.Fatal(err)
			}
		}
		r := manage.VerifyRequest{}
		if c.client != "" {
			r.Client = netip.MustParseAddr(c.client)
		}
		if v, err := k.Verify(ctx, fleet.Root, token, r); err != nil || v.Outcome != c.want {
			t.Errorf("a key for %q, a token for %q and the client %q: %v %v, want %v", c.key,
				c.derived, c.client, v.Outcome, err, c.want)
		}
	}
}

func prefixes(list string) (all []netip.Prefix) {
	for text := range strings.FieldsSeq(list) {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestVerifiedPermissions checks which permission of a key allows a verified one. An operation, or
// everything on a resource, is not allowed by a class.
func TestVerifiedPermissions(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme")
	for _, c := range []struct {
		grants, permission string
		want               keystore.Outcome
	}{
		{"acme=read", "orders:read", keystore.OK},
		{"acme=read", "orders:write", keystore.Forbidden},
		{"acme=read", "orders:search", keystore.Forbidden},
		{"acme=read", "orders:*", keystore.Forbidden},
		{"acme=write", "orders:*", keystore.Forbidden},
		{"acme=write", "orders:write", keystore.OK},
		{"acme=orders:*", "orders:*", keystore.OK},
		{"acme=*", "orders:*", keystore.OK},
	} {
		_, token := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme",
			Grants: fleet.Grants(t, c.grants)})
		v, err := k.Verify(ctx, fleet.Root, token, manage.VerifyRequest{Permission: c.permission})
		if err != nil || v.Outcome != c.want || v.Needed != c.permission {
			t.Errorf("%s with %s: %+v, %v; want %v", c.permission, c.grants, v, err, c.want)
		}
	}
}

func TestUnreadableIsNotFound(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme", "other")
	there, _ := fleet.Mint(t, k, manage.KeySpec{Namespace: "other"})
	here, _ := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme"})
	who, self := fleet.Caller(t, k, manage.KeySpec{Namespace: "acme",
		Grants: fleet.Grants(t, "acme=admin.keys:*")})
	_, hidden := k.FindKey(ctx, who, there.ID)
	_, absent := k.FindKey(ctx, who, keystore.NewID())
	if fleet.Code(hidden) != "not_found" || hidden.Error() != absent.Error() {
		t.Errorf("hidden: %v; absent: %v", hidden, absent)
	}
	keys, _, err := k.ListKeys(ctx, who, keystore.KeyFilter{}, "", 100)
	if err != nil || len(keys) != 2 || keys[0].ID != self.ID || keys[1].ID != here.ID {
		t.Errorf("%v %v", keys, err)
	}
	if keys, _, err = k.ListKeys(ctx, who, keystore.KeyFilter{Namespaces: []string{"other"}}, "",
		100); err != nil || len(keys) != 0 {
		t.Errorf("%v %v", keys, err)
	}
}

// TestWidenedKeyLimits checks that the limits for a key that a key creates also apply to one that
// it widens (docs/authority.md, rule 11).
func TestWidenedKeyLimits(t *testing.T) {
	k := fleet.WithNamespaces(t)
	inside := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	who, _ := fleet.Caller(t, k, manage.KeySpec{Grants: fleet.Grants(t, "default=admin.keys:*,*"),
		ExpiresAt: time.Now().Add(time.Hour), AllowedIPs: inside})
	target, _ := fleet.Mint(t, k, manage.KeySpec{})
	more, less := fleet.Grants(t, "default=read,write"), fleet.Grants(t, "default=orders:read")
	for _, c := range []struct {
		to   *[]keystore.Grant
		want string
	}{{&more, "exceeds_caller"}, {&less, "ok"}} {
		if _, _, err := k.EditKey(ctx, who, target.ID, manage.KeyPatch{Grants: c.to},
			manage.ChangeOptions{}); fleet.Code(err) != c.want {
			t.Errorf("to %v: %v, want %s", *c.to, err, c.want)
		}
	}
}

func TestFieldLimits(t *testing.T) {
	k := fleet.WithNamespaces(t)
	home := &keystore.Grant{Permissions: fleet.Read}
	many := make([]netip.Prefix, 257)
	for i := range many {
		many[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
	}
	if _, _, err := k.MintKey(ctx, fleet.Root, manage.KeySpec{Home: home, AllowedIPs: many},
		nil); fleet.Code(err) != "invalid_fields" {
		t.Errorf("257 addresses: %v", err)
	}
	if _, err := keystore.ParsePermission(strings.Repeat("a", 196) + ":read"); err == nil {
		t.Error("a permission of 201 characters")
	}
	wrong := make([]keystore.Grant, 100)
	for i := range wrong {
		wrong[i] = keystore.Grant{Namespace: fmt.Sprintf("n%d", i), Permissions: fleet.Read}
		if i < 50 {
			wrong[i].Roles = []string{"a"}
		}
	}
	_, _, err := k.MintKey(ctx, fleet.Root, manage.KeySpec{Grants: wrong}, nil)
	var e *keystore.Error
	if !errors.As(err, &e) || len(e.Fields) != 100 {
		t.Errorf("%d fields are named", len(e.Fields))
	}
	who, _ := fleet.Caller(t, k, manage.KeySpec{Grants: fleet.Grants(t,
		"default=admin.keys:*,read")})
	if _, _, err := k.ImportKeys(ctx, who, make([]manage.ImportSpec, manage.MaxImport+1), false,
		nil); fleet.Code(err) != "too_many" {
		t.Errorf("an import of too many keys: %v", err)
	}
	invalid := make([]manage.ImportSpec, manage.MaxImport+1)
	for i := range invalid {
		invalid[i].Err = &keystore.Error{Code: "invalid"}
	}
	if _, refused, err := k.ImportKeys(ctx, fleet.Root, invalid, false, nil); err != nil ||
		len(refused) != len(invalid) {
		t.Errorf("the same by root: %d refused, %v", len(refused), err)
	}
}
