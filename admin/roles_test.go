package admin_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestRole(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	var role api.Role
	a := d.call(t, root, "POST", "/roles",
		`{"namespace":"acme","name":"billing","permissions":["orders:read","invoices:*"]}`)
	a.into(t, 201, &role)
	want := api.Role{Namespace: "acme", Name: "billing",
		Permissions: []string{"invoices:*", "orders:read"}, CreatedAt: role.CreatedAt, Version: 1}
	if !reflect.DeepEqual(role, want) || role.CreatedAt == nil ||
		a.header.Get("Location") != api.Prefix+"/roles/acme/billing" {
		t.Errorf("got %+v, want %+v", role, want)
	}
	d.call(t, root, "POST", "/roles",
		`{"namespace":"*","name":"auditor","permissions":["admin.audit:read"]}`).into(t, 201,
		new(api.Role))

	// A change of the role takes effect at once for its keys.
	key := d.mint(t, root,
		`{"name":"ERP","namespace":"acme","roles":["billing"],
			"new_roles":[{"name":"shipping","permissions":["parcels:read"]}]}`)
	if g := key.Key.Grants; len(g) != 1 ||
		!slices.Equal(g[0].Roles, []string{"billing", "shipping"}) || len(g[0].Permissions) != 0 ||
		key.Key.Access != "custom" {
		t.Errorf("grants: %+v", g)
	}
	outcome := func(permission string) string {
		t.Helper()
		var v api.Verdict
		d.call(t, root, "POST", "/verify",
			api.VerifyRequest{Token: key.Token, Permission: permission}).into(t, 200, &v)
		return v.Outcome
	}
	if outcome("orders:read") != "ok" || outcome("parcels:read") != "ok" ||
		outcome("parcels:write") != "forbidden" {
		t.Error("the roles grant other permissions")
	}
	var done api.RoleChanged
	d.call(t, root, "PATCH", "/roles/acme/billing",
		`{"namespace":"acme","name":"billing","permissions":["invoices:read"]}`, "If-Match",
		`"1"`).into(t, 200, &done)
	if done.Role.Version != 2 || !done.Propagation.Complete ||
		outcome("orders:read") != "forbidden" {
		t.Errorf("edited: %+v", done)
	}
	d.call(t, root, "PATCH", "/roles/acme/billing", `{}`).into(t, 200, &done)
	if !slices.Equal(done.Role.Permissions, []string{"invoices:read"}) {
		t.Errorf("an empty patch: %+v", done.Role)
	}
	var edited api.KeyChanged
	d.call(t, root, "PATCH", "/keys/"+key.Key.ID,
		`{"roles":["shipping"],"new_roles":[{"name":"returns","permissions":["parcels:write"]}]}`).
		into(t, 200, &edited)
	if outcome("parcels:write") != "ok" || outcome("invoices:read") != "forbidden" {
		t.Errorf("other roles: %+v", edited.Key.Grants)
	}
	if p := d.call(t, root, "DELETE", "/roles/acme/shipping", nil).problem(t); p.Code != "in_use" {
		t.Errorf("in use: %+v", p)
	}
	d.call(t, root, "DELETE", "/roles/acme/billing", nil).into(t, 200, &done)

	var names []string
	for path := "/roles?limit=2"; path != ""; {
		var list api.Roles
		d.call(t, root, "GET", path, nil).into(t, 200, &list)
		path = ""
		for _, r := range list.Items {
			names = append(names, r.Namespace+"/"+r.Name)
		}
		if list.NextCursor != nil {
			path = "/roles?limit=2&cursor=" + *list.NextCursor
		}
	}
	if want := []string{"acme/returns", "acme/shipping", "*/auditor", "*/client-admin",
		"*/developer", "*/viewer"}; !slices.Equal(names, want) {
		t.Errorf("listed %v, want %v", names, want)
	}
	d.call(t, root, "GET", "/roles/%2A/viewer", nil).into(t, 200, &role)
	if !role.Builtin || role.CreatedAt != nil {
		t.Errorf("built in: %+v", role)
	}
}

func TestRoleDescription(t *testing.T) {
	d := open(t)
	var role api.Role
	d.call(t, root, "POST", "/roles",
		`{"namespace":"default","name":"r","description":"Réads","permissions":["read"]}`).into(t,
		201, &role)
	if role.Description != "Réads" {
		t.Errorf("%+v", role)
	}
	m := d.mint(t, root,
		`{"name":"k","new_roles":[{"name":"s","description":"Searches","permissions":["x:search"]}]}`)
	d.call(t, root, "GET", "/roles/default/s", nil).into(t, 200, &role)
	if role.Description != "Searches" || len(m.Key.Grants[0].Roles) != 1 {
		t.Errorf("%+v", role)
	}
	for _, test := range []struct{ patch, description, permissions string }{
		{`{"description":"Reads and writes"}`, "Reads and writes", "[read]"},
		{`{"permissions":["write"]}`, "Reads and writes", "[write]"},
		{`{"description":null}`, "", "[write]"},
		{`{"description":"x","permissions":["read"]}`, "x", "[read]"},
		{`{"description":""}`, "", "[read]"},
		{`{"description":"y"}`, "y", "[read]"},
	} {
		var got api.RoleChanged
		d.call(t, root, "PATCH", "/roles/default/r", test.patch).into(t, 200, &got)
		d.call(t, root, "GET", "/roles/default/r", nil).into(t, 200, &role)
		if role.Description != test.description ||
			fmt.Sprint(role.Permissions) != test.permissions || got.Role.Version != role.Version {
			t.Errorf("%s: %+v", test.patch, role)
		}
	}
	for _, patch := range []string{`{"description":"` + strings.Repeat("x", 1001) + `"}`,
		`{"description":"a\nb"}`, `{"description":1}`, `{"description":"` + m.Token + `"}`} {
		if p := d.call(t, root, "PATCH", "/roles/default/r", patch).problem(t); p.Status != 422 ||
			len(p.Errors) == 0 || p.Errors[0].Field != "description" {
			t.Errorf("%.40s: %+v", patch, p)
		}
	}
	if a := d.call(t, root, "GET", "/audit?limit=1&action=role.edit&object=r",
		nil); !strings.Contains(a.text, `"description":"y"`) {
		t.Errorf("audit log: %s", a.text)
	}
	// A caller that may not give the permissions of a role may not edit its description either.
	minter := d.caller(t, d.mint(t, root, `{"name":"m","permissions":["admin.roles:*"]}`).Token)
	if p := d.call(t, minter, "PATCH", "/roles/default/r",
		`{"description":"harmless"}`).problem(t); p.Status != 403 || p.Code != "exceeds_caller" {
		t.Errorf("%+v", p)
	}
	d.call(t, root, "GET", "/roles/%2A/viewer", nil).into(t, 200, &role)
	if role.Description == "" {
		t.Error("the built-in roles have no description")
	}
}
