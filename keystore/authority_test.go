package keystore_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// roleGrants is grants with words that begin with @ for roles: "acme=read,@billing".
func roleGrants(t testing.TB, text string) (list []keystore.Grant) {
	t.Helper()
	for word := range strings.FieldsSeq(text) {
		ns, ps, _ := strings.Cut(word, "=")
		g := keystore.Grant{Namespace: strings.TrimSuffix(ns, "+"), Connected: strings.HasSuffix(ns, "+")}
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
	*keystore.Keystore
	ids map[string]string // of members, by name
}

// newWorld makes namespaces out of "id", "id<parent" and "id:kind<parent".
func newWorld(t testing.TB, namespaces ...string) *world {
	t.Helper()
	k, _ := newDeployment(t).node(keystore.Settings{})
	w := &world{t, k, map[string]string{"root": keystore.RootMember}}
	for _, text := range namespaces {
		id, parent, _ := strings.Cut(text, "<")
		id, kind, _ := strings.Cut(id, ":")
		if _, err := k.CreateNamespace(ctx, root, keystore.Namespace{ID: id, Kind: kind, Parent: parent}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// member makes one and returns it as a caller.
func (w *world) member(name, holds string) keystore.Caller {
	w.Helper()
	m, err := w.CreateMember(ctx, root, keystore.Member{Name: name, Login: name, Grants: roleGrants(w, holds)})
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
	if _, err := w.CreateRole(ctx, root, keystore.Role{Namespace: namespace, Name: name, Permissions: permissions(w, holds)}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) key(c keystore.Caller, home, holds string) (*keystore.Key, string) {
	w.Helper()
	key, token, err := w.MintKey(ctx, c, keystore.KeySpec{Namespace: home, Grants: roleGrants(w, holds)}, "")
	if err != nil {
		w.Fatal(err)
	}
	return key, token.Reveal()
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
	return keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: w.Policy(), Namespace: w.Policy().Namespace(namespace), Need: n})
}

func TestWhereAGrantCounts(t *testing.T) {
	w := newWorld(t, "acme:account", "eu:app<acme", "shop:workspace<eu", "other:account")
	w.role("acme", "billing", "orders:read")
	w.role("*", "support", "tickets:read")
	kinds := []string{"workspace"}
	if _, _, err := w.EditNamespace(ctx, root, "acme", keystore.NamespacePatch{Reach: &kinds}, keystore.ChangeOptions{}); err != nil {
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
		_, token := w.key(root, "acme", c.holds)
		want(t, c.holds+" for "+c.needs+" in "+c.in, w.asks(token, c.in, c.needs), c.want)
	}
	want(t, "a namespace that does not exist", w.asks(second(w.key(root, "acme", "*=*")), "nowhere", "read"), keystore.Forbidden)
}

func second[A, B any](_ A, b B) B { return b }

// A key never exceeds its owner, checked at the moment of the request.
func TestTheOwnerBoundIsLive(t *testing.T) {
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
			_, _, err := w.EditMember(ctx, root, w.ids["ada"], keystore.MemberPatch{Grants: &g}, keystore.ChangeOptions{})
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
			_, _, err := w.EditRole(ctx, root, keystore.RoleID{Namespace: "acme", Name: "edit"}, permissions(t, "read"), keystore.ChangeOptions{})
			return err
		}, keystore.Forbidden, keystore.OK},
		{"and widened", func() error {
			_, _, err := w.EditRole(ctx, root, keystore.RoleID{Namespace: "acme", Name: "edit"}, permissions(t, "*"), keystore.ChangeOptions{})
			return err
		}, keystore.OK, keystore.OK},
		{"the owner loses a namespace", grants("acme=@edit,admin.keys:*"), keystore.OK, keystore.Forbidden},
		{"the owner loses all", grants(""), keystore.Forbidden, keystore.Forbidden},
		{"the owner holds everything", grants("*=*"), keystore.OK, keystore.OK},
		{"the owner is disabled", func() error {
			_, _, err := w.EditMember(ctx, root, w.ids["ada"], keystore.MemberPatch{Active: &off}, keystore.ChangeOptions{})
			return err
		}, keystore.OwnerDisabled, keystore.OwnerDisabled},
		{"and enabled", func() error {
			_, _, err := w.EditMember(ctx, root, w.ids["ada"], keystore.MemberPatch{Active: &on}, keystore.ChangeOptions{})
			return err
		}, keystore.OK, keystore.OK},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		want(t, step.what+": acme", w.asks(token, "acme", "write"), step.acme)
		want(t, step.what+": app", w.asks(token, "app", "read"), step.app)
	}
}

// What a change of the policy takes away is gone on every node when it returns, as with a revoke, and what runs for a disabled owner is cut.
func TestAPolicyChangeIsInForceOnEveryNodeWhenItReturns(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, _ := d.node(keystore.Settings{})
	here, there := &world{t, a, map[string]string{}}, &world{t, b, map[string]string{}}
	ada := here.member("ada", "default=read,admin.keys:create")
	off, on := false, true
	for range 20 {
		_, token := here.key(ada, "default", "default=read")
		want(t, "before", there.asks(token, "default", "read"), keystore.OK)
		running, cut := enter(t, b, token)
		if _, p, err := a.EditMember(ctx, root, here.ids["ada"], keystore.MemberPatch{Active: &off}, keystore.ChangeOptions{}); err != nil || !p.Complete {
			t.Fatal(p, err)
		}
		want(t, "disabled, here", here.asks(token, "default", "read"), keystore.OwnerDisabled)
		want(t, "disabled, there", there.asks(token, "default", "read"), keystore.OwnerDisabled)
		if !*cut {
			t.Error("a request of its key goes on")
		}
		b.Leave(running)
		if _, _, err := a.EditMember(ctx, root, here.ids["ada"], keystore.MemberPatch{Active: &on}, keystore.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// enter lets a request of a key run.
func enter(t testing.TB, k *keystore.Keystore, token string) (*keystore.Running, *bool) {
	t.Helper()
	cut := new(bool)
	r := &keystore.Running{Cut: func() { *cut = true }}
	a, err := k.Lookup(ctx, token, time.Now())
	if err != nil || !k.Enter(a, r) {
		t.Fatal("the request did not enter", err)
	}
	return r, cut
}

// Each row of spec section 7a, as somebody would try it.
func TestRulesOfAuthority(t *testing.T) {
	type attempt func(w *world, who keystore.Caller) error
	mint := func(home, holds, owner string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, _, err := w.MintKey(ctx, who, keystore.KeySpec{Namespace: home, Grants: roleGrants(w, holds), Owner: w.ids[owner]}, "")
			return err
		}
	}
	makeRole := func(ns, name, holds string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, err := w.CreateRole(ctx, who, keystore.Role{Namespace: ns, Name: name, Permissions: permissions(w, holds)})
			return err
		}
	}
	editRole := func(ns, name, holds string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, _, err := w.EditRole(ctx, who, keystore.RoleID{Namespace: ns, Name: name}, permissions(w, holds), keystore.ChangeOptions{})
			return err
		}
	}
	makeMember := func(holds string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, err := w.CreateMember(ctx, who, keystore.Member{Name: "new", Grants: roleGrants(w, holds)})
			return err
		}
	}
	editMember := func(name, holds string) attempt {
		return func(w *world, who keystore.Caller) error {
			g := roleGrants(w, holds)
			_, _, err := w.EditMember(ctx, who, w.ids[name], keystore.MemberPatch{Grants: &g}, keystore.ChangeOptions{})
			return err
		}
	}
	token := func(name string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, _, _, err := w.NewMemberToken(ctx, who, w.ids[name], keystore.TokenSpec{}, keystore.ChangeOptions{})
			return err
		}
	}
	login := func(name, login string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, _, err := w.EditMember(ctx, who, w.ids[name], keystore.MemberPatch{Login: &login}, keystore.ChangeOptions{})
			return err
		}
	}
	move := func(id, parent string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, _, err := w.EditNamespace(ctx, who, id, keystore.NamespacePatch{Parent: &parent}, keystore.ChangeOptions{})
			return err
		}
	}
	reach := func(id string, kinds ...string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, _, err := w.EditNamespace(ctx, who, id, keystore.NamespacePatch{Reach: &kinds}, keystore.ChangeOptions{})
			return err
		}
	}
	newNamespace := func(id, parent string) attempt {
		return func(w *world, who keystore.Caller) error {
			_, err := w.CreateNamespace(ctx, who, keystore.Namespace{ID: id, Parent: parent})
			return err
		}
	}
	for _, c := range []struct {
		what, holds string
		try         attempt
		want        string
	}{
		{"1: a permission of one's own", "acme=read,admin.keys:create", mint("acme", "acme=read", ""), "ok"},
		{"1: a role that gives more", "acme=read,admin.keys:create", mint("acme", "acme=@writers", ""), "exceeds_caller"},
		{"1: a role that one covers", "acme=*,admin.keys:create", mint("acme", "acme=@writers", ""), "ok"},
		{"1: connected without holding it", "acme=read,admin.keys:create", mint("acme", "acme+=read", ""), "exceeds_caller"},
		{"1: connected", "acme+=read,admin.keys:create", mint("acme", "acme+=read", ""), "ok"},
		{"1: in a child, by a connected grant", "acme+=read,admin.keys:create", mint("app", "app=read", ""), "ok"},
		{"1: in a grandchild, by a connected grant", "acme+=read,admin.keys:create", mint("ws", "ws=read", ""), "insufficient_permission"},
		{"1: everywhere", "acme+=*,admin.keys:create", mint("acme", "*=read", ""), "exceeds_caller"},

		{"2: a key for another member", "acme=*,admin:*", mint("acme", "acme=read", "bob"), "ok"},
		{"2: without the permission", "acme=*,admin.keys:*", mint("acme", "acme=read", "bob"), "exceeds_caller"},
		{"2: who holds less than that one", "acme=read,admin:*", mint("acme", "acme=read", "bob"), "exceeds_caller"},
		{"2: a member with more elsewhere", "acme=*,admin:*", mint("acme", "acme=read", "wide"), "exceeds_caller"},
		{"2: for root", "*=*,admin:*", mint("acme", "acme=read", "root"), "exceeds_caller"},
		{"2: a token of another member", "acme=*,admin:*", token("bob"), "ok"},
		{"2: of one with more", "acme=read,admin:*", token("bob"), "exceeds_caller"},
		{"2: of root", "*=*,admin:*", token("root"), "builtin"},
		{"2: a login for one with more", "acme=read,admin:*", login("bob", "me"), "exceeds_caller"},
		{"2: a login", "acme=*,admin:*", login("bob", "me"), "ok"},

		{"3: a role that one covers", "acme=*,admin.roles:create", makeRole("acme", "new", "orders:read"), "ok"},
		{"3: a role that gives more", "acme=read,admin.roles:create", makeRole("acme", "new", "write"), "exceeds_caller"},
		{"3: a shared role", "acme=*,admin:*", makeRole("*", "new", "read"), "insufficient_permission"},
		{"3: a shared role, held everywhere", "*=*,admin:*", makeRole("*", "new", "read"), "ok"},
		{"3: a name that is shared", "acme=*,admin:*", makeRole("acme", "viewer", "read"), "exists"},
		{"3: widen a role", "acme=*,admin.roles:update", editRole("acme", "writers", "*"), "ok"},
		{"3: widen one beyond oneself", "acme=read,admin.roles:update", editRole("acme", "readers", "x:op"), "exceeds_caller"},
		{"3: narrow one that holds more", "acme=read,admin.roles:update", editRole("acme", "writers", "read"), "exceeds_caller"},
		{"3: a role that a connected grant takes", "acme=*,admin:*", editRole("acme", "spread", "read"), "exceeds_caller"},
		{"3: the same, held there too", "acme+=*,admin:*", editRole("acme", "spread", "read"), "ok"},
		{"3: a shared role in use elsewhere", "acme=*,admin:*", editRole("*", "common", "read"), "insufficient_permission"},
		{"3: a built-in role", "*=*,admin:*", editRole("*", "viewer", "read"), "builtin"},

		{"4: a namespace at the top", "acme=*,admin:*", newNamespace("new", ""), "insufficient_permission"},
		{"4: in the parent", "acme=admin.namespaces:create", newNamespace("new", "acme"), "ok"},
		{"4: what one takes must be one's own", "acme=admin:* other=admin.namespaces:*", move("other", "acme"), "exceeds_caller"},
		{"4: and where it goes", "other=*,admin:*", move("other", "acme"), "insufficient_permission"},
		{"4: both", "other=*,admin:* acme=admin.namespaces:create", move("other", "acme"), "ok"},
		{"4: with the new parent's help", "acme+=*,admin:* other=admin.namespaces:*", move("other", "acme"), "exceeds_caller"},
		{"4: a cycle", "*=*,admin:*", move("acme", "ws"), "invalid_fields"},
		{"4: reach down without holding it there", "acme=*,admin:*", reach("acme", "workspace"), "exceeds_caller"},
		{"4: reach down", "acme=*,admin:* ws=*", reach("acme", "workspace"), "ok"},
		{"4: move under what reaches down", "app=*,admin:* far=admin:*", move("app", "far"), "exceeds_caller"},

		{"5: what one may not read is not there", "other=*,admin:*", editRole("acme", "writers", "read"), "not_found"},
		{"5: a member elsewhere", "other=*,admin:*", editMember("bob", "other=read"), "not_found"},
		{"5: only the grants where one may", "acme=*,admin:*", editMember("both", "acme=read"), "ok"},
		{"5: and not the others", "acme=*,admin:*", editMember("both", "acme=read other=read"), "insufficient_permission"},
		{"5: only where one covers", "acme=read,admin:*", editMember("both", "acme=read"), "exceeds_caller"},
		{"5: a member with what one holds", "acme=*,admin:*", makeMember("acme=read"), "ok"},
		{"5: a member with more", "acme=read,admin:*", makeMember("acme=write"), "exceeds_caller"},
		{"5: a member everywhere", "acme=*,admin:*", makeMember("*=read"), "insufficient_permission"},
		{"5: a client admin makes a developer", "acme=@client-admin", makeMember("acme=@developer"), "ok"},
		{"5: a developer makes nobody", "acme=@developer", makeMember("acme=@viewer"), "insufficient_permission"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, "acme:account", "app:app<acme", "ws:workspace<app", "other", "far")
			kinds := []string{"workspace"}
			if _, _, err := w.EditNamespace(ctx, root, "far", keystore.NamespacePatch{Reach: &kinds}, keystore.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			w.role("acme", "writers", "read,write")
			w.role("acme", "readers", "read")
			w.role("acme", "spread", "read")
			w.role("*", "common", "read")
			w.member("bob", "acme=read,write")
			w.member("wide", "acme=read other=read")
			w.member("both", "acme=write other=write")
			w.key(root, "acme", "acme+=@spread")
			w.key(root, "other", "other=@common")
			who := w.member("who", c.holds)
			if got := code(c.try(w, who)); got != c.want {
				t.Errorf("who holds %s: %s, want %s", c.holds, got, c.want)
			}
		})
	}
}

// Whatever members and keys do, nobody comes to hold, anywhere, what was not given by who held it: no sequence of operations lets a closed circle do
// more than all of them could at the start.
func TestNoHistoryWidensWhatACircleHolds(t *testing.T) {
	const steps = 500
	w := newWorld(t, "a:account", "b:app<a", "c:workspace<b", "d:account")
	rng := rand.New(rand.NewPCG(20, 26))
	seed := []string{"a=read,x:*,admin:* b=read", "a+=x:read,admin.keys:*,admin.roles:* d=admin.namespaces:*", "c=write,admin:*"}
	type actor struct {
		caller keystore.Caller
		member string
	}
	var actors []actor
	needs := strings.Split("read write x:read x:write x:op y:read y:op admin.keys:create admin.keys:update admin.roles:create admin.members:create admin.members:update admin.namespaces:create admin.namespaces:update", " ")
	spaces := []string{"a", "b", "c", "d", "default"}
	could := map[string]bool{} // by anybody, at the start
	for i, holds := range seed {
		c := w.member(fmt.Sprint("m", i), holds)
		actors = append(actors, actor{c, w.ids[fmt.Sprint("m", i)]})
	}
	all := func() []string {
		var out []string
		for _, a := range actors {
			for _, ns := range spaces {
				for _, need := range needs {
					if w.Covers(a.caller, ns, permissions(t, need)[0]) {
						out = append(out, ns+" "+need)
					}
				}
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	for _, what := range all() {
		could[what] = true
	}
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	some := func() string {
		var parts []string
		for _, ns := range []string{"a", "b", "c", "d", "a+", "b+", "*"} {
			if rng.IntN(4) == 0 {
				parts = append(parts, ns+"="+pick(needs)+","+pick([]string{"x:op", "@r", "@s", "read", "admin.keys:read"}))
			}
		}
		return strings.Join(parts, " ")
	}
	done := map[string]int{}
	var keys []string
	for i := range steps {
		a := actors[rng.IntN(len(actors))]
		other := actors[rng.IntN(len(actors))]
		var err error
		switch rng.IntN(9) {
		case 0:
			var key *keystore.Key
			key, _, err = w.MintKey(ctx, a.caller, keystore.KeySpec{Namespace: pick(spaces), Grants: roleGrants(t, some()), Owner: pick([]string{"", other.member})}, "")
			if err == nil {
				keys = append(keys, key.ID)
			}
		case 1:
			if len(keys) > 0 {
				g := roleGrants(t, some())
				_, _, err = w.EditKey(ctx, a.caller, pick(keys), keystore.KeyPatch{Grants: &g}, keystore.ChangeOptions{})
			}
		case 2:
			_, err = w.CreateRole(ctx, a.caller, keystore.Role{Namespace: pick(spaces), Name: pick([]string{"r", "s"}), Permissions: permissions(t, pick(needs)+","+pick(needs))})
		case 3:
			_, _, err = w.EditRole(ctx, a.caller, keystore.RoleID{Namespace: pick(spaces), Name: pick([]string{"r", "s"})}, permissions(t, pick(needs)+","+pick(needs)), keystore.ChangeOptions{})
		case 4:
			g := roleGrants(t, some())
			_, _, err = w.EditMember(ctx, a.caller, other.member, keystore.MemberPatch{Grants: &g}, keystore.ChangeOptions{})
		case 5:
			name := fmt.Sprint("n", i)
			var m *keystore.Member
			m, err = w.CreateMember(ctx, a.caller, keystore.Member{Name: name, Grants: roleGrants(t, some())})
			if err == nil {
				if _, _, err := w.EditMember(ctx, root, m.ID, keystore.MemberPatch{Login: &name}, keystore.ChangeOptions{}); err != nil {
					t.Fatal(err)
				}
				if c, err := w.MemberByLogin(ctx, name, "", time.Now()); err == nil && c.Member() != "" && len(actors) < 12 {
					actors = append(actors, actor{c, m.ID})
				}
			}
		case 6:
			parent := pick(append(spaces, ""))
			_, _, err = w.EditNamespace(ctx, a.caller, pick(spaces), keystore.NamespacePatch{Parent: &parent}, keystore.ChangeOptions{})
		case 7:
			kinds := []string{pick([]string{"app", "workspace"})}
			_, _, err = w.EditNamespace(ctx, a.caller, pick(spaces), keystore.NamespacePatch{Reach: &kinds}, keystore.ChangeOptions{})
		case 8:
			_, _, _, err = w.NewMemberToken(ctx, a.caller, other.member, keystore.TokenSpec{}, keystore.ChangeOptions{})
		}
		done[code(err)]++
		if i%50 == 49 || i == steps-1 {
			for _, what := range all() {
				if !could[what] {
					t.Fatalf("after %d steps somebody holds %s, which nobody did at the start", i+1, what)
				}
			}
		}
	}
	t.Logf("%v", done)
	if done["ok"] < steps/20 {
		t.Errorf("the history is too tame: %v", done)
	}
}
