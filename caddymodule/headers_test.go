package caddymodule

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestCleanHeaders(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read write")
	const kept, dropped = true, false
	for _, test := range []struct {
		wire, name string
		kept       bool
	}{
		{"GET /p\nAccept: text/html", "Accept", kept},
		{"GET /p\nX-Apikey-Id: x", "X-Apikey-Id", dropped},
		{"GET /p\nX-Apikey-Anything: x", "X-Apikey-Anything", dropped},
		{"GET /p\nx_apikey_id: x", "X_apikey_id", dropped},
		{"GET /p\nX.Apikey.Id: x", "X.apikey.id", dropped},
		{"GET /p\nX~APIKEY!ID: x", "X~apikey!id", dropped},
		{"GET /p\nX-Apikey-: x", "X-Apikey-", dropped},
		{"GET /p\nX-Apikeys: x", "X-Apikeys", kept},
		{"GET /p\nX: x", "X", kept},
		{"GET /p\nX-HTTP-Method-Override: DELETE", "X-Http-Method-Override", dropped},
		{"GET /p\nX-HTTP-Method: DELETE", "X-Http-Method", dropped},
		{"GET /p\nX-Method-Override: DELETE", "X-Method-Override", dropped},
		{"GET /p\nX_HTTP_Method_Override: DELETE", "X_http_method_override", dropped},
		{"GET /p\nX-Original-Url: /a", "X-Original-Url", dropped},
		{"GET /p\nX-Original-Uri: /a", "X-Original-Uri", dropped},
		{"GET /p\nX-Original-Method: PUT", "X-Original-Method", dropped},
		{"GET /p\nX-Rewrite-Url: /a", "X-Rewrite-Url", dropped},
		{"GET /p\nX-Forwarded-Uri: /a", "X-Forwarded-Uri", dropped},
		{"GET /p\nX-Forwarded-Method: PUT", "X-Forwarded-Method", dropped},
		{"GET /p\nX-Forwarded-Prefix: /a", "X-Forwarded-Prefix", dropped},
		{"GET /p\nX-Forwarded-Port: 1", "X-Forwarded-Port", dropped},
		{"GET /p\nX-Forwarded-User: ada", "X-Forwarded-User", dropped},
		{"GET /p\nX-Forwarded-For: 10.0.0.1", "X-Forwarded-For", kept},
		{"GET /p\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk", "Upgrade", dropped},
		{"GET /p\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk", "Http2-Settings", dropped},
		{"GET /p\nUpgrade: websocket, h2c", "Upgrade", dropped},
		{"GET /p\nUpgrade: websocket\nUpgrade: h2c", "Upgrade", dropped},
		{"POST /p\nUpgrade: websocket", "Upgrade", dropped},
		{"GET /p\nUpgrade: WebSocket", "Upgrade", kept},
	} {
		t.Run(test.wire, func(t *testing.T) {
			for options, wire := range map[string]string{
				"public /p":                test.wire,
				"optional":                 test.wire,
				"namespace acme":           test.wire + keyLine(token),
				"foreign pass":             test.wire + keyLine("another-issuers-token"),
				"namespace home\noptional": test.wire + keyLine(token),
			} {
				a := h.send(h.handler(options), wire)
				if a.seen == nil {
					t.Fatalf("%s: %d", options, a.StatusCode)
				}
				value := a.seen.Header[test.name]
				if spoofed := value != nil && !strings.HasPrefix(value[0], "test") &&
					len(value[0]) != keystore.TokenIDLen; spoofed != test.kept {
					t.Errorf("%s: %s is %q", options, test.name, value)
				}
			}
		})
	}
	trusted := h.send(h.handler("public /p"),
		"GET /p\nX-Forwarded-Uri: /a\nX-Forwarded-User: ada\nX-Apikey-Id: x\nX-Original-Url: /a",
		trustedPeer)
	if got := slices.Sorted(maps.Keys(trusted.seen.Header)); !slices.Equal(got,
		[]string{"X-Forwarded-Uri", "X-Forwarded-User"}) {
		t.Errorf("of a trusted proxy: %v", got)
	}
}

// TestUpgradeRequiresHTTP11 checks that another version of HTTP cannot ask for a tunnel.
func TestUpgradeRequiresHTTP11(t *testing.T) {
	h := newFixture(t)
	handler := h.handler("public /**")
	for version, want := range map[[2]int]bool{{1, 1}: true, {1, 0}: false, {2, 0}: false,
		{2, 1}: false} {
		a := h.send(handler, "GET /\nUpgrade: websocket",
			func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = version[0], version[1] })
		if got := a.seen.Header["Upgrade"] != nil; got != want {
			t.Errorf("HTTP/%v: Upgrade is passed on: %v", version, got)
		}
	}
}

func TestConnectionTokens(t *testing.T) {
	h := newFixture(t)
	handler := h.handler("public /**")
	for wire, want := range map[string][]string{
		"Connection: close, X-Apikey-Id":                            {"close"},
		"Connection: x_apikey_id":                                   nil,
		"Connection: keep-alive, Upgrade":                           {"keep-alive, Upgrade"},
		"Connection: x-apikey-name ,, foo\nConnection: X-Apikey-Id": {"foo"},
		"Connection: X-Forwarded-For,x":                             {"X-Forwarded-For,x"},
	} {
		if got := h.send(handler, "GET /\n"+wire).seen.Header["Connection"]; !slices.Equal(got,
			want) {
			t.Errorf("%s: %q, want %q", wire, got, want)
		}
	}
}

func TestTrailers(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("write")
	public, handler := h.handler("public /**"), h.handler("namespace acme")
	const start, end = "POST /\nTransfer-Encoding: chunked", "\n\n5\r\nhello\r\n0\r\n"
	for _, test := range []struct {
		name, declared, sent string
		want                 http.Header
	}{
		{"declared", "\nTrailer: X-Sum, X-Apikey-Id", "X-Sum: 1\r\nX-Apikey-Id: x\r\n",
			http.Header{"X-Sum": {"1"}}},
		{"declared and undeclared", "\nTrailer: X-Sum",
			"X-Sum: 1\r\nX-Apikey-Id: x\r\nx_apikey_name: y\r\n", http.Header{"X-Sum": {"1"}}},
		{"trailers that are checked as headers",
			"\nTrailer: X-Sum, Destination, X-HTTP-Method-Override",
			"X-Sum: 1\r\nDestination: /x\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: " +
				"/x\r\n", http.Header{"X-Sum": {"1"}}},
		{"only identity headers", "\nTrailer: X-Apikey-Id", "X-Apikey-Id: x\r\n", http.Header{}},
		{"none declared", "", "X-Apikey-Id: x\r\n", nil},
		{"a copy of the credential", keyLine(token) + "\nTrailer: X-Sum",
			"X-Sum: 1" + token + "\r\n", http.Header{"X-Sum": {"1REDACTED"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			handler := handler
			if !strings.Contains(test.declared, token) {
				handler = public
			}
			a := h.send(handler, start+test.declared+end+test.sent+"\r\n")
			if !maps.EqualFunc(a.trailer, test.want, slices.Equal) {
				t.Errorf("%v", a.trailer)
			}
			for name := range a.seen.Trailer {
				if isIdentityHeader(name) {
					t.Errorf("%s is declared as a trailer", name)
				}
			}
		})
	}
}

func TestIdentityHeaders(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("write orders:search read", func(s *manage.KeySpec) {
		s.Name = "Zoë {http.request.host} 100%"
		s.Grants = []keystore.Grant{{Namespace: "*",
			Permissions: []keystore.Permission{{Action: "read"}, {Resource: "shop", Action: "*"}}}}
		s.Metadata = map[string]string{"team": "erp €", "cost_center": "7"}
	})
	a := h.send(h.handler("namespace acme\npass_metadata team cost_center absent"),
		"GET /"+keyLine(token))
	want := http.Header{
		"X-Apikey-Id":               {key.ID},
		"X-Apikey-Name":             {"Zo%C3%AB%20{http.request.host}%20100%25"},
		"X-Apikey-Namespace":        {"acme"},
		"X-Apikey-Owner":            {"root"},
		"X-Apikey-Permissions":      {"orders:search,read,shop:*,write"},
		"X-Apikey-Meta-Team":        {"erp%20%E2%82%AC"},
		"X-Apikey-Meta-Cost-Center": {"7"},
	}
	if !maps.EqualFunc(a.seen.Header, want, slices.Equal) {
		t.Errorf("%v\nwant %v", a.seen.Header, want)
	}
}

func TestLongPermissionsAreOmitted(t *testing.T) {
	h := newFixture(t)
	var words strings.Builder
	for i := range 400 {
		words.WriteString(" resource-" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) +
			":operation-" + string(rune('a'+i/26)))
	}
	_, token := h.key("read" + words.String())
	a := h.send(h.handler("namespace acme"), "GET /"+keyLine(token))
	if a.seen == nil || a.seen.Header["X-Apikey-Permissions"] != nil ||
		a.seen.Header["X-Apikey-Id"] == nil {
		t.Error("the header is not omitted")
	}
}

// TestLongestPermissionsHeader checks the limit of 4 KiB.
func TestLongestPermissionsHeader(t *testing.T) {
	h := newFixture(t)
	for length, want := range map[int]bool{maxPermissionsHeader: true,
		maxPermissionsHeader + 1: false} {
		var words []string
		for i := 0; length > 0; i++ {
			n := min(length, 200)
			words = append(words, fmt.Sprintf("r%02d:", i)+strings.Repeat("x", n-len("r00:")))
			length -= n + len(",")
		}
		key, token := h.key(strings.Join(words, " "))
		a := h.send(h.handler("namespace acme\nresource r00\nmethods read FETCH\n"+
			"operation "+words[0]+" read GET /"), "GET /"+keyLine(token))
		if a.seen == nil {
			t.Fatal(a.outcome(), a.body)
		}
		if got := a.seen.Header["X-Apikey-Permissions"] != nil; got != want {
			t.Errorf("%d bytes: %v", len(strings.Join(words, ",")), got)
		}
		if a.seen.Header.Get("X-Apikey-Id") != key.ID {
			t.Error("the key's id is missing")
		}
	}
}

// TestRequestsShareNoHeaderValues imitates Caddy's request_header, which changes values in place.
func TestRequestsShareNoHeaderValues(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	handler := h.handler("namespace acme")
	first := h.send(handler, "GET /"+keyLine(token))
	before := first.seen.Header.Clone()
	second := h.serve(handler, wireRequest(t, "GET /"+keyLine(token)))
	for name := range second.seen.Header {
		second.seen.Header[name][0] = "changed"
		second.seen.Header[name] = append(second.seen.Header[name], "more")
	}
	if !maps.EqualFunc(first.seen.Header, before, slices.Equal) {
		t.Error("a later request changed the headers of this one")
	}
	third := h.send(handler, "GET /"+keyLine(token))
	if !maps.EqualFunc(third.seen.Header, before, slices.Equal) {
		t.Error("a request found the headers changed by an earlier one")
	}
}

// carries returns the places in r that contain the text.
func carries(r *http.Request, text string) (places []string) {
	add := func(place, value string) {
		if strings.Contains(value, text) || strings.Contains(value, url.QueryEscape(text)) {
			places = append(places, place)
		}
	}
	for name, lines := range r.Header {
		add(name, strings.Join(lines, "\n"))
	}
	add("Host", r.Host)
	add("URL", r.URL.String())
	add("RequestURI", r.RequestURI)
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		add("original URL", original.URL.String())
		add("original RequestURI", original.RequestURI)
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	add("placeholders",
		repl.ReplaceAll("{http.request.uri}{http.request.orig_uri}{http.request.orig_uri.query}{http.request.uri.query}{http.vars.api_key.request}", ""))
	return places
}

func TestCredentialIsRemoved(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	odd := "imported+key/with=odd&signs"
	if _, _, err := h.keys.ImportKeys(t.Context(), manage.Root("test"), []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Name: "old", Namespace: "acme",
			Home: &keystore.Grant{Namespace: "acme",
				Permissions: []keystore.Permission{{Action: "read"}}}},
		Token: odd,
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, options, wire, secret, uri, rest string }{
		{"bearer", "", "GET /a?b=1" + keyLine(token), token, "/a?b=1", ""},
		{"header", "", "GET /\nX-API-Key: " + token, token, "/", ""},
		{"basic", "from basic", "GET /\nAuthorization: Basic " + basic("u:"+token) + "\nX-Copy: " +
			basic("u:"+token), basic("u:" + token), "/", "X-Copy: REDACTED"},
		{"query", "from query key", "GET /a?x=%2f&key=" + token + ";y=1&z", token, "/a?x=%2f;y=1&z",
			""},
		{"in the query of a WebSocket", "from query key",
			"GET /a?key=" + token + "&y=1\nUpgrade: websocket\nConnection: Upgrade", token,
			"/a?y=1", "Connection: Upgrade\nUpgrade: websocket"},
		{"first in the query", "from query key", "GET /a?key=" + token + ";y=1", token, "/a?y=1",
			""},
		{"before an empty parameter", "from query key", "GET /a?x=1&key=" + token + "&", token,
			"/a?x=1&", ""},
		{"alone in the query", "from query key", "GET /a?key=" + token, token, "/a", ""},
		{"encoded in the query", "from query key", "GET /a?k%65y=" + url.QueryEscape(odd) + "&y",
			odd, "/a?y", ""},
		{"a copy in the Referer", "from query key",
			"GET /?key=" + url.QueryEscape(odd) + "\nReferer: https://a.example/?key=" +
				url.QueryEscape(odd), odd, "/", "Referer: https://a.example/?key=REDACTED"},
		{"encoded copies", "", "GET /?x=%zz&y=" + url.QueryEscape(odd) + "&z=%2" + keyLine(odd) +
			"\nReferer: https://a.example/%25?k=" + strings.ToLower(url.QueryEscape(odd)) + "&k=" +
			url.PathEscape(odd) + "%\nX-Other: %", odd, "/?x=%zz&y=REDACTED&z=%2",
			"Referer: https://a.example/%25?k=REDACTED&k=REDACTED%\nX-Other: %"},
		{"copies with other characters encoded", "", "GET /?x=" +
			strings.ReplaceAll(token, "_", "%5f") + keyLine(token) + "\nX-Other: %" +
			strings.ReplaceAll(token, "_", "%5F") + "%", token, "/?x=REDACTED",
			"X-Other: %REDACTED%"},
		{"cookie", "from cookie key", "GET /\nCookie: a=b; key=" + token + "; c=\"d\"\nCookie: e=f",
			token, "/", "Cookie: a=b; c=\"d\"\nCookie: e=f"},
		{"first cookie", "from cookie key", "GET /\nCookie: key=" + token + "; c=d", token, "/",
			"Cookie: c=d"},
		{"only cookie", "from cookie key", "GET /\nCookie: key=" + token, token, "/", ""},
		{"copies", "", "GET /?x=" + token + keyLine(token) + "\nReferer: https://a.example/?k=" +
			token + "&b\nX-Other: a\nX-Other: " + token, token, "/?x=REDACTED",
			"Referer: https://a.example/?k=REDACTED&b\nX-Other: a\nX-Other: REDACTED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := h.send(h.handler("namespace acme\n"+test.options), test.wire)
			if a.seen == nil {
				t.Fatal(a.StatusCode, a.outcome())
			}
			if places := carries(a.seen, test.secret); places != nil {
				t.Errorf("still in %v", places)
			}
			if got := a.seen.URL.RequestURI(); got != test.uri || a.seen.RequestURI != test.uri {
				t.Errorf("the target is %s and %s", got, a.seen.RequestURI)
			}
			var rest []string
			for _, name := range slices.Sorted(maps.Keys(a.seen.Header)) {
				for _, line := range a.seen.Header[name] {
					if !isIdentityHeader(name) {
						rest = append(rest, name+": "+line)
					}
				}
			}
			if got := strings.Join(rest, "\n"); got != test.rest {
				t.Errorf("the headers are %q, want %q", got, test.rest)
			}

			if a := h.send(h.handler("namespace acme\npass_credential\n"+test.options),
				test.wire); carries(a.seen, test.secret) == nil &&
				test.name != "encoded in the query" {
				t.Error("pass_credential does not pass the key")
			}
		})
	}
}

// originalPlaceholders are the placeholders that contain the query of the original request.
const originalPlaceholders = "{http.request.orig_uri} {http.request.orig_uri.query} " +
	"{http.request.orig_uri.prefixed_query}"

// TestCredentialIsRemovedFromCopies imitates handlers such as tracing and forward_auth, which pass
// on a copy of the request while Caddy's replacer and error routes use the original.
func TestCredentialIsRemovedFromCopies(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	type copied struct{}
	for _, test := range []struct{ name, options, wire, query string }{
		{"in the query", "namespace acme\nfrom query key",
			"GET /a?x=1&key=" + token + "&y=" + token, "x=1&y=REDACTED"},
		{"alone in the query", "namespace acme\nfrom query key", "GET /a?key=" + token, ""},
		{"a copy in the query", "namespace acme", "GET /a?y=" + token + keyLine(token),
			"y=REDACTED"},
		{"refused", "from query key\nnamespace globex\nerrors caddy", "GET /a?x=1&key=" + token,
			"x=1"},
		{"two credentials", "from query key\nfrom bearer\nerrors caddy",
			"GET /a?x=1&key=" + token + keyLine(token), "x=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var before *http.Request
			handler := h.handler(test.options)
			copying := caddyhttp.MiddlewareHandler(middleware(func(w http.ResponseWriter,
				r *http.Request, next caddyhttp.Handler) error {
				before = r
				return handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), copied{},
					true)), next)
			}))
			a := h.send(copying, test.wire)
			if a.seen != nil {
				if places := carries(a.seen, token); places != nil {
					t.Errorf("still in %v", places)
				}
			}
			wantURI, wantPrefixed := "/a", ""
			if test.query != "" {
				wantURI, wantPrefixed = "/a?"+test.query, "?"+test.query
			}
			if got, want := a.repl.ReplaceAll(originalPlaceholders, ""),
				wantURI+" "+test.query+" "+wantPrefixed; got != want {
				t.Errorf("the placeholders say %q, want %q", got, want)
			}
			// Caddy restores this URL for error routes, and FastCGI sends it as REQUEST_URI.
			original := before.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
			if original.URL.RequestURI() != wantURI {
				t.Errorf("the original URL is %s", original.URL)
			}

			// A later handler with other sources must not restore it.
			later := h.handler("from query z\nerrors caddy")
			if err := later.ServeHTTP(httptest.NewRecorder(), before, nil); err == nil {
				t.Error("the request is accepted")
			}
			if got := a.repl.ReplaceAll(originalPlaceholders, ""); strings.Contains(got, token) {
				t.Errorf("the credential is restored: %s", got)
			}
		})
	}
}

// TestCredentialIsRemovedFromTheOriginalQuery checks a request whose query an earlier rewrite has
// removed.
func TestCredentialIsRemovedFromTheOriginalQuery(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	a := h.send(h.handler("namespace acme"), "GET /a?y="+token+keyLine(token),
		func(r *http.Request) {
			r.URL.RawQuery, r.RequestURI = "", "/a"
		})
	if places := carries(a.seen, token); places != nil {
		t.Errorf("still in %v", places)
	}
}

// TestCredentialIsRemovedFromARewrittenQuery checks a request into whose query an earlier rewrite
// has copied the header.
func TestCredentialIsRemovedFromARewrittenQuery(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	a := h.send(h.handler("namespace acme"), "GET /a"+keyLine(token), func(r *http.Request) {
		r.URL.RawQuery, r.RequestURI = "y="+token, "/a?y="+token
	})
	if places := carries(a.seen, token); places != nil {
		t.Errorf("still in %v", places)
	}
}

func TestCredentialIsRemovedFromTheHost(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	a := h.send(h.handler("namespace acme"), "GET /a"+keyLine(token),
		func(r *http.Request) { r.Host = token + ".example.com" })
	if places := carries(a.seen, token); places != nil {
		t.Errorf("still in %v", places)
	}
}

// TestErrorRoutesGetNoCredential checks that error routes receive no credential, however many the
// request has.
func TestErrorRoutesGetNoCredential(t *testing.T) {
	h := newFixture(t)
	_, first := h.key("read")
	_, second := h.key("read")
	const options = "namespace acme\nfrom bearer\nfrom header X-API-Key\nfrom query key\nfrom " +
		"cookie key\nerrors caddy\n"
	copies := "\nReferer: https://a.example/?a=" + first + "&b=" + second + "\nX-Other: " + second
	many := "POST /a?x=" + first
	for range 20 {
		many += "&key=" + first + "&key=" + second
	}
	for name, wire := range map[string]string{
		"a header and a header": "POST /a?x=" + first + "&y=" + second + "\nX-API-Key: " +
			first + keyLine(second) + copies,
		"a header twice": "POST /a?x=" + first + "&y=" + second + "\nX-API-Key: " +
			first + "\nX-API-Key: " + second + copies,
		"a parameter twice": "POST /a?key=" + first + "&y=" + second + "&key=" +
			second + "&x=" + first + copies,
		"a cookie twice": "POST /a?y=" + second + "\nCookie: key=" + first +
			"; key=" + second + copies,
		"a header and a cookie": "POST /a?y=" + second + "\nCookie: key=" +
			first + keyLine(second) + copies,
		"a header of another scheme": "POST /a\nAuthorization: Basic x\nX-API-Key: " +
			first + keyLine(second) + copies,
		"too many credentials": many + copies,
		"refused before the credential is read": "PATCH /a/../b?key=" +
			first + keyLine(second) + copies,
	} {
		var seen *http.Request
		a := h.send(middleware(func(w http.ResponseWriter, r *http.Request,
			next caddyhttp.Handler) error {
			seen = r
			return h.handler(options).ServeHTTP(w, r, next)
		}), wire)
		if a.err == nil {
			t.Fatalf("%s: not passed to the error route", name)
		}
		for _, token := range []string{first, second} {
			if places := carries(seen, token); places != nil {
				t.Errorf("%s: still in %v", name, places)
			}
		}
	}
}

type middleware func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error

func (m middleware) ServeHTTP(
	w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	return m(w, r, next)
}

// TestShortCredentials checks that a short imported credential is redacted only as a whole value.
func TestShortCredentials(t *testing.T) {
	h := newFixture(t)
	if _, _, err := h.keys.ImportKeys(t.Context(), manage.Root("test"), []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Name: "old", Namespace: "acme",
			Home: &keystore.Grant{Namespace: "acme",
				Permissions: []keystore.Permission{{Action: "read"}}}},
		Token: "Mozilla/",
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	a := h.send(h.handler("namespace acme\nfrom query key"),
		"GET /?about=Mozilla/5.0&key=Mozilla/&copy=Mozilla/;x=Mozilla%2F"+
			"\nUser-Agent: Mozilla/5.0\nX-Copy: Mozilla/\nX-List: Mozilla/, Mozilla/5\n"+
			"X-Edges: Mozilla/,Mozilla/;Mozilla/&Mozilla/=Mozilla/?Mozilla/#Mozilla/ \"Mozilla/\"\t"+
			"Mozilla/\nX-Within: Mozilla/Mozilla/\nX-Behind: xMozilla/\nX-Same-Length: "+
			"abcdefgh Mozilla/\nReferer: "+
			"https://a.example/?key=Mozilla/&b=Mozilla/5")
	if a.seen == nil {
		t.Fatal(a.outcome())
	}
	if want := "about=Mozilla/5.0&copy=REDACTED;x=Mozilla%2F"; a.seen.URL.RawQuery != want {
		t.Errorf("the query is %s, want %s", a.seen.URL.RawQuery, want)
	}
	for name, want := range map[string]string{
		"User-Agent": "Mozilla/5.0",
		"X-Copy":     "REDACTED",
		"X-List":     "REDACTED, Mozilla/5",
		"X-Edges": "REDACTED,REDACTED;REDACTED&REDACTED=REDACTED?REDACTED#REDACTED " +
			"\"REDACTED\"\tREDACTED",
		"X-Within": "Mozilla/Mozilla/", "X-Behind": "xMozilla/", "X-Same-Length": "abcdefgh REDACTED",
		"Referer": "https://a.example/?key=REDACTED&b=Mozilla/5",
	} {
		if got := a.seen.Header.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestShortestRedactedCredential checks from which length a credential is redacted within other
// texts.
func TestShortestRedactedCredential(t *testing.T) {
	h := newFixture(t)
	for secret, want := range map[string]string{
		strings.Repeat("k", shortSecret-1): "a" + strings.Repeat("k", shortSecret-1) + "b",
		strings.Repeat("k", shortSecret):   "aREDACTEDb",
	} {
		if _, _, err := h.keys.ImportKeys(t.Context(), manage.Root("test"), []manage.ImportSpec{{
			KeySpec: manage.KeySpec{Name: "old", Namespace: "acme",
				Home: &keystore.Grant{Namespace: "acme",
					Permissions: []keystore.Permission{{Action: "read"}}}},
			Token: secret,
		}}, false, nil); err != nil {
			t.Fatal(err)
		}
		a := h.send(h.handler("namespace acme"), "GET /\nX-Copy: a"+secret+"b"+keyLine(secret))
		if a.seen == nil {
			t.Fatal(a.outcome())
		}
		if got := a.seen.Header.Get("X-Copy"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestHeaderValue(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "!az09~": "!az09~", " ": "%20", "%": "%25", "a%20b c": "a%2520b%20c", "~ !": "~%20!", "\x1f": "%1F",
		"\x7f": "%7F", "é": "%C3%A9", "\xff": "%FF", "\r\n": "%0D%0A",
	} {
		if got := headerValue(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestPublicKeepsTheCredential(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	for options, credential := range map[string]string{"public /**": token,
		"foreign pass": "another-issuers-token"} {
		a := h.send(h.handler(options), "GET /"+keyLine(credential))
		if a.seen.Header.Get("Authorization") != "Bearer "+credential ||
			a.seen.Header["X-Apikey-Id"] != nil {
			t.Errorf("%s: %v", options, len(a.seen.Header))
		}
	}
}

// TestAdminPaths checks that public requests under /apikeys/, which api_keys_admin should answer,
// lose the credential if it does not. Only requests that need no key of ours keep theirs.
func TestAdminPaths(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	for _, test := range []struct {
		options, wire string
		kept          bool
	}{
		{"public /apikeys/*", "GET /apikeys/x" + keyLine(token), false},
		{"public /apikeys/*", "GET /apikeys/x\nX-API-Key: " + token, false},
		{"public /apikeys/*\nfrom header X-Key", "GET /apikeys/x\nX-Key: " + token, false},
		{"public /apikeys/*\nfrom query key", "GET /apikeys/x?key=" + token, false},
		{"public /apikeys/*\npass_credential", "GET /apikeys/x" + keyLine(token), true},
		{"public /apikeysx", "GET /apikeysx" + keyLine(token), true},
		{"foreign pass", "GET /apikeys/x" + keyLine("another-issuers-token"), true},
	} {
		a := h.send(h.handler(test.options), test.wire)
		if a.seen == nil {
			t.Fatalf("%s: %s", test.options, a.outcome())
		}
		kept := a.seen.Header["Authorization"] != nil || carries(a.seen, token) != nil
		if kept != test.kept {
			t.Errorf("%s, %s: the credential is kept: %v", test.options, test.wire, kept)
		}
	}
}

// TestIdentityHeadersOfInvalidRows checks that no value from a manually edited row can break a
// header.
func TestIdentityHeadersOfInvalidRows(t *testing.T) {
	const odd = "a\r\nX-Apikey-Owner: root\xff"
	digest := keystore.DigestOf("token")
	record := keystore.NewRecord(&keystore.Key{
		ID: odd, Name: odd, Namespace: odd, Owner: odd, Metadata: map[string]string{"m": odd},
		Secrets: []keystore.Secret{{Digest: digest}},
	}, digest)
	policy := keystore.NewDirectory(&keystore.Policy{Namespaces: []keystore.Namespace{{ID: odd}}})
	req := &request{record: record, policy: policy, namespace: policy.Namespace(odd),
		namespaceID: odd}
	every, err := parseIdentity(nil)
	if err != nil {
		t.Fatal(err)
	}
	header := make(http.Header)
	req.identify(header, &rules{identity: every,
		metadata: []metadataHeader{{name: "m", header: "X-Apikey-Metadata-M"}}})
	if len(header) < 5 {
		t.Errorf("headers: %v", header)
	}
	for name, lines := range header {
		for _, line := range lines {
			if headerValue(line) != strings.ReplaceAll(line, "%", "%25") {
				t.Errorf("%s is %q", name, line)
			}
		}
	}
}
