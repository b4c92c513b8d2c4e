package manage_test

import (
	"bytes"
	"log/slog"
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

// roleGrants is grants with words that begin with @ for roles: "acme=read,@billing".
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

// A world is a deployment with namespaces, members and roles in it, told in short words.
type world struct {
	testing.TB
	*manage.Keystore
	ids map[string]string // of members, by name
}

// newWorld makes namespaces out of "id", "id<parent" and "id:kind<parent".
func newWorld(t testing.TB, namespaces ...string) *world {
	t.Helper()
	k, _ := fleet.New(t).Node(node.Settings{})
	w := &world{t, k, map[string]string{"root": keystore.RootMember}}
	for _, text := range namespaces {
		id, parent, _ := strings.Cut(text, "<")
		id, kind, _ := strings.Cut(id, ":")
		if _, err := k.CreateNamespace(ctx, fleet.Root,
			keystore.Namespace{ID: id, Kind: kind, Parent: parent}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// member makes one and returns it as a caller.
func (w *world) member(name, holds string) manage.Caller {
	w.Helper()
	m, err := w.CreateMember(ctx, fleet.Root,
		keystore.Member{Name: name, Login: name, Grants: roleGrants(w, holds)})
	if err != nil {
		w.Fatal(err)
	}
	w.ids[name] = m.ID
	c, err := w.MemberByLogin(ctx, name, "test", time.Now())
	if err != nil || c.Member() == "" {
		w.Fatalf("the member's login is not known: %v", err)
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

// id is a member's: of one who is none where no member has the name.
func (w *world) id(name string) string {
	if id := w.ids[name]; id != "" || name == "" {
		return id
	}
	return "m_" + name
}

// named is a key that acts for root.
func (w *world) named(name, home, holds string) {
	w.Helper()
	key, _ := w.key(fleet.Root, home, holds)
	w.ids[name] = key.ID
}

// manages is a key at the doors of those who manage.
func (w *world) manages(token string) manage.Caller {
	w.Helper()
	a, err := w.Lookup(ctx, token, time.Now())
	if err != nil || a.Record == nil {
		w.Fatalf("lookup: %v, %v", a.Outcome, err)
	}
	return manage.KeyCaller(a.Record, "test")
}

// asks is the outcome of a request that needs a permission in a namespace.
func (w *world) asks(token, namespace, permission string) keystore.Outcome {
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
		holds, in, needs string
		want             keystore.Outcome
	}{
		{"acme=read", "acme", "read", keystore.OK},
		{"acme=read", "other", "read", keystore.Forbidden},
		{"acme=read", "eu", "read", keystore.Forbidden},
		{"acme+=read", "eu", "read", keystore.OK},
		{"eu=read", "acme", "read", keystore.Forbidden},
		{"acme=read", "shop", "read", keystore.OK}, // acme reaches workspaces below it
		{"acme=admin:*", "shop", "admin.keys:read", keystore.Forbidden},
		{"eu=read", "shop", "read", keystore.Forbidden},
		{"*=read", "shop", "read", keystore.OK},
		{"acme=@billing", "acme", "orders:read", keystore.OK},
		{"acme=@billing", "acme", "orders:write", keystore.Forbidden},
		{"acme+=@billing", "eu", "orders:read", keystore.OK}, // the role stays the parent's
		{"acme=@billing", "shop", "orders:read", keystore.OK},
		{"other=@support", "other", "tickets:read", keystore.OK},
		{"*=@support", "eu", "tickets:read", keystore.OK},
		{"acme=read other=write", "other", "write", keystore.OK},
	} {
		_, token := w.key(fleet.Root, "acme", c.holds)
		fleet.Want(t, c.holds+" for "+c.needs+" in "+c.in, w.asks(token, c.in, c.needs), c.want)
	}
	fleet.Want(t, "a namespace that does not exist",
		w.asks(second(w.key(fleet.Root, "acme", "*=*")), "nowhere", "read"), keystore.Forbidden)
}

func second[A, B any](_ A, b B) B { return b }

// A key never exceeds its owner, checked at the moment of the request.
func TestOwnerLimitsKey(t *testing.T) {
	w := newWorld(t, "acme", "app<acme", "ws<app", "elsewhere")
	w.role("acme", "edit", "read,write")
	ada := w.member("ada", "acme=@edit,admin.keys:* app=read,admin.keys:*")
	key, token := w.key(ada, "acme", "acme=read,write app=read")
	if key.Owner != w.ids["ada"] || key.CreatedBy != w.ids["ada"] {
		t.Fatalf("owner %s, made by %s", key.Owner, key.CreatedBy)
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
		{"as made", func() error { return nil }, keystore.OK, keystore.OK},
		{"the role narrowed", func() error {
			_, _, err := w.EditRole(ctx, fleet.Root,
				keystore.RoleID{Namespace: "acme", Name: "edit"},
				manage.RolePatch{Permissions: permissions(t, "read")}, manage.ChangeOptions{})
			return err
		}, keystore.Forbidden, keystore.OK},
		{"and widened", func() error {
			_, _, err := w.EditRole(ctx, fleet.Root,
				keystore.RoleID{Namespace: "acme", Name: "edit"},
				manage.RolePatch{Permissions: permissions(t, "*")}, manage.ChangeOptions{})
			return err
		}, keystore.OK, keystore.OK},
		{"the owner loses a namespace", grants("acme=@edit,admin.keys:*"), keystore.OK,
			keystore.Forbidden},
		{"the owner loses all", grants(""), keystore.Forbidden, keystore.Forbidden},
		{"the owner holds everything", grants("*=*"), keystore.OK, keystore.OK},
		{"the owner is disabled", func() error {
			_, _, err := w.EditMember(ctx, fleet.Root, w.ids["ada"],
				manage.MemberPatch{Active: &off},
				manage.ChangeOptions{})
			return err
		}, keystore.OwnerDisabled, keystore.OwnerDisabled},
		{"and enabled", func() error {
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
		// one that was allowed when it began runs on
		if *cut != (step.acme == keystore.OwnerDisabled) {
			t.Errorf("%s: a running request is cut: %t", step.what, *cut)
		}
		w.Leave(running)
		fleet.Want(t, step.what+": acme", w.asks(token, "acme", "write"), step.acme)
		fleet.Want(t, step.what+": app", w.asks(token, "app", "read"), step.app)
	}
}

// What a change of the policy takes away is gone on every node when it returns, as with a revoke,
// and what runs for a disabled owner is cut.
func TestPolicyChangeOnEveryNode(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	here, there := &world{t, a, map[string]string{}}, &world{t, b, map[string]string{}}
	ada := here.member("ada", "default=read,admin.keys:create")
	off, on := false, true
	for range 20 {
		_, token := here.key(ada, "default", "default=read")
		fleet.Want(t, "before", there.asks(token, "default", "read"), keystore.OK)
		running, cut := enter(t, b, token)
		if _, p, err := a.EditMember(ctx, fleet.Root, here.ids["ada"],
			manage.MemberPatch{Active: &off},
			manage.ChangeOptions{}); err != nil || !p.Complete {
			t.Fatal(p, err)
		}
		fleet.Want(t, "disabled, here", here.asks(token, "default", "read"), keystore.OwnerDisabled)
		fleet.Want(t, "disabled, there", there.asks(token, "default", "read"),
			keystore.OwnerDisabled)
		if !*cut {
			t.Error("a request of its key goes on")
		}
		b.Leave(running)
		if _, _, err := a.EditMember(ctx, fleet.Root, here.ids["ada"],
			manage.MemberPatch{Active: &on},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// enter lets a request of a key run.
func enter(t testing.TB, k *manage.Keystore, token string) (*node.Running, *bool) {
	t.Helper()
	cut := new(bool)
	r := &node.Running{Cut: func() { *cut = true }}
	for range 100 { // as a handler does: the change before may still be arriving
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

// Each row of spec section 7a, as somebody would try it.
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
	makeRole := func(ns, name, holds string) attempt {
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
	makeMember := func(holds string) attempt {
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
	newNamespace := func(id, parent string) attempt {
		return func(w *world, who manage.Caller) error {
			_, err := w.CreateNamespace(ctx, who, keystore.Namespace{ID: id, Parent: parent})
			return err
		}
	}
	once := func(id, parent string) attempt {
		return func(w *world, who manage.Caller) error {
			if _, err := w.CreateNamespace(ctx, fleet.Root,
				keystore.Namespace{ID: id}); err != nil {
				return err
			}
			if _, _, err := w.DeleteNamespace(ctx, fleet.Root, id,
				manage.ChangeOptions{}); err != nil {
				return err
			}
			return newNamespace(id, parent)(w, who)
		}
	}
	childPrefix := func(id, prefix string) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, err := w.EditNamespace(ctx, who, id,
				manage.NamespacePatch{ChildPrefix: &prefix}, manage.ChangeOptions{})
			return err
		}
	}
	confined := func(try attempt) attempt {
		return func(w *world, who manage.Caller) error {
			if err := childPrefix("acme", "acme-")(w, fleet.Root); err != nil {
				return err
			}
			return try(w, who)
		}
	}
	for _, c := range []struct {
		what, holds string
		try         attempt
		want        string
	}{
		{"1: a permission of one's own", "acme=read,admin.keys:create",
			mint("acme", "acme=read", ""), "ok"},
		{"1: a role that gives more", "acme=read,admin.keys:create",
			mint("acme", "acme=@writers", ""), "exceeds_caller"},
		{"1: a role that one covers", "acme=*,admin.keys:create", mint("acme", "acme=@writers", ""),
			"ok"},
		{"1: connected without holding it", "acme=read,admin.keys:create",
			mint("acme", "acme+=read", ""), "exceeds_caller"},
		{"1: connected", "acme+=read,admin.keys:create", mint("acme", "acme+=read", ""), "ok"},
		{"1: in a child, by a connected grant", "acme+=read,admin.keys:create",
			mint("app", "app=read", ""), "ok"},
		{"1: in a grandchild, by a connected grant", "acme+=read,admin.keys:create",
			mint("ws", "ws=read", ""), "insufficient_permission"},
		{"1: everywhere", "acme+=*,admin.keys:create", mint("acme", "*=read", ""),
			"exceeds_caller"},

		{"1: what a key has already", "acme=admin.keys:*", editKey("reader", "acme=read"), "ok"},
		{"1: a role, by who does not cover it", "acme=admin.keys:*",
			editKey("reader", "acme=read,@readers"), "exceeds_caller"},
		{"1: more for a key of another's", "acme=write,admin.keys:*",
			editKey("reader", "acme=read,write"), "ok"},
		{"1: which would reach further than oneself", "far=read,write,admin.keys:*",
			editKey("far", "far=read,write"), "exceeds_caller"},
		{"1: as far as oneself", "far=read,write,admin.keys:* below=write",
			editKey("far", "far=read,write"), "ok"},

		{"2: a key for another member", "acme=*,admin:*", mint("acme", "acme=read", "bob"), "ok"},
		{"2: without the permission", "acme=*,admin.keys:*,admin:read",
			mint("acme", "acme=read", "bob"), "exceeds_caller"},
		{"2: who may not read that member", "acme=*,admin.keys:*", mint("acme", "acme=read", "bob"),
			"exceeds_caller"},
		{"2: or who is none", "acme=*,admin.keys:*", mint("acme", "acme=read", "none"),
			"exceeds_caller"},
		{"2: who may read all members", "acme=*,admin.keys:* *=admin:read",
			mint("acme", "acme=read", "none"), "invalid_fields"},
		{"2: who holds less than that one", "acme=read,admin:*", mint("acme", "acme=read", "bob"),
			"exceeds_caller"},
		{"2: a member with more elsewhere", "acme=*,admin:*", mint("acme", "acme=read", "wide"),
			"exceeds_caller"},
		{"2: for root", "*=*,admin:*", mint("acme", "acme=read", "root"), "exceeds_caller"},
		{"2: a token of another member", "acme=*,admin:*", token("bob"), "ok"},
		{"2: of one with more", "acme=read,admin:*", token("bob"), "exceeds_caller"},
		{"2: of root", "*=*,admin:*", token("root"), "builtin"},
		{"2: a login for one with more", "acme=read,admin:*", login("bob", "me"), "exceeds_caller"},
		{"2: a login", "acme=*,admin:*", login("bob", "me"), "ok"},

		{"3: a role that one covers", "acme=*,admin.roles:create",
			makeRole("acme", "new", "orders:read"), "ok"},
		{"3: a role that gives more", "acme=read,admin.roles:create",
			makeRole("acme", "new", "write"), "exceeds_caller"},
		{"3: a shared role", "acme=*,admin:*", makeRole("*", "new", "read"),
			"insufficient_permission"},
		{"3: a shared role, held everywhere", "*=*,admin:*", makeRole("*", "new", "read"), "ok"},
		{"3: a name that is shared", "acme=*,admin:*", makeRole("acme", "viewer", "read"),
			"exists"},
		{"3: widen a role", "acme=*,admin.roles:update", editRole("acme", "writers", "*"), "ok"},
		{"3: widen one beyond oneself", "acme=read,admin.roles:update",
			editRole("acme", "readers", "x:op"), "exceeds_caller"},
		{"3: narrow one that holds more", "acme=read,admin.roles:update",
			editRole("acme", "writers", "read"), "exceeds_caller"},
		{"3: a role that a connected grant takes", "acme=*,admin:*",
			editRole("acme", "spread", "read"), "exceeds_caller"},
		{"3: the same, held there too", "acme+=*,admin:*", editRole("acme", "spread", "read"),
			"ok"},
		{"3: a shared role in use elsewhere", "acme=*,admin:*", editRole("*", "common", "read"),
			"insufficient_permission"},
		{"3: a built-in role", "*=*,admin:*", editRole("*", "viewer", "read"), "builtin"},

		{"4: a namespace at the top", "acme=*,admin:*", newNamespace("new", ""),
			"insufficient_permission"},
		{"4: in the parent", "acme=admin.namespaces:create", newNamespace("new", "acme"), "ok"},
		{"4: an id that was used before", "acme+=*,admin:*", once("gone", "acme"), "exists"},
		{"4: the same, for who may create anywhere", "*=admin.namespaces:create",
			once("gone", "acme"), "ok"},
		{"4: with the prefix that the parent asks for", "acme=admin.namespaces:create",
			confined(newNamespace("acme-new", "acme")), "ok"},
		{"4: without it", "acme=admin.namespaces:create", confined(newNamespace("new", "acme")),
			"invalid_fields"},
		{"4: without it, further down", "acme+=admin.namespaces:create",
			confined(newNamespace("new", "app")), "invalid_fields"},
		{"4: without it, for who may create anywhere", "*=*,admin:*",
			confined(newNamespace("new", "acme")), "invalid_fields"},
		{"4: move in without it", "other=*,admin:* acme=admin.namespaces:create",
			confined(move("other", "acme")), "invalid_fields"},
		{"4: move below without it", "other=*,admin:* app=admin.namespaces:create",
			confined(move("other", "app")), "invalid_fields"},
		{"4: what was there before stays as it is", "*=*,admin:*",
			confined(childPrefix("app", "app-")), "ok"},
		{"4: take the prefix away", "acme+=*,admin:*", confined(childPrefix("acme", "")),
			"insufficient_permission"},
		{"4: the same, for who may create it",
			"*=admin.namespaces:create acme=admin.namespaces:update",
			confined(childPrefix("acme", "")), "ok"},
		{"4: a prefix that no id has", "*=*,admin:*", childPrefix("acme", "-"), "invalid_fields"},
		{"4: what one takes must be one's own", "acme=admin:* other=admin.namespaces:*",
			move("other", "acme"), "exceeds_caller"},
		{"4: and where it goes", "other=*,admin:*", move("other", "acme"),
			"insufficient_permission"},
		{"4: both", "other=*,admin:* acme=admin.namespaces:create", move("other", "acme"), "ok"},
		{"4: with the new parent's help", "acme+=*,admin:* other=admin.namespaces:*",
			move("other", "acme"), "exceeds_caller"},
		{"4: a cycle", "*=*,admin:*", move("acme", "ws"), "invalid_fields"},
		{"4: reach down without holding it there", "acme=*,admin:*", reach("acme", "workspace"),
			"exceeds_caller"},
		{"4: reach down", "acme=*,admin:* ws=*", reach("acme", "workspace"), "ok"},
		{"4: move under what reaches down", "app=*,admin:* far=admin:*", move("app", "far"),
			"exceeds_caller"},

		{"5: what one may not read is not there", "other=*,admin:*",
			editRole("acme", "writers", "read"), "not_found"},
		{"5: a member elsewhere", "other=*,admin:*", editMember("bob", "other=read"), "not_found"},
		{"5: only the grants where one may", "acme=*,admin:*", editMember("both", "acme=read"),
			"ok"},
		{"5: and not the others", "acme=*,admin:*", editMember("both", "acme=read other=read"),
			"insufficient_permission"},
		{"5: only where one covers", "acme=read,admin:*", editMember("both", "acme=read"),
			"exceeds_caller"},
		{"5: a member with what one holds", "acme=*,admin:*", makeMember("acme=read"), "ok"},
		{"5: a member with more", "acme=read,admin:*", makeMember("acme=write"), "exceeds_caller"},
		{"5: a member everywhere", "acme=*,admin:*", makeMember("*=read"),
			"insufficient_permission"},
		{"5: a grant where one holds nothing", "acme=*,admin:*",
			mint("acme", "acme=read other=read", ""), "exceeds_caller"},
		{"5: or where there is nothing", "acme=*,admin:*",
			mint("acme", "acme=read nowhere=read", ""), "exceeds_caller"},
		{"5: or a role where there is nothing", "acme=*,admin:*",
			mint("acme", "acme=read nowhere=@none", ""), "exceeds_caller"},
		{"5: for who would see it", "acme=*,admin:* *=read",
			mint("acme", "acme=read nowhere=read", ""), "invalid_fields"},
		{"5: a member where one holds nothing", "acme=*,admin:*", makeMember("other=read"),
			"insufficient_permission"},
		{"5: a member where there is nothing", "acme=*,admin:*", makeMember("nowhere=read"),
			"insufficient_permission"},
		{"5: a move to where one may not", "acme=*,admin:*", move("acme", "other"),
			"insufficient_permission"},
		{"5: a move to where there is nothing", "acme=*,admin:*", move("acme", "nowhere"),
			"insufficient_permission"},
		{"5: a grant that names no namespace", "*=*,admin:*", makeMember("+=read"),
			"invalid_fields"},
		{"5: a client admin makes a developer", "acme=@client-admin", makeMember("acme=@developer"),
			"ok"},
		{"5: a developer makes nobody", "acme=@developer", makeMember("acme=@viewer"),
			"insufficient_permission"},

		{"6: a key makes one with what it has", "key far=read,admin.keys:*",
			mint("far", "far=read", ""), "ok"},
		{"6: which reaches further than itself", "key top+=read,admin.keys:*",
			mint("far", "far=read", ""), "exceeds_caller"},
		{"6: or is edited to", "key top+=read,write,admin.keys:*", editKey("far", "far=read,write"),
			"exceeds_caller"},
		{"6: or whose token it makes", "key top+=read,admin.keys:*", rotate("far"),
			"exceeds_caller"},
		{"6: a key for a member", "key *=*,admin:*", mint("acme", "acme=read", "bob"),
			"exceeds_caller"},
		{"6: a member made by a key", "key *=*,admin:*", makeMember("acme=read"),
			"insufficient_permission"},
		{"6: a token made by a key", "key *=*,admin:*", token("bob"), "insufficient_permission"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, "acme:account", "app:app<acme", "ws:workspace<app", "other", "top",
				"far<top", "below:workspace<far")
			kinds := []string{"workspace"}
			if _, _, err := w.EditNamespace(ctx, fleet.Root, "far",
				manage.NamespacePatch{Reach: &kinds},
				manage.ChangeOptions{}); err != nil {
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
			w.named("reader", "acme", "acme=read")
			w.named("far", "far", "far=read")
			var who manage.Caller
			if holds, key := strings.CutPrefix(c.holds, "key "); key {
				who = w.manages(second(w.key(fleet.Root, "acme", holds)))
			} else {
				who = w.member("who", c.holds)
			}
			if got := fleet.Code(c.try(w, who)); got != c.want {
				t.Errorf("who holds %s: %s, want %s", c.holds, got, c.want)
			}
		})
	}
}

// Who was revoked or narrowed since its request came in does not get through.
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
		{"rotated, and both open it", "ok", func(w *world, id string) error {
			_, _, _, err := w.RotateKey(ctx, fleet.Root, id, time.Hour, manage.ChangeOptions{})
			return err
		}},
		{"revoked", "key_revoked", func(w *world, id string) error {
			_, _, err := w.RevokeKey(ctx, fleet.Root, id, "", false, manage.ChangeOptions{})
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
		{"given to an owner with less", "exceeds_caller", func(w *world, id string) error {
			owner := w.ids["less"]
			_, _, err := w.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Owner: &owner},
				manage.ChangeOptions{})
			return err
		}},
		{"given to an owner who is disabled", "owner_disabled", func(w *world, id string) error {
			owner := w.ids["gone"]
			_, _, err := w.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Owner: &owner},
				manage.ChangeOptions{})
			return err
		}},
		{"its owner narrowed", "exceeds_caller", func(w *world, _ string) error {
			g := roleGrants(w, "acme=admin.keys:*")
			_, _, err := w.EditMember(ctx, fleet.Root, w.ids["ada"], manage.MemberPatch{Grants: &g},
				manage.ChangeOptions{})
			return err
		}},
		{"its owner disabled and enabled", "ok", func(w *world, _ string) error {
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
		asks := w.manages(token)
		if err := c.change(w, key.ID); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if _, _, err := w.MintKey(ctx, asks,
			manage.KeySpec{Namespace: "acme", Grants: roleGrants(w, "acme=read")},
			nil); fleet.Code(err) != c.want {
			t.Errorf("%s: %s, want %s", c.what, fleet.Code(err), c.want)
		}
	}
}

// What has answered is in force at the doors of those who manage too, for those who only read, on
// every node.
func TestNarrowedReadersOnEveryNode(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	here, there := &world{t, a, map[string]string{}}, &world{t, b, map[string]string{}}
	ada := here.member("ada", "default=read,admin:read")
	key, token := here.key(fleet.Root, "default", "default=read,admin:read")
	byKey := there.manages(token)
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
		"a key": there.manages(token)} {
		_, err := b.FindKey(ctx, c, other.ID)
		list, _, err2 := b.ListKeys(ctx, c, keystore.KeyFilter{}, "", 10)
		_, err3 := b.Verify(ctx, c, token, manage.Question{Permission: "read"})
		if err == nil || err3 == nil || err2 == nil &&
			slices.ContainsFunc(list, func(k keystore.Key) bool { return k.ID == other.ID }) {
			t.Errorf("%s still reads: %v, %v, %v", what, err, err2, err3)
		}
	}
}

// What a refusal, or a row of the audit log, says of what one may not read.
func TestRefusalsHideUnreadable(t *testing.T) {
	w := newWorld(t, "acme", "below:workspace<acme", "secret", "used")
	hidden := w.member("hidden", "secret=read used=read")
	inside, _ := w.key(fleet.Root, "secret", "used=read")
	if _, _, _, err := w.NewMemberToken(ctx, fleet.Root, hidden.Member(), manage.TokenSpec{},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	who := w.member("who",
		"acme=*,admin:* default=admin:read used=admin.namespaces:*,admin.members:read")
	rows, _, err := w.ListAudit(ctx, who, keystore.AuditFilter{}, "", 100)
	if err != nil || slices.ContainsFunc(rows,
		func(r keystore.AuditRow) bool { return strings.Contains(r.After, hidden.Member()) }) {
		t.Errorf("the audit log shows another's token: %v, %+v", err, rows)
	}
	deletes := func() error {
		_, _, err := w.DeleteNamespace(ctx, who, "used", manage.ChangeOptions{})
		return err
	}
	for _, c := range []struct {
		what   string
		try    func() error
		hidden string
	}{
		{"a mint for a member with grants elsewhere", func() error {
			_, _, err := w.MintKey(ctx, who,
				manage.KeySpec{Namespace: "acme", Owner: hidden.Member(),
					Grants: roleGrants(t, "acme=read")}, nil)
			return err
		}, "secret"},
		{"reach to a namespace below", func() error {
			_, _, err := w.EditNamespace(ctx, who, "acme",
				manage.NamespacePatch{Reach: &[]string{"workspace"}}, manage.ChangeOptions{})
			return err
		}, "below"},
		{"a namespace that a member uses", deletes, "secret"},
		{"a namespace that a key uses", func() error {
			if _, _, err := w.DeleteMember(ctx, fleet.Root, hidden.Member(),
				manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			return deletes()
		}, inside.ID},
	} {
		if err := c.try(); err == nil || strings.Contains(err.Error(), c.hidden) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// A row that somebody has spoilt by hand gives nothing, is told of once, and stops no node; who may
// read it sees why, and it can be mended.
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
	w := &world{t, k, map[string]string{}}
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
	asks := func(what string, role, ada keystore.Outcome) {
		t.Helper()
		if h := k.Health(ctx); h.Problem != "" { // and knows what the database has
			t.Errorf("%s: %s", what, h.Problem)
		}
		fleet.Want(t, what+": by the role", w.asks(byRole, "default", "read"), role)
		fleet.Want(t, what+": of the member", w.asks(adas.Reveal(), "default", "read"), ada)
		fleet.Want(t, what+": another", w.asks(other, "default", "read"), keystore.OK)
	}
	asks("before", keystore.OK, keystore.OK)
	d.Tamper(`UPDATE roles SET permissions = '["read","no such word"]' WHERE name = 'r'`,
		`UPDATE members SET grants = '[1]' WHERE login = 'ada'`)
	asks("spoilt", keystore.Forbidden, keystore.Forbidden)
	w.role("default", "another", "read") // the policy is read again
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
		t.Errorf("a token for whom nobody knows what it holds: %v", err)
	}
	if _, _, err := w.EditMember(ctx, fleet.Root, ada, manage.MemberPatch{Name: &ada},
		manage.ChangeOptions{}); fleet.Code(err) != "invalid_fields" {
		t.Errorf("what cannot be read was written over: %v", err)
	}
	if _, _, _, err := w.NewMemberToken(ctx, fleet.Root, ada, manage.TokenSpec{},
		manage.ChangeOptions{}); fleet.Code(err) != "invalid_fields" {
		t.Errorf("what cannot be read was written over with a token: %v", err)
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
	asks("mended", keystore.OK, keystore.OK)
	// which is no top of all namespaces
	d.Tamper(`UPDATE members SET grants = '[{"permissions":["*"],"connected":true}]' WHERE login = 'ada'`)
	asks("without a namespace", keystore.OK, keystore.Forbidden)
	d.Tamper(`UPDATE namespaces SET parent = 'default' WHERE id = 'default'`)
	if k.Health(ctx); k.Policy().Namespace("default").Unreadable == "" {
		t.Error("a namespace that lies in itself can be read")
	}
	fleet.Want(t, "in a namespace that lies in itself", w.asks(other, "default", "read"),
		keystore.Forbidden)
	if _, err := w.FindNamespace(ctx, little, "default"); err == nil {
		t.Errorf("who administers that namespace alone reads it")
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
		t.Errorf("told of %d times: %s", n, &log)
	}
}

// A member may always list, read, try and revoke the keys it owns, and an If-Match counts there
// too.
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
		manage.Question{Permission: "read"}); err != nil || v.Outcome != keystore.OK ||
		v.Key == nil {
		t.Errorf("tried: %+v, %v", v, err)
	}
	if list, _, err := w.ListKeys(ctx, ada, keystore.KeyFilter{}, "", 9); err != nil ||
		len(list) != 1 {
		t.Errorf("listed: %v, %v", list, err)
	}
	if _, _, err := w.RevokeKey(ctx, ada, key.ID, "", false,
		manage.ChangeOptions{IfVersion: 7}); fleet.Code(err) != "version_mismatch" {
		t.Errorf("revoked at another version: %v", err)
	}
	if _, _, err := w.RevokeKey(ctx, ada, key.ID, "", false,
		manage.ChangeOptions{IfVersion: 1}); err != nil {
		t.Errorf("revoked: %v", err)
	}
}
