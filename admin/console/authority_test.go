package console_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"golang.org/x/net/html"
)

// TestKeyPermissions checks that pages offer only permitted actions, and that forged forms for
// others are refused.
func TestKeyPermissions(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	all := "admin.keys:create,admin.keys:read,admin.keys:update,admin.keys:revoke," +
		"admin.keys:delete,admin.roles:read,admin.roles:create,read,write"
	without := func(permission string) string {
		return "default=" + strings.Join(slices.DeleteFunc(strings.Split(all, ","),
			func(p string) bool { return p == permission }), ",")
	}
	people := map[string]*person{
		"admin":     s.signedIn(t, "Admin", "default=@client-admin"),
		"developer": s.signedIn(t, "Developer", "default=@developer"),
		"viewer":    s.signedIn(t, "Viewer", "default=@viewer"),
		"elsewhere": s.signedIn(t, "Elsewhere", "acme=@client-admin"),
		"nobody":    s.signedIn(t, "Nobody"),
		"reads":     s.signedIn(t, "Reads", "default=read,write"),
		"!create":   s.signedIn(t, "A", without("admin.keys:create")),
		"!read":     s.signedIn(t, "B", without("admin.keys:read")),
		"!update":   s.signedIn(t, "C", without("admin.keys:update")),
		"!revoke":   s.signedIn(t, "D", without("admin.keys:revoke")),
		"!delete":   s.signedIn(t, "E", without("admin.keys:delete")),
		"!roles":    s.signedIn(t, "F", without("admin.roles:create")),
	}
	mint := func(name string) string {
		k, _, err := s.keys.MintKey(ctx, root,
			manage.KeySpec{Name: name,
				Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "read"}}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return k.ID
	}
	version := []string{"version", "1"}
	for _, test := range []struct {
		action string
		page   string   // the page that offers it
		offer  string   // the address of its link or form
		fields []string // of the forged form
		may    []string // the names of the members that may do it
		done   func(id string) bool
	}{
		{"list", "/apikeys/keys", "/apikeys/keys/{id}", nil,
			[]string{"admin", "developer", "viewer", "!create", "!update", "!revoke", "!delete",
				"!roles"}, nil},
		{"show", "", "/apikeys/keys/{id}", nil,
			[]string{"admin", "developer", "viewer", "!create", "!update", "!revoke", "!delete",
				"!roles"}, nil},
		{"mint", "/apikeys/keys", "/apikeys/keys/new",
			[]string{"name", "forged", "access", "read_only", "namespace", "default"},
			[]string{"admin", "developer", "!read", "!update", "!revoke", "!delete", "!roles"},
			nil},
		{"mint with a role", "/apikeys/keys/new", "new_roles[0].name",
			[]string{"name", "forged", "access", "roles", "namespace", "default",
				"new_roles[0].name", "r{who}", "new_roles[0].permissions", "orders:read"},
			[]string{"admin", "developer", "!read", "!update", "!revoke", "!delete"}, nil},
		{"edit", "/apikeys/keys/{id}", "/apikeys/keys/{id}/edit",
			append(version, "name", "forged", "access", "read_only", "active", "true"),
			[]string{"admin", "developer", "!create", "!revoke", "!delete", "!roles"},
			func(id string) bool { return s.key(t, id).Name == "forged" }},
		// only root acts for root
		{"rotate", "/apikeys/keys/{id}", "/apikeys/keys/{id}/rotate",
			append(version, "grace", "0s"), nil, nil},
		{"deactivate", "/apikeys/keys/{id}", "/apikeys/keys/{id}/active", nil,
			[]string{"admin", "developer", "!create", "!revoke", "!delete", "!roles"},
			func(id string) bool { return !s.key(t, id).Active }},
		{"revoke", "/apikeys/keys/{id}", "/apikeys/keys/{id}/revoke", []string{"confirm", "revoke"},
			[]string{"admin", "developer", "!create", "!update", "!delete", "!roles"},
			func(id string) bool { return !s.key(t, id).RevokedAt.IsZero() }},
	} {
		for who, p := range people {
			id := mint("victim of " + who)
			may := slices.Contains(test.may, who)
			fill := strings.NewReplacer("{id}", id, "{who}", strings.Trim(who, "!"))
			offer := fill.Replace(test.offer)
			if test.page != "" {
				a := p.get(fill.Replace(test.page))
				offered := false
				each(a.Doc, func(n *html.Node) {
					offered = offered || attr(n, "href") == offer || attr(n, "action") == offer ||
						attr(n, "name") == offer
				})
				// A member that may do it in another namespace is offered it but refused here.
				if a.Status == 200 && offered != may && who != "elsewhere" {
					t.Errorf("%s to %s: offered %t", test.action, who, offered)
				}
				if a.Status != 200 && may && a.Status != 403 {
					t.Errorf("%s to %s: %d", test.action, who, a.Status)
				}
			}
			if test.action == "list" {
				continue
			}
			if !strings.HasPrefix(offer, "/") {
				offer = test.page
			}
			var a answer
			if test.action == "show" {
				a = p.get(offer)
			} else {
				fields := make([]string, len(test.fields))
				for i, f := range test.fields {
					fields[i] = fill.Replace(f)
				}
				a = p.post(offer, fields...)
			}
			// A member that may change a key but not read it sees no key on the next page.
			if who == "!read" && (test.action == "deactivate" || test.action == "revoke") {
				a.want(404).lacks("victim")
				may = true
			} else if may && a.Status != 200 && a.Status != 201 || !may && a.Status != 403 &&
				a.Status != 404 {
				t.Errorf("%s by %s: %d %s", test.action, who, a.Status, a.Text)
			}
			if test.done != nil && test.done(id) != may {
				t.Errorf("%s by %s: done %t", test.action, who, !may)
			}
			if !may && tokens.MatchString(a.Text) {
				t.Errorf("%s by %s created a key", test.action, who)
			}
		}
	}

	// Only a revoked key can be deleted.
	for who, p := range people {
		id := mint("of root")
		if _, _, err := s.keys.RevokeKey(ctx, root, id, "", false,
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		at := "/apikeys/keys/" + id
		may := slices.Contains([]string{"admin", "developer", "!create", "!read", "!update",
			"!revoke", "!roles"}, who)
		if a := p.get(at); a.Status == 200 && offers(a, at+"/delete") != may {
			t.Errorf("delete to %s: offered %t", who, !may)
		}
		a := p.post(at + "/delete")
		if _, err := s.keys.FindKey(ctx, root, id); may != (err != nil) ||
			may != (a.Status == 200) {
			t.Errorf("delete by %s: %d; finding the key afterwards: %v", who, a.Status, err)
		}
	}

	// A member without permissions still sees and revokes its own keys.
	id, token := s.member(t, "Owner")
	k, secret, err := s.keys.MintKey(ctx, root,
		manage.KeySpec{Name: "Mine", Owner: id,
			Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "read"}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := s.person(t)
	p.signIn(token).want(200, "Mine").lacks("victim", "Create key")
	p.get("/apikeys/keys/"+k.ID).want(200, "the owner lacks it").
		lacks("/edit", "/rotate", "/active")
	p.submit("/apikeys/keys/"+k.ID+"/revoke", "confirm", "revoke").want(200, "Key revoked")
	if s.accepts(t, secret.Reveal()) {
		t.Error("the key is still valid")
	}
}

// TestGiveOnlyOwnPermissions checks that members can only give permissions that they have, and that
// a refused form keeps its values.
func TestGiveOnlyOwnPermissions(t *testing.T) {
	s := open(t)
	s.api.Declare([]api.Operation{{Permission: "orders:search", Class: "read", Method: "GET",
		Path: "/orders"}})
	roles(t, s, keystore.Role{Namespace: "default", Name: "reader",
		Permissions: permissions(t, "read")},
		keystore.Role{Namespace: "default", Name: "writer",
			Permissions: permissions(t, "read", "write")})
	p := s.signedIn(t, "Small",
		"default=admin.keys:create,admin.keys:read,admin.keys:update,admin.roles:read,"+
			"admin.roles:create,read,refunds:*")
	barred := func(path string) (list []string) {
		a := p.submit(path, "again", "new_role=yes").want(200)
		each(a.Doc, func(n *html.Node) {
			if has(n, "disabled") {
				list = append(list, attr(n, "name")+" "+attr(n, "value"))
			}
		})
		slices.Sort(list)
		return slices.Compact(list)
	}
	p.get("/apikeys/keys/new").lacks("reach-title") // there are no other namespaces
	both := func(list ...string) (names []string) {
		for _, p := range list {
			names = append(names, "new_roles[0].permissions "+p, "permissions "+p)
		}
		return names
	}
	want := append(both("*", "orders:*", "orders:search", "orders:write"), "access read_write",
		"roles client-admin", "roles developer", "roles viewer", "roles writer")
	slices.Sort(want)
	if got := barred("/apikeys/keys/new"); !slices.Equal(got, want) {
		t.Errorf("barred on a new key: %q, want %q", got, want)
	}
	k, _, err := s.keys.MintKey(ctx, root,
		manage.KeySpec{Name: "Writes",
			Home: &keystore.Grant{Permissions: permissions(t, "read", "write"),
				Roles: []string{"writer"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	roles(t, s, keystore.Role{Namespace: "default", Name: "sender",
		Permissions: permissions(t, "write")})
	// The other choices are covered by the key's own permissions. Roles that it lacks are not: a
	// role also gives permissions that are added to it later.
	want = []string{"roles client-admin", "roles developer", "roles viewer", "roles sender"}
	for _, p := range []string{"*", "orders:*", "orders:search", "orders:write"} {
		want = append(want, "new_roles[0].permissions "+p)
	}
	slices.Sort(want)
	if got := barred("/apikeys/keys/" + k.ID + "/edit"); !slices.Equal(got, want) {
		t.Errorf("barred on an edit: %q, want %q", got, want)
	}
	p.post("/apikeys/keys/"+k.ID+"/edit", "version", "1", "name", "Writes", "access", "read_write",
		"roles", "writer", "roles", "sender").want(403, "The caller does not have")
	a := p.submit("/apikeys/keys/new", "name", "Greedy", "access", "read_write").want(403,
		"The caller does not have")
	if name, _ := a.field("name"); name != "Greedy" {
		t.Errorf("the name is %q", name)
	}
	p.createKey("name", "Modest", "access", "read_only")
}
