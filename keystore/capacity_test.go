package keystore

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestSizes checks that each part of a row counts in its size, long texts as well as many elements.
func TestSizes(t *testing.T) {
	const row = 200
	long := strings.Repeat("x", 1000)
	many := make([]string, 100)
	labels := make(map[string]string)
	for i := range 100 {
		labels[fmt.Sprint(i)] = ""
	}
	for _, test := range []struct {
		name         string
		got, atLeast int64
	}{
		{"namespace", (&Namespace{}).Size(), row},
		{"namespace, id", (&Namespace{ID: long}).Size(), row + 1000},
		{"namespace, kind", (&Namespace{Kind: long}).Size(), row + 1000},
		{"namespace, parent", (&Namespace{Parent: long}).Size(), row + 1000},
		{"namespace, name", (&Namespace{Name: long}).Size(), row + 1000},
		{"namespace, token prefix", (&Namespace{TokenPrefix: long}).Size(), row + 1000},
		{"namespace, child prefix", (&Namespace{ChildPrefix: long}).Size(), row + 1000},
		{"namespace, long reach", (&Namespace{Reach: []string{long}}).Size(), row + 1000},
		{"namespace, much reach", (&Namespace{Reach: many}).Size(), row + 100*16},
		{"namespace, key roles", (&Namespace{KeyRoles: []string{long}}).Size(), row + 1000},

		{"role", (&Role{}).Size(), row},
		{"role, namespace", (&Role{Namespace: long}).Size(), row + 1000},
		{"role, name", (&Role{Name: long}).Size(), row + 1000},
		{"role, description", (&Role{Description: long}).Size(), row + 1000},
		{"role, resource", (&Role{Permissions: []Permission{{Resource: long}}}).Size(), row + 1000},
		{"role, action", (&Role{Permissions: []Permission{{Action: long}}}).Size(), row + 1000},
		{"role, permissions", (&Role{Permissions: make([]Permission, 100)}).Size(), row + 100*32},

		{"member", (&Member{}).Size(), row},
		{"member, id", (&Member{ID: long}).Size(), row + 1000},
		{"member, name", (&Member{Name: long}).Size(), row + 1000},
		{"member, login", (&Member{Login: long}).Size(), row + 1000},
		{"member, creator", (&Member{CreatedBy: long}).Size(), row + 1000},
		{"member, label", (&Member{Labels: map[string]string{"a": long}}).Size(), row + 1000},
		{"member, label's name", (&Member{Labels: map[string]string{long: ""}}).Size(), row + 1000},
		{"member, labels", (&Member{Labels: labels}).Size(), row + 100*80},
		{"member, grants", (&Member{Grants: make([]Grant, 100)}).Size(), row + 100*row},
		{"member, namespace", (&Member{Grants: []Grant{{Namespace: long}}}).Size(), 2*row + 1000},
		{"member, role", (&Member{Grants: []Grant{{Roles: []string{long}}}}).Size(), 2*row + 1000},
		{"member, permission",
			(&Member{Grants: []Grant{{Permissions: []Permission{{Action: long}}}}}).Size(),
			2*row + 1000},

		{"key", (&Key{}).Size(), 2 * row},
		{"key, name", (&Key{Name: long}).Size(), 2*row + 1000},
		{"key, note", (&Key{LastDerived: DerivedUse{Note: long}}).Size(), 2*row + 1000},
		{"key, reason", (&Key{RevokeReason: long}).Size(), 2*row + 1000},
		{"key, secrets", (&Key{Secrets: make([]Secret, 100)}).Size(), 2*row + 100*100},
		{"key, addresses", (&Key{AllowedIPs: make([]netip.Prefix, 100)}).Size(), 2*row + 100*40},
		{"key, grants", (&Key{Grants: make([]Grant, 100)}).Size(), 2*row + 100*row},
		{"key, metadata", (&Key{Metadata: labels}).Size(), 2*row + 100*80},

		{"audit row", (&AuditRow{}).Size(), 2 * row},
		{"audit row, before", (&AuditRow{Before: long}).Size(), 2*row + 1000},
		{"audit row, after", (&AuditRow{After: long}).Size(), 2*row + 1000},
		{"audit row, namespaces", (&AuditRow{Namespaces: many}).Size(), 2*row + 100*16},
	} {
		if test.got < test.atLeast || test.got > test.atLeast+row {
			t.Errorf("%s: %d bytes, want about %d", test.name, test.got, test.atLeast)
		}
	}
}

func TestCapacityDefaults(t *testing.T) {
	if got := (Capacity{}).WithDefaults(); got != DefaultCapacity {
		t.Errorf("%+v", got)
	}
	own := Capacity{
		Namespaces: Caps{Deployment: 10},
		Roles:      Caps{Deployment: 100_000},
		Members:    Caps{PerNamespace: 7}, KeysPerOwner: 3,
	}.WithDefaults()
	for _, test := range []struct {
		name      string
		got, want Caps
	}{
		{"deployment cap below the default per namespace", own.Namespaces, Caps{10, 10}},
		{"deployment cap above it", own.Roles, Caps{100_000, DefaultCapacity.Roles.PerNamespace}},
		{"only per namespace", own.Members, Caps{DefaultCapacity.Members.Deployment, 7}},
		{"neither", own.Directory, DefaultCapacity.Directory},
		{"keys", Caps{own.KeysPerNamespace, own.KeysPerOwner},
			Caps{DefaultCapacity.KeysPerNamespace, 3}},
	} {
		if test.got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, test.got, test.want)
		}
	}
}

// TestFits checks that a namespace may hold exactly its caps, and no more of any resource.
func TestFits(t *testing.T) {
	c := Capacity{Namespaces: Caps{20, 2}, Roles: Caps{30, 3}, Plans: Caps{35, 7},
		Members: Caps{40, 4}, Directory: Caps{50, 5}}
	for _, test := range []struct {
		tally Tally
		want  bool
	}{
		{Tally{}, true},
		{Tally{2, 3, 7, 4, 5}, true},
		{Tally{3, 3, 7, 4, 5}, false},
		{Tally{2, 4, 7, 4, 5}, false},
		{Tally{2, 3, 8, 4, 5}, false},
		{Tally{2, 3, 7, 5, 5}, false},
		{Tally{2, 3, 7, 4, 6}, false},
	} {
		if got := c.Fits(test.tally); got != test.want {
			t.Errorf("%+v: %v, want %v", test.tally, got, test.want)
		}
	}
}

func TestUses(t *testing.T) {
	c := Capacity{Namespaces: Caps{20, 2}, Roles: Caps{30, 3}, Plans: Caps{35, 7},
		Members: Caps{40, 4}, Directory: Caps{50, 5}}
	for scope, want := range map[string][]CapacityUse{
		ScopeDeployment: {{"namespaces", ScopeDeployment, 1, 20}, {"roles", ScopeDeployment, 2, 30},
			{"plans", ScopeDeployment, 5, 35}, {"members", ScopeDeployment, 3, 40}, {DirectoryBytes, ScopeDeployment, 4, 50}},
		ScopeNamespace: {{"namespaces", ScopeNamespace, 1, 2}, {"roles", ScopeNamespace, 2, 3},
			{"plans", ScopeNamespace, 5, 7}, {"members", ScopeNamespace, 3, 4}, {DirectoryBytes, ScopeNamespace, 4, 5}},
	} {
		if got := c.Uses(Tally{1, 2, 5, 3, 4}, scope); !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", scope, got, want)
		}
	}
}

// TestGrows checks that only growth beyond a cap counts: a count that already exceeds its cap may
// shrink.
func TestGrows(t *testing.T) {
	for _, test := range []struct {
		before, after int64
		want          bool
	}{
		{4, 5, false}, {5, 6, true}, {8, 8, false}, {8, 9, true}, {9, 8, false}, {6, 5, false},
	} {
		before, after := CapacityUse{Used: test.before, Cap: 5}, CapacityUse{Used: test.after, Cap: 5}
		if got := after.Grows(before); got != test.want {
			t.Errorf("from %d to %d: %v", test.before, test.after, got)
		}
	}
}

// TestUsage counts a directory by namespace, before and after its rows are removed.
func TestUsage(t *testing.T) {
	read := []Permission{{Action: "read"}}
	d := NewDirectory(&Policy{
		Namespaces: []Namespace{{ID: "a"}, {ID: "b", Parent: "a"}},
		Roles:      []Role{{Namespace: "b", Name: "r", Permissions: read}},
		Members: []Member{{ID: "m", Grants: []Grant{{Namespace: "a", Permissions: read},
			{Namespace: "b", Roles: []string{"r"}}}}, {ID: "n"}},
	})
	total := d.Total()
	if total.Bytes < 6*rowBytes {
		t.Errorf("%d bytes", total.Bytes)
	}
	if total.Bytes = 0; total != (Tally{Namespaces: 2, Roles: 1, Members: 2}) {
		t.Errorf("the deployment holds %+v", total)
	}
	if got := d.Ungranted(); got.Members != 1 || got.Bytes != (&Member{ID: "n"}).Size() {
		t.Errorf("without a grant: %+v", got)
	}
	each := d.TallyByNamespace()
	for id, tally := range each {
		tally.Bytes = 0
		each[id] = tally
	}
	if want := map[string]Tally{"a": {2, 1, 0, 2, 0}, "b": {1, 1, 0, 1, 0}}; !maps.Equal(each, want) {
		t.Errorf("by namespace: %+v, want %+v", each, want)
	}

	d = d.With(&Policy{Changed: []Object{{Kind: NamespaceObject, Name: "a"},
		{Kind: NamespaceObject, Name: "b"}, {Kind: RoleObject, Namespace: "b", Name: "r"},
		{Kind: MemberObject, Name: "m"}, {Kind: MemberObject, Name: "n"}}}, nil)
	if got := d.Total(); got != (Tally{}) || len(d.usage.each) != 0 {
		t.Errorf("an empty directory holds %+v: %+v", got, d.usage.each)
	}
}
