package adversarial

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestUpgrades(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	bearer := "Authorization: Bearer {R}"
	handshake := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}
	with := func(header ...string) []string { return append(header, handshake...) }
	settings := []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
		"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"}
	upgrade := func(value ...string) []string {
		header := []string{bearer, "Connection: Upgrade"}
		for _, v := range value {
			header = append(header, "Upgrade: "+v)
		}
		return header
	}
	rows := []row{
		{what: "WebSocket without a key", send: "GET /v1/items/ws", header: handshake,
			want: "401 missing_key"},
		{what: "WebSocket, revoked", send: "GET /v1/items/ws", header: with("X-API-Key: {X}"),
			want: "401 key_revoked"},
		{what: "WebSocket, forged", send: "GET /v1/items/ws", header: with("X-API-Key: {J}"),
			want: "401 invalid_key"},
		{what: "WebSocket, not allowed", send: "GET /v1/admin/ws", header: with(bearer),
			want: "403 insufficient_permission"},
		{what: "h2c", send: "GET /v1/items/1", header: append([]string{bearer}, settings...),
			want: "200", gone: []string{"Upgrade", "Http2-Settings"}},
		{what: "h2c on public", send: "GET /public/1", header: settings, want: "200", as: "-",
			gone: []string{"Upgrade", "Http2-Settings"}},
		{what: "h2c without a key", send: "GET /v1/items/1", header: settings,
			want: "401 missing_key"},
		{what: "websocket on POST", send: "POST /public/ws", header: handshake, body: "x",
			want: "200", as: "-", gone: []string{"Upgrade"}},
		{what: "websocket on HEAD", send: "HEAD /public/ws", header: handshake, want: "200",
			as: "-", gone: []string{"Upgrade"}},
	}
	for _, value := range [][]string{{"h2c"}, {"H2C"}, {"h2"}, {"TLS/1.0"}, {"foo"},
		{"websocket, h2c"}, {"h2c, websocket"}, {"websocket,"}, {"websocket/13"}, {"websocket",
			"h2c"}, {"h2c", "websocket"}, {"connect-udp"}} {
		rows = append(rows, row{what: fmt.Sprint("76 ", value), send: "GET /v1/items/1",
			header: upgrade(value...), want: "200", gone: []string{"Upgrade"}})
	}
	for i := range rows {
		rows[i].on = "1"
	}
	rows = append(rows,
		row{what: "upgrade over HTTP/2", on: "2", send: "GET /v1/items/1",
			header: []string{bearer, "Upgrade: websocket"}, want: "refused"},
		row{what: "h2c over HTTP/2", on: "2", send: "GET /v1/items/1",
			header: append([]string{bearer}, settings...), want: "refused"},
	)
	w.run(t, rows)

	got := w.Do(t, gate.Request{Target: "/v1/items/ws", Header: w.expandAll(t, with(bearer))})
	if got.Status != 101 || len(got.Reached) != 1 {
		t.Fatalf("WebSocket with a key: want 101, got %v", got)
	}
	w.judgeReached(t, row{}, "/v1/items/ws", got.Reached[0])
}

// TestFraming checks that no body is read as a second request (request smuggling).
func TestFraming(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	const smuggled = "GET /v1/admin/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, c := range []struct {
		what string
		wire string
		want int // status of the first response; 0 accepts any
	}{
		{"CL and TE",
			"PUT /v1/items/1 HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 6\r\nTransfer-Encoding: " +
				"chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + smuggled, 0},
		{"TE and CL",
			"PUT /v1/items/1 HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: " +
				"chunked\r\nContent-Length: 60\r\nConnection: close\r\n\r\n0\r\n\r\n" + smuggled,
			0},
		{"two Content-Length",
			"PUT /v1/items/1 HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 0\r\nContent-Length: " +
				"48\r\n\r\n" + smuggled, 400},
		{"Content-Length list",
			"PUT /v1/items/1 HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 0, 48\r\n\r\n" + smuggled,
			400},
		{"signed Content-Length",
			"PUT /v1/items/1 HTTP/1.1\r\nHost: a\r\n{key}Content-Length: +0\r\n\r\n" + smuggled,
			400},
		{"unknown coding",
			"PUT /v1/items/1 HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: " +
				"xchunked\r\n\r\n0\r\n\r\n" + smuggled, 501},
		{"two codings",
			"PUT /v1/items/1 HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: " +
				"chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled, 501},
		{"space before the colon",
			"GET /v1/items/1 HTTP/1.1\r\nHost: a\r\n{key}X-Apikey-Id : admin\r\n\r\n", 400},
		{"folded line",
			"GET /public/1 HTTP/1.1\r\nHost: a\r\nX-Fine: 1\r\n X-Apikey-Id: admin\r\nConnection: " +
				"close\r\n\r\n", 0},
		{"no name", "GET /public/1 HTTP/1.1\r\nHost: a\r\n: admin\r\n\r\n", 400},
		{"bare LF", "GET /public/1 HTTP/1.1\nHost: a\nX-Apikey-Id: admin\nConnection: close\n\n",
			0},
		{"two Host", "GET /v1/items/1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n{key}\r\n", 400},
		{"no Host", "GET /v1/items/1 HTTP/1.1\r\n{key}\r\n", 400},
		{"HTTP/1.0", "GET /v1/items/1 HTTP/1.0\r\n\r\n", 401},
		{"HTTP/0.9", "GET /v1/items/1\r\n\r\n", 400},
		{"HTTP/9.9", "GET /v1/items/1 HTTP/9.9\r\nHost: a\r\n\r\n", 505},
		{"a response", "HTTP/1.1 200 OK\r\n\r\n", 400},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 0},
		{"asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400},
	} {
		t.Run(c.what, func(t *testing.T) {
			answers := w.Raw(t, strings.ReplaceAll(c.wire, "{key}",
				"X-API-Key: "+w.tokens["R"]+"\r\n"))
			if c.want != 0 && answers[0].Status != c.want {
				t.Errorf("want %d, got %v", c.want, answers)
			}
			for i, answer := range answers {
				if i > 0 && answer.Status >= 200 && answer.Status < 300 {
					t.Errorf("a second response: %v", answer)
				}
			}
			reached := answers[0].Reached
			if len(reached) > 1 || c.want >= 400 && len(reached) != 0 {
				t.Errorf("%d requests reached the upstream: %v", len(reached), answers)
			}
			for _, r := range reached {
				if strings.HasPrefix(r.Target, "/v1/admin") ||
					r.Header.Get("X-Apikey-Id") == "admin" {
					t.Errorf("the upstream got %s, X-Apikey-Id %q", r.Target,
						r.Header.Get("X-Apikey-Id"))
				}
			}
		})
	}
}

// TestPipelined checks that each request on a connection is decided separately.
func TestPipelined(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	request := func(target, token string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: a\r\nX-API-Key: " + token + "\r\n"
	}
	answers := w.Raw(t, request("/v1/items/1", w.tokens["R"])+"\r\n"+
		request("/v1/admin/1", w.tokens["R"])+"\r\n"+request("/v1/items/2", w.tokens["J"])+"\r\n"+
		request("/v1/admin/2", w.tokens["A"])+"Connection: close\r\n\r\n")
	var got []int
	for _, answer := range answers {
		got = append(got, answer.Status)
	}
	if fmt.Sprint(got) != "[200 403 401 200]" {
		t.Errorf("want 200, 403, 401, 200, got %v", answers)
	}
	if len(answers[0].Reached) != 2 {
		t.Errorf("want two requests at the upstream: %v", answers)
	}
}

// TestMalformedHTTP2 sends requests that are stream errors by RFC 9113 §8.2 and §8.3.
func TestMalformedHTTP2(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	type fields = []gate.Field
	pseudo := func(extra ...gate.Field) fields {
		return append(fields{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
			{Name: ":authority", Value: "a"}, {Name: ":path", Value: "/public/1"}}, extra...)
	}
	path := func(value string) fields {
		return fields{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
			{Name: ":authority", Value: "a"}, {Name: ":path", Value: value}}
	}
	for what, block := range map[string]fields{
		"upper-case name": pseudo(gate.Field{Name: "X-Apikey-Id", Value: "admin"}),
		"connection":      pseudo(gate.Field{Name: "connection", Value: "x-apikey-id"}),
		"te: gzip":        pseudo(gate.Field{Name: "te", Value: "gzip"}),
		"transfer-encoding": pseudo(gate.Field{Name: "transfer-encoding",
			Value: "chunked"}),
		"CR LF in a value": pseudo(gate.Field{Name: "x-a",
			Value: "1\r\nX-Apikey-Id: admin"}),
		"LF in a value": pseudo(gate.Field{Name: "x-a",
			Value: "1\nX-Apikey-Id: admin"}),
		"NUL in a value": pseudo(gate.Field{Name: "x-a", Value: "1\x00"}),
		"CR LF in a name": pseudo(gate.Field{Name: "x-a\r\nx-apikey-id",
			Value: "admin"}),
		"colon in a name":         pseudo(gate.Field{Name: "x-apikey-id:", Value: "admin"}),
		"space in a name":         pseudo(gate.Field{Name: "x-apikey-id ", Value: "admin"}),
		"empty name":              pseudo(gate.Field{Name: "", Value: "admin"}),
		"pseudo after regular":    append(fields{{Name: "x-a", Value: "1"}}, pseudo()...),
		"unknown pseudo":          pseudo(gate.Field{Name: ":x", Value: "1"})[:5],
		":path twice":             pseudo(gate.Field{Name: ":path", Value: "/v1/admin"}),
		":method twice":           pseudo(gate.Field{Name: ":method", Value: "POST"}),
		"no :path":                pseudo()[:3],
		"no :method":              pseudo()[1:],
		"no :scheme":              append(pseudo()[:1:1], pseudo()[2:]...),
		"CR LF in :path":          path("/public/1 HTTP/1.1\r\nX-Apikey-Id: admin\r\n\r\n"),
		":path without slash":     path("v1/admin"),
		":path public, no slash":  path("public/1"),
		":path empty":             path(""),
		":path asterisk":          path("*"),
		":path absolute":          path("https://evil/public/../v1/admin"),
		":path two slashes":       path("//public/1"),
		":path of another scheme": path("file:///public/1"),
		":path with a fragment":   path("/public/#/../v1/admin"),
	} {
		t.Run(what, func(t *testing.T) {
			w.judge(t, row{want: "refused"}, "", w.DoHTTP2(t, block, "", nil))
		})
	}
}
