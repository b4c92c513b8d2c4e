package console_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestTitles checks that no two pages have the same title, and that the title begins with the
// result of a form.
func TestTitles(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "billing"})
	for _, ns := range []string{"acme", "billing"} {
		roles(t, s, keystore.Role{Namespace: ns, Name: "billing",
			Permissions: permissions(t, "orders:read")})
	}
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, _ := p.createKey("name", "billing")
	for range 60 {
		p.createKey("name", "x")
	}
	next := ""
	each(p.get("/apikeys/keys").Doc, func(n *html.Node) {
		if attr(n, "rel") == "next" {
			next = attr(n, "href")
		}
	})
	seen := make(map[string]string)
	for _, path := range []string{"/keys", next, "/keys?q=bill", "/keys?status=active",
		"/keys?namespace=acme", "/keys?role=billing", "/keys?sort=name", "/keys/new",
		"/keys/" + id, "/keys/" + id + "/edit",
		"/keys/" + id + "/rotate", "/keys/" + id + "/revoke", "/overview", "/hygiene",
		"/hygiene/never_used", "/roles", "/roles?q=bill", "/roles?namespace=acme", "/roles/new",
		"/roles/billing/billing/edit", "/roles/acme/billing/delete", "/namespaces",
		"/namespaces/billing", "/namespaces/billing/edit", "/namespaces/new", "/members",
		"/members/new", "/plans", "/plans/new", "/audit", "/audit?action=role.create", "/nodes",
		"/webhooks",
		"/nothing"} {
		title := p.get("/apikeys" + strings.TrimPrefix(path, "/apikeys")).title()
		if other, again := seen[title]; again {
			t.Errorf("%s and %s have the title %q", other, path, title)
		}
		seen[title] = path
	}
	if got := p.submit("/apikeys/keys/"+id+"/edit", "name", "bills").want(200,
		`<div tabindex="-1" autofocus>`).title(); got != "Changes saved · bills · Keys" {
		t.Errorf("after a change the title is %q", got)
	}
	if got := p.submit("/apikeys/keys/new", "name", "").title(); got !=
		"Error: Create key · Keys" {
		t.Errorf("after an error the title is %q", got)
	}
}

// TestTheme checks that the server knows the theme, so that no page shows another one first.
func TestTheme(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	p.get("/apikeys/keys").want(200, `<html lang="en">`, `content="light dark"`,
		`value="" aria-pressed="true"`)
	a := p.post("/apikeys/theme", "theme", "dark", "next", "/apikeys/roles").want(200,
		`<html lang="en" data-theme="dark">`, `name="color-scheme" content="dark"`,
		`value="dark" aria-pressed="true"`)
	if a.At.Path != "/apikeys/roles" {
		t.Errorf("the theme leads to %s", a.At)
	}
	s.person(t).get("/apikeys/sign-in").lacks("data-theme")
	p.post("/apikeys/theme", "theme", `dark" onload="x`, "next", "x").want(200, `<html lang="en">`)
	p.post("/apikeys/theme", "theme", "light").want(204) // the script stays on the page
	p.get("/apikeys/roles").want(200, `data-theme="light"`)
	p.post("/apikeys/theme", "theme", "", "next", "//evil.example").want(200, `<html lang="en">`)
}

// TestFirstSteps checks the checklist of a deployment without keys.
func TestFirstSteps(t *testing.T) {
	s := open(t)
	s.apart = true
	p := s.signedIn(t, "Ada", "*=@client-admin")
	a := p.get("/apikeys/keys").want(200, "First steps", "Require keys for your API", "openapi",
		"/apikeys/members/new").lacks(`id="filter"`, `class="tabs"`)
	if n := strings.Count(a.Text, ">Done<"); n != 0 {
		t.Errorf("%d steps are done", n)
	}
	s.api.Declare([]api.Operation{{Permission: "orders:search", Class: "read", Method: "GET",
		Path: "/orders"}})
	s.member(t, "Ben", "default=@viewer")
	if n := strings.Count(p.get("/apikeys/keys").Text, ">Done<"); n != 3 {
		t.Errorf("%d steps are done, want 3", n)
	}
	empty := p.get("/apikeys/keys?namespace=default").want(200, "No keys yet in").lacks("First steps")
	if n := strings.Count(empty.Text, ">Create key</a>"); n != 2 { // one is in the list of shortcuts
		t.Errorf("%d links create a key", n)
	}
	s.signedIn(t, "Vera", "*=@viewer").get("/apikeys/keys").want(200,
		"No keys yet").lacks("First steps")
	s.signedIn(t, "Dev", "default=@developer").get("/apikeys/keys").want(200,
		"First steps").lacks("Invite others")
	p.createKey("name", "CI")
	p.get("/apikeys/keys").want(200, "CI", `id="filter"`, `class="tabs"`).lacks("First steps")
	p.get("/apikeys/keys?q=missing").want(200, "No keys match", `id="filter"`)
}

// sample returns the text of the element with an id.
func sample(a answer, id string) (text string) {
	each(a.Doc, func(n *html.Node) {
		if attr(n, "id") == id {
			text = textOf(n)
		}
	})
	return text
}

// runCurl sends the body of a curl command to the REST interface, and decodes the created object.
func (s *site) runCurl(t testing.TB, curl, path string, created any) {
	t.Helper()
	if !strings.HasPrefix(curl, "curl "+s.URL+"/apikeys/v1"+path+" \\\n") {
		t.Errorf("the call is %s", curl)
	}
	_, body, _ := strings.Cut(curl, "-d '")
	body = strings.ReplaceAll(strings.TrimSuffix(body, "'"), `'\''`, "'")
	r := httptest.NewRequest("POST", "/apikeys/v1"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.api.ServeHTTP(w, r.WithContext(admin.WithCaller(r.Context(), root)))
	if err := json.Unmarshal(w.Body.Bytes(), created); err != nil || w.Code != 201 {
		t.Fatalf("%s: %d %s", curl, w.Code, w.Body)
	}
}

// TestSamplesOfForms checks the commands that create what a form describes.
func TestSamplesOfForms(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	for path, test := range map[string]struct {
		fields []string
		want   string
	}{
		"/roles": {[]string{"namespace", "acme", "name", "billing", "description", "For bills",
			"permissions_more", "orders:read bills:*"}, `roles create acme/billing \
  --permission orders:read \
  --permission 'bills:*' \
  --description 'For bills'`},
		"/plans": {[]string{"namespace", "*", "name", "gold", "rate_limit_rule", "limit",
			"rate_limit.requests", "9", "rate_limit.per", "1m", "quota_rule", "limit",
			"quota.requests", "7", "quota.per", "day", "quota.shadow", "true"}, `plans create gold \
  --rate 9/1m \
  --quota 7/day \
  --shadow-quota`},
		"/members": {[]string{"name", "Ann", "kind", "service", "login", "ann",
			"grants[0].namespace", "acme", "grants[0].roles", "viewer", "grants[0].permissions",
			"orders:read", "grants[0].connected", "true"}, `members create \
  --name Ann \
  --kind service \
  --login ann \
  --grant acme+=orders:read,@viewer`},
		"/namespaces": {[]string{"id", "acme-fr", "name", "Acme France", "kind", "workspace",
			"parent", "acme", "edit_policy", "grow_only", "key_roles_rule", "some", "reach",
			"team\nuser group", "max_lifetime", "90d", "idle.then", "inactivate", "idle.after",
			"30d", "on_leak", "revoke"}, `namespaces create acme-fr \
  --kind workspace \
  --name 'Acme France' \
  --parent acme \
  --edit-policy grow_only \
  --key-role '*' \
  --reach team \
  --reach 'user group' \
  --max-lifetime 90d \
  --idle 30d=inactivate \
  --on-leak revoke`},
	} {
		a := p.submit("/apikeys"+path+"/new", append(test.fields, "again", "code")...).want(200)
		if got, want := sample(a, "as-cli"), "caddy apikeys "+test.want; got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
		var created map[string]any
		s.runCurl(t, sample(a, "as-curl"), path, &created)
	}
	p.submit("/apikeys/plans/new", "name", "x", "rate_limit_rule", "limit", "rate_limit.requests",
		"many", "again", "code").want(200, "Correct these fields first:").lacks(`id="as-cli"`)

	// A form without a name has no samples either.
	for _, path := range []string{"keys", "roles", "plans", "members", "namespaces"} {
		p.submit("/apikeys/"+path+"/new", "rate_limit_rule", "unlimited", "again", "code").
			want(200, "Correct these fields first:", "Is required").lacks(`id="as-cli"`)
	}
}

// TestSamples checks the commands that create a key like the one in a form or on a page.
func TestSamples(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu", Parent: "acme"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "billing",
		Permissions: permissions(t, "orders:read")})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	fields := []string{"name", "Ada's $(id)", "namespace", "acme", "access", "custom",
		"permissions_more", "orders:read orders:search", "roles", "billing", "connected", "true",
		"grants", "eu", "access:eu", "read_only", "connected:eu", "true", "allowed_ips",
		"10.0.0.0/8", "metadata", "team=the erp", "expires", "custom", "expires_day", "2037-01-31",
		"rate_limit_rule", "limit", "rate_limit.requests", "100", "rate_limit.per", "1s",
		"rate_limit.burst", "200", "quota_rule", "unlimited", "active", "-"}
	const mint = `caddy apikeys keys mint \
  --name 'Ada'\''s $(id)' \
  --namespace acme \
  --permission orders:read \
  --permission orders:search \
  --role billing \
  --connected \
  --grant eu+=%s \
  --rate 100/1s \
  --burst 200 \
  --quota unlimited \
  --expires 2037-01-31T00:00:00Z \
  --allow-ip 10.0.0.0/8 \
  --metadata 'team=the erp' \
  --inactive`
	a := p.submit("/apikeys/keys/new", append(fields, "again", "code")...).want(200)
	if got, want := sample(a, "as-cli"), fmt.Sprintf(mint, "read_only"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if list, _, _ := s.keys.ListKeys(ctx, root, keystore.KeyFilter{}, "", 10); len(list) > 0 {
		t.Error("showing the samples created a key")
	}
	var minted api.Minted
	s.runCurl(t, sample(a, "as-curl"), "/keys", &minted)
	a = p.get("/apikeys/keys/" + minted.Key.ID).want(200).lacks(minted.Token)
	if got, want := sample(a, "as-cli"), fmt.Sprintf(mint, "read"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}

	// A form with errors has no samples, and says so.
	p.submit("/apikeys/keys/new", "name", "x", "metadata", "team", "again", "code").want(200,
		"Correct these fields first:", `<a href="#f-metadata">Metadata</a>: The line`).lacks(`id="as-cli"`)
	s.signedIn(t, "Vera", "*=@viewer").get("/apikeys/keys/" + minted.Key.ID).want(200).
		lacks(`id="as-cli"`)
}
