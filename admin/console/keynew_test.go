package console_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestTokenOnce checks that the token is only in the answer to the form.
func TestTokenOnce(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	form := p.get("/apikeys/keys/new").fill("name", "CI")
	a := p.post("/apikeys/keys/new", form...).want(201, "It will not be shown again",
		"curl -H &#34;Authorization: Bearer ")
	token := tokens.FindString(a.Text)
	if !s.accepts(t, token) {
		t.Fatal("the token is refused")
	}
	id := token[3:15]
	if again := p.post("/apikeys/keys/new", form...).want(200,
		"already exists"); again.At.Path != "/apikeys/keys/"+id {
		t.Errorf("a reload led to %s", again.At)
	}
	// the notice is shown once
	p.get("/apikeys/keys/"+id).want(200, "<h1><bdi>CI</bdi></h1>").lacks("already exists")
	list, _, err := s.keys.ListKeys(ctx, root, keystore.KeyFilter{}, "", 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d keys, %v", len(list), err)
	}
	for _, path := range []string{"/apikeys/keys", "/apikeys/keys/" + id,
		"/apikeys/keys/" + id + "/edit", "/apikeys/keys/new"} {
		p.get(path).want(200).lacks(token)
	}
	if strings.Contains(s.log.String(), token) {
		t.Error("the log holds the token")
	}

	// A host from the request must not inject shell code.
	r, _ := http.NewRequest("POST", s.URL+"/apikeys/keys/new",
		strings.NewReader("name=CI&access=read_only"))
	for _, c := range p.http.Jar.Cookies(r.URL) {
		r.AddCookie(c)
	}
	r.Host = "x;id$(id)'"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	p.do(r).want(201, html.EscapeString(` "http://x;id%24(id)'/"`))
}

// TestExample checks that the example is a declared call with the fewest parameters, and is safe to
// paste into a shell.
func TestExample(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	for _, test := range []struct{ get, want, blanks string }{
		{"", "/", ""},
		{"/orders/{id} /$all /a/{b}/{c}", "/%24all", ""},
		{"/v1/{account}/orders/{id} /v1/{account}/orders /v1/**/{x}", "/v1/{account}/orders",
			"the parts in braces"},
	} {
		list := []api.Operation{{Permission: "orders:make", Class: "write", Method: "POST",
			Path: "/make"}}
		for i, path := range strings.Fields(test.get) {
			list = append(list, api.Operation{Permission: fmt.Sprintf("orders:%d", i),
				Class: "read", Method: "GET", Path: path})
		}
		s.api.Declare(list)
		a := p.submit("/apikeys/keys/new", "name", "x").want(201,
			"&#34; \\\n  &#34;"+s.URL+test.want+"&#34;</pre>", test.blanks)
		if test.blanks == "" {
			a.lacks("in braces")
		}
	}

	s.api.Declare([]api.Operation{
		{Permission: "orders:find", Class: "read", Method: "GET", Path: "/orders/{id}"},
		{Permission: "orders:list", Class: "read", Method: "GET", Path: "/orders"},
		{Permission: "orders:make", Class: "write", Method: "POST", Path: "/orders"},
	})
	for permissions, want := range map[string]string{
		"orders:read": ` "` + s.URL + `/orders"`, "orders:find": ` "` + s.URL + `/orders/{id}"`,
		"orders:make": " -X \"POST\" \\\n  -H", "orders:make orders:find": ` "` + s.URL + `/orders/{id}"`,
		"refunds:read": ` "` + s.URL + `/"`,
	} {
		p.submit("/apikeys/keys/new", "name", "x", "access", "custom", "permissions_more",
			permissions).want(201, html.EscapeString(want)).lacks("Replace <code>")
	}
	s.api.Declare([]api.Operation{{Permission: "orders:odd", Class: "write",
		Method: "M|id&`id`$PATH", Path: "/odd"}})
	p.submit("/apikeys/keys/new", "name", "x", "access", "custom", "permissions_more",
		"orders:odd").want(201, html.EscapeString("curl -X \"M|id&%60id%60%24PATH\" \\\n  -H"))
	s.api.Declare([]api.Operation{{Permission: "orders:list", Class: "read", Method: "GET",
		Path: "/orders"},
		{Permission: "orders:find", Class: "read", Method: "GET", Path: "/orders/{id}"}})
	s.apart = true
	p.submit("/apikeys/keys/new", "name", "x").want(201, "&#34;https://api.example.com/orders&#34;",
		"Replace <code>api.example.com</code> with the address of your API.").lacks(s.URL)
	p.submit("/apikeys/keys/new", "name", "x", "access", "custom", "permissions_more",
		"orders:find").want(201, "and the parts in braces")
}

// TestFirstHome checks that the form always begins with the same namespace for a member that may
// create keys in some namespaces but read none.
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
			t.Fatalf("the form begins with %q", got)
		}
	}

	// No key is offered in a namespace where the member may not create one. The form uses another.
	namespaces(t, s, keystore.Namespace{ID: "theirs"})
	p = s.signedIn(t, "Ben", "a=@developer", "theirs=@viewer")
	p.get("/apikeys/keys?namespace=a").want(200, "/apikeys/keys/new", "Create key")
	p.get("/apikeys/keys?namespace=theirs").want(200,
		"Creating a key requires admin.keys:create in").lacks("/apikeys/keys/new")
	if got, _ := p.get("/apikeys/keys/new?namespace=theirs").want(200).field("namespace"); got != "a" {
		t.Errorf("the form begins with %q, where the member may not create keys", got)
	}

	// A member can give a grant in another namespace where it has a permission, even if it may not
	// read the namespace, and include children if its own grant does.
	namespaces(t, s, keystore.Namespace{ID: "a1", Parent: "a"},
		keystore.Namespace{ID: "a2", Parent: "a"})
	p = s.signedIn(t, "Cleo", "a=read,admin.keys:create", "a1=read", "b=read")
	p.get("/apikeys/keys/new").want(200, "Individual children of <bdi>a</bdi>",
		`name="grants" value="a1"`, `name="grants" value="b"`).lacks(`name="grants" value="a2"`,
		`name="grants" value="c"`, `name="connected"`)
	p.get("/apikeys/keys?namespace=b").want(200, "No keys yet in <bdi>b</bdi>")
	p.get("/apikeys/keys?namespace=c").want(200, "Namespace not found")
}

// TestReach checks that the form and the page of a key show the reach of its namespace.
func TestReach(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "shop", Reach: []string{"work space", "group"}},
		keystore.Namespace{ID: "eu", Parent: "shop", Kind: "group"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	p.get("/apikeys/keys/new?namespace=shop").want(200,
		"of kind <bdi>work space</bdi> or <bdi>group</bdi>.")
	id, _ := p.createKey("name", "App", "namespace", "shop", "grants", "eu")
	a := p.get("/apikeys/keys/"+id).want(200,
		"of kind <bdi>work space</bdi> or <bdi>group</bdi>, limited to those of the owner "+
			"there.")
	if n := strings.Count(a.Text, "of kind"); n != 1 {
		t.Errorf("%d grants have a reach", n)
	}
	// A member that may read the key but not the namespace does not see it.
	s.signedIn(t, "Ben", "eu=admin.keys:read").get("/apikeys/keys/" + id).want(404)
	id, _ = p.createKey("name", "From below", "namespace", "eu", "grants", "shop")
	s.signedIn(t, "Cleo", "eu=admin.keys:read").get("/apikeys/keys/"+id).want(200,
		"In <bdi>shop</bdi>").lacks("of kind")
	s.signedIn(t, "Dora", "eu=admin.keys:read",
		"shop=admin.keys:update").get("/apikeys/keys/"+id).want(200, "of kind")
}

// TestManyChildren checks that the form does not offer to name more children than a key can have.
func TestManyChildren(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	for i := range 100 {
		namespaces(t, s, keystore.Namespace{ID: fmt.Sprint("acme-", i), Parent: "acme"})
	}
	s.signedIn(t, "Ada", "*=@client-admin").get("/apikeys/keys/new?namespace=acme").want(200,
		"A key can have at most 100 namespaces", "All children of <bdi>acme</bdi>").
		lacks("All current children")
}

// TestMint checks the keys that forms create.
func TestMint(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", Kind: "account"},
		keystore.Namespace{ID: "eu", Parent: "acme"}, keystore.Namespace{ID: "us", Parent: "acme"},
		keystore.Namespace{ID: "other"})
	for _, r := range []keystore.Role{{Namespace: "acme", Name: "billing"},
		{Namespace: "*", Name: "support"}} {
		r.Permissions = []keystore.Permission{{Resource: "orders", Action: "read"}}
		if _, err := s.keys.CreateRole(ctx, root, r); err != nil {
			t.Fatal(err)
		}
	}
	s.api.Declare([]api.Operation{{Permission: "orders:search", Class: "read", Method: "GET",
		Path: "/orders"},
		{Permission: "orders:make", Class: "write", Method: "POST", Path: "/orders"}})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	for _, test := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"defaults", nil, "default [read] []"},
		{"read and write", []string{"access", "read_write"}, "default [read write] []"},
		{"permissions of another access level are ignored",
			[]string{"permissions", "orders:make"}, "default [read] []"},
		{"custom", []string{"access", "custom", "permissions", "orders:make", "permissions",
			"orders:search", "permissions_more", " mcp:read,\nx:* "},
			"default [mcp:read orders:make orders:search x:*] []"},
		{"everything", []string{"access", "custom", "permissions", "*"}, "default [*] []"},
		{"by roles", []string{"namespace", "acme", "access", "roles", "roles", "billing", "roles",
			"support"}, "acme [] [billing support]"},
		{"new role", []string{"namespace", "acme", "access", "roles", "new_roles[0].name",
			"shop", "new_roles[0].permissions", "orders:make"}, "acme [] [shop]"},
		{"with children", []string{"namespace", "acme", "connected", "true"},
			"acme [read] [] connected"},
		{"selected namespaces", []string{"namespace", "acme", "grants", "eu", "grants", "us",
			"access:us", "read_write", "roles", "support", "roles", "billing"},
			"acme [read] [billing support]; eu [read] [support]; us [read write] []"},
		{"typed namespaces", []string{"grants_more", "other acme", "connected:acme", "true"},
			"default [read] []; other [read] []; acme [read] [] connected"},
		{"everywhere", []string{"grants", "*"}, "default [read] []; * [read] []"},
	} {
		id, _ := p.createKey(append([]string{"name", test.name}, test.fields...)...)
		if got := grantsOf(s.key(t, id)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	id,
		token := p.createKey("name", "other fields", "active", "-", "expires", "custom",
		"expires_day",
		"2037-01-31", "expires_time", "17:30", "allowed_ips", "10.1.2.3/8 2001:db8::1\n192.0.2.1",
		"metadata", "team = erp\n\nnote=a=b")
	k := s.key(t, id)
	if got := fmt.Sprint(k.Active, k.ExpiresAt, k.AllowedIPs, k.Metadata,
		k.Owner == k.CreatedBy); got != "false 2037-01-31 17:30:00 +0000 UTC [10.0.0.0/8 "+
		"2001:db8::1/128 192.0.2.1/32] map[note:a=b team:erp] true" || s.accepts(t, token) {
		t.Error(got)
	}
	for _, test := range []struct{ zone, day, want string }{
		{"Europe/Berlin", "2037-01-31", "2037-01-31T16:30:00Z"},
		{"Europe/Berlin", "2037-07-31", "2037-07-31T15:30:00Z"},
		{"Asia/Kathmandu", "2037-01-31", "2037-01-31T11:45:00Z"},
		{"Local", "2037-01-31", "2037-01-31T17:30:00Z"},
		{"../etc/passwd", "2037-01-31", "2037-01-31T17:30:00Z"},
	} {
		id, _ := p.createKey("name", test.zone, "expires", "custom", "expires_day", test.day,
			"expires_time", "17:30", "zone", test.zone)
		if got := s.key(t, id).ExpiresAt.Format(time.RFC3339); got != test.want {
			t.Errorf("17:30 on %s in %s is %s, want %s", test.day, test.zone, got, test.want)
		}
	}
	id, _ = p.createKey("name", "expires", "expires", "30d")
	if left := time.Until(s.key(t, id).ExpiresAt); left < 29*24*time.Hour ||
		left > 31*24*time.Hour {
		t.Errorf("30 days are %v", left)
	}
}

// TestHugeForms checks that grants in many namespaces are limited.
func TestHugeForms(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	id, _ := p.createKey("name", "k")
	many := []string{"name", "k", "access", "custom",
		"grants_more", strings.Repeat("a ", 2000),
		"roles_more", strings.Repeat("viewer ", 2000),
		"permissions_more", strings.Repeat("read ", 2000), "version", "1"}
	for _, path := range []string{"/apikeys/keys/new", "/apikeys/keys/" + id + "/edit"} {
		a := p.post(path, many...).want(422, "at most 100")
		if got, _ := a.field("grants_more"); got != many[5] {
			t.Errorf("%s: the typed namespaces are lost", path)
		}
		p.post(path, "name", strings.Repeat("x", 256<<10)).want(400, "is too long")
		if a := p.post(path, "name", "k", "access", "read_only", "metadata",
			strings.Repeat("a\n", 1000), "version", "1").want(422); strings.Count(a.Text,
			"must have the form name=value") > 2 {
			t.Errorf("%s: the error is repeated, on a page of %d characters", path, len(a.Text))
		}
	}
}

// TestInvalidFields checks that errors are shown beside their fields and that all values are kept.
func TestInvalidFields(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	typed := []string{"name", "gnirts <script>alert(1)</script>", "namespace", "acme",
		"access", "custom", "permissions_more", "Orders:read", "allowed_ips", "10.0.0.0/99",
		"metadata", "team", "expires", "custom", "expires_day", "tomorrow", "expires_time", "",
		"zone", "", "grants_more", "nowhere", "active", "-", "new_roles[0].name", "no good"}
	for _, test := range []struct {
		field, wrong string
		change       []string
	}{
		{"metadata", "must have the form name=value", nil},
		{"expires_at", "Must be a day such as", nil},
		{"expires_at", "Must be a day such as",
			[]string{"metadata", "team=erp", "expires_day", "9999-12-31", "expires_time", "23:59",
				"zone", "America/New_York"}},
		{"expires_at", "Must be a day such as",
			[]string{"metadata", "team=erp", "expires_day", "0000-01-01", "zone", "Asia/Tokyo"}},
		{"permissions", "the resource must begin with a-z",
			[]string{"metadata", "team=erp", "expires", "never"}},
		{"allowed_ips", "Must be an address", []string{"metadata", "team=erp", "expires", "never"}},
		{"grants", "does not exist; create it first",
			[]string{"metadata", "team=erp", "expires", "never", "permissions_more", "orders:read",
				"allowed_ips", "", "new_roles[0].name", ""}},
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
		a := p.submit("/apikeys/keys/new", fields...).want(422, "<title>Error: Create key",
			test.wrong, `href="#f-`+test.field+`"`, `id="f-`+test.field+`"`)
		a.lacks("<script>alert", "It will not be shown again")
		for i := 0; i < len(fields); i += 2 {
			if fields[i] == "active" {
				continue
			}
			if got, _ := a.field(fields[i]); got != fields[i+1] {
				t.Errorf("%s: %s is %q, want %q", test.field, fields[i], got, fields[i+1])
			}
		}
		if _, checked := a.field("active"); !checked {
			t.Error("no checkbox for active")
		}
	}
	if list, _, _ := s.keys.ListKeys(ctx, root, keystore.KeyFilter{}, "", 10); len(list) > 0 {
		t.Errorf("%d keys were created", len(list))
	}
	// Choosing another namespace is not an error.
	a := p.submit("/apikeys/keys/new", append(typed, "again", "namespace")...).want(200)
	if got, _ := a.field("allowed_ips"); got != "10.0.0.0/99" ||
		strings.Contains(a.Text, `role="alert"`) {
		t.Errorf("%q", got)
	}
}

func TestKeyRoles(t *testing.T) {
	s := open(t)
	if _, err := s.keys.CreateRole(ctx, root,
		keystore.Role{Namespace: "*", Name: "member",
			Permissions: []keystore.Permission{{Resource: "company",
				Action: "show"}}}); err != nil {
		t.Fatal(err)
	}
	namespaces(t, s, keystore.Namespace{ID: "fixed", KeyRoles: []string{"member"}},
		keystore.Namespace{ID: "some", KeyRoles: []string{keystore.AnyRole}})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	a := p.get("/apikeys/keys/new?namespace=fixed").want(200, "have this role")
	if _, exists := a.field("roles"); exists {
		t.Error("the fixed role can be changed")
	}
	id, _ := p.createKey("name", "a", "namespace", "fixed", "access", "custom", "permissions_more",
		"mcp:read")
	if got := grantsOf(s.key(t, id)); got != "fixed [mcp:read] [member]" {
		t.Error(got)
	}
	p.submit("/apikeys/keys/"+id+"/edit", "permissions_more", "mcp:write").
		want(200, "Changes saved")
	if got := grantsOf(s.key(t, id)); got != "fixed [mcp:write] [member]" {
		t.Error(got)
	}
	p.submit("/apikeys/keys/new?namespace=some", "name", "b").want(422,
		`href="#f-roles"`).lacks(`href="#f-permissions"`)
	p.submit("/apikeys/keys/new", "name", "b", "access", "roles").want(422,
		`href="#f-roles"`).lacks(`href="#f-permissions"`)
	// The key has the roles that the namespace requires.
	p.submit("/apikeys/keys/"+id+"/edit", "access", "roles").want(200, "Changes saved")
	id, _ = p.createKey("name", "c")
	p.submit("/apikeys/keys/"+id+"/edit", "access", "roles").want(422,
		`href="#f-roles"`).lacks(`href="#f-permissions"`)
}
