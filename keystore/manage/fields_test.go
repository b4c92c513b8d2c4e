package manage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestNamespaceFields checks that a refusal of a new or edited namespace names the invalid field,
// and that the largest values are valid.
func TestNamespaceFields(t *testing.T) {
	w := newWorld(t, "acme", "other")
	w.role("other", "elsewhere", "read")
	w.Configure(node.Settings{TokenPrefixes: []string{keystore.DefaultPrefix, "live"}})
	_, token := fleet.Mint(t, w.Keystore, manage.KeySpec{})
	kinds := make([]string, 51)
	for i := range kinds {
		kinds[i] = fmt.Sprint("kind", i)
	}
	long := strings.Repeat("é", 201)
	for field, ns := range map[string]keystore.Namespace{
		"name":                        {Name: long},
		"edit_policy":                 {EditPolicy: "shrink"},
		"parent":                      {Parent: "nowhere"},
		"child_prefix":                {ChildPrefix: "-a"},
		"child_prefix, too long":      {ChildPrefix: strings.Repeat("a", 64)},
		"reach":                       {Reach: kinds},
		"reach[1]":                    {Reach: []string{"app", ""}},
		"reach[0], too long":          {Reach: []string{strings.Repeat("k", 65)}},
		"key_roles[1]":                {KeyRoles: []string{"viewer", keystore.AnyRole}},
		"key_roles[0]":                {KeyRoles: []string{"none"}},
		"key_roles[0], of another":    {KeyRoles: []string{"elsewhere"}},
		"token_prefix":                {TokenPrefix: "unknown"},
		"token_prefix, of members":    {TokenPrefix: keystore.MemberPrefix},
		"name, a token":               {Name: token},
		"reach[0], a token":           {Reach: []string{token}},
		"reach[0], control character": {Reach: []string{"a\x00"}},
	} {
		name, _, _ := strings.Cut(field, ",")
		ns.ID = "new"
		_, created := w.CreateNamespace(ctx, fleet.Root, ns)
		patch := manage.NamespacePatch{Name: &ns.Name, Reach: &ns.Reach, KeyRoles: &ns.KeyRoles,
			Parent: &ns.Parent, TokenPrefix: &ns.TokenPrefix, ChildPrefix: &ns.ChildPrefix}
		if ns.EditPolicy != "" {
			patch.EditPolicy = &ns.EditPolicy
		}
		_, _, edited := w.EditNamespace(ctx, fleet.Root, "acme", patch, manage.ChangeOptions{})
		for what, err := range map[string]error{"create": created, "edit": edited} {
			if got := invalidFields(err); got != name {
				t.Errorf("%s, %s: invalid fields %q (%v)", field, what, got, err)
			}
		}
	}
	for field, ns := range map[string]keystore.Namespace{
		"id":              {ID: "home"},
		"id, a token":     {ID: token},
		"kind":            {ID: "new", Kind: strings.Repeat("k", 65)},
		"kind, a control": {ID: "new", Kind: "a\x00"},
	} {
		name, _, _ := strings.Cut(field, ",")
		if _, err := w.CreateNamespace(ctx, fleet.Root, ns); invalidFields(err) != name {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := w.CreateNamespace(ctx, fleet.Root,
		keystore.Namespace{ID: "acme"}); fleet.Code(err) != "exists" {
		t.Errorf("an id that another namespace has: %v", err)
	}
	largest := keystore.Namespace{ID: strings.Repeat("a", 64), Kind: strings.Repeat("k", 64),
		Name: long[2:], Parent: "other", EditPolicy: keystore.EditGrowOnly, Reach: kinds[:50],
		KeyRoles: []string{"viewer"}, TokenPrefix: "live"}
	created, err := w.CreateNamespace(ctx, fleet.Root, largest)
	if err != nil || created.Version != 1 || created.CreatedAt.IsZero() {
		t.Fatalf("%+v, %v", created, err)
	}
	found, err := w.FindNamespace(ctx, fleet.Root, largest.ID)
	if err != nil || found.ID != largest.ID || found.Kind != largest.Kind ||
		found.Name != largest.Name || found.Parent != "other" || found.EditPolicy != "grow_only" ||
		!slices.Equal(found.Reach, largest.Reach) || found.TokenPrefix != "live" ||
		!slices.Equal(found.KeyRoles, largest.KeyRoles) || found.Version != 1 ||
		found.CreatedAt.IsZero() {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := w.FindNamespace(ctx, fleet.Root, "nowhere"); fleet.Code(err) != "not_found" {
		t.Errorf("finding a namespace that does not exist: %v", err)
	}
}

// TestInvisibleNames checks that no operation gives an object a name that people cannot see, and
// that objects with such a name, which earlier versions accepted, can be changed and revoked.
func TestInvisibleNames(t *testing.T) {
	w := newWorld(t, "acme")
	ada := w.member("ada", "acme=read").Member()
	key, _ := fleet.Mint(t, w.Keystore, manage.KeySpec{Name: "CI"})
	for _, name := range []string{" ", "\u00a0", "\u200b", "\u2800", "\u3164", "a\u202eb", "a\u00adb",
		"\ufeffCI", "CI\U000E0041"} {
		_, _, minted := w.MintKey(ctx, fleet.Root, manage.KeySpec{Name: name,
			Home: &keystore.Grant{Permissions: fleet.Read}}, nil)
		_, _, editedKey := w.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: &name},
			manage.ChangeOptions{})
		_, member := w.CreateMember(ctx, fleet.Root, keystore.Member{Name: name})
		_, _, editedMember := w.EditMember(ctx, fleet.Root, ada, manage.MemberPatch{Name: &name},
			manage.ChangeOptions{})
		_, namespace := w.CreateNamespace(ctx, fleet.Root,
			keystore.Namespace{ID: "new", Name: name})
		_, _, editedNamespace := w.EditNamespace(ctx, fleet.Root, "acme",
			manage.NamespacePatch{Name: &name}, manage.ChangeOptions{})
		for what, err := range map[string]error{"mint": minted, "edit of a key": editedKey,
			"member": member, "edit of a member": editedMember, "namespace": namespace,
			"edit of a namespace": editedNamespace} {
			if invalidFields(err) != "name" {
				t.Errorf("%s, %q: %v", what, name, err)
			}
		}
		n, refused, err := w.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{Line: 1,
			Token: "an old credential", KeySpec: manage.KeySpec{Name: name,
				Home: &keystore.Grant{Permissions: fleet.Read}}}}, true, nil)
		if n != 0 || len(refused) != 1 || err != nil {
			t.Errorf("import, %q: %d, %v, %v", name, n, refused, err)
		}
		_, role := w.CreateRole(ctx, fleet.Root,
			keystore.Role{Namespace: "acme", Name: name, Permissions: fleet.Read})
		_, plan := w.CreatePlan(ctx, fleet.Root, keystore.Plan{Namespace: "acme", Name: name})
		if invalidFields(role) != "name" || invalidFields(plan) != "name" {
			t.Errorf("%q: role %v, plan %v", name, role, plan)
		}
	}

	w.fleet.Tamper("UPDATE keys SET name = char(8203) WHERE id = '"+key.ID+"'",
		"UPDATE members SET name = ' ' WHERE id = '"+ada+"'")
	was, off := "\u200b", false
	if after, _, err := w.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: &was, Active: &off},
		manage.ChangeOptions{}); err != nil || after.Name != was || after.Active {
		t.Errorf("editing a key with an invisible name: %+v, %v", after, err)
	}
	fleet.Revoke(t, w.Keystore, key.ID, 0)
	if _, _, err := w.EditMember(ctx, fleet.Root, ada, manage.MemberPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Errorf("disabling a member with an invisible name: %v", err)
	}
}

// TestNamespacePatches checks that each field of a patch changes that field of the namespace.
func TestNamespacePatches(t *testing.T) {
	w := newWorld(t, "acme", "other")
	w.Configure(node.Settings{TokenPrefixes: []string{keystore.DefaultPrefix, "live"}})
	name, parent, prefix, child := "Acme", "other", "live", "acme-"
	grow := keystore.EditGrowOnly
	reach, roles := []string{"app"}, []string{"viewer"}
	text := func(ns *keystore.Namespace) string {
		return fmt.Sprint(ns.Name, ns.EditPolicy, ns.Parent, ns.Reach, ns.KeyRoles, ns.TokenPrefix,
			ns.ChildPrefix, ns.Version)
	}
	want, err := w.FindNamespace(ctx, fleet.Root, "acme")
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		patch  manage.NamespacePatch
		change func(*keystore.Namespace)
	}{
		{manage.NamespacePatch{Name: &name}, func(ns *keystore.Namespace) { ns.Name = name }},
		{manage.NamespacePatch{EditPolicy: &grow},
			func(ns *keystore.Namespace) { ns.EditPolicy = grow }},
		{manage.NamespacePatch{Parent: &parent}, func(ns *keystore.Namespace) { ns.Parent = parent }},
		{manage.NamespacePatch{Reach: &reach}, func(ns *keystore.Namespace) { ns.Reach = reach }},
		{manage.NamespacePatch{KeyRoles: &roles},
			func(ns *keystore.Namespace) { ns.KeyRoles = roles }},
		{manage.NamespacePatch{TokenPrefix: &prefix},
			func(ns *keystore.Namespace) { ns.TokenPrefix = prefix }},
		{manage.NamespacePatch{ChildPrefix: &child},
			func(ns *keystore.Namespace) { ns.ChildPrefix = child }},
	} {
		step.change(want)
		want.Version++
		edited, p, err := w.EditNamespace(ctx, fleet.Root, "acme", step.patch,
			manage.ChangeOptions{})
		if err != nil || !p.Complete {
			t.Fatalf("step %d: %+v, %v", i, p, err)
		}
		found, err := w.FindNamespace(ctx, fleet.Root, "acme")
		if err != nil || text(edited) != text(want) || text(found) != text(want) {
			t.Errorf("step %d: returned %+v, stored %+v, want %+v, %v", i, edited, found, want, err)
		}
	}
}

// TestRoleFields checks that a refusal of a new or edited role names the invalid field, and which
// names a role can have.
func TestRoleFields(t *testing.T) {
	w := newWorld(t, "acme", "other")
	w.role("*", "shared", "read")
	w.role("acme", "clerk", "read")
	_, token := fleet.Mint(t, w.Keystore, manage.KeySpec{})
	many := make([]keystore.Permission, 501)
	for i := range many {
		many[i] = keystore.Permission{Resource: fmt.Sprintf("r%d", i), Action: "read"}
	}
	id := keystore.RoleID{Namespace: "acme", Name: "clerk"}
	for field, r := range map[string]keystore.Role{
		"description":           {Permissions: fleet.Read, Description: strings.Repeat("é", 1001)},
		"description, a token":  {Permissions: fleet.Read, Description: token},
		"permissions":           {Permissions: []keystore.Permission{}},
		"permissions, too many": {Permissions: many},
		"permissions, a token":  {Permissions: []keystore.Permission{{Resource: "r", Action: token}}},
	} {
		name, _, _ := strings.Cut(field, ",")
		r.Namespace, r.Name = "acme", "new"
		_, created := w.CreateRole(ctx, fleet.Root, r)
		_, _, edited := w.EditRole(ctx, fleet.Root, id, manage.RolePatch{
			Description: &r.Description, Permissions: r.Permissions}, manage.ChangeOptions{})
		for what, err := range map[string]error{"create": created, "edit": edited} {
			if got := invalidFields(err); got != name {
				t.Errorf("%s, %s: invalid fields %q (%v)", field, what, got, err)
			}
		}
	}
	for _, c := range []struct{ namespace, name, want string }{
		{"nowhere", "new", "namespace"}, {"acme", "-", "name"}, {"acme", token, "name"},
		{"acme", "Clerk", "exists"}, {"acme", "SHARED", "exists"}, {"*", "CLERK", "exists"},
		{"other", "Clerk", "ok"}, {"other", "clerk", "exists"}, {"*", "shared", "exists"},
	} {
		_, err := w.CreateRole(ctx, fleet.Root, keystore.Role{Namespace: c.namespace, Name: c.name,
			Permissions: fleet.Read})
		if got := fleet.Code(err); got != c.want && invalidFields(err) != c.want {
			t.Errorf("role %q in %s: %v, want %s", c.name, c.namespace, err, c.want)
		}
	}
	text := "what it is for"
	for i, patch := range []manage.RolePatch{{Description: &text}, {Permissions: many[:500]}} {
		edited, p, err := w.EditRole(ctx, fleet.Root, id, patch, manage.ChangeOptions{})
		if err != nil || !p.Complete {
			t.Fatal(p, err)
		}
		found, err := w.FindRole(ctx, fleet.Root, id)
		if err != nil {
			t.Fatal(err)
		}
		for what, r := range map[string]*keystore.Role{"returned": edited, "stored": found} {
			if r.Description != text || len(r.Permissions) != 1+499*i || r.Version != int64(2+i) {
				t.Errorf("step %d, %s: %+v", i, what, r)
			}
		}
	}
	// A namespace can require a role of its keys.
	for _, ns := range []string{"acme", "other"} {
		if _, _, err := w.EditNamespace(ctx, fleet.Root, ns,
			manage.NamespacePatch{KeyRoles: &[]string{"shared"}}, manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := w.EditNamespace(ctx, fleet.Root, "acme",
		manage.NamespacePatch{KeyRoles: &[]string{"clerk"}}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ namespace, name, want string }{
		{"*", "shared", "in_use"}, {"acme", "clerk", "in_use"}, {"other", "Clerk", "ok"},
	} {
		if _, _, err := w.DeleteRole(ctx, fleet.Root,
			keystore.RoleID{Namespace: c.namespace, Name: c.name},
			manage.ChangeOptions{}); fleet.Code(err) != c.want {
			t.Errorf("deleting role %s in %s: %v, want %s", c.name, c.namespace, err, c.want)
		}
	}
	w.role("other", "clerk", "read")
	if _, _, err := w.DeleteRole(ctx, fleet.Root,
		keystore.RoleID{Namespace: "other", Name: "clerk"}, manage.ChangeOptions{}); err != nil {
		t.Errorf("a role with the name of one that another namespace requires: %v", err)
	}
}

// TestVersions checks which versions of an object ChangeOptions allow.
func TestVersions(t *testing.T) {
	w := newWorld(t)
	key, _ := w.key(fleet.Root, "default", "default=read")
	name := "renamed"
	for _, c := range []struct { // the key is at version 1, and each "ok" adds one
		o    manage.ChangeOptions
		want string
	}{
		{manage.ChangeOptions{IfVersion: 2}, "version_mismatch"},
		{manage.ChangeOptions{IfVersion: 1}, "ok"},
		{manage.ChangeOptions{IfVersion: 7, OrVersions: []int64{3, 4}}, "version_mismatch"},
		{manage.ChangeOptions{IfVersion: 7, OrVersions: []int64{3, 2}}, "ok"},
		{manage.ChangeOptions{OrVersions: []int64{7}}, "ok"},
	} {
		_, _, err := w.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: &name}, c.o)
		if got := fleet.Code(err); got != c.want {
			t.Errorf("%+v: %v, want %s", c.o, err, c.want)
		}
	}
}
