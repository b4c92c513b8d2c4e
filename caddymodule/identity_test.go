package caddymodule

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestIdentitySelection checks which headers reach the upstream, and that it gets none from the
// client.
func TestIdentitySelection(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	const spoofed = "\nX-Apikey-Id: spoofed\nX-Apikey-Owner: spoofed\nX_Apikey_Name: spoofed"
	for options, want := range map[string]http.Header{
		"identity id namespace": {"X-Apikey-Id": {key.ID}, "X-Apikey-Namespace": {"acme"}},
		"identity permissions\nidentity owner": {
			"X-Apikey-Owner": {"root"}, "X-Apikey-Permissions": {"read"}},
		"identity name": {"X-Apikey-Name": {key.Name}},
		"identity none": {},
	} {
		t.Run(options, func(t *testing.T) {
			a := h.send(h.handler("namespace acme\n"+options), "GET /"+keyLine(token)+spoofed)
			if !maps.EqualFunc(a.seen.Header, want, slices.Equal) {
				t.Errorf("%v, want %v", a.seen.Header, want)
			}
			if id, _ := a.repl.GetString("http.api_key.id"); id != key.ID {
				t.Errorf("the placeholder is %q", id)
			}
			a = h.send(h.handler("namespace acme\nforwarded\n"+options),
				"GET /\nX-Forwarded-Method: GET\nX-Forwarded-Uri: /"+keyLine(token), trustedPeer)
			for name := range a.Header {
				if strings.HasPrefix(name, "X-Apikey-") && want[name] == nil {
					t.Errorf("the proxy gets %s", name)
				}
			}
			for name, lines := range want {
				if !slices.Equal(a.Header[name], lines) {
					t.Errorf("the proxy gets %s: %q, want %q", name, a.Header[name], lines)
				}
			}
		})
	}
}

// TestIdentityOfASecondHandler checks that the handler in handle_errors selects the headers that its
// upstream receives.
func TestIdentityOfASecondHandler(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	first, second := h.handler("namespace acme"), h.handler("namespace acme\nidentity id")
	a := h.send(errorRoute{first: first, second: second, failing: true},
		"GET /"+keyLine(token))
	want := http.Header{"X-Apikey-Id": {key.ID}}
	if !maps.EqualFunc(a.seen.Header, want, slices.Equal) {
		t.Errorf("%v, want %v", a.seen.Header, want)
	}
}

// TestHeadersOfARefusalAndOfAnIdentity checks that two handlers of one request do not overwrite each
// other's header values: in the response, those of the refusal stay.
func TestHeadersOfARefusalAndOfAnIdentity(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	route := errorRoute{first: h.handler("namespace acme\nfrom header X-First\nerrors caddy"),
		second: h.handler("namespace acme")}
	a := h.send(route, "GET /"+keyLine(token))
	if a.seen == nil || a.seen.Header.Get("X-Apikey-Id") != key.ID {
		t.Fatal("the second handler does not accept the request")
	}
	if got := a.Header["Cache-Control"]; !slices.Equal(got, []string{"no-store"}) {
		t.Errorf("Cache-Control: %q", got)
	}
	if got := a.Header["Www-Authenticate"]; !slices.Equal(got, []string{`Bearer realm="api"`}) {
		t.Errorf("WWW-Authenticate: %q", got)
	}
	route.second = h.handler("namespace globex")
	a = h.send(route, "GET /"+keyLine(token))
	if a.StatusCode != http.StatusForbidden {
		t.Fatal(a.Status)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store",
		"Content-Type": "application/problem+json", "Www-Authenticate": `Bearer realm="api"`} {
		if got := a.Header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
