package keystore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestMembersByLogin(t *testing.T) {
	d := NewDirectory(&Policy{Members: []Member{
		{ID: "ada", Login: "ada@example.com", Active: true},
		{ID: "bob", Login: "bob@example.com"},
		{ID: "eve", Active: true},
		{ID: "g2", Kind: Group, Login: "ops", Active: true},
		{ID: "g1", Kind: Group, Login: "dev", Active: true},
		{ID: "g3", Kind: Group, Login: "gone"},
		{ID: "g4", Kind: Group, Active: true},
		{ID: "service", Kind: Service, Login: "ci", Active: true},
		{ID: "both", Login: "dev", Active: true}, // a user named like a group
	}})
	for _, c := range []struct{ login, groups, want string }{
		{"ada@example.com", "", "ada"}, {"Ada@example.com", "", ""}, {"bob@example.com", "", ""},
		{"eve", "", ""}, {"", "", ""},
		{"eve", "ops dev", "g1 g2"}, {"eve", "ops ops", "g2"}, {"eve", "Ops", ""},
		{"eve", "gone", ""}, {"eve", "gone ops", "g2"}, {"eve", "nothing", ""},
		{"ada@example.com", "ops", "ada"}, {"bob@example.com", "ops", ""},
		{"ops", "", ""}, {"dev", "ops", "both"}, // the name of a group is no login
		{"eve", "ci ada@example.com", ""}, // a login is not the name of a group
	} {
		var got []string
		for _, m := range d.MembersByLogin(c.login, strings.Fields(c.groups)) {
			got = append(got, m.ID)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("login %q in %q: members %q, want %q", c.login, c.groups, got, c.want)
		}
	}
	if got := d.MembersByLogin("eve", []string{""}); len(got) > 0 {
		t.Errorf("an empty name is the group %s", got[0].ID)
	}
}

func TestMembersByLoginAreBounded(t *testing.T) {
	var p Policy
	var names []string
	for i := range 2 * maxActingGroups {
		name := fmt.Sprint(i)
		names = append(names, name)
		p.Members = append(p.Members, Member{ID: "g" + name, Kind: Group, Login: name, Active: true})
	}
	if got := NewDirectory(&p).MembersByLogin("eve", names); len(got) != maxActingGroups {
		t.Errorf("%d groups, want %d", len(got), maxActingGroups)
	}
}

func TestGroupActor(t *testing.T) {
	for _, login := range []string{"ada", "ada via m_1", " via ", "ada via "} {
		for _, groups := range [][]string{{"m_1"}, {"m_1", "m_2"}} {
			actor := GroupActor(login, groups)
			got, in, ok := ParseGroupActor(actor)
			if !ok || got != login || !slices.Equal(in, groups) {
				t.Errorf("%q: %q in %q, %v", actor, got, in, ok)
			}
		}
	}
	for _, actor := range []string{"", "root", "m_1", "ada via ", "ada via m_1,"} {
		if _, _, ok := ParseGroupActor(actor); ok {
			t.Errorf("%q is the actor of a group", actor)
		}
	}
}

// TestMemberChangeCopiesNoNamespace checks that a change of a member does not cost time for each
// namespace.
func TestMemberChangeCopiesNoNamespace(t *testing.T) {
	before := NewDirectory(&Policy{Namespaces: []Namespace{{ID: "acme"}}})
	after := before.With(&Policy{Members: []Member{{ID: "ada"}},
		Changed: []Object{{Kind: MemberObject, Name: "ada"}}}, nil)
	if after.Namespace("acme") != before.Namespace("acme") {
		t.Error("the namespace was copied")
	}
}

func TestDirectoryFinds(t *testing.T) {
	read, write := Permission{Action: "read"}, Permission{Action: "write"}
	d := NewDirectory(&Policy{
		Namespaces: []Namespace{{ID: "acme"}},
		Members:    []Member{{ID: "ada", Name: "Ada"}},
		Roles: []Role{{Namespace: AnyNamespace, Name: "r", Permissions: []Permission{read}},
			{Namespace: "acme", Name: "r", Permissions: []Permission{write}}},
	})
	if m := d.Member("ada"); m == nil || m.Name != "Ada" {
		t.Errorf("Ada is %+v", m)
	}
	if m := d.Member("bob"); m != nil {
		t.Errorf("Bob is %+v", m)
	}
	if r := d.Role(RoleID{"acme", "r"}); r == nil || r.Permissions[0] != write {
		t.Errorf("the role is %+v", r)
	}
	if r := d.Role(RoleID{"acme", "s"}); r != nil {
		t.Errorf("the other role is %+v", r)
	}
	for id, want := range map[RoleID]string{
		{"acme", "r"}: "write", {"other", "r"}: "read", {"acme", "s"}: "",
	} {
		if got := d.RoleSet(id.Namespace, id.Name).String(); got != want {
			t.Errorf("role %s of %s: %q, want %q", id.Name, id.Namespace, got, want)
		}
	}
}

func TestDescendants(t *testing.T) {
	d := NewDirectory(&Policy{Namespaces: []Namespace{{ID: "org", Kind: "org",
		Reach: []string{"org", "app"}}, {ID: "team", Parent: "org"},
		{ID: "app", Kind: "app", Parent: "team"}, {ID: "other", Kind: "app"}}})
	ids := func(list []*Namespace) (ids []string) {
		for _, ns := range list {
			ids = append(ids, ns.ID)
		}
		slices.Sort(ids)
		return ids
	}
	for id, want := range map[string]struct {
		height         int
		below, reached []string
	}{
		"org":   {3, []string{"app", "team"}, []string{"app"}},
		"team":  {2, []string{"app"}, nil},
		"app":   {1, nil, nil},
		"other": {1, nil, nil},
	} {
		height, below := d.Descendants(id)
		if height != want.height || !slices.Equal(ids(below), want.below) {
			t.Errorf("%s: %d levels, %q", id, height, ids(below))
		}
		if got := ids(d.ReachedFrom(id)); !slices.Equal(got, want.reached) {
			t.Errorf("%s reaches %q, want %q", id, got, want.reached)
		}
	}
}

func TestUnreadableRows(t *testing.T) {
	d := NewDirectory(&Policy{
		Namespaces: []Namespace{{ID: "good"}, {ID: "loop", Parent: "loop"}},
		Roles:      []Role{{Namespace: "good", Name: "r", Unreadable: "bad JSON"}},
		Members:    []Member{{ID: "ada"}, {ID: "bob", Unreadable: "bad JSON"}},
	})
	want := []string{
		"member bob: bad JSON",
		`namespace loop: ` + d.Namespace("loop").Unreadable,
		"role r of namespace good: bad JSON",
	}
	if got := d.UnreadableRows(); !slices.Equal(got, want) || d.Namespace("loop").Unreadable == "" {
		t.Errorf("%q", got)
	}
}

// TestUnreadableNamespaceStaysUnreadable checks that grants in a namespace whose row cannot be read
// have no effect, whatever else changes.
func TestUnreadableNamespaceStaysUnreadable(t *testing.T) {
	record := NewRecord(&Key{Namespace: "bad", Owner: RootMember, Active: true,
		Grants:  []Grant{{Namespace: "bad", Permissions: MustParsePermissions("read")}},
		Secrets: []Secret{{Digest: Digest{1}}}}, Digest{1})
	d := NewDirectory(&Policy{Namespaces: []Namespace{{ID: "bad", Unreadable: "bad JSON"}}})
	for _, change := range []*Policy{
		{}, {Members: []Member{{ID: "ada"}}, Changed: []Object{{Kind: MemberObject, Name: "ada"}}},
		{Namespaces: []Namespace{{ID: "good"}},
			Changed: []Object{{Kind: NamespaceObject, Name: "good"}}},
	} {
		d = d.With(change, nil)
		ns := d.Namespace("bad")
		if got := Decide(record, &Request{Policy: d, Namespace: ns}); got != Forbidden {
			t.Errorf("after %+v: %v", change.Changed, got)
		}
		if ns.Unreadable != "bad JSON" {
			t.Errorf("after %+v: unreadable: %q", change.Changed, ns.Unreadable)
		}
	}
}

// TestBuiltinRolesStay checks that deleting a row with the name of a built-in role does not remove
// the role.
func TestBuiltinRolesStay(t *testing.T) {
	before := NewDirectory(new(Policy))
	after := before.With(&Policy{Changed: []Object{{Kind: RoleObject, Namespace: AnyNamespace,
		Name: "developer"}}}, nil)
	if after.RoleSet("acme", "developer") == nil || after.Total() != before.Total() {
		t.Error("the role is gone")
	}
}

// TestListsAreSorted checks that lists begin with the newest object, and with the greatest id of
// those created at the same time.
func TestListsAreSorted(t *testing.T) {
	later := noon.Add(1)
	d := NewDirectory(&Policy{
		Namespaces: []Namespace{{ID: "a", CreatedAt: noon}, {ID: "b", CreatedAt: noon},
			{ID: "0", CreatedAt: later}},
		Roles: []Role{{Namespace: "a", Name: "r", CreatedAt: noon},
			{Namespace: "b", Name: "q", CreatedAt: noon}, {Namespace: "b", Name: "r", CreatedAt: noon},
			{Namespace: "0", Name: "0", CreatedAt: later}},
		Members: []Member{{ID: "m_a", CreatedAt: noon}, {ID: "m_b", CreatedAt: noon},
			{ID: "m_0", CreatedAt: later}},
	})
	var namespaces, roles, members []string
	for _, ns := range d.AllNamespaces() {
		namespaces = append(namespaces, ns.ID)
	}
	for _, r := range d.AllRoles() {
		roles = append(roles, r.Namespace+"/"+r.Name)
	}
	for _, m := range d.AllMembers() {
		members = append(members, m.ID)
	}
	for _, list := range []struct{ got, want []string }{
		{namespaces, []string{"0", "b", "a"}},
		{roles, []string{"0/0", "b/r", "b/q", "a/r", "*/client-admin", "*/developer", "*/viewer"}},
		{members, []string{"m_0", "m_b", "m_a"}},
	} {
		if !slices.Equal(list.got, list.want) {
			t.Errorf("%q, want %q", list.got, list.want)
		}
	}
}

// counters are RequestCounters that remember what they were asked for.
type counters struct {
	kept  []*Directory
	given map[string]*OutcomeCounts
	asked int
}

func (c *counters) Keep(d *Directory) { c.kept = append(c.kept, d) }

func (c *counters) Of(namespace string) *OutcomeCounts {
	c.asked++
	if c.given[namespace] == nil {
		c.given[namespace] = new(OutcomeCounts)
	}
	return c.given[namespace]
}

// TestRequestCounters checks that every namespace has its counters, which it keeps when another
// object changes.
func TestRequestCounters(t *testing.T) {
	c := &counters{given: make(map[string]*OutcomeCounts)}
	d := NewDirectory(new(Policy))
	for i, change := range []*Policy{
		{Namespaces: []Namespace{{ID: "a"}}, Changed: []Object{{NamespaceObject, "", "a"}}},
		{Namespaces: []Namespace{{ID: "b"}}, Changed: []Object{{NamespaceObject, "", "b"}}},
		{Members: []Member{{ID: "m"}}, Changed: []Object{{MemberObject, "", "m"}}},
	} {
		d = d.With(change, c)
		if len(c.kept) != i+1 || c.kept[i] != d {
			t.Fatalf("change %d: the counters are not told of the new directory", i)
		}
		for ns := range d.Namespaces() {
			if ns.Counts() == nil || ns.Counts() != c.given[ns.ID] {
				t.Errorf("change %d: wrong counters of %s", i, ns.ID)
			}
		}
	}
	if c.asked != 3 { // one namespace, then two
		t.Errorf("asked %d times for counters", c.asked)
	}
	for ns := range d.With(&Policy{Namespaces: []Namespace{{ID: "x"}}}, nil).Namespaces() {
		if ns.ID == "x" && ns.Counts() != nil {
			t.Error("counters without RequestCounters")
		}
	}
}

// TestDecideUnderNewDirectory checks that a decision uses nothing cached under a directory in which
// the owner of the key was still enabled. Entitlements are cached by namespace, and a change of a
// member keeps the namespaces.
func TestDecideUnderNewDirectory(t *testing.T) {
	all := []Grant{{Namespace: "*", Permissions: MustParsePermissions("*")}}
	enabled := NewDirectory(&Policy{Namespaces: []Namespace{{ID: "acme"}, {ID: "other"}},
		Members: []Member{{ID: "ada", Active: true, Grants: all}}})
	disabled := enabled.With(&Policy{Members: []Member{{ID: "ada", Grants: all}},
		Changed: []Object{{Kind: MemberObject, Name: "ada"}}}, nil)
	record := NewRecord(&Key{Namespace: "acme", Owner: "ada", Active: true, Grants: all,
		Secrets: []Secret{{Digest: Digest{1}}}}, Digest{1})
	for i, step := range []struct {
		policy    *Directory
		namespace string
		want      Outcome
	}{
		{enabled, "acme", OK}, {enabled, "other", OK},
		{disabled, "acme", OwnerDisabled}, {disabled, "other", OwnerDisabled},
		{enabled, "other", OK}, {disabled, "acme", OwnerDisabled}, {disabled, "other", OwnerDisabled},
	} {
		got := Decide(record, &Request{Now: noon.UnixNano(), Policy: step.policy,
			Namespace: step.policy.Namespace(step.namespace)})
		if got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}
