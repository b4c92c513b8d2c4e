package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// group creates a group with a login and returns its id.
func (g *instance) group(login, role string) string {
	id, _, _ := strings.Cut(strings.SplitN(g.mustDo("POST", "admin", "/apikeys/v1/members",
		mustJSON(object{"name": "Team " + login, "kind": "group", "login": login,
			"grants": grantOf(role)})), `"id":"`, 2)[1], `"`)
	return id
}

func mustJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// TestTrustGroups signs in people whose identity provider names their groups in a response header.
func TestTrustGroups(t *testing.T) {
	// The cookie is "user:groups". Without groups, the response has no header for them.
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, in := strings.CutPrefix(r.Header.Get("Cookie"), "session=")
		if !in {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		user, groups, named := strings.Cut(session, ":")
		w.Header().Set("Remote-User", user)
		if named {
			groups = strings.NewReplacer("'", `"`, "+", " ").Replace(groups)
			w.Header().Set("Remote-Groups", groups)
		}
	}))
	defer auth.Close()
	g := newInstance(t)
	load := func(before string) {
		t.Helper()
		adapted, err := tryAdapt(fmt.Sprintf(`http://site {
	bind unix/%s
	%s
	api_keys_admin {
		trust_user {header.Remote-User}
		trust_groups {header.Remote-Groups}
	}
}
`, g.path(g.siteSocket()), before))
		if err != nil {
			t.Fatal(err)
		}
		var config struct{ Apps object }
		if err := json.Unmarshal(adapted, &config); err != nil {
			t.Fatal(err)
		}
		g.load(g.config(sqlite(g.path("keys.db"), nil),
			func(_, apps object) { apps["http"] = config.Apps["http"] }))
	}
	load(fmt.Sprintf("forward_auth %s {\n\t\turi /check\n\t\tcopy_headers Remote-User Remote-Groups\n\t}",
		auth.Listener.Addr()))
	ada, _ := g.member(object{"name": "Ada", "login": "ada", "grants": grantOf("viewer")})
	_, token := g.member(object{"name": "Pat", "grants": grantOf("viewer")})
	bob, _ := g.member(object{"name": "Bob", "login": "bob", "grants": grantOf("viewer")})
	g.mustDo("PATCH", "admin", "/apikeys/v1/members/"+bob, `{"active":false}`)
	ops, dev := g.group("ops", "client-admin"), g.group("dev team", "viewer")
	const self, keys = "/apikeys/v1/self", "/apikeys/v1/keys"
	for _, test := range []struct {
		session, method, path string
		headers               []string
		status                int
		answer                string
	}{
		{"eve:ops", "GET", self, nil, 200, `"member":null,"login":"eve","groups":[{"id":"` + ops +
			`","name":"Team ops"}]`},
		{"eve:qa,+ops,dev+team", "GET", self, nil, 200, dev},
		{"eve:['dev+team']", "GET", self, nil, 200, dev},
		{"eve:dev+team", "GET", self, nil, 403, "No member is signed in"}, // two names
		{"eve:OPS", "GET", self, nil, 403, ""},
		{"eve:['ops'", "GET", self, nil, 403, ""},
		{"eve:", "GET", self, nil, 403, ""},
		{":ops", "GET", self, nil, 403, ""},
		{"ops", "GET", self, nil, 403, ""},
		{"ada:ops", "GET", self, nil, 200, `"member":"` + ada + `"`},
		{"ada:ops", "POST", keys, nil, 403, "insufficient_permission"}, // a member, not its groups
		{"bob:ops", "GET", self, nil, 403, ""},                         // a disabled member
		{"eve:ops", "POST", keys, nil, 201, `"owner":"` + ops + `"`},
		{"eve:ops", "POST", keys, nil, 201, `"created_by":"eve via ` + ops + `"`},
		{"eve:ops", "GET", self, withBearer(token), 400, "ambiguous_credentials"},
		{"eve:ops", "POST", keys, []string{"Early-Data", "1"}, 425, ""},
		// Headers of the client do not reach the handler.
		{"eve", "GET", self, []string{"Remote-Groups", "ops"}, 403, ""},
		{"eve:dev+team", "GET", self, []string{"Remote-Groups", "ops"}, 403, ""},
	} {
		status, answer := g.do(test.method, "site", test.path,
			map[string]string{"POST": `{"name":"k","access":"read_only"}`}[test.method],
			append(test.headers, "Cookie", "session="+test.session)...)
		if status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s: %d, want %d %s: %s", test.session, status, test.status, test.answer, answer)
		}
	}
	if status, _ := g.do("GET", "site", self, "", "Remote-User", "eve", "Remote-Groups",
		"ops"); status != 401 {
		t.Errorf("headers without a session: %d", status)
	}
	// Leaving a group, and disabling it, takes effect with the next request.
	as := func(session string) int {
		status, _ := g.do("GET", "site", keys, "", "Cookie", "session="+session)
		return status
	}
	if in, out := as("eve:ops"), as("eve:qa"); in != 200 || out != 403 {
		t.Errorf("in the group %d, then %d", in, out)
	}
	g.mustDo("PATCH", "admin", "/apikeys/v1/members/"+ops, `{"active":false}`)
	if status := as("eve:ops"); status != 403 {
		t.Errorf("in a disabled group: %d", status)
	}
	if status, answer := g.do("GET", "site", "/apikeys/keys", "", "Cookie",
		"session=eve:ops"); status != 403 || !strings.Contains(answer, "No member matches your login") {
		t.Errorf("in the console: %d %s", status, answer)
	}
}

// TestTrustGroupsWithoutUser checks that the groups of a client count only with a trusted user.
func TestTrustGroupsWithoutUser(t *testing.T) {
	g := newInstance(t)
	trusting := object{"handler": "api_keys_admin", "trust_user": "{http.auth.user.id}",
		"trust_groups": "{http.request.header.Remote-Groups}"}
	g.loadSiteOf(trusting)
	g.group("ops", "client-admin")
	const self = "/apikeys/v1/self"
	groups := []string{"Remote-Groups", "ops"}
	if status, answer := g.do("GET", "site", self, "", groups...); status != 403 {
		t.Errorf("%d %s", status, answer)
	}
	key := g.mint(object{"access": "read_only"})
	g.loadSiteOf(trusting, object{"handler": "api_key"})
	if status, answer := g.do("GET", "site", self, "", append(groups, withBearer(key)...)...); status !=
		403 {
		t.Errorf("a key: %d %s", status, answer)
	}
	// A handler of the site that sets the groups itself.
	g.loadSiteOf(trusting, object{"handler": "authentication",
		"providers": object{"http_basic": object{"accounts": []object{
			{"username": "eve", "password": bcrypted}, {"username": "pat", "password": bcrypted}}}}},
		object{"handler": "headers", "request": object{"delete": []string{"Remote-Groups"}}},
		object{"handler": "map", "source": "{http.auth.user.id}",
			"destinations": []string{"{groups}"}, "mappings": []object{
				{"input": "eve", "outputs": []string{"ops"}}}},
		object{"handler": "headers", "request": object{"set": object{
			"Remote-Groups": []string{"{groups}"}}}})
	for user, want := range map[string]int{"eve": 200, "pat": 403} {
		as := []string{"Authorization",
			"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+unencrypted))}
		if status, answer := g.do("GET", "site", self, "", append(as, groups...)...); status != want {
			t.Errorf("%s: %d %s", user, status, answer)
		}
	}
}
