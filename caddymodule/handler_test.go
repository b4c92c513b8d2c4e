package caddymodule

import (
	"bufio"
	"context"
	"crypto/tls"
	"database/sql"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// A fixture is a key store with two namespaces, acme and globex.
type fixture struct {
	t     testing.TB
	file  string // of the database
	keys  *manage.Keystore
	app   *App
	close func()
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return newFixtureOn(t, func(db keystore.Database) keystore.Database { return db })
}

// newFixtureOn is newFixture on a database that wrap changes.
func newFixtureOn(t testing.TB, wrap func(keystore.Database) keystore.Database) *fixture {
	t.Helper()
	file := fleet.File(t)
	db, err := sqldb.OpenSQLite(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := manage.Open(t.Context(), wrap(db), nil, node.Settings{}, newStoreMetrics(),
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := &fixture{t: t, file: file, keys: keys, app: new(App)}
	h.close = sync.OnceFunc(func() {
		if err := keys.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(h.close)
	h.app.store.Store(&store{keys: keys})
	for _, id := range []string{"acme", "globex"} {
		if _, err := keys.CreateNamespace(t.Context(), manage.Root("test"),
			keystore.Namespace{ID: id, Kind: "account", Name: id}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// key creates a key with permissions in the namespace acme.
func (h *fixture) key(permissions string, change ...func(*manage.KeySpec)) (*keystore.Key, string) {
	h.t.Helper()
	spec := manage.KeySpec{Name: "test", Namespace: "acme",
		Home: &keystore.Grant{Namespace: "acme"}}
	for word := range strings.FieldsSeq(permissions) {
		p, err := keystore.ParsePermission(word)
		if err != nil {
			h.t.Fatal(err)
		}
		spec.Home.Permissions = append(spec.Home.Permissions, p)
	}
	for _, f := range change {
		f(&spec)
	}
	key, token, err := h.keys.MintKey(h.t.Context(), manage.Root("test"), spec, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return key, token.Reveal()
}

// handler returns an api_key handler with these Caddyfile options.
func (h *fixture) handler(options string) *Handler {
	h.t.Helper()
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(caddyfile.NewTestDispenser("api_key {\n" + options +
		"\n}")); err != nil {
		h.t.Fatal(err)
	}
	rules, err := handler.compile()
	if err != nil {
		h.t.Fatal(err)
	}
	handler.rules, handler.app, handler.logger = rules, h.app, zap.NewNop()
	return handler
}

// answer is the response to a request, with the request as the upstream received it.
type answer struct {
	*http.Response
	body    string
	seen    *http.Request // nil if the request did not reach it
	trailer http.Header   // as received by the upstream after the body
	err     error
	repl    *caddy.Replacer
	vars    map[string]any
}

// wireRequest parses a request in wire format. It adds HTTP/1.1 and Host.
func wireRequest(t testing.TB, wire string) *http.Request {
	t.Helper()
	head, body, _ := strings.Cut(wire, "\n\n")
	line, headers, _ := strings.Cut(head, "\n")
	text := line + " HTTP/1.1\nHost: api.example.com\n"
	if headers != "" {
		text += headers + "\n"
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(text+"\n", "\n",
		"\r\n") + body)))
	if err != nil {
		t.Fatalf("net/http refuses this request: %v", err)
	}
	r.RemoteAddr = "203.0.113.7:4711"
	return r
}

func (h *fixture) send(
	handler caddyhttp.MiddlewareHandler, wire string, change ...func(*http.Request),
) answer {
	h.t.Helper()
	return h.serve(handler, wireRequest(h.t, wire), change...)
}

func (h *fixture) serve(
	handler caddyhttp.MiddlewareHandler, r *http.Request, change ...func(*http.Request),
) answer {
	h.t.Helper()
	var a answer
	w := httptest.NewRecorder()
	a.repl = caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, a.repl, w, nil)
	a.vars = r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	a.vars[caddyhttp.ClientIPVarKey] = "203.0.113.7"
	for _, f := range change {
		f(r)
	}
	a.err = handler.ServeHTTP(w, r,
		caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			a.seen = r.Clone(context.WithoutCancel(r.Context()))
			if r.Body != nil {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					h.t.Error(err)
				}
			}
			a.trailer = r.Trailer.Clone()
			return nil
		}))
	a.Response = w.Result()
	a.body = w.Body.String()
	return a
}

func trustedPeer(r *http.Request) {
	caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, true)
}

// outcome returns the recorded outcome.
func (a answer) outcome() string {
	v, _ := a.repl.GetString("http.api_key.outcome")
	return v
}

func keyLine(token string) string { return "\nAuthorization: Bearer " + token }

const junk = "ak_000000000000aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestOutcomes(t *testing.T) {
	h := newFixture(t)
	_, reader := h.key("read")
	_, writer := h.key("read write")
	_, any := h.key("*")
	_, orders := h.key("orders:read shop:search")
	revokedKey, revoked := h.key("read")
	if _, _, err := h.keys.RevokeKey(t.Context(), manage.Root("test"), revokedKey.ID, "test",
		false, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	_, inactive := h.key("read", func(s *manage.KeySpec) { s.Inactive = true })
	_, local := h.key("read",
		func(s *manage.KeySpec) {
			s.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		})
	_, near := h.key("read",
		func(s *manage.KeySpec) {
			s.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		})
	forged := reader[:len(reader)-1] + string(reader[len(reader)-1]^1)

	const acme = "namespace acme\n"
	for _, test := range []struct {
		name, options, wire, outcome string
		status                       int
	}{
		{"a key in a bearer header", acme, "GET /" + keyLine(reader), "ok", 200},
		{"the scheme's case does not matter", acme, "GET /\nAuthorization: bEARER  " + reader, "ok",
			200},
		{"a key in X-API-Key", acme, "GET /\nx-api-key: " + reader, "ok", 200},
		{"RFC 8959", acme, "GET /" + keyLine("secret-token:"+reader), "ok", 200},
		{"no credential", acme, "GET /", "missing", 401},
		{"an empty header", acme, "GET /\nX-API-Key:", "missing", 401},
		{"an empty bearer", acme, "GET /\nAuthorization: Bearer", "missing", 401},
		{"another scheme", acme, "GET /\nAuthorization: Basic " + reader, "missing", 401},
		{"a longer scheme", acme, "GET /\nAuthorization: Bearerx " + reader,
			"missing", 401},
		{"two lines", acme, "GET /\nX-API-Key: " + reader + "\nx-api-key: " + junk, "ambiguous",
			400},
		{"two lines, one empty", acme, "GET /\nX-API-Key:\nX-API-Key: " + reader, "ambiguous", 400},
		{"two sources", acme, "GET /\nX-API-Key: " + reader + keyLine(reader), "ambiguous", 400},
		{"two sources, one empty", acme, "GET /\nX-API-Key:" + keyLine(reader), "ambiguous", 400},
		{"two Authorization lines of other schemes", acme,
			"GET /\nAuthorization: Basic YTpi\nAuthorization: Digest x\nX-API-Key: " + reader,
			"ambiguous", 400},
		{"a list", acme, "GET /\nX-API-Key: " + reader + ", " + junk, "malformed", 401},
		{"too short", acme, "GET /" + keyLine("abc"), "malformed", 401},
		{"too long", acme, "GET /" + keyLine(strings.Repeat("a", 513)), "malformed", 401},
		{"invalid characters", acme, "GET /" + keyLine("' OR '1'='1"), "malformed", 401},
		{"a changed last character", acme, "GET /" + keyLine(forged), "malformed", 401},
		{"an unconfigured query parameter", acme, "GET /?api_key=" + reader, "missing", 401},
		{"revoked", acme, "GET /" + keyLine(revoked), "revoked", 401},
		{"inactive", acme, "GET /" + keyLine(inactive), "inactive", 401},
		{"revoked before forbidden", "namespace globex", "GET /" + keyLine(revoked), "revoked",
			401},
		{"an address that is not allowed", acme, "GET /" + keyLine(local), "address", 403},
		{"an allowed address", acme, "GET /" + keyLine(near), "ok", 200},
		{"address before forbidden", "namespace globex", "GET /" + keyLine(local), "address", 403},
		{"write without permission", acme, "POST /" + keyLine(reader), "forbidden", 403},
		{"write", acme, "DELETE /" + keyLine(writer), "ok", 200},
		{"HEAD is a read", acme, "HEAD /" + keyLine(reader), "ok", 200},
		{"override headers are ignored", acme,
			"GET /\nX-HTTP-Method-Override: DELETE" + keyLine(reader), "ok", 200},
		{"another namespace", "namespace globex", "GET /" + keyLine(reader), "forbidden", 403},
		{"an unknown namespace", "namespace nowhere", "GET /" + keyLine(any), "forbidden", 403},
		{"the default namespace", "", "GET /" + keyLine(reader), "forbidden", 403},
		{"the home namespace", "namespace home", "GET /" + keyLine(reader), "ok", 200},
		{"the home namespace, but another path", "namespace home\nnamespace_path /v1/{namespace}/**",
			"GET /v1/globex/x" + keyLine(reader), "forbidden", 403},
		{"a placeholder", "namespace {http.request.header.X-Tenant}",
			"GET /\nX-Tenant: acme" + keyLine(reader), "ok", 200},
		{"an empty placeholder", "namespace {http.request.header.X-Tenant}", "GET /" + keyLine(any),
			"forbidden", 403},
		{"a namespace path", "namespace_path /v1/{namespace}/**",
			"GET /v1/acme/x" + keyLine(reader), "ok",
			200},
		{"a namespace path, encoded", "namespace_path /v1/{namespace}/**",
			"GET /V1/%61cme" + keyLine(reader), "ok", 200},
		{"ids are case-sensitive", "namespace_path /v1/{namespace}/**",
			"GET /v1/Acme" + keyLine(reader), "forbidden", 403},
		{"the pattern with the most literal segments",
			"namespace_path /{namespace}/**\nnamespace_path /v1/{namespace}/**",
			"GET /v1/acme" + keyLine(reader), "ok", 200},
		{"no path matches", "namespace_path /v1/{namespace}/**\nnamespace acme",
			"GET /v2" + keyLine(reader), "ok", 200},
		{"a resource", acme + "resource orders", "GET /" + keyLine(orders), "ok", 200},
		{"another resource", acme + "resource shop", "GET /" + keyLine(orders), "forbidden", 403},
		{"an operation", acme + "operation shop:search write POST /search",
			"POST /Search/" + keyLine(orders), "ok", 200},
		{"an operation that reads", acme + "operation shop:search read POST /search",
			"POST /search/" + keyLine(orders), "ok", 200},
		{"an operation that reads, in another case",
			acme + "operation shop:search read POST /search", "POST /Search" + keyLine(orders),
			"forbidden", 403},
		{"an operation by its class", acme + "operation shop:search read POST /search",
			"POST /search" + keyLine(reader), "ok", 200},
		{"a path without an operation", acme + "operation shop:search read POST /search",
			"POST /search/x" + keyLine(reader), "forbidden", 403},
		{"an unknown method", acme, "PURGE /" + keyLine(any), "method", 405},
		{"methods are case-sensitive", acme, "get /" + keyLine(any), "method", 405},
		{"TRACE", acme, "TRACE /" + keyLine(any), "method", 405},
		{"CONNECT", acme, "CONNECT api.example.com:443" + keyLine(any), "method", 405},
		{"CONNECT with a path", acme, "CONNECT /a/../b" + keyLine(any), "bad_target", 400},
		{"a mapped method", acme + "methods read REPORT", "REPORT /" + keyLine(reader), "ok", 200},
		{"an unmapped method", acme + "methods none PUT PATCH", "PUT /" + keyLine(any), "method",
			405},
		{"method before missing", acme, "PURGE /", "method", 405},
		{"target before method", acme, "PURGE /a/../b", "bad_target", 400},
		{"an encoded slash", acme, "GET /a%2Fb" + keyLine(reader), "bad_target", 400},
		{"an allowed encoded slash", acme + "encoded_slash allow",
			"GET /a%2Fb" + keyLine(reader), "ok", 200},
		{"absolute form", acme, "GET http://other.example.com/" + keyLine(reader), "bad_target",
			400},
		{"public", acme + "public /health /docs/*", "GET /docs", "public", 200},
		{"public with any key", acme + "public /health /docs/*", "GET /docs/a/b" + keyLine(junk),
			"public", 200},
		{"public is case-sensitive", acme + "public /health", "GET /Health", "missing", 401},
		{"public matches whole segments", acme + "public /health", "GET /healthz", "missing", 401},
		{"public does not allow methods", acme + "public /health", "FOO /health", "method", 405},
		{"public requires a canonical target", acme + "public /health/*", "GET /health/../x",
			"bad_target", 400},
		{"optional", acme + "optional", "GET /", "anonymous", 200},
		{"optional with an invalid key", acme + "optional", "GET /" + keyLine(junk), "malformed",
			401},
		{"optional with two keys", acme + "optional", "GET /\nX-API-Key: a\nX-API-Key: b",
			"ambiguous", 400},
		{"foreign", acme + "foreign pass", "GET /" + keyLine("eyJhbGciOiJub25lIn0.e30."), "foreign",
			200},
		{"foreign of any length", acme + "foreign pass",
			"GET /" + keyLine(strings.Repeat("x", 2000)), "foreign", 200},
		{"our prefix is not foreign", acme + "foreign pass", "GET /" + keyLine("ak_x"), "malformed",
			401},
		{"our token in quotes is not foreign", acme + "foreign pass",
			"GET /" + keyLine(`"`+reader+`"`), "malformed", 401},
		{"our token behind a tab is not foreign", acme + "foreign pass",
			"GET /" + keyLine("\t"+reader), "malformed", 401},
		{"our token behind two schemes is not foreign", acme + "foreign pass",
			"GET /" + keyLine("secret-token:secret-token:"+reader), "malformed", 401},
		{"a member's token is not foreign", acme + "foreign pass",
			"GET /" + keyLine("akm_"+junk[3:]),
			"malformed", 401},
		{"a member's token", acme, "GET /" + keyLine("akm_"+junk[3:]), "malformed", 401},
		{"foreign applies only to bearer", acme + "foreign pass",
			"GET /\nX-API-Key: eyJhbGciOiJub25lIn0.e30.", "malformed", 401},
		{"preflight", acme + "preflight",
			"OPTIONS /\nOrigin: https://a.example\nAccess-Control-Request-Method: PUT", "preflight",
			204},
		{"OPTIONS without CORS headers", acme + "preflight", "OPTIONS /\nOrigin: https://a.example",
			"missing", 401},
		{"another method with CORS headers", acme + "preflight",
			"GET /\nOrigin: https://a.example\nAccess-Control-Request-Method: PUT", "missing", 401},
		{"OPTIONS without an origin", acme + "preflight",
			"OPTIONS /\nAccess-Control-Request-Method: PUT", "missing", 401},
		{"preflight that is not configured", acme,
			"OPTIONS /\nOrigin: https://a.example\nAccess-Control-Request-Method: PUT", "missing",
			401},
		{"basic, the password", acme + "from basic",
			"GET /\nAuthorization: basic " + basic("user:"+reader), "ok", 200},
		{"basic, the user", acme + "from basic", "GET /\nAuthorization: Basic " + basic(reader+":"),
			"ok", 200},
		{"basic, invalid base64", acme + "from basic", "GET /\nAuthorization: Basic !!!",
			"malformed",
			401},
		{"basic, empty", acme + "from basic", "GET /\nAuthorization: Basic " + basic(":"),
			"missing", 401},
		{"a header with a scheme", acme + "from header X-Auth Token",
			"GET /\nX-Auth: token " + reader, "ok", 200},
		{"a header without its scheme", acme + "from header X-Auth Token",
			"GET /\nX-Auth: " + reader, "missing", 401},
		{"the query", acme + "from query api_key", "GET /?a=1&api_key=" + reader, "ok", 200},
		{"the query, its name encoded", acme + "from query api_key",
			"GET /?a=1&api%5Fkey=" + reader, "ok", 200},
		{"the query, twice", acme + "from query api_key",
			"GET /?api_key=" + reader + "&api_key=" + junk, "ambiguous", 400},
		{"the query, behind a semicolon", acme + "from query api_key",
			"GET /?api_key=" + junk + ";api_key=" + reader, "ambiguous", 400},
		{"the query, undecodable", acme + "from query api_key", "GET /?api_key=%zz" + reader,
			"malformed", 401},
		{"a cookie", acme + "from cookie key", "GET /\nCookie: a=b; key=" + reader, "ok", 200},
		{"a cookie in two lines", acme + "from cookie key",
			"GET /\nCookie: key=" + reader + "\nCookie: key=" + reader, "ambiguous", 400},
		{"a cookie twice", acme + "from cookie key", "GET /\nCookie: key=" + reader + "; key=x",
			"ambiguous", 400},
		{"an unconfigured header", acme + "from cookie key", "GET /" + keyLine(reader),
			"missing", 401},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := h.send(h.handler(test.options), test.wire)
			if a.err != nil || a.outcome() != test.outcome || a.StatusCode != test.status {
				t.Fatalf("outcome %s, status %d, error %v; want %s, %d", a.outcome(), a.StatusCode,
					a.err, test.outcome, test.status)
			}
			if reached := a.seen != nil; reached != (test.status == 200) {
				t.Errorf("upstream reached: %t", reached)
			}
			if test.status >= 400 {
				checkProblem(t, a, test.wire)
			}
		})
	}
}

func basic(userinfo string) string {
	r := &http.Request{Header: make(http.Header)}
	user, password, _ := strings.Cut(userinfo, ":")
	r.SetBasicAuth(user, password)
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
}

// checkProblem checks the common parts of a refusal.
func checkProblem(t *testing.T, a answer, wire string) {
	t.Helper()
	if a.Header.Get("Cache-Control") != "no-store" {
		t.Error("the response may be cached")
	}
	challenge := a.Header.Get("WWW-Authenticate")
	switch want := `Bearer realm="api"`; {
	case a.StatusCode == 401 && challenge == `Basic realm="api"`: // see TestChallenges
	case a.StatusCode != 401 && challenge != "",
		a.outcome() == "missing" && challenge != want,
		a.StatusCode == 401 && a.outcome() != "missing" && challenge != want+
			`, error="invalid_token"`:
		t.Errorf("challenge %q", challenge)
	}
	if strings.HasPrefix(wire, "HEAD") {
		return
	}
	var p struct {
		Type, Title, Code string
		Status            int
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatal(err)
	}
	if p.Type != "about:blank" || p.Title == "" || p.Code == "" || p.Status != a.StatusCode ||
		a.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("not a problem document: %s", a.body)
	}
}

// TestChallenges checks the schemes of a 401. Clients that wait for a challenge, such as git and
// curl --anyauth, send the key only in a scheme of the challenge (RFC 9110 §11.6.1).
func TestChallenges(t *testing.T) {
	h := newFixture(t)
	for options, schemes := range map[string][]string{
		"":                                      {"Bearer"},
		"from bearer":                           {"Bearer"},
		"from basic":                            {"Basic"},
		"from basic\nfrom bearer":               {"Basic", "Bearer"},
		"from bearer\nfrom basic\nfrom query k": {"Bearer", "Basic"},
		"from header Authorization Token":       {"Token"},
		"from header authorization bearer":      {"Bearer"},
		// These sources have no scheme, but a 401 needs a challenge.
		"from header X-Auth Token":    {"Bearer"},
		"from header Authorization":   {"Bearer"},
		"from query key":              {"Bearer"},
		"from cookie key\nfrom basic": {"Basic"},
	} {
		for _, more := range []string{"", "\nerrors caddy"} {
			handler := h.handler(options + more)
			var missing, invalid []string
			for _, scheme := range schemes {
				missing = append(missing, scheme+` realm="api"`)
				if scheme == "Bearer" {
					scheme += ` realm="api", error="invalid_token"` // RFC 6750 §3.1
				} else {
					scheme += ` realm="api"`
				}
				invalid = append(invalid, scheme)
			}
			if a := h.send(handler, "GET /"); !slices.Equal(a.Header.Values("WWW-Authenticate"),
				missing) {
				t.Errorf("%s: missing: %q, want %q", options+more,
					a.Header.Values("WWW-Authenticate"), missing)
			}
			wire := "GET /?k=" + junk + "&key=" + junk + "\nCookie: key=" + junk +
				"\nX-Auth: Token " + junk + "\nAuthorization: " + schemes[0] + " " + junk
			switch {
			case schemes[0] == "Basic":
				wire = "GET /\nAuthorization: Basic " + basic("x:"+junk)
			case strings.Contains(options, "from query k") && len(schemes) > 1:
				wire = "GET /" + keyLine(junk)
			}
			if a := h.send(handler, wire); !slices.Equal(a.Header.Values("WWW-Authenticate"),
				invalid) {
				t.Errorf("%s: %s: %q, want %q", options+more, a.outcome(),
					a.Header.Values("WWW-Authenticate"), invalid)
			}
			first := h.send(handler, "GET /")
			first.Header["Www-Authenticate"][0] = "changed"
			if a := h.send(handler, "GET /"); a.Header.Get("WWW-Authenticate") == "changed" {
				t.Error("requests share the challenge")
			}
		}
	}
}

func TestRealm(t *testing.T) {
	h := newFixture(t)
	handler := h.handler("realm `Acme Inc., EU`\nfrom bearer\nfrom basic")
	want := []string{`Bearer realm="Acme Inc., EU"`, `Basic realm="Acme Inc., EU"`}
	if a := h.send(handler, "GET /"); a.StatusCode != 401 ||
		!slices.Equal(a.Header.Values("WWW-Authenticate"), want) {
		t.Errorf("%d %q, want %q", a.StatusCode, a.Header.Values("WWW-Authenticate"), want)
	}
	want[0] += `, error="invalid_token"`
	if a := h.send(handler, "GET /"+keyLine(junk)); a.StatusCode != 401 ||
		!slices.Equal(a.Header.Values("WWW-Authenticate"), want) {
		t.Errorf("%d %q, want %q", a.StatusCode, a.Header.Values("WWW-Authenticate"), want)
	}
}

func TestRealmLimits(t *testing.T) {
	for realm, want := range map[string]bool{
		"": true, " ~!": true, strings.Repeat("a", maxRealm): true,
		strings.Repeat("a", maxRealm+1): false, `a"b`: false, `a\b`: false, "a\tb": false,
		"a\x7f": false, "é": false, hiddenToken: false,
	} {
		if _, err := (&Handler{Realm: realm}).compile(); (err == nil) != want {
			t.Errorf("%q: %v", realm, err)
		}
	}
}

func TestExpiredKey(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read",
		func(s *manage.KeySpec) { s.ExpiresAt = time.Now().Add(50 * time.Millisecond) })
	handler := h.handler("namespace acme")
	deadline := time.Now().Add(10 * time.Second)
	for h.send(handler, "GET /"+keyLine(token)).outcome() != "expired" {
		if time.Now().After(deadline) {
			t.Fatal("the key never expires")
		}
	}
}

func TestUnknownAndMalformedLookTheSame(t *testing.T) {
	h := newFixture(t)
	if _, _, err := h.keys.ImportKeys(t.Context(), manage.Root("test"), []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Name: "old", Namespace: "acme",
			Home: &keystore.Grant{Namespace: "acme",
				Permissions: []keystore.Permission{{Action: "read"}}}},
		Token: "imported-0123456789",
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	handler := h.handler("namespace acme")
	malformed, unknown := h.send(handler, "GET /"+keyLine(junk)), h.send(handler,
		"GET /"+keyLine("imported-9876543210"))
	if malformed.outcome() != "malformed" || unknown.outcome() != "unknown" {
		t.Fatal(malformed.outcome(), unknown.outcome())
	}
	if malformed.body != unknown.body ||
		!maps.EqualFunc(malformed.Header, unknown.Header, slices.Equal) ||
		malformed.StatusCode != unknown.StatusCode {
		t.Errorf("they differ:\n%s %v\n%s %v", malformed.body, malformed.Header, unknown.body,
			unknown.Header)
	}
	if a := h.send(handler, "GET /"+keyLine("imported-0123456789")); a.outcome() != "ok" {
		t.Error(a.outcome())
	}
}

// TestRotatedLooksUnknown checks that a rotated token gets the same response as an unknown one.
// Logs and metrics identify the key.
func TestRotatedLooksUnknown(t *testing.T) {
	h := newFixture(t)
	key, replaced := h.key("read")
	grace, kept := h.key("read")
	for id, how := range map[string]time.Duration{key.ID: 0, grace.ID: time.Microsecond} {
		if _, _, _, err := h.keys.RotateKey(t.Context(), manage.Root("test"), id, how,
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	handler := h.handler("namespace acme")
	malformed := h.send(handler, "GET /"+keyLine(junk))
	for id, token := range map[string]string{key.ID: replaced, grace.ID: kept} {
		a := h.send(handler, "GET /"+keyLine(token))
		if a.seen != nil || a.body != malformed.body ||
			!maps.EqualFunc(a.Header, malformed.Header, slices.Equal) || a.StatusCode != 401 {
			t.Errorf("%s %v\n%s %v", malformed.body, malformed.Header, a.body, a.Header)
		}
		enc := zapcore.NewMapObjectEncoder()
		if err := a.vars[requestVar].(*request).MarshalLogObject(enc); err != nil {
			t.Fatal(err)
		}
		if enc.Fields["api_key_id"] != id || enc.Fields["api_key_outcome"] != "rotated" {
			t.Errorf("log fields %v, want those of %s", enc.Fields, id)
		}
	}
	counted := uint64(0)
	h.keys.RequestCounts(func(namespace string, o keystore.Outcome, n uint64) {
		if namespace == "acme" && o == keystore.Rotated {
			counted = n
		}
	})
	if counted != 2 {
		t.Errorf("%d requests are counted as rotated, want 2", counted)
	}
}

func TestStoreOutageIsUnavailable(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	handler := h.handler("namespace acme")
	h.close()
	a := h.send(handler, "GET /"+keyLine(token))
	if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || a.seen != nil {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	checkProblem(t, a, "GET")
}

func TestForbiddenNamesThePermission(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	for options, want := range map[string]string{
		"namespace acme":                                      `"needed":"write","namespace":"acme"`,
		"namespace globex":                                    `"needed":"write","namespace":"globex"`,
		"namespace acme\nresource orders":                     `"needed":"orders:write","namespace":"acme"`,
		"namespace_path /{namespace}":                         `"needed":"write","namespace":"x"`,
		"namespace acme\noperation shop:search write POST /x": `"needed":"shop:search","namespace":"acme"`,
		"namespace {http.request.header.Nothing}":             `"needed":"write","namespace":""`,
	} {
		if a := h.send(h.handler(options), "POST /x"+keyLine(token)); !strings.Contains(a.body,
			want) {
			t.Errorf("%s: %s", options, a.body)
		}
	}
}

// TestForbiddenRepeatsNoCredential checks requests with a credential in the place of the namespace.
func TestForbiddenRepeatsNoCredential(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	_, other := h.key("read")
	const imported = "imported-0123456789"
	if _, _, err := h.keys.ImportKeys(t.Context(), manage.Root("test"), []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Name: "old", Namespace: "acme",
			Home: &keystore.Grant{Namespace: "acme",
				Permissions: []keystore.Permission{{Action: "read"}}}}, Token: imported,
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	handler := h.handler("namespace_path /v1/{namespace}/**")
	for _, test := range []struct{ namespace, credential string }{
		{token, token}, {other, token}, {imported, imported},
	} {
		a := h.send(handler, "GET /v1/"+test.namespace+"/x"+keyLine(test.credential))
		if a.outcome() != "forbidden" || strings.Contains(a.body, test.namespace) ||
			!strings.Contains(a.body, `"namespace":""`) {
			t.Errorf("%s %s", a.outcome(), a.body)
		}
	}
}

// TestLastUse checks that an accepted key, but no refused one, is noted as used, and so are derived
// tokens.
func TestLastUse(t *testing.T) {
	h := newFixture(t)
	used, token := h.key("read")
	refused, reader := h.key("read")
	handler := h.handler("namespace acme")
	derivedFrom, third := h.key("read write")
	derive := func(note string) string {
		return keyLine(deriveToken(t, third, keystore.Caveats{Note: note,
			Permissions: []string{"read"}}))
	}
	h.send(handler, "GET /"+keyLine(token))
	h.send(handler, "POST /"+keyLine(reader))
	h.send(handler, "GET /"+derive("accepted"))
	h.send(handler, "POST /"+derive("refused"))
	h.close()
	db, err := sql.Open("sqlite", h.file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for id, want := range map[string]bool{used.ID: true, refused.ID: false, derivedFrom.ID: true} {
		var got bool
		if err := db.QueryRow("SELECT EXISTS (SELECT 1 FROM last_uses WHERE key_id = ?)", id).
			Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s is noted as used: %v, want %v", id, got, want)
		}
	}
	var id, note string
	if err := db.QueryRow("SELECT max(key_id), group_concat(note) FROM last_derived").
		Scan(&id, &note); err != nil || id != derivedFrom.ID || note != "accepted" {
		t.Errorf("a derived token of %s is noted as used, with the note %q, %v", id, note, err)
	}
}

// TestStoreIsNotOpen checks that a handler whose database has not been reached yet refuses only
// requests that need it.
func TestStoreIsNotOpen(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	handler := h.handler("namespace acme\npublic /public")
	handler.app = &App{started: make(chan struct{})}
	close(handler.app.started)
	for wire, want := range map[string]string{
		"GET /" + keyLine(token): "unavailable", "GET /": "missing", "GET /public": "public",
		"GET /../": "bad_target",
	} {
		if a := h.send(handler, wire); a.outcome() != want || (a.seen != nil) != (want == "public") {
			t.Errorf("%s: %s, want %s", wire, a.outcome(), want)
		}
	}
}

func TestAllowHeader(t *testing.T) {
	h := newFixture(t)
	a := h.send(h.handler("methods write MKCOL\nmethods none PUT PATCH"), "PUT /")
	if got := a.Header.Get("Allow"); got != "DELETE, GET, HEAD, MKCOL, OPTIONS, POST" {
		t.Error(got)
	}
	if a := h.send(h.handler(""), "CONNECT a:1"); a.Header.Get("Connection") != "close" {
		t.Error("the connection stays open after a refused CONNECT")
	}
	if a.Header["Connection"] != nil {
		t.Error("the connection is closed after a refused PUT")
	}
	overHTTP2 := func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = 2, 0 }
	if a := h.send(h.handler(""), "CONNECT a:1", overHTTP2); a.Header["Connection"] != nil {
		t.Error("a header of HTTP/1 in a response over HTTP/2")
	}
}

// TestRefusalHasRequestID checks that a refusal names the request's id if the site uses it.
func TestRefusalHasRequestID(t *testing.T) {
	h := newFixture(t)
	var id string
	a := h.send(h.handler(""), "GET /", func(r *http.Request) {
		id, _ = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).GetString("http.request.uuid")
	})
	var body struct {
		Code      string
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || id == "" ||
		body.RequestID != id || body.Code != "missing_key" {
		t.Errorf("%v %s, want the id %s", err, a.body, id)
	}
	if a := h.send(h.handler(""), "GET /"); strings.Contains(a.body, "request_id") {
		t.Errorf("an id that nothing else shows: %s", a.body)
	}
}

// TestRequestsOfOtherHandlers checks requests that a handler such as templates has created.
func TestRequestsOfOtherHandlers(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	handler := h.handler("namespace acme")
	r := wireRequest(t, "GET /a"+keyLine(token))
	r.RequestURI = ""
	if a := h.serve(handler, r); a.outcome() != "ok" {
		t.Errorf("without the target as received: %s", a.outcome())
	}
	if a := h.send(handler, "GET /a"+keyLine(token),
		func(r *http.Request) { r.URL.Path = "" }); a.outcome() != "bad_target" {
		t.Errorf("without a path: %s", a.outcome())
	}
}

func TestHeadRefusalHasNoBody(t *testing.T) {
	h := newFixture(t)
	if a := h.send(h.handler(""), "HEAD /"); a.StatusCode != 401 || a.body != "" ||
		a.Header.Get("Content-Length") == "" {
		t.Errorf("%d %q %v", a.StatusCode, a.body, a.Header)
	}
}

func TestEarlyData(t *testing.T) {
	h := newFixture(t)
	_, writer := h.key("read write")
	_, near := h.key("read",
		func(s *manage.KeySpec) {
			s.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		})
	early := func(r *http.Request) { r.TLS = new(tls.ConnectionState) }
	done := func(r *http.Request) { r.TLS = &tls.ConnectionState{HandshakeComplete: true} }
	handler := h.handler("namespace acme")
	for _, test := range []struct {
		wire    string
		tls     func(*http.Request)
		outcome string
	}{
		{"POST /" + keyLine(writer), early, "early"},
		{"GET /" + keyLine(writer), early, "ok"},
		{"GET /" + keyLine(near), early, "early"},
		{"POST /" + keyLine(writer), done, "ok"},
		{"POST /\nEarly-Data: 1" + keyLine(writer), done, "early"},
	} {
		if a := h.send(handler, test.wire, test.tls); a.outcome() != test.outcome {
			t.Errorf("%s, want %s", a.outcome(), test.outcome)
		}
	}
}

func TestErrorsCaddy(t *testing.T) {
	h := newFixture(t)
	a := h.send(h.handler("errors caddy"), "GET /")
	refused, ok := a.err.(caddyhttp.HandlerError) //nolint:errorlint // as Caddy does
	if !ok || refused.StatusCode != 401 || a.body != "" || a.Header.Get("WWW-Authenticate") == "" ||
		a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %v", a.err, a.Header)
	}
}

func TestPlaceholdersAndLogFields(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read", func(s *manage.KeySpec) { s.Name = "Zoë {env.HOME} 100%" })
	handler := h.handler("namespace acme")
	handler.accessLogs = true
	a := h.send(handler, "GET /"+keyLine(token), func(r *http.Request) {
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.auth.user.id", "ada")
	})
	got := a.repl.ReplaceAll("{http.auth.user.id} {http.api_key.id} {http.api_key.name} "+
		"{http.api_key.namespace} {http.api_key.owner} {http.api_key.outcome} "+
		"{http.vars.api_key.request}", "?")
	if want := key.ID + " " + key.ID + " " + key.Name + " acme root ok " + key.ID; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	enc := zapcore.NewMapObjectEncoder()
	if err := a.vars[requestVar].(*request).MarshalLogObject(enc); err != nil {
		t.Fatal(err)
	}
	if enc.Fields["api_key_id"] != key.ID || enc.Fields["api_key_namespace"] != "acme" ||
		enc.Fields["api_key_outcome"] != "ok" {
		t.Error(enc.Fields)
	}

	a = h.send(handler, "POST /"+keyLine(token))
	if got := a.repl.ReplaceAll("{http.auth.user.id}|{http.api_key.id}|{http.api_key.outcome}",
		""); got != "|"+key.ID+"|forbidden" {
		t.Errorf("refused: %q", got)
	}

	a = h.send(h.handler("public /p"), "GET /p", func(r *http.Request) {
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.auth.user.id", "ada")
	})
	if got := a.repl.ReplaceKnown("{http.auth.user.id} {http.api_key.id}|{http.api_key.name}|"+
		"{http.api_key.owner}|{http.api_key.outcome} {http.api_key.nothing} {http.apikey.id}",
		"?"); got != "ada ?|?|?|public {http.api_key.nothing} {http.apikey.id}" {
		t.Errorf("public: %q", got)
	}
}

func TestCounting(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	handler := h.handler("namespace acme\npublic /p")
	for _, wire := range []string{"GET /" + keyLine(token), "GET /" + keyLine(token), "GET /",
		"GET /p", "POST /" + keyLine(token), "GET /" + keyLine(junk)} {
		h.send(handler, wire)
	}
	got := make(map[string]uint64)
	h.keys.RequestCounts(func(namespace string, o keystore.Outcome,
		n uint64) {
		got[namespace+" "+o.String()] = n
	})
	want := map[string]uint64{"acme ok": 2, "acme missing": 1, "acme public": 1,
		"acme forbidden": 1, "acme malformed": 1}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// nest is a handler that runs inner after outer.
type nest struct{ outer, inner caddyhttp.MiddlewareHandler }

func (n nest) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return n.outer.ServeHTTP(w, r,
		caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return n.inner.ServeHTTP(w, r, next)
		}))
}

func TestSecondHandlerUsesTheSameKey(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read orders:*")
	other, _ := h.key("*")
	for _, test := range []struct {
		name, outer, inner, wire, outcome string
		status                            int
	}{
		{"the second handler decides again", "namespace acme", "namespace acme\nresource orders",
			"GET /" + keyLine(token), "ok", 200},
		{"in its own namespace", "namespace acme", "namespace globex", "GET /" + keyLine(token),
			"forbidden", 403},
		{"with its own methods", "namespace acme\nmethods read FOO", "namespace acme",
			"FOO /" + keyLine(token), "method", 405},
		{"identity headers are ignored", "public /p", "namespace acme",
			"GET /p\nX-Apikey-Id: " + other.ID,
			"missing", 401},
		{"after a public one", "public /p", "namespace acme",
			"GET /p" + keyLine(token), "ok", 200},
		{"public in the second one", "namespace acme", "public /p",
			"GET /p" + keyLine(token), "ok", 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := h.send(nest{h.handler(test.outer), h.handler(test.inner)}, test.wire)
			if a.outcome() != test.outcome || a.StatusCode != test.status {
				t.Fatalf("%s %d", a.outcome(), a.StatusCode)
			}
			if a.seen != nil && a.seen.Header.Get("X-Apikey-Id") != key.ID {
				t.Error(a.seen.Header)
			}
		})
	}
}

// TestRestoredCredentialsAreRemoved checks that credentials which a public handler has kept for
// api_keys_admin are restored only once.
func TestRestoredCredentialsAreRemoved(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	required := h.handler("namespace acme")
	a := h.send(nest{h.handler("public /apikeys/*"), nest{required, required}},
		"GET /apikeys/x"+keyLine(token))
	if a.outcome() != "ok" || a.seen == nil {
		t.Fatal(a.outcome())
	}
	if places := carries(a.seen, token); places != nil {
		t.Errorf("still in %v", places)
	}
}

// TestLiteralWildcards checks which patterns cause a warning.
func TestLiteralWildcards(t *testing.T) {
	h := &Handler{
		NamespacePath: []string{"/v1/{namespace}/**", "/ws-{id}/{namespace}"},
		Public:        []string{"/health", "/docs/*", "/docs*", "/*/x", "/a/**"},
		Operation: []route.Operation{{Path: "/v1/orders*"}, {Path: "/v1/{id}"}, {Path: "/{}"},
			{Path: "/***"}},
		List: []route.List{{Path: "/v1/*"}, {Path: "/apps*"}},
	}
	if got, want := strings.Join(h.literalWildcards(),
		" "), "/ws-{id}/{namespace} /docs* /v1/orders* /{} /*** /apps*"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestRewrittenTargets(t *testing.T) {
	h := newFixture(t)
	handler := h.handler("public /public/*")
	rewrite := func(path, raw string) func(*http.Request) {
		return func(r *http.Request) { r.URL.Path, r.URL.RawPath, r.RequestURI = path, raw, path }
	}
	for _, test := range []struct {
		name, wire string
		change     func(*http.Request)
		outcome    string
	}{
		{"the rewritten path decides", "GET /public/x", rewrite("/private", ""), "missing"},
		{"the original path does not decide", "GET /private", rewrite("/public/x", ""), "public"},
		{"the original path must be canonical", "GET /private/../public/x",
			rewrite("/public/x", ""),
			"bad_target"},
		{"rewritten to a path that is not canonical", "GET /public/x", rewrite("/public/../x", ""),
			"bad_target"},
		{"encoded by a rewrite", "GET /public/x", rewrite("/public/a;b", "/public/a%3Bb"),
			"bad_target"},
		{"an opaque URL", "GET /public/x", func(r *http.Request) { r.URL.Opaque = "/public/y" },
			"bad_target"},
		{"dots in a private query", "GET /private?/../public/", nil, "missing"},
		{"dots in a public query", "GET /public?/../x", nil, "public"},
	} {
		change := test.change
		if change == nil {
			change = func(*http.Request) {}
		}
		if got := h.send(handler, test.wire, change).outcome(); got != test.outcome {
			t.Errorf("%s: %s", test.name, got)
		}
	}
}
