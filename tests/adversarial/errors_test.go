package adversarial

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestErrorRoutes checks requests that pass through Caddy's error routes, including those that a
// handler has already accepted or refused.
func TestErrorRoutes(t *testing.T) {
	t.Parallel()
	bearer := func(key string) []string { return []string{"Authorization: Bearer {" + key + "}"} }
	spoof := []string{"X-Apikey-Id: spoof", "x_apikey_owner: root", "X-Original-Url: /admin"}
	runSites(t, []site{
		{"refusals sent to an upstream",
			"uri strip_prefix /old\napi_key {\nfrom bearer\nfrom header X-API-Key\nfrom query " +
				"key\nfrom cookie key\nmethods none PATCH\nerrors caddy\n}\nreverse_proxy " +
				"{$GATE_UPSTREAM}\nhandle_errors {\nreverse_proxy {$GATE_UPSTREAM}\n}", []row{
				{what: "allowed", send: "GET /x", header: bearer("Read"), want: "200", as: "Read"},
				{what: "missing", send: "GET /x", header: spoof, want: "200", as: "-",
					gone: []string{"X-Original-Url"}},
				{what: "forbidden", send: "POST /x", header: append(bearer("Read"), spoof...),
					want: "200", as: "-", gone: []string{"Authorization", "X-Original-Url"}},
				{what: "revoked", send: "GET /x", header: bearer("X"), want: "200", as: "-"},
				{what: "forged", send: "GET /x", header: bearer("J"), want: "200", as: "-"},
				{what: "a copy", send: "POST /x",
					header: append(bearer("Read"), "Referer: https://a.example/?k={Read}"),
					want:   "200", as: "-"},
				{what: "two sources", send: "GET /x?a=1&key={Read}", header: bearer("A"),
					want: "200", as: "-", at: "/x?a=1"},
				{what: "two sources and copies", send: "GET /x?key={Read}&x={A}",
					header: append(bearer("A"), "Referer: https://a.example/?k={Read}&l={A}"),
					want:   "200", as: "-", at: "/x?x=REDACTED",
					kept: []string{"Referer: https://a.example/?k=REDACTED&l=REDACTED"}},
				{what: "two headers", send: "GET /x",
					header: []string{"X-API-Key: {Read}", "X-API-Key: {A}"}, want: "200", as: "-"},
				{what: "two parameters", send: "GET /x?key={Read}&key={A}&b=1", want: "200",
					as: "-", at: "/x?b=1"},
				{what: "two cookies", send: "GET /x",
					header: []string{"Cookie: key={Read}; a=b; key={A}"}, want: "200", as: "-",
					kept: []string{"Cookie: a=b"}},
				{what: "method", send: "PATCH /x?key={Read}", want: "200", as: "-", at: "/x"},
				{what: "a path rewritten before api_key", send: "GET /old/x?key={X}", want: "200",
					as: "-", at: "/old/x"},
			}},
		{"api_key in handle_errors, after an accepted request",
			"api_key {\nresource orders\n}\nerror 502\nhandle_errors {\napi_key {\nresource " +
				"items\n}\nreverse_proxy {$GATE_UPSTREAM}\n}", []row{
				{what: "allowed by both", send: "GET /x", header: append(bearer("Read"), spoof...),
					want: "200", as: "Read"},
				{what: "refused by the second", send: "GET /x", header: bearer("Orders"),
					want: "403"},
			}},
		{"api_key in handle_errors, after a refused request",
			"api_key {\nresource orders\nerrors caddy\n}\nreverse_proxy " +
				"{$GATE_UPSTREAM}\nhandle_errors {\napi_key {\nresource items\n}\nreverse_proxy " +
				"{$GATE_UPSTREAM}\n}", []row{
				{what: "a forbidden key", send: "GET /x", header: bearer("R"),
					want: "401 missing_key"},
				{what: "a revoked key", send: "GET /x", header: bearer("X"),
					want: "401 missing_key"},
			}},
	})
}

// A site is a site of its own in a Caddy that has several.
type site struct {
	what, site string
	rows       []row
}

// runSites starts one Caddy with all the sites and sends each its rows.
func runSites(t *testing.T, sites []site) {
	t.Helper()
	config := gate.Config{Sites: map[string]gate.Config{},
		Env: []string{"OTEL_TRACES_EXPORTER=none"}}
	host := func(i int) string { return fmt.Sprintf("site%d.example.com", i) }
	for i, s := range sites {
		config.Sites[host(i)] = gate.Config{Site: s.site}
	}
	w := start(t, config)
	w.mint(t, "Read", gate.JSON{"permissions": []string{"read"}})
	w.mint(t, "Orders", gate.JSON{"permissions": []string{"orders:read"}})
	for i, s := range sites {
		w.host = host(i)
		t.Run(s.what, func(t *testing.T) { w.run(t, s.rows) })
	}
}

// TestCopiedRequests checks that no credential gets into copies of the request that other handlers
// make, or into placeholders for the original request.
func TestCopiedRequests(t *testing.T) {
	t.Parallel()
	const (
		api     = "api_key {\nfrom query key\nfrom header X-API-Key\nfrom cookie key\nERRORS\n}\n"
		proxy   = "reverse_proxy {$GATE_UPSTREAM} {\nheader_up X-All `PLACEHOLDERS`\n}\n"
		tracing = "tracing {\nspan s\n}\n"
		auth    = "respond /auth 200\nforward_auth 127.0.0.1:{$GATE_HTTP} {\nuri /auth\n}\n"
	)
	placeholders := []string{
		"uri", "uri_escaped", "uri.query", "uri.query_escaped", "uri.prefixed_query",
		"uri.query.key", "orig_uri", "orig_uri.path", "orig_uri.query",
		"orig_uri.prefixed_query", "header.X-API-Key", "header.Cookie", "header.Referer",
		"cookie.key",
	}
	all := "{http.vars.api_key.request}"
	for _, name := range placeholders {
		all += " {http.request." + name + "}"
	}
	fill := func(site, errors string) string {
		return strings.NewReplacer("PLACEHOLDERS", all, "ERRORS", errors).Replace(site)
	}
	rows := func(as string) []row {
		return []row{
			{what: "in the query", send: "GET /x?a=1&key={Read}", want: "200", as: as,
				at: "/x?a=1"},
			{what: "a copy in the query", send: "GET /x?b={Read}",
				header: []string{"X-API-Key: {Read}"}, want: "200", as: as, at: "/x?b=REDACTED"},
			{what: "in a cookie, with copies", send: "GET /x?b={Read}",
				header: []string{"Cookie: key={Read}", "Referer: https://a.example/?k={Read}"},
				want:   "200", as: as, at: "/x?b=REDACTED"},
		}
	}
	runSites(t, []site{
		{"none", fill("route {\n"+api+proxy+"}", ""), rows("Read")},
		{"tracing", fill("route {\n"+tracing+api+proxy+"}", ""), rows("Read")},
		{"tracing in its default order", fill(tracing+api+proxy, ""), rows("Read")},
		{"forward_auth", fill("route {\n"+auth+api+proxy+"}", ""), rows("Read")},
		{"error routes", fill("route {\n"+api+proxy+"}\nhandle_errors {\n"+proxy+"}",
			"errors caddy\nnamespace acme"), rows("-")},
		{"error routes after tracing",
			fill("route {\n"+tracing+api+proxy+"}\nhandle_errors {\n"+proxy+"}",
				"errors caddy\nnamespace acme"), rows("-")},
		{"error routes after forward_auth",
			fill("route {\n"+auth+api+proxy+"}\nhandle_errors {\n"+proxy+"}",
				"errors caddy\nnamespace acme"), rows("-")},
	})
}

// TestCutInErrorRoutes checks that a stream of an error route, which runs after the first handler
// has returned, is cut as well.
func TestCutInErrorRoutes(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{HTTP3: true,
		Site: "api_key\nerror 502\nhandle_errors {\napi_key\nreverse_proxy {$GATE_UPSTREAM}\n}"})
	for _, protocol := range []gate.Protocol{gate.HTTP1, gate.HTTP2, gate.HTTP3} {
		k := w.mint(t, fmt.Sprint("Over ", protocol), gate.JSON{"permissions": []string{"read"}})
		client, url := w.Client(t, protocol)
		r, err := http.NewRequestWithContext(t.Context(), "GET", url+"/sse", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+string(k.Token))
		response, err := client.Do(r)
		if err != nil || response.StatusCode != 200 {
			t.Fatalf("%v: %v, %v", protocol, response, err)
		}
		s := &stream{what: fmt.Sprint("events over ", protocol), ended: make(chan struct{})}
		lines := bufio.NewReader(response.Body)
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(s.ended)
			for {
				if _, err := lines.ReadString('\n'); err != nil {
					return
				}
			}
		}()
		w.Revoke(t, k.ID)
		mustEnd(t, []*stream{s}, time.Now(), 5*time.Second)
		gate.Until(t, "the upstream has no request of the key",
			func() bool { return w.Upstream.Running(k.ID) == 0 })
		response.Body.Close()
	}
}

// TestIncludes checks requests that a handler sends to its own server.
func TestIncludes(t *testing.T) {
	t.Parallel()
	w := start(t,
		gate.Config{Site: "api_key {\npublic /public/*\n}\nhandle /page/* {\ntemplates\nrespond " +
			"`included: {{httpInclude (printf \"/%s\" (.Req.URL.Query.Get " +
			"\"what\"))}}`\n}\nreverse_proxy {$GATE_UPSTREAM}"})
	w.mint(t, "Read", gate.JSON{"permissions": []string{"read"}})
	for _, protocol := range gate.Protocols {
		page := func(what string) gate.Response {
			return w.Do(t, gate.Request{Protocol: protocol, Target: "/page/x?what=" + what,
				Header: w.expandAll(t, []string{"X-API-Key: {Read}"})})
		}
		got := page("public/x")
		if got.Status != 200 || !strings.HasPrefix(string(got.Body), "included: {") ||
			len(got.Reached) != 1 {
			t.Fatalf("%v: a public path is not included: %v", protocol, got)
		}
		w.judgeReached(t, row{as: "-"}, "/public/x", got.Reached[0])
		if got := page("x"); len(got.Reached) != 0 {
			t.Errorf("%v: a path that needs a key is included: %v", protocol, got)
		}
	}
}
