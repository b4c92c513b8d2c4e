package console_test

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"golang.org/x/net/html"
)

var memberTokens = regexp.MustCompile(`akm_[0-9A-Za-z]{58}`)

func permissions(t testing.TB, list ...string) (out []keystore.Permission) {
	t.Helper()
	for _, text := range list {
		p, err := keystore.ParsePermission(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func roles(t testing.TB, s *site, list ...keystore.Role) {
	t.Helper()
	for _, r := range list {
		if _, err := s.keys.CreateRole(ctx, root, r); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) findMember(t testing.TB, id string) *keystore.Member {
	t.Helper()
	m, err := s.keys.FindMember(ctx, root, id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPagePermissions checks that pages offer only permitted actions, and that forged forms for
// others are refused.
func TestPagePermissions(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "victim-ns"},
		keystore.Namespace{ID: "far"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "victim-role",
		Permissions: permissions(t, "orders:read")})
	if _, err := s.keys.CreatePlan(ctx, root,
		keystore.Plan{Namespace: "acme", Name: "victim-plan"}); err != nil {
		t.Fatal(err)
	}
	victim, token := s.member(t, "victim-member", "acme=orders:read")
	every := []string{"admin.webhooks:read", "admin.nodes:read", "admin.audit:read",
		"admin.usage:read", "admin.keys:read"}
	for _, kind := range []string{"roles", "plans", "namespaces", "members"} {
		for _, operation := range []string{"read", "create", "update", "delete"} {
			every = append(every, "admin."+kind+":"+operation)
		}
	}
	grants := func(namespace string, list []string) string {
		return namespace + "=orders:read," + strings.Join(list, ",")
	}
	admin := s.signedIn(t, "Admin", grants("*", every))
	nobody := s.signedIn(t, "Nobody", "acme=orders:read")
	viewer := s.signedIn(t, "Viewer", "*=@viewer")
	elsewhere := s.signedIn(t, "Elsewhere", grants("far", every))
	const at = "/apikeys/"
	const otherNamespace = "a member with it in another namespace"
	version := []string{"version", "1"}
	for _, test := range []struct {
		permission string // the required permission
		page       string // the page that offers it
		offer      string // the address of its link or form
		send       string // the address to post to; empty: read only
		fields     []string
	}{
		{"admin.usage:read", at + "keys", at + "overview", "", nil},
		{"admin.keys:read", at + "keys", at + "hygiene", "", nil},
		{"admin.roles:read", at + "keys", at + "roles", "", nil},
		{"admin.plans:read", at + "keys", at + "plans", "", nil},
		{"admin.namespaces:read", at + "keys", at + "namespaces", "", nil},
		{"admin.members:read", at + "keys", at + "members", "", nil},
		{"admin.audit:read", at + "keys", at + "audit", "", nil},
		{"admin.nodes:read", at + "keys", at + "nodes", "", nil},
		{"admin.webhooks:read", at + "keys", at + "webhooks", "", nil},
		{"admin.audit:read", at + "audit", at + "audit/verify", at + "audit/verify", nil},
		{"admin.roles:create", at + "roles", at + "roles/new", at + "roles/new",
			[]string{"name", "forged", "namespace", "acme", "permissions", "orders:read"}},
		{"admin.roles:update", at + "roles/acme/victim-role", at + "roles/acme/victim-role/edit",
			at + "roles/acme/victim-role/edit", append(version, "permissions", "orders:read")},
		{"admin.roles:delete", at + "roles/acme/victim-role", at + "roles/acme/victim-role/delete",
			at + "roles/acme/victim-role/delete", nil},
		{"admin.plans:create", at + "plans", at + "plans/new", at + "plans/new",
			[]string{"name", "forged", "namespace", "acme"}},
		{"admin.plans:update", at + "plans/acme/victim-plan", at + "plans/acme/victim-plan/edit",
			at + "plans/acme/victim-plan/edit", append(version, "description", "forged")},
		{"admin.plans:delete", at + "plans/acme/victim-plan", at + "plans/acme/victim-plan/delete",
			at + "plans/acme/victim-plan/delete", nil},
		{"admin.namespaces:create", at + "namespaces", at + "namespaces/new", at + "namespaces/new",
			[]string{"id", "forged"}},
		{"admin.namespaces:update", at + "namespaces/victim-ns", at + "namespaces/victim-ns/edit",
			at + "namespaces/victim-ns/edit",
			append(version, "name", "forged", "edit_policy", "free")},
		{"admin.namespaces:delete", at + "namespaces/victim-ns", at + "namespaces/victim-ns/delete",
			at + "namespaces/victim-ns/delete", nil},
		{"admin.members:create", at + "members", at + "members/new", at + "members/new",
			[]string{"name", "forged", "kind", "person", "grants[0].namespace", "acme",
				"grants[0].permissions", "orders:read"}},
		{"admin.members:update", at + "members/" + victim, at + "members/" + victim + "/edit",
			at + "members/" + victim + "/edit", []string{"name", "forged", "kind", "person"}},
		{"admin.members:update", at + "members/" + victim, at + "members/" + victim + "/disable",
			at + "members/" + victim + "/disable", []string{"confirm", "victim-member"}},
		{"admin.members:update", at + "members/" + victim, at + "members/" + victim + "/token",
			at + "members/" + victim + "/token", []string{"version", "2", "expires", "never"}},
		{"admin.members:delete", at + "members/" + victim, at + "members/" + victim + "/delete",
			at + "members/" + victim + "/delete", nil},
	} {
		without := s.signedIn(t, "Without "+test.permission,
			grants("*", slices.DeleteFunc(slices.Clone(every),
				func(p string) bool { return p == test.permission })))
		for who, p := range map[string]*person{"a member without it": without, "nobody": nobody,
			"a viewer": viewer, otherNamespace: elsewhere} {
			reads := strings.HasSuffix(test.permission, ":read")
			if who == "a viewer" && reads {
				continue
			}
			a := p.get(test.page)
			// A member that has the permission in another namespace is offered lists and forms for
			// new objects but refused here.
			if who != otherNamespace && a.Status == 200 && offers(a, test.offer) {
				t.Errorf("%s offers %s to %s", test.page, test.offer, who)
			}
			if who == otherNamespace && strings.Contains(test.offer, "victim") && a.Status == 200 {
				t.Errorf("%s is shown to %s", test.page, who)
			}
			if test.send == "" {
				if who != otherNamespace {
					p.get(test.offer).want(403)
				} else if a := p.get(test.offer); strings.Contains(a.Text, "victim") {
					t.Errorf("%s shows hidden objects to %s", test.offer, who)
				}
				continue
			}
			if a := p.post(test.send, test.fields...); a.Status != 403 && a.Status != 404 {
				t.Errorf("%s by %s: %d: %s", test.send, who, a.Status, a.Text)
			} else if strings.Contains(a.Text, "akm_") {
				t.Errorf("%s by %s shows a token", test.send, who)
			}
		}
		if !offers(admin.get(test.page).want(200), test.offer) {
			t.Errorf("%s does not offer %s", test.page, test.offer)
		}
		admin.get(strings.TrimSuffix(test.offer, "/verify")).want(200)
	}
	m := s.findMember(t, victim)
	if m.Name != "victim-member" || !m.Active || m.Version != 2 {
		t.Errorf("a forged form was accepted: %+v", m)
	}
	s.person(t).signIn(token).want(200, "victim-member")
	if list, err := s.keys.ListNamespaces(ctx, root); err != nil || len(list) != 4 {
		t.Errorf("namespaces: %v %v", list, err)
	}
	for _, r := range must(s.keys.ListRoles(ctx, root)) {
		if r.Name == "forged" || r.Name == "victim-role" && r.Version != 1 {
			t.Errorf("role %+v", r)
		}
	}
	if plans := must(s.keys.ListPlans(ctx, root)); len(plans) != 1 || plans[0].Version != 1 {
		t.Errorf("plans: %+v", plans)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// offers reports whether a page has a link to an address or a form that posts to it.
func offers(a answer, address string) (found bool) {
	each(a.Doc, func(n *html.Node) {
		found = found || attr(n, "href") == address || n.Data == "form" &&
			attr(n, "action") == address
	})
	return found
}

func TestRoles(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", Name: "Acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	a := p.submit("/apikeys/roles/new?namespace=acme", "name", "bil ling", "permissions_more",
		"orders:read\nOrders").want(422, "Orders")
	if name, _ := a.field("name"); name != "bil ling" {
		t.Errorf("the name is lost: %q", name)
	}
	if more, _ := a.field("permissions_more"); more != "orders:read\nOrders" {
		t.Errorf("the permissions are lost: %q", more)
	}
	if in, _ := a.field("namespace"); in != "acme" {
		t.Errorf("the namespace is lost: %q", in)
	}
	p.submit("/apikeys/roles/new?namespace=acme", "name", "billing", "permissions_more",
		"").want(422, "at least one permission")
	a = p.submit("/apikeys/roles/new", "name", "billing", "namespace", "acme", "permissions", "*",
		"permissions_more", "orders:read,orders:list").want(200, "Role billing created",
		"orders:list")
	if a.At.Path != "/apikeys/roles/acme/billing" {
		t.Errorf("led to %s", a.At)
	}
	p.submit("/apikeys/roles/new", "name", "billing", "namespace", "acme", "permissions_more",
		"read").want(409, "exists")
	p.submit("/apikeys/roles/new", "name", "shared", "namespace", "*", "permissions_more",
		"read").want(200, "Shared")

	form := p.get("/apikeys/roles/acme/billing/edit").want(200).fill("permissions", "-",
		"permissions_more", "orders:read", "description", " Reads <orders> ")
	p.post("/apikeys/roles/acme/billing/edit", form...).want(200, "Changes saved",
		"Applied on all servers (1 of 1)", "Reads &lt;orders&gt;").lacks("orders:list")
	edit := p.get("/apikeys/roles/acme/billing/edit")
	if text, _ := edit.field("description"); text != "Reads <orders>" {
		t.Errorf("the form has the description %q", text)
	}
	p.get("/apikeys/roles?q=reads").want(200, "Reads &lt;orders&gt;", "/apikeys/roles/acme/billing")
	p.submit("/apikeys/roles/acme/billing/edit", "description", strings.Repeat("x", 1001)).want(422,
		"at most 1000 characters")
	p.get("/apikeys/roles/*/viewer").want(200, "is built in").lacks("/viewer/edit",
		"/viewer/delete")
	p.post("/apikeys/roles/*/viewer/edit", "permissions", "read", "version", "1").want(409,
		"is built in")
	p.post("/apikeys/roles/*/viewer/delete").want(409, "is built in")

	id, _ := s.member(t, "<b>Grace</b>", "acme=@billing")
	p.get("/apikeys/roles/acme/billing").want(200, "&lt;b&gt;Grace&lt;/b&gt;",
		"/apikeys/members/"+id)
	p.get("/apikeys/roles/acme/billing/delete").want(200, "Cannot be deleted yet",
		"&lt;b&gt;Grace&lt;/b&gt;").lacks(`<button class="danger"`)
	p.post("/apikeys/roles/acme/billing/delete").want(409, "The role is in use in namespace",
		"&lt;b&gt;Grace")
	if _, _, err := s.keys.DeleteMember(ctx, root, id, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	p.submit("/apikeys/roles/acme/billing/delete").want(200, "Role billing deleted")
	p.get("/apikeys/roles/acme/billing").want(404)

	p.get("/apikeys/roles?q=VIEW").want(200, "viewer").lacks(">shared<")
	p.get("/apikeys/roles?q=nonesuch").want(200, "No matching roles")
	for range 60 {
		roles(t, s, keystore.Role{Namespace: "acme", Name: keystore.NewID(),
			Permissions: permissions(t, "read")})
	}
	a = p.get("/apikeys/roles").want(200, "Next page").lacks("viewer")
	var older string
	each(a.Doc, func(n *html.Node) {
		if attr(n, "rel") == "next" {
			older = attr(n, "href")
		}
	})
	p.get(older).want(200, "viewer", "First page")
}

// TestNamespaceCycle checks that a cycle created by SQL is shown, breaks no page and can be
// repaired in the console.
func TestNamespaceCycle(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=*,admin:*")
	parents := func(list map[string]string) {
		t.Helper()
		for _, id := range []string{"acme", "eu", "zz"} {
			ns := keystore.Namespace{ID: id, Parent: list[id], Version: 1}
			_, err := s.db.Update(ctx, func(tx keystore.Tx) error {
				err := tx.UpdateNamespace(&ns)
				if errors.Is(err, keystore.ErrNotFound) {
					err = tx.InsertNamespace(&ns)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, cycle := range []map[string]string{
		{"acme": "acme", "eu": "acme", "zz": "eu"},
		{"acme": "eu", "eu": "acme", "zz": "eu"},
		{"acme": "zz", "eu": "acme", "zz": "eu"},
	} {
		parents(map[string]string{"eu": "acme", "zz": "eu"})
		parents(cycle)
		p.get("/apikeys/namespaces").want(200, "/namespaces/acme", "/namespaces/eu",
			"/namespaces/zz", "Unreadable")
		for id := range cycle {
			p.get("/apikeys/namespaces?namespace="+id).want(200, "/namespaces/"+id)
			p.get("/apikeys/namespaces/"+id).want(200, "grants nothing until it is repaired")
			p.get("/apikeys/namespaces/" + id + "/edit").want(200)
			p.get("/apikeys/namespaces/" + id + "/delete").want(200)
			p.get("/apikeys/keys/new?namespace=" + id).want(200)
		}
		p.submit("/apikeys/namespaces/acme/edit", "parent", "").want(200,
			"Changes saved").lacks("until it is repaired")
		p.get("/apikeys/namespaces").want(200).lacks("Unreadable")
	}
}

func TestNamespaces(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	add := func(fields ...string) answer { return p.submit("/apikeys/namespaces/new", fields...) }
	add("id", "acme", "name", "<i>Acme</i>", "kind", "account", "parent", "").want(200,
		"Namespace acme created", "&lt;i&gt;Acme")
	add("id", "eu", "parent", "acme", "kind", "work space", "reach", "user group\n\n shop ",
		"edit_policy", "grow_only", "key_roles_rule", "some").want(200, "user group",
		"At least one", "Permissions can only be added")
	add("id", "zz", "parent", "eu", "key_roles_rule", "exactly", "key_roles", "viewer").want(200,
		"Exactly")
	a := add("id", "no good", "name", "kept", "parent", "eu", "key_roles_rule", "exactly",
		"key_roles", "nobody", "token_prefix", "x_", "reach", "a\nb").want(422,
		"Must start with a letter or digit",
		"Role &#34;nobody&#34; does not exist", "one that the configuration accepts")
	for name, want := range map[string]string{"id": "no good", "name": "kept", "parent": "eu",
		"key_roles": "nobody", "token_prefix": "x_", "reach": "a\nb"} {
		if got, _ := a.field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	add("id", "x", "parent", "", "key_roles_rule", "exactly").want(422, "Enter at least one role")

	add("id", "confined", "parent", "", "child_prefix", "co-").want(200, "Child prefix", "co-")
	add("id", "w9", "parent", "confined").want(422, "ust begin with &#34;co-&#34;")
	confined := p.get("/apikeys/namespaces/confined/edit").want(200)
	if prefix, _ := confined.field("child_prefix"); prefix != "co-" {
		t.Errorf("child_prefix in the form is %q", prefix)
	}
	p.submit("/apikeys/namespaces/confined/edit", "child_prefix", "").want(200, "Changes saved",
		"does not restrict the ids of descendants")
	if _, _, err := s.keys.DeleteNamespace(ctx, root, "confined",
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}

	order := func(path string) string {
		var ids []string
		each(p.get(path).want(200).Doc, func(n *html.Node) {
			id, ok := strings.CutPrefix(attr(n, "href"), "/apikeys/namespaces/")
			if ok && id != "new" && !strings.Contains(id, "?") {
				ids = append(ids, id)
			}
		})
		return strings.Join(ids, " ")
	}
	if got := order("/apikeys/namespaces"); got != "acme eu zz default" {
		t.Errorf("the tree is %q", got)
	}
	if got := order("/apikeys/namespaces?q=SPACE"); got != "eu" {
		t.Errorf("found %q", got)
	}
	p.get("/apikeys/namespaces?namespace=eu").want(200, "deep-0",
		"deep-1").lacks("/namespaces/acme")
	s.member(t, "Grace", "eu=@viewer")
	if _, err := s.keys.CreateMember(ctx, root,
		keystore.Member{Name: "Connie",
			Grants: []keystore.Grant{{Namespace: "acme", Connected: true,
				Roles: []string{"viewer"}}}}); err != nil {
		t.Fatal(err)
	}
	p.get("/apikeys/namespaces/eu").want(200, "Grace", "Connie", "including children",
		"/apikeys/namespaces/zz", "&lt;i&gt;Acme")
	// it includes direct children only
	p.get("/apikeys/namespaces/zz").want(200).lacks("Grace", "Connie")

	form := p.get("/apikeys/namespaces/zz/edit").want(200, "Moving the namespace requires").
		lacks(`name="id"`, `name="kind"`)
	if parent, _ := form.field("parent"); parent != "eu" ||
		strings.Contains(form.Text, `<option value="zz"`+">zz") &&
			strings.Contains(form.Text, `id="f-parent"><option value="zz"`) {
		t.Errorf("the parent is %q", parent)
	}
	p.submit("/apikeys/namespaces/zz/edit", "parent", "acme", "key_roles_rule", "any").want(200,
		"Changes saved", "Any or none")
	if got := order("/apikeys/namespaces"); got != "acme eu zz default" {
		t.Errorf("the tree is %q", got)
	}
	p.post("/apikeys/namespaces/zz/edit", "parent", "zz", "version", "2", "edit_policy",
		"free").want(422, "Must not be the namespace itself")
	p.post("/apikeys/namespaces/zz/edit", "parent", "acme", "version", "1", "edit_policy",
		"free").want(412)

	p.get("/apikeys/namespaces/eu/delete").want(200, "Cannot be deleted yet", "Grace")
	p.post("/apikeys/namespaces/eu/delete").want(409, "is in use")
	p.get("/apikeys/namespaces/default").want(200).lacks("/default/delete")
	p.post("/apikeys/namespaces/default/delete").want(409, "cannot be deleted")
	p.submit("/apikeys/namespaces/zz/delete").want(200, "Namespace zz deleted")
	p.get("/apikeys/namespaces/zz").want(404)
}

func TestMembers(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu", Parent: "acme"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "local",
		Permissions: permissions(t, "read")})
	p := s.signedIn(t, "Ada", "*=@client-admin")

	// Adding and removing namespaces keeps the other values.
	form := p.get("/apikeys/members/new").want(200,
		`<option value="" selected>Choose a namespace</option>`).
		lacks(`<option value="" selected></option>`).
		fill("name", "Grace <b>", "login", "grace", "grants[0].namespace", "acme",
			"grants[0].roles", "viewer", "grants[0].other_roles", "local")
	a := p.post("/apikeys/members/new", append(form, "add", "grant")...).want(200)
	form = a.fill("grants[1].namespace", "eu", "grants[1].roles", "developer",
		"grants[1].connected", "true", "grants[1].permissions", "orders:nope:x")
	a = p.post("/apikeys/members/new", form...).want(422, "orders:nope:x")
	for name, want := range map[string]string{"name": "Grace <b>", "grants[0].namespace": "acme",
		"grants[0].other_roles": "local", "grants[1].namespace": "eu",
		"grants[1].permissions": "orders:nope:x"} {
		if got, _ := a.field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	wrong := false
	each(a.Doc, func(n *html.Node) {
		wrong = wrong || attr(n, "id") == "f-grants[1]" &&
			strings.Contains(textOf(n), "orders:nope:x")
	})
	if !wrong {
		t.Error("the error is not shown in its grant")
	}
	a = p.post("/apikeys/members/new", append(a.fill(), "remove", "0")...).want(200)
	if in, _ := a.field("grants[0].namespace"); in != "eu" {
		t.Errorf("the remaining grant is in %q", in)
	}
	if _, exists := a.field("grants[1].namespace"); exists {
		t.Error("the grant was not removed")
	}
	a = p.post("/apikeys/members/new", a.fill("grants[0].permissions", "orders:read")...).want(200,
		"created", "Grace &lt;b&gt;", "including children")
	id := strings.TrimPrefix(a.At.Path, "/apikeys/members/")
	m := s.findMember(t, id)
	if m.Login != "grace" || len(m.Grants) != 1 || !m.Grants[0].Connected ||
		m.Grants[0].Roles[0] != "developer" ||
		m.Grants[0].Permissions[0].String() != "orders:read" {
		t.Fatalf("created %+v", m)
	}
	p.submit("/apikeys/members/new", "name", "Other", "login", "grace", "grants[0].namespace",
		"acme", "grants[0].roles", "viewer").want(409, "Another member has this login")
	p.submit("/apikeys/members/new", "name", "").want(422, "Is required")

	// A token is shown once. Sending the form again creates no other.
	at := "/apikeys/members/" + id
	fields := p.get(at+"/token").want(200, "is revoked, and its sessions", `name="zone"`).fill()
	p.post(at+"/token", "version", "1", "expires", "custom").want(422, "Must be a day")
	p.post(at+"/token", "version", "1", "expires", "never", "allowed_ips", "nowhere").want(422,
		"nowhere")
	token := memberTokens.FindString(p.post(at+"/token", fields...).want(201,
		"It will not be shown again").Text)
	grace := s.person(t)
	grace.signIn(token).want(200, "Grace &lt;b&gt;")
	if a := p.post(at+"/token", fields...).want(200,
		"has been changed"); memberTokens.MatchString(a.Text) {
		t.Error("a token is shown twice")
	}
	grace.get("/apikeys/keys").want(200, "Sign out")
	second := memberTokens.FindString(p.submit(at+"/token", "expires", "30d").want(201).Text)
	if a := grace.get("/apikeys/keys"); a.At.Path != "/apikeys/sign-in" || second == token {
		t.Errorf("signed in with the previous token, at %s", a.At)
	}
	for _, path := range []string{at, at + "/token", "/apikeys/audit", "/apikeys/members"} {
		p.get(path).lacks(second, token)
	}

	// Edits change only the given fields.
	p.submit(at+"/edit", "name", "Grace", "login", "", "grants[0].connected", "-").want(200,
		"Changes saved").lacks("including children")
	if m := s.findMember(t, id); m.Name != "Grace" || m.Login != "" || m.Grants[0].Connected ||
		len(m.Grants[0].Roles) != 1 {
		t.Errorf("edited to %+v", m)
	}
	p.post(at+"/edit", "name", "x", "kind", "person", "version", "1").want(412)

	// A disabled member is signed out at the next click.
	grace.signIn(second).want(200)
	p.submit(at+"/disable").want(422, "Type the name Grace to confirm")
	p.submit(at+"/disable", "confirm", " grace ").want(200, "disabled; all keys", "Enable member")
	if a := grace.get("/apikeys/keys"); a.At.Path != "/apikeys/sign-in" {
		t.Errorf("a disabled member is at %s", a.At)
	}
	p.post(at+"/enable").want(200, "enabled")
	grace.signIn(second).want(200)

	k, _, err := s.keys.MintKey(ctx, root,
		manage.KeySpec{Name: "Hers", Namespace: "eu", Owner: id,
			Home: &keystore.Grant{Permissions: permissions(t, "read")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.get(at).want(200, "Hers", "/apikeys/keys/"+k.ID)
	p.get(at+"/delete").want(200, "Cannot be deleted yet", "Hers", "Transfer keys to…")
	p.get(at+"/disable").want(200, ">1 active key</strong>", "Hers", "/transfer")
	p.post(at+"/delete").want(409, "owns keys that are not revoked (1)")
	if _, _, err := s.keys.RevokeKey(ctx, root, k.ID, "", false,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	p.submit(at+"/delete").want(200, "Member Grace deleted")
	p.get(at).want(404)
	if a := grace.get("/apikeys/keys"); a.At.Path != "/apikeys/sign-in" {
		t.Errorf("a deleted member is at %s", a.At)
	}
	p.get("/apikeys/members?q=ADA").want(200, ">you<")
	p.get("/apikeys/members?q=nothing").want(200, "No matching members")
	labelled := must(s.keys.CreateMember(ctx, root,
		keystore.Member{Name: "Joan", Labels: map[string]string{"team": "<erp>"}}))
	p.get("/apikeys/members/"+labelled.ID).want(200, "Labels", "&lt;erp&gt;")
}

// TestEditVisibleGrants checks that a manager of one namespace changes only the grants there.
func TestEditVisibleGrants(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "globex"})
	id, _ := s.member(t, "Grace", "acme=@viewer", "globex=@viewer")
	p := s.signedIn(t, "Ada", "acme=@client-admin")
	at := "/apikeys/members/" + id
	p.get(at).want(200, "acme", at+"/edit").lacks("globex", at+"/token", at+"/active", at+"/delete")
	p.get(at+"/edit").want(200, "you cannot change its name").lacks(`name="name"`, `name="login"`)
	p.submit(at+"/edit", "grants[0].roles", "developer").want(200, "Changes saved", "developer")
	m := s.findMember(t, id)
	if len(m.Grants) != 2 || !slices.ContainsFunc(m.Grants,
		func(g keystore.Grant) bool { return g.Namespace == "globex" && g.Roles[0] == "viewer" }) {
		t.Errorf("grants after the edit: %+v", m.Grants)
	}
	p.submit(at+"/edit", "name", "Other", "kind", "person").want(403, "admin.members:update")
	p.submit(at + "/token").want(403).lacks("akm_")
}

func TestAudit(t *testing.T) {
	start := time.Now()
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "other"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "billing",
		Permissions: permissions(t, "orders:read", "orders:list")})
	if _, _, err := s.keys.EditRole(ctx, root, keystore.RoleID{Namespace: "acme", Name: "billing"},
		manage.RolePatch{Permissions: permissions(t, "orders:read", "refunds:write")},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	p := s.signedIn(t, `<script>alert(1)</script>`, "*=@client-admin")
	p.get("/apikeys/audit?action=role.edit").want(200, "Role edited", "/apikeys/roles/acme/billing",
		`<del><span class="visually-hidden">removed </span><bdi>orders:list</bdi></del>`,
		`<ins><span class="visually-hidden">added </span><bdi>refunds:write</bdi></ins>`,
		"192.0.2.1").lacks("<bdi>orders:read</bdi>", ">Namespace created</span>")
	p.get("/apikeys/audit?object=acme").want(200,
		">Namespace created</span>").lacks(">Role edited</span>")
	p.get("/apikeys/audit?namespace=other").want(200, ">Namespace created</span>",
		"/apikeys/namespaces/other").lacks("/apikeys/namespaces/acme", ">Role edited</span>")
	now := time.Now()
	for _, zone := range []string{"", "Pacific/Kiritimati", "Pacific/Pago_Pago"} {
		at, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		p.get("/apikeys/audit?from="+start.In(at).Format(time.DateOnly)+"&to="+
			now.In(at).Format(time.DateOnly)+"&zone="+zone).want(200, ">Role edited</span>")
	}
	p.get("/apikeys/audit?from="+now.In(time.FixedZone("", 14*3600)).AddDate(0, 0,
		1).Format(time.DateOnly)+"&zone=Pacific/Kiritimati").want(200, "No matching changes")
	p.get("/apikeys/audit?actor=m_nobody").want(200, "No matching changes")
	p.get("/apikeys/audit?to=2020-01-01").want(200, "No matching changes")
	p.get("/apikeys/audit?from=2020-01-01&action=member.token").want(200, "Member token created",
		"&lt;script&gt;").lacks("akm_")
	id, _ := s.member(t, "Grace")
	if _, _, _, err := s.keys.NewMemberToken(ctx, root, id, manage.TokenSpec{},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	p.get("/apikeys/audit?action=key.revoke").want(200, "Member token revoked",
		"/apikeys/members/"+id).lacks(">Key revoked</span>")
	// An invalid filter is not ignored. An empty one is.
	p.get("/apikeys/audit?from=yesterday").want(422,
		"Invalid day").lacks(">Role edited</span>")
	p.get("/apikeys/audit?from=2026-01-02&to=2026-01-01").want(422)
	p.get("/apikeys/audit?namespace=other&namespace=").want(400, "Invalid address")
	p.get("/apikeys/audit?namespace=%zz").want(400, "Invalid address")
	p.get("/apikeys/audit?namespace=&from=&to=&actor=&action=&object=&zone=").want(200,
		">Role edited</span>")
	p.get("/apikeys/audit?cursor=nonsense").want(200, "its address was invalid")
	p.post("/apikeys/audit/verify").want(200, "The audit log is intact",
		"The hash of the last row")

	viewer := s.signedIn(t, "Some", "acme=@viewer")
	viewer.get("/apikeys/audit").want(200, ">Role edited</span>").lacks("other", "Verify log")
	viewer.post("/apikeys/audit/verify").want(403)

	for range 60 {
		roles(t, s, keystore.Role{Namespace: "acme", Name: keystore.NewID(),
			Permissions: permissions(t, "read")})
	}
	var older string
	each(p.get("/apikeys/audit?action=role.create").want(200, "Next page").Doc, func(n *html.Node) {
		if attr(n, "rel") == "next" {
			older = attr(n, "href")
		}
	})
	p.get(older).want(200, "billing", "First page").lacks("Next page")
}

func TestNodes(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@viewer")
	p.get("/apikeys/nodes").want(200, "1 server, all up to date", "Serves this page", "Active",
		"Up to date", "30 seconds")
	viewer := s.signedIn(t, "Some", "default=@viewer")
	viewer.get("/apikeys/nodes").want(403)
	viewer.get("/apikeys/keys").lacks("/apikeys/nodes")
}

func TestWebhooks(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=admin.webhooks:*,admin.audit:read")
	p.get("/apikeys/webhooks").want(200, "No webhooks")
	status := 500
	hook := keystore.Webhook{ID: "wh_1", Holder: s.keys.Incarnation(),
		WebhookState: keystore.WebhookState{URL: "https://example.com/<h>", Attempts: 2,
			RetryAt: time.Now().Add(time.Hour), Events: []string{"key.*"},
			Deliveries: []keystore.WebhookDelivery{
				{Event: "evt_2", Type: "key.revoked", Status: status, Error: "answered 500",
					Took: 1500 * time.Millisecond},
				{Event: "evt_1", Type: "key.created", Status: 204},
			}}}
	if _, err := s.db.SaveWebhooks(ctx, []keystore.Webhook{hook}); err != nil {
		t.Fatal(err)
	}
	p.get("/apikeys/webhooks").want(200, "https://<wbr>example.<wbr>com/<wbr>&lt;h&gt;", "Retrying",
		"The receiver answered 500.", "/apikeys/webhooks/wh_1")
	p.get("/apikeys/webhooks/wh_1").want(200, "evt_2", "key.revoked", "1.5 s", "Delivered",
		"Failed attempts", "Send test event", "Replay events", "Retry now")
	p.get("/apikeys/webhooks/missing").want(404)
	p.post("/apikeys/webhooks/wh_1/test").want(200, "Test event queued")
	p.post("/apikeys/webhooks/wh_1", "from", "x").want(422, "Must be a day")
	p.post("/apikeys/webhooks/wh_1", "from", "2999-01-01").want(422, "latest event")
	p.post("/apikeys/webhooks/wh_1", "from", "2020-01-01").want(200, "Replay started",
		"1 January 2020")
	p.post("/apikeys/webhooks/wh_1", "from", "").want(200, "Retry started")
	p.get("/apikeys/audit").want(200, "Webhook replayed", "Webhook tested")

	viewer := s.signedIn(t, "Some", "*=admin.webhooks:read")
	viewer.get("/apikeys/webhooks/wh_1").want(200, "evt_2").lacks("Send test event", "Replay", "Retry now")
	viewer.post("/apikeys/webhooks/wh_1/test").want(403)
	viewer.post("/apikeys/webhooks/wh_1").want(403)
	s.signedIn(t, "Other", "default=admin.webhooks:*").get("/apikeys/webhooks").want(403)
}

// TestPastedToken checks that a token in a form or the address is neither stored nor shown.
func TestPastedToken(t *testing.T) {
	s := open(t)
	p, nobody := s.signedIn(t, "Ada", "*=@client-admin"), s.person(t)
	_, token := s.member(t, "Grace", "*=@viewer")
	for _, path := range []string{
		"/apikeys/keys?q=" + token, "/apikeys/audit?namespace=" + token,
		"/apikeys/keys?owner=x" + token + "x", "/apikeys/roles?" + token + "=1",
		"/apikeys/keys?token=" + token, "/apikeys/keys/" + token, "/apikeys/" + token + "?q=1",
		"/apikeys/sign-in?next=/apikeys/keys?q=" + token,
	} {
		for _, visitor := range []*person{p, nobody} {
			visitor.get(path).want(400, "Invalid address").lacks(token)
		}
	}
	for _, path := range []string{"/apikeys/keys/new", "/apikeys/roles/new", "/apikeys/members/new",
		"/apikeys/namespaces/new"} {
		p.post(path, "name", "see "+token, "id", "acme", "permissions", "read").want(422,
			"A field contains a token").lacks(token)
	}
	p.get("/apikeys/audit").want(200).lacks(token)
}

// TestRoleKeys checks that the lists of roles and plans count the keys of each.
func TestRoleKeys(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "other"})
	for _, namespace := range []string{"acme", "other"} {
		if _, err := s.keys.CreateRole(ctx, root, keystore.Role{Namespace: namespace, Name: "clerk",
			Permissions: keystore.MustParsePermissions("read")}); err != nil {
			t.Fatal(err)
		}
		plan(t, s, namespace, "free", keystore.Limits{})
	}
	plan(t, s, "acme", "gold", keystore.Limits{})
	for _, namespace := range []string{"acme", "acme", "other"} {
		if _, _, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: "key", Namespace: namespace,
			Limits: keystore.KeyLimits{Plan: "free"},
			Home:   &keystore.Grant{Roles: []string{"clerk"}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.signedIn(t, "Pat", "*=@client-admin").get("/apikeys/plans").want(200, ">2 keys<span",
		">1 key<span", ">0 keys<span", `href="/apikeys/keys?namespace=acme&amp;plan=free"`)
	s.signedIn(t, "Ada", "*=@client-admin").get("/apikeys/roles").want(200, ">2 keys<span",
		">1 key<span", ">0 keys<span")
	s.signedIn(t, "Eve", "acme=admin.roles:read").get("/apikeys/roles").want(200, ">0 keys<span").
		lacks("2 keys") // it may not read those of others
}
