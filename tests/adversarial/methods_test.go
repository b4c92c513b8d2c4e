package adversarial

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMethods(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	w.mint(t, "All", gate.JSON{"permissions": []string{"*"}})
	w.mint(t, "Read", gate.JSON{"access": "read_only"})
	w.mint(t, "Write", gate.JSON{"permissions": []string{"write"}})
	bearer := func(key string) []string { return []string{"Authorization: Bearer {" + key + "}"} }
	rows := []row{
		{what: "HEAD", send: "HEAD /v1/items/1", header: bearer("R"), want: "200"},
		{what: "HEAD with the class", send: "HEAD /x", header: bearer("Read"), want: "200",
			as: "Read"},
		{what: "HEAD without read", send: "HEAD /x", header: bearer("Write"), want: "403"},
		{what: "GET without read", send: "GET /x", header: bearer("Write"),
			want: "403 insufficient_permission"},
		{what: "OPTIONS is a read", send: "OPTIONS /x", header: bearer("Read"), want: "200",
			as: "Read"},
		{what: "OPTIONS without read", send: "OPTIONS /x", header: bearer("Write"),
			want: "403 insufficient_permission"},
		{what: "OPTIONS without a key", send: "OPTIONS /x", want: "401 missing_key"},
		{what: "no preflight unless configured", send: "OPTIONS /x",
			header: []string{"Origin: https://a.example", "Access-Control-Request-Method: DELETE"},
			want:   "401 missing_key"},
		{what: "_method in the query", send: "POST /x?_method=GET", header: bearer("Read"),
			want: "403 insufficient_permission"},
		{what: "_method in the query of a read", send: "GET /x?_method=DELETE",
			header: bearer("Write"), want: "403 insufficient_permission"},
		{what: "_method in a form", send: "POST /x",
			header: append(bearer("Read"), "Content-Type: application/x-www-form-urlencoded"),
			body:   "_method=GET", want: "403 insufficient_permission"},
		{what: "CONNECT host", on: "1", send: "CONNECT example.com:443", header: bearer("All"),
			want: "405 method_not_allowed"},
		{what: "CONNECT path", on: "1", send: "CONNECT /v1/items/1", header: bearer("All"),
			want: "refused"},
		{what: "CONNECT with a body", send: "CONNECT example.com:443", header: bearer("All"),
			body: "GET /v1/admin HTTP/1.1\r\n\r\n", want: "refused"},
		{what: "CONNECT over HTTP/2", on: "2", send: "CONNECT /", header: bearer("All"),
			want: "refused"},
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		rows = append(rows,
			row{what: method + " is a write", send: method + " /x", header: bearer("Write"),
				want: "200", as: "Write"},
			row{what: method + " with read", send: method + " /x", header: bearer("Read"),
				want: "403 insufficient_permission"})
	}
	for _, method := range []string{"get", "Get", "gET", "post", "delete", "head", "options", "FOO",
		"PROPFIND", "PURGE", "M-SEARCH", "MKCOL", "LINK", "PRI", "GETS", "GE", "TRACE", "trace",
		"QUERY", "CONNECTX", "!", "*", "GET,POST", "GET;"} {
		for _, target := range []string{" /v1/items/1", " /public/1"} {
			rows = append(rows,
				row{what: "with a key, " + method + target, send: method + target,
					header: bearer("All"), want: "refused"},
				row{what: "no key, " + method + target, send: method + target, want: "refused"})
		}
	}
	for _, method := range []string{"get", "Get", "FOO", "PROPFIND", "PURGE", "M-SEARCH", "TRACE",
		"QUERY"} {
		rows = append(rows,
			row{what: "405, " + method, send: method + " /v1/items/1",
				header: bearer("All"), want: "405 method_not_allowed"},
			row{what: "405 on public, " + method, send: method + " /public/1",
				want: "405 method_not_allowed"})
	}
	w.run(t, rows)
}

func TestAllow(t *testing.T) {
	t.Parallel()
	w := start(t,
		gate.Config{APIKey: "methods write MKCOL\nmethods read QUERY\nmethods none PUT PATCH"})
	w.mint(t, "Read", gate.JSON{"access": "read_only"})
	w.mint(t, "Write", gate.JSON{"permissions": []string{"write"}})
	bearer := func(key string) []string { return []string{"Authorization: Bearer {" + key + "}"} }
	w.run(t, []row{
		{what: "QUERY added", send: "QUERY /x", header: bearer("Read"), want: "200", as: "Read"},
		{what: "QUERY is a read", send: "QUERY /x", header: bearer("Write"),
			want: "403 insufficient_permission"},
		{what: "MKCOL added", send: "MKCOL /x", header: bearer("Write"), want: "200", as: "Write"},
		{what: "MKCOL is a write", send: "MKCOL /x", header: bearer("Read"),
			want: "403 insufficient_permission"},
		{what: "methods are case-sensitive", send: "mkcol /x", header: bearer("Write"),
			want: "405 method_not_allowed"},
		{what: "PUT removed", send: "PUT /x", header: bearer("Write"),
			want: "405 method_not_allowed"},
		{what: "TRACE", send: "TRACE /x", header: bearer("Read"), want: "405 method_not_allowed"},
	})
	got := w.Send(t, "PUT", "/x", "", "")
	allow := strings.Split(strings.ReplaceAll(strings.Join(got.Header.Values("Allow"), ","), " ",
		""), ",")
	slices.Sort(allow)
	if want := []string{"DELETE", "GET", "HEAD", "MKCOL", "OPTIONS", "POST",
		"QUERY"}; !slices.Equal(allow, want) {
		t.Errorf("Allow %q, want %q", allow, want)
	}
}

// TestExtendedConnect checks that a WebSocket over HTTP/2 (RFC 8441) is refused. Clients fall back
// to HTTP/1.1.
func TestExtendedConnect(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	w.mint(t, "All", gate.JSON{"permissions": []string{"*"}})
	for _, target := range []string{"/v1/items/ws", "/public/ws"} {
		got := w.Do(t, gate.Request{Protocol: gate.HTTP2, Method: "CONNECT", Extended: "websocket",
			Target: target,
			Header: w.expandAll(t, []string{"Authorization: Bearer {All}",
				"Sec-WebSocket-Version: 13"})})
		w.judge(t, row{want: "refused"}, "", got)
	}
}
