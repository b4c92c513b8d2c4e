package admin_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// TestBounds sends bodies full of invalid values and checks that the answer stays short.
func TestBounds(t *testing.T) {
	d := open(t)
	id := d.mint(t, root, readOnly).Key.ID
	many := func(n int, element string) string {
		return "[" + strings.Repeat(element+",", n-1) + element + "]"
	}
	names := func(n int, value string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"n%d":%s`, i, value)
		}
		return "{" + b.String()[1:] + "}"
	}
	for name, test := range map[string]struct {
		body   string
		field  string // one of the fields that the answer names
		errors int    // 0: the maximum number
	}{
		"501 invalid permissions": {
			`{"permissions":` + many(501, `"a b"`) + `}`, "permissions", 0},
		"501 invalid permissions of a grant": {`{"grants":[{"namespace":"a","permissions":` +
			many(501, `"a b"`) + `}]}`, "grants[0].permissions", 0},
		"101 grants": {`{"grants":` +
			many(101, `{"namespace":"default","access":"read_only"}`) + `}`, "grants", 0},
		"257 invalid addresses": {
			`{"allowed_ips":` + many(257, `"localhost"`) + `}`, "allowed_ips", 0},
		"501 valid permissions": {
			`{"permissions":` + many(501, `"read"`) + `}`, "permissions", 0},
		"500 invalid permissions": {
			`{"permissions":` + many(500, `"a b"`) + `}`, "permissions[0]", 100},
		"500 long permissions": {`{"permissions":` +
			many(500, `"`+strings.Repeat("<", 2000)+`"`) + `}`, "permissions[0]", 100},
		"256 long addresses": {`{"allowed_ips":` +
			many(256, `"`+strings.Repeat("<", 4000)+`"`) + `}`, "allowed_ips[0]", 100},
		"unknown fields":           {names(9000, "0"), "", 100},
		"unknown fields of grants": {`{"grants":` + many(90, names(90, "0")) + `}`, "", 100},
		"a long unknown field":     {`{"` + strings.Repeat("<", 1_000_000) + `":0}`, "", 0},
		"invalid metadata":         {`{"metadata":` + names(9000, "0") + `}`, "", 100},
		"long metadata": {`{"metadata":` +
			names(100, `"`+strings.Repeat("x", 5000)+`"`) + `}`, "", 0},
		"520000 zeros":   {`{"roles":` + many(520_000, "0") + `}`, "", 0},
		"340000 objects": {`{"grants":` + many(340_000, "{}") + `}`, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			for path, method := range map[string]string{"/keys": "POST", "/keys/" + id: "PATCH"} {
				body := test.body
				if method == "POST" {
					body = `{"name":"x",` + body[1:]
				}
				a := d.call(t, root, method, path, body)
				p := a.problem(t)
				if p.Status != 422 || p.Code != "invalid_fields" {
					t.Fatalf("%s: %.300s", method, a.text)
				}
				found := test.field == ""
				for _, e := range p.Errors {
					found = found || e.Field == test.field
				}
				if !found || len(p.Errors) > 100 || test.errors > 0 &&
					len(p.Errors) != test.errors || len(a.text) > 1<<20 {
					t.Errorf("%s: %d errors in %d bytes: %.300s", method, len(p.Errors),
						len(a.text), a.text)
				}
			}
		})
	}
}

// TestFieldTexts checks the texts of field errors, and that an unknown name lists the known ones.
func TestFieldTexts(t *testing.T) {
	d := open(t)
	for _, test := range []struct{ method, path, body, want string }{
		{"POST", "/keys", `{"name":"","access":"read_only"}`,
			"name: must not be empty"},
		{"POST", "/keys", `{"access":"read_only"}`, "name: is required"},
		{"POST", "/keys", `{"name":"x","access":"all"}`,
			"access: must be one of: read_only, read_write, custom"},
		{"POST", "/keys", `{"name":7,"active":1,"roles":{},"metadata":[],"access":"read_only"}`,
			"active: must be true or false; metadata: must be an object; name: must be a string; " +
				"roles: must be a list"},
		{"POST", "/keys", `{"name":"x","access":"read_only","expires_at":"soon"}`,
			"expires_at: must be a time such as 2027-01-01T00:00:00Z"},
		{"POST", "/keys", `{"name":"x","grants":[{"namespace":"a","acess":"read_only"}]}`,
			"grants[0].acess: is unknown; must be one of: access, connected, namespace, " +
				"permissions, roles"},
		{"PATCH", "/keys/aaaaaaaaaaaa", `{"grants":[{"namespace":"a","a.b":0}]}`,
			"grants[0].a.b: is unknown; must be one of: access, connected, namespace, permissions, " +
				"roles"},
		{"POST", "/keys/aaaaaaaaaaaa/revoke", `{"why":"x"}`,
			"why: is unknown; must be one of: made, reason"},
		{"POST", "/keys", `{"name":"x","permissions":` + "[" + strings.Repeat(`"read",`, 500) +
			`"read"]}`, "permissions: must contain at most 500 entries"},
		{"GET", "/keys?limit=0", "", "limit: must be 1 or more"},
		{"GET", "/namespaces?size=1", "", "size: is unknown; must be one of: cursor, limit, q"},
	} {
		var body any
		if test.body != "" {
			body = test.body
		}
		p := d.call(t, root, test.method, test.path, body).problem(t)
		var got []string
		for _, e := range p.Errors {
			got = append(got, e.Field+": "+e.Detail)
		}
		if text := strings.Join(got, "; "); text != test.want {
			t.Errorf("%.80s: %s\nwant %s", test.body, text, test.want)
		}
	}
	p := d.call(t, root, "POST", "/keys/import", `{"nmae":"x"}`, "Content-Type",
		api.NDJSON).problem(t)
	if len(p.Refused) != 1 || !strings.Contains(p.Refused[0].Detail,
		"nmae: is unknown; must be one of: access, ") {
		t.Errorf("import: %+v", p)
	}
}
