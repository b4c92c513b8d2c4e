package admin_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// TestKeyCallers checks what keys with different permissions may do, and that a refusal names the
// missing permission.
func TestKeyCallers(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	tokens := map[string]string{}
	ids := map[string]string{}
	for name, body := range map[string]string{
		"plain":   `{"name":"plain","access":"read_write"}`,
		"star":    `{"name":"star","permissions":["*"]}`,
		"reader":  `{"name":"reader","permissions":["admin:read"]}`,
		"minter":  `{"name":"minter","permissions":["read","admin.keys:create","admin.keys:read"]}`,
		"manager": `{"name":"manager","permissions":["*","admin:*"]}`,
		"acme":    `{"name":"acme","namespace":"acme","permissions":["*","admin:*"]}`,
		"watcher": `{"name":"watcher","permissions":["read"],
			"grants":[{"namespace":"*","permissions":["admin.nodes:read"]}]}`,
		"victim": `{"name":"victim","access":"read_only"}`,
	} {
		m := d.mint(t, root, body)
		tokens[name], ids[name] = m.Token, m.Key.ID
	}
	for _, test := range []struct {
		who, method, path, body string
		status                  int
		code, needed            string // of the problem
	}{
		{"plain", "GET", "/keys", "", 403, "insufficient_permission", "admin.keys:read"},
		{"plain", "POST", "/keys", readOnly, 403, "insufficient_permission", "admin.keys:create"},
		{"plain", "POST", "/keys", "not JSON", 403, "insufficient_permission", "admin.keys:create"},
		{"plain", "POST", "/keys/import", "not JSON", 403, "insufficient_permission",
			"admin.keys:create"},
		{"plain", "PATCH", "/keys/{victim}", `{}`, 403, "insufficient_permission",
			"admin.keys:update"},
		{"plain", "DELETE", "/keys/{victim}", "", 403, "insufficient_permission",
			"admin.keys:delete"},
		{"plain", "POST", "/keys/{victim}/revoke", "", 403, "insufficient_permission",
			"admin.keys:revoke"},
		{"plain", "POST", "/keys/{victim}/rotate", "", 403, "insufficient_permission",
			"admin.keys:update"},
		{"plain", "POST", "/keys/{victim}/grants", `{}`, 403, "insufficient_permission",
			"admin.keys:update"},
		{"manager", "POST", "/keys/{victim}/grants", `{"add":[{"access":"read_write"}]}`, 200, "",
			""},
		{"manager", "POST", "/keys/{victim}/grants",
			`{"add":[{"namespace":"acme","access":"read_only"}]}`, 403, "exceeds_caller", ""},
		{"manager", "POST", "/keys/{manager}/grants", `{"remove_namespaces":["default"]}`, 403,
			"own_key", ""},
		{"acme", "POST", "/keys/{victim}/grants", `{"remove_namespaces":["default"]}`, 404,
			"not_found", ""},
		{"plain", "GET", "/namespaces", "", 403, "insufficient_permission",
			"admin.namespaces:read"},
		{"plain", "POST", "/namespaces", `{"id":"x"}`, 403, "insufficient_permission",
			"admin.namespaces:create"},
		{"plain", "DELETE", "/namespaces/acme", "", 403, "insufficient_permission",
			"admin.namespaces:delete"},
		{"plain", "PATCH", "/namespaces/acme", `{}`, 403, "insufficient_permission",
			"admin.namespaces:update"},
		{"plain", "POST", "/verify", `{"token":"x"}`, 403, "insufficient_permission",
			"admin.keys:read"},
		{"plain", "GET", "/nodes", "", 403, "insufficient_permission", "admin.nodes:read"},
		{"acme", "GET", "/nodes", "", 403, "insufficient_permission", "admin.nodes:read"},
		{"watcher", "GET", "/nodes", "", 200, "", ""},
		{"plain", "GET", "/self", "", 200, "", ""},
		{"star", "GET", "/keys", "", 403, "insufficient_permission", "admin.keys:read"},
		{"reader", "GET", "/keys", "", 200, "", ""},
		{"reader", "GET", "/keys/{victim}", "", 200, "", ""},
		{"reader", "GET", "/namespaces", "", 200, "", ""},
		{"reader", "POST", "/keys", readOnly, 403, "insufficient_permission", "admin.keys:create"},
		{"minter", "POST", "/keys", readOnly, 201, "", ""},
		{"minter", "POST", "/keys", `{"name":"x","access":"read_write"}`, 403, "exceeds_caller",
			""},
		{"minter", "POST", "/keys", `{"name":"x","namespace":"acme","access":"read_only"}`, 403,
			"insufficient_permission", "admin.keys:create"},
		{"minter", "POST", "/keys",
			`{"name":"x","grants":[{"namespace":"*","access":"read_only"}]}`, 403, "exceeds_caller",
			""},
		{"manager", "PATCH", "/keys/{victim}", `{"name":"edited"}`, 200, "", ""},
		{"manager", "PATCH", "/keys/{manager}", `{"name":"edited"}`, 403, "own_key", ""},
		{"manager", "POST", "/keys/{manager}/rotate", "", 403, "own_key", ""},
		{"acme", "GET", "/keys/{victim}", "", 404, "not_found", ""},
		{"acme", "PATCH", "/keys/{victim}", `{}`, 404, "not_found", ""},
		{"acme", "POST", "/keys/{victim}/revoke", "", 404, "not_found", ""},
		{"acme", "GET", "/namespaces/default", "", 404, "not_found", ""},
		{"acme", "POST", "/namespaces", `{"id":"x"}`, 403, "insufficient_permission",
			"admin.namespaces:create"},
		{"plain", "POST", "/self/revoke", `{"reason":"done"}`, 200, "", ""},
	} {
		path := test.path
		for name, id := range ids {
			path = strings.ReplaceAll(path, "{"+name+"}", id)
		}
		var body any
		if test.body != "" {
			body = test.body
		}
		a := d.call(t, d.caller(t, tokens[test.who]), test.method, path, body)
		if a.status != test.status {
			t.Errorf("%s: %s %s: %d, want %d: %s", test.who, test.method, test.path, a.status,
				test.status, a.text)
			continue
		}
		if test.code != "" {
			if p := a.problem(t); p.Code != test.code || p.Needed != test.needed {
				t.Errorf("%s: %s %s: %s, want %s %s", test.who, test.method, test.path, a.text,
					test.code, test.needed)
			}
		}
	}

	var list api.Keys
	d.call(t, d.caller(t, tokens["acme"]), "GET", "/keys", nil).into(t, 200, &list)
	if len(list.Items) != 1 || list.Items[0].Name != "acme" {
		t.Errorf("acme sees %d keys, want its own alone", len(list.Items))
	}
	var v api.Verdict
	d.call(t, d.caller(t, tokens["acme"]), "POST", "/verify",
		api.VerifyRequest{Token: tokens["victim"]}).into(t, 200, &v)
	if v.Outcome != "unknown" || v.Key != nil {
		t.Errorf("acme verifies a key of another namespace: %+v", v)
	}
}

func TestSelf(t *testing.T) {
	d := open(t)
	a := d.call(t, root, "GET", "/self", nil)
	if want := `{"member":"root","permissions":{"*":["*","admin:*"]}}`; strings.TrimSpace(a.text) != want {
		t.Errorf("root: %s, want %s", a.text, want)
	}
	m := d.mint(t, root,
		`{"name":"CI","permissions":["orders:read","orders:search"],
			"grants":[{"namespace":"*","access":"read_only"}]}`)
	c := d.caller(t, m.Token)
	var self api.Self
	a = d.call(t, c, "GET", "/self", nil)
	a.into(t, 200, &self)
	if self.Key == nil || self.Key.ID != m.Key.ID || self.Member != nil {
		t.Errorf("self: %s", a.text)
	}
	if want := map[string][]string{"default": {"orders:read", "orders:search", "read"},
		"*": {"read"}}; !reflect.DeepEqual(self.Permissions, want) {
		t.Errorf("permissions %v, want %v", self.Permissions, want)
	}
	var changed api.KeyChanged
	d.call(t, c, "POST", "/self/revoke", nil).into(t, 200, &changed)
	if changed.Key.Status != "revoked" || *changed.Key.RevokedBy != m.Key.ID ||
		!changed.Propagation.Complete {
		t.Errorf("a key that has revoked itself: %+v", changed)
	}
	// The keys that it created are revoked with it on request.
	m = d.mint(t, root, `{"name":"minter","permissions":["read","admin.keys:create"]}`)
	child := d.mint(t, d.caller(t, m.Token), readOnly)
	d.call(t, root, "POST", "/keys/"+m.Key.ID+"/revoke", `{"made":true,"reason":"leaked"}`).into(t,
		200, &changed)
	var k api.Key
	d.call(t, root, "GET", "/keys/"+child.Key.ID, nil).into(t, 200, &k)
	if k.Status != "revoked" || k.CreatedBy != m.Key.ID {
		t.Errorf("created by a revoked key: %+v", k)
	}
}
