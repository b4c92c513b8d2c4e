package caddymodule

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// An errorRoute is a handler and another one in handle_errors. failing says that the upstream of
// the first one fails.
type errorRoute struct {
	first, second caddyhttp.MiddlewareHandler
	failing       bool
	between       func()
}

var errBadGateway = caddyhttp.Error(http.StatusBadGateway, errors.New("no upstream"))

func (e errorRoute) ServeHTTP(
	w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	upstream := next
	if e.failing {
		upstream = caddyhttp.HandlerFunc(func(http.ResponseWriter,
			*http.Request) error {
			return errBadGateway
		})
	}
	if err := e.first.ServeHTTP(w, r, upstream); err == nil {
		return nil
	}
	if e.between != nil {
		e.between()
	}
	return e.second.ServeHTTP(w, r, next)
}

// TestRefusedRequestsAreCleaned checks that a refused request which handle_errors sends to an
// upstream has no credentials.
func TestRefusedRequestsAreCleaned(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	_, other := h.key("read")
	const spoof = "\nX-Apikey-Id: spoof\nx_apikey_owner: root\nX-Original-Url: /a"
	const sources = "from bearer\nfrom header X-Key\nfrom query key\nfrom cookie key\n"
	for _, test := range []struct{ name, wire, outcome string }{
		{"bearer", "POST /" + keyLine(token), "forbidden"},
		{"header", "POST /\nX-Key: " + token, "forbidden"},
		{"query", "POST /?a=b&key=" + token, "forbidden"},
		{"cookie", "POST /\nCookie: a=b; key=" + token, "forbidden"},
		{"copies", "POST /?x=" + token + keyLine(token) + "\nReferer: https://a.example/?k=" +
			token, "forbidden"},
		{"two sources", "GET /?key=" + token + "\nCookie: key=" + other, "ambiguous"},
		{"two headers", "GET /\nX-Key: " + token + "\nX-Key: " + other, "ambiguous"},
		{"two bearers", "GET /" + keyLine(token) + keyLine(other), "ambiguous"},
		{"two parameters", "GET /?key=" + token + "&key=" + other, "ambiguous"},
		{"two cookies", "GET /\nCookie: key=" + token + "; key=" + other, "ambiguous"},
		{"undecodable", "GET /?key=%zz" + token, "malformed"},
		{"method", "PURGE /" + keyLine(token) + "\nReferer: https://a.example/?k=" + token,
			"method"},
		{"target", "GET /../a" + keyLine(token), "bad_target"},
		{"none", "GET /", "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for options, keeps := range map[string]bool{"": false, "pass_credential": true} {
				var refused *http.Request
				a := h.send(h.handler("namespace acme\nerrors caddy\n"+sources+options),
					test.wire+spoof, func(r *http.Request) { refused = r })
				if a.err == nil || a.outcome() != test.outcome {
					t.Fatal(a.outcome(), a.err)
				}
				places := append(carries(refused, token), carries(refused, other)...)
				if !keeps && places != nil {
					t.Errorf("the token is still in %v", places)
				} else if keeps && places == nil && test.name != "none" {
					t.Error("pass_credential does not pass the token")
				}
				for name := range refused.Header {
					if isDropped(name, false) {
						t.Errorf("%s is still there", name)
					}
				}
			}
		})
	}
}

// TestUndecodableCredentialsHideNothingElse checks a credential that has no decoded form.
func TestUndecodableCredentialsHideNothingElse(t *testing.T) {
	h := newFixture(t)
	var refused *http.Request
	h.send(h.handler("errors caddy\nfrom query key"), "GET /?a=b&key=%zz\nX-Other: a, b",
		func(r *http.Request) { refused = r })
	if refused.Header.Get("X-Other") != "a, b" || refused.URL.RawQuery != "a=b" {
		t.Errorf("%s %v", refused.URL.RawQuery, refused.Header)
	}
}

// TestRefusedRequestsKeepOtherSchemes checks that an error route receives credentials that are not
// ours.
func TestRefusedRequestsKeepOtherSchemes(t *testing.T) {
	h := newFixture(t)
	var refused *http.Request
	a := h.send(h.handler("errors caddy"), "GET /\nAuthorization: Basic YTpi",
		func(r *http.Request) { refused = r })
	if a.err == nil || refused.Header.Get("Authorization") != "Basic YTpi" {
		t.Errorf("%s %v", a.outcome(), refused.Header)
	}
}

func TestRefusedForwardedRequestsAreCleaned(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	_, other := h.key("read")
	for _, headers := range []string{
		"X-Forwarded-Method: POST\nX-Forwarded-Uri: /?key=" + token,
		"X-Forwarded-Method: POST\nX-Forwarded-Uri: /?key=" + token + "&key=" + other,
		"X-Forwarded-Uri: /?key=" + token, // refused before the target is read
	} {
		var refused *http.Request
		a := h.send(h.handler("namespace acme\nforwarded\nerrors caddy\nfrom query key"),
			"GET /auth\n"+headers, trustedPeer, func(r *http.Request) { refused = r })
		if a.err == nil {
			t.Fatal(a.outcome())
		}
		if places := append(carries(refused, token), carries(refused, other)...); places != nil {
			t.Errorf("the token is still in %v", places)
		}
	}
}

func TestHandlerInErrorRoute(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	dying, deadSoon := h.key("read")
	for _, test := range []struct {
		name          string
		failing       bool
		first, second string
		wire, outcome string
		status        int
		between       func()
		ok, refused   uint64 // number of counted requests
	}{
		{name: "after an accepted request", failing: true, first: "namespace acme",
			second: "namespace acme", wire: "GET /" + keyLine(token), outcome: "ok", status: 200,
			ok: 1},
		{name: "the second handler decides again", failing: true, first: "namespace acme",
			second: "namespace globex", wire: "GET /" + keyLine(token), outcome: "forbidden",
			status: 403, ok: 1, refused: 1},
		{name: "after a revoke in between", failing: true, first: "namespace acme",
			second: "namespace acme", wire: "GET /" + keyLine(deadSoon), outcome: "revoked",
			status: 401, ok: 1, refused: 1,
			between: func() { revoke(t, h.keys, dying.ID) }},
		{name: "after a refused request", first: "namespace globex\nerrors caddy",
			second: "namespace acme", wire: "GET /" + keyLine(token), outcome: "missing",
			status: 401, refused: 2},
		{name: "after a refused request with pass_credential",
			first: "namespace globex\nerrors caddy\npass_credential", second: "namespace acme",
			wire: "GET /" + keyLine(token), outcome: "ok", status: 200, refused: 1},
		{name: "a public path after a refused request", first: "namespace globex\nerrors caddy",
			second: "public /**", wire: "GET /\nX-Apikey-Id: spoof" + keyLine(token),
			outcome: "forbidden", status: 200, refused: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := counts(h.keys)
			a := h.send(errorRoute{h.handler(test.first), h.handler(test.second), test.failing,
				test.between}, test.wire)
			if a.outcome() != test.outcome || a.StatusCode != test.status {
				t.Fatalf("%s %d, want %s %d", a.outcome(), a.StatusCode, test.outcome, test.status)
			}
			if a.seen != nil {
				want := ""
				if test.outcome == "ok" {
					want = key.ID
				}
				if got := a.seen.Header.Get("X-Apikey-Id"); got != want {
					t.Errorf("the upstream receives the key %q, want %q", got, want)
				}
			}
			var ok, refused uint64
			for o, n := range counts(h.keys) {
				switch n -= before[o]; {
				case o == keystore.OK:
					ok = n
				case o.Refuses():
					refused += n
				}
			}
			if refused != test.refused || ok != test.ok {
				t.Errorf("counted %d ok and %d refused, want %d and %d", ok, refused, test.ok,
					test.refused)
			}
		})
	}
}

// counts returns the requests of all namespaces by outcome.
func counts(keys *manage.Keystore) map[keystore.Outcome]uint64 {
	all := make(map[keystore.Outcome]uint64)
	keys.RequestCounts(func(_ string, o keystore.Outcome, n uint64) { all[o] += n })
	return maps.Clone(all)
}

// TestRevokeCutsErrorRoutes checks a stream in an error route, which runs after the first handler
// has returned.
func TestRevokeCutsErrorRoutes(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	client, conn := net.Pipe()
	defer func() { _ = client.Close() }()
	handler := errorRoute{first: h.handler("namespace acme"), second: h.handler("namespace acme"),
		failing: true}
	w := httptest.NewRecorder()
	r := wireRequest(t, "GET /"+keyLine(token))
	r = caddyhttp.PrepareRequest(r.WithContext(context.WithValue(r.Context(), connKey{},
		conn)), caddy.NewReplacer(), w, nil)
	reached := false
	if err := handler.ServeHTTP(w, r,
		caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
			reached = true
			revoke(t, h.keys, key.ID)
			_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _,
				err := client.Read(make([]byte, 1)); err == nil ||
				errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection is still open: %v", err)
			}
			return nil
		})); err != nil || !reached {
		t.Error(err, w.Code)
	}
}
