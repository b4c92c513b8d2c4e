package manage_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func newWorldWith(t *testing.T, s node.Settings) *world {
	t.Helper()
	k, _ := fleet.New(t).Node(s)
	return &world{TB: t, Keystore: k, ids: map[string]string{}}
}

// TestChangesReadOnlyChangedRows checks that a change reads only those rows of the policy that have
// changed.
func TestChangesReadOnlyChangedRows(t *testing.T) {
	d := fleet.New(t)
	a, fa := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	role := func(k *manage.Keystore, name string) {
		t.Helper()
		if _, err := k.CreateRole(ctx, fleet.Root,
			keystore.Role{Namespace: "default", Name: name, Permissions: fleet.Read}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fa.Database.Update(ctx, func(tx keystore.Tx) error {
		for i := range 200 {
			if err := tx.InsertRole(&keystore.Role{Namespace: "default",
				Name: fmt.Sprint("before", i), CreatedAt: tx.Now(), Version: 1}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c, fc := d.Node(node.Settings{})
	if h := b.Health(ctx); h.Problem != "" {
		t.Fatal(h.Problem)
	}
	fa.PolicyRows.Store(0)
	fb.PolicyRows.Store(0)
	const changes = 10
	for i := range changes {
		k := a
		if i%2 == 1 {
			k = b
		}
		role(k, fmt.Sprint("role", i))
		fleet.Mint(t, k, manage.KeySpec{NewRoles: []keystore.Role{{Name: fmt.Sprint("minted", i),
			Permissions: fleet.Read}}})
		if list, err := c.ListRoles(ctx, fleet.Root); err != nil || len(list) != 200+2*(i+1)+3 {
			t.Fatalf("%d roles, %v", len(list), err)
		}
	}
	// Each role is read by the transaction that creates it and by each node; then perhaps by the
	// next transaction, or list.
	for name, f := range map[string]*fleet.Faulty{"a": fa, "b": fb} {
		if rows := f.PolicyRows.Load(); rows > 8*changes {
			t.Errorf("node %s read %d rows for %d changes", name, rows, 2*changes)
		}
	}
	for _, f := range []*fleet.Faulty{fa, fb, fc} {
		if n := f.WholePolicies.Load(); n != 1 {
			t.Errorf("the whole policy was read %d times", n)
		}
	}
}

// TestStartWithSlowPolicy checks that a node starts if reading the policy takes longer than a
// lease, and that it knows of changes made meanwhile.
func TestStartWithSlowPolicy(t *testing.T) {
	const slow = 20 * time.Second // longer than the lease
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{Lease: 5 * time.Second})
		time.AfterFunc(10*time.Second, func() {
			if _, err := a.CreateRole(ctx, fleet.Root,
				keystore.Role{Namespace: "default", Name: "late",
					Permissions: fleet.Read}); err != nil {
				t.Error(err)
			}
		})
		begun := time.Now()
		b, fb := d.NodeSlow(slow, node.Settings{Lease: 5 * time.Second})
		if took := time.Since(begun); took < slow || took > slow+5*time.Second {
			t.Errorf("it started after %s", took)
		}
		_, token := fleet.Mint(t, b, manage.KeySpec{Home: &keystore.Grant{Roles: []string{"late"}}})
		fleet.Want(t, "with a role that was created meanwhile", fleet.Ask(b, token), keystore.OK)

		// It reads the whole policy again after the change log was truncated. Until then it does
		// not use the old policy.
		fb.Mute.Store(true)
		if _, _, err := a.EditRole(ctx, fleet.Root,
			keystore.RoleID{Namespace: "default", Name: "late"},
			manage.RolePatch{Permissions: []keystore.Permission{{Action: "write"}}},
			manage.ChangeOptions{Wait: time.Minute}); err != nil {
			t.Fatal(err)
		}
		d.Tamper("DELETE FROM change_log")
		fb.Mute.Store(false)
		fleet.Want(t, "after the edit", fleet.Ask(a, token), keystore.Forbidden)
		if got := fleet.Ask(b, token); got == keystore.OK {
			t.Error("a node that has missed the edit accepts the key")
		}
		time.Sleep(slow + 10*time.Second)
		fleet.Want(t, "after it has read the policy again", fleet.Ask(b, token), keystore.Forbidden)
		if n := fb.WholePolicies.Load(); n != 2 {
			t.Errorf("the whole policy was read %d times", n)
		}
		if n := fa.WholePolicies.Load(); n != 1 {
			t.Errorf("the other node read it %d times", n)
		}
	})
}

// TestChangesUnderAnotherHistory checks that a change is never authorized by a mixture of two
// histories of the database.
func TestChangesUnderAnotherHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		m, err := a.CreateMember(ctx, fleet.Root,
			keystore.Member{Name: "Ada", Grants: fleet.Grants(t, "default=read,admin.keys:create")})
		if err != nil {
			t.Fatal(err)
		}
		ada := manage.Caller{}
		if _, token, _, err := a.NewMemberToken(ctx, fleet.Root, m.ID, manage.TokenSpec{},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		} else if answer, err := a.LookupMember(ctx, token.Reveal(), time.Now()); err != nil {
			t.Fatal(err)
		} else {
			ada = manage.MemberCaller(answer.Record, "test")
		}
		kept := a.Gauges().Revision
		wide := fleet.Grants(t, "default=*,admin:*")
		if _, _, err := a.EditMember(ctx, fleet.Root, m.ID, manage.MemberPatch{Grants: &wide},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		fleet.Mint(t, a, manage.KeySpec{})
		// The edit is lost. Later changes get the revisions of the lost ones.
		d.Lose(kept, "DROP TRIGGER members_update",
			`UPDATE members SET grants = '[{"namespace":"default","permissions":["read","admin.keys:create"]}]'`)
		d.Tamper("INSERT INTO roles (namespace, name, permissions, created_at, version) VALUES "+
			"('default', 'r1', '[]', 1, 1)",
			"INSERT INTO roles (namespace, name, permissions, created_at, version) VALUES "+
				"('default', 'r2', '[]', 1, 1)",
			"INSERT INTO roles (namespace, name, permissions, created_at, version) VALUES "+
				"('default', 'r3', '[]', 1, 1)")
		_, _, err = a.MintKey(ctx, ada,
			manage.KeySpec{Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "write"}}}}, nil)
		var refused *keystore.Error
		if !errors.As(err, &refused) || refused.Code != "exceeds_caller" {
			t.Errorf("giving a permission that was granted in a lost history: %v", err)
		}
	})
}

func TestCapacity(t *testing.T) {
	type change = func(w *world) error
	role := func(namespace, name string, permissions ...keystore.Permission) change {
		return func(w *world) error {
			_, err := w.CreateRole(ctx, fleet.Root,
				keystore.Role{Namespace: namespace, Name: name,
					Permissions: append(permissions, fleet.Read...)})
			return err
		}
	}
	namespace := func(id, parent string) change {
		return func(w *world) error {
			_, err := w.CreateNamespace(ctx, fleet.Root, keystore.Namespace{ID: id, Parent: parent})
			return err
		}
	}
	member := func(holds string) change {
		return func(w *world) error {
			_, err := w.CreateMember(ctx, fleet.Root,
				keystore.Member{Name: "m", Grants: roleGrants(w, holds)})
			return err
		}
	}
	plan := func(namespace, name string) change {
		return func(w *world) error {
			_, err := w.CreatePlan(ctx, fleet.Root,
				keystore.Plan{Namespace: namespace, Name: name})
			return err
		}
	}
	long := keystore.Permission{Resource: strings.Repeat("x", 100), Action: "read"}
	wide := []keystore.Permission{long}
	for _, letter := range []string{"a", "b", "c", "d", "e"} {
		wide = append(wide, keystore.Permission{Resource: strings.Repeat(letter, 100),
			Action: "write"})
	}
	for name, test := range map[string]struct {
		capacity keystore.Capacity
		fit      []change
		refused  map[string]change
		free     change // frees capacity
		after    change // fits after free
	}{
		"Roles": {
			keystore.Capacity{Roles: keystore.Caps{Deployment: 3, PerNamespace: 2}},
			[]change{namespace("a", ""), namespace("b", "a"), namespace("c", ""), role("a", "1"),
				role("b", "2")},
			map[string]change{
				"can have at most 2 roles":           role("b", "3"),
				`namespace "a" with its descendants`: role("a", "3"),
				"mint with a new role": func(w *world) error {
					_, _, err := w.MintKey(ctx, fleet.Root,
						manage.KeySpec{Namespace: "b",
							NewRoles: []keystore.Role{{Name: "x", Permissions: fleet.Read}}}, nil)
					return err
				},
			},
			func(w *world) error {
				_, _, err := w.DeleteRole(ctx, fleet.Root,
					keystore.RoleID{Namespace: "b", Name: "2"},
					manage.ChangeOptions{})
				return err
			},
			role("b", "3"),
		},
		"Roles of the deployment": {
			keystore.Capacity{Roles: keystore.Caps{Deployment: 2, PerNamespace: 2}},
			[]change{namespace("a", ""), role("a", "1"), role("*", "2")},
			map[string]change{"the deployment can have at most 2 roles": role("default", "3")},
			func(w *world) error {
				_, _, err := w.DeleteRole(ctx, fleet.Root,
					keystore.RoleID{Namespace: "*", Name: "2"},
					manage.ChangeOptions{})
				return err
			},
			role("default", "3"),
		},
		"Plans": {
			keystore.Capacity{Plans: keystore.Caps{Deployment: 3, PerNamespace: 2}},
			[]change{namespace("a", ""), namespace("b", "a"), plan("a", "1"), plan("b", "2"),
				plan("*", "3")},
			map[string]change{
				"the deployment can have at most 3 plans": plan("default", "4"),
				"a shared one": plan("*", "4"),
			},
			func(w *world) error {
				_, _, err := w.DeletePlan(ctx, fleet.Root,
					keystore.PlanID{Namespace: "*", Name: "3"}, manage.ChangeOptions{})
				return err
			},
			plan("default", "4"),
		},
		"Plans of a namespace": {
			keystore.Capacity{Plans: keystore.Caps{Deployment: 9, PerNamespace: 2}},
			[]change{namespace("a", ""), namespace("b", "a"), plan("a", "1"), plan("b", "2"),
				plan("*", "3"), plan("*", "4")},
			map[string]change{
				`namespace "a" with its descendants can have at most 2 plans`: plan("b", "5"),
			},
			func(w *world) error {
				_, _, err := w.DeletePlan(ctx, fleet.Root,
					keystore.PlanID{Namespace: "a", Name: "1"}, manage.ChangeOptions{})
				return err
			},
			plan("b", "5"),
		},
		"Namespaces": {
			keystore.Capacity{Namespaces: keystore.Caps{Deployment: 6, PerNamespace: 3}},
			[]change{namespace("a", ""), namespace("b", "a"), namespace("c", "b"),
				namespace("d", "")},
			map[string]change{
				`namespace "a" with its descendants can have at most 3 namespaces`: namespace("e",
					"c"),
				`move`: func(w *world) error {
					parent := "c"
					_, _, err := w.EditNamespace(ctx, fleet.Root, "d",
						manage.NamespacePatch{Parent: &parent}, manage.ChangeOptions{})
					return err
				},
			},
			func(w *world) error {
				parent := ""
				_, _, err := w.EditNamespace(ctx, fleet.Root, "c",
					manage.NamespacePatch{Parent: &parent}, manage.ChangeOptions{})
				return err
			},
			namespace("e", "b"),
		},
		"Members": {
			keystore.Capacity{Members: keystore.Caps{Deployment: 3, PerNamespace: 1}},
			[]change{namespace("a", ""), namespace("b", "a"), member("b=read"),
				member("default=read")},
			map[string]change{"at most 1 members": member("a=read"),
				"in both": member("default=read b=read")},
			func(w *world) error {
				list, err := w.ListMembers(ctx, fleet.Root)
				if err != nil {
					return err
				}
				for _, m := range list {
					if m.Grants[0].Namespace == "b" {
						_, _, err = w.EditMember(ctx, fleet.Root, m.ID,
							manage.MemberPatch{Grants: new([]keystore.Grant)},
							manage.ChangeOptions{})
					}
				}
				return err
			},
			member("a=read"),
		},
		"Bytes": {
			keystore.Capacity{Directory: keystore.Caps{Deployment: 4000, PerNamespace: 1000}},
			[]change{namespace("a", ""), role("a", "1", long)},
			map[string]change{
				"bytes of namespaces, roles, plans and members": role("a", "2", wide...),
				"wider": func(w *world) error {
					_, _, err := w.EditRole(ctx, fleet.Root,
						keystore.RoleID{Namespace: "a", Name: "1"},
						manage.RolePatch{Permissions: wide}, manage.ChangeOptions{})
					return err
				},
			},
			func(w *world) error {
				_, _, err := w.EditRole(ctx, fleet.Root, keystore.RoleID{Namespace: "a", Name: "1"},
					manage.RolePatch{Permissions: fleet.Read}, manage.ChangeOptions{})
				return err
			},
			role("a", "2", long),
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, node.Settings{Capacity: test.capacity})
			for i, f := range test.fit {
				if err := f(w); err != nil {
					t.Fatal(i, err)
				}
			}
			for what, f := range test.refused {
				err := f(w)
				var refused *keystore.Error
				if !errors.As(err, &refused) || refused.Code != "capacity" ||
					refused.Kind != keystore.KindInvalid {
					t.Fatalf("%s: %v", what, err)
				}
				if strings.Contains(what, " ") && strings.ContainsAny(what, `0123456789"`) &&
					!strings.Contains(refused.Detail, what) {
					t.Errorf("%s: %s", what, refused.Detail)
				}
			}
			if err := test.free(w); err != nil {
				t.Fatal(err)
			}
			if err := test.after(w); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBeyondCapacity checks that a deployment that exceeds its caps keeps working and that only
// changes that add more are refused.
func TestBeyondCapacity(t *testing.T) {
	w := newWorldWith(t, node.Settings{})
	m, err := w.CreateMember(ctx, fleet.Root,
		keystore.Member{Name: "Ada", Grants: roleGrants(w, "default=read,write,admin.keys:create")})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		w.role("default", fmt.Sprint("r", i), "read,write")
	}
	key, token := fleet.Mint(t, w.Keystore,
		manage.KeySpec{Owner: m.ID, Home: &keystore.Grant{Permissions: fleet.Read,
			Roles: []string{"r1"}}})
	other, _ := fleet.Mint(t, w.Keystore, manage.KeySpec{Owner: m.ID})
	one := keystore.Caps{Deployment: 1, PerNamespace: 1}
	w.Configure(node.Settings{Capacity: keystore.Capacity{Namespaces: one, Roles: one,
		Members: one, Directory: one, KeysPerNamespace: 1, KeysPerOwner: 1}})
	fleet.Want(t, "its key", fleet.Ask(w.Keystore, token), keystore.OK)
	if _, err := w.CreateRole(ctx, fleet.Root,
		keystore.Role{Namespace: "default", Name: "more", Permissions: fleet.Read}); err == nil {
		t.Error("another role was created")
	}
	narrow := fleet.Grants(t, "default=read")
	off := false
	for what, change := range map[string]func() error{
		"narrow a role": func() error {
			_, _, err := w.EditRole(ctx, fleet.Root,
				keystore.RoleID{Namespace: "default", Name: "r2"},
				manage.RolePatch{Permissions: fleet.Read}, manage.ChangeOptions{})
			return err
		},
		"narrow a member": func() error {
			_, _, err := w.EditMember(ctx, fleet.Root, m.ID, manage.MemberPatch{Grants: &narrow},
				manage.ChangeOptions{})
			return err
		},
		"edit a key": func() error {
			_, _, err := w.EditKey(ctx, fleet.Root, other.ID,
				manage.KeyPatch{Permissions: &fleet.Read, Roles: new([]string)},
				manage.ChangeOptions{})
			return err
		},
		"delete a role": func() error {
			_, _, err := w.DeleteRole(ctx, fleet.Root,
				keystore.RoleID{Namespace: "default", Name: "r3"},
				manage.ChangeOptions{})
			return err
		},
		"a new token": func() error {
			_, _, _, err := w.NewMemberToken(ctx, fleet.Root, m.ID, manage.TokenSpec{},
				manage.ChangeOptions{})
			return err
		},
		"disable a member": func() error {
			_, _, err := w.EditMember(ctx, fleet.Root, m.ID, manage.MemberPatch{Active: &off},
				manage.ChangeOptions{})
			return err
		},
		"revoke a key": func() error {
			_, _, err := w.RevokeKey(ctx, fleet.Root, key.ID, "", false, manage.ChangeOptions{})
			return err
		},
	} {
		if err := change(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	fleet.Want(t, "in the end", fleet.Ask(w.Keystore, token), keystore.Revoked)
	w.Configure(node.Settings{Capacity: keystore.Capacity{Roles: keystore.Caps{PerNamespace: 1}}})
	w.role("*", "shared", "read") // counts in no namespace
}

func TestCapacityOfKeys(t *testing.T) {
	w := newWorldWith(t, node.Settings{Capacity: keystore.Capacity{KeysPerNamespace: 4,
		KeysPerOwner: 2}})
	members := make([]string, 2)
	for i := range members {
		m, err := w.CreateMember(ctx, fleet.Root,
			keystore.Member{Name: "m", Grants: roleGrants(w, "default=read")})
		if err != nil {
			t.Fatal(err)
		}
		members[i] = m.ID
	}
	spec := func(owner string) manage.KeySpec {
		return manage.KeySpec{Owner: owner, Home: &keystore.Grant{Permissions: fleet.Read}}
	}
	imports := func(partial bool, specs ...manage.KeySpec) (int, []manage.ImportRefusal,
		error) {
		var list []manage.ImportSpec
		for i, s := range specs {
			list = append(list, manage.ImportSpec{KeySpec: s, Line: i + 1,
				Digest: keystore.DigestOf(keystore.NewID())})
		}
		return w.ImportKeys(ctx, fleet.Root, list, partial, nil)
	}
	first, _ := fleet.Mint(t, w.Keystore, spec(members[0]))
	fleet.Mint(t, w.Keystore, spec(members[0]))
	refuse := func(what string, err error) {
		t.Helper()
		var refused *keystore.Error
		if !errors.As(err, &refused) || refused.Code != "capacity" {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, _, err := w.MintKey(ctx, fleet.Root, spec(members[0]), nil)
	refuse("a third key of one owner", err)
	third, _ := fleet.Mint(t, w.Keystore, spec(members[1]))
	_, _, err = w.EditKey(ctx, fleet.Root, third.ID, manage.KeyPatch{Owner: &members[0]},
		manage.ChangeOptions{})
	refuse("another owner", err)
	if n, refused, err := imports(false, spec(members[1]), spec("root")); n != 0 || err != nil ||
		len(refused) != 1 || refused[0].Code != "capacity" || refused[0].Line != 2 {
		t.Errorf("an import: %d, %v, %v", n, refused, err)
	}
	if n, refused, err := imports(true, spec(members[0]), spec("root"), spec("root")); n != 1 ||
		err != nil || len(refused) != 2 {
		t.Errorf("a partial import: %d, %v, %v", n, refused, err)
	}
	_, _, err = w.MintKey(ctx, fleet.Root, spec("root"), nil)
	refuse("a fifth key in one namespace", err)
	if _, _, err := w.RevokeKey(ctx, fleet.Root, first.ID, "", false,
		manage.ChangeOptions{}); err != nil {
		t.Error(err)
	}
	_, _, err = w.MintKey(ctx, fleet.Root, spec("root"), nil)
	refuse("while a revoked one is kept", err)
	if _, _, err := w.DeleteKey(ctx, fleet.Root, first.ID, manage.ChangeOptions{}); err != nil {
		t.Error(err)
	}
	fleet.Mint(t, w.Keystore, spec("root"))

	if _, err := w.CreatePlan(ctx, fleet.Root,
		keystore.Plan{Namespace: "default", Name: "gold"}); err != nil {
		t.Fatal(err)
	}
	uses, err := w.CapacityOfKeys(ctx)
	if err != nil || len(uses) != 2 {
		t.Fatal(uses, err)
	}
	for _, u := range append(w.CapacityUses(), uses...) {
		if used, known := map[string]int64{"keys owner": 1, "keys namespace": 4,
			"members deployment": 2, "members namespace": 2, "roles deployment": 0,
			"plans deployment": 1, "plans namespace": 1}[u.Resource+" "+
			u.Scope]; known && u.Used != used {
			t.Errorf("%+v, want %d", u, used)
		}
		if u.Cap <= 0 {
			t.Errorf("%+v", u)
		}
	}
}

// A tenant that uses up the capacity prevents neither others from removing access nor operators
// from creating members.
func TestTenantUsesUpCapacity(t *testing.T) {
	w := newWorldWith(t, node.Settings{Capacity: keystore.Capacity{
		Members:   keystore.Caps{Deployment: 12, PerNamespace: 4},
		Directory: keystore.Caps{Deployment: 20_000, PerNamespace: 19_000}}})
	for _, id := range []string{"acme", "rival"} {
		if _, err := w.CreateNamespace(ctx, fleet.Root, keystore.Namespace{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	ada, bob := w.member("ada", "acme=@client-admin"), w.member("bob", "rival=@client-admin")
	eve := w.member("eve", "rival=*")
	w.role("rival", "all", "*")
	w.role("rival", "rest", "*")
	full := func(what string, err error) {
		t.Helper()
		var refused *keystore.Error
		if !errors.As(err, &refused) || refused.Code != "capacity" {
			t.Errorf("%s: %v", what, err)
		}
	}
	var err error
	n := 0
	for ; err == nil && n < 20; n++ {
		var m *keystore.Member
		if m, err = w.CreateMember(ctx, ada,
			keystore.Member{Name: "m", Grants: roleGrants(w, "acme=read")}); err == nil {
			_, _, err = w.EditMember(ctx, ada, m.ID,
				manage.MemberPatch{Grants: new([]keystore.Grant)}, manage.ChangeOptions{})
		}
	}
	full("members whose grant is taken", err)
	if n > 6 {
		t.Errorf("one tenant created %d members without a grant", n)
	}
	_, err = w.CreateMember(ctx, ada, keystore.Member{Name: "m"})
	full("a member without a grant", err)
	if _, err = w.CreateMember(ctx, fleet.Root,
		keystore.Member{Name: "m", Grants: roleGrants(w, "rival=read")}); err != nil {
		t.Errorf("an operator creates a member: %v", err)
	}

	for i := 0; ; i++ {
		spec := keystore.Role{Namespace: "acme", Name: fmt.Sprint("r", i), Permissions: fleet.Read}
		if _, err = w.CreateRole(ctx, ada, spec); err != nil {
			break
		}
	}
	full("roles", err)
	narrow := roleGrants(w, "rival=orders:read,invoices:read,customers:read")
	if _, _, err := w.EditMember(ctx, bob, eve.Member(), manage.MemberPatch{Grants: &narrow},
		manage.ChangeOptions{}); err != nil {
		t.Errorf("narrow a member: %v", err)
	}
	if _, _, err := w.EditRole(ctx, bob, keystore.RoleID{Namespace: "rival", Name: "all"},
		manage.RolePatch{Permissions: narrow[0].Permissions},
		manage.ChangeOptions{}); err != nil {
		t.Errorf("narrow a role: %v", err)
	}
	wider := roleGrants(w, "rival=orders:read,invoices:read,customers:read,payments:read")
	_, _, err = w.EditMember(ctx, bob, eve.Member(), manage.MemberPatch{Grants: &wider},
		manage.ChangeOptions{})
	full("widen a member", err)
	small := keystore.Caps{Deployment: 1, PerNamespace: 1}
	w.Configure(node.Settings{Capacity: keystore.Capacity{Directory: small}})
	_, _, err = w.EditRole(ctx, bob, keystore.RoleID{Namespace: "rival", Name: "rest"},
		manage.RolePatch{Permissions: narrow[0].Permissions}, manage.ChangeOptions{})
	full("a tenant narrows a role of its full namespace", err)
	if _, _, err := w.EditRole(ctx, fleet.Root, keystore.RoleID{Namespace: "rival", Name: "rest"},
		manage.RolePatch{Permissions: narrow[0].Permissions},
		manage.ChangeOptions{}); err != nil {
		t.Errorf("an operator narrows a role of a full namespace: %v", err)
	}
}
