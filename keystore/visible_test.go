package keystore

import "testing"

func TestSees(t *testing.T) {
	record := func(grants ...Grant) *Record {
		k := &Key{ID: "k", Namespace: "home-1", Owner: "ada", Active: true, Grants: grants,
			Secrets: []Secret{{Digest: Digest{1}}}}
		return NewRecord(k, Digest{1})
	}
	grant := func(namespace, permission string) Grant {
		p, err := ParsePermission(permission)
		if err != nil {
			t.Fatal(err)
		}
		return Grant{Namespace: namespace, Permissions: []Permission{p}}
	}
	d := NewDirectory(&Policy{
		Namespaces: []Namespace{
			{ID: "org", Kind: "organization"}, {ID: "app", Kind: "app", Parent: "org"},
			{ID: "home-1", Kind: "workspace", Parent: "app"},
			{ID: "other", Kind: "workspace", Parent: "app"}, {ID: "unowned", Kind: "workspace"},
		},
		Members: []Member{{ID: "ada", Active: true,
			Grants: []Grant{{Namespace: "other", Permissions: []Permission{{Action: "*"}}}}}},
	})
	home, other := d.Namespace("home-1"), d.Namespace("other")
	list := Need{Class: Read, Resource: "workspaces", Operation: "list"}
	for _, c := range []struct {
		what string
		r    *Record
		ns   *Namespace
		kind string
		want bool
	}{
		{"its home", record(grant("home-1", "read")), home, "workspace", true},
		{"its home, where it may do something else", record(grant("home-1", "orders:read")), home,
			"workspace", true},
		{"its home, where it may do nothing", record(grant("other", "read")), home, "workspace",
			true},
		{"its home, of another kind", record(grant("home-1", "read")), home, "app", false},
		{"above its home", record(grant("home-1", "read")), d.Namespace("app"), "app", true},
		{"further above", record(grant("home-1", "read")), d.Namespace("org"), "organization",
			true},
		{"above, of another kind", record(grant("home-1", "read")), d.Namespace("app"), "workspace",
			false},
		{"where its owner may not", record(grant(AnyNamespace, "read")), d.Namespace("unowned"),
			"workspace", false},
		{"where it may list", record(grant("other", "workspaces:list")), other, "workspace", true},
		{"where it may read", record(grant("other", "read")), other, "workspace", true},
		{"where it may do something else", record(grant("other", "orders:read")), other,
			"workspace", false},
		{"where it may write", record(grant("other", "write")), other, "workspace", false},
		{"where it may nothing", record(grant("home-1", "*")), other, "workspace", false},
		{"of a key that may read everywhere", record(grant(AnyNamespace, "read")), other,
			"workspace", true},
		{"of another kind, of a key that may everything", record(grant(AnyNamespace, "*")), other,
			"app", false},
		{"none, of a key that may everything", record(grant(AnyNamespace, "*")), nil, "workspace",
			false},
	} {
		if got := c.r.Sees(d, c.ns, c.kind, list); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}
