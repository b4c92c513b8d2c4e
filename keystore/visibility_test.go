package keystore

import "testing"

func TestMaySee(t *testing.T) {
	recordOf := func(owner string, grants ...Grant) *Record {
		k := &Key{ID: "k", Namespace: "home-1", Owner: owner, Active: true, Grants: grants,
			Secrets: []Secret{{Digest: Digest{1}}}}
		return NewRecord(k, Digest{1})
	}
	record := func(grants ...Grant) *Record { return recordOf("ada", grants...) }
	grant := func(namespace, permission string) Grant {
		p, err := ParsePermission(permission)
		if err != nil {
			t.Fatal(err)
		}
		return Grant{Namespace: namespace, Permissions: []Permission{p}}
	}
	all := []Grant{{Namespace: "other", Permissions: []Permission{{Action: "*"}}}}
	d := NewDirectory(&Policy{
		Namespaces: []Namespace{
			{Kind: "app"}, // edited with SQL
			{ID: "org", Kind: "organization"}, {ID: "app", Kind: "app", Parent: "org"},
			{ID: "home-1", Kind: "workspace", Parent: "app"},
			{ID: "other", Kind: "workspace", Parent: "app"}, {ID: "unowned", Kind: "workspace"},
		},
		Members: []Member{{ID: "ada", Active: true, Grants: all}, {ID: "bob", Grants: all}},
	})
	home, other := d.Namespace("home-1"), d.Namespace("other")
	list := Need{Class: Read, Resource: "workspaces", Operation: "list"}
	for _, c := range []struct {
		name string
		r    *Record
		ns   *Namespace
		kind string
		want bool
	}{
		{"its home", record(grant("home-1", "read")), home, "workspace", true},
		{"its home, with another permission",
			record(grant("home-1", "orders:read")), home, "workspace", true},
		{"its home, without permissions", record(grant("other", "read")), home, "workspace", true},
		{"its home, of another kind", record(grant("home-1", "read")), home, "app", false},
		{"parent of its home", record(grant("home-1", "read")), d.Namespace("app"), "app", true},
		{"grandparent of its home",
			record(grant("home-1", "read")), d.Namespace("org"), "organization", true},
		{"parent of its home, of another kind",
			record(grant("home-1", "read")), d.Namespace("app"), "workspace", false},
		{"owner lacks the permission",
			record(grant(AnyNamespace, "read")), d.Namespace("unowned"), "workspace", false},
		{"may list", record(grant("other", "workspaces:list")), other, "workspace", true},
		{"may read", record(grant("other", "read")), other, "workspace", true},
		{"another permission", record(grant("other", "orders:read")), other, "workspace", false},
		{"may write", record(grant("other", "write")), other, "workspace", false},
		{"no permission", record(grant("home-1", "*")), other, "workspace", false},
		{"may read in all namespaces",
			record(grant(AnyNamespace, "read")), other, "workspace", true},
		{"another kind, everything granted", record(grant(AnyNamespace, "*")), other, "app", false},
		{"owner is disabled", recordOf("bob", grant("other", "*")), other, "workspace", false},
		{"a namespace without an id", record(grant("home-1", "read")), d.Namespace(""), "app", false},
		{"its home does not exist", NewRecord(&Key{Namespace: "gone", Owner: "ada",
			Secrets: []Secret{{}}}, Digest{}), other, "workspace", false},
		{"unknown namespace, everything granted",
			record(grant(AnyNamespace, "*")), nil, "workspace", false},
	} {
		if got := c.r.MaySee(d, c.ns, c.kind, list); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
