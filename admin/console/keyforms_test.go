package console_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// endSession signs out all sessions of a member and returns its new token.
func (s *site) endSession(t testing.TB, id string) string {
	t.Helper()
	_, secret, _, err := s.keys.NewMemberToken(ctx, root, id, manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// TestFormsAreKept checks that a form keeps its input when the session ends: the form is shown
// again with its input after the sign-in, and nothing is saved until it is submitted again.
func TestFormsAreKept(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "billing",
		Permissions: permissions(t, "orders:read")})
	plan(t, s, "acme", "gold", keystore.Limits{})
	other, _ := s.member(t, "Ben", "acme=@viewer")
	id, token := s.member(t, "Ada", "*=@client-admin")
	p := s.person(t)
	p.signIn(token).want(200)
	key, _ := p.createKey("name", "ERP", "namespace", "acme")
	for path, fields := range map[string][]string{
		"/apikeys/keys/new?namespace=acme": {"name", "Shop", "namespace", "acme", "metadata",
			"team=erp", "access", "custom", "permissions_more", "orders:read"},
		"/apikeys/keys/" + key + "/edit":   {"name", "ERP 2", "allowed_ips", "10.0.0.0/8"},
		"/apikeys/roles/new":               {"name", "shop", "permissions_more", "orders:read"},
		"/apikeys/roles/acme/billing/edit": {"description", "Bills", "permissions_more", "x:read"},
		"/apikeys/plans/new":               {"name", "free", "rate_limit.requests", "7"},
		"/apikeys/plans/acme/gold/edit":    {"description", "Pays", "rate_limit.per", "1h"},
		"/apikeys/namespaces/new":          {"id", "acme-eu", "parent", "acme", "reach", "a b"},
		"/apikeys/namespaces/acme/edit":    {"name", "Acme Inc.", "edit_policy", "grow_only"},
		"/apikeys/members/new": {"name", "Cleo", "grants[0].namespace", "acme",
			"grants[0].permissions", "read"},
		"/apikeys/members/" + other + "/edit": {"name", "Benjamin", "login", "ben"},
	} {
		form := p.get(path).want(200).fill(fields...)
		token = s.endSession(t, id)
		a := p.post(path, form...).want(200, "The form shows it again after you sign in",
			"Your session has ended")
		next, _ := a.field("next")
		if next != path {
			t.Errorf("%s: leads to %s", path, next)
		}
		a = p.post("/apikeys/sign-in", "token", token, "next", next).want(200,
			"Nothing has been saved yet")
		if a.At.RequestURI() != path {
			t.Errorf("%s: led to %s", path, a.At)
		}
		for i := 0; i < len(fields); i += 2 {
			if got, _ := a.field(fields[i]); got != fields[i+1] {
				t.Errorf("%s: %s is %q, want %q", path, fields[i], got, fields[i+1])
			}
		}
		p.get(path).want(200).lacks("Nothing has been saved yet") // it is shown once
		if a := p.post(path, a.fill()...); a.Status != 200 && a.Status != 201 {
			t.Errorf("%s: sending it again: %d %s", path, a.Status, a.Text)
		}
	}
	if got := grantsOf(s.key(t, key)); got != "acme [read] []" || s.key(t, key).Name != "ERP 2" {
		t.Errorf("the key is %q with %s", s.key(t, key).Name, got)
	}
}

// TestFormsAreNotKept checks which forms are not kept: those that contain a token or are too long,
// and those that another deployment, another page or another member has sealed.
func TestFormsAreNotKept(t *testing.T) {
	s := open(t)
	id, token := s.member(t, "Ada", "*=@client-admin")
	const path = "/apikeys/keys/new"
	var many []string
	for i := range 3000 {
		many = append(many, "permissions", fmt.Sprintf("r%x:o%x", i*7919%65536, i*104729%65536))
	}
	const secret, long = "it contains a token", "is too long to be kept"
	for _, test := range []struct {
		why    string
		fields []string
	}{{secret, []string{"name", "see " + token}}, {secret, []string{"name", "x", token, "x"}},
		{long, many}} {
		p := s.person(t)
		p.signIn(token).want(200)
		next := s.endSession(t, id)
		a := p.post(path, test.fields...).want(200, test.why).lacks(token)
		if kept := strings.Contains(a.Text, `id="lost"`); kept != (test.why == long) {
			t.Errorf("the form that %s: the script says that it has kept it: %v", test.why, kept)
		}
		at, _ := url.Parse(s.URL + path)
		if cookies := p.http.Jar.Cookies(at); len(cookies) > 0 {
			t.Errorf("the browser has %v", cookies)
		}
		token = next
	}
	p := s.person(t)
	p.signIn(token).want(200)
	form := p.get("/apikeys/roles/new").fill("name", "sealed")
	token = s.endSession(t, id)
	p.post("/apikeys/roles/new", form...).want(200, "The form shows it again")
	at, _ := url.Parse(s.URL + "/apikeys/roles/new")
	sealed := p.http.Jar.Cookies(at)
	if len(sealed) != 1 || len(sealed[0].Value) > 4000 {
		t.Fatalf("the browser has %v", sealed)
	}
	p.signIn(token).want(200)
	for _, value := range []string{sealed[0].Value, "x" + sealed[0].Value, "", "AAAA"} {
		at, _ := url.Parse(s.URL + path)
		p.http.Jar.SetCookies(at, []*http.Cookie{{Name: sealed[0].Name, Value: value, Path: path}})
		p.get(path).want(200).lacks("Nothing has been saved yet", "sealed")
	}
	p.get("/apikeys/roles/new").want(200, "Nothing has been saved yet", `value="sealed"`)

	s.endSession(t, id)
	p.post("/apikeys/roles/new", form...).want(200, "The form shows it again")
	_, bens := s.member(t, "Ben", "*=@client-admin")
	p.signIn(bens).want(200)
	p.get("/apikeys/roles/new").want(200).lacks("Nothing has been saved yet", "sealed")
	p.post("/apikeys/roles/new", append(form, "again", "kept")...).want(200).
		lacks("Nothing has been saved yet", "sealed")
}

// TestScriptKeepsForms checks that all forms show what the script has kept, without changing
// anything.
func TestScriptKeepsForms(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "gold",
		Permissions: permissions(t, "orders:read")})
	plan(t, s, "acme", "gold", keystore.Limits{})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	key, _ := p.createKey("name", "ERP")
	carl, _ := s.member(t, "Carl")
	for path, field := range map[string]string{"keys/new": "name", "roles/new": "description",
		"plans/new": "name", "members/new": "name", "namespaces/new": "id",
		"keys/" + key + "/edit": "name", "roles/acme/gold/edit": "description",
		"plans/acme/gold/edit": "description", "members/" + carl + "/edit": "name",
		"namespaces/acme/edit": "name"} {
		path = "/apikeys/" + path
		a := p.submit(path, field, "kept", "again", "kept").want(200, "Nothing has been saved yet")
		if got, _ := a.field(field); got != "kept" {
			t.Errorf("%s: %s is %q", path, field, got)
		}
		if strings.HasSuffix(path, "/edit") {
			if got, _ := p.get(path).field(field); got == "kept" {
				t.Errorf("%s has changed the object", path)
			}
		}
	}
}

// expired returns a key of Ada that has expired.
func expired(t testing.TB, s *site, owner string) string {
	t.Helper()
	k, _, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: "Old", Owner: owner,
		ExpiresAt:  s.keys.Now().Add(300 * time.Millisecond),
		Home:       &keystore.Grant{Permissions: permissions(t, "orders:read", "refunds:write")},
		AllowedIPs: nil, Metadata: map[string]string{"team": "erp"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for s.keys.Now().Before(k.ExpiresAt) {
		time.Sleep(10 * time.Millisecond)
	}
	return k.ID
}

// TestExpiredKey checks that no page rotates the token of an expired key, because the new token
// would be refused too, and that a key like it can be created instead.
func TestExpiredKey(t *testing.T) {
	s := open(t)
	s.api.Declare([]api.Operation{{Permission: "orders:search", Class: "read", Method: "GET",
		Path: "/orders"}})
	ada, token := s.member(t, "Ada", "*=@client-admin")
	p := s.person(t)
	p.signIn(token).want(200)
	id := expired(t, s, ada)
	at := "/apikeys/keys/" + id
	like := "/apikeys/keys/new?like=" + id
	a := p.get(at).want(200, "Create a key like this", like)
	if offers(a, at+"/rotate") {
		t.Error("the token of an expired key can be rotated")
	}
	p.get(at+"/rotate").want(409, "A new token would be refused like the old one", like)
	a = p.post(at+"/rotate", "version", "1", "grace", "0s").want(409, like)
	if tokens.MatchString(a.Text) || s.key(t, id).Version != 1 {
		t.Error("the token was rotated")
	}

	a = p.get(like).want(200, "With the values of")
	for name, want := range map[string]string{"name": "Old", "access": "custom",
		"metadata": "team=erp", "permissions": "orders:read", "permissions_more": "refunds:write",
		"active": "true", "expires": "90d", "owner": ada} {
		if got, _ := a.field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	a = p.post(like, a.fill("name", "New")...).want(201, "It will not be shown again")
	next := tokens.FindString(a.Text)
	if got := grantsOf(s.key(t, next[3:15])); got != "default [orders:read refunds:write] []" {
		t.Error(got)
	}

	// Permissions that the visitor lacks are left out, and an unreadable key cannot be copied.
	small := s.signedIn(t, "Small", "default=admin.keys:create,admin.keys:read,orders:read")
	a = small.get(like).want(200, "Permissions that you lack are left out")
	if got, _ := a.field("permissions_more"); got != "" {
		t.Errorf("permissions_more is %q", got)
	}
	small.post(like, a.fill("expires", "never")...).want(201)
	s.signedIn(t, "Blind", "default=admin.keys:create,orders:read").get(like).want(404)

	// A revoked key is refused before its form is filled in.
	p.submit(at+"/revoke", "confirm", "revoke").want(200, "Create a key like this")
	for _, page := range []string{"/edit", "/rotate", "/revoke"} {
		p.get(at+page).want(409, "create another one")
	}
	other, _ := p.createKey("name", "Other")
	s.signedIn(t, "Viewer", "default=@viewer").get("/apikeys/keys/"+other+"/revoke").want(403,
		"admin.keys:revoke")
}

// TestKeyLikeInOtherNamespaces checks that a copy has the grants in other namespaces.
func TestKeyLikeInOtherNamespaces(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu", Parent: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	k, _, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: "ERP", Namespace: "acme",
		Home: &keystore.Grant{Permissions: permissions(t, "read")},
		Grants: []keystore.Grant{{Namespace: "eu", Permissions: permissions(t, "orders:search"),
			Connected: true}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := p.submit("/apikeys/keys/new?like=" + k.ID).want(201)
	if got := grantsOf(s.key(t, tokens.FindString(a.Text)[3:15])); got !=
		"acme [read] []; eu [orders:search] [] connected" {
		t.Error(got)
	}
}

// disabled returns the inputs that cannot be changed, as "name value".
func (a answer) disabled() string {
	var list []string
	each(a.Doc, func(n *html.Node) {
		if has(n, "disabled") {
			name := attr(n, "name")
			if n.Data == "option" {
				name = attr(n.Parent, "name")
			}
			list = append(list, name+" "+attr(n, "value"))
		}
	})
	return strings.Join(list, ", ")
}

// TestGrowOnlyForm checks that all choices that would remove something are locked, and that a
// refusal is shown at its field with the name of the key.
func TestGrowOnlyForm(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", EditPolicy: keystore.EditGrowOnly},
		keystore.Namespace{ID: "eu", Parent: "acme"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "billing",
		Permissions: permissions(t, "bills:show")})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	p.get("/apikeys/keys/new?namespace=acme").want(200, "are permanent")
	p.get("/apikeys/keys/new?namespace=default").want(200).lacks("are permanent")
	id, _ := p.createKey("name", "ERP", "namespace", "acme", "access", "custom",
		"permissions_more", "orders:search", "roles", "billing", "grants", "eu", "access:eu",
		"read_write", "connected:eu", "true")
	edit := "/apikeys/keys/" + id + "/edit"
	a := p.get(edit).want(200, "The key would lose orders:search.", "can only be added")
	want := "access read_only, access roles, roles billing, grants eu, access:eu same, " +
		"access:eu read_only, connected:eu true"
	if got := a.disabled(); got != want {
		t.Errorf("locked: %s, want %s", got, want)
	}
	for _, test := range []struct {
		field  string
		change []string
	}{
		{"access", []string{"access", "read_only"}},
		{"permissions", []string{"access", "custom", "permissions_more", "read"}},
		{"roles", []string{"roles", "-"}},
		{"grants", []string{"access:eu", "read_only"}},
	} {
		p.post(edit, a.fill(test.change...)...).want(422, `href="#f-`+test.field+`"`,
			`id="f-`+test.field+`-error"`, "The key &#34;ERP&#34; would lose",
			"Permissions of keys in acme can only be added.").lacks("key " + id)
	}
	p.submit(edit, "name", "Renamed").want(200, "Changes saved")
	if got := grantsOf(s.key(t, id)); got !=
		"acme [orders:search] [billing]; eu [read write] [] connected" {
		t.Error(got)
	}
}

// TestConflict checks that an edit of a key that someone else has changed in the meantime keeps the
// input, shows the changes, and asks which values to take if both have changed the same field.
func TestConflict(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, _ := p.createKey("name", "ERP", "access", "custom", "permissions_more", "orders:read",
		"metadata", "team=erp")
	edit := "/apikeys/keys/" + id + "/edit"
	form := p.get(edit).fill("name", "Mine", "allowed_ips", "192.0.2.1")

	ben := s.signedIn(t, "Ben", "*=@client-admin")
	ben.submit(edit, "name", "Theirs", "metadata", "team=shop", "permissions_more",
		"orders:read orders:write").want(200)
	a := p.post(edit, form...).want(412, "Someone changed this key while you were editing",
		"You had not changed Access, Metadata, so the form now", "<bdi>Ben</bdi>", "Keep mine",
		"<bdi>Mine</bdi>", "Take theirs", "<bdi>Theirs</bdi>", "<bdi>team=shop</bdi></ins>")
	for name, want := range map[string]string{"name": "Mine", "allowed_ips": "192.0.2.1",
		"metadata": "team=shop", "permissions_more": "orders:read\norders:write",
		"take:name": "mine"} {
		if got, _ := a.field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if k := s.key(t, id); k.Name != "Theirs" {
		t.Errorf("the key is %q", k.Name)
	}

	// The choice survives a review, and applies to the version that was shown.
	a = p.post(edit, a.fill("take:name", "theirs", "again", "review")...).want(200,
		"Review changes", "192.0.2.1").lacks("Mine")
	p.post(edit, a.fill()...).want(200, "Changes saved")
	k := s.key(t, id)
	if got := fmt.Sprint(k.Name, k.AllowedIPs, k.Metadata, grantsOf(k)); got !=
		"Theirs[192.0.2.1/32] map[team:shop]default [orders:read orders:write] []" {
		t.Error(got)
	}

	// A change of something that the form does not show is no conflict.
	form = p.get(edit).fill("name", "Rotated")
	if _, _, _, err := s.keys.RotateKey(ctx, root, id, 0, manage.ChangeOptions{}); err != nil {
		t.Log(err) // root does not act for Ada
		ben.post("/apikeys/keys/"+id+"/active", "active", "true").want(200)
	}
	p.post(edit, form...).want(200, "Changes saved", "Rotated")

	// Without the permission, nobody is named.
	form = p.get(edit).fill("name", "Mine")
	ben.submit(edit, "name", "Theirs").want(200)
	blind := s.signedIn(t, "Blind", "default=*,admin.keys:read,admin.keys:update")
	a = blind.post(edit, form...).want(412, "Keep mine", "Take theirs").lacks("Ben")
	blind.post(edit, a.fill("take:name", "mine")...).want(200, "Changes saved")
	if k := s.key(t, id); k.Name != "Mine" {
		t.Errorf("the key is %q", k.Name)
	}
}

// TestReview checks that the Enter key and the button lead to a summary, which changes nothing.
func TestReview(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu", Parent: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	const path = "/apikeys/keys/new?namespace=acme"
	first := true
	each(p.get(path).Doc, func(n *html.Node) { // Enter in a field presses the first button
		if n.Data == "button" && attr(n.Parent, "class") == "stack" && first {
			first = false
			if attr(n, "name") != "again" || attr(n, "value") != "review" {
				t.Errorf("the first button is %s=%s", attr(n, "name"), attr(n, "value"))
			}
		}
	})
	a := p.submit(path, "name", "ERP", "access", "custom", "permissions_more",
		"orders:read", "grants", "eu", "metadata", "team=erp", "again", "review").want(200,
		"Review key", "Nothing is created yet", "orders:read", "orders:read in eu", "team=erp",
		"<dt>Expires</dt>")
	if list, _, _ := s.keys.ListKeys(ctx, root, keystore.KeyFilter{}, "", 10); len(list) > 0 {
		t.Fatal("the review created a key")
	}
	back := p.post(path, a.fill("again", "form")...).want(200)
	if got, _ := back.field("metadata"); got != "team=erp" {
		t.Errorf("the metadata is %q", got)
	}
	a = p.post(path, a.fill()...).want(201, "It will not be shown again")
	id := tokens.FindString(a.Text)[3:15]
	if left := time.Until(s.key(t, id).ExpiresAt); left < 89*24*time.Hour ||
		left > 91*24*time.Hour {
		t.Errorf("by default, the key expires in %v", left)
	}
	p.submit(path, "name", "", "again", "review").want(422, "Is required")

	edit := "/apikeys/keys/" + id + "/edit"
	p.submit(edit, "again", "review").want(200, "You have made no changes")
	a = p.submit(edit, "permissions_more", "orders:write", "name", "ERP 2", "grants", "-",
		"again", "review").want(200, "Review changes", "Nothing is saved yet",
		`removed </span><bdi>orders:read</bdi></del>`,
		`added </span><bdi>orders:write</bdi></ins>`, `removed </span><bdi>ERP</bdi></del>`,
		`removed </span><bdi>orders:read in eu</bdi></del>`).lacks("team=erp</bdi>")
	if s.key(t, id).Version != 1 {
		t.Error("the review changed the key")
	}
	p.post(edit, a.fill()...).want(200, "Changes saved", "ERP 2")
	if got := grantsOf(s.key(t, id)); got != "acme [orders:write] []" {
		t.Error(got)
	}
}

// inAddress escapes the characters of ids as templates do.
var inAddress = strings.NewReplacer("[", "%5b", "]", "%5d")

// TestAllErrorsAtOnce checks that a form shows its own errors and those of the REST interface
// together, each at its input.
func TestAllErrorsAtOnce(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	wrong := []string{"name", strings.Repeat("x", 201), "access", "custom", "permissions_more",
		"Orders:read", "allowed_ips", "10.0.0.0/99", "metadata", "team", "grants_more", "nowhere",
		"new_roles[0].name", "no good", "rate_limit_rule", "limit", "rate_limit.requests", "many"}
	ids := []string{"f-name", "f-permissions", "f-allowed_ips", "f-metadata", "f-grants",
		"f-new_roles[0].name", "f-rate_limit.requests"}
	id, _ := p.createKey("name", "ERP")
	edit := "/apikeys/keys/" + id + "/edit"
	for _, path := range []string{"/apikeys/keys/new", edit} {
		if path == edit { // new roles and other namespaces are changed one after the other
			ids, wrong = slices.DeleteFunc(ids, func(s string) bool { return s == "f-grants" }),
				slices.Delete(wrong, slices.Index(wrong, "grants_more"),
					slices.Index(wrong, "nowhere")+1)
		}
		a := p.submit(path, append([]string{"again", "review"}, wrong...)...).want(422)
		for _, field := range ids {
			described := false
			each(a.Doc, func(n *html.Node) {
				described = described || attr(n, "id") == field &&
					strings.Contains(attr(n, "aria-describedby"), field+"-error")
			})
			if !described || !strings.Contains(a.Text, `href="#`+inAddress.Replace(field)+`"`) {
				t.Errorf("%s: no error at %s", path, field)
			}
		}
		a.lacks("must not be empty unless")
	}
	if list, _, _ := s.keys.ListKeys(ctx, root, keystore.KeyFilter{}, "", 10); len(list) != 1 ||
		list[0].Version != 1 {
		t.Errorf("%d keys", len(list))
	}

	namespaces(t, s, keystore.Namespace{ID: "acme"})
	plan(t, s, "acme", "gold", keystore.Limits{})
	p.submit("/apikeys/plans/new", "name", "no good", "namespace", "acme", "rate_limit.requests",
		"many").want(422, `href="#f-name"`, `id="f-name-error"`, `href="#f-rate_limit.requests"`)
	p.submit("/apikeys/plans/acme/gold/edit", "description", strings.Repeat("x", 1001),
		"rate_limit_rule", "limit").want(422, `id="f-description-error"`,
		`id="f-rate_limit.requests-error"`)
	p.submit("/apikeys/namespaces/new", "id", "!", "key_roles_rule", "exactly", "child_prefix", "!",
		"quota_rule", "limit").want(422, `id="f-id-error"`, `id="f-key_roles-error"`,
		`id="f-child_prefix-error"`, `id="f-quota.requests-error"`)
	a := p.submit("/apikeys/members/new", "name", "", "grants[0].namespace", "",
		"grants[0].permissions", "Orders:read").want(422, `id="f-grants[0].permissions-error"`,
		`href="#f-name"`, `href="#f-grants%5b0%5d.namespace"`, "Choose a namespace.")
	if v, _ := a.field("grants[0].namespace"); v != "" {
		t.Errorf("the namespace is %q", v)
	}
}

// TestUnknownRules checks that a form with a rule that the console does not know changes nothing.
func TestUnknownRules(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	limits := keystore.Limits{Rate: keystore.RateLimit{Requests: 5, Per: time.Second, Burst: 5},
		Quota: keystore.Quota{Units: 7, Per: keystore.Day}}
	plan(t, s, "acme", "gold", limits)
	id, _ := p.createKey("name", "ERP", "rate_limit_rule", "limit", "rate_limit.requests", "5",
		"quota_rule", "limit", "quota.requests", "7")
	for _, path := range []string{"keys/" + id + "/edit", "keys/new", "plans/acme/gold/edit",
		"plans/new", "namespaces/acme/edit", "namespaces/new"} {
		for _, rule := range []string{"", "None", "limited"} {
			fields := []string{"name", "x", "id", "x", "rate_limit_rule", rule, "quota_rule", rule}
			errors := []string{`id="f-rate_limit_rule-error"`, `id="f-quota_rule-error"`}
			switch {
			case strings.HasPrefix(path, "namespaces"):
				fields = append(fields, "key_roles_rule", rule)
				errors = append(errors, `id="f-key_roles_rule-error"`)
			case path == "keys/new":
				fields = append(fields, "expires", rule)
				errors = append(errors, `href="#f-expires_at"`)
			}
			p.submit("/apikeys/"+path, fields...).want(422, errors...)
		}
	}
	if k := s.key(t, id); k.Rate == (keystore.RateLimit{}) || k.Quota == (keystore.Quota{}) {
		t.Errorf("%+v", k.Limits)
	}
	list, err := s.keys.ListPlans(ctx, root)
	if err != nil || len(list) != 1 || list[0].Limits != limits {
		t.Errorf("%+v %v", list, err)
	}
}
