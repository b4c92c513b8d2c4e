package console_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

var tokens = regexp.MustCompile(`ak_[0-9A-Za-z]{58}`)

// fill returns the fields of the form that posts to where it stands as a browser would send it, with others in their place: names and values in turn. A
// value of "-" takes the field out.
func (a answer) fill(changes ...string) []string {
	a.t.Helper()
	changed := make(map[string][]string)
	for i := 0; i < len(changes); i += 2 {
		changed[changes[i]] = append(changed[changes[i]], changes[i+1])
	}
	var fields []string
	var form *html.Node
	each(a.Doc, func(n *html.Node) {
		if n.Data == "form" && attr(n, "method") == "post" && attr(n, "action") == a.At.RequestURI() {
			form = n
		}
	})
	if form == nil {
		a.t.Fatalf("%s has no form: %s", a.At, a.Text)
	}
	add := func(name, value string) {
		if _, other := changed[name]; !other && name != "" {
			fields = append(fields, name, value)
		}
	}
	each(form, func(n *html.Node) {
		if has(n, "disabled") {
			return
		}
		switch n.Data {
		case "textarea":
			add(attr(n, "name"), textOf(n))
		case "select":
			value, chosen := "", false
			each(n, func(o *html.Node) {
				if o.Data == "option" && (!chosen || has(o, "selected")) {
					value, chosen = attr(o, "value"), true
				}
			})
			add(attr(n, "name"), value)
		case "input":
			if t := attr(n, "type"); t != "checkbox" && t != "radio" || has(n, "checked") {
				add(attr(n, "name"), attr(n, "value"))
			}
		}
	})
	for name, values := range changed {
		for _, value := range values {
			if value != "-" {
				fields = append(fields, name, value)
			}
		}
	}
	return fields
}

// submit fills the form of a page in and sends it.
func (p *person) submit(path string, changes ...string) answer {
	p.t.Helper()
	return p.post(path, p.get(path).want(200).fill(changes...)...)
}

// make makes a key on the page, and returns its id and token.
func (p *person) make(changes ...string) (id, token string) {
	p.t.Helper()
	a := p.submit("/apikeys/keys/new", changes...).want(201, "It will not be shown again")
	token = tokens.FindString(a.Text)
	if token == "" {
		p.t.Fatalf("no token: %s", a.Text)
	}
	return token[3:15], token
}

func (s *site) key(t testing.TB, id string) *keystore.Key {
	t.Helper()
	k, err := s.keys.FindKey(ctx, root, id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// alive reports whether a token opens anything.
func (s *site) alive(t testing.TB, token string) bool {
	t.Helper()
	a, err := s.keys.Lookup(ctx, token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a.Record == nil {
		return false
	}
	policy := s.keys.Policy()
	o := keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: policy, Namespace: policy.Namespace(a.Record.Namespace), Need: keystore.Need{Class: keystore.Read}})
	return o == keystore.OK || o == keystore.Forbidden
}

func grantsOf(k *keystore.Key) string {
	var b strings.Builder
	for _, g := range k.Grants {
		fmt.Fprintf(&b, "%s %v %v", g.Namespace, g.Permissions, g.Roles)
		if g.Connected {
			b.WriteString(" connected")
		}
		b.WriteString("; ")
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func namespaces(t testing.TB, s *site, list ...keystore.Namespace) {
	t.Helper()
	for _, ns := range list {
		if _, err := s.keys.CreateNamespace(ctx, root, ns); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTokenOnce: the token is in the answer to the form, and nowhere else, ever.
func TestTokenOnce(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	form := p.get("/apikeys/keys/new").fill("name", "CI")
	a := p.post("/apikeys/keys/new", form...).want(201, "It will not be shown again", "curl -H &#34;Authorization: Bearer ")
	token := tokens.FindString(a.Text)
	if !s.alive(t, token) {
		t.Fatal("the token is not good")
	}
	id := token[3:15]
	if again := p.post("/apikeys/keys/new", form...).want(200, "has been made already"); again.At.Path != "/apikeys/keys/"+id {
		t.Errorf("a reload led to %s", again.At)
	}
	p.get("/apikeys/keys/"+id).want(200, "<h1><bdi>CI</bdi></h1>").lacks("has been made already") // the notice is shown once
	list, _, err := s.keys.ListKeys(ctx, root, keystore.KeyFilter{}, "", 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d keys, %v", len(list), err)
	}
	for _, path := range []string{"/apikeys/keys", "/apikeys/keys/" + id, "/apikeys/keys/" + id + "/edit", "/apikeys/keys/new"} {
		p.get(path).want(200).lacks(token)
	}
	if strings.Contains(s.log.String(), token) {
		t.Error("the log holds the token")
	}

	// What the browser says it asked is not for a shell to run.
	r, _ := http.NewRequest("POST", s.URL+"/apikeys/keys/new", strings.NewReader("name=CI&access=read_only"))
	for _, c := range p.http.Jar.Cookies(r.URL) {
		r.AddCookie(c)
	}
	r.Host = "x;id$(id)'"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	p.do(r).want(201, html.EscapeString(` "http://x;id%24(id)'/"`))
}

// TestExample: the call to try a key with is one of the API's, with as little to fill in as there is, and safe to paste.
func TestExample(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	for _, test := range []struct{ get, want, blanks string }{
		{"", "/", ""},
		{"/orders/{id} /$all /a/{b}/{c}", "/%24all", ""},
		{"/v1/{account}/orders/{id} /v1/{account}/orders /v1/**/{x}", "/v1/{account}/orders", "what stands in braces"},
	} {
		list := []api.Operation{{Permission: "orders:make", Class: "write", Method: "POST", Path: "/make"}}
		for i, path := range strings.Fields(test.get) {
			list = append(list, api.Operation{Permission: fmt.Sprintf("orders:%d", i), Class: "read", Method: "GET", Path: path})
		}
		s.api.Declare(list)
		a := p.submit("/apikeys/keys/new", "name", "x").want(201, "&#34; &#34;"+s.URL+test.want+"&#34;</code>", test.blanks)
		if test.blanks == "" {
			a.lacks("in braces")
		}
	}

	s.api.Declare([]api.Operation{
		{Permission: "orders:find", Class: "read", Method: "GET", Path: "/orders/{id}"}, {Permission: "orders:list", Class: "read", Method: "GET", Path: "/orders"}, {Permission: "orders:make", Class: "write", Method: "POST", Path: "/orders"},
	})
	for permissions, want := range map[string]string{
		"orders:read": ` "` + s.URL + `/orders"`, "orders:find": ` "` + s.URL + `/orders/{id}"`, "orders:make": ` -X "POST" -H`, "orders:make orders:find": ` "` + s.URL + `/orders/{id}"`, "refunds:read": ` "` + s.URL + `/"`,
	} {
		p.submit("/apikeys/keys/new", "name", "x", "access", "custom", "permissions_more", permissions).want(201, html.EscapeString(want)).lacks("place of <code>")
	}
	s.api.Declare([]api.Operation{{Permission: "orders:odd", Class: "write", Method: "M|id&`id`$PATH", Path: "/odd"}})
	p.submit("/apikeys/keys/new", "name", "x", "access", "custom", "permissions_more", "orders:odd").want(201, html.EscapeString(`curl -X "M|id&%60id%60%24PATH" -H`))
	s.api.Declare([]api.Operation{{Permission: "orders:list", Class: "read", Method: "GET", Path: "/orders"}, {Permission: "orders:find", Class: "read", Method: "GET", Path: "/orders/{id}"}})
	s.apart = true
	p.submit("/apikeys/keys/new", "name", "x").want(201, "&#34;https://api.example.com/orders&#34;", "Put the address of your API in place of <code>api.example.com</code>.").lacks(s.URL)
	p.submit("/apikeys/keys/new", "name", "x", "access", "custom", "permissions_more", "orders:find").want(201, "and something in place of what stands in braces")
}

// TestFirstHome: who may make keys in some namespaces, and read none, is asked about the same one each time.
func TestFirstHome(t *testing.T) {
	s := open(t)
	var grants []string
	for _, id := range []string{"b", "e", "a", "d", "c"} {
		namespaces(t, s, keystore.Namespace{ID: id})
		grants = append(grants, id+"=read,admin.keys:create")
	}
	p := s.signedIn(t, "Ada", grants...)
	for range 5 {
		if got, _ := p.get("/apikeys/keys/new").want(200).field("namespace"); got != "a" {
			t.Fatalf("the form begins in %q", got)
		}
	}

	// Where one may make none, a new key is not offered, and would be somewhere else.
	namespaces(t, s, keystore.Namespace{ID: "theirs"})
	p = s.signedIn(t, "Ben", "a=@developer", "theirs=@viewer")
	p.get("/apikeys/keys?namespace=a").want(200, "/apikeys/keys/new", "Make a key")
	p.get("/apikeys/keys?namespace=theirs").want(200, "Who holds admin.keys:create in").lacks("/apikeys/keys/new")
	if got, _ := p.get("/apikeys/keys/new?namespace=theirs").want(200).field("namespace"); got != "a" {
		t.Errorf("the form begins in %q, where no key can be made", got)
	}

	// Elsewhere a grant can be given by who holds something there, whether it may read the namespace or not, and with what is connected by who holds that.
	namespaces(t, s, keystore.Namespace{ID: "a1", Parent: "a"}, keystore.Namespace{ID: "a2", Parent: "a"})
	p = s.signedIn(t, "Cleo", "a=read,admin.keys:create", "a1=read", "b=read")
	p.get("/apikeys/keys/new").want(200, "Connected to <bdi>a</bdi>, by hand", `name="grants" value="a1"`, `name="grants" value="b"`).lacks(`name="grants" value="a2"`, `name="grants" value="c"`, `name="connected"`)
	p.get("/apikeys/keys?namespace=b").want(200, "No keys yet")
	p.get("/apikeys/keys?namespace=c").want(200, "No such namespace")
}

// TestReach: where a namespace's keys may do the same is told while one is made, and of each.
func TestReach(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "shop", Reach: []string{"work space", "group"}}, keystore.Namespace{ID: "eu", Parent: "shop", Kind: "group"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	p.get("/apikeys/keys/new?namespace=shop").want(200, "of the kind <bdi>work space</bdi> or <bdi>group</bdi>.")
	id, _ := p.make("name", "App", "namespace", "shop", "grants", "eu")
	a := p.get("/apikeys/keys/"+id).want(200, "of the kind <bdi>work space</bdi> or <bdi>group</bdi>, as far as its owner may do it there.")
	if n := strings.Count(a.Text, "of the kind"); n != 1 {
		t.Errorf("%d grants reach down", n)
	}
	// Who may read the key, and not the namespace, is not told.
	s.signedIn(t, "Ben", "eu=admin.keys:read").get("/apikeys/keys/" + id).want(404)
	id, _ = p.make("name", "From below", "namespace", "eu", "grants", "shop")
	s.signedIn(t, "Cleo", "eu=admin.keys:read").get("/apikeys/keys/"+id).want(200, "In <bdi>shop</bdi>").lacks("of the kind")
	s.signedIn(t, "Dora", "eu=admin.keys:read", "shop=admin.keys:update").get("/apikeys/keys/"+id).want(200, "of the kind")
}

// TestMint is the form against what it makes.
func TestMint(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", Kind: "account"}, keystore.Namespace{ID: "eu", Parent: "acme"}, keystore.Namespace{ID: "us", Parent: "acme"}, keystore.Namespace{ID: "other"})
	for _, r := range []keystore.Role{{Namespace: "acme", Name: "billing"}, {Namespace: "*", Name: "support"}} {
		r.Permissions = []keystore.Permission{{Resource: "orders", Action: "read"}}
		if _, err := s.keys.CreateRole(ctx, root, r); err != nil {
			t.Fatal(err)
		}
	}
	s.api.Declare([]api.Operation{{Permission: "orders:search", Class: "read", Method: "GET", Path: "/orders"}, {Permission: "orders:make", Class: "write", Method: "POST", Path: "/orders"}})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	for _, test := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"as it comes", nil, "default [read] []"},
		{"read and write", []string{"access", "read_write"}, "default [read write] []"},
		{"what is checked under another level counts for nothing", []string{"permissions", "orders:make"}, "default [read] []"},
		{"custom", []string{"access", "custom", "permissions", "orders:make", "permissions", "orders:search", "permissions_more", " mcp:read,\nx:* "}, "default [mcp:read orders:make orders:search x:*] []"},
		{"everything", []string{"access", "custom", "permissions", "*"}, "default [*] []"},
		{"by roles", []string{"namespace", "acme", "access", "roles", "roles", "billing", "roles", "support"}, "acme [] [billing support]"},
		{"a role on the spot", []string{"namespace", "acme", "access", "roles", "new_roles[0].name", "shop", "new_roles[0].permissions", "orders:make"}, "acme [] [shop]"},
		{"all that is connected", []string{"namespace", "acme", "connected", "true"}, "acme [read] [] connected"},
		{"some", []string{"namespace", "acme", "grants", "eu", "grants", "us", "access:us", "read_write", "roles", "support", "roles", "billing"}, "acme [read] [billing support]; eu [read] [support]; us [read write] []"},
		{"typed", []string{"grants_more", "other acme", "connected:acme", "true"}, "default [read] []; other [read] []; acme [read] [] connected"},
		{"everywhere", []string{"grants", "*"}, "default [read] []; * [read] []"},
	} {
		id, _ := p.make(append([]string{"name", test.name}, test.fields...)...)
		if got := grantsOf(s.key(t, id)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	id, token := p.make("name", "all else", "active", "-", "expires", "custom", "expires_day", "2037-01-31", "expires_time", "17:30", "allowed_ips", "10.1.2.3/8 2001:db8::1\n192.0.2.1", "metadata", "team = erp\n\nnote=a=b")
	k := s.key(t, id)
	if got := fmt.Sprint(k.Active, k.ExpiresAt, k.AllowedIPs, k.Metadata, k.Owner == k.CreatedBy); got != "false 2037-01-31 17:30:00 +0000 UTC [10.0.0.0/8 2001:db8::1/128 192.0.2.1/32] map[note:a=b team:erp] true" || s.alive(t, token) {
		t.Error(got)
	}
	for _, test := range []struct{ zone, day, want string }{
		{"Europe/Berlin", "2037-01-31", "2037-01-31T16:30:00Z"},
		{"Europe/Berlin", "2037-07-31", "2037-07-31T15:30:00Z"},
		{"Asia/Kathmandu", "2037-01-31", "2037-01-31T11:45:00Z"},
		{"Local", "2037-01-31", "2037-01-31T17:30:00Z"},
		{"../etc/passwd", "2037-01-31", "2037-01-31T17:30:00Z"},
	} {
		id, _ := p.make("name", test.zone, "expires", "custom", "expires_day", test.day, "expires_time", "17:30", "zone", test.zone)
		if got := s.key(t, id).ExpiresAt.Format(time.RFC3339); got != test.want {
			t.Errorf("17:30 on %s in %s is %s, want %s", test.day, test.zone, got, test.want)
		}
	}
	id, _ = p.make("name", "ends", "expires", "30d")
	if left := time.Until(s.key(t, id).ExpiresAt); left < 29*24*time.Hour || left > 31*24*time.Hour {
		t.Errorf("30 days are %v", left)
	}
}

// TestHugeForms: what a form asks for in each of its namespaces does not multiply without bounds.
func TestHugeForms(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, _ := p.make("name", "k")
	many := []string{"name", "k", "access", "custom", "grants_more", strings.Repeat("a ", 2000), "roles_more", strings.Repeat("viewer ", 2000), "permissions_more", strings.Repeat("read ", 2000), "version", "1"}
	for _, path := range []string{"/apikeys/keys/new", "/apikeys/keys/" + id + "/edit"} {
		a := p.post(path, many...).want(422, "More than 100")
		if got, _ := a.field("grants_more"); got != many[5] {
			t.Errorf("%s: what was typed is lost", path)
		}
		p.post(path, "name", strings.Repeat("x", 256<<10)).want(400, "longer than this server takes")
		if a := p.post(path, "name", "k", "access", "read_only", "metadata", strings.Repeat("a\n", 1000), "version", "1").want(422); strings.Count(a.Text, "is not like name=value") > 2 {
			t.Errorf("%s: the same mistake is told in %d characters", path, len(a.Text))
		}
	}
}

// TestMistakes: what is wrong stands beside its field, and nothing typed is lost.
func TestMistakes(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	typed := []string{"name", "\u202egnirts <script>alert(1)</script>", "namespace", "acme", "access", "custom", "permissions_more", "Orders:read", "allowed_ips", "10.0.0.0/99", "metadata", "team", "expires", "custom",
		"expires_day", "tomorrow", "expires_time", "", "zone", "", "grants_more", "nowhere", "active", "-", "new_roles[0].name", "no good"}
	for _, test := range []struct {
		field, wrong string
		change       []string
	}{
		{"metadata", "is not like name=value", nil},
		{"expires_at", "Give a day such as", nil},
		{"expires_at", "Give a day such as", []string{"metadata", "team=erp", "expires_day", "9999-12-31", "expires_time", "23:59", "zone", "America/New_York"}},
		{"expires_at", "Give a day such as", []string{"metadata", "team=erp", "expires_day", "0000-01-01", "zone", "Asia/Tokyo"}},
		{"permissions", "a resource starts with a-z", []string{"metadata", "team=erp", "expires", "never"}},
		{"allowed_ips", "neither an address", []string{"metadata", "team=erp", "expires", "never"}},
		{"grants", "There is no namespace", []string{"metadata", "team=erp", "expires", "never", "permissions_more", "orders:read", "allowed_ips", "", "new_roles[0].name", ""}},
		{"name", "Is required", []string{"name", "", "metadata", "team=erp", "expires", "never"}},
	} {
		fields := append([]string{}, typed...)
		for i := 0; i < len(test.change); i += 2 {
			for j := 0; j < len(fields); j += 2 {
				if fields[j] == test.change[i] {
					fields[j+1] = test.change[i+1]
				}
			}
		}
		a := p.submit("/apikeys/keys/new", fields...).want(422, "<title>Error: New key", test.wrong, `href="#f-`+test.field+`"`, `id="f-`+test.field+`"`)
		a.lacks("<script>alert", "It will not be shown again")
		for i := 0; i < len(fields); i += 2 {
			if fields[i] == "active" {
				continue
			}
			if got, _ := a.field(fields[i]); got != fields[i+1] {
				t.Errorf("%s: %s holds %q, not %q", test.field, fields[i], got, fields[i+1])
			}
		}
		if _, checked := a.field("active"); !checked {
			t.Error("no box for active")
		}
	}
	if list, _, _ := s.keys.ListKeys(ctx, root, keystore.KeyFilter{}, "", 10); len(list) > 0 {
		t.Errorf("%d keys were made", len(list))
	}
	// Another namespace is not a mistake.
	a := p.submit("/apikeys/keys/new", append(typed, "again", "namespace")...).want(200)
	if got, _ := a.field("allowed_ips"); got != "10.0.0.0/99" || strings.Contains(a.Text, `role="alert"`) {
		t.Errorf("%q", got)
	}
}

func TestKeyRoles(t *testing.T) {
	s := open(t)
	if _, err := s.keys.CreateRole(ctx, root, keystore.Role{Namespace: "*", Name: "member", Permissions: []keystore.Permission{{Resource: "company", Action: "show"}}}); err != nil {
		t.Fatal(err)
	}
	namespaces(t, s, keystore.Namespace{ID: "fixed", KeyRoles: []string{"member"}}, keystore.Namespace{ID: "some", KeyRoles: []string{keystore.AnyRole}})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	a := p.get("/apikeys/keys/new?namespace=fixed").want(200, "have this role")
	if _, there := a.field("roles"); there {
		t.Error("the fixed role can be changed")
	}
	id, _ := p.make("name", "a", "namespace", "fixed", "access", "custom", "permissions_more", "mcp:read")
	if got := grantsOf(s.key(t, id)); got != "fixed [mcp:read] [member]" {
		t.Error(got)
	}
	p.submit("/apikeys/keys/"+id+"/edit", "permissions_more", "mcp:write").want(200, "Saved")
	if got := grantsOf(s.key(t, id)); got != "fixed [mcp:write] [member]" {
		t.Error(got)
	}
	p.submit("/apikeys/keys/new?namespace=some", "name", "b").want(422, `href="#f-roles"`).lacks(`href="#f-permissions"`)
	p.submit("/apikeys/keys/new", "name", "b", "access", "roles").want(422, `href="#f-roles"`).lacks(`href="#f-permissions"`)
	p.submit("/apikeys/keys/"+id+"/edit", "access", "roles").want(200, "Saved") // it has those that all have
	id, _ = p.make("name", "c")
	p.submit("/apikeys/keys/"+id+"/edit", "access", "roles").want(422, `href="#f-roles"`).lacks(`href="#f-permissions"`)
}

// TestEdit: what is not changed on the form stays as it is.
func TestEdit(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu", Parent: "acme"}, keystore.Namespace{ID: "us", Parent: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, token := p.make("name", "ERP", "namespace", "acme", "expires", "custom", "expires_day", "2037-01-31", "access", "custom", "permissions_more", "orders:read orders:search", "connected", "true", "grants", "eu", "access:eu", "read_write",
		"allowed_ips", "10.0.0.0/8", "metadata", "a=1\nb=2")
	edit := "/apikeys/keys/" + id + "/edit"
	for _, test := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"nothing", nil, "ERP true acme [orders:read orders:search] [] connected; eu [read write] [] [10.0.0.0/8] map[a:1 b:2]"},
		{"name", []string{"name", "ERP 2"}, "ERP 2 true acme [orders:read orders:search] [] connected; eu [read write] [] [10.0.0.0/8] map[a:1 b:2]"},
		{"less", []string{"permissions_more", "orders:read", "connected", "-"}, "ERP 2 true acme [orders:read] []; eu [read write] [] [10.0.0.0/8] map[a:1 b:2]"},
		{"another namespace", []string{"grants", "us", "access:us", "same"}, "ERP 2 true acme [orders:read] []; us [orders:read] [] [10.0.0.0/8] map[a:1 b:2]"},
		{"a role on the spot", []string{"new_roles[0].name", "shop", "new_roles[0].permissions_more", "shop:*"}, "ERP 2 true acme [orders:read] [shop]; us [orders:read] [] [10.0.0.0/8] map[a:1 b:2]"},
		{"inactive", []string{"active", "-", "allowed_ips", "", "metadata", "c=3"}, "ERP 2 false acme [orders:read] [shop]; us [orders:read] [] [] map[c:3]"},
		{"active", []string{"active", "true"}, "ERP 2 true acme [orders:read] [shop]; us [orders:read] [] [] map[c:3]"},
	} {
		p.submit(edit, test.fields...).want(200, "Saved", "In force on 1 of 1 node,")
		k := s.key(t, id)
		if got := fmt.Sprint(k.Name, " ", k.Active, " ", grantsOf(k), " ", k.AllowedIPs, " ", k.Metadata); got != test.want {
			t.Errorf("%s:\n%s, want\n%s", test.name, got, test.want)
		}
	}
	if !s.alive(t, token) {
		t.Error("the key is dead")
	}
	form := p.get(edit).fill("name", "lost")
	p.submit(edit, "name", "first").want(200)
	p.post(edit, form...).want(412, "has version")
	p.get("/apikeys/keys/"+id).want(200, `<del><span class="visually-hidden">was </span><bdi>ERP 2</bdi></del>`, `<bdi>first</bdi></ins>`, "Given by", `<ins><span class="visually-hidden">is </span><bdi><time datetime="2037-01-31T00:00:00Z">`)
}

// TestEditSeesLess: what whoever edits a key may not see, or could not type, stays as it is.
func TestEditSeesLess(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu"})
	roles(t, s, keystore.Role{Namespace: "acme", Name: "billing", Permissions: permissions(t, "orders:read")}, keystore.Role{Namespace: "*", Name: "support", Permissions: permissions(t, "tickets:read")})
	k, _, err := s.keys.MintKey(ctx, root, keystore.KeySpec{Name: "ERP", Namespace: "acme", Home: &keystore.Grant{Roles: []string{"billing", "support"}},
		Grants: []keystore.Grant{{Namespace: "eu", Permissions: permissions(t, "read"), Connected: true}}, Metadata: map[string]string{"a=b": " c ", "e": ""}}, "")
	if err != nil {
		t.Fatal(err)
	}
	before := grantsOf(s.key(t, k.ID))
	edit := "/apikeys/keys/" + k.ID + "/edit"
	for i, grants := range [][]string{{"acme=admin.keys:read,admin.keys:update"}, {"acme=admin.keys:read,admin.keys:update", "eu=@viewer"}, {"*=@client-admin"}} {
		name := fmt.Sprint("name ", i)
		s.signedIn(t, name, grants...).submit(edit, "name", name).want(200, "Saved")
		now := s.key(t, k.ID)
		if got := grantsOf(now); got != before || now.Name != name || fmt.Sprintf("%q", now.Metadata) != fmt.Sprintf("%q", k.Metadata) {
			t.Errorf("%v: %q now has %s, and %q", grants, now.Name, got, now.Metadata)
		}
	}
}

func TestGrowOnly(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", EditPolicy: keystore.EditGrowOnly})
	s.api.Declare([]api.Operation{{Permission: "orders:search", Class: "read", Method: "GET", Path: "/orders"}, {Permission: "orders:make", Class: "write", Method: "POST", Path: "/orders"}})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, _ := p.make("name", "a", "namespace", "acme", "access", "custom", "permissions", "orders:search")
	edit := "/apikeys/keys/" + id + "/edit"
	p.get(edit).want(200, "lose nothing")
	p.submit(edit, "permissions", "orders:search", "permissions", "orders:make").want(200, "Saved")
	if got := grantsOf(s.key(t, id)); got != "acme [orders:make orders:search] []" {
		t.Error(got)
	}
	p.submit(edit, "permissions", "orders:make").want(422, "would lose orders:search")
	p.submit(edit, "access", "read_only").want(422, "would lose")
	if got := grantsOf(s.key(t, id)); got != "acme [orders:make orders:search] []" {
		t.Error(got)
	}
}

func TestLife(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, token := p.make("name", "A key")
	at := "/apikeys/keys/" + id
	p.post(at+"/active").want(200, "INACTIVE", "The key is inactive")
	if s.alive(t, token) {
		t.Error("an inactive key is alive")
	}
	p.get("/apikeys/keys").want(200, "INACTIVE")
	p.post(at+"/active", "active", "true").want(200, "The key is active again")
	if !s.alive(t, token) {
		t.Error("an active key is dead")
	}

	if !offers(p.get(at), at+"/rotate") {
		t.Error("no new token is offered for one's own key")
	}
	form := p.get(at+"/rotate").fill("grace", "1h")
	a := p.post(at+"/rotate", form...).want(201, "It will not be shown again", "in an hour", "In force on 1 of 1 node")
	next := tokens.FindString(a.Text)
	if next == token || !s.alive(t, next) || !s.alive(t, token) {
		t.Error("both tokens should be good")
	}
	p.post(at+"/rotate", form...).want(200, "cannot be shown again").lacks(next) // a reload
	if len(s.key(t, id).Secrets) != 2 {
		t.Error("a reload made another token")
	}
	a = p.submit(at+"/rotate", "grace", "0s").want(201, "refused from now on")
	if s.alive(t, token) || s.alive(t, next) {
		t.Error("the earlier tokens are good")
	}
	last := tokens.FindString(a.Text)
	p.submit(at+"/rotate", "grace", "9000h").want(422, "between 0s and 720h")

	p.submit(at+"/revoke", "confirm", "yes", "reason", "it leaked").want(422, "Type the word revoke", "it leaked")
	if !s.alive(t, last) {
		t.Error("revoked without a confirmation")
	}
	p.submit(at+"/revoke", "confirm", " Revoke ", "reason", "it leaked").want(200, "revoked for good", "In force on 1 of 1 node", "Revoked", "it leaked").lacks("/edit", "/rotate", `/revoke"`)
	if s.alive(t, last) {
		t.Error("a revoked key is alive")
	}
	p.get("/apikeys/keys").want(200, "Revoked")
	p.post(at+"/active", "active", "true").want(409, "final")
	p.submit(at+"/delete").want(200, "Deleted A key").lacks(at)
	p.get(at).want(404)
}

func TestList(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	p.get("/apikeys/keys").want(200, "No keys yet", "Make a key")
	p.get("/apikeys/keys?q=x").want(200, "No key fits")
	var specs []keystore.ImportSpec
	for i := range 70 {
		spec := keystore.KeySpec{Name: fmt.Sprintf("Worker %03d", i), Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "read"}}}, Inactive: i%10 == 1}
		if i == 42 {
			spec.Namespace = "acme"
		}
		specs = append(specs, keystore.ImportSpec{KeySpec: spec, Token: fmt.Sprintf("credential-%03d", i), Line: i})
	}
	if n, refused, err := s.keys.ImportKeys(ctx, root, specs, false, ""); n != len(specs) || err != nil {
		t.Fatal(n, refused, err)
	}
	var seen []string
	names := regexp.MustCompile(`Worker \d+`)
	a := p.get("/apikeys/keys?status=active&namespace=default&q=worker")
	for range 10 {
		seen = append(seen, names.FindAllString(a.want(200).Text, -1)...)
		next := ""
		each(a.Doc, func(n *html.Node) {
			if attr(n, "rel") == "next" {
				next = attr(n, "href")
			}
		})
		if next == "" {
			break
		}
		a = p.get(next)
	}
	if once := slices.Compact(slices.Sorted(slices.Values(seen))); len(seen) != 62 || len(once) != 62 {
		t.Errorf("%d: %v", len(seen), seen)
	}
	p.get("/apikeys/keys?namespace=acme").want(200, "Worker 042").lacks("Worker 041")
	if n := len(names.FindAllString(p.get("/apikeys/keys").Text, -1)); n != 50 {
		t.Errorf("a page of %d", n)
	}
	for sort, want := range map[string]string{
		"": "descending Created", "created_at": "ascending Created", "name": "ascending Name", "-name": "descending Name", "expires_at": "ascending Expires", "-last_used_at": "descending Last used",
	} {
		var heads []string
		a := p.get("/apikeys/keys?namespace=default&q=worker&sort=" + sort).want(200)
		each(a.Doc, func(n *html.Node) {
			if by := attr(n, "aria-sort"); by != "" {
				heads = append(heads, by+" "+textOf(n))
			}
		})
		if len(heads) != 1 || strings.Join(strings.Fields(heads[0]), " ") != want {
			t.Errorf("sorted by %q: %q, want %s", sort, heads, want)
		}
	}
	link := func(a answer, label string) (href string) {
		each(a.Doc, func(n *html.Node) {
			if n.Data == "a" && textOf(n) == label {
				href = attr(n, "href")
			}
		})
		return href
	}
	a = p.get("/apikeys/keys?q=worker")
	for _, want := range []string{"Worker 000", "Worker 069"} { // up first, then down
		a = p.get(link(a, "Name"))
		if first := names.FindString(a.want(200).Text); first != want {
			t.Errorf("by name: %s is the first, want %s", first, want)
		}
	}
	if first := names.FindString(p.get(link(a, "Next page")).want(200).Text); first != "Worker 019" {
		t.Errorf("the second page by name begins with %s", first)
	}
	p.get("/apikeys/keys?sort=odd&namespace=acme").want(200, "cannot be sorted like that", "Worker 042")
	p.make("name", "My own")
	own := p.get("/apikeys/keys")
	mine := link(own, "My keys")
	if a := p.get(mine+"&q=own").want(200, "My own"); link(a, "Clear") != mine {
		t.Errorf("on my keys, Clear leads to %s", link(a, "Clear"))
	}
	if a := p.get("/apikeys/keys?namespace=acme&owner=root&sort=name&cursor=").want(200, "Worker 042"); link(a, "Clear") != "/apikeys/keys?namespace=acme&sort=name" {
		t.Errorf("of another's keys, Clear leads to %s", link(a, "Clear"))
	} else if owner, there := a.field("owner"); owner != "root" || !there || strings.Count(a.Text, `<input type="hidden" name="sort" value="name">`) != 1 {
		t.Error("the switcher does not keep the filters")
	}
	p.get(mine+"&namespace=acme").want(200, "Keys that act for you in namespace <bdi>acme</bdi>")
	p.get(mine).want(200, "My own", "Revoke").lacks("Worker")
	p.get("/apikeys/keys?cursor=nonsense").want(422)
	p.get("/apikeys/keys?sort=name&cursor=nonsense").want(422)
	p.get("/apikeys/keys?namespace=no%20such").want(422)
	p.get("/apikeys/keys?namespace=acne").want(200, "No such namespace", "Show all keys").lacks("/apikeys/keys/new")
	p.get("/apikeys/keys?status=odd").want(422)
}

// TestHostile: names are text, in whatever they stand.
func TestHostile(t *testing.T) {
	s := open(t)
	for _, name := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>{{.}}&amp;`, strings.Repeat("W", 200), strings.Repeat("<b>", 66), "يوم \u202eevil 日本語\u2028b", "javascript:alert(1)",
	} {
		p := s.signedIn(t, name, "*=@client-admin")
		id, _ := p.make("name", name, "metadata", "x="+name)
		for _, path := range []string{"/apikeys/keys", "/apikeys/keys/" + id, "/apikeys/keys/" + id + "/edit", "/apikeys/keys/" + id + "/rotate", "/apikeys/keys/" + id + "/revoke", "/apikeys/keys/new"} {
			a := p.get(path).want(200, html.EscapeString(strings.ReplaceAll(name, `"`, "")[:1])).lacks("<script>alert", "<img src=x", "<b><b>")
			if strings.Contains(path, id) && !strings.Contains(textOf(a.Doc), name) {
				t.Errorf("%s does not show %q", path, name)
			}
		}
		p.post("/apikeys/keys/"+id+"/edit", p.get("/apikeys/keys/"+id+"/edit").fill("reason", name)...).want(200)
		if got := s.key(t, id).Name; got != name {
			t.Errorf("%q became %q", name, got)
		}
		p.submit("/apikeys/keys/"+id+"/revoke", "confirm", "revoke", "reason", name).want(200)
	}
}
