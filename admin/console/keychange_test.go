package console_test

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestEdit checks that an edit keeps the values of fields that the form leaves unchanged.
func TestEdit(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu", Parent: "acme"},
		keystore.Namespace{ID: "us", Parent: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, token := p.createKey("name", "ERP", "namespace", "acme", "expires", "custom", "expires_day",
		"2037-01-31", "access", "custom", "permissions_more", "orders:read orders:search",
		"connected", "true", "grants", "eu", "access:eu", "read_write",
		"allowed_ips", "10.0.0.0/8", "metadata", "a=1\nb=2")
	edit := "/apikeys/keys/" + id + "/edit"
	for _, test := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"no changes", nil,
			"ERP true acme [orders:read orders:search] [] connected; eu [read write] [] " +
				"[10.0.0.0/8] map[a:1 b:2]"},
		{"name", []string{"name", "ERP 2"},
			"ERP 2 true acme [orders:read orders:search] [] connected; eu [read write] [] " +
				"[10.0.0.0/8] map[a:1 b:2]"},
		{"fewer permissions", []string{"permissions_more", "orders:read", "connected", "-"},
			"ERP 2 true acme [orders:read] []; eu [read write] [] [10.0.0.0/8] map[a:1 b:2]"},
		{"another namespace", []string{"grants", "us", "access:us", "same"},
			"ERP 2 true acme [orders:read] []; us [orders:read] [] [10.0.0.0/8] map[a:1 b:2]"},
		{"new role", []string{"new_roles[0].name", "shop",
			"new_roles[0].permissions_more", "shop:*"},
			"ERP 2 true acme [orders:read] [shop]; us [orders:read] [] [10.0.0.0/8] map[a:1 b:2]"},
		{"inactive", []string{"active", "-", "allowed_ips", "", "metadata", "c=3"},
			"ERP 2 false acme [orders:read] [shop]; us [orders:read] [] [] map[c:3]"},
		{"active", []string{"active", "true"},
			"ERP 2 true acme [orders:read] [shop]; us [orders:read] [] [] map[c:3]"},
	} {
		p.submit(edit, test.fields...).want(200, "Changes saved", "Applied on all servers (1 of 1)")
		k := s.key(t, id)
		if got := fmt.Sprint(k.Name, " ", k.Active, " ", grantsOf(k), " ", k.AllowedIPs, " ",
			k.Metadata); got != test.want {
			t.Errorf("%s:\n%s, want\n%s", test.name, got, test.want)
		}
	}
	if !s.accepts(t, token) {
		t.Error("the key is refused")
	}
	form := p.get(edit).fill("name", "lost")
	p.submit(edit, "name", "first").want(200)
	p.post(edit, form...).want(412, "Someone changed this key while you were editing")
	p.get("/apikeys/keys/"+id).want(200,
		`<del><span class="visually-hidden">was </span><bdi>ERP 2</bdi></del>`,
		`<bdi>first</bdi></ins>`, "Granted by",
		`<ins><span class="visually-hidden">is </span><bdi><time datetime="2037-01-31T00:00:00Z">`)
}

// TestEditKeepsHiddenValues checks that an edit keeps values that the editor may not see or cannot
// type.
func TestEditKeepsHiddenValues(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "billing",
		Permissions: permissions(t, "orders:read")},
		keystore.Role{Namespace: "*", Name: "support", Permissions: permissions(t, "tickets:read")})
	k, _, err := s.keys.MintKey(ctx, root,
		manage.KeySpec{Name: "ERP", Namespace: "acme",
			Home: &keystore.Grant{Roles: []string{"billing", "support"}},
			Grants: []keystore.Grant{{Namespace: "eu", Permissions: permissions(t, "read"),
				Connected: true}}, Metadata: map[string]string{"a=b": " c ", "e": ""}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := grantsOf(s.key(t, k.ID))
	edit := "/apikeys/keys/" + k.ID + "/edit"
	for i, grants := range [][]string{{"acme=admin.keys:read,admin.keys:update"},
		{"acme=admin.keys:read,admin.keys:update", "eu=@viewer"}, {"*=@client-admin"}} {
		name := fmt.Sprint("name ", i)
		s.signedIn(t, name, grants...).submit(edit, "name", name).want(200, "Changes saved")
		now := s.key(t, k.ID)
		if got := grantsOf(now); got != before || now.Name != name ||
			fmt.Sprintf("%q", now.Metadata) != fmt.Sprintf("%q", k.Metadata) {
			t.Errorf("%v: %q now has %s, and %q", grants, now.Name, got, now.Metadata)
		}
	}
}

func TestGrowOnly(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", EditPolicy: keystore.EditGrowOnly})
	s.api.Declare([]api.Operation{{Permission: "orders:search", Class: "read", Method: "GET",
		Path: "/orders"},
		{Permission: "orders:make", Class: "write", Method: "POST", Path: "/orders"}})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, _ := p.createKey("name", "a", "namespace", "acme", "access", "custom", "permissions",
		"orders:search")
	edit := "/apikeys/keys/" + id + "/edit"
	p.get(edit).want(200, "can only be added")
	p.submit(edit, "permissions", "orders:search", "permissions", "orders:make").
		want(200, "Changes saved")
	if got := grantsOf(s.key(t, id)); got != "acme [orders:make orders:search] []" {
		t.Error(got)
	}
	p.submit(edit, "permissions", "orders:make").want(422, "would lose orders:search")
	p.submit(edit, "access", "read_only").want(422, "would lose")
	if got := grantsOf(s.key(t, id)); got != "acme [orders:make orders:search] []" {
		t.Error(got)
	}
}

// TestKeyLifecycle deactivates, rotates, revokes and deletes a key and checks after each step which
// tokens are accepted.
func TestKeyLifecycle(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, token := p.createKey("name", "A key")
	at := "/apikeys/keys/" + id
	p.post(at+"/active").want(200, "INACTIVE", "The key is inactive")
	if s.accepts(t, token) {
		t.Error("an inactive key is accepted")
	}
	p.get("/apikeys/keys").want(200, "INACTIVE")
	p.post(at+"/active", "active", "true").want(200, "The key is active")
	if !s.accepts(t, token) {
		t.Error("an active key is refused")
	}

	if !offers(p.get(at), at+"/rotate") {
		t.Error("the owner of a key is not offered to rotate its token")
	}
	form := p.get(at+"/rotate").fill("grace", "1h")
	a := p.post(at+"/rotate", form...).want(201, "It will not be shown again", "The old token works until",
		"Applied on all servers (1 of 1)")
	next := tokens.FindString(a.Text)
	if next == token || !s.accepts(t, next) || !s.accepts(t, token) {
		t.Error("both tokens should be valid")
	}
	p.post(at+"/rotate", form...).want(200, "cannot be shown again").lacks(next) // a reload
	if len(s.key(t, id).Secrets) != 2 {
		t.Error("a reload created another token")
	}
	a = p.submit(at+"/rotate", "grace", "0s").want(201, "The old token is revoked")
	if s.accepts(t, token) || s.accepts(t, next) {
		t.Error("a previous token is still valid")
	}
	last := tokens.FindString(a.Text)
	p.submit(at+"/rotate", "grace", "9000h").want(422, "between 0s and 720h")

	p.submit(at+"/revoke", "confirm", "yes", "reason", "it leaked").want(422,
		"Type the word revoke", "it leaked")
	if !s.accepts(t, last) {
		t.Error("revoked without a confirmation")
	}
	p.submit(at+"/revoke", "confirm", " Revoke ", "reason", "it leaked").want(200,
		"Key revoked", "Applied on all servers (1 of 1)", "Revoked", "it leaked").lacks("/edit",
		"/rotate", `/revoke"`)
	if s.accepts(t, last) {
		t.Error("a revoked key is accepted")
	}
	p.get("/apikeys/keys").want(200, "Revoked")
	p.post(at+"/active", "active", "true").want(409, "final")
	p.submit(at+"/delete").want(200, "Key A key deleted").lacks(at)
	p.get(at).want(404)
}
