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
