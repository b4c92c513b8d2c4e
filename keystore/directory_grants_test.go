package keystore

import (
	"slices"
	"testing"
)

// grantsDirectory has acme, which reaches its child app, and a role r with orders:read.
func grantsDirectory() *Directory {
	return NewDirectory(&Policy{
		Namespaces: []Namespace{{ID: "acme", Reach: []string{"app"}},
			{ID: "app", Kind: "app", Parent: "acme"}, {ID: "team", Parent: "acme"},
			{ID: "loop", Parent: "loop"}},
		Roles: []Role{{Namespace: AnyNamespace, Name: "r",
			Permissions: MustParsePermissions("orders:read")}},
		Members: []Member{{ID: "ada", Active: true, Grants: []Grant{{Namespace: "acme"}}},
			{ID: "bob"}},
	})
}

func TestGrantsOf(t *testing.T) {
	d := grantsDirectory()
	if d.GrantsOf(RootMember) != nil {
		t.Error("root is bounded")
	}
	if got := d.GrantsOf("ada"); got == NoGrants || got == nil {
		t.Error("an active member has no grants")
	}
	for _, id := range []string{"bob", "eve"} {
		if d.GrantsOf(id) != NoGrants {
			t.Errorf("%s has grants", id)
		}
	}
}

func TestSetFor(t *testing.T) {
	d := grantsDirectory()
	read := MustParsePermissions("read")
	admin := MustParsePermissions("admin.keys:read", "write")
	for _, test := range []struct {
		name      string
		grant     Grant
		namespace string
		wide, key bool
		want      string
	}{
		{"the namespace", Grant{Namespace: "acme", Permissions: read}, "acme", false, true, "read"},
		{"another", Grant{Namespace: "team", Permissions: read}, "acme", false, true, ""},
		{"a child", Grant{Namespace: "acme", Permissions: read}, "team", false, true, ""},
		{"a connected child", Grant{Namespace: "acme", Permissions: read, Connected: true}, "team",
			false, true, "read"},
		{"a reached child", Grant{Namespace: "acme", Permissions: admin}, "app", false, true, "write"},
		{"not reached by members", Grant{Namespace: "acme", Permissions: admin}, "app", false, false,
			""},
		{"everywhere", Grant{Namespace: "*", Permissions: read}, "team", false, true, "read"},
		{"everywhere, unreadable", Grant{Namespace: "*", Permissions: read}, "loop", false, true,
			"read"},
		{"unreadable", Grant{Namespace: "loop", Permissions: read}, "loop", false, true, ""},
		{"its role", Grant{Namespace: "acme", Roles: []string{"r", "gone"}}, "acme", false, true,
			"orders:read"},
		{"all children", Grant{Namespace: "acme", Permissions: read, Connected: true}, "acme", true,
			true, "read"},
		{"not all children", Grant{Namespace: "acme", Permissions: read}, "acme", true, true, ""},
		{"all children of another", Grant{Namespace: "team", Permissions: read, Connected: true},
			"acme", true, true, ""},
		{"all children, unreadable", Grant{Namespace: "loop", Permissions: read, Connected: true},
			"loop", true, true, ""},
		{"everywhere, all children", Grant{Namespace: "*", Permissions: read}, "acme", true, true,
			"read"},
		{"all namespaces", Grant{Namespace: "*", Permissions: read}, AnyNamespace, false, true,
			"read"},
		{"one of all namespaces", Grant{Namespace: "acme", Permissions: read}, AnyNamespace, false,
			true, ""},
	} {
		h := CompileGrants([]Grant{test.grant}, "")
		if got := d.SetFor(h, test.namespace, test.wide, test.key).String(); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	both := CompileGrants([]Grant{{Namespace: "acme", Permissions: read},
		{Namespace: "*", Permissions: MustParsePermissions("write")}}, "")
	if got := d.SetFor(both, "acme", false, true).String(); got != "read,write" {
		t.Errorf("two grants: %q", got)
	}
}

// TestAdds checks which grants are more than those before.
func TestAdds(t *testing.T) {
	d := grantsDirectory()
	before := []Grant{{Namespace: "acme", Permissions: MustParsePermissions("read", "orders:*"),
		Roles: []string{"viewer"}}, {Namespace: "team", Connected: true}}
	for _, test := range []struct {
		name  string
		grant Grant
		want  bool
	}{
		{"the same", before[0], false},
		{"less", Grant{Namespace: "acme", Permissions: MustParsePermissions("orders:read")}, false},
		{"a permission", Grant{Namespace: "acme", Permissions: MustParsePermissions("write")}, true},
		{"a role that is covered now", Grant{Namespace: "acme", Roles: []string{"r"}}, true},
		{"the same role", Grant{Namespace: "acme", Roles: []string{"viewer"}}, false},
		{"children", Grant{Namespace: "acme", Connected: true}, true},
		{"no children", Grant{Namespace: "team"}, false},
		{"the same children", Grant{Namespace: "team", Connected: true}, false},
		{"another namespace", Grant{Namespace: "app"}, true},
	} {
		if got := d.Adds(before, []Grant{test.grant}); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestTouched(t *testing.T) {
	d := grantsDirectory()
	for _, test := range []struct {
		grant Grant
		key   bool
		want  []string
	}{
		{Grant{Namespace: "acme"}, false, []string{"acme"}},
		{Grant{Namespace: "acme"}, true, []string{"acme", "app"}},
		{Grant{Namespace: "acme", Connected: true}, false, []string{"acme", "app", "team"}},
		{Grant{Namespace: "acme", Connected: true}, true, []string{"acme", "app", "team"}},
		{Grant{Namespace: "team", Connected: true}, true, []string{"team"}},
	} {
		got := d.Touched(CompileGrants([]Grant{test.grant}, ""), test.key)
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v, want %v", test.grant, got, test.want)
		}
	}
}
