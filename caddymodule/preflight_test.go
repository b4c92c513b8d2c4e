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
			if vary := a.Header["Vary"]; !slices.Contains(vary, "Access-Control-Request-Headers") ||
				slices.Contains(vary, "Origin") != (test.options == listed && test.name != "two origins") {
				t.Errorf("Vary: %q", vary)
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
		t.Error("CORS headers without preflight")
	}
}

func TestOrigins(t *testing.T) {
	for origin, want := range map[string]bool{
		"https://a.example": true, "http://a.example": true, "https://a.example:8443": true,
		"http://a.example:443": true, "https://a.example:80": true, "app://a": true,
		"http://127.0.0.1:3000": true, "http://[::1]:3000": true, "https://xn--bcher-kva.example": true,
		"https://a.example:443": false, "http://a.example:80": false, "https://": false,
		"//a.example": false, "a.example": false, "https:a.example": false, "null": false, "": false,
		"https://a.example/": false, "https://a.example?": false, "https://u@a.example": false,
		"https://*.example": false, "https://bücher.example": false, "https://a b": false,
		"HTTPS://a.example": false,
	} {
		if err := checkOrigin(origin); (err == nil) != want {
			t.Errorf("%q: %v", origin, err)
		}
	}
}
