package manage_test

import (
	"bytes"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// roleGrants parses grants like [fleet.Grants]. Words that begin with @ are roles:
// "acme=read,@billing".
func roleGrants(t testing.TB, text string) (list []keystore.Grant) {
	t.Helper()
	for word := range strings.FieldsSeq(text) {
		ns, ps, _ := strings.Cut(word, "=")
		g := keystore.Grant{Namespace: strings.TrimSuffix(ns, "+"),
			Connected: strings.HasSuffix(ns, "+")}
		for p := range strings.SplitSeq(ps, ",") {
			if role, is := strings.CutPrefix(p, "@"); is {
				g.Roles = append(g.Roles, role)
			} else if p != "" {
				g.Permissions = append(g.Permissions, permissions(t, p)...)
			}
		}
		list = append(list, g)
	}
	return list
}

func permissions(t testing.TB, words string) (list []keystore.Permission) {
	t.Helper()
	for w := range strings.SplitSeq(words, ",") {
		p, err := keystore.ParsePermission(w)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// A world is a deployment to which tests add members, roles and keys, described by short texts.
type world struct {
	testing.TB
	*manage.Keystore
	ids    map[string]string // ids of members and keys, by name
	fleet  fleet.Fleet
	faulty *fleet.Faulty
}

// newWorld returns a world with namespaces, each "id", "id<parent" or "id:kind<parent".
func newWorld(t testing.TB, namespaces ...string) *world {
	t.Helper()
	return newWorldOn(t, func(*fleet.Faulty) {}, namespaces...)
}

// newWorldOn is newWorld with a function that can change the node's database before it opens.
func newWorldOn(t testing.TB, prepare func(*fleet.Faulty), namespaces ...string) *world {
	t.Helper()
	w := openWorld(t, fleet.New(t), prepare)
	for _, text := range namespaces {
		id, parent, _ := strings.Cut(text, "<")
		id, kind, _ := strings.Cut(id, ":")
		if _, err := w.CreateNamespace(ctx, fleet.Root,
			keystore.Namespace{ID: id, Kind: kind, Parent: parent}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func openWorld(t testing.TB, d fleet.Fleet, prepare func(*fleet.Faulty)) *world {
	t.Helper()
	k, f := d.OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open, prepare)
	return &world{TB: t, Keystore: k, ids: map[string]string{"root": keystore.RootMember},
		fleet: d, faulty: f}
}

// copies fills a world and returns a function that opens copies of it. Filling one takes longer than
// most tests.
func copies(t testing.TB, fill func(*world), namespaces ...string) func(testing.TB) *world {
	t.Helper()
	s := &stage{TB: t}
	original := newWorld(s, namespaces...)
	fill(original)
	for _, f := range slices.Backward(s.cleanups) { // then the file has everything
		f()
	}
	content, err := os.ReadFile(original.fleet.Path)
	if err != nil {
		t.Fatal(err)
	}
	return func(t testing.TB) *world {
		t.Helper()
		d := fleet.New(t)
		if err := os.WriteFile(d.Path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		w := openWorld(t, d, func(*fleet.Faulty) {})
		w.ids = maps.Clone(original.ids)
		return w
	}
}

// A stage is a part of a test with cleanups of its own.
type stage struct {
	testing.TB
	cleanups []func()
}

func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// member creates a member and returns it as a caller.
func (w *world) member(name, holds string) manage.Caller {
	w.Helper()
	m, err := w.CreateMember(ctx, fleet.Root,
		keystore.Member{Name: name, Login: name, Grants: roleGrants(w, holds)})
	if err != nil {
		w.Fatal(err)
	}
	w.ids[name] = m.ID
	c, err := w.CallerByLogin(ctx, name, nil, "test", time.Now())
	if err != nil || c.Member() == "" {
		w.Fatalf("looking up the member's login: %v", err)
	}
	return c
}

func (w *world) role(namespace, name, holds string) {
	w.Helper()
	if _, err := w.CreateRole(ctx, fleet.Root,
		keystore.Role{Namespace: namespace, Name: name,
			Permissions: permissions(w, holds)}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) key(c manage.Caller, home, holds string) (*keystore.Key, string) {
	w.Helper()
	key, token, err := w.MintKey(ctx, c,
		manage.KeySpec{Namespace: home, Grants: roleGrants(w, holds)}, nil)
	if err != nil {
		w.Fatal(err)
	}
	return key, token.Reveal()
}

// id returns the id of a member, or an unused one if no member has the name.
func (w *world) id(name string) string {
	if id := w.ids[name]; id != "" || name == "" {
		return id
	}
	return "m_" + name
}

// namedKey creates a key that root owns.
func (w *world) namedKey(name, home, holds string) {
	w.Helper()
	key, _ := w.key(fleet.Root, home, holds)
	w.ids[name] = key.ID
}

// keyCaller returns the key with this token as a caller.
func (w *world) keyCaller(token string) manage.Caller {
	w.Helper()
	a, err := w.Lookup(ctx, token, time.Now())
	if err != nil || a.Record == nil {
		w.Fatalf("lookup: %v, %v", a.Outcome, err)
	}
	return manage.KeyCaller(a.Record, "test")
}

// decide returns the outcome of a request that requires a permission in a namespace.
func (w *world) decide(token, namespace, permission string) keystore.Outcome {
	w.Helper()
	a, err := w.Lookup(ctx, token, time.Now())
	if err != nil {
		w.Fatal(err)
	}
	if a.Outcome != keystore.OK {
		return a.Outcome
	}
	p := permissions(w, permission)[0]
	n := keystore.Need{Class: keystore.Write, Resource: p.Resource}
	switch p.Action {
	case "read":
		n.Class = keystore.Read
	case "write":
	default:
		n.Operation = p.Action
	}
	return keystore.Decide(a.Record,
		&keystore.Request{Now: a.Now, Policy: w.Policy(),
			Namespace: w.Policy().Namespace(namespace), Need: n})
}

func TestWhereAGrantApplies(t *testing.T) {
	w := newWorld(t, "acme:account", "eu:app<acme", "shop:workspace<eu", "other:account")
	w.role("acme", "billing", "orders:read")
	w.role("*", "support", "tickets:read")
	kinds := []string{"workspace"}
	if _, _, err := w.EditNamespace(ctx, fleet.Root, "acme", manage.NamespacePatch{Reach: &kinds},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		grants, namespace, needed string
		want                      keystore.Outcome
	}{
		{"acme=read", "acme", "read", keystore.OK},
		{"acme=read", "other", "read", keystore.Forbidden},
		{"acme=read", "eu", "read", keystore.Forbidden},
		{"acme+=read", "eu", "read", keystore.OK},
		{"eu=read", "acme", "read", keystore.Forbidden},
		{"acme=read", "shop", "read", keystore.OK}, // by the reach of acme
		{"acme=admin:*", "shop", "admin.keys:read", keystore.Forbidden},
		{"eu=read", "shop", "read", keystore.Forbidden},
		{"*=read", "shop", "read", keystore.OK},
		{"acme=@billing", "acme", "orders:read", keystore.OK},
		{"acme=@billing", "acme", "orders:write", keystore.Forbidden},
		{"acme+=@billing", "eu", "orders:read", keystore.OK}, // the role of the parent
		{"acme=@billing", "shop", "orders:read", keystore.OK},
		{"other=@support", "other", "tickets:read", keystore.OK},
		{"*=@support", "eu", "tickets:read", keystore.OK},
		{"acme=read other=write", "other", "write", keystore.OK},
	} {
		_, token := w.key(fleet.Root, "acme", c.grants)
		fleet.Want(t, c.grants+" for "+c.needed+" in "+c.namespace,
			w.decide(token, c.namespace, c.needed), c.want)
	}
	fleet.Want(t, "a namespace that does not exist",
		w.decide(second(w.key(fleet.Root, "acme", "*=*")), "nowhere", "read"), keystore.Forbidden)
}

func second[A, B any](_ A, b B) B { return b }

// TestOwnerLimitsKey checks that a key has no more permissions than its owner at the time of the
// request (docs/authority.md, rule 4).
func TestOwnerLimitsKey(t *testing.T) {
	w := newWorld(t, "acme", "app<acme", "ws<app", "elsewhere")
	w.role("acme", "edit", "read,write")
	ada := w.member("ada", "acme=@edit,admin.keys:* app=read,admin.keys:*")
	key, token := w.key(ada, "acme", "acme=read,write app=read")
	if key.Owner != w.ids["ada"] || key.CreatedBy != w.ids["ada"] {
		t.Fatalf("owner %s, created by %s", key.Owner, key.CreatedBy)
	}
	off, on := false, true
	grants := func(text string) func() error {
		return func() error {
			g := roleGrants(t, text)
			_, _, err := w.EditMember(ctx, fleet.Root, w.ids["ada"], manage.MemberPatch{Grants: &g},
				manage.ChangeOptions{})
			return err
		}
	}
	for _, step := range []struct {
		what string
		do   func() error
		acme keystore.Outcome // a write in acme
		app  keystore.Outcome // a read in app
	}{
		{"unchanged", func() error { return nil }, keystore.OK, keystore.OK},
		{"the role is narrowed", func() error {
			_, _, err := w.EditRole(ctx, fleet.Root,
				keystore.RoleID{Namespace: "acme", Name: "edit"},
				manage.RolePatch{Permissions: permissions(t, "read")}, manage.ChangeOptions{})
			return err
		}, keystore.Forbidden, keystore.OK},
		{"the role is widened", func() error {
			_, _, err := w.EditRole(ctx, fleet.Root,
				keystore.RoleID{Namespace: "acme", Name: "edit"},
				manage.RolePatch{Permissions: permissions(t, "*")}, manage.ChangeOptions{})
			return err
		}, keystore.OK, keystore.OK},
		{"the owner loses a namespace", grants("acme=@edit,admin.keys:*"), keystore.OK,
			keystore.Forbidden},
		{"the owner loses all namespaces", grants(""), keystore.Forbidden, keystore.Forbidden},
		{"the owner gets everything", grants("*=*"), keystore.OK, keystore.OK},
		{"the owner is disabled", func() error {
			_, _, err := w.EditMember(ctx, fleet.Root, w.ids["ada"],
				manage.MemberPatch{Active: &off},
				manage.ChangeOptions{})
			return err
		}, keystore.OwnerDisabled, keystore.OwnerDisabled},
		{"the owner is enabled", func() error {
			_, _, err := w.EditMember(ctx, fleet.Root, w.ids["ada"],
				manage.MemberPatch{Active: &on},
				manage.ChangeOptions{})
			return err
		}, keystore.OK, keystore.OK},
	} {
		running, cut := enter(t, w.Keystore, token)
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		// A request that was allowed when it began is cut only if the owner is disabled.
		if *cut != (step.acme == keystore.OwnerDisabled) {
			t.Errorf("%s: a running request was cut: %t", step.what, *cut)
		}
		w.Leave(running)
		fleet.Want(t, step.what+": acme", w.decide(token, "acme", "write"), step.acme)
		fleet.Want(t, step.what+": app", w.decide(token, "app", "read"), step.app)
	}
}

// TestPolicyChangeOnEveryNode checks that a change of the policy is in force on every node when it
// returns, and that running requests for a disabled owner are cut.
func TestPolicyChangeOnEveryNode(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	here := &world{TB: t, Keystore: a, ids: map[string]string{}}
	there := &world{TB: t, Keystore: b, ids: map[string]string{}}
	ada := here.member("ada", "default=read,admin.keys:create")
	off, on := false, true
	for range 20 {
		_, token := here.key(ada, "default", "default=read")
		fleet.Want(t, "before", there.decide(token, "default", "read"), keystore.OK)
		running, cut := enter(t, b, token)
		if _, p, err := a.EditMember(ctx, fleet.Root, here.ids["ada"],
			manage.MemberPatch{Active: &off},
			manage.ChangeOptions{}); err != nil || !p.Complete {
			t.Fatal(p, err)
		}
		fleet.Want(t, "disabled, here", here.decide(token, "default", "read"),
			keystore.OwnerDisabled)
		fleet.Want(t, "disabled, there", there.decide(token, "default", "read"),
			keystore.OwnerDisabled)
		if !*cut {
			t.Error("a running request of the member's key was not cut")
		}
		b.Leave(running)
		if _, _, err := a.EditMember(ctx, fleet.Root, here.ids["ada"],
			manage.MemberPatch{Active: &on},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// enter registers a running request of a key. cut reports whether it was cut.
func enter(
	t testing.TB, k *manage.Keystore, token string,
) (running *node.Running, cut *bool) {
	t.Helper()
	cut = new(bool)
	r := &node.Running{Cut: func() { *cut = true }}
	for range 100 { // like a handler: the node may still be applying the previous change
		a, err := k.Lookup(ctx, token, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if k.Enter(a, r) {
			return r, cut
		}
	}
	t.Fatal("the request did not enter")
	return nil, nil
}

// TestRulesOfAuthority tries rules 6 to 11 of docs/authority.md as different callers.
func TestRulesOfAuthority(t *testing.T) {
	type attempt func(w *world, who manage.Caller) error
	mint := func(home, holds, owner string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, err := w.MintKey(ctx, who,
				manage.KeySpec{Namespace: home, Grants: roleGrants(w, holds), Owner: w.id(owner)},
				nil)
			return err
		}
	}
	createRole := func(ns, name, holds string) attempt {
		return func(w *world, who manage.Caller) error {
			_, err := w.CreateRole(ctx, who,
				keystore.Role{Namespace: ns, Name: name, Permissions: permissions(w, holds)})
			return err
		}
	}
	editRole := func(ns, name, holds string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, err := w.EditRole(ctx, who, keystore.RoleID{Namespace: ns, Name: name},
				manage.RolePatch{Permissions: permissions(w, holds)}, manage.ChangeOptions{})
			return err
		}
	}
	createMember := func(holds string) attempt {
		return func(w *world, who manage.Caller) error {
			_, err := w.CreateMember(ctx, who,
				keystore.Member{Name: "new", Grants: roleGrants(w, holds)})
			return err
		}
	}
	editMember := func(name, holds string) attempt {
		return func(w *world, who manage.Caller) error {
			g := roleGrants(w, holds)
			_, _, err := w.EditMember(ctx, who, w.ids[name], manage.MemberPatch{Grants: &g},
				manage.ChangeOptions{})
			return err
		}
	}
	token := func(name string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, _, err := w.NewMemberToken(ctx, who, w.ids[name], manage.TokenSpec{},
				manage.ChangeOptions{})
			return err
		}
	}
	login := func(name, login string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, err := w.EditMember(ctx, who, w.ids[name], manage.MemberPatch{Login: &login},
				manage.ChangeOptions{})
			return err
		}
	}
	move := func(id, parent string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, err := w.EditNamespace(ctx, who, id, manage.NamespacePatch{Parent: &parent},
				manage.ChangeOptions{})
			return err
		}
	}
	reach := func(id string, kinds ...string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, err := w.EditNamespace(ctx, who, id, manage.NamespacePatch{Reach: &kinds},
				manage.ChangeOptions{})
			return err
		}
	}
	editKey := func(name, holds string) attempt {
		return func(w *world, who manage.Caller) error {
			g := roleGrants(w, holds)
			_, _, err := w.EditKey(ctx, who, w.ids[name], manage.KeyPatch{Grants: &g},
				manage.ChangeOptions{})
			return err
		}
	}
	rotate := func(name string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, _, err := w.RotateKey(ctx, who, w.ids[name], 0, manage.ChangeOptions{})
			return err
		}
	}
	createNamespace := func(id, parent string) attempt {
		return func(w *world, who manage.Caller) error {
			_, err := w.CreateNamespace(ctx, who, keystore.Namespace{ID: id, Parent: parent})
			return err
		}
	}
	reuseID := func(id, parent string) attempt {
		return func(w *world, who manage.Caller) error {
			if _, err := w.CreateNamespace(ctx, fleet.Root,
				keystore.Namespace{ID: id}); err != nil {
				return err
			}
			if _, _, err := w.DeleteNamespace(ctx, fleet.Root, id,
				manage.ChangeOptions{}); err != nil {
				return err
			}
			return createNamespace(id, parent)(w, who)
		}
	}
	childPrefix := func(id, prefix string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, err := w.EditNamespace(ctx, who, id,
				manage.NamespacePatch{ChildPrefix: &prefix}, manage.ChangeOptions{})
			return err
		}
	}
	moveTree := func(id, child, parent string) attempt {
		return func(w *world, who manage.Caller) error {
			if err := createNamespace(id, "")(w, fleet.Root); err != nil {
				return err
			}
			if err := createNamespace(child, id)(w, fleet.Root); err != nil {
				return err
			}
			return move(id, parent)(w, who)
		}
	}
	withPrefix := func(try attempt) attempt {
		return func(w *world, who manage.Caller) error {
			if err := childPrefix("acme", "acme-")(w, fleet.Root); err != nil {
				return err
			}
			return try(w, who)
		}
	}
	open := copies(t, func(w *world) {
		kinds := []string{"workspace"}
		if _, _, err := w.EditNamespace(ctx, fleet.Root, "far",
			manage.NamespacePatch{Reach: &kinds}, manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		w.role("acme", "writers", "read,write")
		w.role("acme", "readers", "read")
		w.role("acme", "spread", "read")
		w.role("*", "common", "read")
		w.member("bob", "acme=read,write")
		w.member("wide", "acme=read other=read")
		w.member("both", "acme=write other=write")
		w.key(fleet.Root, "acme", "acme+=@spread")
		w.key(fleet.Root, "other", "other=@common")
		w.namedKey("reader", "acme", "acme=read")
		w.namedKey("far", "far", "far=read")
	}, "acme:account", "app:app<acme", "ws:workspace<app", "other", "top", "far<top",
		"below:workspace<far")
	for _, c := range []struct {
		what, grants string // of the caller; "key " makes it a key
		try          attempt
		want         string // see fleet.Code
	}{
		{"rule 6: a permission of the caller", "acme=read,admin.keys:create",
			mint("acme", "acme=read", ""), "ok"},
		{"rule 6: a role with more permissions", "acme=read,admin.keys:create",
			mint("acme", "acme=@writers", ""), "exceeds_caller"},
		{"rule 6: a role that the caller covers", "acme=*,admin.keys:create",
			mint("acme", "acme=@writers", ""),
			"ok"},
		{"rule 6: a connected grant, from one that is not", "acme=read,admin.keys:create",
			mint("acme", "acme+=read", ""), "exceeds_caller"},
		{"rule 6: connected", "acme+=read,admin.keys:create", mint("acme", "acme+=read", ""), "ok"},
		{"rule 6: in a child, from a connected grant", "acme+=read,admin.keys:create",
			mint("app", "app=read", ""), "ok"},
		{"rule 6: in a grandchild, from a connected grant", "acme+=read,admin.keys:create",
			mint("ws", "ws=read", ""), "insufficient_permission"},
		{"rule 6: in all namespaces", "acme+=*,admin.keys:create", mint("acme", "*=read", ""),
			"exceeds_caller"},

		{"rule 6: keep the permissions of a key", "acme=admin.keys:*",
			editKey("reader", "acme=read"), "ok"},
		{"rule 6: add a role that the caller does not cover", "acme=admin.keys:*",
			editKey("reader", "acme=read,@readers"), "exceeds_caller"},
		{"rule 6: add permissions to another's key", "acme=write,admin.keys:*",
			editKey("reader", "acme=read,write"), "ok"},
		{"rule 6: add permissions that reach further than the caller's",
			"far=read,write,admin.keys:*",
			editKey("far", "far=read,write"), "exceeds_caller"},
		{"rule 6: add permissions that reach as far as the caller's",
			"far=read,write,admin.keys:* below=write",
			editKey("far", "far=read,write"), "ok"},

		{"rule 7: a key for another member", "acme=*,admin:*", mint("acme", "acme=read", "bob"),
			"ok"},
		{"rule 7: a key for another member, without the permission",
			"acme=*,admin.keys:*,admin:read",
			mint("acme", "acme=read", "bob"), "exceeds_caller"},
		{"rule 7: a key for a member that the caller may not read", "acme=*,admin.keys:*",
			mint("acme", "acme=read", "bob"),
			"exceeds_caller"},
		{"rule 7: a key for a member that does not exist", "acme=*,admin.keys:*",
			mint("acme", "acme=read", "none"),
			"exceeds_caller"},
		{"rule 7: the same, by a caller that may read all members",
			"acme=*,admin.keys:* *=admin:read",
			mint("acme", "acme=read", "none"), "invalid_fields"},
		{"rule 7: a key for a member with more permissions", "acme=read,admin:*",
			mint("acme", "acme=read", "bob"),
			"exceeds_caller"},
		{"rule 7: a key for a member with more permissions elsewhere", "acme=*,admin:*",
			mint("acme", "acme=read", "wide"),
			"exceeds_caller"},
		{"rule 7: a key for root", "*=*,admin:*", mint("acme", "acme=read", "root"),
			"exceeds_caller"},
		{"rule 7: a token of another member", "acme=*,admin:*", token("bob"), "ok"},
		{"rule 7: a token of a member with more permissions", "acme=read,admin:*", token("bob"),
			"exceeds_caller"},
		{"rule 7: a token of root", "*=*,admin:*", token("root"), "builtin"},
		{"rule 7: a login of a member with more permissions", "acme=read,admin:*",
			login("bob", "me"), "exceeds_caller"},
		{"rule 7: a login of another member", "acme=*,admin:*", login("bob", "me"), "ok"},

		{"rule 8: a role that the caller covers", "acme=*,admin.roles:create",
			createRole("acme", "new", "orders:read"), "ok"},
		{"rule 8: a role with more permissions", "acme=read,admin.roles:create",
			createRole("acme", "new", "write"), "exceeds_caller"},
		{"rule 8: a shared role", "acme=*,admin:*", createRole("*", "new", "read"),
			"insufficient_permission"},
		{"rule 8: a shared role, by a caller with a grant in *", "*=*,admin:*",
			createRole("*", "new", "read"), "ok"},
		{"rule 8: the name of a shared role", "acme=*,admin:*",
			createRole("acme", "viewer", "read"),
			"exists"},
		{"rule 8: widen a role", "acme=*,admin.roles:update", editRole("acme", "writers", "*"),
			"ok"},
		{"rule 8: widen a role beyond the caller", "acme=read,admin.roles:update",
			editRole("acme", "readers", "x:op"), "exceeds_caller"},
		{"rule 8: narrow a role with more permissions", "acme=read,admin.roles:update",
			editRole("acme", "writers", "read"), "exceeds_caller"},
		{"rule 8: a role that a connected grant uses", "acme=*,admin:*",
			editRole("acme", "spread", "read"), "exceeds_caller"},
		{"rule 8: the same, by a caller with a connected grant", "acme+=*,admin:*",
			editRole("acme", "spread", "read"),
			"ok"},
		{"rule 8: a shared role in use elsewhere", "acme=*,admin:*",
			editRole("*", "common", "read"),
			"insufficient_permission"},
		{"rule 8: a built-in role", "*=*,admin:*", editRole("*", "viewer", "read"), "builtin"},

		{"rule 9: create a namespace at the top level", "acme=*,admin:*",
			createNamespace("new", ""),
			"insufficient_permission"},
		{"rule 9: create a namespace in the parent", "acme=admin.namespaces:create",
			createNamespace("new", "acme"), "ok"},
		{"rule 9: the id of a deleted namespace", "acme+=*,admin:*", reuseID("gone", "acme"),
			"exists"},
		{"rule 9: the same, by a caller that may create anywhere", "*=admin.namespaces:create",
			reuseID("gone", "acme"), "ok"},
		{"rule 9: an id with the child_prefix of the parent", "acme=admin.namespaces:create",
			withPrefix(createNamespace("acme-new", "acme")), "ok"},
		{"rule 9: an id without it", "acme=admin.namespaces:create",
			withPrefix(createNamespace("new", "acme")),
			"invalid_fields"},
		{"rule 9: an id without it, further down", "acme+=admin.namespaces:create",
			withPrefix(createNamespace("new", "app")), "invalid_fields"},
		{"rule 9: an id without it, by a caller that may create anywhere", "*=*,admin:*",
			withPrefix(createNamespace("new", "acme")), "invalid_fields"},
		{"rule 9: move in a namespace without it", "other=*,admin:* acme=admin.namespaces:create",
			withPrefix(move("other", "acme")), "invalid_fields"},
		{"rule 9: move in a namespace without it, further down",
			"other=*,admin:* app=admin.namespaces:create",
			withPrefix(move("other", "app")), "invalid_fields"},
		{"rule 9: move a child without it in", "*=*,admin:*",
			withPrefix(moveTree("acme-new", "child", "acme")), "invalid_fields"},
		{"rule 9: move a child with it in", "*=*,admin:*",
			withPrefix(moveTree("acme-new", "acme-child", "acme")), "ok"},
		{"rule 9: edit a namespace that was there before", "*=*,admin:*",
			withPrefix(childPrefix("app", "app-")), "ok"},
		{"rule 9: remove the child_prefix", "acme+=*,admin:*", withPrefix(childPrefix("acme", "")),
			"insufficient_permission"},
		{"rule 9: the same, by a caller that may create namespaces in *",
			"*=admin.namespaces:create acme=admin.namespaces:update",
			withPrefix(childPrefix("acme", "")), "ok"},
		{"rule 9: a child_prefix that no id can have", "*=*,admin:*", childPrefix("acme", "-"),
			"invalid_fields"},
		{"rule 9: move, without the permissions in the namespace",
			"acme=admin:* other=admin.namespaces:*",
			move("other", "acme"), "exceeds_caller"},
		{"rule 9: move, without create in the new parent", "other=*,admin:*", move("other", "acme"),
			"insufficient_permission"},
		{"rule 9: move, with both", "other=*,admin:* acme=admin.namespaces:create",
			move("other", "acme"), "ok"},
		{"rule 9: move, with permissions from the new parent",
			"acme+=*,admin:* other=admin.namespaces:*",
			move("other", "acme"), "exceeds_caller"},
		{"rule 9: a cycle", "*=*,admin:*", move("acme", "ws"), "invalid_fields"},
		{"rule 9: reach descendants, without * there", "acme=*,admin:*", reach("acme", "workspace"),
			"exceeds_caller"},
		{"rule 9: reach descendants, with * there", "acme=*,admin:* ws=*",
			reach("acme", "workspace"), "ok"},
		{"rule 9: move below a namespace that reaches descendants", "app=*,admin:* far=admin:*",
			move("app", "far"),
			"exceeds_caller"},

		{"rule 10: a role that the caller may not read", "other=*,admin:*",
			editRole("acme", "writers", "read"), "not_found"},
		{"rule 10: a shared role, by a caller that may read no roles", "acme=*,admin.roles:update",
			editRole("*", "common", "read"), "not_found"},
		{"rule 10: a member that the caller may not read", "other=*,admin:*",
			editMember("bob", "other=read"), "not_found"},
		{"rule 10: only the grants that the caller may read", "acme=*,admin:*",
			editMember("both", "acme=read"),
			"ok"},
		{"rule 10: a grant that the caller may not read", "acme=*,admin:*",
			editMember("both", "acme=read other=read"),
			"insufficient_permission"},
		{"rule 10: a grant that the caller does not cover", "acme=read,admin:*",
			editMember("both", "acme=read"),
			"exceeds_caller"},
		{"rule 10: a member with the caller's permissions", "acme=*,admin:*",
			createMember("acme=read"), "ok"},
		{"rule 10: a member with more permissions", "acme=read,admin:*", createMember("acme=write"),
			"exceeds_caller"},
		{"rule 10: a member with a grant in *", "acme=*,admin:*", createMember("*=read"),
			"insufficient_permission"},
		{"rule 10: a key with a grant where the caller has nothing", "acme=*,admin:*",
			mint("acme", "acme=read other=read", ""), "exceeds_caller"},
		{"rule 10: a key with a grant in a namespace that does not exist", "acme=*,admin:*",
			mint("acme", "acme=read nowhere=read", ""), "exceeds_caller"},
		{"rule 10: a key with a role in a namespace that does not exist", "acme=*,admin:*",
			mint("acme", "acme=read nowhere=@none", ""), "exceeds_caller"},
		{"rule 10: the same, by a caller with a grant in *", "acme=*,admin:* *=read",
			mint("acme", "acme=read nowhere=read", ""), "invalid_fields"},
		{"rule 10: a member with a grant where the caller has nothing", "acme=*,admin:*",
			createMember("other=read"),
			"insufficient_permission"},
		{"rule 10: a member with a grant in a namespace that does not exist", "acme=*,admin:*",
			createMember("nowhere=read"),
			"insufficient_permission"},
		{"rule 10: a move into a namespace where the caller has nothing", "acme=*,admin:*",
			move("acme", "other"),
			"insufficient_permission"},
		{"rule 10: a move into a namespace that does not exist", "acme=*,admin:*",
			move("acme", "nowhere"),
			"insufficient_permission"},
		{"rule 10: a member with a grant without a namespace", "*=*,admin:*",
			createMember("+=read"),
			"invalid_fields"},
		{"rule 10: a client admin creates a developer", "acme=@client-admin",
			createMember("acme=@developer"),
			"ok"},
		{"rule 10: a developer creates no members", "acme=@developer", createMember("acme=@viewer"),
			"insufficient_permission"},

		{"rule 11: a key creates one with its own permissions", "key far=read,admin.keys:*",
			mint("far", "far=read", ""), "ok"},
		{"rule 11: a key creates one that reaches further", "key top+=read,admin.keys:*",
			mint("far", "far=read", ""), "exceeds_caller"},
		{"rule 11: a key edits one to reach further", "key top+=read,write,admin.keys:*",
			editKey("far", "far=read,write"),
			"exceeds_caller"},
		{"rule 11: a key rotates one that reaches further", "key top+=read,admin.keys:*",
			rotate("far"),
			"exceeds_caller"},
		{"rule 11: a key creates one that a member owns", "key *=*,admin:*",
			mint("acme", "acme=read", "bob"),
			"exceeds_caller"},
		{"rule 11: a key creates a member", "key *=*,admin:*", createMember("acme=read"),
			"insufficient_permission"},
		{"rule 11: a key creates a member's token", "key *=*,admin:*", token("bob"),
			"insufficient_permission"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := open(t)
			var who manage.Caller
			if grants, isKey := strings.CutPrefix(c.grants, "key "); isKey {
				who = w.keyCaller(second(w.key(fleet.Root, "acme", grants)))
			} else {
				who = w.member("who", c.grants)
			}
			if got := fleet.Code(c.try(w, who)); got != c.want {
				t.Errorf("with %s: %s, want %s", c.grants, got, c.want)
			}
		})
	}
}

// TestCallerChangesDuringRequest checks that a change is authorized by the permissions that the
// caller has inside the transaction, not by those at the beginning of the request
// (docs/authority.md, rule 5).
func TestCallerChangesDuringRequest(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		what, want string
		change     func(w *world, id string) error
	}{
		{"nothing", "ok", func(*world, string) error { return nil }},
		{"rotated", "key_revoked", func(w *world, id string) error {
			_, _, _, err := w.RotateKey(ctx, fleet.Root, id, 0, manage.ChangeOptions{})
			return err
		}},
		{"rotated with a grace period", "ok", func(w *world, id string) error {
			_, _, _, err := w.RotateKey(ctx, fleet.Root, id, time.Hour, manage.ChangeOptions{})
			return err
		}},
		{"revoked", "key_revoked", func(w *world, id string) error {
			_, _, err := w.RevokeKey(ctx, fleet.Root, id, "", false, manage.ChangeOptions{})
			return err
		}},
		{"deleted", "key_revoked", func(w *world, id string) error {
			fleet.Revoke(w, w.Keystore, id, 0)
			_, _, err := w.DeleteKey(ctx, fleet.Root, id, manage.ChangeOptions{})
			return err
		}},
		{"made inactive", "key_inactive", func(w *world, id string) error {
			_, _, err := w.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Active: &no},
				manage.ChangeOptions{})
			return err
		}},
		{"narrowed", "exceeds_caller", func(w *world, id string) error {
			g := roleGrants(w, "acme=admin.keys:*")
			_, _, err := w.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Grants: &g},
				manage.ChangeOptions{})
			return err
		}},
		{"given to an owner with fewer permissions", "exceeds_caller",
			func(w *world, id string) error {
				owner := w.ids["less"]
				_, _, err := w.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Owner: &owner},
					manage.ChangeOptions{})
				return err
			}},
		{"given to a disabled owner", "owner_disabled", func(w *world, id string) error {
			owner := w.ids["gone"]
			_, _, err := w.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Owner: &owner},
				manage.ChangeOptions{})
			return err
		}},
		{"owner narrowed", "exceeds_caller", func(w *world, _ string) error {
			g := roleGrants(w, "acme=admin.keys:*")
			_, _, err := w.EditMember(ctx, fleet.Root, w.ids["ada"], manage.MemberPatch{Grants: &g},
				manage.ChangeOptions{})
			return err
		}},
		{"owner disabled and enabled", "ok", func(w *world, _ string) error {
			for _, active := range []*bool{&no, &yes} {
				if _, _, err := w.EditMember(ctx, fleet.Root, w.ids["ada"],
					manage.MemberPatch{Active: active}, manage.ChangeOptions{}); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		w := newWorld(t, "acme")
		ada := w.member("ada", "acme=read,admin.keys:*")
		w.member("less", "acme=admin.keys:*")
		w.member("gone", "acme=read,admin.keys:*")
		if _, _, err := w.EditMember(ctx, fleet.Root, w.ids["gone"],
			manage.MemberPatch{Active: &no},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		key, token := w.key(ada, "acme", "acme=read,admin.keys:*")
		caller := w.keyCaller(token)
		if err := c.change(w, key.ID); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if _, _, err := w.MintKey(ctx, caller,
			manage.KeySpec{Namespace: "acme", Grants: roleGrants(w, "acme=read")},
			nil); fleet.Code(err) != c.want {
			t.Errorf("%s: %s, want %s", c.what, fleet.Code(err), c.want)
		}
	}
}

// TestUnappliedPolicy checks that a change is authorized under the database's policy, also by a
// node that has not applied it yet (docs/authority.md, rule 5).
func TestUnappliedPolicy(t *testing.T) {
	w := newWorld(t, "acme")
	other, _ := w.fleet.Node(node.Settings{})
	w.role("acme", "maker", "read,admin.keys:create")
	who := w.member("who", "acme=@maker")
	w.faulty.Mute.Store(true)
	defer w.faulty.Mute.Store(false)
	if _, _, err := other.EditRole(ctx, fleet.Root,
		keystore.RoleID{Namespace: "acme", Name: "maker"},
		manage.RolePatch{Permissions: permissions(t, "admin.keys:create")},
		manage.ChangeOptions{Wait: -1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.MintKey(ctx, who,
		manage.KeySpec{Namespace: "acme", Grants: roleGrants(t, "acme=read")},
		nil); fleet.Code(err) != "exceeds_caller" {
		t.Errorf("giving a permission that the role no longer contains: %v", err)
	}
}

// TestReachedByKeyAndOwner checks that a key changes a role only if both its own permissions and
// those of its owner cover the role in every descendant that grants of keys reach, and that the
// refusal names the permission.
func TestReachedByKeyAndOwner(t *testing.T) {
	const everywhere, most = "*=read,admin.roles:*", "top=read,admin.roles:* one=read two=read"
	for _, c := range []struct{ key, owner, want string }{
		{everywhere, most + " three=read", "ok"},
		{everywhere, most, "exceeds_caller"},
		{most, everywhere, "ok"}, // reach gives the key the permission in three
		{everywhere, strings.Replace(most, " one=read", " three=read", 1), "exceeds_caller"},
		{everywhere, strings.Replace(most, " two=read", " three=read", 1), "exceeds_caller"},
	} {
		w := newWorld(t, "top", "one:workspace<top", "two:workspace<top", "three:workspace<top")
		if _, _, err := w.EditNamespace(ctx, fleet.Root, "top",
			manage.NamespacePatch{Reach: &[]string{"workspace"}},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		w.role("top", "reader", "read")
		key, token, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "top",
			Owner: w.member("ada", c.owner).Member(), Grants: roleGrants(t, c.key)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = w.EditRole(ctx, w.keyCaller(token.Reveal()),
			keystore.RoleID{Namespace: "top", Name: "reader"},
			manage.RolePatch{Permissions: permissions(t, "orders:read")}, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("key %s with %s, its owner with %s: %v, want %s", key.ID, c.key, c.owner, err,
				c.want)
		}
		if err != nil && !strings.Contains(err.Error(), "read") {
			t.Errorf("the refusal does not name the permission: %v", err)
		}
	}
}

// TestRolesOfMembers checks that changing a role requires its permissions wherever a grant of a
// member uses it, and that such a role cannot be deleted (docs/authority.md, rule 8).
func TestRolesOfMembers(t *testing.T) {
	for _, c := range []struct {
		holds      string // what the member has
		who        string
		namespace  string // of the role
		edit, drop string
	}{
		{"acme=@r", "acme=*,admin:*", "acme", "ok", "in_use"},
		{"acme+=@r", "acme=*,admin:*", "acme", "exceeds_caller", "in_use"},
		{"acme+=@r", "acme+=*,admin:*", "acme", "ok", "in_use"},
		{"acme=write", "acme=*,admin:*", "acme", "ok", "ok"},
		{"other=@r", "acme=*,admin:*", "acme", "ok", "ok"}, // a role of the same name elsewhere
		{"other+=@s", "*=*,admin:*", "*", "ok", "in_use"},
		{"other=write", "*=*,admin:*", "*", "ok", "ok"},
	} {
		w := newWorld(t, "acme", "other")
		w.role("acme", "r", "read")
		w.role("other", "r", "read")
		w.role("*", "s", "read")
		w.member("bob", c.holds)
		who, id := w.member("who", c.who), keystore.RoleID{Namespace: c.namespace, Name: "r"}
		if id.Namespace == keystore.AnyNamespace {
			id.Name = "s"
		}
		_, _, err := w.EditRole(ctx, who, id, manage.RolePatch{Permissions: permissions(t, "write")},
			manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.edit {
			t.Errorf("%s edits role %s of a member with %s: %s, want %s", c.who, id.Name, c.holds, got,
				c.edit)
		}
		_, _, err = w.DeleteRole(ctx, who, id, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.drop {
			t.Errorf("%s deletes role %s of a member with %s: %s, want %s", c.who, id.Name, c.holds,
				got, c.drop)
		}
	}
}

// TestZeroCaller checks that a caller without a member or a key may do and read nothing.
func TestZeroCaller(t *testing.T) {
	w := newWorld(t)
	w.role("default", "clerk", "read")
	if _, err := w.CreatePlan(ctx, fleet.Root,
		keystore.Plan{Namespace: "default", Name: "gold"}); err != nil {
		t.Fatal(err)
	}
	key, token := w.key(fleet.Root, "default", "default=read")
	ada := w.member("ada", "").Member()
	var zero manage.Caller
	if zero.Actor() != "" || zero.Member() != "" || zero.Credential() != "" {
		t.Errorf("it acts as %q, %q, %q", zero.Actor(), zero.Member(), zero.Credential())
	}
	for what, try := range map[string]func() error{
		"a key": func() error { _, err := w.FindKey(ctx, zero, key.ID); return err },
		"keys": func() error {
			_, _, err := w.ListKeys(ctx, zero, keystore.KeyFilter{}, "", 1)
			return err
		},
		"a member": func() error { _, err := w.FindMember(ctx, zero, ada); return err },
		"the audit log": func() error {
			_, _, err := w.ListAudit(ctx, zero, keystore.AuditFilter{}, "", 1)
			return err
		},
		"a role": func() error {
			_, err := w.FindRole(ctx, zero, keystore.RoleID{Namespace: "default", Name: "clerk"})
			return err
		},
		"a plan": func() error {
			_, err := w.FindPlan(ctx, zero, keystore.PlanID{Namespace: "default", Name: "gold"})
			return err
		},
		"a namespace": func() error { _, err := w.FindNamespace(ctx, zero, "default"); return err },
		"a revoke": func() error {
			_, _, err := w.RevokeKey(ctx, zero, key.ID, "", false, manage.ChangeOptions{})
			return err
		},
		"may": func() error { return w.May(zero, "admin.keys", "read") },
	} {
		if err := try(); err == nil {
			t.Errorf("%s: allowed", what)
		}
	}
	if v, err := w.Verify(ctx, zero, token, manage.VerifyRequest{}); err == nil &&
		v.Outcome != keystore.Unknown {
		t.Errorf("it verifies a key: %+v", v)
	}
	if w.MayIn(zero, "admin.keys", "read", "default") || w.MayConnect(zero, "default") ||
		w.MayGive(zero, "default")(fleet.Read[0]) || w.MayRotate(zero, key) ||
		w.MayActFor(zero, ada) || w.MayMember(zero, "update", ada) {
		t.Error("an operation is offered")
	}
	if may, err := w.MaySignInAs(ctx, zero, ada); may || err != nil {
		t.Errorf("signing in as a member is offered: %t, %v", may, err)
	}
}

// TestNarrowedReadersOnEveryNode checks that a caller whose permissions were narrowed can no longer
// read on any node when the change returns.
func TestNarrowedReadersOnEveryNode(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	here := &world{TB: t, Keystore: a, ids: map[string]string{}}
	there := &world{TB: t, Keystore: b, ids: map[string]string{}}
	ada := here.member("ada", "default=read,admin:read")
	key, token := here.key(fleet.Root, "default", "default=read,admin:read")
	byKey := there.keyCaller(token)
	for what, c := range map[string]manage.Caller{"a member": ada, "a key": byKey} {
		if _, err := b.FindKey(ctx, c, key.ID); err != nil {
			t.Errorf("%s before: %v", what, err)
		}
	}
	owner := here.ids["ada"]
	if _, _, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Owner: &owner},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	g := roleGrants(t, "default=read")
	if _, p, err := a.EditMember(ctx, fleet.Root, owner, manage.MemberPatch{Grants: &g},
		manage.ChangeOptions{}); err != nil || !p.Complete {
		t.Fatal(p, err)
	}
	other, _ := here.key(fleet.Root, "default", "default=read")
	for what, c := range map[string]manage.Caller{"a member": ada,
		"a key": there.keyCaller(token)} {
		_, err := b.FindKey(ctx, c, other.ID)
		list, _, err2 := b.ListKeys(ctx, c, keystore.KeyFilter{}, "", 10)
		_, err3 := b.Verify(ctx, c, token, manage.VerifyRequest{Permission: "read"})
		if err == nil || err3 == nil || err2 == nil &&
			slices.ContainsFunc(list, func(k keystore.Key) bool { return k.ID == other.ID }) {
			t.Errorf("%s still reads: %v, %v, %v", what, err, err2, err3)
		}
	}
}

// TestRefusalsHideUnreadable checks that refusals and the audit log name no objects that the caller
// may not read (docs/authority.md, rule 10).
func TestRefusalsHideUnreadable(t *testing.T) {
	w := newWorld(t, "acme", "below:workspace<acme", "secret", "top", "used<top",
		"planned")
	if _, err := w.CreatePlan(ctx, fleet.Root,
		keystore.Plan{Namespace: "planned", Name: "gold"}); err != nil {
		t.Fatal(err)
	}
	deletesPlan := func(who manage.Caller) error {
		_, _, err := w.DeletePlan(ctx, who, keystore.PlanID{Namespace: "planned", Name: "gold"},
			manage.ChangeOptions{})
		return err
	}
	onPlan, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "planned",
		Grants: roleGrants(t, "planned=read"), Limits: keystore.KeyLimits{Plan: "gold"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	hidden := w.member("hidden", "secret=read used=read")
	inside, _ := w.key(fleet.Root, "secret", "used=read")
	if _, _, _, err := w.NewMemberToken(ctx, fleet.Root, hidden.Member(), manage.TokenSpec{},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	who := w.member("who",
		"acme=*,admin:* default=admin:read top+=admin.namespaces:*,admin.members:read "+
			"planned=admin.plans:*")
	blind := w.member("blind", "top+=admin.namespaces:*")
	rows, _, err := w.ListAudit(ctx, who, keystore.AuditFilter{}, "", 100)
	if err != nil || slices.ContainsFunc(rows,
		func(r keystore.AuditRow) bool { return strings.Contains(r.After, hidden.Member()) }) {
		t.Errorf("the audit log shows another member's token: %v, %+v", err, rows)
	}
	deletes := func(who manage.Caller) func() error {
		return func() error {
			_, _, err := w.DeleteNamespace(ctx, who, "used", manage.ChangeOptions{})
			return err
		}
	}
	for _, c := range []struct {
		what   string
		try    func() error
		hidden string
	}{
		{"a key for a member with grants elsewhere", func() error {
			_, _, err := w.MintKey(ctx, who,
				manage.KeySpec{Namespace: "acme", Owner: hidden.Member(),
					Grants: roleGrants(t, "acme=read")}, nil)
			return err
		}, "secret"},
		{"reach to a descendant", func() error {
			_, _, err := w.EditNamespace(ctx, who, "acme",
				manage.NamespacePatch{Reach: &[]string{"workspace"}}, manage.ChangeOptions{})
			return err
		}, "below"},
		{"a plan that a key has", func() error { return deletesPlan(who) }, onPlan.ID},
		{"a default plan", func() error {
			gold := "gold"
			if _, _, err := w.EditNamespace(ctx, fleet.Root, "planned",
				manage.NamespacePatch{DefaultPlan: &gold}, manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			return deletesPlan(who)
		}, "namespace planned"},
		{"a namespace in which a member has a grant", deletes(who), "secret"},
		{"the same, by a caller that may read no members", deletes(blind), hidden.Member()},
		{"a namespace in which a key has a grant", func() error {
			if _, _, err := w.DeleteMember(ctx, fleet.Root, hidden.Member(),
				manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			return deletes(who)()
		}, inside.ID},
	} {
		if err := c.try(); err == nil || strings.Contains(err.Error(), c.hidden) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if err := deletes(fleet.Root)(); err == nil || !strings.Contains(err.Error(), inside.ID) {
		t.Errorf("by a caller that may read the key: %v", err)
	}
}

// TestUnreadableLists checks that a change of a namespace or a role replaces a value that cannot be
// read or is refused, and that no key is created where the rules for keys cannot be read
// (docs/authority.md, rule 13).
func TestUnreadableLists(t *testing.T) {
	w := newWorld(t, "acme")
	w.role("acme", "r", "read")
	w.fleet.Tamper("UPDATE namespaces SET reach = '[1]' WHERE id = 'acme'",
		"UPDATE roles SET permissions = '[1]' WHERE name = 'r'")
	text, reach, roles := "x", []string{"app"}, []string{"viewer"}
	repaired := false
	for _, c := range []struct {
		patch manage.NamespacePatch
		want  string
	}{
		{manage.NamespacePatch{Name: &text}, "invalid_fields"},
		{manage.NamespacePatch{Reach: &reach}, "invalid_fields"},
		{manage.NamespacePatch{KeyRoles: &roles}, "invalid_fields"},
		{manage.NamespacePatch{Reach: &reach, KeyRoles: &roles}, "ok"},
		{manage.NamespacePatch{Name: &text}, "ok"},
	} {
		_, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "acme",
			Grants: roleGrants(t, "default=read")}, nil)
		if repaired != (err == nil) || !repaired && invalidFields(err) != "namespace" {
			t.Errorf("a key in the namespace before %+v: %v", c.patch, err)
		}
		ns, _, err := w.EditNamespace(ctx, fleet.Root, "acme", c.patch, manage.ChangeOptions{})
		if fleet.Code(err) != c.want || err == nil && ns.Unreadable != "" {
			t.Errorf("%+v: %+v, %v, want %s", c.patch, ns, err, c.want)
		}
		repaired = repaired || err == nil
	}
	id := keystore.RoleID{Namespace: "acme", Name: "r"}
	for _, c := range []struct {
		patch manage.RolePatch
		want  string
	}{
		{manage.RolePatch{Description: &text}, "invalid_fields"},
		{manage.RolePatch{Permissions: fleet.Read}, "ok"},
		{manage.RolePatch{Description: &text}, "ok"},
	} {
		r, _, err := w.EditRole(ctx, fleet.Root, id, c.patch, manage.ChangeOptions{})
		if fleet.Code(err) != c.want || err == nil && r.Unreadable != "" {
			t.Errorf("%+v: %+v, %v, want %s", c.patch, r, err, c.want)
		}
	}
}

// TestUnreadableRow checks that a row with an unreadable value grants nothing, is logged once and
// stops no node. Callers that may read the object see the reason, and it can be repaired
// (docs/authority.md, rule 13).
func TestUnreadableRow(t *testing.T) {
	d := fleet.New(t)
	db, err := sqldb.OpenSQLite(ctx, d.Path)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	k, err := manage.Open(ctx, db, nil, node.Settings{}, fleet.Observer{},
		slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, Keystore: k, ids: map[string]string{}}
	w.role("default", "r", "read")
	w.member("ada", "default=read,admin.keys:create")
	little := w.member("little", "default=admin:*")
	_, byRole := w.key(fleet.Root, "default", "default=@r")
	_, other := w.key(fleet.Root, "default", "default=read")
	_, adas, err := w.MintKey(ctx, fleet.Root,
		manage.KeySpec{Owner: w.ids["ada"], Grants: roleGrants(t, "default=read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, role, ada keystore.Outcome) {
		t.Helper()
		if h := k.Health(ctx); h.Problem != "" { // after it has applied all changes
			t.Errorf("%s: %s", what, h.Problem)
		}
		fleet.Want(t, what+": by the role", w.decide(byRole, "default", "read"), role)
		fleet.Want(t, what+": of the member", w.decide(adas.Reveal(), "default", "read"), ada)
		fleet.Want(t, what+": another", w.decide(other, "default", "read"), keystore.OK)
	}
	check("before", keystore.OK, keystore.OK)
	d.Tamper(`UPDATE roles SET permissions = '["read","no such word"]' WHERE name = 'r'`,
		`UPDATE members SET grants = '[1]' WHERE login = 'ada'`)
	check("unreadable", keystore.Forbidden, keystore.Forbidden)
	w.role("default", "another", "read") // another change of the policy
	if _, err := w.FindRole(ctx, fleet.Root,
		keystore.RoleID{Namespace: "default", Name: "r"}); err != nil {
		t.Error(err)
	}
	if r, err := w.FindRole(ctx, little,
		keystore.RoleID{Namespace: "default", Name: "r"}); err != nil || r.Unreadable == "" {
		t.Errorf("the role: %+v, %v", r, err)
	}
	ada := w.ids["ada"]
	if _, _, _, err := w.NewMemberToken(ctx, little, ada, manage.TokenSpec{},
		manage.ChangeOptions{}); fleet.Code(err) != "not_found" {
		t.Errorf("a token for a member with unreadable grants: %v", err)
	}
	if _, _, err := w.EditMember(ctx, fleet.Root, ada, manage.MemberPatch{Name: &ada},
		manage.ChangeOptions{}); fleet.Code(err) != "invalid_fields" {
		t.Errorf("an edit replaced an unreadable value: %v", err)
	}
	if _, _, _, err := w.NewMemberToken(ctx, fleet.Root, ada, manage.TokenSpec{},
		manage.ChangeOptions{}); fleet.Code(err) != "invalid_fields" {
		t.Errorf("a new token replaced an unreadable value: %v", err)
	}
	if _, _, err := w.MintKey(ctx, w.member("all", "*=*,admin:*"), manage.KeySpec{Owner: ada,
		Grants: roleGrants(t, "default=read")}, nil); fleet.Code(err) != "exceeds_caller" {
		t.Errorf("a key for a member with unreadable grants: %v", err)
	}
	g := roleGrants(t, "default=read")
	if _, _, err := w.EditMember(ctx, fleet.Root, ada, manage.MemberPatch{Grants: &g},
		manage.ChangeOptions{}); err != nil {
		t.Error(err)
	}
	if _, _, err := w.EditRole(ctx, fleet.Root, keystore.RoleID{Namespace: "default", Name: "r"},
		manage.RolePatch{Permissions: fleet.Read}, manage.ChangeOptions{}); err != nil {
		t.Error(err)
	}
	check("repaired", keystore.OK, keystore.OK)
	// A grant without a namespace is not one in all namespaces.
	d.Tamper(`UPDATE members SET grants = '[{"permissions":["*"],"connected":true}]' WHERE login = 'ada'`)
	check("without a namespace", keystore.OK, keystore.Forbidden)
	d.Tamper(`UPDATE namespaces SET parent = 'default' WHERE id = 'default'`)
	if k.Health(ctx); k.Policy().Namespace("default").Unreadable == "" {
		t.Error("a namespace that is its own parent is readable")
	}
	fleet.Want(t, "in a namespace that is its own parent", w.decide(other, "default", "read"),
		keystore.Forbidden)
	if _, err := w.FindNamespace(ctx, little, "default"); err == nil {
		t.Errorf("a caller with a grant in only that namespace reads it")
	}
	h := k.Policy().Explain(&keystore.Key{Owner: keystore.RootMember,
		Grants: roleGrants(t, "default=read")})
	if len(h[0].Effective) > 0 || !h[0].Sources[0].Cut {
		t.Errorf("explained as %+v", h)
	}
	w.role("*", "yet-another", "read")
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "ignoring unreadable database row"); n != 4 {
		t.Errorf("logged %d times: %s", n, &log)
	}
}

// TestOwnKeys checks that a member can list, verify and revoke the keys that it owns without a
// permission (docs/authority.md, rule 10), and that IfVersion applies.
func TestOwnKeys(t *testing.T) {
	w := newWorld(t, "acme", "other")
	ada := w.member("ada", "acme=read other=admin.keys:read")
	key, token, err := w.MintKey(ctx, fleet.Root,
		manage.KeySpec{Namespace: "acme", Owner: w.ids["ada"],
			Grants: roleGrants(t, "acme=read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := w.Verify(ctx, ada, token.Reveal(),
		manage.VerifyRequest{Permission: "read"}); err != nil || v.Outcome != keystore.OK ||
		v.Key == nil {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if list, _, err := w.ListKeys(ctx, ada, keystore.KeyFilter{}, "", 9); err != nil ||
		len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, _, err := w.RevokeKey(ctx, ada, key.ID, "", false,
		manage.ChangeOptions{IfVersion: 7}); fleet.Code(err) != "version_mismatch" {
		t.Errorf("revoke at another version: %v", err)
	}
	if _, _, err := w.RevokeKey(ctx, ada, key.ID, "", false,
		manage.ChangeOptions{IfVersion: 1}); err != nil {
		t.Errorf("revoke: %v", err)
	}
}
