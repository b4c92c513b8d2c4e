package admin_test

import (
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestEditGrants(t *testing.T) {
	d := open(t)
	for _, body := range []string{`{"id":"acme"}`, `{"id":"acme-eu"}`} {
		d.call(t, root, "POST", "/namespaces", body).into(t, 201, new(api.Namespace))
	}
	for _, body := range []string{`{"namespace":"*","name":"r","permissions":["x:op"]}`,
		`{"namespace":"*","name":"s","permissions":["y:op"]}`} {
		d.call(t, root, "POST", "/roles", body).into(t, 201, new(api.Role))
	}
	key := d.mint(t, root,
		`{"name":"a","namespace":"acme","permissions":["read","orders:write"],"roles":["r"]}`).Key
	path := "/keys/" + key.ID + "/grants"
	g := func(namespace string, permissions, roles []string) api.Grant {
		return api.Grant{Namespace: namespace, Permissions: permissions, Roles: roles}
	}
	none := []string{}
	for _, test := range []struct {
		body string
		want []api.Grant
	}{
		{`{"add":[{"permissions":["write"]}]}`,
			[]api.Grant{g("acme", []string{"orders:write", "read", "write"}, []string{"r"})}},
		{`{"add":[{"namespace":"acme","permissions":["read"],"roles":["r","s"]}]}`,
			[]api.Grant{g("acme", []string{"orders:write", "read", "write"}, []string{"r", "s"})}},
		{`{"remove":[{"access":"read_write","roles":["r"]}]}`,
			[]api.Grant{g("acme", []string{"orders:write"}, []string{"s"})}},
		{`{"add":[{"namespace":"acme-eu","access":"read_only"},
			{"namespace":"default","access":"read_only"}]}`,
			[]api.Grant{g("acme", []string{"orders:write"}, []string{"s"}),
				g("acme-eu", []string{"read"}, none), g("default", []string{"read"}, none)}},
		{`{"remove":[{"namespace":"acme-eu","permissions":["read"]}]}`,
			[]api.Grant{g("acme", []string{"orders:write"}, []string{"s"}),
				g("default", []string{"read"}, none)}},
		{`{"remove_namespaces":["acme"]}`, []api.Grant{g("default", []string{"read"}, none)}},
		{`{"remove_namespaces":["default"],"add":[{"roles":["r"]}]}`,
			[]api.Grant{g("acme", none, []string{"r"})}},
		{`{"add":[{"connected":true}]}`,
			[]api.Grant{{Namespace: "acme", Permissions: none, Roles: []string{"r"},
				Connected: true}}},
		{`{"remove":[{"connected":true}]}`, []api.Grant{g("acme", none, []string{"r"})}},
	} {
		var got api.KeyChanged
		d.call(t, root, "POST", path, test.body, "If-Match",
			fmt.Sprintf(`"%d"`, key.Version)).into(t, 200, &got)
		if key.Version++; !reflect.DeepEqual(got.Key.Grants, test.want) ||
			got.Key.Version != key.Version || !got.Propagation.Complete {
			t.Errorf("%s: %+v, want %+v", test.body, got, test.want)
		}
	}
	for _, test := range []struct{ body, field string }{
		{`{}`, "add"},
		{`{"add":[],"remove":null}`, "add"},
		{`{"add":[{}]}`, "add[0].permissions"},
		{`{"remove":[{"namespace":"acme"}]}`, "remove[0].permissions"},
		{`{"add":[{"permissions":["no such"]}]}`, "add[0].permissions[0]"},
		{`{"add":[{"access":"read_only","permissions":["read"]}]}`, "add[0].access"},
		{`{"add":[{"namespace":"nowhere","access":"read_only"}]}`, "grants[1].namespace"},
		{`{"add":[{"namespace":"acme-eu","connected":true}]}`, "add[0].permissions"},
		{`{"add":[{"namespace":"","access":"read_only"}]}`, "add[0].namespace"},
		{`{"add":[{"roles":["nobody"]}]}`, "grants[0].roles"},
		{`{"remove":[{"permissions":["read"]}]}`, "remove[0].permissions[0]"},
		{`{"remove":[{"roles":["s"]}]}`, "remove[0].roles[0]"},
		{`{"remove":[{"namespace":"acme-eu","permissions":["read"]}]}`, "remove[0].namespace"},
		{`{"remove_namespaces":[""]}`, "remove_namespaces[0]"},
		{`{"remove_namespaces":["acme","acme"]}`, "remove_namespaces[1]"},
		{`{"remove_namespaces":["acme"]}`, "permissions"}, // a key without any
		{`{"grants":[]}`, "grants"},
	} {
		if p := d.call(t, root, "POST", path, test.body).problem(t); p.Status != 422 ||
			len(p.Errors) == 0 || p.Errors[0].Field != test.field {
			t.Errorf("%s: %+v, want %s", test.body, p, test.field)
		}
	}
	if p := d.call(t, root, "POST", path, `{"add":[{"roles":["s"]}]}`, "If-Match",
		`"1"`).problem(t); p.Status != 412 {
		t.Errorf("an outdated version: %+v", p)
	}
	d.call(t, root, "PATCH", "/namespaces/acme", `{"edit_policy":"grow_only"}`).into(t, 200,
		new(api.NamespaceChanged))
	d.call(t, root, "POST", path, `{"add":[{"roles":["s"]}]}`).into(t, 200, new(api.KeyChanged))
	if p := d.call(t, root, "POST", path,
		`{"remove":[{"roles":["s"]}]}`).problem(t); p.Status != 422 || p.Code != "grow_only" {
		t.Errorf("a removal in a namespace with grow_only: %+v", p)
	}
	var log api.Page[api.AuditRow]
	d.call(t, root, "GET", "/audit?limit=1&action=key.edit&object="+key.ID, nil).into(t, 200, &log)
	if len(log.Items) != 1 {
		t.Errorf("audit log: %+v", log)
	}
}

// TestConcurrentGrantEdits adds twenty permissions concurrently and checks that none is lost.
func TestConcurrentGrantEdits(t *testing.T) {
	d := open(t)
	key := d.mint(t, root, readOnly).Key
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			a := d.call(t, root, "POST", "/keys/"+key.ID+"/grants",
				fmt.Sprintf(`{"add":[{"permissions":["r%d:read"]}]}`, i))
			if a.status != 200 {
				t.Errorf("%d %s", a.status, a.text)
			}
		})
	}
	group.Wait()
	d.call(t, root, "GET", "/keys/"+key.ID, nil).into(t, 200, &key)
	if n := len(key.Grants[0].Permissions); n != 21 {
		t.Errorf("%d permissions, want 21: %+v", n, key.Grants)
	}
}
