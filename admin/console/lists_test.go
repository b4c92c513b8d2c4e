package console_test

import (
	"encoding/csv"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// imported adds n keys named PREFIX 000, PREFIX 001, …, each changed by a function.
func (s *site) imported(t testing.TB, prefix string, n int, change func(int, *manage.KeySpec)) {
	t.Helper()
	specs := make([]manage.ImportSpec, n)
	for i := range specs {
		spec := manage.KeySpec{Name: fmt.Sprintf("%s %03d", prefix, i),
			Home: &keystore.Grant{Permissions: permissions(t, "read")}}
		if change != nil {
			change(i, &spec)
		}
		specs[i] = manage.ImportSpec{KeySpec: spec, Line: i,
			Token: fmt.Sprintf("credential-%s-%03d", prefix, i)}
	}
	if done, refused, err := s.keys.ImportKeys(ctx, root, specs, false, nil); done != n ||
		err != nil {
		t.Fatal(done, refused, err)
	}
}

func (a answer) title() (title string) {
	each(a.Doc, func(n *html.Node) {
		if n.Data == "title" && n.Parent.Data == "head" { // charts have titles too
			title = strings.TrimSuffix(textOf(n), " · API keys")
		}
	})
	return title
}

// disable disables a member.
func (s *site) disable(t testing.TB, id string) {
	t.Helper()
	off := false
	if _, _, err := s.keys.EditMember(ctx, root, id, manage.MemberPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
}

// heads returns the headers of the rows of a list.
func (a answer) heads() (heads []string) {
	each(a.Doc, func(n *html.Node) {
		if n.Data == "th" && attr(n, "scope") == "row" {
			heads = append(heads, textOf(n))
		}
	})
	return heads
}

// bothWays pages through a list forwards and backwards, and returns the number of its pages.
func (p *person) bothWays(address string) int {
	p.t.Helper()
	a := p.get(address).want(200)
	if link(a, "Previous page") != "" || link(a, "First page") != "" {
		p.t.Errorf("%s: the first page has a previous one", address)
	}
	var pages [][]string
	for {
		pages = append(pages, a.heads())
		next := link(a, "Next page")
		if next == "" {
			break
		}
		a = p.get(next).want(200)
		if want := fmt.Sprintf("page %d", len(pages)+1); !strings.Contains(a.title(), want) {
			p.t.Errorf("%s has the title %q, want %s", a.At, a.title(), want)
		}
	}
	for n := len(pages) - 2; n >= 0; n-- {
		a = p.get(link(a, "Previous page")).want(200)
		if !slices.Equal(a.heads(), pages[n]) {
			p.t.Errorf("%s: back on page %d are %v, want %v", address, n+1, a.heads(), pages[n])
		}
		if n > 0 && a.At.Query().Get("page") != fmt.Sprint(n+1) {
			p.t.Errorf("page %d is at %s", n+1, a.At)
		}
	}
	if a.At.RequestURI() != address {
		p.t.Errorf("%s: back at %s", address, a.At)
	}
	return len(pages)
}

// TestPreviousPage pages forwards and backwards through lists.
func TestPreviousPage(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	s.imported(t, "Key", 230, func(i int, spec *manage.KeySpec) {
		if i%3 > 0 { // keys with the same expiry, and without
			spec.ExpiresAt = time.Now().Add(time.Duration(1+i%7) * 24 * time.Hour)
		}
	})
	for i := range 101 {
		name := fmt.Sprintf("object-%03d", i)
		roles(t, s, keystore.Role{Namespace: "default", Name: name,
			Permissions: permissions(t, "read")})
		namespaces(t, s, keystore.Namespace{ID: name})
	}
	for address, pages := range map[string]int{
		"keys": 5, "keys?sort=name": 5, "keys?sort=-expires_at": 5,
		"keys?q=key": 5, "roles": 3, "namespaces": 2, "audit": 9, "hygiene/expires_soon": 2,
	} {
		if n := p.bothWays("/apikeys/" + address); n != pages {
			t.Errorf("%s: %d pages, want %d", address, n, pages)
		}
	}
	for _, address := range []string{"before=x", "page=7", "page=x&sort=name", "before=x&page=2"} {
		if a := p.get("/apikeys/keys?" + address).want(200); len(a.rows()) != 50 {
			t.Errorf("%s: %d keys", address, len(a.rows()))
		}
	}
	u, err := url.Parse(link(p.get("/apikeys/keys"), "Next page"))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Del("page")
	if unknown := p.get("/apikeys/keys?" + q.Encode()).want(200); link(unknown,
		"First page") != "/apikeys/keys" || link(unknown, "Previous page") != "" {
		t.Error("a page without a number has the wrong links")
	}
	// An address that would become too long loses its first cursors.
	q.Set("before", strings.Repeat("1_x ", 1000)+"last")
	q.Set("page", "1002")
	a := p.get("/apikeys/keys?" + q.Encode()).want(200)
	if next, previous := link(a, "Next page"), link(a, "Previous page"); len(next) > 3500 ||
		!strings.Contains(previous, "cursor=last") || !strings.Contains(previous, "page=1001") {
		t.Errorf("next: %s\nprevious: %s", next, previous)
	}
}

// TestActiveFilter checks that the pages of active keys are full, however many keys of disabled
// owners there are.
func TestActiveFilter(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	gone, _ := s.member(t, "Gone", "*=@client-admin")
	s.imported(t, "Usable", 60, nil)
	s.imported(t, "Refused", 120, func(_ int, spec *manage.KeySpec) { spec.Owner = gone })
	s.disable(t, gone)
	a := p.get("/apikeys/keys?status=active").want(200, "50 of 60 keys").lacks("Refused 0")
	if n := len(a.rows()); n != 50 {
		t.Errorf("the first page has %d keys", n)
	}
	a = p.get(link(a, "Next page")).want(200, "10 of 60 keys").lacks("Next page", "Refused 0")
	if n := len(a.rows()); n != 10 {
		t.Errorf("the second page has %d keys", n)
	}
}

// TestOwnKeys checks the list of a member that may read only its own keys.
func TestOwnKeys(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Dee", "default=orders:read,admin.keys:create")
	p.createKey("name", "ERP", "access", "custom", "permissions_more", "orders:read")
	p.get("/apikeys/keys").want(200, "ERP", `">Dee</bdi>`).lacks("All namespaces</option>")
}

// TestGrantLinks checks that grants lead to their roles and namespaces.
func TestGrantLinks(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	id, _ := s.member(t, "Vera", "acme=@viewer")
	p := s.signedIn(t, "Ada", "*=@client-admin")
	for _, page := range []string{"members", "members/" + id, "namespaces/acme"} {
		p.get("/apikeys/"+page).want(200, `href="/apikeys/roles/%2A/viewer"`,
			`href="/apikeys/namespaces/acme`)
	}
}

// TestCounts checks the number of keys that lists show.
func TestCounts(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	viewer := s.signedIn(t, "Vera", "acme=@viewer")
	gone, _ := s.member(t, "Gone", "*=@client-admin")
	s.imported(t, "Key", 120, func(i int, spec *manage.KeySpec) {
		switch {
		case i < 60:
			spec.Namespace = "acme"
		case i < 70:
			spec.Owner = gone
		}
		spec.Inactive = i == 0
	})
	s.disable(t, gone)
	for address, want := range map[string]string{
		"": "50 of 120 keys", "?namespace=acme": "50 of 60 keys", "?status=inactive": "1 key",
		"?status=owner_disabled": "10 keys", "?status=active&sort=name": "50 of 109 keys",
		"?q=key+00": "10 keys", "?q=key": "50 keys on this page",
		"?q=key&namespace=acme": "50 of 60 keys",
	} {
		p.get("/apikeys/keys"+address).want(200, "<p>"+want+"</p>")
	}
	viewer.get("/apikeys/keys").want(200, "<p>50 of 60 keys</p>")
	p.get(link(p.get("/apikeys/keys?namespace=acme"), "Next page")).want(200,
		"<p>10 of 60 keys</p>")
}

// TestBookmarks checks that addresses are short, and that one with invalid parameters shows the
// first page with a notice.
func TestBookmarks(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	s.imported(t, "Key", 60, nil)
	for address, want := range map[string]string{
		"keys?q=&status=&owner=&role=&sort=":      "keys",
		"keys?namespace=&q=Key&status=":           "keys?q=Key",
		"keys?sort=name&cursor=":                  "keys?sort=name",
		"audit?actor=&action=&namespace=":         "audit",
		"hygiene?namespace=":                      "hygiene",
		"keys?cursor=nonsense":                    "keys",
		"keys?sort=name&cursor=nonsense":          "keys?sort=name",
		"keys?status=odd&q=Key":                   "keys?q=Key",
		"keys?status=odd&sort=odd&cursor=odd":     "keys",
		"keys?page=3&before=x&cursor=nonsense":    "keys",
		"keys?sort=odd&namespace=default&q=Key+0": "keys?namespace=default&q=Key+0",
	} {
		a := p.get("/apikeys/" + address).want(200)
		if got := strings.TrimPrefix(a.At.RequestURI(), "/apikeys/"); got != want {
			t.Errorf("%s leads to %s, want %s", address, got, want)
		}
		if strings.Contains(a.Text, "its address was invalid") != (strings.Contains(address,
			"nonsense") || strings.Contains(address, "odd")) {
			t.Errorf("%s: %s", address, a.Text)
		}
	}
	// Every page is complete, and says what was ignored.
	p.get("/apikeys/keys?status=odd").want(200, "Status must be one of: active", "50 of 60 keys")
}

// TestFilters checks titles, the filters that can be removed, and the lists to choose from.
func TestFilters(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "billing",
		Permissions: permissions(t, "orders:read")})
	if _, err := s.keys.CreatePlan(ctx, root, keystore.Plan{Namespace: "acme",
		Name: "gold"}); err != nil {
		t.Fatal(err)
	}
	p := s.signedIn(t, "Ada", "*=@client-admin")
	ben, _ := s.member(t, "Ben", "*=@client-admin")
	key, _, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: "Till", Namespace: "acme",
		Owner: ben, Limits: keystore.KeyLimits{Plan: "gold"},
		Home: &keystore.Grant{Roles: []string{"billing"}, Permissions: permissions(t, "orders:read",
			"orders:write", "stock:read", "stock:write", "tax:read")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const all = "/apikeys/keys?namespace=acme&owner=%s&plan=gold&q=till&role=billing&status=active"
	a := p.get(fmt.Sprintf(all, ben)).want(200, "and 2 more")
	if want := "Keys in acme – search till, active, owner Ben, role billing, plan gold"; a.title() !=
		want {
		t.Errorf("title %q, want %q", a.title(), want)
	}
	for filter, gone := range map[string]string{"Search: till": "q", "Status: Active": "status",
		"Owner: Ben": "owner", "Role: billing": "role", "Plan: gold": "plan"} {
		u, err := url.Parse(link(a, "Remove the filter "+filter+" ×"))
		if err != nil {
			t.Fatal(err)
		}
		if q := u.Query(); len(q) != 5 || q.Has(gone) {
			t.Errorf("without %s: %s", filter, u)
		}
		p.get(u.String()).want(200, "Till")
	}
	if got := link(a, "Clear filters"); got != "/apikeys/keys?namespace=acme" {
		t.Errorf("Clear filters leads to %s", got)
	}
	for text, want := range map[string]string{
		"billing": "/apikeys/roles/acme/billing", "acme": "/apikeys/namespaces/acme",
		"Ben": "/apikeys/members/" + ben, "Edit": "/apikeys/keys/" + key.ID + "/edit",
	} {
		if got := link(a, text); got != want+"?namespace=acme" {
			t.Errorf("%s leads to %s", text, got)
		}
	}
	for _, name := range []string{"role", "plan", "owner", "status"} {
		if value, exists := a.field(name); !exists || value == "" {
			t.Errorf("the filter %s is %q", name, value)
		}
	}
	// The visitor types names that it may not read. No link leads to a page that refuses it.
	viewer := s.signedIn(t, "Vera", "acme=admin.keys:read")
	a = viewer.get("/apikeys/keys?role=billing").want(200, "Till", `id="role-filter" name="role" `+
		`value="billing"`)
	for _, text := range []string{"billing", "acme", "Edit", ben} {
		if got := link(a, text); got != "" {
			t.Errorf("a viewer is offered %s at %s", text, got)
		}
	}
	// A visitor who sees only its own keys is asked for no names of roles and plans.
	s.signedIn(t, "Dee", "acme=admin.keys:create").get("/apikeys/keys?status=active").want(200,
		`id="status-filter"`).lacks(`id="role-filter"`, `id="plan-filter"`)
	mine := p.get("/apikeys/keys?owner=" + key.Owner)
	if mine.title() != "Keys – owner Ben" {
		t.Errorf("title %q", mine.title())
	}
	p.createKey("name", "My own")
	mine = p.get(link(mine, "My keys"))
	if mine.title() != "My keys" || strings.Contains(mine.Text, ">Owner</th>") {
		t.Errorf("my keys have the title %q: %s", mine.title(), mine.Text)
	}
}

// TestStatuses checks how lists and pages of keys show their state.
func TestStatuses(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	gone, _ := s.member(t, "Gone <b>", "*=@client-admin")
	now := time.Now()
	keys := make(map[string]*keystore.Key)
	mint := func(name string, spec manage.KeySpec) {
		t.Helper()
		spec.Name, spec.Home = name, &keystore.Grant{Permissions: permissions(t, "read", "write")}
		k, _, err := s.keys.MintKey(ctx, root, spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = k
	}
	mint("alive", manage.KeySpec{})
	mint("asleep", manage.KeySpec{Inactive: true})
	mint("orphan", manage.KeySpec{Owner: gone})
	mint("ending", manage.KeySpec{ExpiresAt: now.Add(3*24*time.Hour + time.Hour)})
	mint("later", manage.KeySpec{ExpiresAt: now.Add(60*24*time.Hour + time.Hour)})
	mint("ended", manage.KeySpec{ExpiresAt: now.Add(time.Second / 2)})
	mint("revoked", manage.KeySpec{ExpiresAt: now.Add(24 * time.Hour)})
	s.disable(t, gone)
	if _, _, err := s.keys.RevokeKey(ctx, root, keys["revoked"].ID, "lost <i>", false,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	for s.keys.Now().Before(keys["ended"].ExpiresAt) {
		time.Sleep(10 * time.Millisecond)
	}
	list := p.get("/apikeys/keys").want(200)
	for name, want := range map[string]struct {
		badge string
		row   string // in the list
		texts []string
		lacks []string
	}{
		"alive": {"active", "", []string{">Permissions</h2>", "Every call (read and write)",
			"In effect"}, []string{"Permissions (not in effect)", ">*</li>"}},
		"asleep": {"inactive", "", []string{"Permissions (not in effect)", "until it is activated"},
			[]string{"In effect"}},
		"orphan": {"owner_disabled", "", []string{"Permissions (not in effect)",
			"/apikeys/members/" + gone, "Gone &lt;b&gt;", "Every call (read and write)"}, []string{"A key never has"}},
		"ending": {"active", `<span class="badge warning"><time`,
			[]string{"Expires <time", ">in 3 days<", ">Permissions</h2>"}, nil},
		"later": {"active", "<td data-label=\"Expires\"><time", nil, []string{`notice warning`}},
		"ended": {"expired", "", []string{"Expired on <time", "Permissions (not in effect)",
			"Create a key like this"}, []string{"Rotate token", "In effect"}},
		"revoked": {"revoked", "<td data-label=\"Expires\"><time", []string{
			"Revoked by <bdi>root</bdi> on <time", "Permissions (not in effect)",
			"Reason: <bdi>lost &lt;i&gt;</bdi>"}, []string{"In effect", "Edit key", "A key never"}},
	} {
		a := p.get("/apikeys/keys/"+keys[name].ID).want(200, want.texts...).lacks(want.lacks...)
		badge := `<span class="badge ` + want.badge + `">`
		if !strings.Contains(a.Text, badge) {
			t.Errorf("%s is not %s", name, want.badge)
		}
		_, row, _ := strings.Cut(list.Text, "/keys/"+keys[name].ID)
		row, _, _ = strings.Cut(row, "</tr>")
		if !strings.Contains(row, badge) || !strings.Contains(row, want.row) {
			t.Errorf("the row of %s: %s", name, row)
		}
	}
	for status, want := range map[string]string{
		"active": "later ending alive", "inactive": "asleep", "expired": "ended",
		"owner_disabled": "orphan", "revoked": "revoked",
	} {
		if got := strings.Join(p.get("/apikeys/keys?status="+status).want(200).rows(),
			" "); got != want {
			t.Errorf("%s keys: %s, want %s", status, got, want)
		}
	}
}

// TestRefusedForms checks that a form is refused if its submission would be.
func TestRefusedForms(t *testing.T) {
	s := open(t)
	id := s.mint(t, "Till")
	viewer := s.signedIn(t, "Vera", "*=@viewer")
	deleter := s.signedIn(t, "Del", "*=admin.keys:read,admin.keys:revoke")
	viewer.get("/apikeys/keys/"+id+"/revoke").want(403, "admin.keys:revoke in namespace default")
	viewer.get("/apikeys/keys/"+id+"/delete").want(403, "admin.keys:delete")
	deleter.get("/apikeys/keys/"+id+"/revoke").want(200, "Type <code><bdi>revoke</bdi></code> to confirm")
	deleter.submit("/apikeys/keys/"+id+"/revoke", "confirm", "revoke").want(200)
	deleter.get("/apikeys/keys/"+id+"/revoke").want(409, "The key has been revoked")
}

// mint creates a key of root that may read, and returns its id.
func (s *site) mint(t testing.TB, name string) string {
	t.Helper()
	k, _, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: name,
		Home: &keystore.Grant{Permissions: permissions(t, "read")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k.ID
}

// choose sends the form below a list with keys and an action.
func (p *person) choose(list, action string, ids ...string) answer {
	p.t.Helper()
	a := p.get(list).want(200)
	at := ""
	each(a.Doc, func(n *html.Node) {
		if attr(n, "id") == "bulk" {
			at = attr(n, "action")
		}
	})
	fields := []string{"action", action}
	for _, id := range ids {
		fields = append(fields, "key", id)
	}
	return p.post(at, fields...)
}

// TestBulk changes several keys of a list.
func TestBulk(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "closed"})
	if _, err := s.keys.CreatePlan(ctx, root, keystore.Plan{Namespace: "acme",
		Name: "gold"}); err != nil {
		t.Fatal(err)
	}
	p := s.signedIn(t, "Ada", "acme=@client-admin,admin.plans:read", "default=@client-admin",
		"closed=admin.keys:read")
	ben, _ := s.member(t, "Ben", "*=read")
	ids := make(map[string]string)
	for name, namespace := range map[string]string{"a": "acme", "b": "acme", "c": "default",
		"locked": "closed", "dead": "acme", "asleep": "acme"} {
		k, _, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: "Key " + name,
			Namespace: namespace, Owner: ben, Inactive: name == "asleep",
			Home: &keystore.Grant{Permissions: permissions(t, "read")}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = k.ID
	}
	if _, _, err := s.keys.RevokeKey(ctx, root, ids["dead"], "", false,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	const list = "/apikeys/keys?q=key&sort=name"

	p.choose(list, "revoke").want(200, "No key is selected", "Key locked")
	p.choose(list, "explode", ids["a"]).want(422)
	if a := p.choose(list, "deactivate", strings.Split(strings.Repeat(ids["a"]+" ", 2)+
		"000000000000", " ")...).want(200, "Deactivate 1 key", "000000000000",
		"It does not exist"); link(a, "Cancel") != list {
		t.Errorf("Cancel leads to %s", link(a, "Cancel"))
	}
	p.get("/apikeys/keys/bulk/revoke?keys=").want(422)
	p.get("/apikeys/keys/bulk/revoke?keys="+strings.Repeat("a.", 10)+
		strings.Join(many(51), ".")).want(422, "1 to 50 keys")

	a := p.choose(list, "deactivate", ids["a"], ids["c"], ids["locked"], ids["dead"],
		ids["asleep"]).want(200, "Deactivate 2 keys", "It is already inactive",
		"It is revoked and cannot be changed", "You lack admin.keys:update in closed")
	if k := s.key(t, ids["a"]); !k.Active {
		t.Error("the summary has changed a key")
	}
	a = p.post(a.At.RequestURI(), a.fill()...).want(200, "2 of 5 keys deactivated",
		"3 keys were not changed", "Key locked", "Key dead", "Key asleep", "Key a", "Key c")
	if s.key(t, ids["a"]).Active || s.key(t, ids["c"]).Active || !s.key(t, ids["b"]).Active ||
		!s.key(t, ids["locked"]).Active {
		t.Error("other keys are deactivated than were chosen")
	}
	if link(a, "Back to the list") != list {
		t.Errorf("the list is at %s", link(a, "Back to the list"))
	}

	// A failure that the summary cannot foresee is reported by name.
	a = p.choose(list, "plan", ids["a"], ids["c"]).want(200, "Set the plan of 2 keys", ">gold<")
	p.post(a.At.RequestURI(), a.fill("plan", "gold")...).want(200, "Plan set for 1 of 2 keys",
		"1 key was not changed", "Key c")
	if s.key(t, ids["a"]).Plan != "gold" || s.key(t, ids["c"]).Plan != "" {
		t.Error("the plan is set on the wrong key")
	}
	a = p.choose(list, "plan", ids["a"]).want(200)
	a = p.post(a.At.RequestURI(), a.fill("plan", "")...).want(200, "Plan set for 1 key")
	if s.key(t, ids["a"]).Plan != "" || a.At.RequestURI() != list {
		t.Errorf("the plan is not removed, or the list not shown: %s", a.At)
	}

	a = p.choose(list, "revoke", ids["a"], ids["b"], ids["dead"]).want(200, "Revoke 2 keys",
		"It is already revoked")
	p.post(a.At.RequestURI(), a.fill("confirm", "yes")...).want(422, "Type the word revoke")
	p.post(a.At.RequestURI(), a.fill("confirm", "Revoke", "reason", "lost")...).want(200,
		"2 of 3 keys revoked", "1 key was not changed")
	for _, name := range []string{"a", "b"} {
		if k := s.key(t, ids[name]); k.RevokeReason != "lost" || k.RevokedAt.IsZero() {
			t.Errorf("%s is not revoked: %+v", name, k)
		}
	}
	viewer := s.signedIn(t, "Vera", "*=@viewer")
	a = viewer.get("/apikeys/keys").want(200, "Export CSV").lacks(`value="revoke"`,
		`value="transfer"`)
	viewer.get("/apikeys/keys/bulk/revoke?keys="+ids["c"]).want(200, "Revoke 0 keys",
		"You lack admin.keys:revoke").lacks("<form method=\"post\" action=\"/apikeys/keys/bulk")
	viewer.post("/apikeys/keys/bulk/revoke?keys="+ids["c"], "confirm", "revoke").want(200,
		"0 of 1 key revoked", "1 key was not changed")
	if !s.key(t, ids["c"]).RevokedAt.IsZero() {
		t.Error("a viewer has revoked a key")
	}
}

// many returns n ids.
func many(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%012d", i)
	}
	return ids
}

// TestTransfer transfers selected keys to another owner.
func TestTransfer(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	ben, _ := s.member(t, "Ben", "*=@client-admin")
	gone, _ := s.member(t, "Gone", "*=@client-admin")
	s.disable(t, gone)
	first, _ := p.createKey("name", "First")
	second, _ := p.createKey("name", "Second")
	a := p.choose("/apikeys/keys", "transfer", first, second).want(200, "Transfer 2 keys", ">Ben<").
		lacks(">Gone<")
	p.post(a.At.RequestURI(), a.fill("owner", "")...).want(422, "Choose the new owner")
	p.post(a.At.RequestURI(), a.fill("owner", ben)...).want(200, "2 keys transferred")
	for _, id := range []string{first, second} {
		if s.key(t, id).Owner != ben {
			t.Errorf("%s has the owner %s", id, s.key(t, id).Owner)
		}
	}
}

// TestExport downloads keys as CSV.
func TestExport(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Vera", "*=@viewer")
	gone, _ := s.member(t, "=Gone()", "*=read,write")
	names := []string{`=HYPERLINK("http://evil")`, "+1", "-1", "@a", "Naïve, \"quoted\"", "plain"}
	var ids []string
	for _, name := range names {
		k, _, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: name, Owner: gone,
			Home: &keystore.Grant{Permissions: permissions(t, "orders:read", "read")}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, k.ID)
	}
	s.disable(t, gone)
	resp, err := p.http.Get(s.URL + "/apikeys/keys/bulk/export.csv?keys=" +
		strings.Join(append(ids, "000000000000"), "."))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") !=
		"text/csv; charset=utf-8" || resp.Header.Get("Cache-Control") != "no-store" ||
		!strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	rows, err := csv.NewReader(resp.Body).ReadAll()
	if err != nil || len(rows) != 1+len(names) {
		t.Fatalf("%v: %q", err, rows)
	}
	for _, row := range rows[1:] {
		name := row[slices.Index(rows[0], "name")]
		if strings.Contains("=+-@", name[:1]) || !slices.Contains(names, strings.TrimPrefix(name,
			"'")) {
			t.Errorf("a key is named %q", name)
		}
		for column, want := range map[string]string{"status": "owner_disabled",
			"permissions": "orders:read read", "owner": gone, "access": "custom",
			"expires_at": "", "namespace": "default"} {
			if got := row[slices.Index(rows[0], column)]; got != want {
				t.Errorf("%s of %s: %q, want %q", column, name, got, want)
			}
		}
	}
}
