package keystore

import (
	"slices"
	"testing"
)

func TestMemberByLogin(t *testing.T) {
	d := NewDirectory(&Policy{Members: []Member{
		{ID: "ada", Login: "ada@example.com", Active: true},
		{ID: "bob", Login: "bob@example.com"},
		{ID: "eve", Active: true},
	}})
	for login, want := range map[string]string{
		"ada@example.com": "ada", "Ada@example.com": "", "bob@example.com": "", "eve": "", "": "",
	} {
		got := ""
		if m := d.MemberByLogin(login); m != nil {
			got = m.ID
		}
		if got != want {
			t.Errorf("login %q: member %q, want %q", login, got, want)
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
