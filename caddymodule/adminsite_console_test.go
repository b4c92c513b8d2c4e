package caddymodule

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
)

// signIn submits the sign-in form and returns the last response after redirects.
func (g *instance) signIn(token string, headers ...string) (int, string) {
	g.t.Helper()
	form := url.Values{"token": {token}}.Encode()
	return g.do("POST", "site", "/apikeys/sign-in", form,
		append([]string{"Content-Type", "application/x-www-form-urlencoded"}, headers...)...)
}

// TestConsole checks authentication for the pages: a session has the access of its token, but only
// to the pages.
func TestConsole(t *testing.T) {
	g := newInstance(t)
	g.loadSite(object{"handler": "api_key", "public": []string{"/apikeys/*"}})
	id, token := g.member(object{"name": "Ada", "grants": grantOf("client-admin")})
	g.client.Jar, _ = cookiejar.New(nil)
	const keys, asked, inside = "/apikeys/keys", "Member token", "<h1>Keys</h1>"
	for _, test := range []struct {
		name, method, path string
		do                 func()
		headers            []string
		status             int
		answer             string
	}{
		{"no session", "GET", keys, nil, nil, 200, asked},
		{"a bearer token without a session", "GET", keys, nil, withBearer(token), 200, asked},
		{"invalid token", "POST", "", func() { g.signIn(token + "x") }, nil, 0, ""},
		{"after an invalid token", "GET", keys, nil, nil, 200, asked},
		// An empty form causes no lookup, so it gets 422, not 425.
		{"early data", "POST", "/apikeys/sign-in", nil, []string{"Early-Data", "1"}, 422, asked},
		{"signed in", "GET", keys, func() { g.signIn(token) }, nil, 200, inside},
		{"the REST API accepts no session", "GET", "/apikeys/v1/keys", nil, nil, 401,
			"missing_key"},
		{"the protected API accepts no session", "GET", "/orders", nil, nil, 401, "missing_key"},
		{"an unsupported method", "DELETE", keys, nil, nil, 405, "does not support DELETE"},
		{"an unmapped method", "PROPFIND", keys, nil, nil, 405, "method_not_allowed"},
		{"dots", "GET", "/apikeys/x/../keys", nil, nil, 400, "non_canonical_target"},
		{"a form of another site", "POST", "/apikeys/sign-out", nil,
			[]string{"Sec-Fetch-Site", "cross-site"}, 403, "another site"},
		{"early data that writes", "POST", "/apikeys/keys/new", nil, []string{"Early-Data", "1"},
			425, "Try again"},
		{"disabled", "GET", keys, func() {
			g.mustDo("PATCH", "admin", "/apikeys/v1/members/"+id,
				`{"active":false}`)
		}, nil, 200, "This member has been disabled"},
		{"enabled", "GET", keys, func() {
			g.mustDo("PATCH", "admin", "/apikeys/v1/members/"+id,
				`{"active":true}`)
			g.signIn(token)
		}, nil, 200, inside},
		{"rotated token", "GET", keys,
			func() { g.mustDo("POST", "admin", "/apikeys/v1/members/"+id+"/token", "{}") }, nil,
			200, "Your session has ended"},
	} {
		if test.do != nil {
			test.do()
		}
		if test.path == "" {
			continue
		}
		status, answer := g.do(test.method, "site", test.path, "", test.headers...)
		if status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s: %d %s", test.name, status, answer)
		}
		if strings.Contains(answer, token) {
			t.Fatalf("%s: the response contains the token", test.name)
		}
	}
}

// TestConsoleAddresses checks that a session is valid only from the addresses of its token.
func TestConsoleAddresses(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	id, _ := g.member(object{"name": "Ada", "grants": grantOf("viewer")})
	var made struct{ Token string }
	if err := json.Unmarshal([]byte(g.mustDo("POST", "admin", "/apikeys/v1/members/"+id+"/token",
		`{"allowed_ips":["192.0.2.0/24"]}`)), &made); err != nil {
		t.Fatal(err)
	}
	token := made.Token
	g.client.Jar, _ = cookiejar.New(nil)
	office, cafe := []string{"X-Forwarded-For", "192.0.2.7"}, []string{"X-Forwarded-For",
		"198.51.100.7"}
	if status, answer := g.signIn(token, cafe...); status != 422 ||
		!strings.Contains(answer, "may not be used from 198.51.100.7") {
		t.Errorf("from another address: %d %s", status, answer)
	}
	if status, answer := g.signIn(token, office...); status != 200 ||
		!strings.Contains(answer, "<h1>Keys</h1>") {
		t.Errorf("from an allowed address: %d %s", status, answer)
	}
	if status, answer := g.do("GET", "site", "/apikeys/keys", "", cafe...); status != 403 ||
		!strings.Contains(answer, "Address not allowed") {
		t.Errorf("session used from another address: %d %s", status, answer)
	}
}

// TestConsoleExample checks that the example request for a new key names this site only if it
// serves the API.
func TestConsoleExample(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	_, token := g.member(object{"name": "Ada", "grants": grantOf("client-admin")})
	g.client.Jar, _ = cookiejar.New(nil)
	g.signIn(token)
	for _, test := range []struct {
		want   string
		before []object
	}{
		{"https://api.example.com/", nil},
		{"http://site/", []object{{"handler": "api_key", "public": []string{"/apikeys/*"}}}},
	} {
		g.loadSite(test.before...)
		form := url.Values{"name": {"CI"}, "access": {"read_only"}}.Encode()
		status, answer := g.do("POST", "site", "/apikeys/keys/new", form, "Content-Type",
			"application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin")
		if status != 201 || !strings.Contains(answer, "&#34;"+test.want+"&#34;") {
			t.Errorf("status %d, and no request to %s", status, test.want)
		}
	}
}

// cookie signs in and returns the Set-Cookie header.
func (g *instance) cookie(token, proto string) string {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), "POST", "http://site/apikeys/sign-in",
		strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Forwarded-Proto", proto)
	resp, err := g.client.Transport.RoundTrip(r)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.Header.Get("Set-Cookie")
}

// TestConsoleCookie checks that the cookie is Secure if this site or a trusted proxy has terminated
// TLS.
func TestConsoleCookie(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	_, token := g.member(object{"name": "Ada"})
	check := func(name, proto string, secure bool) {
		t.Helper()
		want := "apikeys-session="
		if secure {
			want = "__Secure-apikeys-session="
		}
		if got := g.cookie(token, proto); !strings.HasPrefix(got, want) ||
			strings.Contains(got, "Secure; ") != secure || strings.Contains(got, token) {
			t.Errorf("%s, %s: wrong cookie attributes", name, proto)
		}
	}
	check("trusted proxy", "http", false)
	check("trusted proxy", "https", true)
	g.trustsNoProxy = true
	g.loadSite()
	check("client", "https", false)
}

// TestConsoleKeepsConnections checks that a revoke does not close a connection on which an earlier
// request had the session.
func TestConsoleKeepsConnections(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	id, token := g.member(object{"name": "Ada", "grants": grantOf("client-admin")})
	cookie, _, _ := strings.Cut(g.cookie(token, "http"), ";")
	g.askTwice("GET /apikeys/keys HTTP/1.1\r\nHost: site\r\nCookie: "+cookie+"\r\n\r\n",
		"<h1>Keys</h1>", "ended=revoked",
		func() { g.mustDo("POST", "admin", "/apikeys/v1/members/"+id+"/token", "{}") })
}

func TestConsoleTrustUser(t *testing.T) {
	g := newInstance(t)
	signIn := object{"handler": "authentication",
		"providers": object{"http_basic": object{"accounts": []object{{"username": "ada",
			"password": bcrypted}, {"username": "eve", "password": bcrypted}}}}}
	g.loadSiteOf(object{"handler": "api_keys_admin", "trust_user": "{http.auth.user.id}"}, signIn)
	g.member(object{"name": "Ada Lovelace", "login": "ada", "grants": grantOf("client-admin")})
	for user, want := range map[string]int{"ada": 200, "eve": 403} {
		as := []string{"Authorization",
			"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+unencrypted))}
		if status, answer := g.do("GET", "site", "/apikeys/keys", "", as...); status != want ||
			strings.Contains(answer, "Ada Lovelace") != (want == 200) {
			t.Errorf("%s: %d %s", user, status, answer)
		}
	}
}

// TestUnauthenticatedRequestsNeedNoWriteLock checks that no request without a valid credential
// waits for the database's write lock. A request that needs the lock while another program holds it
// gets 503.
func TestUnauthenticatedRequestsNeedNoWriteLock(t *testing.T) {
	g := newInstance(t)
	g.loadSite(object{"handler": "api_key", "public": []string{"/apikeys/*"}})
	id, replaced := g.member(object{"name": "Ada", "grants": grantOf("client-admin")})
	var old struct{ Token string }
	if err := json.Unmarshal([]byte(g.mustDo("POST", "admin", "/apikeys/v1/members/"+id+"/token",
		"{}")), &old); err != nil {
		t.Fatal(err)
	}
	token := old.Token
	revoked := g.mint(object{"access": "custom", "permissions": []string{"*", "admin:*"}})
	g.mustDo("POST", "admin", "/apikeys/v1/keys/"+idOf(t, revoked)+"/revoke", "{}")
	g.mustDo("POST", "admin", "/apikeys/v1/keys/import",
		`{"keys":[{"name":"so that unknown credentials are looked up","namespace":"default","access":"read_only","token":"sk_live_0123456789"}]}`)

	// left is the cookie of a session that has been signed out.
	session := func(token string) string {
		jar, _ := cookiejar.New(nil)
		g.client.Jar = jar
		defer func() { g.client.Jar = nil }()
		g.signIn(token)
		cookies := jar.Cookies(&url.URL{Scheme: "http", Host: "site", Path: "/apikeys/"})
		if len(cookies) != 1 {
			t.Fatalf("%d cookies after signing in", len(cookies))
		}
		return cookies[0].Name + "=" + cookies[0].Value
	}
	left := session(token)
	g.do("POST", "site", "/apikeys/sign-out", "", "Cookie", left)
	name, value, _ := strings.Cut(left, "=")

	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	with := func(more ...string) []string { return append(more, form...) }
	release := lockSQLite(t, g.path("keys.db"))
	defer release()
	for _, test := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
	}{
		{"the API", "GET", "/orders", "", nil, 401},
		{"the API, unknown", "GET", "/orders", "", withBearer("sk_live_nobody"), 401},
		{"the API, revoked", "GET", "/orders", "", withBearer(revoked), 401},
		{"sign out without a session", "POST", "/apikeys/sign-out", "", nil, 200},
		{"sign out with an invalid cookie", "POST", "/apikeys/sign-out", "",
			[]string{"Cookie", name + "=junk"},
			200},
		{"sign out with a forged session", "POST", "/apikeys/sign-out", "",
			[]string{"Cookie", name + "=" + value[:len(value)-1] + "x"}, 200},
		{"sign out again", "POST", "/apikeys/sign-out", "", []string{"Cookie", left}, 200},
		{"sign out with a member's token as the session", "POST", "/apikeys/sign-out", "",
			[]string{"Cookie", name + "=" + token}, 200},
		{"sign in with an empty form", "POST", "/apikeys/sign-in", "", form, 422},
		{"sign in with an invalid token", "POST", "/apikeys/sign-in", "token=junk", form, 422},
		{"sign in with an invalid token and an ended session", "POST", "/apikeys/sign-in",
			"token=junk",
			with("Cookie", left), 422},
		{"sign in with a rotated token", "POST", "/apikeys/sign-in", "token=" + replaced,
			form, 422},
		{"sign in with a revoked key", "POST", "/apikeys/sign-in", "token=" + revoked, form, 422},
		{"a form of the console", "POST", "/apikeys/keys/new", "name=x", form, 200},
		{"a form of the console, with a session that is over", "POST", "/apikeys/keys/new",
			"name=x", with("Cookie", left), 200},
		{"a page, with junk", "GET", "/apikeys/keys", "", []string{"Cookie", name + "=junk"}, 200},
		{"mint", "POST", "/apikeys/v1/keys", "{}", nil, 401},
		{"mint once", "POST", "/apikeys/v1/keys", "{}", []string{"Idempotency-Key", "x"}, 401},
		{"mint, unknown", "POST", "/apikeys/v1/keys", "{}",
			append(withBearer("sk_live_nobody"), "Idempotency-Key", "x"), 401},
		{"mint, revoked", "POST", "/apikeys/v1/keys", "{}",
			append(withBearer(revoked), "Idempotency-Key", "x"), 401},
		{"mint, with a rotated token", "POST", "/apikeys/v1/keys", "{}",
			withBearer(replaced), 401},
		{"import", "POST", "/apikeys/v1/keys/import", "{}", nil, 401},
		{"edit", "PATCH", "/apikeys/v1/keys/" + idOf(t, revoked), "{}", nil, 401},
		{"revoke", "POST", "/apikeys/v1/keys/" + idOf(t, revoked) + "/revoke", "{}", nil, 401},
		{"revoke the own key", "POST", "/apikeys/v1/self/revoke", "{}", withBearer(revoked), 401},
		{"rotate", "POST", "/apikeys/v1/keys/" + idOf(t, revoked) + "/rotate", "{}", nil, 401},
		{"delete", "DELETE", "/apikeys/v1/keys/" + idOf(t, revoked), "", nil, 401},
		{"namespaces", "POST", "/apikeys/v1/namespaces", "{}", nil, 401},
		{"roles", "POST", "/apikeys/v1/roles", "{}", nil, 401},
		{"members", "POST", "/apikeys/v1/members", "{}", nil, 401},
		{"a member's token", "POST", "/apikeys/v1/members/" + id + "/token", "{}",
			withBearer(replaced), 401},
		{"verify", "POST", "/apikeys/v1/verify", "{}", nil, 401},
		{"audit", "GET", "/apikeys/v1/audit", "", nil, 401},
		{"health", "GET", "/apikeys/v1/health", "", nil, 200},
		{"documents", "GET", "/apikeys/v1/openapi.json", "", nil, 200},
	} {
		if status, _ := g.do(test.method, "site", test.path, test.body,
			test.headers...); status != test.status {
			t.Errorf("%s: %d, want %d", test.name, status, test.status)
		}
	}
}

// lockSQLite holds the write lock of a database file until release is called.
func lockSQLite(t *testing.T, path string) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	// The lock must hold for another connection too.
	if _, err := db.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err == nil {
		t.Fatal("two connections hold the write lock")
	}
	return func() {
		_, _ = conn.ExecContext(context.Background(), "ROLLBACK")
		_ = conn.Close()
		_ = db.Close()
	}
}
