package manage_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// grantsText is the inverse of roleGrants.
func grantsText(grants []keystore.Grant) string {
	var words []string
	for _, g := range grants {
		var parts []string
		for _, p := range g.Permissions {
			parts = append(parts, p.String())
		}
		for _, r := range g.Roles {
			parts = append(parts, "@"+r)
		}
		plus := ""
		if g.Connected {
			plus = "+"
		}
		words = append(words, g.Namespace+plus+"="+strings.Join(parts, ","))
	}
	return strings.Join(words, " ")
}

// TestGrantEdits checks edits that add parts to the grants of a key and remove parts.
func TestGrantEdits(t *testing.T) {
	w := newWorld(t, "acme", "other", "third")
	w.role("*", "clerk", "read")
	w.role("*", "helper", "read")
	for _, c := range []struct{ namespaces, remove, add, want string }{
		{"", "", "acme=pay:op", "acme=pay:op,read,write,@clerk other+=read"},
		{"", "", "=pay:op", "acme=pay:op,read,write,@clerk other+=read"}, // the home namespace
		{"", "", "acme=@helper", "acme=read,write,@clerk,@helper other+=read"},
		{"", "", "acme+=", "acme+=read,write,@clerk other+=read"},
		{"", "", "other=write", "acme=read,write,@clerk other+=read,write"},
		{"", "", "third=read,@helper", "acme=read,write,@clerk other+=read third=read,@helper"},
		{"", "", "third=", "invalid: add[0].permissions"},
		{"", "acme=write", "", "acme=read,@clerk other+=read"},
		{"", "=write", "", "acme=read,@clerk other+=read"},
		{"", "acme=@clerk", "", "acme=read,write other+=read"},
		{"", "acme=read,write,@clerk", "", "other+=read"},
		{"", "other+=", "", "acme=read,write,@clerk other=read"},
		{"", "acme+=", "", "acme=read,write,@clerk other+=read"}, // was not connected
		{"", "other=read", "", "acme=read,write,@clerk"},
		{"", "acme=write,pay:op", "", "invalid: remove[0].permissions[1]"},
		{"", "acme=@clerk,@helper", "", "invalid: remove[0].roles[1]"},
		{"", "third=read", "", "invalid: remove[0].namespace"},
		{"", "acme=read,write,@clerk other=read", "", "invalid: permissions"},
		{"other", "", "", "acme=read,write,@clerk"},
		{"acme", "", "", "other+=read"},
		{"other third", "", "", "invalid: remove_namespaces[1]"},
		{"", "acme=write", "acme=pay:op", "acme=pay:op,read,@clerk other+=read"},
		{"acme", "", "acme=read", "acme=read other+=read"},
		{"acme", "other=read", "third=read", "third=read"},
		{"", "other+=", "other+=write", "acme=read,write,@clerk other+=read,write"},
	} {
		key, _ := w.key(fleet.Root, "acme", "acme=read,write,@clerk other+=read")
		edited, _, err := w.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{
			Edits: manage.GrantEdits{RemoveNamespaces: strings.Fields(c.namespaces),
				Remove: roleGrants(t, c.remove), Add: roleGrants(t, c.add)},
		}, manage.ChangeOptions{})
		got := "invalid: " + invalidFields(err)
		if err == nil {
			got = grantsText(edited.Grants)
		}
		if got != c.want {
			t.Errorf("without namespaces %q, without %q, with %q: %s, want %s (%v)", c.namespaces,
				c.remove, c.add, got, c.want, err)
		}
	}
}

// TestKeyPatches checks that each field of a patch changes that field of the key, and that invalid
// patches are refused.
func TestKeyPatches(t *testing.T) {
	w := newWorld(t, "acme", "other")
	w.role("*", "clerk", "read")
	expiry := w.Now().Add(time.Hour)
	later := expiry.Add(time.Second)
	name, nobody, long := "renamed", "m_nobody", strings.Repeat("x", 201)
	control, ada := "a\x00", w.member("ada", "acme=*").Member()
	off, on := false, true
	read := permissions(t, "read")
	clerk, none := []string{"clerk"}, []string{}
	grants := roleGrants(t, "other=read")
	text := func(k *keystore.Key) string {
		var pairs []string
		for name, value := range k.Metadata {
			pairs = append(pairs, name+"="+value)
		}
		slices.Sort(pairs)
		state := "active"
		if !k.Active {
			state = "inactive"
		}
		owner := k.Owner
		if owner == ada {
			owner = "ada"
		}
		return strings.Join([]string{k.Name, state, owner, strings.Join(pairs, " "),
			grantsText(k.Grants)}, "; ")
	}
	const unchanged = "n; active; root; a=1 b=2; acme=write,@clerk other=read"
	for _, c := range []struct {
		patch manage.KeyPatch
		want  string
	}{
		{manage.KeyPatch{}, unchanged},
		{manage.KeyPatch{Name: &name},
			"renamed; active; root; a=1 b=2; acme=write,@clerk other=read"},
		{manage.KeyPatch{Active: &off},
			"n; inactive; root; a=1 b=2; acme=write,@clerk other=read"},
		{manage.KeyPatch{Owner: &ada}, "n; active; ada; a=1 b=2; acme=write,@clerk other=read"},
		{manage.KeyPatch{Metadata: map[string]*string{"a": nil, "c": &name}},
			"n; active; root; b=2 c=renamed; acme=write,@clerk other=read"},
		{manage.KeyPatch{ClearMetadata: true, Metadata: map[string]*string{"c": &name}},
			"n; active; root; c=renamed; acme=write,@clerk other=read"},
		{manage.KeyPatch{Permissions: &read}, "n; active; root; a=1 b=2; acme=read,@clerk other=read"},
		{manage.KeyPatch{Roles: &none}, "n; active; root; a=1 b=2; acme=write other=read"},
		{manage.KeyPatch{Connected: &on}, "n; active; root; a=1 b=2; acme+=write,@clerk other=read"},
		{manage.KeyPatch{Grants: &grants}, "n; active; root; a=1 b=2; other=read"},
		{manage.KeyPatch{ExpiresAt: &expiry}, unchanged},
		{manage.KeyPatch{ExpiresAt: &later}, "invalid: expires_at"},
		{manage.KeyPatch{ExpiresAt: new(time.Time)}, "invalid: expires_at"},
		{manage.KeyPatch{Grants: &grants, Permissions: &read}, "invalid: grants"},
		{manage.KeyPatch{Grants: &grants, Roles: &clerk}, "invalid: grants"},
		{manage.KeyPatch{Grants: &grants, Connected: &on}, "invalid: grants"},
		{manage.KeyPatch{Name: &long}, "invalid: name"},
		{manage.KeyPatch{Owner: &nobody}, "invalid: owner"},
		{manage.KeyPatch{Metadata: map[string]*string{"x": &control}}, "invalid: metadata.x"},
		{manage.KeyPatch{Metadata: map[string]*string{"": &name}}, "invalid: metadata"},
		{manage.KeyPatch{Metadata: map[string]*string{control: &name}}, "invalid: metadata"},
		{manage.KeyPatch{Roles: &[]string{"nobody"}}, "invalid: roles"},
	} {
		key, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Name: "n", Namespace: "acme",
			ExpiresAt: expiry, Metadata: map[string]string{"a": "1", "b": "2"},
			Grants: roleGrants(t, "acme=write,@clerk other=read")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		edited, _, err := w.EditKey(ctx, fleet.Root, key.ID, c.patch, manage.ChangeOptions{})
		got := "invalid: " + invalidFields(err)
		if err == nil {
			got = text(edited)
			found, err := w.FindKey(ctx, fleet.Root, key.ID)
			if err != nil {
				t.Fatal(err)
			}
			if text(found) != got || found.Version != key.Version+1 ||
				edited.Version != found.Version {
				t.Errorf("%+v: returned %s, stored %s", c.patch, got, text(found))
			}
		}
		if got != c.want {
			t.Errorf("%+v: %s, want %s (%v)", c.patch, got, c.want, err)
		}
	}
	// The home grant that an edit creates is the first.
	key, _ := w.key(fleet.Root, "acme", "other=read")
	edited, _, err := w.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Roles: &clerk},
		manage.ChangeOptions{})
	if err != nil || grantsText(edited.Grants) != "acme=@clerk other=read" {
		t.Errorf("a role for a key without a home grant: %+v, %v", edited, err)
	}
}

// TestNewRoles checks that a new or edited key can bring roles with it.
func TestNewRoles(t *testing.T) {
	w := newWorld(t, "acme")
	role := func(name string) keystore.Role {
		return keystore.Role{Name: name, Permissions: fleet.Read}
	}
	mint := func(home *keystore.Grant, roles ...keystore.Role) (*keystore.Key, error) {
		key, _, err := w.MintKey(ctx, fleet.Root,
			manage.KeySpec{Namespace: "acme", Home: home, NewRoles: roles}, nil)
		return key, err
	}
	plain, err := mint(nil, role("first"), role("second"))
	if err != nil || grantsText(plain.Grants) != "acme=@first,@second" {
		t.Fatalf("%+v, %v", plain, err)
	}
	home := &keystore.Grant{Roles: []string{"first"}, Permissions: fleet.Read}
	key, err := mint(home, role("third"))
	if err != nil || grantsText(key.Grants) != "acme=read,@first,@third" || len(home.Roles) != 1 {
		t.Errorf("%+v, %v; the specification has the roles %v", key, err, home.Roles)
	}
	for _, r := range []string{"first", "second", "third"} {
		id := keystore.RoleID{Namespace: "acme", Name: r}
		if _, err := w.FindRole(ctx, fleet.Root, id); err != nil {
			t.Errorf("role %s: %v", r, err)
		}
	}
	for what, roles := range map[string][]keystore.Role{
		"that exists":          {role("new"), role("first")},
		"that differs in case": {role("new"), role("New")},
		"twice":                {role("new"), role("new")},
	} {
		if _, err := mint(nil, roles...); fleet.Code(err) != "exists" {
			t.Errorf("a role %s: %v", what, err)
		}
	}
	if _, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{
		NewRoles: []keystore.Role{role("new")}}, nil); err != nil {
		t.Errorf("in the default namespace: %v", err)
	}

	edit := func(id string, patch manage.KeyPatch) string {
		t.Helper()
		edited, _, err := w.EditKey(ctx, fleet.Root, id, patch, manage.ChangeOptions{})
		if err != nil {
			return fleet.Code(err)
		}
		return grantsText(edited.Grants)
	}
	only, _ := w.key(fleet.Root, "acme", "default=read")
	for _, c := range []struct {
		id, role string
		replace  *[]string
		want     string
	}{
		{plain.ID, "fourth", nil, "acme=@first,@fourth,@second"},
		{plain.ID, "fifth", &[]string{"first"}, "acme=@fifth,@first"},
		{only.ID, "sixth", nil, "acme=@sixth default=read"},
		{only.ID, "first", nil, "exists"},
	} {
		patch := manage.KeyPatch{NewRoles: []keystore.Role{role(c.role)}, Roles: c.replace}
		if got := edit(c.id, patch); got != c.want {
			t.Errorf("the new role %s: %s, want %s", c.role, got, c.want)
		}
		if patch.Roles != c.replace || c.replace != nil && len(*c.replace) != 1 {
			t.Errorf("the patch has the roles %v", patch.Roles)
		}
	}
}

// TestNewRolesEverywhere checks that a new key can use the roles that it brings in each node.
func TestNewRolesEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, _ := d.Node(node.Settings{})
		_, token := fleet.Mint(t, a, manage.KeySpec{Home: &keystore.Grant{},
			NewRoles: []keystore.Role{{Name: "reader", Permissions: fleet.Read}}})
		fleet.Want(t, "the other node", fleet.Ask(b, token), keystore.OK)
	})
}

// TestReadableKeys checks which keys a caller can find and list.
func TestReadableKeys(t *testing.T) { synctest.Test(t, testReadableKeys) }

func testReadableKeys(t *testing.T) {
	w := newWorld(t, "acme", "other")
	ada, bob := w.member("ada", "acme=read"), w.member("bob", "acme=*,admin.keys:read")
	mint := func(home, owner string, expiry time.Time) string {
		key, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: home,
			Owner: owner, ExpiresAt: expiry, Grants: roleGrants(t, home+"=read")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return key.ID
	}
	names := map[string]string{
		mint("acme", ada.Member(), time.Time{}):             "ada's",
		mint("acme", "", w.Now().Add(time.Second)):          "expired",
		mint("other", "", time.Time{}):                      "other",
		mint("other", ada.Member(), w.Now().Add(time.Hour)): "ada's other",
	}
	_, token, _, err := w.NewMemberToken(ctx, fleet.Root, ada.Member(), manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names[token.ID()] = "token"
	time.Sleep(2 * time.Second) // one key expires
	keyOnly, self := w.key(fleet.Root, "acme", "acme=read")
	names[keyOnly.ID] = "self"
	for what, c := range map[string]struct {
		who         manage.Caller
		found, list string
		otherwise   string // the code for keys that are not found
	}{
		"root": {fleet.Root, "ada's ada's other expired other self",
			"ada's ada's other expired other self", "not_found"},
		"ada": {ada, "ada's ada's other token", "ada's ada's other", "not_found"},
		"bob": {bob, "ada's expired self", "ada's expired self", "not_found"},
		"key": {w.keyCaller(self), "self", "insufficient_permission", "insufficient_permission"},
	} {
		var found []string
		for id, name := range names {
			key, err := w.FindKey(ctx, c.who, id)
			switch {
			case err == nil && key.ID == id:
				found = append(found, name)
			case fleet.Code(err) != c.otherwise:
				t.Errorf("%s finds %s: %v", what, name, err)
			}
		}
		slices.Sort(found)
		if got := strings.Join(found, " "); got != c.found {
			t.Errorf("%s finds %s, want %s", what, got, c.found)
		}
		var listed []string
		list, _, err := w.ListKeys(ctx, c.who, keystore.KeyFilter{}, "", 100)
		for _, key := range list {
			listed = append(listed, names[key.ID])
		}
		slices.Sort(listed)
		got := strings.Join(listed, " ")
		if err != nil {
			got = fleet.Code(err)
		}
		if got != c.list {
			t.Errorf("%s lists %s, want %s", what, got, c.list)
		}
	}
	list, _, err := w.ListKeys(ctx, fleet.Root, keystore.KeyFilter{Status: keystore.StatusExpired},
		"", 100)
	if err != nil || len(list) != 1 || names[list[0].ID] != "expired" {
		t.Errorf("expired keys: %+v, %v", list, err)
	}
}

// TestKeyEditIsAuditedEverywhere checks that the audit log shows an edit to readers of each
// namespace in which the key had a grant or has one.
func TestKeyEditIsAuditedEverywhere(t *testing.T) {
	w := newWorld(t, "acme", "before", "after")
	key, _ := w.key(fleet.Root, "acme", "before=read")
	g := roleGrants(t, "after=read")
	if _, _, err := w.EditKey(ctx, fleet.Root, key.ID,
		manage.KeyPatch{Grants: &g, Active: new(bool)}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	rows, _, err := w.ListAudit(ctx, fleet.Root, keystore.AuditFilter{}, "", 1)
	if err != nil || len(rows) != 1 || rows[0].Action != "key.edit" {
		t.Fatalf("%+v, %v", rows, err)
	}
	if !strings.Contains(rows[0].Before, `"active":true`) ||
		!strings.Contains(rows[0].After, `"active":false`) {
		t.Errorf("before: %s, after: %s", rows[0].Before, rows[0].After)
	}
	got := slices.Clone(rows[0].Namespaces)
	slices.Sort(got)
	if want := []string{"acme", "after", "before"}; !slices.Equal(got, want) {
		t.Errorf("the row is in %v, want %v", got, want)
	}
}

// TestOwnerChange checks that a key gets another owner only from a caller who acts for that owner
// and covers everything that the key has.
func TestOwnerChange(t *testing.T) {
	w := newWorld(t, "acme")
	ada := w.member("ada", "acme=read").Member()
	for _, c := range []struct{ grants, key, owner, want string }{
		{"acme=read,admin:*", "acme=read", ada, "ok"},
		{"acme=read,admin:*", "acme=write", ada, "exceeds_caller"},
		{"acme=*,admin:*", "acme=write", ada, "ok"},
		{"acme=*,admin:*", "acme=read", keystore.RootMember, "ok"}, // the owner that it has
		{"acme=read,admin.keys:*", "acme=read", ada, "exceeds_caller"},
	} {
		key, _ := w.key(fleet.Root, "acme", c.key)
		who := w.member("who", c.grants)
		if _, _, err := w.EditKey(ctx, who, key.ID, manage.KeyPatch{Owner: &c.owner},
			manage.ChangeOptions{}); fleet.Code(err) != c.want {
			t.Errorf("with %s, a key with %s for %s: %v, want %s", c.grants, c.key, c.owner, err,
				c.want)
		}
		if _, _, err := w.DeleteMember(ctx, fleet.Root, who.Member(),
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEditsOfReachingKeys checks that an edit of a key whose grants reach into descendants requires
// the permissions there, unless the owner limits the key and the caller acts for the owner.
func TestEditsOfReachingKeys(t *testing.T) {
	w := newWorld(t, "far", "below:workspace<far")
	if _, _, err := w.EditNamespace(ctx, fleet.Root, "far",
		manage.NamespacePatch{Reach: &[]string{"workspace"}}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	bob := w.member("bob", "far=read").Member()
	ada, wide := w.member("ada", "far=*,admin:*"), w.member("wide", "far=*,admin:* below=*")
	clerk := w.member("clerk", "far=*,admin.keys:*")
	more := roleGrants(t, "far=read,write")
	for _, c := range []struct {
		what  string
		who   manage.Caller
		owner string // before
		patch manage.KeyPatch
		want  string
	}{
		{"its own", ada, ada.Member(), manage.KeyPatch{Grants: &more}, "ok"},
		{"of another", ada, keystore.RootMember, manage.KeyPatch{Grants: &more}, "exceeds_caller"},
		{"of another, with the permissions", wide, keystore.RootMember,
			manage.KeyPatch{Grants: &more}, "ok"},
		{"for another that it acts for", ada, keystore.RootMember, manage.KeyPatch{Owner: &bob},
			"ok"},
		{"for itself", clerk, keystore.RootMember,
			manage.KeyPatch{Owner: new(clerk.Member())}, "ok"},
	} {
		key, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "far", Owner: c.owner,
			Grants: roleGrants(t, "far=read")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.EditKey(ctx, c.who, key.ID, c.patch,
			manage.ChangeOptions{}); fleet.Code(err) != c.want {
			t.Errorf("%s: %v, want %s", c.what, err, c.want)
		}
	}
}

// TestStoredForm checks the form in which a key's grants and addresses are stored, in whatever
// order the caller named them.
func TestStoredForm(t *testing.T) {
	w := newWorld(t, "acme", "other")
	w.role("*", "a", "read")
	w.role("*", "b", "read")
	if _, err := w.CreateNamespace(ctx, fleet.Root, keystore.Namespace{ID: "exact",
		KeyRoles: []string{"b", "a"}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ home, gives, want string }{
		{"acme", "other=write,read acme=write,read,@b,@a,@b",
			"acme=read,write,@a,@b other=read,write"},
		{"acme", "acme=read other=read default=read", "acme=read other=read default=read"},
		{"exact", "other=read exact=@b,@a", "exact=@a,@b other=read"},
		{"exact", "exact=@a,@b", "exact=@a,@b"},
	} {
		given := roleGrants(t, c.gives)
		key, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: c.home, Grants: given,
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		found, err := w.FindKey(ctx, fleet.Root, key.ID)
		if err != nil || grantsText(found.Grants) != c.want || grantsText(key.Grants) != c.want ||
			found.AllowedIPs[0].String() != "10.0.0.0/8" {
			t.Errorf("%s: returned %s, stored %+v, %v", c.gives, grantsText(key.Grants), found, err)
		}
		if grantsText(given) != c.gives {
			t.Errorf("the grants of the request have changed to %s", grantsText(given))
		}
	}
	ada := w.member("ada", "other=write,read,@b,@a,@b acme=read").Member()
	if m, err := w.FindMember(ctx, fleet.Root, ada); err != nil ||
		grantsText(m.Grants) != "other=read,write,@a,@b acme=read" {
		t.Errorf("a member: %+v, %v", m, err)
	}
}

// TestOlderMetadata checks that metadata which is older than a rule does not keep a key from being
// edited, as long as it does not change.
func TestOlderMetadata(t *testing.T) {
	w := newWorld(t)
	key, _ := w.key(fleet.Root, "default", "default=read")
	w.fleet.Tamper(`UPDATE keys SET metadata = '{"a":"x\u0007"}'`)
	name, value, control := "renamed", "y", "z\x07"
	for _, c := range []struct {
		patch manage.KeyPatch
		want  string
	}{
		{manage.KeyPatch{Name: &name}, ""},
		{manage.KeyPatch{Metadata: map[string]*string{"b": &value}}, ""},
		{manage.KeyPatch{Metadata: map[string]*string{"a": &control}}, "metadata.a"},
		{manage.KeyPatch{Metadata: map[string]*string{"b": &control}}, "metadata.b"},
		{manage.KeyPatch{Metadata: map[string]*string{"a": &value}}, ""},
	} {
		_, _, err := w.EditKey(ctx, fleet.Root, key.ID, c.patch, manage.ChangeOptions{})
		if got := invalidFields(err); got != c.want || c.want == "" && err != nil {
			t.Errorf("%+v: %v, want %q", c.patch, err, c.want)
		}
	}
}
