package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// discard is a ResponseWriter that discards the response.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

var noop = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// A repeater sends the same request repeatedly. It restores the parts that Caddy's server and the
// handler change.
type repeater struct {
	r      *http.Request
	header http.Header
	vars   map[string]any
	repl   *caddy.Replacer
	fresh  caddy.Replacer // copied for each request
	w      discard
}

func newRepeater(t testing.TB, wire string) *repeater {
	r := wireRequest(t, wire)
	rep := &repeater{repl: caddy.NewReplacer(), w: discard{http.Header{"Server": {"Caddy"}}}}
	rep.r = caddyhttp.PrepareRequest(r, rep.repl, rep.w, nil)
	rep.vars = rep.r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	rep.vars[caddyhttp.ClientIPVarKey] = "203.0.113.7"
	rep.header = rep.r.Header.Clone()
	rep.fresh = *rep.repl
	return rep
}

func (rep *repeater) serve(t testing.TB, h caddyhttp.MiddlewareHandler) {
	delete(rep.vars, requestVar)
	*rep.repl = rep.fresh
	clear(rep.r.Header)
	for name, lines := range rep.header {
		rep.r.Header[name] = lines
	}
	if err := h.ServeHTTP(rep.w, rep.r, noop); err != nil {
		t.Fatal(err)
	}
}

// empty is a handler that does nothing, the baseline of the benchmarks (docs/benchmarks.md).
type empty struct{}

func (empty) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

const browserHeaders = "\nAccept: application/json\nAccept-Encoding: gzip, br\nAccept-Language: " +
	"en-GB,en;q=0.7\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 " +
	"Firefox/128.0"

// grow makes the header map as large as it becomes with the identity headers. Restoring a map of
// this size then costs the same after a handler that adds none.
func (rep *repeater) grow() {
	for i := range 16 {
		rep.r.Header[string(rune('A'+i))] = nil
	}
}

func benchmark(b *testing.B, h caddyhttp.MiddlewareHandler, wire string) {
	rep := newRepeater(b, wire)
	rep.grow()
	rep.serve(b, h)
	b.ReportAllocs()
	for b.Loop() {
		rep.serve(b, h)
	}
}

func BenchmarkHandler(b *testing.B) {
	h := newFixture(b)
	_, token := h.key("read orders:search")
	wire := "GET /v1/workspaces/acme/items/4711?expand=all" + keyLine(token) + browserHeaders
	b.Run("empty", func(b *testing.B) { benchmark(b, empty{}, wire) })
	b.Run("literal", func(b *testing.B) { benchmark(b, h.handler("namespace acme"), wire) })
	derived := deriveToken(b, token, keystore.Caveats{Permissions: []string{"read"}})
	b.Run("derived", func(b *testing.B) {
		benchmark(b, h.handler("namespace acme"), strings.Replace(wire, token, derived, 1))
	})
	b.Run("path", func(b *testing.B) {
		benchmark(b,
			h.handler("namespace_path /v1/workspaces/{namespace}/**\npublic /health "+
				"/docs/*\nresource orders\noperation orders:search read POST /v1/search"), wire)
	})
	b.Run("openapi", func(b *testing.B) {
		var paths strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&paths, " /repos/{owner}/{repo}/r%d/{id}/comments: {get: {}}\n", i)
		}
		handler := h.handler("namespace acme\nstrict\nopenapi " + document(b, paths.String()))
		benchmark(b, handler, strings.Replace(wire, "/v1/workspaces/acme/items/4711",
			"/repos/golang/go/r700/4711/comments", 1))
	})
	_, wide := h.key("read orders:search", func(s *manage.KeySpec) {
		s.Grants = []keystore.Grant{{Namespace: "*",
			Permissions: []keystore.Permission{{Resource: "shop", Action: "read"}}}}
	})
	b.Run("two grants", func(b *testing.B) {
		benchmark(b, h.handler("namespace acme"),
			strings.Replace(wire, token, wide, 1))
	})
}

func BenchmarkRefusal(b *testing.B) {
	h := newFixture(b)
	handler := h.handler("namespace acme")
	_, token := h.key("read")
	for name, wire := range map[string]string{
		"missing":   "GET /v1/items" + browserHeaders,
		"malformed": "GET /v1/items" + keyLine(token[:len(token)-1]+"!") + browserHeaders,
		"forged":    "GET /v1/items" + keyLine(hiddenToken) + browserHeaders,
		"target":    "GET /v1/../items" + browserHeaders,
		"forbidden": "POST /v1/items" + keyLine(token) + browserHeaders,
	} {
		b.Run(name, func(b *testing.B) { benchmark(b, handler, wire) })
	}
}

// TestHandlerAllocations limits allocations per request to two: the shared state for logs and
// placeholders, and the placeholder function. A header map that grows past 8 entries costs 3 more;
// reverse_proxy's own headers would cause that anyway.
func TestHandlerAllocations(t *testing.T) {
	h := newFixture(t)
	_, one := h.key("read")
	_, two := h.key("read", func(s *manage.KeySpec) {
		s.Grants = []keystore.Grant{{Namespace: "*",
			Permissions: []keystore.Permission{{Resource: "shop", Action: "read"}}}}
	})
	handler := h.handler("namespace_path /v1/{namespace}/**")
	for _, test := range []struct {
		name, token, headers string
		grown                bool
		bar                  float64
	}{
		{"one grant", one, browserHeaders, true, 2},
		{"two grants", two, browserHeaders, true, 2},
		{"few headers, map as received", one, "", false, 2},
		{"a browser's headers, map as received", one, browserHeaders, false, 2 + 3},
		{"malformed", one + "!", browserHeaders, false, 2},
		// The race detector makes the pool of MACs forget some.
		{"forged", hiddenToken, browserHeaders, false, 2 + 3},
		{"missing", "", browserHeaders, false, 2},
	} {
		const runs = 200
		requests := make([]*repeater, runs+1)
		for i := range requests {
			requests[i] = newRepeater(t, "GET /v1/acme/items"+keyLine(test.token)+test.headers)
			if test.grown {
				requests[i].grow()
			}
		}
		// The first request has put the key into the cache.
		newRepeater(t, "GET /v1/acme/items"+keyLine(test.token)).serve(t, handler)
		i := 0
		if n := testing.AllocsPerRun(runs,
			func() { requests[i].serve(t, handler); i++ }); n > test.bar {
			t.Errorf("%s: %v allocations, want at most %v", test.name, n, test.bar)
		}
	}
}

func BenchmarkCanonicalTarget(b *testing.B) {
	r := wireRequest(b, "GET /v1/workspaces/acme/items/4711?expand=all")
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil)
	for b.Loop() {
		if !canonicalTarget(r, originalOf(r), r.URL.EscapedPath(), false) {
			b.Fatal("a canonical target is refused")
		}
	}
}
