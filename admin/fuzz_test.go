package admin_test

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// FuzzBodies sends arbitrary bodies to operations that have one. None causes a panic or 5xx, and
// every answer matches the OpenAPI document.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `[]`, `null`, `0`, `"x"`, `{"`, readOnly, "\xff",
		`{"name":null,"access":null,"grants":null,"metadata":null,"expires_at":null}`,
		`{"name":"a","permissions":["orders:read"],"roles":[],"connected":true,
			"grants":[{"namespace":"*","access":"read_write"}]}`,
		`{"name":"a","access":"read_only","expires_at":"9999-12-31T23:59:59.999999999+14:00",
			"allowed_ips":["::/0","0.0.0.0/0"]}`,
		`{"name":"a","access":"read_only","expires_at":"2037-01-01T00:00:00.123456789Z",
			"metadata":{"":"","a":"\u2028"}}`,
		`{"reason":"x","made":true}`, `{"grace":"24h"}`, `{"grace":"9223372036854775807ns"}`,
		`{"token":"secret-token:x","namespace":"*","permission":"admin:*"}`,
		`{"keys":[{"name":"a","access":"read_only","token":"credential"},null,
			{"name":"b","sha256":"00"}]}`,
		`{"id":"acme","kind":"account","parent":null,"name":"Acme","edit_policy":"grow_only","reach":[]}`,
		`{"rate_limit":{"requests":1e999},"quota":[[[]]]}`, `{"metadata":{"a":null}}`,
		`{"rate_limit":{"requests":1,"per":"1s","burst":2},"quota":{"requests":5,"per":"month"},
			"plan":null,"default_plan":null}`,
		`{"namespace":"default","name":"gold","description":"","rate_limit":{"unlimited":true},
			"quota":null}`,
		`{"rate_limit":{"requests":1.0,"per":"-1s","burst":-0},"quota":{"requests":1e-3}}`,
		`{"add":[{"permissions":["write"]}],"remove":[{"namespace":"default","roles":["r"]}],
			"remove_namespaces":["*"]}`,
		`{"id":"a","max_lifetime":"90d","idle":{"after":"1d12h","then":"inactivate"},
			"on_leak":null}`,
		`{"id":"a","max_lifetime":"-1d","idle":{"after":"","then":"x"},"on_leak":"x"}`,
		`[{"token":"ak_x","type":"t","url":"https://x/?\u0000","source":null},{"token":""},null]`,
	} {
		for op := range byte(14) {
			f.Add(op, seed)
		}
	}
	d := open(f)
	m := d.mint(f, root, readOnly)
	key := "/keys/" + m.Key.ID
	d.call(f, root, "POST", "/plans", `{"namespace":"default","name":"bronze"}`).into(f, 201,
		new(api.Plan))
	spare := "/keys/" + d.mint(f, root, readOnly).Key.ID
	operations := [...]struct{ method, path, contentType string }{
		{"POST", "/keys", api.JSON},
		{"PATCH", key, api.JSON},
		{"PATCH", key, api.MergePatch},
		{"POST", key + "/rotate?wait=0s", api.JSON},
		{"POST", spare + "/revoke?wait=0s", api.JSON},
		{"POST", "/keys/import", api.JSON},
		{"POST", "/keys/import?partial=1", api.NDJSON},
		{"POST", "/namespaces", api.JSON},
		{"PATCH", "/namespaces/default", api.JSON},
		{"POST", "/verify", api.JSON},
		{"POST", key + "/grants?wait=0s", api.JSON},
		{"POST", "/plans", api.JSON},
		{"PATCH", "/plans/default/bronze?wait=0s", api.MergePatch},
		{"POST", "/leaks", api.JSON},
	}
	f.Fuzz(func(t *testing.T, op byte, body string) {
		o := operations[int(op)%len(operations)]
		a := d.call(t, root, o.method, o.path, body, "Content-Type", o.contentType)
		if a.status >= 500 {
			t.Errorf("%s %s: %d %s", o.method, o.path, a.status, a.text)
		}
		if a.status >= 400 {
			a.problem(t)
		}
		if strings.Contains(a.text, m.Token) {
			t.Error("the answer repeats a token")
		}
	})
}

// FuzzTargets requests arbitrary targets.
func FuzzTargets(f *testing.F) {
	for _, seed := range []string{"/keys", "/keys?limit=2&q=%00&status=active", "/keys?cursor=1_2",
		"/keys?cursor=_", "/namespaces?cursor=MSBh", "/keys/%2e%2e", "/keys/a%2fb", "//keys",
		"/keys/\xff", "/?%zz", "/keys?q=%zz&q=1;2"} {
		f.Add(seed)
	}
	d := open(f)
	d.mint(f, root, readOnly)
	f.Fuzz(func(t *testing.T, target string) {
		r, ok := request(target)
		if !ok {
			t.Skip()
		}
		a := d.send(t, root, r)
		if a.status >= 500 || a.status < 200 || a.status >= 300 && a.status < 400 {
			t.Errorf("%q: %d %s", target, a.status, a.text)
		}
	})
}
