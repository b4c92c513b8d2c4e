package caddymodule

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// loadSite loads a config with a site that has api_keys_admin, and other handlers before and after
// it.
func (g *instance) loadSite(before ...object) {
	g.loadSiteOf(object{"handler": "api_keys_admin"}, before...)
}

func (g *instance) loadSiteOf(admin object, before ...object) {
	g.sites++
	handlers := append(before, admin,
		object{"handler": "static_response", "status_code": 418, "body": "next"})
	g.load(g.config(sqlite(g.path("keys.db"), nil), func(_, apps object) {
		apps["http"] = object{"servers": object{"site": object{
			"listen":               []string{"unix/" + g.path(g.siteSocket())},
			"trusted_proxies_unix": !g.trustsNoProxy,
			"routes":               []object{{"handle": handlers}},
		}}}
	}))
}

func (g *instance) mustDo(method, server, path, body string, headers ...string) string {
	g.t.Helper()
	status, answer := g.do(method, server, path, body, headers...)
	if status/100 != 2 {
		g.t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

func idOf(t *testing.T, token string) string {
	t.Helper()
	parsed, err := keystore.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.ID()
}

func withBearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

func TestAdminSiteRealm(t *testing.T) {
	g := newInstance(t)
	g.loadSiteOf(object{"handler": "api_keys_admin", "realm": "Acme Inc."})
	r, err := http.NewRequest("GET", "http://"+g.siteSocket()+"/apikeys/v1/keys", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := g.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if challenge := answer.Header.Get("WWW-Authenticate"); answer.StatusCode != 401 ||
		challenge != `Bearer realm="Acme Inc."` {
		t.Errorf("%d %q", answer.StatusCode, challenge)
	}
}

func TestAdminSite(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}})
	plain := g.mint(nil)
	office := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"},
		"allowed_ips": []string{"192.0.2.0/24"}})
	office6 := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"},
		"allowed_ips": []string{"2001:db8::/32"}})
	inactive := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"},
		"active": false})
	revoked := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}})
	g.mustDo("POST", "admin", "/apikeys/v1/keys/"+idOf(t, revoked)+"/revoke", `{"reason":"test"}`)
	unknown := g.mint(nil)
	g.mustDo("POST", "admin", "/apikeys/v1/keys/"+idOf(t, unknown)+"/revoke", `{"reason":"test"}`)
	g.mustDo("DELETE", "admin", "/apikeys/v1/keys/"+idOf(t, unknown), "")

	const keys = "/apikeys/v1/keys"
	for _, test := range []struct {
		name, method, path string
		headers            []string
		status             int
		answer             string
	}{
		{"another path", "GET", "/", nil, 418, "next"},
		{"a longer name", "GET", "/apikeysx", nil, 418, "next"},
		{"unknown path", "GET", "/apikeys/v1/x", withBearer(plain), 404, "not_found"},
		{"unknown path, without a key", "GET", "/apikeys/v1/x", nil, 401, "missing_key"},
		{"the API itself", "GET", "/apikeys/v1", withBearer(plain), 404, "not_found"},
		{"unknown page", "GET", "/apikeys/v1x", nil, 404, "Page not found"},
		// API keys do not work for pages
		{"a page", "GET", "/apikeys", withBearer(manager), 200, "Sign in"},
		{"a manager", "GET", keys, withBearer(manager), 200, `"items"`},
		{"a manager with X-API-Key", "GET", keys, []string{"X-API-Key", manager}, 200,
			`"items"`},
		{"a manager without this permission", "GET", "/apikeys/v1/namespaces", withBearer(manager),
			403, "insufficient_permission"},
		{"no admin permission", "GET", keys, withBearer(plain), 403, `"needed":"admin.keys:read"`},
		{"no admin permission, self", "GET", "/apikeys/v1/self", withBearer(plain), 200,
			idOf(t, plain)},
		{"no admin permission, self, write", "POST", "/apikeys/v1/self", withBearer(plain), 405,
			"method_not_allowed"},
		{"document", "GET", "/apikeys/v1/openapi.json", nil, 200, `"openapi"`},
		{"health", "GET", "/apikeys/v1/health", nil, 200, ""},
		{"dots", "GET", "/apikeys/v1/../v1/health", nil, 400, "non_canonical_target"},
		{"encoded slash", "GET", "/apikeys/v1%2Fhealth", nil, 400, "non_canonical_target"},
		{"the method is checked first", "PROPFIND", keys, nil, 405, "method_not_allowed"},
		{"method on an open path", "TRACE", "/apikeys/v1/health", nil, 405, "method_not_allowed"},
		{"no token", "GET", keys, nil, 401, "missing_key"},
		{"two tokens", "GET", keys, append(withBearer(manager), "X-API-Key", manager), 400,
			"ambiguous_credentials"},
		{"token in the query", "GET", keys + "?api_key=" + manager, nil, 401, "missing_key"},
		{"malformed", "GET", keys, withBearer("ak_nonsense"), 401, "invalid_key"},
		{"member prefix", "GET", keys, withBearer("akm" + strings.TrimPrefix(manager, "ak")), 401,
			"invalid_key"},
		{"deleted", "GET", keys, withBearer(unknown), 401, "invalid_key"},
		{"revoked", "GET", keys, withBearer(revoked), 401, "key_revoked"},
		{"revoked, self", "GET", "/apikeys/v1/self", withBearer(revoked), 401, "key_revoked"},
		{"inactive", "GET", keys, withBearer(inactive), 401, "key_inactive"},
		{"another address", "GET", keys,
			append(withBearer(office), "X-Forwarded-For", "198.51.100.7"),
			403, "address_not_allowed"},
		{"allowed address", "GET", keys, append(withBearer(office), "X-Forwarded-For", "192.0.2.7"),
			200, `"items"`},
		{"IPv6", "GET", keys, append(withBearer(office6), "X-Forwarded-For", "2001:db8::7"), 200,
			`"items"`},
		{"IPv6 in brackets", "GET", keys,
			append(withBearer(office6), "X-Forwarded-For", "[2001:db8::7]"), 200, `"items"`},
		{"IPv6 in brackets, with a port", "GET", keys,
			append(withBearer(office6), "X-Forwarded-For", "[2001:db8::7]:443"), 200, `"items"`},
		{"IPv6 in brackets, before others", "GET", keys,
			append(withBearer(office6), "X-Forwarded-For", " [2001:db8::7] , [2001:db7::1]:443"),
			200, `"items"`},
		{"IPv6 in brackets, behind another", "GET", keys,
			append(withBearer(office6), "X-Forwarded-For", "[2001:db7::1], [2001:db8::7]"), 403,
			"address_not_allowed"},
		{"IPv6 in brackets, another address", "GET", keys,
			append(withBearer(office6), "X-Forwarded-For", "[2001:db7::7]"), 403,
			"address_not_allowed"},
		{"half a bracket", "GET", keys,
			append(withBearer(office6), "X-Forwarded-For", "[2001:db8::7"), 403,
			"address_not_allowed"},
		{"only a closing bracket", "GET", keys,
			append(withBearer(office6), "X-Forwarded-For", "12001:db8::7], [2001:db7::1]"), 403,
			"address_not_allowed"},
		{"early data that reads", "GET", keys, append(withBearer(manager), "Early-Data", "1"), 200,
			`"items"`},
		{"early data that writes", "POST", keys, append(withBearer(manager), "Early-Data", "1"),
			425, "too_early"},
		{"cross-origin", "POST", keys, append(withBearer(manager), "Sec-Fetch-Site", "cross-site"),
			403, "cross_origin"},
	} {
		status, answer := g.do(test.method, "site", test.path, "", test.headers...)
		for _, token := range []string{manager, plain, office, inactive, revoked, unknown} {
			if strings.Contains(answer, token) {
				t.Fatalf("%s: the response contains a token", test.name)
			}
		}
		if status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s: %d %s", test.name, status, answer)
		}
	}

	_, metrics := g.do("GET", "admin", "/metrics", "")
	for _, want := range []string{
		`requests_total{namespace="default",outcome="revoked"} 2`,
		`requests_total{namespace="default",outcome="inactive"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

func TestAdminSiteBehindAPIKey(t *testing.T) {
	g := newInstance(t)
	g.loadSite(object{"handler": "api_key", "public": []string{"/apikeys/*"}})
	manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}})
	if status, answer := g.do("GET", "site", "/apikeys/v1/keys", "",
		withBearer(manager)...); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer := g.do("GET", "site", "/apikeys/v1/keys", ""); status != 401 {
		t.Errorf("without a key: %d %s", status, answer)
	}
	for _, path := range []string{"/apikeys/v1", "/apikeys/x", "/apikeys/v2/keys", "/%61pikeys/x"} {
		// api_key has not removed the key from these requests, so no later handler may receive
		// them.
		if status, answer := g.do("GET", "site", path, "", withBearer(manager)...); status != 404 {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	if status, answer := g.do("GET", "site", "/orders", ""); status != 401 {
		t.Errorf("without a key, another path: %d %s", status, answer)
	}
}

func TestAdminSiteCutsRunningRequests(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:*"}})

	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", g.path(g.siteSocket()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn,
		"POST /apikeys/v1/keys/import HTTP/1.1\r\nHost: site\r\nAuthorization: Bearer %s\r\n"+
			"Content-Type: application/x-ndjson\r\nContent-Length: 1000\r\nExpect: "+
			"100-continue\r\n\r\n", manager); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); !strings.Contains(line, " 100 ") {
		t.Fatalf("the import is not being read: %q, %v", line, err)
	}
	g.mustDo("POST", "admin", "/apikeys/v1/keys/"+idOf(t, manager)+"/revoke", `{"reason":"test"}`)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(answers); strings.TrimSpace(string(rest)) != "" ||
		errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the import continues, or got a response: %q, %v", rest, err)
	}
}

// askTwice sends a request before and after a change on one connection. It checks a part of the
// responses.
func (g *instance) askTwice(request, before, after string, change func()) {
	g.t.Helper()
	conn, err := new(net.Dialer).DialContext(g.t.Context(), "unix", g.path(g.siteSocket()))
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(atOnce)); err != nil {
		g.t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	ask := func(want string) {
		g.t.Helper()
		_, _ = io.WriteString(conn, request)
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			g.t.Fatal(err)
		}
		defer answer.Body.Close()
		if body, err := io.ReadAll(answer.Body); err != nil || !strings.Contains(string(body), want) {
			g.t.Errorf("%s %v: %s, want %s", answer.Status, err, body, want)
		}
	}
	ask(before)
	change()
	ask(after)
}

// TestAdminSiteKeepsConnections checks that a revoke does not close a connection on which an earlier
// request had the key.
func TestAdminSiteKeepsConnections(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}})
	g.askTwice("GET /apikeys/v1/keys HTTP/1.1\r\nHost: site\r\nAuthorization: Bearer "+manager+
		"\r\n\r\n", `"items"`, "key_revoked", func() {
		g.mustDo("POST", "admin", "/apikeys/v1/keys/"+idOf(t, manager)+"/revoke", `{"reason":"test"}`)
	})
}

// TestChangesOwnCredential checks which requests a revoke must not cut, because they may be the
// revoke.
func TestChangesOwnCredential(t *testing.T) {
	member := keystore.MemberPrefix + "_x"
	for _, test := range []struct {
		class                keystore.Class
		path, token, session string
		want                 bool
	}{
		{keystore.Write, "/apikeys/v1/keys/k/revoke", "ak_x", "", true},
		{keystore.Write, "/apikeys/v1/keys/k", "ak_x", "", true},
		{keystore.Write, "/apikeys/v1/keys/k2", "ak_x", "", false},
		{keystore.Write, "/apikeys/v1/keys", "ak_x", "", false},
		{keystore.Write, "/apikeys/v1/members/m", "ak_x", "", false},
		{keystore.Write, "/apikeys/v1/self/rotate", "ak_x", "", true},
		{keystore.Write, "/apikeys/v1/members/m/token", member, "", true},
		{keystore.Write, "/apikeys/v1/members/m", member, "", true},
		{keystore.Write, "/apikeys/v1/members/m2", member, "", false},
		{keystore.Write, "/apikeys/v1/keys/k", member, "", false},
		{keystore.Write, "/apikeys/keys/new", "", "s", true},
		{keystore.Read, "/apikeys/v1/keys/k", "ak_x", "", false},
		{keystore.Read, "/apikeys/v1/self/x", member, "", false},
		{keystore.Read, "/apikeys/keys", "", "s", false},
	} {
		c := call{need: keystore.Need{Class: test.class}, path: test.path, session: test.session,
			credential: credential{token: test.token},
			record:     &keystore.Record{KeyID: "k", Owner: "m"}}
		if got := changesOwnCredential(&c); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// TestAdminSiteWithoutStart checks requests that arrive although the configuration has failed.
func TestAdminSiteWithoutStart(t *testing.T) {
	h := newFixture(t)
	site := new(AdminSite)
	site.auth.rules = h.handler("").rules
	site.auth.app = &App{started: make(chan struct{}), cleanedUp: make(chan struct{})}
	close(site.auth.app.cleanedUp)
	for _, wire := range []string{"GET /apikeys/v1/health", "GET /apikeys/v1/openapi.json",
		"GET /apikeys/", "POST /apikeys/sign-in", "GET /apikeys/v1/keys" + keyLine(junk)} {
		if a := h.send(site, wire); a.StatusCode != 503 || a.outcome() != "unavailable" {
			t.Errorf("%s: %d %s", wire, a.StatusCode, a.outcome())
		}
	}
}

// TestMayMatchSite checks which matchers of api_keys_admin are refused, because they match no path
// under /apikeys/.
func TestMayMatchSite(t *testing.T) {
	for path, want := range map[string]bool{
		"*": true, "/*": true, "/apikeys": true, "/apikeys/*": true, "/APIKEYS/*": true, "/api*": true,
		"/{http.request.host}": true, "{env.PATH}": true, "/apikeys/v1/*": true,
		"/api": false, "/": false, "/other*": false, "/admin/apikeys/*": false, "/b*": false,
	} {
		if got := mayMatchSite([]string{path}); got != want {
			t.Errorf("%s: %v", path, got)
		}
		if !mayMatchSite([]string{path, "*"}) {
			t.Errorf("%s or any path matches none", path)
		}
	}
	if mayMatchSite(nil) {
		t.Error("no path matches")
	}
}

func TestAdminSiteOptions(t *testing.T) {
	for _, test := range []struct {
		site AdminSite
		want bool
	}{
		{AdminSite{}, true},
		{AdminSite{Realm: "Acme Inc."}, true},
		{AdminSite{TrustUser: "{http.auth.user.id}"}, true},
		{AdminSite{TrustUser: "{http.request.header.X-User}", Realm: "acme"}, true},
		{AdminSite{Realm: `"`}, false},
		{AdminSite{TrustUser: "{http.auth.user.id}", Realm: `"`}, false},
		{AdminSite{TrustUser: "http.auth.user.id"}, false},
		{AdminSite{TrustUser: "{http.auth.user.id"}, false},
		{AdminSite{TrustUser: "http.auth.user.id}"}, false},
		{AdminSite{TrustUser: "{http.a}{http.b}"}, false},
		{AdminSite{TrustUser: "{env.USER}"}, false},
		{AdminSite{TrustUser: "{http.api_key.name}"}, false},
	} {
		if err := test.site.compile(); (err == nil) != test.want {
			t.Errorf("%+v: %v", test.site, err)
		}
	}
}

func TestAdminSiteAnswersSelfRevoke(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	for _, path := range []string{"/apikeys/v1/self/revoke", "/apikeys/v1/keys/{id}/revoke"} {
		manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:*"}})
		path = strings.Replace(path, "{id}", idOf(t, manager), 1)
		if answer := g.mustDo("POST", "site", path, `{"reason":"test"}`,
			withBearer(manager)...); !strings.Contains(answer, `"revoked"`) {
			t.Errorf("%s: %s", path, answer)
		}
		if status, _ := g.do("GET", "site", "/apikeys/v1/self", "",
			withBearer(manager)...); status != 401 {
			t.Errorf("%s: later requests with the key get %d", path, status)
		}
	}
}

// member creates a member through the admin endpoint, with a token unless it has a login.
func (g *instance) member(body object) (id, token string) {
	g.t.Helper()
	text, _ := json.Marshal(body)
	var m api.Member
	if err := json.Unmarshal([]byte(g.mustDo("POST", "admin", "/apikeys/v1/members", string(text))),
		&m); err != nil {
		g.t.Fatal(err)
	}
	if body["login"] != nil {
		return m.ID, ""
	}
	var made api.MemberChanged
	if err := json.Unmarshal([]byte(g.mustDo("POST", "admin", "/apikeys/v1/members/"+m.ID+"/token",
		"")), &made); err != nil {
		g.t.Fatal(err)
	}
	return m.ID, made.Token
}

func grantOf(role string) []object { return []object{{"namespace": "*", "roles": []string{role}}} }

func TestAdminSiteMembers(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	id, token := g.member(object{"name": "Ada", "grants": grantOf("client-admin")})
	self := g.mustDo("GET", "site", "/apikeys/v1/self", "", withBearer(token)...)
	if !strings.Contains(self, `"member":"`+id+`"`) || strings.Contains(self, token) {
		t.Errorf("self: %s", strings.ReplaceAll(self, token, "TOKEN"))
	}
	g.mustDo("GET", "site", "/apikeys/v1/members", "", "Authorization",
		"Bearer secret-token:"+token)

	// A member that rotates its own token gets the response, and then the old token is invalid.
	var made api.MemberChanged
	if err := json.Unmarshal([]byte(g.mustDo("POST", "site", "/apikeys/v1/members/"+id+"/token",
		"{}", withBearer(token)...)), &made); err != nil {
		t.Fatal(err)
	}
	if status, answer := g.do("GET", "site", "/apikeys/v1/self", "",
		withBearer(token)...); status != 401 || !strings.Contains(answer, "key_revoked") {
		t.Errorf("the old token: %d %s", status, answer)
	}
	g.mustDo("PATCH", "site", "/apikeys/v1/members/"+id, `{"active":false}`,
		withBearer(made.Token)...)
	if status, answer := g.do("GET", "site", "/apikeys/v1/self", "",
		withBearer(made.Token)...); status != 401 || !strings.Contains(answer, "owner_disabled") {
		t.Errorf("disabled: %d %s", status, answer)
	}

	// A member's token is not valid for api_key.
	g.loadSite(object{"handler": "api_key"})
	if status, answer := g.do("GET", "site", "/orders", "",
		withBearer(made.Token)...); status != 401 || !strings.Contains(answer, "invalid_key") {
		t.Errorf("at the API: %d %s", status, answer)
	}
}

// unencrypted and bcrypted are the same password. The hash has the lowest cost.
const unencrypted, bcrypted = "open sesame", "$2a$04$R.Bpj5kMwGlJ1TK1RUbC.OqB25MoWYPemX.8OWS7skf9cirmgm2y6"

// TestTrustUser authenticates users with basic_auth.
func TestTrustUser(t *testing.T) {
	g := newInstance(t)
	trusting := object{"handler": "api_keys_admin", "trust_user": "{http.auth.user.id}"}
	signIn := object{"handler": "authentication",
		"providers": object{"http_basic": object{"accounts": []object{
			{"username": "ada", "password": bcrypted}, {"username": "eve", "password": bcrypted},
			{"username": "Ada", "password": bcrypted},
		}}}}
	as := func(user string) []string {
		return []string{"Authorization",
			"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+unencrypted))}
	}
	g.loadSiteOf(trusting, signIn)
	id, _ := g.member(object{"name": "Ada", "login": "ada", "grants": grantOf("client-admin")})
	_, token := g.member(object{"name": "Bob", "grants": grantOf("viewer")})
	const members = "/apikeys/v1/members"
	for _, test := range []struct {
		name, method, path string
		headers            []string
		status             int
		answer             string
	}{
		{"signed in", "GET", members, as("ada"), 200, id},
		{"signed in, self", "GET", "/apikeys/v1/self", as("ada"), 200, `"member":"` + id + `"`},
		{"not signed in", "GET", members, nil, 401, ""},
		{"login without a member", "GET", members, as("eve"), 403, "insufficient_permission"},
		{"another case", "GET", members, as("Ada"), 403, "No member is signed in"},
		{"user and token", "GET", members, append(as("ada"), "X-API-Key", token), 400,
			"ambiguous_credentials"},
		{"login without a member, and token", "GET", members, append(as("eve"), "X-API-Key", token),
			400, "ambiguous_credentials"},
		{"cross-origin", "POST", members, append(as("ada"), "Sec-Fetch-Site", "cross-site"), 403,
			"cross_origin"},
		{"early data that writes", "POST", members, append(as("ada"), "Early-Data", "1"), 425,
			"too_early"},
		{"path that needs no token", "GET", "/apikeys/v1/health", as("eve"), 200, ""},
	} {
		if status, answer := g.do(test.method, "site", test.path, "",
			test.headers...); status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s: %d %s", test.name, status, answer)
		}
	}
	g.mustDo("PATCH", "admin", members+"/"+id, `{"active":false}`)
	if status, answer := g.do("GET", "site", members, "", as("ada")...); status != 403 {
		t.Errorf("disabled: %d %s", status, answer)
	}
	g.mustDo("PATCH", "admin", members+"/"+id, `{"active":true}`)

	// Without an authenticated user, a token still works and a request without one gets 403.
	g.loadSiteOf(trusting)
	g.mustDo("GET", "site", members, "", withBearer(token)...)
	if status, answer := g.do("GET", "site", members, ""); status != 403 ||
		!strings.Contains(answer, "No member is signed in") {
		t.Errorf("no user: %d %s", status, answer)
	}

	// The user that api_key sets does not count, even if the key's id is a login.
	key := g.mint(object{"access": "read_only"})
	g.member(object{"name": "Eve", "login": idOf(t, key), "grants": grantOf("client-admin")})
	g.loadSiteOf(trusting, object{"handler": "api_key"})
	if status, answer := g.do("GET", "site", members, "", withBearer(key)...); status != 403 {
		t.Errorf("a key: %d %s", status, answer)
	}
	// Neither does a header that api_key sets for the upstream.
	g.loadSiteOf(object{"handler": "api_keys_admin",
		"trust_user": "{http.request.header.X-Apikey-Id}"}, object{"handler": "api_key"})
	if status, answer := g.do("GET", "site", members, "", withBearer(key)...); status != 403 {
		t.Errorf("a key by a header: %d %s", status, answer)
	}
}

// TestTrustUserOfForwardAuth authenticates users with another server, which names them in a
// response header.
func TestTrustUserOfForwardAuth(t *testing.T) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, in := strings.CutPrefix(r.Header.Get("Cookie"), "session=")
		if !in {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if user != "" {
			w.Header().Set("Remote-User", user)
		}
	}))
	defer auth.Close()
	g := newInstance(t)
	adapted, err := tryAdapt(fmt.Sprintf(`http://site {
	bind unix/%s
	forward_auth %s {
		uri /check
		copy_headers Remote-User
	}
	api_keys_admin {
		trust_user {header.Remote-User}
	}
}
`, g.path(g.siteSocket()), auth.Listener.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	var config struct{ Apps object }
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	g.load(g.config(sqlite(g.path("keys.db"), nil),
		func(_, apps object) { apps["http"] = config.Apps["http"] }))
	id, _ := g.member(object{"name": "Ada", "login": "ada", "grants": grantOf("client-admin")})
	for _, test := range []struct {
		cookie string
		status int
	}{{"session=ada", 200}, {"session=eve", 403}, {"session=", 403}, {"", 401}} {
		// The client's own header is replaced.
		status, answer := g.do("GET", "site", "/apikeys/v1/self", "", "Cookie", test.cookie,
			"Remote-User", "ada")
		if status != test.status || status == 200 && !strings.Contains(answer, id) {
			t.Errorf("%s: %d, want %d: %s", test.cookie, status, test.status, answer)
		}
	}
}

// TestAdminSiteUnreachable checks that provisioning fails if no request under /apikeys/ can reach
// the handler.
func TestAdminSiteUnreachable(t *testing.T) {
	for text, want := range map[string]string{
		"handle_path /admin/* {\n\t\tapi_keys_admin\n\t}":                              "api_keys_admin serves only paths under /apikeys/, but the route around it matches only /admin/*: write `handle /apikeys/* { api_keys_admin }`",
		"handle_path /apikeys/* {\n\t\tapi_keys_admin\n\t}":                            "the route around it removes /apikeys from the path: write `handle /apikeys/* { api_keys_admin }`",
		"handle /keys/* {\n\t\tapi_keys_admin\n\t}":                                    "matches only /keys/*",
		"route /keys/* {\n\t\troute {\n\t\t\tapi_keys_admin\n\t\t}\n\t}":               "matches only /keys/*",
		"handle /apikeys/* {\n\t\tapi_keys_admin\n\t}":                                 "",
		"handle {\n\t\tapi_keys_admin\n\t}":                                            "",
		"handle /keys/* {\n\t\turi replace /keys /apikeys\n\t\tapi_keys_admin\n\t}":    "",
		"handle /keys/* {\n\t\trewrite * /apikeys/\n\t\tapi_keys_admin\n\t}":           "",
		"handle_path /keys/* {\n\t\trewrite * /apikeys{path}\n\t\tapi_keys_admin\n\t}": "",
		"rewrite /keys/* /apikeys/\n\tapi_keys_admin":                                  "",
		"@a not path /apikeys/*\n\thandle @a {\n\t\trespond x\n\t}\n\tapi_keys_admin":  "",
	} {
		err := adaptAndValidate("{\n\tadmin off\n}\n:8080 {\n\t" + text + "\n}\n")
		if want == "" && err != nil || want != "" && !strings.Contains(errorText(err), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
