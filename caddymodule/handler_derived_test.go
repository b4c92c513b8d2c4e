package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func deriveToken(t testing.TB, token string, c keystore.Caveats) string {
	t.Helper()
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = time.Now().Add(time.Hour)
	}
	derived, err := keystore.Derive(token, c)
	if err != nil {
		t.Fatal(err)
	}
	return derived
}

// TestDerivedOutcomes: a derived token is accepted by all sources except cookies, and narrows its
// key. All refusals of an invalid one look the same.
func TestDerivedOutcomes(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read write shop:search")
	_, other := h.key("*")
	derive := func(c keystore.Caveats) string { return deriveToken(t, token, c) }
	all := derive(keystore.Caveats{})
	read := derive(keystore.Caveats{Permissions: []string{"read"}})
	parts := strings.Split(all, ".")
	forged := parts[0] + "." + parts[1] + "." + strings.Split(deriveToken(t, other,
		keystore.Caveats{}), ".")[2]
	// The header of a JWT with the type JWT.
	plain := "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9." + parts[1] + "." + parts[2]
	prefix := netip.MustParsePrefix
	malformed := h.send(h.handler("namespace acme"), "GET /"+keyLine(junk))
	const acme = "namespace acme\n"
	for _, test := range []struct {
		name, options, wire, outcome string
		status                       int
	}{
		{"bearer", acme, "GET /" + keyLine(all), "ok", 200},
		{"RFC 8959", acme, "GET /" + keyLine("secret-token:"+all), "ok", 200},
		{"a header", acme, "GET /\nX-API-Key: " + all, "ok", 200},
		{"basic", acme + "from basic", "GET /\nAuthorization: Basic " + basic("u:"+all), "ok", 200},
		{"the query", acme + "from query k", "GET /?k=" + all, "ok", 200},
		{"a cookie", acme + "from cookie k", "GET /\nCookie: k=" + all, "malformed", 401},
		{"its key in a cookie", acme + "from cookie k", "GET /\nCookie: k=" + token, "ok", 200},
		{"foreign pass", acme + "foreign pass", "GET /" + keyLine(all), "ok", 200},
		{"foreign pass, forged", acme + "foreign pass", "GET /" + keyLine(forged), "malformed", 401},
		{"foreign pass, another type", acme + "foreign pass", "GET /" + keyLine(plain), "foreign",
			200},
		{"another type", acme, "GET /" + keyLine(plain), "malformed", 401},
		{"forged", acme, "GET /" + keyLine(forged), "malformed", 401},
		{"expired", acme, "GET /" + keyLine(derive(keystore.Caveats{
			ExpiresAt: time.Now().Add(-time.Second)})), "expired", 401},
		{"two credentials", acme, "GET /\nX-API-Key: " + all + keyLine(all), "ambiguous", 400},
		{"write", acme, "POST /" + keyLine(all), "ok", 200},
		{"beyond the scope", acme, "POST /" + keyLine(read), "forbidden", 403},
		{"another namespace", acme, "GET /" + keyLine(derive(keystore.Caveats{
			Namespaces: []string{"globex"}})), "forbidden", 403},
		{"the namespace", "namespace home", "GET /" + keyLine(derive(keystore.Caveats{
			Namespaces: []string{"acme"}})), "ok", 200},
		{"an address", acme, "GET /" + keyLine(derive(keystore.Caveats{
			AllowedIPs: []netip.Prefix{prefix("203.0.113.0/24")}})), "ok", 200},
		{"another address", acme, "GET /" + keyLine(derive(keystore.Caveats{
			AllowedIPs: []netip.Prefix{prefix("10.0.0.0/8")}})), "address", 403},
		{"a second target", acme + "methods write MOVE",
			"MOVE /a\nDestination: /b" + keyLine(all), "ok", 200},
		{"a second target in another namespace",
			"namespace acme\nmethods write MOVE\nnamespace_path /in/{namespace}/**",
			"MOVE /in/acme/a\nDestination: /in/globex/b" + keyLine(derive(keystore.Caveats{
				Namespaces: []string{"acme"}})), "forbidden", 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 2 { // verified, and remembered
				a := h.send(h.handler(test.options), test.wire)
				if a.err != nil || a.outcome() != test.outcome || a.StatusCode != test.status {
					t.Fatalf("outcome %s, status %d, error %v; want %s, %d", a.outcome(),
						a.StatusCode, a.err, test.outcome, test.status)
				}
				if test.outcome == "malformed" && !strings.Contains(test.options, "cookie") &&
					a.body != malformed.body {
					t.Errorf("%s\nwant\n%s", a.body, malformed.body)
				}
				if a.seen != nil && strings.Contains(a.seen.Header.Get("Authorization"), parts[2]) &&
					test.outcome == "ok" {
					t.Error("the upstream received the token")
				}
			}
		})
	}
}

// TestDerivedIdentity: the upstream sees the key and what is left of its permissions; placeholders
// and the access log have the note.
func TestDerivedIdentity(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read write orders:*")
	handler := h.handler("namespace acme")
	handler.accessLogs = true
	derived := deriveToken(t, token, keystore.Caveats{Permissions: []string{"orders:read", "read"},
		Note: "nightly {env.HOME}"})
	_, orders := h.key("orders:*")
	reader := deriveToken(t, orders, keystore.Caveats{Permissions: []string{"read"}})
	for _, test := range []struct{ credential, permissions, note string }{
		{token, "orders:*,read,write", ""},
		{derived, "orders:read,read", "nightly {env.HOME}"},
	} {
		a := h.send(handler, "GET /"+keyLine(test.credential))
		if a.seen == nil || a.seen.Header.Get("X-Apikey-Id") != key.ID ||
			a.seen.Header.Get("X-Apikey-Permissions") != test.permissions {
			t.Fatalf("%d %v", a.StatusCode, a.seen)
		}
		if got := a.repl.ReplaceAll("{http.api_key.note}", ""); got != test.note {
			t.Errorf("placeholder %q", got)
		}
		enc := zapcore.NewMapObjectEncoder()
		if err := a.vars[requestVar].(*request).MarshalLogObject(enc); err != nil {
			t.Fatal(err)
		}
		if note, _ := enc.Fields["api_key_note"].(string); note != test.note {
			t.Errorf("log field %q", note)
		}
	}
	a := h.send(h.handler("namespace acme\nresource orders"), "GET /"+keyLine(reader))
	if a.seen == nil || a.seen.Header.Get("X-Apikey-Permissions") != "orders:read" {
		t.Errorf("orders:* and read: %d %v", a.StatusCode, a.seen)
	}
	// A second handler decides about the derived token too.
	a = h.send(nest{h.handler("namespace acme"), h.handler("namespace acme\nmethods write GET")},
		"GET /"+keyLine(derived))
	if a.outcome() != "forbidden" {
		t.Errorf("second handler: %s", a.outcome())
	}
	if got := a.repl.ReplaceAll("{http.api_key.note}", ""); got != "nightly {env.HOME}" {
		t.Errorf("second handler: note %q", got)
	}
}

// TestDerivedSelf: with a derived token, /self shows what is left in each namespace, until when,
// and of the key only the id.
func TestDerivedSelf(t *testing.T) {
	g := newInstance(t)
	g.loadSite()
	g.mustDo("POST", "admin", "/apikeys/v1/namespaces",
		`{"id":"acme","kind":"account","name":"acme"}`)
	token := g.mint(object{"name": "hidden name", "access": "custom",
		"permissions": []string{"orders:*", "admin.keys:read"},
		"grants":      []object{{"namespace": "acme", "permissions": []string{"read", "write"}}},
		"metadata":    object{"team": "hidden team"}})
	type left map[string][]string
	home := []string{"admin.keys:read", "orders:*"}
	acme := []string{"read", "write"}
	prefix := netip.MustParsePrefix
	soon := time.Now().Add(time.Minute).Truncate(time.Second)
	for _, test := range []struct {
		name    string
		caveats keystore.Caveats
		status  int
		answer  string
		left    left
	}{
		{"no narrowing", keystore.Caveats{}, 200, "", left{"default": home, "acme": acme}},
		{"a scope", keystore.Caveats{Permissions: []string{"read"}}, 200, "",
			left{"default": {"orders:read"}, "acme": {"read"}}},
		{"a scope beyond the key", keystore.Caveats{Permissions: []string{"billing:x"}}, 200, "",
			left{"acme": {"billing:x"}}},
		{"one namespace", keystore.Caveats{Namespaces: []string{"acme"}}, 200, "",
			left{"acme": acme}},
		{"a namespace beyond the key", keystore.Caveats{Namespaces: []string{"globex"}}, 200, "",
			left{}},
		{"a scope in a namespace", keystore.Caveats{Permissions: []string{"write"},
			Namespaces: []string{"acme"}}, 200, "", left{"acme": {"write"}}},
		{"its address", keystore.Caveats{AllowedIPs: []netip.Prefix{prefix("192.0.2.0/24")}}, 200,
			"", left{"default": home, "acme": acme}},
		{"another address", keystore.Caveats{AllowedIPs: []netip.Prefix{prefix("10.0.0.0/8")}},
			403, "address_not_allowed", nil},
		{"a note", keystore.Caveats{Note: "nightly"}, 200, "",
			left{"default": home, "acme": acme}},
		{"not valid yet", keystore.Caveats{ExpiresAt: soon, NotBefore: soon.Add(time.Hour)}, 401,
			"invalid_key", nil},
		{"expired", keystore.Caveats{ExpiresAt: time.Now().Add(-time.Second)}, 401, "key_expired",
			nil},
	} {
		if test.caveats.ExpiresAt.IsZero() {
			test.caveats.ExpiresAt = soon
		}
		status, answer := g.do("GET", "site", "/apikeys/v1/self", "",
			"Authorization", "Bearer "+deriveToken(t, token, test.caveats),
			"X-Forwarded-For", "192.0.2.7")
		if status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s: %d %s", test.name, status, answer)
		}
		if status != http.StatusOK {
			continue
		}
		var self api.Self
		if err := json.Unmarshal([]byte(answer), &self); err != nil {
			t.Fatal(test.name, err)
		}
		if !maps.EqualFunc(left(self.Permissions), test.left, slices.Equal) {
			t.Errorf("%s: %v are left, want %v", test.name, self.Permissions, test.left)
		}
		if self.Key == nil || self.Key.ID != idOf(t, token) || self.Key.ExpiresAt == nil ||
			!self.Key.ExpiresAt.Equal(soon) || strings.Contains(answer, "hidden") {
			t.Errorf("%s: %s", test.name, answer)
		}
	}

	everywhere := g.mint(object{"name": "everywhere", "access": "custom",
		"grants": []object{{"namespace": "*", "permissions": []string{"read"}}}})
	_, answer := g.do("GET", "site", "/apikeys/v1/self", "", "Authorization",
		"Bearer "+deriveToken(t, everywhere, keystore.Caveats{ExpiresAt: soon,
			Namespaces: []string{"acme", "globex"}}))
	if !strings.Contains(answer, `"permissions":{"acme":["read"]}`) {
		t.Errorf("in a namespace that does not exist: %s", answer)
	}
}

// TestDerivedCountsForItsKey: requests with derived tokens use the limits of their key and count in
// its usage.
func TestDerivedCountsForItsKey(t *testing.T) {
	for outcome, limits := range map[string]keystore.Limits{
		"limited": {Rate: daily(2)}, "exhausted": {Quota: monthly(2)},
	} {
		t.Run(outcome, func(t *testing.T) {
			h := newUsageFixture(t)
			key, token := h.key("read write")
			h.limit(key.ID, limits, keystore.Limits{})
			handler := h.handler("namespace acme")
			derived := deriveToken(t, token, keystore.Caveats{Note: "one"})
			another := deriveToken(t, token, keystore.Caveats{Note: "another"})
			for i, request := range []struct{ credential, want string }{
				{derived, "ok"}, {another, "ok"}, {derived, outcome}, {token, outcome},
			} {
				if got := h.send(handler, "GET /"+keyLine(request.credential)).outcome(); got !=
					request.want {
					t.Errorf("request %d: %s, want %s", i, got, request.want)
				}
			}
			allowed, refused := keystore.UsageCounts{Requests: 2, Units: 2}, keystore.UsageCounts{
				Requests: 2}
			allowed.Status[1] = 2
			h.check(key.ID, map[string]keystore.UsageCounts{
				"read ok": allowed, "read " + outcome: refused})
		})
	}
}
