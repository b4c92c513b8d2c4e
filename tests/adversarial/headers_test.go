package adversarial

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// separators are the bytes other than letters and digits that a field name may contain (RFC 9110
// §5.6.2).
const separators = "!#$%&'*+-.^_`|~"

// spoofs returns names that a back end could read as an identity header of the product, present or
// future.
func spoofs() []string {
	names := []string{
		"X-Apikey-Id", "x-apikey-id", "X-APIKEY-ID", "x_apikey_id", "X_APIKEY_ID", "X-Apikey_Id",
		"X_Apikey-Id", "X.Apikey.Id", "X-Apikey.Id",
		"X-Apikey-Name", "X-Apikey-Namespace", "X-Apikey-Owner", "X-Apikey-Permissions",
		"X-Apikey-Code", "X-Apikey-Meta-Team", "X-Apikey-", "X-Apikey-Id-", "X-Apikey--Id",
		"X-Apikey-Admin", "X_Apikey_Owner", "X.Apikey.Permissions", "x~apikey~namespace",
	}
	for _, separator := range separators {
		names = append(names, fmt.Sprintf("X%cApikey%cId", separator, separator),
			fmt.Sprintf("X-Apikey%cOwner", separator),
			fmt.Sprintf("X%cApikey-Permissions", separator))
	}
	return names
}

func TestIdentityHeadersCannotBeSent(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations + "optional\nforeign pass"})
	w.mint(t, "Put", gate.JSON{"permissions": []string{"items:*"}})
	bearer := "Authorization: Bearer {R}"
	var rows []row
	for _, name := range spoofs() {
		spoof := name + ": admin"
		rows = append(rows,
			row{what: "key, " + name, send: "GET /v1/items/1", header: []string{bearer, spoof},
				want: "200"},
			row{what: "before the key, " + name, send: "GET /v1/items/1",
				header: []string{spoof, spoof, bearer}, want: "200"},
			row{what: "public, " + name, send: "GET /public/1", header: []string{spoof},
				want: "200", as: "-"},
			row{what: "anonymous, " + name, send: "GET /v1/items/1", header: []string{spoof},
				want: "200", as: "-"},
			row{what: "foreign, " + name, send: "GET /v1/items/1",
				header: []string{"Authorization: Bearer eyJhbGciOi.e30.x", spoof}, want: "200",
				as: "-"},
			row{what: "declared trailer, " + name, send: "PUT /v1/items/1",
				header: []string{"X-API-Key: {Put}", "Trailer: " + name}, body: "x",
				trailer: []string{spoof}, want: "200", as: "Put"},
			row{what: "undeclared trailer, " + name, send: "PUT /v1/items/1",
				header: []string{"X-API-Key: {Put}"}, body: "x", trailer: []string{spoof},
				want: "200", as: "Put"},
			row{what: "declared trailer on public, " + name, send: "POST /public/1",
				header: []string{"Trailer: X-Fine, " + name}, body: "x",
				trailer: []string{spoof, "X-Fine: 1"}, want: "200", as: "-"},
		)
	}
	w.run(t, rows)
}

func TestHopByHopCannotRemoveTheIdentity(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	bearer := "Authorization: Bearer {R}"
	item := "GET /v1/items/1"
	var rows []row
	for _, header := range [][]string{
		{"Connection: close, X-Apikey-Id"}, {"Connection: X-Apikey-Id"},
		{"Connection: x-apikey-id"}, {"Connection: X-APIKEY-NAMESPACE,X-Apikey-Name"},
		{"Connection: close", "Connection: X-Apikey-Id"}, {"Connection: ,, X-Apikey-Id ,,"},
		{"Connection:\tX-Apikey-Id\t"},
		{"Connection: keep-alive, X-Apikey-Id, X-Apikey-Permissions"},
		{"Connection: x_apikey_id"}, {"Connection: X.Apikey.Id"},
		{"Connection: close, X-Apikey-Id, X-Apikey-Id"}, {"Proxy-Connection: X-Apikey-Id"},
		{"Keep-Alive: X-Apikey-Id"},
		{"Connection: Authorization"}, {"Connection: close, Authorization, X-Apikey-Id"},
	} {
		rows = append(rows, row{what: fmt.Sprint("31 ", header), on: "1", send: item,
			header: append([]string{bearer}, header...), want: "200"})
	}
	rows = append(rows,
		row{what: "other tokens stay", on: "1", send: item,
			header: []string{bearer, "Connection: X-Custom, X-Apikey-Id", "X-Custom: 1"},
			want:   "200", gone: []string{"X-Custom"}},
		row{what: "on public", on: "1", send: "GET /public/1",
			header: []string{"Connection: X-Apikey-Id", "X-Apikey-Id: admin"}, want: "200",
			as: "-"},
		row{what: "the credential as hop-by-hop", on: "1", send: item,
			header: []string{"X-API-Key: {R}", "Connection: X-API-Key"}, want: "200"},
		row{what: "an invalid credential as hop-by-hop", on: "1", send: item,
			header: []string{"X-API-Key: {R}", "Authorization: Bearer {J}",
				"Connection: Authorization"}, want: "400 ambiguous_credentials"},
	)
	w.run(t, rows)
}

// overrides are headers that make some back ends act on another method or path.
var overrides = []string{"X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE",
	"X-Method-Override: DELETE", "X-Original-Url: /v1/admin/1", "X-Original-Uri: /v1/admin/1",
	"X-Original-Method: DELETE", "X-Rewrite-Url: /v1/admin/1", "x-http-method-override: DELETE",
	"X_HTTP_Method_Override: DELETE", "X.Original.Url: /v1/admin/1", "X_Rewrite_Url: /v1/admin/1"}

// forwarded are headers that only trusted proxies may send.
var forwarded = []string{"X-Forwarded-Uri: /public/x", "X-Forwarded-Method: GET",
	"X-Forwarded-Prefix: /public", "X-Forwarded-Port: 1", "X-Forwarded-User: admin"}

func name(line string) string { return line[:strings.IndexByte(line, ':')] }

func TestOverridesAndForwardedHeaders(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	bearer := "Authorization: Bearer {R}"
	var rows []row
	for _, line := range append(append([]string{}, overrides...), forwarded...) {
		rows = append(rows,
			row{what: "a key with " + line, send: "GET /v1/admin/1",
				header: []string{bearer, line}, want: "403 insufficient_permission"},
			row{what: "no key and " + line, send: "GET /v1/admin/1", header: []string{line},
				want: "401 missing_key"},
			row{what: "read with " + line, send: "GET /v1/items/1",
				header: []string{bearer, line, line}, want: "200", gone: []string{name(line)}},
			row{what: "on public " + line, send: "GET /public/1", header: []string{line},
				want: "200", as: "-", gone: []string{name(line)}},
		)
	}
	rows = append(rows,
		row{what: "a write overridden to a read", send: "POST /v1/admin/1",
			header: []string{bearer, "X-HTTP-Method-Override: GET"},
			want:   "403 insufficient_permission"},
		row{what: "X-Forwarded-For", send: "GET /v1/items/1",
			header: []string{"X-API-Key: {Ten}", "X-Forwarded-For: 10.0.0.1"},
			want:   "403 address_not_allowed"},
		row{what: "X-Real-Ip", send: "GET /v1/items/1",
			header: []string{"X-API-Key: {Ten}", "X-Real-Ip: 10.0.0.1"},
			want:   "403 address_not_allowed"},
		row{what: "Forwarded", send: "GET /v1/items/1",
			header: []string{"X-API-Key: {Ten}", "Forwarded: for=10.0.0.1"},
			want:   "403 address_not_allowed"},
		row{what: "loopback", send: "GET /v1/items/1",
			header: []string{"X-API-Key: {Loop}", "X-Forwarded-For: 10.0.0.1"}, want: "200",
			as: "Loop"},
	)
	w.mint(t, "Ten", gate.JSON{"permissions": []string{"items:read"},
		"allowed_ips": []string{"10.0.0.0/8"}})
	w.mint(t, "Loop", gate.JSON{"permissions": []string{"items:read"},
		"allowed_ips": []string{"127.0.0.0/8"}})
	w.run(t, rows)
}

func TestTrustedProxy(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations, Servers: "trusted_proxies static 127.0.0.1/32"})
	bearer := "Authorization: Bearer {R}"
	var rows []row
	for _, line := range overrides {
		rows = append(rows, row{what: "dropped, " + line, send: "GET /v1/items/1",
			header: []string{bearer, line}, want: "200", gone: []string{name(line)}})
	}
	for _, line := range forwarded {
		rows = append(rows,
			row{what: "kept, " + line, send: "GET /v1/items/1", header: []string{bearer, line},
				want: "200", kept: []string{line}},
			row{what: "no effect on the decision, " + line, send: "GET /v1/admin/1",
				header: []string{bearer, line}, want: "403 insufficient_permission"})
	}
	rows = append(rows,
		row{what: "an allowed client address", send: "GET /v1/items/1",
			header: []string{"X-API-Key: {Ten}", "X-Forwarded-For: 10.0.0.1"}, want: "200",
			as: "Ten"},
		row{what: "another client address", send: "GET /v1/items/1",
			header: []string{"X-API-Key: {Ten}", "X-Forwarded-For: 11.0.0.1"},
			want:   "403 address_not_allowed"},
		row{what: "no identity from a trusted proxy", send: "GET /public/1",
			header: []string{"X-Apikey-Id: admin"}, want: "200", as: "-"},
	)
	w.mint(t, "Ten", gate.JSON{"permissions": []string{"items:read"},
		"allowed_ips": []string{"10.0.0.0/8"}})
	w.run(t, rows)
}
