package adversarial

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// notCanonical are ends of paths that parsers may interpret differently.
var notCanonical = []string{
	"..", ".", "../", "./", "../v1/admin/1", "./x", "a/../b", "a/./b", "a/..", "a/.",
	"%2e%2e/v1/admin/1", "%2E%2E/v1/admin/1", ".%2E/v1/admin/1", "%2e./v1/admin/1", "%2e", "%2e/x",
	"a%2eb", "..%2fv1/admin/1", "..%2Fv1/admin/1", "..%5cv1/admin/1", "..%5Cv1", "%2e%2e%2fx",
	"%2e%2e%5cx",
	"/v1/admin/1", "//x", "a//b", "a//", "%2f", "%2F", "a%2fb", "%2f%2e%2e",
	`..\v1\admin\1`, `a\b`, `\`, "a%5cb", "%5C",
	";", "a;b", "..;/x", "a;x=1/b", "%3b", "a%3Bb", "..%3b/x",
	"a%23b", "%23",
	"%252e%252e/v1/admin/1", "%252f", "a%255cb", "%2500", "%25%32%65", "%25zz%2541",
	"%00", "a%00b", "%0a", "%0d%0a", "%09", "%1f", "%7f", "%7F",
	"...", "a.", "a..", "a./x", "%20", "a%20", "a%20/x", "a%c2%a0", "a%e3%80%80/x", "a%ef%bb%bf",
	"%c0%ae%c0%ae/x", "%c0%af", "%c1%9c", "%e0%80%ae", "%ff", "%80", "a%c3", "%ed%a0%80",
	"%f4%90%80%80", "%f8%88%80%80%af",
}

// canonical are unusual ends of paths that all parsers interpret alike.
var canonical = []string{
	"..a", "a..b", ".hidden", ".well-known/x", "a%20b", "%20a", "%41", "%25zz", "%25", "%252",
	"100%25", "%C3%A9", "%e2%82%ac", "%F0%9F%94%91", "a:b", "@", "!$&'()*+,=~-_", "%3A", "%3F",
	"%5B%5D", "x/",
}

func TestTargets(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	bearer := []string{"Authorization: Bearer {R}"}
	var rows []row
	for _, end := range notCanonical {
		rows = append(rows,
			row{what: "public " + end, send: "GET /public/" + end,
				want: "400 non_canonical_target"},
			row{what: "with a key " + end, send: "GET /v1/items/" + end, header: bearer,
				want: "400 non_canonical_target"},
			row{what: "before the missing key " + end, send: "GET /v1/items/" + end + "?x",
				want: "400 non_canonical_target"},
		)
	}
	for _, end := range canonical {
		rows = append(rows,
			row{what: "public " + end, send: "GET /public/" + end, want: "200", as: "-"},
			row{what: "with a key " + end, send: "GET /v1/items/" + end, header: bearer,
				want: "200"},
		)
	}
	rows = append(rows, []row{
		{what: "two slashes first", send: "GET //v1/admin/1", header: bearer,
			want: "400 non_canonical_target"},
		{what: "two slashes, like a host", send: "GET //public/v1/admin/1",
			want: "400 non_canonical_target"},
		{what: "two slashes inside", send: "GET /v1//admin/1", header: bearer,
			want: "400 non_canonical_target"},
		{what: "two slashes before public", send: "GET /v1/..//public/1",
			want: "400 non_canonical_target"},
		{what: "admin in another case", send: "GET /V1/Admin/1", header: bearer,
			want: "403 insufficient_permission"},
		{what: "admin in another case, its key", send: "GET /V1/Admin/1",
			header: []string{"X-API-Key: {A}"}, want: "200", as: "A"},
		{what: "admin encoded", send: "GET /v1/%41dmin/1", header: bearer,
			want: "403 insufficient_permission"},
		{what: "admin encoded, its key", send: "GET /v1/%61dmin/1",
			header: []string{"X-API-Key: {A}"}, want: "200", as: "A"},
		{what: "items in another case", send: "GET /V1/ITEMS/1", header: bearer, want: "200"},
		{what: "public in another case", send: "GET /Public/1", want: "401 missing_key"},
		{what: "trailing slash", send: "GET /v1/admin/", header: bearer,
			want: "403 insufficient_permission"},
		{what: "the rest is empty", send: "GET /v1/admin", header: []string{"X-API-Key: {A}"},
			want: "200", as: "A"},
		{what: "public, the rest is empty", send: "GET /public", want: "200", as: "-"},
		{what: "public, trailing slash", send: "GET /health/", want: "200", as: "-"},
		{what: "dots in the query of public", send: "GET /public?/../v1/admin", want: "200",
			as: "-"},
		{what: "public in the query", send: "GET /v1/admin/1?/public/", want: "401 missing_key"},
		{what: "all in the query", send: "GET /v1/items/1?a=..//;%2f%5c%00\\", header: bearer,
			want: "200"},
		{what: "longer segment", send: "GET /v1/administrator",
			header: []string{"X-API-Key: {A}"}, want: "403 insufficient_permission"},
		{what: "longer public", send: "GET /publicity", want: "401 missing_key"},
		{what: "longer literal", send: "GET /healthy", want: "401 missing_key"},
		{what: "below a literal", send: "GET /health/x", want: "401 missing_key"},
		{what: "absolute form", on: "1", send: "GET http://evil/v1/admin/1", header: bearer,
			want: "refused"},
		{what: "absolute form, no key", on: "1", send: "GET http://evil/v1/admin/1",
			want: "refused"},
		{what: "absolute form with dots", on: "1", send: "GET http://evil/public/../v1/admin/1",
			want: "400 non_canonical_target"},
		{what: "absolute form of something else", on: "1", send: "GET file:///public/1",
			want: "refused"},
		{what: "no slash", send: "GET v1/items/1", header: bearer, want: "refused"},
		{what: "no slash, public", send: "GET public/1", want: "refused"},
		{what: "opaque", send: "GET a:public/1", want: "refused"},
		{what: "only a query", send: "GET ?/public/1", header: bearer, want: "refused"},
		{what: "host and port", send: "GET api.example.com:80", want: "refused"},
		{what: "bad escape", send: "GET /public/%", want: "refused"},
		{what: "bad escape with a letter", send: "GET /public/%zz", want: "refused"},
		{what: "bad escape of Unicode", send: "GET /public/%u002e", want: "refused"},
		{what: "raw fragment", send: "GET /public/#/../x", want: "400"},
	}...)
	w.run(t, rows)
}

// TestEveryByte sends each byte in a path, raw and encoded.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	var rows []row
	for b := range 256 {
		c := byte(b)
		control := c < 0x20 || c == 0x7f
		want := "200"
		if control || c >= 0x80 || strings.IndexByte(`/\;#.`, c) >= 0 {
			want = "400 non_canonical_target"
		}
		rows = append(rows, row{what: fmt.Sprintf("encoded %02x", b),
			send: fmt.Sprintf("GET /public/a%%%02xb", b), want: want, as: "-"})

		target := "/public/a" + string([]byte{c}) + "b"
		raw := row{what: fmt.Sprintf("raw %02x", b), send: "GET " + target, want: want, as: "-"}
		switch {
		case control || c == '%':
			raw.want = "refused"
		case c == ' ': // HTTP/2 accepts it
			raw.want, raw.on = "refused", "1"
		case c == '/' || c == '.':
			raw.want = "200"
		case want == "200":
			parsed, err := url.ParseRequestURI(target)
			if err != nil {
				t.Fatal(err)
			}
			raw.at = parsed.RequestURI() // net/url encodes some bytes
		}
		rows = append(rows, raw)
	}
	w.run(t, rows)
}

func TestEncodedSlash(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations + "encoded_slash allow"})
	bearer := []string{"Authorization: Bearer {R}"}
	rows := []row{
		{what: "in a segment", send: "GET /v1/items/a%2Fb", header: bearer, want: "200"},
		{what: "in lower case", send: "GET /v1/items/a%2fb", header: bearer, want: "200"},
		{what: "not a separator", send: "GET /v1%2fadmin/1",
			header: []string{"X-API-Key: {A}"}, want: "403 insufficient_permission"},
		{what: "not a separator before public", send: "GET /public%2f1", want: "401 missing_key"},
	}
	for _, end := range []string{"..%2fv1/admin/1", "..%2f..%2fv1%2fadmin%2f1", "a%2f..%2fb",
		"%2e%2e%2fx", ".%2fx", "a%2f..", "a%2f.", "%2fx", "a%2f%2fb", "a/%2fb", "a%2f/b",
		"%252f", "..%5cx", "a%2f;b"} {
		rows = append(rows,
			row{what: "public " + end, send: "GET /public/" + end,
				want: "400 non_canonical_target"},
			row{what: "with a key " + end, send: "GET /v1/items/" + end, header: bearer,
				want: "400 non_canonical_target"})
	}
	w.run(t, rows)
}

// TestRewrittenTargets checks paths that other handlers rewrite before `api_key`.
func TestRewrittenTargets(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{Site: `
		handle_path /strip/* {
			api_key {` + operations + `
			}
			reverse_proxy {$GATE_UPSTREAM}
		}
		handle {
			rewrite /old /public/1
			rewrite /new /v1/items/1
			rewrite /up* /public/../v1/admin/1
			uri /replace/* replace /replace/ /public/
			api_key {` + operations + `
			}
			reverse_proxy {$GATE_UPSTREAM}
		}
	`})
	bearer := []string{"Authorization: Bearer {R}"}
	w.run(t, []row{
		{what: "stripped to public", send: "GET /strip/public/1", want: "200", as: "-",
			at: "/public/1"},
		{what: "stripped to items", send: "GET /strip/v1/items/1", header: bearer, want: "200",
			at: "/v1/items/1"},
		{what: "stripped to admin", send: "GET /strip/v1/admin/1", header: bearer,
			want: "403 insufficient_permission"},
		{what: "stripped to two slashes", send: "GET /strip//v1/admin/1", header: bearer,
			want: "400 non_canonical_target"},
		{what: "stripped with dots", send: "GET /strip/public/../v1/admin/1",
			want: "400 non_canonical_target"},
		{what: "stripped with encoded dots", send: "GET /strip/public/%2e%2e/v1/admin/1",
			want: "400 non_canonical_target"},
		{what: "stripped encoded", send: "GET /%73trip/public/1", want: "200", as: "-",
			at: "/public/1"},
		{what: "rewritten to public", send: "GET /old", want: "200", as: "-", at: "/public/1"},
		{what: "rewritten to items", send: "GET /new", want: "401 missing_key"},
		{what: "rewritten to dots", send: "GET /up", want: "400 non_canonical_target"},
		{what: "rewritten from dots", send: "GET /x/../old", want: "400 non_canonical_target"},
		{what: "rewritten from encoded dots", send: "GET /up/%2e%2e",
			want: "400 non_canonical_target"},
		{what: "replaced", send: "GET /replace/1", want: "200", as: "-", at: "/public/1"},
		{what: "replaced, two slashes", send: "GET /replace//v1", want: "400 non_canonical_target"},
	})
}
