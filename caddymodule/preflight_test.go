package caddymodule

import (
	"slices"
	"testing"
)

func TestPreflight(t *testing.T) {
	h := newFixture(t)
	const asks = "OPTIONS /x\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: " +
		"authorization, x-y\nOrigin: "
	listed := "namespace acme\nmethods write MKCOL\nmethods none PATCH\npreflight " +
		"https://a.example https://b.example"
	for _, test := range []struct{ name, options, wire, origin string }{
		{"listed", listed, asks + "https://b.example", "https://b.example"},
		{"not listed", listed, asks + "https://c.example", ""},
		{"a suffix", listed, asks + "https://a.example.evil.example", ""},
		{"any", "preflight", asks + "https://c.example", "*"},
		{"two origins", listed, asks + "https://a.example\nOrigin: https://b.example", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := h.send(h.handler(test.options), test.wire)
			if a.StatusCode != 204 || a.seen != nil || a.body != "" {
				t.Fatal(a.StatusCode)
			}
			if got := a.Header.Get("Access-Control-Allow-Origin"); got != test.origin {
				t.Errorf("origin %q", got)
			}
			methods, headers, age := "", "", ""
			if test.origin != "" {
				methods, headers, age = "DELETE, GET, HEAD, MKCOL, OPTIONS, POST, PUT",
					"authorization, x-y", "600"
			}
			if test.origin == "*" {
				methods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
			}
			if got := a.Header.Get("Access-Control-Allow-Methods"); got != methods {
				t.Errorf("methods %q", got)
			}
			if got := a.Header.Get("Access-Control-Allow-Headers"); got != headers {
				t.Errorf("headers %q", got)
			}
			if got := a.Header.Get("Access-Control-Max-Age"); got != age {
				t.Errorf("age %q", got)
			}
		})
	}
	refused := h.send(h.handler(listed), "GET /\nOrigin: https://a.example")
	if refused.StatusCode != 401 ||
		refused.Header.Get("Access-Control-Allow-Origin") != "https://a.example" ||
		!slices.Contains(refused.Header["Vary"], "Origin") {
		t.Errorf("a page cannot read the refusal: %v", refused.Header)
	}
	if a := h.send(h.handler("namespace acme"),
		"GET /\nOrigin: https://a.example"); a.Header["Access-Control-Allow-Origin"] != nil {
		t.Error("CORS headers without an Origin")
	}
}
