package manage_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// group creates a group that has its own name as login, and returns its id.
func (w *world) group(name, holds string) string {
	w.Helper()
	m, err := w.CreateMember(ctx, fleet.Root, keystore.Member{Name: name, Kind: keystore.Group,
		Login: name, Grants: roleGrants(w, holds)})
	if err != nil {
		w.Fatal(err)
	}
	w.ids[name] = m.ID
	return m.ID
}

// signIn returns a person in groups, which are separated by spaces, as a caller.
func (w *world) signIn(login, groups string) manage.Caller {
	w.Helper()
	c, err := w.CallerByLogin(ctx, login, strings.Fields(groups), "test", time.Now())
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// TestGroupOwnsKey creates keys as a person in several groups and compares their owners.
func TestGroupOwnsKey(t *testing.T) {
	w := newWorld(t, "acme", "eu<acme")
	w.group("ops", "acme=read,write,admin.keys:create")
	w.group("dev", "acme=read,orders:search eu=read")
	w.group("qa", "acme=read")
	w.group("off", "acme=*,admin:*")
	if _, _, err := w.EditMember(ctx, fleet.Root, w.id("off"), manage.MemberPatch{Active: new(false)},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	w.member("ada", "acme=read")
	for _, c := range []struct{ groups, owner, holds, want string }{
		{"ops", "", "acme=read", "ops"},
		{"ops dev", "", "acme=write", "ops"},
		{"ops dev", "", "acme=orders:search", "ops dev"}, // read and write together cover it
		{"dev ops qa", "", "acme=read", "ops dev qa"},
		{"dev ops qa", "dev", "acme=read", "dev"},
		{"dev ops qa", "qa", "acme=read", "qa"},
		{"dev ops qa", "qa", "acme=write", "exceeds_caller"},
		{"ops dev", "", "acme=write eu=read", "exceeds_caller"}, // no group has both
		{"ops dev", "ops", "acme=write eu=read", "exceeds_caller"},
		{"ops", "dev", "acme=read", "exceeds_caller"}, // not its group
		{"ops", "ada", "acme=read", "exceeds_caller"},
		{"ops", "", "acme=*,admin.keys:create", "ops"},
		{"ops", "", "acme=admin.keys:update", "exceeds_caller"},
		{"ops off", "", "acme=admin.keys:update", "exceeds_caller"}, // disabled
		{"ops off", "off", "acme=read", "exceeds_caller"},
		{"dev qa", "", "acme=read", "insufficient_permission"},
	} {
		name := c.groups + ", " + c.owner + ", " + c.holds
		who := w.signIn("eve", c.groups)
		key, _, err := w.MintKey(ctx, who, manage.KeySpec{Namespace: "acme", Owner: w.id(c.owner),
			Grants: roleGrants(t, c.holds)}, nil)
		wanted := strings.Fields(c.want)
		switch {
		case len(wanted) > 1:
			if fleet.Code(err) != "invalid_fields" {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for _, group := range wanted {
				if !strings.Contains(err.Error(), group+" ("+w.id(group)+")") {
					t.Errorf("%s: the error does not name %s: %v", name, group, err)
				}
			}
		case err != nil:
			if fleet.Code(err) != c.want {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		case key.Owner != w.id(c.want):
			t.Errorf("%s: owned by %s, want %s", name, key.Owner, c.want)
		case key.CreatedBy != who.Actor() || !strings.HasPrefix(key.CreatedBy, "eve via m_") ||
			!strings.Contains(key.CreatedBy, w.id("ops")):
			t.Errorf("%s: created by %q", name, key.CreatedBy)
		}
	}
}

// TestGroupMembership checks what a person may do who has joined or left groups since the last
// request, or whose groups have been disabled or deleted.
func TestGroupMembership(t *testing.T) {
	w := newWorld(t, "acme")
	ops := w.group("ops", "acme=read,admin.keys:*")
	w.group("dev", "acme=read,admin:read")
	w.member("ada", "acme=read,admin:read")
	eve := w.signIn("eve", "ops dev")
	key, _, err := w.MintKey(ctx, eve, manage.KeySpec{Namespace: "acme", Owner: ops,
		Grants: roleGrants(t, "acme=read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rename := func(c manage.Caller, name string) string {
		_, _, err := w.EditKey(ctx, c, key.ID, manage.KeyPatch{Name: &name}, manage.ChangeOptions{})
		return fleet.Code(err)
	}
	wants := func(what string, c manage.Caller, want string) {
		t.Helper()
		if got := rename(c, what); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	wants("in both groups", eve, "ok")
	wants("after leaving", w.signIn("eve", "dev"), "insufficient_permission")
	if c := w.signIn("eve", "none"); c.Actor() != "" {
		t.Errorf("a person in no group is %q", c.Actor())
	}
	if c := w.signIn("ops", ""); c.Actor() != "" {
		t.Errorf("a user with the name of a group is %q", c.Actor())
	}
	if c := w.signIn("ada", "ops"); c.Member() != w.id("ada") || len(c.Members()) != 1 {
		t.Errorf("a member in a group acts for %q", c.Members())
	}
	if c := w.signIn("eve", "ada"); c.Actor() != "" {
		t.Errorf("the login of a member is a group: %q", c.Actor())
	}
	for _, login := range []string{"", "eve\n", "ev\u202ee", "\u200b", strings.Repeat("e", 201),
		"\xff"} {
		if c := w.signIn(login, "ops"); c.Actor() != "" {
			t.Errorf("the login %q acts as %q", login, c.Actor())
		}
	}

	// A caller whose group is disabled after it was signed in.
	set := func(active bool) {
		t.Helper()
		if _, _, err := w.EditMember(ctx, fleet.Root, ops, manage.MemberPatch{Active: &active},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	set(false)
	wants("with a disabled group", eve, "insufficient_permission")
	only := func() manage.Caller { return w.signIn("eve", "ops") }
	if c := only(); c.Actor() != "" {
		t.Errorf("a person in a disabled group is %q", c.Actor())
	}
	if found, err := w.FindKey(ctx, w.signIn("eve", "dev"), key.ID); err != nil ||
		w.Policy().OwnerActive(found.Owner) {
		t.Errorf("the key of a disabled group: %+v, %v", found, err)
	}
	set(true)
	alone := only()
	wants("after it was enabled", alone, "ok")
	set(false)
	wants("with its only group disabled", alone, "owner_disabled")
	set(true)

	// Members that are given another login after the caller was signed in.
	ada := w.signIn("ada", "")
	give := func(id, login string) {
		t.Helper()
		if _, _, err := w.EditMember(ctx, fleet.Root, id, manage.MemberPatch{Login: &login},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	give(ops, "former")
	wants("with another login of a group", eve, "insufficient_permission")
	wants("with another login of its only group", alone, "owner_disabled")
	give(ops, "ops")
	wants("with its login again", alone, "ok")
	wants("as a member", ada, "insufficient_permission")
	give(w.id("ada"), "lovelace")
	wants("as a member with another login", ada, "owner_disabled")
	give(w.id("ada"), "eve")
	wants("with a login that is a member's now", eve, "owner_disabled")
	give(w.id("ada"), "ada")

	if _, _, err := w.DeleteMember(ctx, fleet.Root, ops, manage.ChangeOptions{}); fleet.Code(err) !=
		"in_use" {
		t.Errorf("deleting a group that owns a key: %v", err)
	}
	if _, n, _, err := w.TransferKeys(ctx, fleet.Root, ops, w.id("ada"),
		manage.ChangeOptions{}); err != nil || n != 1 {
		t.Fatalf("transferred %d, %v", n, err)
	}
	if _, _, err := w.DeleteMember(ctx, fleet.Root, ops, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	wants("with a deleted group", eve, "insufficient_permission")
	wants("with its only group deleted", alone, "owner_disabled")
}

// TestGroupActs checks what a person in groups sees, owns and may not do.
func TestGroupActs(t *testing.T) {
	w := newWorld(t, "acme", "other")
	ops := w.group("ops", "acme=read,admin.keys:create,admin:read,admin.members:*")
	hidden := w.group("hidden", "other=read")
	eve := w.signIn("eve", "ops")
	key, _ := w.key(eve, "acme", "acme=read")
	rows, _, err := w.ListAudit(ctx, fleet.Root, keystore.AuditFilter{Object: key.ID}, "", 10)
	if err != nil || len(rows) != 1 || rows[0].Actor != "eve via "+ops {
		t.Errorf("audit %+v, %v", rows, err)
	}
	rows, _, err = w.ListAudit(ctx, fleet.Root, keystore.AuditFilter{Actor: "eve via " + ops}, "", 10)
	if err != nil || len(rows) != 1 {
		t.Errorf("audit of the actor %+v, %v", rows, err)
	}
	// The next person in the group has the same keys, without a permission on keys.
	w.group("plain", "acme=read")
	owned, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "other",
		Owner: w.id("plain"), Grants: roleGrants(t, "acme=read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pat := w.signIn("pat", "plain ops")
	keys, _, err := w.ListKeys(ctx, pat, keystore.KeyFilter{}, "", 10)
	if err != nil || len(keys) != 2 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	if n, _, err := w.CountMatching(ctx, w.signIn("pat", "plain"), keystore.KeyFilter{}, 10); n != 1 ||
		err != nil {
		t.Errorf("%d keys of the group, %v", n, err)
	}
	if _, _, err := w.RevokeKey(ctx, w.signIn("pat", "plain"), owned.ID, "", false,
		manage.ChangeOptions{}); err != nil {
		t.Errorf("revoking a key of its group: %v", err)
	}
	if _, err := w.FindMember(ctx, eve, hidden); fleet.Code(err) != "not_found" {
		t.Errorf("a group elsewhere: %v", err)
	}
	if _, err := w.FindMember(ctx, pat, w.id("plain")); err != nil {
		t.Errorf("its own group: %v", err)
	}
	if _, _, _, err := w.NewMemberToken(ctx, fleet.Root, ops, manage.TokenSpec{},
		manage.ChangeOptions{}); fleet.Code(err) != "no_token" {
		t.Errorf("a token for a group: %v", err)
	}
	for kind, id := range map[keystore.MemberKind]string{keystore.Person: ops,
		keystore.Group: w.member("ada", "").Member(), "team": ops} {
		if _, _, err := w.EditMember(ctx, fleet.Root, id, manage.MemberPatch{Kind: &kind},
			manage.ChangeOptions{}); fleet.Code(err) != "invalid_fields" {
			t.Errorf("changing %s to %s: %v", id, kind, err)
		}
	}
	// A user and a group can have the same name, two groups cannot.
	w.member("same", "acme=read")
	w.group("same", "acme=read")
	if _, err := w.CreateMember(ctx, fleet.Root, keystore.Member{Name: "x", Kind: keystore.Group,
		Login: "same"}); fleet.Code(err) != "exists" {
		t.Errorf("two groups with one name: %v", err)
	}
	found, err := w.FindMember(ctx, fleet.Root, w.id("same"))
	if err != nil || found.Login != "same" {
		t.Errorf("the login is %q, %v", found.Login, err)
	}
}
