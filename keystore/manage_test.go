package keystore_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

var ctx = context.Background()

// grants reads "ns=perm,perm" and "ns+=perm" (connected), separated by spaces.
func grants(t testing.TB, text string) (list []keystore.Grant) {
	t.Helper()
	for word := range strings.FieldsSeq(text) {
		ns, ps, _ := strings.Cut(word, "=")
		g := keystore.Grant{Namespace: strings.TrimSuffix(ns, "+"),
			Connected: strings.HasSuffix(ns, "+")}
		for p := range strings.SplitSeq(ps, ",") {
			permission, err := keystore.ParsePermission(p)
			if err != nil {
				t.Fatal(err)
			}
			g.Permissions = append(g.Permissions, permission)
		}
		list = append(list, g)
	}
	return list
}

// caller mints a key that manages and returns it as a caller.
func caller(
	t testing.TB, k *keystore.Keystore, spec keystore.KeySpec,
) (keystore.Caller, *keystore.Key) {
	t.Helper()
	key, token, err := k.MintKey(ctx, root, spec, "")
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Lookup(ctx, token.Reveal(), time.Now())
	if err != nil || a.Outcome != keystore.OK {
		t.Fatal(a.Outcome, err)
	}
	return keystore.KeyCaller(a.Record, "test"), key
}

func withNamespaces(t testing.TB, ids ...string) *keystore.Keystore {
	t.Helper()
	k, _ := newDeployment(t).node(keystore.Settings{})
	for _, id := range ids {
		if _, err := k.CreateNamespace(ctx, root, keystore.Namespace{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func code(err error) string {
	var e *keystore.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return e.Code
	}
	return err.Error()
}

func TestWhatAKeyMayMint(t *testing.T) {
	k := withNamespaces(t, "acme", "other")
	for _, c := range []struct{ holds, home, gives, want string }{
		{"acme=admin.keys:create,read", "acme", "acme=read", "ok"},
		{"acme=admin.keys:create,read", "acme", "acme=orders:read", "ok"},
		{"acme=admin.keys:create,read", "acme", "acme=write", "exceeds_caller"},
		{"acme=admin.keys:create,read", "acme", "acme=orders:search", "exceeds_caller"},
		{"acme=admin.keys:create,read", "acme", "acme=admin.keys:create", "ok"},
		{"acme=admin.keys:create,read", "acme", "acme=admin.keys:read", "exceeds_caller"},
		{"acme=admin:*", "acme", "acme=read", "exceeds_caller"},
		{"acme=*", "acme", "acme=read", "insufficient_permission"},
		{"acme=admin.keys:create,read", "other", "other=read", "insufficient_permission"},
		// not told from one that exists
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
		who, _ := caller(t, k, keystore.KeySpec{Namespace: "acme", Grants: grants(t, c.holds)})
		_, _, err := k.MintKey(ctx, who,
			keystore.KeySpec{Namespace: c.home, Grants: grants(t, c.gives)}, "")
		if got := code(err); got != c.want {
			t.Errorf("who holds %s gives %s: %s, want %s", c.holds, c.gives, got, c.want)
		}
	}
}

func TestAKeyMakesNoneThatOutlivesItOrWorksElsewhere(t *testing.T) {
	k := withNamespaces(t)
	end := time.Now().Add(time.Hour)
	inside, outside := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/0")
	who, _ := caller(t, k, keystore.KeySpec{Grants: grants(t, "default=admin.keys:*,read"),
		ExpiresAt: end, AllowedIPs: []netip.Prefix{inside}})
	for _, c := range []struct {
		name  string
		end   time.Time
		where []netip.Prefix
		want  string
	}{
		{"within", end, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, "ok"},
		{"forever", time.Time{}, []netip.Prefix{inside}, "exceeds_caller"},
		{"a second longer", end.Add(time.Second), []netip.Prefix{inside}, "exceeds_caller"},
		{"from anywhere", end, nil, "exceeds_caller"},
		{"from a wider net", end, []netip.Prefix{inside, outside}, "exceeds_caller"},
	} {
		_, _, err := k.MintKey(ctx, who,
			keystore.KeySpec{Grants: grants(t, "default=read"), ExpiresAt: c.end,
				AllowedIPs: c.where}, "")
		if got := code(err); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestWhatAKeyMayChange(t *testing.T) {
	k := withNamespaces(t, "acme", "other")
	on, off := true, false
	everywhere, inside := []netip.Prefix{}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	name := "n"
	gives := func(text string) *[]keystore.Grant { g := grants(t, text); return &g }
	for _, c := range []struct {
		name, holds, target string
		patch               keystore.KeyPatch
		inactive            bool
		want                string
	}{
		{"rename", "acme=admin.keys:update", "acme=*", keystore.KeyPatch{Name: &name}, false, "ok"},
		{"take away", "acme=admin.keys:update", "acme=*",
			keystore.KeyPatch{Grants: gives("acme=read")}, false, "ok"},
		{"keep what one does not hold, take another away", "acme=admin.keys:update",
			"acme=*,admin:*", keystore.KeyPatch{Grants: gives("acme=*")}, false, "ok"},
		{"add what one holds", "acme=admin.keys:update,read", "acme=write",
			keystore.KeyPatch{Grants: gives("acme=read,write")}, false, "ok"},
		{"add what one does not hold", "acme=admin.keys:update", "acme=write",
			keystore.KeyPatch{Grants: gives("acme=read,write")}, false, "exceeds_caller"},
		{"reach further with what it has", "acme=admin.keys:update", "acme=write",
			keystore.KeyPatch{Connected: &on}, false, "exceeds_caller"},
		{"another namespace", "acme=admin.keys:update", "acme=write",
			keystore.KeyPatch{Grants: gives("acme=write other=write")}, false, "exceeds_caller"},
		{"inactivate", "acme=admin.keys:update", "acme=*", keystore.KeyPatch{Active: &off}, false,
			"ok"},
		{"activate", "acme=admin.keys:update", "acme=*", keystore.KeyPatch{Active: &on}, true,
			"exceeds_caller"},
		{"activate what one holds", "acme=admin.keys:update,*", "acme=*",
			keystore.KeyPatch{Active: &on}, true, "ok"},
		{"widen addresses", "acme=admin.keys:update", "acme=*",
			keystore.KeyPatch{AllowedIPs: &everywhere}, false, "exceeds_caller"},
		{"narrow addresses", "acme=admin.keys:update", "acme=*",
			keystore.KeyPatch{AllowedIPs: &inside}, false, "ok"},
		{"without the permission", "acme=admin.keys:read,*", "acme=*",
			keystore.KeyPatch{Name: &name}, false, "insufficient_permission"},
		{"elsewhere", "other=admin.keys:*,*", "acme=*", keystore.KeyPatch{Name: &name}, false,
			"not_found"},
		{"elsewhere but readable", "other=admin.keys:* acme=admin.keys:read", "acme=*",
			keystore.KeyPatch{Name: &name}, false, "insufficient_permission"},
	} {
		who, _ := caller(t, k, keystore.KeySpec{Namespace: "acme", Grants: grants(t, c.holds)})
		target, _, err := k.MintKey(ctx, root,
			keystore.KeySpec{Namespace: "acme", Grants: grants(t, c.target), Inactive: c.inactive,
				AllowedIPs: inside}, "")
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = k.EditKey(ctx, who, target.ID, c.patch, keystore.ChangeOptions{})
		if got := code(err); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestRotatingAKeyTakesAllItHas(t *testing.T) {
	k := withNamespaces(t)
	target, _ := mint(t, k,
		keystore.KeySpec{Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "*"}}}})
	weak, self := caller(t, k, keystore.KeySpec{Grants: grants(t, "default=admin.keys:*,read")})
	strong, _ := caller(t, k, keystore.KeySpec{Grants: grants(t, "default=admin.keys:*,*")})
	for _, c := range []struct {
		who  keystore.Caller
		id   string
		want string
	}{{weak, target.ID, "exceeds_caller"}, {weak, self.ID, "own_key"}, {strong, target.ID, "ok"}} {
		_, _, _, err := k.RotateKey(ctx, c.who, c.id, 0, keystore.ChangeOptions{})
		if got := code(err); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	if _, _, err := k.RevokeKey(ctx, weak, self.ID, "leaked", false,
		keystore.ChangeOptions{}); err != nil {
		t.Errorf("a key may revoke itself: %v", err)
	}
	if _, _, err := k.MintKey(ctx, weak, keystore.KeySpec{Grants: grants(t, "default=read")},
		""); code(err) != "key_revoked" {
		t.Errorf("a request under way of a key that has been revoked: %v", err)
	}
}

func TestGrowOnly(t *testing.T) {
	k := withNamespaces(t)
	if _, err := k.CreateNamespace(ctx, root,
		keystore.Namespace{ID: "portal", EditPolicy: keystore.EditGrowOnly}); err != nil {
		t.Fatal(err)
	}
	off := false
	key, _, err := k.MintKey(ctx, root,
		keystore.KeySpec{Namespace: "portal", Grants: grants(t, "portal+=read,x:op")}, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ to, want string }{
		{"portal+=read,x:op,y:op", "ok"}, {"portal+=read,write", "ok"}, {"portal+=*", "ok"},
		{"portal=*", "grow_only"}, {"portal+=read,x:op", "grow_only"}, {"default=*", "grow_only"},
	} {
		g := grants(t, c.to)
		if _, _, err := k.EditKey(ctx, root, key.ID, keystore.KeyPatch{Grants: &g},
			keystore.ChangeOptions{}); code(err) != c.want {
			t.Errorf("to %s: %s, want %s", c.to, code(err), c.want)
		}
	}
	if _, _, err := k.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: &off},
		keystore.ChangeOptions{}); err != nil {
		t.Errorf("inactivating still cuts: %v", err)
	}
}

// A connected grant in the parent covers what a grant in the namespace gives there, but reaches no
// further down.
func TestGrowOnlyBelow(t *testing.T) {
	w := newWorld(t, "top", "portal<top", "below:workspace<portal")
	grow := keystore.EditGrowOnly
	if _, _, err := w.EditNamespace(ctx, root, "portal",
		keystore.NamespacePatch{EditPolicy: &grow, Reach: &[]string{"workspace"}},
		keystore.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	key, _ := w.key(root, "portal", "portal=read")
	for _, c := range []struct{ to, want string }{{"top+=read", "grow_only"},
		{"top+=read below=read", "ok"}, {"*=read", "ok"}} {
		g := roleGrants(t, c.to)
		if _, _, err := w.EditKey(ctx, root, key.ID, keystore.KeyPatch{Grants: &g},
			keystore.ChangeOptions{}); code(err) != c.want {
			t.Errorf("to %s: %s, want %s", c.to, code(err), c.want)
		}
	}
}

func TestKeyRoles(t *testing.T) {
	k := withNamespaces(t)
	for _, name := range []string{"member", "other"} {
		if _, err := k.CreateRole(ctx, root,
			keystore.Role{Namespace: keystore.AnyNamespace, Name: name,
				Permissions: grants(t, "x=read")[0].Permissions}); err != nil {
			t.Fatal(err)
		}
	}
	for id, roles := range map[string][]string{"exactly": {"member"}, "some": {keystore.AnyRole},
		"any": nil} {
		if _, err := k.CreateNamespace(ctx, root,
			keystore.Namespace{ID: id, KeyRoles: roles}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.CreateNamespace(ctx, root,
		keystore.Namespace{ID: "both",
			KeyRoles: []string{keystore.AnyRole, "member"}}); code(err) != "invalid_fields" {
		t.Errorf("any role and one of them: %s", code(err))
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
			case code(err) == "invalid_fields":
				return ""
			case err != nil:
				t.Fatal(err)
			case key.HomeGrant() == nil || len(key.HomeGrant().Roles) == 0:
				return "none"
			}
			return strings.Join(key.HomeGrant().Roles, " ")
		}
		key, _, err := k.MintKey(ctx, root,
			keystore.KeySpec{Namespace: c.namespace,
				Home: &keystore.Grant{Roles: roles,
					Permissions: grants(t, "x=write")[0].Permissions}}, "")
		if got := is(key, err); got != c.minted {
			t.Errorf("minted in %s with %q: %q, want %q", c.namespace, roles, got, c.minted)
		}
		key, _, err = k.MintKey(ctx, root,
			keystore.KeySpec{Namespace: c.namespace,
				Home:   &keystore.Grant{Roles: []string{"member"}},
				Grants: grants(t, "default=read")}, "")
		if err != nil {
			t.Fatal(err)
		}
		key, _, err = k.EditKey(ctx, root, key.ID, keystore.KeyPatch{Roles: &roles},
			keystore.ChangeOptions{})
		if got := is(key, err); got != c.edited {
			t.Errorf("edited in %s to %q: %q, want %q", c.namespace, roles, got, c.edited)
		}
	}
	elsewhere := grants(t, "any=read")
	if _, _, err := k.MintKey(ctx, root, keystore.KeySpec{Namespace: "some", Grants: elsewhere},
		""); code(err) != "invalid_fields" {
		t.Errorf("without a home grant, where keys have a role: %s", code(err))
	}
}

func TestSecretsOfARotatedKey(t *testing.T) {
	k := withNamespaces(t)
	end := time.Now().Add(time.Hour)
	key, first := mint(t, k, keystore.KeySpec{ExpiresAt: end})
	rotate := func(grace time.Duration) string {
		_, token, _, err := k.RotateKey(ctx, root, key.ID, grace, keystore.ChangeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return token.Reveal()
	}
	second := rotate(2 * time.Hour)
	want(t, "the old one while it overlaps", ask(k, first), keystore.OK)
	want(t, "the new one", ask(k, second), keystore.OK)
	found, err := k.FindKey(ctx, root, key.ID)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(found.Secrets); n != 2 || !found.Secrets[1].ExpiresAt.Equal(found.ExpiresAt) {
		t.Errorf("%d secrets, the old one until %v; the key ends at %v", n,
			found.Secrets[n-1].ExpiresAt, found.ExpiresAt)
	}
	third := rotate(time.Minute)
	want(t, "the oldest after a second rotation", ask(k, first), keystore.Rotated)
	want(t, "the one before", ask(k, second), keystore.OK)
	want(t, "the newest", ask(k, third), keystore.OK)
	for _, grace := range []time.Duration{-1, keystore.MaxGrace + 1} {
		if _, _, _, err := k.RotateKey(ctx, root, key.ID, grace,
			keystore.ChangeOptions{}); code(err) != "invalid_fields" {
			t.Errorf("grace %v: %v", grace, err)
		}
	}
}

func TestRevokedIsFinal(t *testing.T) {
	k := withNamespaces(t)
	key, token := mint(t, k, keystore.KeySpec{})
	first, _, err := k.RevokeKey(ctx, root, key.ID, "leaked", false, keystore.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again, p, err := k.RevokeKey(ctx, root, key.ID, "another reason", false,
		keystore.ChangeOptions{})
	if err != nil || again.RevokeReason != "leaked" || again.Version != first.Version ||
		!p.Complete {
		t.Errorf("again: %+v %+v %v", again, p, err)
	}
	on := true
	_, _, edit := k.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: &on},
		keystore.ChangeOptions{})
	_, _, _, rotate := k.RotateKey(ctx, root, key.ID, 0, keystore.ChangeOptions{})
	if code(edit) != "revoked" || code(rotate) != "revoked" {
		t.Errorf("edit: %v, rotate: %v", edit, rotate)
	}
	if _, _, err := k.DeleteKey(ctx, root, key.ID, keystore.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	want(t, "deleted", ask(k, token), keystore.Unknown)
	_, refused, err := k.ImportKeys(ctx, root,
		[]keystore.ImportSpec{{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}},
			Line: 1, Token: token}}, false, "")
	if err != nil || len(refused) != 1 || refused[0].Code != "already_used" {
		t.Errorf("an import revived it: %v %v", refused, err)
	}
	want(t, "imported", ask(k, token), keystore.Unknown)
}

func TestRevokeTakesAlongWhatTheKeyMade(t *testing.T) {
	k := withNamespaces(t)
	who, key := caller(t, k, keystore.KeySpec{Grants: grants(t, "default=admin.keys:*,read")})
	_, token, err := k.MintKey(ctx, who,
		keystore.KeySpec{Grants: grants(t, "default=admin.keys:create,read")}, "")
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Lookup(ctx, token.Reveal(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, grandchild, err := k.MintKey(ctx, keystore.KeyCaller(a.Record, ""),
		keystore.KeySpec{Grants: grants(t, "default=read")}, "")
	if err != nil {
		t.Fatal(err)
	}
	_, bystander := mint(t, k, keystore.KeySpec{})
	if _, _, err := k.RevokeKey(ctx, root, key.ID, "", true, keystore.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	want(t, "made by it", ask(k, token.Reveal()), keystore.Revoked)
	want(t, "made by what it made", ask(k, grandchild.Reveal()), keystore.Revoked)
	want(t, "made by another", ask(k, bystander), keystore.OK)
}

func TestARepeatMakesNothing(t *testing.T) {
	k := withNamespaces(t)
	spec := keystore.KeySpec{Home: &keystore.Grant{Permissions: read}}
	key, _, err := k.MintKey(ctx, root, spec, "once")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = k.MintKey(ctx, root, spec, "once")
	var e *keystore.Error
	if !errors.As(err, &e) || e.Code != "already_made" || e.ID != key.ID {
		t.Errorf("%v", err)
	}
	who, _ := caller(t, k, keystore.KeySpec{Grants: grants(t, "default=admin.keys:create,read")})
	if _, _, err := k.MintKey(ctx, who, keystore.KeySpec{Grants: grants(t, "default=read")},
		"once"); err != nil {
		t.Errorf("another caller's: %v", err)
	}
}

func TestWhatIsRefusedNamesItsFields(t *testing.T) {
	k := withNamespaces(t)
	many := make([]keystore.Permission, 501)
	for i := range many {
		many[i] = keystore.Permission{Resource: fmt.Sprintf("r%d", i), Action: "read"}
	}
	home := &keystore.Grant{Permissions: read}
	for field, spec := range map[string]keystore.KeySpec{
		"name":          {Home: home, Name: strings.Repeat("é", 201)},
		"metadata.team": {Home: home, Metadata: map[string]string{"team": "a\x00b"}},
		"metadata": {Home: home,
			Metadata: map[string]string{"x": strings.Repeat("y", 4096)}},
		"allowed_ips[0]": {Home: home, AllowedIPs: []netip.Prefix{{}}},
		"expires_at":     {Home: home, ExpiresAt: time.Now().Add(-time.Second)},
		"owner":          {Home: home, Owner: "m_nobody"},
		"permissions":    {},
		"roles": {Home: &keystore.Grant{Permissions: read,
			Roles: []string{"billing"}}},
		"grants[0].namespace":      {Home: home, Grants: grants(t, "default=write")},
		"grants[0].namespace, too": {Grants: grants(t, "nowhere=write")},
		"namespace":                {Home: home, Namespace: "nowhere"},
		"permissions, too many":    {Home: &keystore.Grant{Permissions: many}},
	} {
		_, _, err := k.MintKey(ctx, root, spec, "")
		var e *keystore.Error
		name, _, _ := strings.Cut(field, ",")
		if !errors.As(err, &e) || e.Kind != keystore.KindInvalid || len(e.Fields) != 1 ||
			e.Fields[0].Field != name {
			t.Errorf("%s: %v", field, err)
		}
	}
	if keys, _, err := k.ListKeys(ctx, root, keystore.KeyFilter{}, "", 10); err != nil ||
		len(keys) != 0 {
		t.Errorf("something was made: %v %v", keys, err)
	}
}

func TestNamespacesGoOnlyWhenEmpty(t *testing.T) {
	k := withNamespaces(t, "acme", "other")
	key, _ := mint(t, k, keystore.KeySpec{Namespace: "acme", Grants: grants(t, "other=read")})
	for id, want := range map[string]string{"acme": "in_use", "other": "in_use",
		"default": "in_use", "nowhere": "not_found"} {
		if _, _, err := k.DeleteNamespace(ctx, root, id,
			keystore.ChangeOptions{}); code(err) != want {
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
	revoke(t, k, key.ID, 0)
	if _, _, err := k.DeleteKey(ctx, root, key.ID, keystore.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"acme", "other"} {
		if _, _, err := k.DeleteNamespace(ctx, root, id, keystore.ChangeOptions{}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if k.Policy().Namespace(id) != nil {
			t.Errorf("%s is still known", id)
		}
	}
	for _, id := range []string{"", "home", "*", "-a", "a/b", strings.Repeat("a", 65), "default"} {
		if _, err := k.CreateNamespace(ctx, root, keystore.Namespace{ID: id}); err == nil {
			t.Errorf("%q was made", id)
		}
	}
}

func TestVerifySaysUnknownOfWhatTheCallerMayNotRead(t *testing.T) {
	k := withNamespaces(t, "acme", "other")
	_, token := mint(t, k, keystore.KeySpec{Namespace: "acme",
		Grants:     grants(t, "acme=orders:search"),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	who, _ := caller(t, k, keystore.KeySpec{Namespace: "other",
		Grants: grants(t, "other=admin.keys:read")})
	for _, c := range []struct {
		who                   keystore.Caller
		namespace, permission string
		want                  keystore.Outcome
	}{
		{root, "acme", "orders:search", keystore.OK}, {root, "", "orders:search", keystore.OK},
		{root, "acme", "read", keystore.Forbidden},
		{root, "other", "orders:search", keystore.Forbidden},
		{root, "nowhere", "orders:search", keystore.Forbidden},
		{who, "acme", "orders:search", keystore.Unknown},
	} {
		v, err := k.Verify(ctx, c.who, token,
			keystore.Question{Namespace: c.namespace, Permission: c.permission})
		if err != nil || v.Outcome != c.want || (v.Key != nil) != (c.want != keystore.Unknown) {
			t.Errorf("%s %s: %+v %v", c.namespace, c.permission, v, err)
		}
	}
}

func TestWhatACallerDoesNotGovernDoesNotExistForIt(t *testing.T) {
	k := withNamespaces(t, "acme", "other")
	there, _ := mint(t, k, keystore.KeySpec{Namespace: "other"})
	here, _ := mint(t, k, keystore.KeySpec{Namespace: "acme"})
	who, self := caller(t, k, keystore.KeySpec{Namespace: "acme",
		Grants: grants(t, "acme=admin.keys:*")})
	_, hidden := k.FindKey(ctx, who, there.ID)
	_, absent := k.FindKey(ctx, who, keystore.NewID())
	if code(hidden) != "not_found" || hidden.Error() != absent.Error() {
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

// What may not be minted may not be had by editing either (spec 7a.6).
func TestAKeyGivesNothingToWhatOutlivesIt(t *testing.T) {
	k := withNamespaces(t)
	inside := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	who, _ := caller(t, k, keystore.KeySpec{Grants: grants(t, "default=admin.keys:*,*"),
		ExpiresAt: time.Now().Add(time.Hour), AllowedIPs: inside})
	target, _ := mint(t, k, keystore.KeySpec{})
	more, less := grants(t, "default=read,write"), grants(t, "default=orders:read")
	for _, c := range []struct {
		to   *[]keystore.Grant
		want string
	}{{&more, "exceeds_caller"}, {&less, "ok"}} {
		if _, _, err := k.EditKey(ctx, who, target.ID, keystore.KeyPatch{Grants: c.to},
			keystore.ChangeOptions{}); code(err) != c.want {
			t.Errorf("to %v: %v, want %s", *c.to, err, c.want)
		}
	}
}

func TestCaps(t *testing.T) {
	k := withNamespaces(t)
	home := &keystore.Grant{Permissions: read}
	many := make([]netip.Prefix, 257)
	for i := range many {
		many[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
	}
	if _, _, err := k.MintKey(ctx, root, keystore.KeySpec{Home: home, AllowedIPs: many},
		""); code(err) != "invalid_fields" {
		t.Errorf("257 addresses: %v", err)
	}
	if _, err := keystore.ParsePermission(strings.Repeat("a", 196) + ":read"); err == nil {
		t.Error("a permission of 201 characters")
	}
	wrong := make([]keystore.Grant, 100)
	for i := range wrong {
		wrong[i] = keystore.Grant{Namespace: fmt.Sprintf("n%d", i), Permissions: read}
		if i < 50 {
			wrong[i].Roles = []string{"a"}
		}
	}
	_, _, err := k.MintKey(ctx, root, keystore.KeySpec{Grants: wrong}, "")
	var e *keystore.Error
	if !errors.As(err, &e) || len(e.Fields) != 100 {
		t.Errorf("%d fields are named", len(e.Fields))
	}
	who, _ := caller(t, k, keystore.KeySpec{Grants: grants(t, "default=admin.keys:*,read")})
	if _, _, err := k.ImportKeys(ctx, who, make([]keystore.ImportSpec, keystore.MaxImport+1), false,
		""); code(err) != "too_many" {
		t.Errorf("an import that blocks the others: %v", err)
	}
}
