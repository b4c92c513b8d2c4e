package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/linear"
)

// TestRequestsCostLinearTime checks that requests of unauthenticated clients take time proportional
// to their length.
func TestRequestsCostLinearTime(t *testing.T) {
	h := newFixture(t)
	handler := h.handler(`
		from header X-API-Key
		from query key
		from cookie key
		from basic
		public /public/**
		namespace_path /v1/{namespace}/**
		operation things:see read GET /v1/{namespace}/things/*`)
	forwarded := h.handler("forwarded")
	dav := h.handler("methods write MOVE")
	get := func(target, headers string) string { return "GET " + target + "\n" + headers }
	for name, shape := range map[string]struct {
		handler *Handler
		request func(repeat func(string) string) string
	}{
		"escapes and dots in the path": {handler,
			func(r func(string) string) string { return get("/%20a"+r("/.a"), "") }},
		"escapes in the path": {handler,
			func(r func(string) string) string { return get("/"+r("a%20b/"), "") }},
		"percent signs in the path": {handler,
			func(r func(string) string) string { return get("/"+r("%25/x"), "") }},
		"segments": {handler,
			func(r func(string) string) string { return get("/v1/acme"+r("/a"), "") }},
		"parameters": {handler,
			func(r func(string) string) string { return get("/?"+r("a=b&"), "") }},
		"credentials in the query": {handler,
			func(r func(string) string) string { return get("/?"+r("key=b&"), "") }},
		"escapes in the query": {handler,
			func(r func(string) string) string { return get("/?"+r("%6bey=%20&"), "") }},
		"cookies": {handler,
			func(r func(string) string) string { return get("/", "Cookie: "+r("a=b; ")) }},
		"credentials in cookies": {handler,
			func(r func(string) string) string { return get("/", "Cookie: "+r("key=b; ")) }},
		"a long credential": {handler,
			func(r func(string) string) string {
				return get("/",
					"Authorization: Bearer "+r("ak_x"))
			}},
		"a long basic credential": {handler,
			func(r func(string) string) string {
				return get("/",
					"Authorization: Basic "+r("YWFh"))
			}},
		"header lines": {handler,
			func(r func(string) string) string {
				return get("/",
					strings.TrimSuffix(r("X-A: b\n"), "\n"))
			}},
		"identity headers": {handler,
			func(r func(string) string) string {
				return get("/",
					strings.TrimSuffix(r("X-Apikey-Id: b\n"), "\n"))
			}},
		"connection options": {handler,
			func(r func(string) string) string { return get("/", "Connection: "+r("x-a, ")) }},
		"a second target": {dav, func(r func(string) string) string {
			return "MOVE /a\nDestination: /%20a" + r("/.a,")
		}},
		"second targets": {dav, func(r func(string) string) string {
			return "MOVE /a\n" + strings.TrimSuffix(r("Destination: /a\n"), "\n")
		}},
		"a forwarded target": {forwarded, func(r func(string) string) string {
			return get("/", "X-Forwarded-Method: GET\nX-Forwarded-Uri: /%20a"+r("/.a"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			linear.Check(t, 10_000, func(size int) func() {
				r := wireRequest(t, shape.request(func(s string) string {
					return strings.Repeat(s,
						size/len(s))
				}))
				w := httptest.NewRecorder()
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
				r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)[caddyhttp.ClientIPVarKey] = "203.0.113.7"
				return func() {
					_ = shape.handler.ServeHTTP(w, r,
						caddyhttp.HandlerFunc(func(http.ResponseWriter,
							*http.Request) error {
							return nil
						}))
				}
			})
		})
	}
}
