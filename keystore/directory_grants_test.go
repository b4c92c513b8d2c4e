package keystore

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// grantsDirectory has acme, which reaches its child app, and a role r with orders:read.
func grantsDirectory() *Directory {
	return NewDirectory(&Policy{
		Namespaces: []Namespace{{ID: "acme", Reach: []string{"app"}},
			{ID: "app", Kind: "app", Parent: "acme"}, {ID: "team", Parent: "acme"},
			{ID: "loop", Parent: "loop"}, {ID: "bad", Reach: []string{"app"}, Unreadable: "bad JSON"},
			{ID: "below", Kind: "app", Parent: "bad"}},
		Roles: []Role{{Namespace: AnyNamespace, Name: "r",
			Permissions: MustParsePermissions("orders:read")}},
		Members: []Member{{ID: "ada", Active: true, Grants: []Grant{{Namespace: "acme"}}},
			{ID: "bob"}},
	})
}

func TestGrantsOf(t *testing.T) {
	d := grantsDirectory()
	if d.GrantsOf(RootMember) != nil {
		t.Error("root has limits")
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
		{"the child of an unreadable one", Grant{Namespace: "bad", Permissions: read,
			Connected: true}, "below", false, true, ""},
		{"reached from an unreadable one", Grant{Namespace: "bad", Permissions: read}, "below", false,
			true, ""},
		{"its role", Grant{Namespace: "acme", Roles: []string{"r", "gone"}}, "acme", false, true,
			"orders:read"},
		{"all children", Grant{Namespace: "acme", Permissions: read, Connected: true}, "acme", true,
			true, "read"},
		{"not all children", Grant{Namespace: "acme", Permissions: read}, "acme", true, true, ""},
		{"all children of another", Grant{Namespace: "team", Permissions: read, Connected: true},
			"acme", true, true, ""},
		{"all children, unreadable", Grant{Namespace: "loop", Permissions: read, Connected: true},
			"loop", true, true, ""},
		{"all children of one that does not exist", Grant{Namespace: "gone", Permissions: read,
			Connected: true}, "gone", false, true, "read"},
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

// TestAdds checks which grants give more than those before.
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

// TestAdded checks that a grant is compared only with one of the same namespace, which must be
// connected if the grant is.
func TestAdded(t *testing.T) {
	d := grantsDirectory()
	read := MustParsePermissions("read")
	for _, test := range []struct {
		name          string
		before, after Grant
		want          int
	}{
		{"the same", Grant{Namespace: "acme", Permissions: read},
			Grant{Namespace: "acme", Permissions: read}, 0},
		{"in another namespace", Grant{Namespace: "team", Permissions: read},
			Grant{Namespace: "acme", Permissions: read}, 1},
		{"in children too", Grant{Namespace: "acme", Permissions: read},
			Grant{Namespace: "acme", Permissions: read, Connected: true}, 1},
		{"no longer in children", Grant{Namespace: "acme", Permissions: read, Connected: true},
			Grant{Namespace: "acme", Permissions: read}, 0},
	} {
		if got := d.Added([]Grant{test.before}, &test.after); len(got) != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestEqualGrantsShareMemory(t *testing.T) {
	grants := []Grant{{Namespace: "acme", Permissions: MustParsePermissions("read")}}
	ada := CompileGrants(grants, "ada")
	if CompileGrants(slices.Clone(grants), "ada") != ada {
		t.Error("equal grants are compiled twice")
	}
	if CompileGrants(grants, "bob") == ada {
		t.Error("another owner shares the grants")
	}
}

// TestOtherGrantsShareNothing compiles grants whose texts are equal if they are only joined. Names
// are as in rows that were edited by hand.
func TestOtherGrantsShareNothing(t *testing.T) {
	read := MustParsePermissions("read")
	for name, test := range map[string][2][]Grant{
		"one role or two": {{{Namespace: "acme", Roles: []string{"a,b"}}},
			{{Namespace: "acme", Roles: []string{"a", "b"}}}},
		"one grant or two": {{{Namespace: "acme", Roles: []string{"a false b read "}}},
			{{Namespace: "acme", Roles: []string{"a"}}, {Namespace: "b", Permissions: read}}},
	} {
		if CompileGrants(test[0], "ada") == CompileGrants(test[1], "ada") {
			t.Errorf("%s: they share one value", name)
		}
	}
	grants := []Grant{{Namespace: "acme", Permissions: read}}
	if CompileGrants(grants, "ada acme read  false") == CompileGrants(slices.Concat(grants, grants),
		"ada") {
		t.Error("an owner or a grant: they share one value")
	}
}

func TestCompiledGrantsSize(t *testing.T) {
	if got := (*CompiledGrants)(nil).Size(); got != 0 {
		t.Errorf("nil: %d bytes", got)
	}
	size := func(grants ...Grant) int64 { return CompileGrants(grants, "").Size() }
	none := size()
	one := size(Grant{Namespace: "acme"})
	if none < 200 || one < none+100 {
		t.Errorf("%d bytes without grants, %d with one", none, one)
	}
	if got := size(Grant{Namespace: "acme"}, Grant{Namespace: "team"}); got < none+200 {
		t.Errorf("two grants: %d bytes", got)
	}
	long := strings.Repeat("x", 100)
	if got := size(Grant{Namespace: "acme", Roles: []string{long}}); got != one+312 {
		t.Errorf("a text of 100 bytes, after its length: %d bytes instead of %d", got, one)
	}
	x, y := MustParsePermissions("a:x"), MustParsePermissions("a:y")
	if got := size(Grant{Namespace: "acme", Permissions: x},
		Grant{Namespace: "team", Permissions: y}); got < none+200+800 {
		t.Errorf("two grants with a permission each: %d bytes", got)
	}
}

func TestExplain(t *testing.T) {
	d := NewDirectory(&Policy{
		Namespaces: []Namespace{{ID: "acme"}, {ID: "loop", Parent: "loop"}},
		Roles: []Role{{Namespace: "acme", Name: "r",
			Permissions: MustParsePermissions("read", "write")}},
		Members: []Member{{ID: "ada", Active: true,
			Grants: []Grant{{Namespace: "*", Permissions: MustParsePermissions("read")}}}},
	})
	grants := []Grant{
		{Namespace: "acme", Permissions: MustParsePermissions("read"), Roles: []string{"r"}},
		{Namespace: "loop", Permissions: MustParsePermissions("read")},
	}
	read, write := Permission{Action: "read"}, Permission{Action: "write"}
	for _, test := range []struct {
		owner     string
		effective []Permission
		cut       bool // whether the owner cuts write
	}{
		{RootMember, []Permission{read, write}, false},
		{"ada", []Permission{read}, true},
	} {
		want := []EffectiveGrant{
			{Namespace: "acme", Effective: test.effective, Sources: []Source{
				{Permission: read, Own: true, Roles: []string{"r"}},
				{Permission: write, Roles: []string{"r"}, Cut: test.cut},
			}},
			{Namespace: "loop", Sources: []Source{{Permission: read, Own: true, Cut: true}}},
		}
		if got := d.Explain(&Key{Owner: test.owner, Grants: grants}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", test.owner, got, want)
		}
	}
}

// TestResolvedSetsAreBounded checks that entitlements are cached for a limited number of
// namespaces.
func TestResolvedSetsAreBounded(t *testing.T) {
	var p Policy
	for i := range 3 * maxResolved {
		p.Namespaces = append(p.Namespaces, Namespace{ID: fmt.Sprint("n", i)})
	}
	d := NewDirectory(&p)
	h := CompileGrants([]Grant{{Namespace: "*"}}, RootMember)
	most := 0
	for ns := range d.Namespaces() {
		h.under(d, ns)
		most = max(most, 1+len(h.resolved.Load().others))
	}
	if most != maxResolved {
		t.Errorf("%d sets, want %d", most, maxResolved)
	}
}

func TestEverywhere(t *testing.T) {
	for _, test := range []struct {
		grants []Grant
		want   bool
	}{
		{nil, false}, {[]Grant{{Namespace: "acme"}}, false},
		{[]Grant{{Namespace: "acme"}, {Namespace: AnyNamespace}}, true},
	} {
		if got := CompileGrants(test.grants, "").Everywhere(); got != test.want {
			t.Errorf("%+v: %v", test.grants, got)
		}
	}
}

// TestGrantsOfSeveral checks that the grants of several members give together what each of them
// gives, at a cost that hardly depends on the number of grants.
func TestGrantsOfSeveral(t *testing.T) {
	p := &Policy{Namespaces: []Namespace{{ID: "none"}, {ID: "child", Parent: "n7"}}}
	var ids []string
	for i := range 50 {
		m := Member{ID: fmt.Sprint("m", i), Active: true}
		for j := range 100 {
			m.Grants = append(m.Grants, Grant{Namespace: fmt.Sprint("n", 100*(i%25)+j),
				Permissions: MustParsePermissions(fmt.Sprintf("r%d:read", i)), Connected: i%2 == 0})
		}
		p.Members, ids = append(p.Members, m), append(ids, m.ID)
	}
	for i := range 2500 {
		p.Namespaces = append(p.Namespaces, Namespace{ID: fmt.Sprint("n", i)})
	}
	d := NewDirectory(p)
	one, all := d.GrantsOf(ids[0]), d.GrantsOf(ids...)
	for _, namespace := range []string{"n7", "child", "n2499", "none", "gone", "*"} {
		for _, wide := range []bool{false, true} {
			var parts []*Set
			for _, id := range ids {
				parts = append(parts, d.SetFor(d.GrantsOf(id), namespace, wide, false))
			}
			got, want := d.SetFor(all, namespace, wide, false), Union(parts...)
			if got.String() != want.String() {
				t.Errorf("%s, %v: %q, want %q", namespace, wide, got, want)
			}
		}
	}
	if got := d.Touched(all, false); len(got) != 2501 {
		t.Errorf("%d namespaces", len(got))
	}
	cost := func(g *CompiledGrants) time.Duration {
		least := time.Hour
		for range 10 {
			start := time.Now()
			for range 100 {
				d.SetFor(g, "none", false, false)
			}
			least = min(least, time.Since(start))
		}
		return least
	}
	if few, many := cost(one), cost(all); many > 20*few {
		t.Errorf("100 grants take %v, 5000 take %v", few, many)
	}
}
