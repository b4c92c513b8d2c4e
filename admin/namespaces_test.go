package admin_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestNamespaceTree(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces",
		`{"id":"acme","kind":"account","reach":["workspace"]}`).into(t, 201, new(api.Namespace))
	var n api.Namespace
	d.call(t, root, "POST", "/namespaces",
		`{"id":"eu","kind":"workspace","parent":"acme","key_roles":["viewer"],"token_prefix":"ak"}`).
		into(t, 201, &n)
	if n.Parent == nil || *n.Parent != "acme" || !slices.Equal(n.KeyRoles, []string{"viewer"}) ||
		n.TokenPrefix == nil || *n.TokenPrefix != "ak" {
		t.Errorf("created: %+v", n)
	}
	if k := d.mint(t, root, `{"name":"CI","namespace":"eu"}`).Key; !slices.Equal(k.Grants[0].Roles,
		[]string{"viewer"}) {
		t.Errorf("a key does not have the roles of key_roles: %+v", k.Grants)
	}
	above := d.mint(t, root, `{"name":"CI","namespace":"acme","access":"read_only"}`)
	var v api.Verdict
	verify := func() string {
		d.call(t, root, "POST", "/verify",
			api.VerifyRequest{Token: above.Token, Namespace: "eu"}).into(t, 200, &v)
		return v.Outcome
	}
	if verify() != "ok" {
		t.Errorf("reach: %+v", v)
	}
	var done api.NamespaceChanged
	d.call(t, root, "PATCH", "/namespaces/eu",
		`{"parent":null,"reach":["x"],"key_roles":[],"token_prefix":null}`).into(t, 200, &done)
	if n := done.Namespace; n.Parent != nil || len(n.KeyRoles) != 0 || n.TokenPrefix != nil ||
		!slices.Equal(n.Reach, []string{"x"}) || verify() != "forbidden" {
		t.Errorf("moved: %+v, %+v", n, v)
	}
	d.call(t, root, "PATCH", "/namespaces/acme", `{"child_prefix":"acme-"}`).into(t, 200, &done)
	if n := done.Namespace; n.ChildPrefix == nil || *n.ChildPrefix != "acme-" {
		t.Errorf("child_prefix: %+v", n)
	}
	if p := d.call(t, root, "POST", "/namespaces",
		`{"id":"w9","parent":"acme"}`).problem(t); p.Status != 422 || p.Errors[0].Field != "id" {
		t.Errorf("an id without the prefix: %+v", p)
	}
	d.call(t, root, "POST", "/namespaces",
		`{"id":"acme-w9","parent":"acme","child_prefix":"acme-w9-"}`).into(t, 201, &n)
	if n.ChildPrefix == nil || *n.ChildPrefix != "acme-w9-" {
		t.Errorf("child_prefix of a new one: %+v", n)
	}
	if p := d.call(t, root, "PATCH", "/namespaces/eu",
		`{"parent":"acme-w9"}`).problem(t); p.Status != 422 || p.Code != "invalid_fields" {
		t.Errorf("moved below a parent whose child_prefix its id lacks: %+v", p)
	}
	d.call(t, root, "PATCH", "/namespaces/acme", `{"child_prefix":null}`).into(t, 200, &done)
	if done.Namespace.ChildPrefix != nil {
		t.Errorf("child_prefix is set after null: %+v", done.Namespace)
	}
	if p := d.call(t, root, "PATCH", "/namespaces/acme",
		`{"parent":"acme"}`).problem(t); p.Status != 422 {
		t.Errorf("a cycle: %+v", p)
	}
}

// TestSearchNamespaces finds namespaces by a part of the id or name.
func TestSearchNamespaces(t *testing.T) {
	d := open(t)
	for _, body := range []string{`{"id":"tenant-01","name":"Zoë AG"}`, `{"id":"tenant-02"}`,
		`{"id":"other"}`} {
		d.call(t, root, "POST", "/namespaces", body).into(t, 201, new(api.Namespace))
	}
	for q, want := range map[string]string{"TENANT": "tenant-02 tenant-01", "-01": "tenant-01",
		"zoË": "tenant-01", "nothing": ""} {
		var list api.Namespaces
		d.call(t, root, "GET", "/namespaces?q="+url.QueryEscape(q), nil).into(t, 200, &list)
		var ids []string
		for _, ns := range list.Items {
			ids = append(ids, ns.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: %q, want %q", q, got, want)
		}
	}
	var list api.Namespaces
	d.call(t, root, "GET", "/namespaces?q=tenant&limit=1", nil).into(t, 200, &list)
	if len(list.Items) != 1 || list.NextCursor == nil {
		t.Errorf("the first page: %+v", list)
	}
}
