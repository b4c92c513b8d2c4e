package manage_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

var (
	historySteps = flag.Int("history.steps", 1000,
		"operations of TestRandomHistories")
	historySeed = flag.Uint64("history.seed", 0, "repeats its run; 0: another each time")
)

// historyLength is how many operations one deployment sees.
const historyLength = 500

// Whatever a circle of members and keys does, at random and through every operation there is,
// nobody comes to do, anywhere, what none of the circle could do at the start: not they, and no
// outsider by what they give it. Requests are decided, and lists shown, as the specification says,
// at any moment.
func TestRandomHistories(t *testing.T) {
	seed := *historySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-history.seed %d", seed)
	done, steps, last := map[string]int{}, 0, time.Now()
	for n := uint64(0); steps < *historySteps && !t.Failed(); n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			h := newHistory(t, rand.New(rand.NewPCG(seed, n)))
			for i := range historyLength {
				h.step()
				if i%10 == 9 {
					h.check()
				}
				if t.Failed() {
					t.Fatalf("-history.seed %d, history %d, the last operations were\n%s", seed, n,
						strings.Join(h.log[max(0, len(h.log)-30):], "\n"))
				}
			}
			for what, n := range h.done {
				done[what] += n
			}
		})
		if steps += historyLength; time.Since(last) > time.Minute {
			last = time.Now()
			t.Logf("%d operations", steps)
		}
	}
	var did []string
	for what, n := range done {
		did = append(did, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(did)
	t.Logf("%d operations: %s", steps, strings.Join(did, ", "))
	for _, op := range operations {
		if *historySteps >= 20_000 && done[op.name+" ok"] == 0 {
			t.Errorf("%s never succeeded", op.name)
		}
	}
}

// A history is one deployment, and what the circle has of it.
type history struct {
	*world
	rng     *rand.Rand
	logins  map[string]string // of members of the circle, by id: how they sign in
	tokens  map[string]string // of members of the circle whose token it has
	secrets map[string]string // of keys: the present token, where the circle has it
	dead    []string          // tokens that open nothing any more
	order   []string          // of all these, as they came
	circle  ceiling
	others  map[string]ceiling // of outsiders, members and keys, on top of the circle's
	parked  map[string][]keystore.Grant
	now     *truth // nil: to be read
	few     bool   // of what there is, anybody holds little
	made    int
	log     []string
	done    map[string]int
}

var (
	historyKinds = []string{"account", "app", "workspace"}
	dataWords    = strings.Fields("read write * x:read x:write x:op x:* y:read y:op")
	fewWords     = strings.Fields("x:read x:op y:read y:op x:write")
	adminWords   = strings.Fields("admin:* admin:* admin:* admin:read admin.keys:* admin.keys:* " +
		"admin.keys:create admin.roles:* admin.members:* admin.namespaces:* admin.audit:read")
	historyRoles = []string{"r", "s", "t"}
	addresses    = []string{"", "", "10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"}
	historyEnds  = []time.Duration{0, 0, 0, 100 * time.Hour, 200 * time.Hour}
)

func newHistory(t *testing.T, rng *rand.Rand) *history {
	h := &history{
		world:  newWorld(t, "a:account", "b:app<a", "c:workspace<b", "d:account", "e:workspace<d"),
		rng:    rng,
		logins: map[string]string{}, tokens: map[string]string{}, secrets: map[string]string{},
		circle: ceiling{}, others: map[string]ceiling{},
		parked: map[string][]keystore.Grant{}, done: map[string]int{},
	}
	if h.oneIn(2) {
		h.root(second3(h.EditNamespace(ctx, fleet.Root, h.pick([]string{"a", "b", "b", "d"}),
			manage.NamespacePatch{Reach: &[]string{"workspace"}}, manage.ChangeOptions{})))
	}
	h.few = h.oneIn(2)
	h.role("*", "t", h.word())
	for _, ns := range []string{"a", "b", "d"} {
		h.role(ns, "r", h.word())
	}
	for i := range 3 {
		name := fmt.Sprint("m", i)
		h.member(name, h.words(true))
		h.logins[h.ids[name]] = name
		h.order = append(h.order, h.ids[name])
	}
	boss := h.member("boss", "*=*,admin:*").Member()
	h.member("little", h.words(false))
	for i, owner := range []string{"root", "root", boss, "root", "root", boss} {
		held, inactive := i < 4, i == 3 || i == 4 // held by the circle
		spec := manage.KeySpec{Namespace: h.anyNamespace(), Owner: owner,
			Grants: roleGrants(h, h.words(held)), Inactive: inactive}
		key, token, err := h.MintKey(ctx, fleet.Root, spec, nil)
		h.must(err)
		if held {
			h.secrets[key.ID] = token.Reveal()
			h.order = append(h.order, key.ID)
		}
	}
	h.now = nil
	now := h.truth()
	for id := range now.members {
		h.enters(now, id)
	}
	for id := range now.keys {
		h.enters(now, id)
	}
	return h
}

func second3[A, B any](_ A, _ B, err error) error { return err }

// enters notes what there is to have for somebody: in the circle, it is the circle's.
func (h *history) enters(now *truth, id string) {
	c := h.circle
	if !h.inCircle(id) {
		c = ceiling{}
		h.others[id] = c
	}
	c.raise(now, h.may(now, id), id)
}

func (h *history) inCircle(id string) bool {
	return h.logins[id] != "" || h.tokens[id] != "" || h.secrets[id] != ""
}

func (h *history) may(now *truth, id string) func(string, scope) uint32 {
	if strings.HasPrefix(id, "m_") {
		return now.member
	}
	return now.key
}

func (h *history) oneIn(n int) bool          { return h.rng.IntN(n) == 0 }
func (h *history) pick(list []string) string { return list[h.rng.IntN(len(list))] }
func (h *history) root(err error)            { h.must(err) }
func (h *history) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *history) namespaces() (list []string) {
	for _, ns := range h.truth().lists.namespaces {
		list = append(list, ns.ID)
	}
	return list
}

func (h *history) anyNamespace() string { return h.pick(h.namespaces()) }

func (h *history) word() string {
	if h.few {
		return h.pick(fewWords)
	}
	return h.pick(dataWords)
}

// words are grants, of those who manage or not.
func (h *history) words(admin bool) string {
	var parts []string
	sure, in := h.anyNamespace(), 3
	if h.few {
		in = 8
	}
	for _, ns := range append(h.namespaces(), "*") {
		if ns != sure && (!h.oneIn(in) || ns == "*" && !h.oneIn(3)) {
			continue
		}
		word := "=" + h.word()
		if h.oneIn(3) {
			word += ",@t"
		}
		if h.oneIn(3) && (ns == "a" || ns == "b" || ns == "d") {
			word += ",@r"
		}
		if h.oneIn(3) && ns != "*" {
			word = "+" + word
		}
		word = ns + word
		if admin {
			word += "," + h.pick(adminWords) + "," + h.pick(adminWords)
			if ns == sure {
				word += ",admin:*"
			}
		}
		if h.oneIn(3) {
			word += "," + h.word()
		}
		parts = append(parts, word)
	}
	return strings.Join(parts, " ")
}

// someGrants are words with roles, as likely to be held as not.
func (h *history) someGrants(admin bool) []keystore.Grant {
	list := roleGrants(h, h.words(admin && h.oneIn(2)))
	for i := range list {
		if h.oneIn(4) {
			list[i].Permissions = nil
		}
		if h.oneIn(3) {
			list[i].Roles = []string{h.pick(historyRoles)}
		}
		if h.oneIn(2) && len(list) > 1 {
			return list[i : i+1]
		}
	}
	return list
}

// own are the grants of one of the circle.
func (h *history) own(a actor) []keystore.Grant {
	if a.Member() != "" {
		return h.truth().members[a.id].Grants
	}
	return h.truth().keys[a.id].Grants
}

// somewhere is a namespace, rather one where somebody holds something.
func (h *history) somewhere(a actor) string {
	if own := h.own(a); len(own) > 0 && !h.oneIn(4) {
		if ns := own[h.rng.IntN(len(own))].Namespace; ns != "*" {
			return ns
		}
	}
	return h.anyNamespace()
}

// modest are grants, rather a part of what somebody holds.
func (h *history) modest(a actor, admin bool) []keystore.Grant {
	own := h.own(a)
	if len(own) == 0 || h.oneIn(3) {
		return h.someGrants(admin)
	}
	g := own[h.rng.IntN(len(own))]
	if len(g.Permissions) > 0 {
		g.Permissions = g.Permissions[h.rng.IntN(len(g.Permissions)):]
	}
	if g.Namespace == "*" && h.oneIn(2) {
		g.Namespace = h.anyNamespace()
	}
	if g.Connected && h.oneIn(2) { // in a child
		for _, ns := range h.truth().lists.namespaces {
			if ns.Parent == g.Namespace {
				g.Namespace, g.Connected, g.Roles = ns.ID, false, nil
			}
		}
	}
	if h.oneIn(3) {
		g.Roles = append(slices.Clone(g.Roles), h.pick(historyRoles))
	}
	g.Connected = g.Connected && !h.oneIn(3) || h.oneIn(8)
	return []keystore.Grant{g}
}

// somePermissions are rather such as somebody holds somewhere.
func (h *history) somePermissions(a actor) []keystore.Permission {
	if own := h.modest(a, false); len(own) > 0 && len(own[0].Permissions) > 0 && h.oneIn(2) {
		return own[0].Permissions
	}
	words := dataWords
	if h.oneIn(4) {
		words = adminWords
	}
	return permissions(h, h.pick(words)+","+h.pick(dataWords))
}

// truth is how things stand, as root reads it. It is read anew after what has succeeded.
func (h *history) truth() *truth {
	if h.now != nil {
		return h.now
	}
	t := &truth{namespaces: map[string]keystore.Namespace{},
		roles: map[keystore.RoleID]keystore.Role{}, members: map[string]keystore.Member{}, keys: map[string]keystore.Key{}}
	var err error
	t.lists.namespaces, err = h.ListNamespaces(ctx, fleet.Root)
	h.must(err)
	for _, ns := range t.lists.namespaces {
		t.namespaces[ns.ID] = ns
	}
	t.lists.roles, err = h.ListRoles(ctx, fleet.Root)
	h.must(err)
	for _, r := range t.lists.roles {
		t.roles[r.ID()] = r
	}
	t.lists.members, err = h.ListMembers(ctx, fleet.Root)
	h.must(err)
	for _, m := range t.lists.members {
		t.members[m.ID] = m
	}
	t.lists.keys, _, err = h.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 1000)
	h.must(err)
	for _, k := range t.lists.keys {
		t.keys[k.ID] = k
	}
	h.now = t
	return t
}

// check holds everybody against what there was to have.
func (h *history) check() {
	now := h.truth()
	within := func(id string) {
		may := h.may(now, id)
		for _, s := range now.scopes() {
			for i, d := range demands {
				if excess := may(id, s) &^ (h.circle[s] | h.others[id][s]); excess&(1<<i) != 0 {
					h.Errorf("%s may do %v in %v, which was not to be had", id, d, s)
				}
			}
		}
	}
	for id := range now.members {
		within(id)
	}
	for id := range now.keys {
		within(id)
	}
}

// An actor is one of the circle at a door.
type actor struct {
	manage.Caller
	id string
}

// actor picks one that the door lets in.
func (h *history) actor() (actor, bool) {
	id := h.pick(h.order)
	if login := h.logins[id]; login != "" {
		c, err := h.MemberByLogin(ctx, login, "", time.Now())
		h.must(err)
		return actor{c, id}, c.Member() == id
	}
	look, door, token := h.Lookup, manage.KeyCaller, h.secrets[id]
	if token == "" {
		look, door, token = h.LookupMember, manage.MemberCaller, h.tokens[id]
	}
	a, err := look(ctx, token, time.Now())
	h.must(err)
	if a.Record == nil {
		return actor{}, false
	}
	q := keystore.Request{Now: a.Now, Policy: h.Policy(),
		Namespace: h.Policy().Namespace("default")}
	if len(a.Record.AllowedIPs) > 0 {
		q.Client = a.Record.AllowedIPs[0].Addr()
	}
	outcome := keystore.Decide(a.Record, &q)
	return actor{door(a.Record, ""), id}, outcome == keystore.OK || outcome == keystore.Forbidden
}

func (h *history) step() {
	a, in := h.actor()
	for range 5 {
		if in {
			break
		}
		a, in = h.actor()
	}
	op := operations[h.rng.IntN(len(operations))]
	if h.oneIn(3) {
		op = operations[h.rng.IntN(often)]
	}
	if !in {
		h.done["nobody"]++
		return
	}
	what, err := op.do(h, a)
	if err == nil && op.name != "request" && op.name != "lists" {
		h.now = nil
	}
	h.done[op.name+" "+fleet.Code(err)]++
	h.log = append(h.log, fmt.Sprintf("%s: %s %s: %s", a.id, op.name, what, fleet.Code(err)))
}

// someKey is the id of any key, rather one that lives where somebody holds something.
func (h *history) someKey(a actor) string {
	keys := h.truth().lists.keys
	if home := h.somewhere(a); !h.oneIn(3) {
		near := slices.DeleteFunc(slices.Clone(keys),
			func(k keystore.Key) bool { return k.Namespace != home || k.ID == a.id && !h.oneIn(8) })
		if len(near) > 0 {
			keys = near
		}
	}
	if len(keys) == 0 {
		return "none"
	}
	return keys[h.rng.IntN(len(keys))].ID
}

// someMember is the id of any member.
func (h *history) someMember() string {
	members := h.truth().lists.members
	if len(members) == 0 {
		return "m_none"
	}
	return members[h.rng.IntN(len(members))].ID
}

func (h *history) someOwner() string {
	switch h.rng.IntN(8) {
	case 0:
		return h.someMember()
	case 1:
		return keystore.RootMember
	}
	return ""
}

func (h *history) someAddresses() []netip.Prefix {
	if text := h.pick(addresses); text != "" {
		return []netip.Prefix{netip.MustParsePrefix(text)}
	}
	return nil
}

func (h *history) someSpec(a actor) manage.KeySpec {
	spec := manage.KeySpec{Namespace: h.somewhere(a), Owner: h.someOwner(),
		AllowedIPs: h.someAddresses(), Inactive: h.oneIn(8)}
	if ends := historyEnds[h.rng.IntN(len(historyEnds))]; ends != 0 {
		spec.ExpiresAt = time.Now().Add(ends)
	}
	if h.oneIn(2) {
		spec.Home = &keystore.Grant{Permissions: h.somePermissions(a), Connected: h.oneIn(3)}
	} else {
		spec.Grants = h.modest(a, h.oneIn(3))
	}
	if h.oneIn(6) {
		spec.NewRoles = []keystore.Role{{Name: h.pick(historyRoles),
			Permissions: h.somePermissions(a)}}
	}
	return spec
}

// has notes a key whose token the circle has.
func (h *history) has(by actor, key *keystore.Key, token string) {
	if old := h.secrets[key.ID]; old != "" {
		h.dead = append(h.dead, old)
	}
	h.secrets[key.ID] = token
	h.joins(key.ID)
	if by.Member() != "" {
		return
	}
	maker := h.truth().keys[by.id]
	if !maker.ExpiresAt.IsZero() &&
		(key.ExpiresAt.IsZero() || key.ExpiresAt.After(maker.ExpiresAt)) {
		h.Errorf("key %s ends later than %s, which made it", key.ID, maker.ID)
	}
	inside := func(p netip.Prefix) bool {
		return slices.ContainsFunc(maker.AllowedIPs,
			func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) })
	}
	if len(maker.AllowedIPs) > 0 &&
		(len(key.AllowedIPs) == 0 || slices.ContainsFunc(key.AllowedIPs,
			func(p netip.Prefix) bool { return !inside(p) })) {
		h.Errorf("key %s may be used from more addresses than %s, which made it", key.ID, maker.ID)
	}
}

// joins notes whom the circle can be: what there was to have for that one, there is not for that
// reason alone.
func (h *history) joins(id string) {
	delete(h.others, id)
	if !slices.Contains(h.order, id) {
		h.order = append(h.order, id)
	}
}

// grown is what the own grants of the keys in namespaces with grow_only give.
func (h *history) grown(now *truth) map[string]ceiling {
	out := map[string]ceiling{}
	for id, k := range now.keys {
		if now.namespaces[k.Namespace].EditPolicy == keystore.EditGrowOnly && k.RevokedAt.IsZero() {
			out[id] = ceiling{}
			for _, s := range now.scopes() {
				out[id][s] = now.grants(k.Grants, s, true)
			}
		}
	}
	return out
}

// growing does something that must not take from those.
func (h *history) growing(do func() error) error {
	was := h.grown(h.truth())
	err := do()
	if err != nil || len(was) == 0 {
		return err
	}
	h.now = nil
	is := h.grown(h.truth())
	for id, before := range was {
		for s, mask := range before {
			if lost := mask &^ is[id][s]; lost != 0 {
				h.Errorf("key %s lost %b in %v, where keys only grow", id, lost, s)
			}
		}
	}
	return err
}

// often is how many of the operations are more likely than the others.
const often = 6

// operations are what the circle does; those of root take away and give back.
var operations = []struct {
	name string
	do   func(h *history, a actor) (what string, err error)
}{
	{"mint", func(h *history, a actor) (string, error) {
		spec := h.someSpec(a)
		key, token, err := h.MintKey(ctx, a.Caller, spec, nil)
		if err == nil {
			h.has(a, key, token.Reveal())
		}
		return fmt.Sprintf("%+v", spec), err
	}},
	{"edit", func(h *history, a actor) (string, error) {
		id, yes, no := h.someKey(a), true, false
		var patch manage.KeyPatch
		switch h.rng.IntN(10) {
		case 0, 1:
			g := h.modest(a, h.oneIn(3))
			patch.Grants = &g
		case 2:
			p := h.somePermissions(a)
			patch.Permissions = &p
		case 3:
			patch.Roles = &[]string{h.pick(historyRoles)}
			patch.Connected = &yes
		case 4:
			patch.Active = []*bool{&yes, &no}[h.rng.IntN(2)]
		case 5:
			list := h.someAddresses()
			patch.AllowedIPs = &list
		case 6:
			owner := h.someOwner()
			if owner == "" {
				owner = a.Member()
			}
			patch.Owner = &owner
		case 7:
			patch.NewRoles = []keystore.Role{{Name: h.pick(historyRoles),
				Permissions: h.somePermissions(a)}}
		case 8:
			patch.Edits.Add = h.modest(a, h.oneIn(3))
		case 9:
			if grants := h.truth().keys[id].Grants; len(grants) > 0 {
				g := grants[h.rng.IntN(len(grants))]
				if patch.Edits.Remove = []keystore.Grant{g}; h.oneIn(2) {
					patch.Edits = manage.GrantEdits{RemoveNamespaces: []string{g.Namespace}}
				}
			}
		}
		err := h.growing(func() error {
			return second3(h.EditKey(ctx, a.Caller, id, patch,
				manage.ChangeOptions{Wait: -1}))
		})
		if err == nil && id == a.id {
			h.Errorf("key %s has changed itself", id)
		}
		return fmt.Sprintf("%s %+v", id, patch), err
	}},
	{"rotate", func(h *history, a actor) (string, error) {
		id := h.someKey(a)
		key, token, _, err := h.RotateKey(ctx, a.Caller, id, 0, manage.ChangeOptions{Wait: -1})
		if err == nil {
			h.has(a, key, token.Reveal())
		}
		return id, err
	}},
	{"edit role", func(h *history, a actor) (string, error) {
		id := h.someRole(a)
		list := h.somePermissions(a)
		err := h.growing(func() error {
			return second3(h.EditRole(ctx, a.Caller, id, manage.RolePatch{Permissions: list},
				manage.ChangeOptions{Wait: -1}))
		})
		return fmt.Sprint(id, list), err
	}},
	{"move", func(h *history, a actor) (string, error) {
		id, parent := h.somewhere(a), h.pick([]string{h.somewhere(a), h.somewhere(a), ""})
		_, _, err := h.EditNamespace(ctx, a.Caller, id, manage.NamespacePatch{Parent: &parent},
			manage.ChangeOptions{Wait: -1})
		return id + " to " + parent, err
	}},
	{"reach", func(h *history, a actor) (string, error) {
		id, kinds := h.somewhere(a), []string{h.pick(historyKinds)}
		if h.oneIn(3) {
			kinds = nil
		}
		_, _, err := h.EditNamespace(ctx, a.Caller, id, manage.NamespacePatch{Reach: &kinds},
			manage.ChangeOptions{Wait: -1})
		return fmt.Sprint(id, kinds), err
	}},
	{"import", func(h *history, a actor) (string, error) {
		h.made++
		spec := manage.ImportSpec{KeySpec: h.someSpec(a), Line: 1,
			Token: fmt.Sprintf("made-elsewhere-%d-%d", h.made, h.rng.Uint64())}
		spec.NewRoles = nil
		n, refused, err := h.ImportKeys(ctx, a.Caller, []manage.ImportSpec{spec}, false, nil)
		switch {
		case err != nil:
		case n == 0:
			err = &keystore.Error{Code: refused[0].Code}
		default:
			answer, err := h.Lookup(ctx, spec.Token, time.Now())
			h.must(err)
			key, err := h.FindKey(ctx, fleet.Root, answer.Record.KeyID)
			h.must(err)
			h.has(a, key, spec.Token)
		}
		return fmt.Sprintf("%+v", spec.KeySpec), err
	}},
	{"revoke", func(h *history, a actor) (string, error) {
		id := h.someKey(a)
		if !h.oneIn(6) && id != a.id {
			return id + " not", nil
		}
		_, _, err := h.RevokeKey(ctx, a.Caller, id, "", h.oneIn(2),
			manage.ChangeOptions{Wait: -1})
		return id, err
	}},
	{"delete", func(h *history, a actor) (string, error) {
		id := h.someKey(a)
		_, _, err := h.DeleteKey(ctx, a.Caller, id, manage.ChangeOptions{Wait: -1})
		return id, err
	}},
	{"new role", func(h *history, a actor) (string, error) {
		role := keystore.Role{Namespace: h.pick([]string{h.somewhere(a), h.somewhere(a), "*"}),
			Name: h.pick(historyRoles), Permissions: h.somePermissions(a)}
		_, err := h.CreateRole(ctx, a.Caller, role)
		return fmt.Sprintf("%+v", role), err
	}},
	{"delete role", func(h *history, a actor) (string, error) {
		id := h.someRole(a)
		_, _, err := h.DeleteRole(ctx, a.Caller, id, manage.ChangeOptions{Wait: -1})
		return fmt.Sprint(id), err
	}},
	{"new member", func(h *history, a actor) (string, error) {
		h.made++
		m := keystore.Member{Name: "new", Login: fmt.Sprint("n", h.made),
			Grants: h.modest(a, h.oneIn(2))}
		if len(h.logins) > 8 {
			return "", nil
		}
		made, err := h.CreateMember(ctx, a.Caller, m)
		if err == nil {
			h.logins[made.ID] = m.Login
			h.joins(made.ID)
		}
		return fmt.Sprintf("%+v", m.Grants), err
	}},
	{"edit member", func(h *history, a actor) (string, error) {
		id, yes, no := h.someMember(), true, false
		var patch manage.MemberPatch
		switch h.rng.IntN(3) {
		case 0, 1:
			g := h.modest(a, h.oneIn(2))
			patch.Grants = &g
		case 2:
			patch.Active = []*bool{&yes, &no}[h.rng.IntN(2)]
		}
		_, _, err := h.EditMember(ctx, a.Caller, id, patch, manage.ChangeOptions{Wait: -1})
		return fmt.Sprintf("%s %+v", id, patch), err
	}},
	{"login", func(h *history, a actor) (string, error) {
		id := h.someMember()
		h.made++
		login := fmt.Sprint("l", h.made)
		_, _, err := h.EditMember(ctx, a.Caller, id, manage.MemberPatch{Login: &login},
			manage.ChangeOptions{Wait: -1})
		if err == nil {
			h.logins[id] = login
			h.joins(id)
		}
		return id, err
	}},
	{"token", func(h *history, a actor) (string, error) {
		id := h.someMember()
		_, token, _, err := h.NewMemberToken(ctx, a.Caller, id, manage.TokenSpec{},
			manage.ChangeOptions{Wait: -1})
		if err == nil {
			h.tokens[id] = token.Reveal()
			h.joins(id)
		}
		return id, err
	}},
	{"delete member", func(h *history, a actor) (string, error) {
		id := h.someMember()
		if !h.oneIn(8) {
			return id + " not", nil
		}
		_, _, err := h.DeleteMember(ctx, a.Caller, id, manage.ChangeOptions{Wait: -1})
		if err == nil {
			delete(h.logins, id)
			delete(h.tokens, id)
			h.order = slices.DeleteFunc(h.order, func(in string) bool { return in == id })
		}
		return id, err
	}},
	{"new namespace", func(h *history, a actor) (string, error) {
		ns := keystore.Namespace{ID: h.pick([]string{"f", "g", "h"}), Kind: h.pick(historyKinds),
			Parent: h.pick([]string{h.somewhere(a), h.somewhere(a), ""})}
		_, err := h.CreateNamespace(ctx, a.Caller, ns)
		if err == nil {
			h.now = nil
			now := h.truth()
			h.circle.add(now, ns.ID)
			for _, c := range h.others {
				c.add(now, ns.ID)
			}
		}
		return fmt.Sprintf("%+v", ns), err
	}},
	{"edit namespace", func(h *history, a actor) (string, error) {
		id, policy := h.somewhere(a), []keystore.EditPolicy{keystore.EditFree,
			keystore.EditGrowOnly}[h.rng.IntN(2)]
		patch := manage.NamespacePatch{EditPolicy: &policy}
		if h.oneIn(4) {
			patch.KeyRoles = &[]string{h.pick(historyRoles)}
		} else if h.oneIn(2) {
			patch.KeyRoles = &[]string{}
		}
		_, _, err := h.EditNamespace(ctx, a.Caller, id, patch, manage.ChangeOptions{Wait: -1})
		return fmt.Sprintf("%s %+v", id, patch), err
	}},
	{"delete namespace", func(h *history, a actor) (string, error) {
		id := h.pick([]string{"f", "g", "h"})
		_, _, err := h.DeleteNamespace(ctx, a.Caller, id, manage.ChangeOptions{Wait: -1})
		return id, err
	}},
	{"disabled by root", func(h *history, _ actor) (string, error) {
		id, active := h.someMember(), !h.oneIn(4)
		_, _, err := h.EditMember(ctx, fleet.Root, id, manage.MemberPatch{Active: &active},
			manage.ChangeOptions{Wait: -1})
		return fmt.Sprint(id, active), err
	}},
	{"narrowed by root", func(h *history, _ actor) (string, error) {
		id := h.someMember()
		for was := range h.parked {
			id = was
		}
		m, there := h.truth().members[id]
		if !there {
			delete(h.parked, id)
		}
		if !there || !h.inCircle(id) || len(h.parked) == 0 && !h.oneIn(3) {
			return id + " not", nil
		}
		grants, parked := h.parked[id]
		if delete(h.parked, id); !parked {
			h.parked[id], grants = m.Grants, nil
		}
		_, _, err := h.EditMember(ctx, fleet.Root, id, manage.MemberPatch{Grants: &grants},
			manage.ChangeOptions{Wait: -1})
		h.now = nil
		if err == nil && parked {
			// root gives, what roles have become meanwhile too, also to who is disabled and will
			// have it when it no longer is
			now := h.truth()
			m.Grants, m.Active = now.members[id].Grants, true
			now.members[id] = m
			h.enters(now, id)
			h.now = nil
		}
		return fmt.Sprint(id, parked), err
	}},
	{"request", func(h *history, _ actor) (string, error) {
		now := h.truth()
		for range 8 {
			id := h.pick(h.order)
			ns, d, client := h.pick(append(h.namespaces(),
				"nowhere")), demands[h.rng.IntN(len(demands))], netip.MustParseAddr("10.1.2.3")
			token, want, gone := h.secrets[id], keystore.Unknown, false
			switch {
			case token != "":
				want = now.outcome(id, ns, d, client)
			case h.tokens[id] != "":
				token, want = h.tokens[id], keystore.Malformed
			case len(h.dead) > 0:
				token = h.pick(h.dead)
				former, err := keystore.ParseToken(token)
				if gone = err != nil || now.keys[former.ID()].ID == ""; !gone {
					want = keystore.Rotated
				}
			default:
				continue
			}
			got := h.decides(token, ns, d, client)
			// nodes remember that for a moment
			if got != want && !(gone && got == keystore.Rotated) {
				h.Errorf("a request of %s for %v in %s is %v, want %v", id, d, ns, got, want)
			}
			h.done["request "+got.String()]++
		}
		return "", nil
	}},
	{"lists", func(h *history, a actor) (string, error) { return "", h.lists(a) }},
}

// someRole is the id of any role, seldom a built-in one.
func (h *history) someRole(a actor) keystore.RoleID {
	roles := h.truth().lists.roles
	home := h.somewhere(a)
	near := slices.DeleteFunc(slices.Clone(roles),
		func(r keystore.Role) bool {
			return r.Namespace != home && r.Namespace != "*" ||
				r.Builtin
		})
	if len(near) > 0 && !h.oneIn(8) {
		roles = near
	}
	return roles[h.rng.IntN(len(roles))].ID()
}

// decides is the outcome of a request.
func (h *history) decides(token, namespace string, d demand, client netip.Addr) keystore.Outcome {
	a, err := h.Lookup(ctx, token, time.Now())
	h.must(err)
	if a.Outcome != keystore.OK {
		return a.Outcome
	}
	class := map[string]keystore.Class{"read": keystore.Read, "write": keystore.Write}[d.class]
	return keystore.Decide(a.Record,
		&keystore.Request{Now: a.Now, Policy: h.Policy(),
			Namespace: h.Policy().Namespace(namespace), Client: client,
			Need: keystore.Need{Class: class, Resource: d.resource, Operation: d.operation}})
}

// lists holds what one is shown against what one may read.
func (h *history) lists(a actor) error {
	now := h.truth()
	may := h.may(now, a.id)
	reads := func(resource, namespace string) bool {
		return may(a.id, scope{namespace: namespace})&demand{"read", "admin." + resource,
			""}.bit() != 0
	}
	anywhere := func(resource string) bool {
		return slices.ContainsFunc(now.scopes(),
			func(s scope) bool { return !s.connected && reads(resource, s.namespace) })
	}
	keys, _, err := h.ListKeys(ctx, a.Caller, keystore.KeyFilter{}, "", 1000)
	if allowed := a.Member() != "" || anywhere("keys"); allowed != (err == nil) {
		h.Errorf("%s lists keys: %v", a.id, err)
	}
	seen := map[string]bool{}
	for _, k := range keys {
		seen[k.ID] = true
	}
	for id, k := range now.keys {
		if visible := reads("keys", k.Namespace) || a.Member() != "" &&
			k.Owner == a.id; err == nil && visible != seen[id] {
			h.Errorf("%s is shown the key %s: %v, want %v", a.id, id, seen[id], visible)
		}
		if _, err := h.FindKey(ctx, a.Caller,
			id); (err == nil) != (reads("keys", k.Namespace) || a.Member() != "" &&
			k.Owner == a.id || id == a.id) {
			h.Errorf("%s finds the key %s: %v", a.id, id, err)
		}
	}
	namespaces, err := h.ListNamespaces(ctx, a.Caller)
	for _, ns := range namespaces {
		if !reads("namespaces", ns.ID) {
			h.Errorf("%s is shown the namespace %s", a.id, ns.ID)
		}
	}
	if anywhere("namespaces") != (err == nil) {
		h.Errorf("%s lists namespaces: %v", a.id, err)
	}
	roles, err := h.ListRoles(ctx, a.Caller)
	for _, r := range roles {
		if r.Namespace != "*" && !reads("roles", r.Namespace) {
			h.Errorf("%s is shown the role %v", a.id, r.ID())
		}
	}
	if anywhere("roles") != (err == nil) {
		h.Errorf("%s lists roles: %v", a.id, err)
	}
	members, err := h.ListMembers(ctx, a.Caller)
	for _, m := range members {
		for _, g := range m.Grants {
			if m.ID != a.id && !reads("members", g.Namespace) {
				h.Errorf("%s is shown what %s has in %s", a.id, m.ID, g.Namespace)
			}
		}
	}
	if (a.Member() != "" || anywhere("members")) != (err == nil) {
		h.Errorf("%s lists members: %v", a.id, err)
	}
	rows, _, err := h.ListAudit(ctx, a.Caller, keystore.AuditFilter{}, "", 50)
	for _, r := range rows {
		if !reads("audit", "*") && (len(r.Namespaces) == 0 ||
			slices.ContainsFunc(r.Namespaces,
				func(ns string) bool { return !reads("audit", ns) })) {
			h.Errorf("%s is shown row %d of the audit log, which touches %v", a.id, r.Seq,
				r.Namespaces)
		}
	}
	if anywhere("audit") != (err == nil) {
		h.Errorf("%s lists the audit log: %v", a.id, err)
	}
	return nil
}
