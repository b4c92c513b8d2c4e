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
	historySteps = flag.Int("history.steps", 1000, "number of operations in TestRandomHistories")
	historySeed  = flag.Uint64("history.seed", 0, "seed of its random choices; 0 for a new one")
)

// historyLength is the number of operations in one deployment.
const historyLength = 500

// TestRandomHistories lets a group of members and keys perform random operations of every kind. It
// checks that nobody can do anything that none of the group could do at the start, and that
// requests are decided and lists are shown as the model in history_model_test.go says: see
// docs/authority.md, "Random histories".
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
			for operation, n := range h.done {
				done[operation] += n
			}
		})
		if steps += historyLength; time.Since(last) > time.Minute {
			last = time.Now()
			t.Logf("%d operations", steps)
		}
	}
	var counts []string
	for operation, n := range done {
		counts = append(counts, fmt.Sprintf("%s %d", operation, n))
	}
	slices.Sort(counts)
	t.Logf("%d operations: %s", steps, strings.Join(counts, ", "))
	for _, op := range operations {
		if *historySteps >= 20_000 && done[op.name+" ok"] == 0 {
			t.Errorf("%s never succeeded", op.name)
		}
	}
}

// A history is one deployment and the credentials that the group has in it.
type history struct {
	*world
	rng     *rand.Rand
	logins  map[string]string // logins of the group's members, by id; of groups, their names
	tokens  map[string]string // member tokens that the group has, by member
	secrets map[string]string // current tokens of keys that the group has, by key
	dead    []string          // former tokens that no longer work
	order   []string          // what actor picks from: ids in order of joining, and somebody
	group   ceiling
	others  map[string]ceiling          // of outsiders, in addition to the group's
	parked  map[string][]keystore.Grant // grants that root has taken from members
	now     *model                      // the current state, nil if it must be read
	sparse  bool                        // everyone has few permissions
	created int                         // for unique names
	log     []string
	done    map[string]int // number of operations by name and result
}

var (
	historyKinds = []string{"account", "app", "workspace"}
	dataWords    = strings.Fields("read write * x:read x:write x:op x:* y:read y:op")
	fewWords     = strings.Fields("x:read x:op y:read y:op x:write")
	adminWords   = strings.Fields("admin:* admin:* admin:* admin:read admin.keys:* admin.keys:* " +
		"admin.keys:create admin.roles:* admin.plans:* admin.members:* admin.namespaces:* admin.audit:read")
	historyRoles = []string{"r", "s", "t"}
	historyPlans = []string{"p", "q", "u"}
	addresses    = []string{"", "", "10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"}
	lifetimes    = []time.Duration{0, 0, 0, 100 * time.Hour, 200 * time.Hour}
)

func newHistory(t *testing.T, rng *rand.Rand) *history {
	h := &history{
		world:  newWorld(t, "a:account", "b:app<a", "c:workspace<b", "d:account", "e:workspace<d"),
		rng:    rng,
		logins: map[string]string{}, tokens: map[string]string{}, secrets: map[string]string{},
		group: ceiling{}, others: map[string]ceiling{},
		parked: map[string][]keystore.Grant{}, done: map[string]int{},
	}
	if h.oneIn(2) {
		h.root(second3(h.EditNamespace(ctx, fleet.Root, h.pick([]string{"a", "b", "b", "d"}),
			manage.NamespacePatch{Reach: &[]string{"workspace"}}, manage.ChangeOptions{})))
	}
	h.sparse = h.oneIn(2)
	h.role("*", "t", h.permissionsText())
	for id, n := range map[keystore.PlanID]int64{{Namespace: "a", Name: "p"}: 20,
		{Namespace: "b", Name: "p"}: 10, {Namespace: "*", Name: "u"}: 5} {
		_, err := h.CreatePlan(ctx, fleet.Root, keystore.Plan{Namespace: id.Namespace,
			Name: id.Name, Limits: perMinute(n)})
		h.must(err)
	}
	for _, ns := range []string{"a", "b", "d"} {
		h.role(ns, "r", h.permissionsText())
	}
	for i := range 3 {
		name := fmt.Sprint("m", i)
		h.member(name, h.grantsText(true))
		h.logins[h.ids[name]] = name
		h.order = append(h.order, h.ids[name])
	}
	for i := range 3 {
		name := fmt.Sprint("team", i)
		team, err := h.CreateMember(ctx, fleet.Root, keystore.Member{Name: name,
			Kind: keystore.Group, Login: name, Grants: roleGrants(h, h.grantsText(true))})
		h.must(err)
		h.logins[team.ID] = name
	}
	h.order = append(h.order, somebody, somebody)
	boss := h.member("boss", "*=*,admin:*").Member()
	h.member("little", h.grantsText(false))
	for i, owner := range []string{"root", "root", boss, "root", "root", boss} {
		held, inactive := i < 4, i == 3 || i == 4 // the group has its token
		spec := manage.KeySpec{Namespace: h.anyNamespace(), Owner: owner,
			Grants: roleGrants(h, h.grantsText(held)), Inactive: inactive}
		if h.oneIn(2) {
			spec.Limits = h.someLimits()
			spec.Limits.Plan = ""
		}
		key, token, err := h.MintKey(ctx, fleet.Root, spec, nil)
		h.must(err)
		if held {
			h.secrets[key.ID] = token.Reveal()
			h.order = append(h.order, key.ID)
		}
	}
	h.now = nil
	now := h.state()
	for id := range now.members {
		h.raiseCeiling(now, id)
	}
	for id := range now.keys {
		h.raiseCeiling(now, id)
	}
	return h
}

// somebody is the entry in history.order for a person who acts for members of kind group: for other
// ones in each step.
const somebody = "somebody"

func second3[A, B any](_ A, _ B, err error) error { return err }

// raiseCeiling adds the present authority of a member or key to its ceiling, which is that of the
// group or its own.
func (h *history) raiseCeiling(now *model, id string) {
	c := h.group
	if !h.inGroup(id) {
		c = ceiling{}
		h.others[id] = c
	}
	c.raise(now, h.may(now, id), id)
}

func (h *history) inGroup(id string) bool {
	return h.logins[id] != "" || h.tokens[id] != "" || h.secrets[id] != ""
}

func (h *history) may(now *model, id string) func(string, scope) uint32 {
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
	for _, ns := range h.state().lists.namespaces {
		list = append(list, ns.ID)
	}
	return list
}

func (h *history) anyNamespace() string { return h.pick(h.namespaces()) }

func (h *history) permissionsText() string {
	if h.sparse {
		return h.pick(fewWords)
	}
	return h.pick(dataWords)
}

// grantsText returns random grants as a text for [roleGrants]. With admin, they contain permissions
// to manage keys.
func (h *history) grantsText(admin bool) string {
	var parts []string
	sure, in := h.anyNamespace(), 3
	if h.sparse {
		in = 8
	}
	for _, ns := range append(h.namespaces(), "*") {
		if ns != sure && (!h.oneIn(in) || ns == "*" && !h.oneIn(3)) {
			continue
		}
		word := "=" + h.permissionsText()
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
			word += "," + h.permissionsText()
		}
		parts = append(parts, word)
	}
	return strings.Join(parts, " ")
}

// someGrants returns random grants that may exceed those of every actor.
func (h *history) someGrants(admin bool) []keystore.Grant {
	list := roleGrants(h, h.grantsText(admin && h.oneIn(2)))
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

// own returns the grants of an actor.
func (h *history) own(a actor) []keystore.Grant {
	list := slices.Clone(h.state().keys[a.id].Grants)
	for _, id := range a.Members() {
		list = append(list, h.state().members[id].Grants...)
	}
	return list
}

// someNamespace returns a random namespace, usually one in which the actor has a grant.
func (h *history) someNamespace(a actor) string {
	if own := h.own(a); len(own) > 0 && !h.oneIn(4) {
		if ns := own[h.rng.IntN(len(own))].Namespace; ns != "*" {
			return ns
		}
	}
	return h.anyNamespace()
}

// someGrantsOf returns random grants, usually a part of the actor's.
func (h *history) someGrantsOf(a actor, admin bool) []keystore.Grant {
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
	if g.Connected && h.oneIn(2) { // use it in a child
		for _, ns := range h.state().lists.namespaces {
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

// somePermissions returns random permissions, half of the time a part of the actor's.
func (h *history) somePermissions(a actor) []keystore.Permission {
	if own := h.someGrantsOf(a, false); len(own) > 0 && len(own[0].Permissions) > 0 && h.oneIn(2) {
		return own[0].Permissions
	}
	words := dataWords
	if h.oneIn(4) {
		words = adminWords
	}
	return permissions(h, h.pick(words)+","+h.pick(dataWords))
}

// state returns the current state as root reads it. It is read again after each successful change.
func (h *history) state() *model {
	if h.now != nil {
		return h.now
	}
	m := &model{
		namespaces: map[string]keystore.Namespace{},
		roles:      map[keystore.RoleID]keystore.Role{},
		plans:      map[keystore.PlanID]keystore.Plan{},
		members:    map[string]keystore.Member{},
		keys:       map[string]keystore.Key{},
	}
	var err error
	m.lists.namespaces, err = h.ListNamespaces(ctx, fleet.Root)
	h.must(err)
	for _, ns := range m.lists.namespaces {
		m.namespaces[ns.ID] = ns
	}
	m.lists.roles, err = h.ListRoles(ctx, fleet.Root)
	h.must(err)
	for _, r := range m.lists.roles {
		m.roles[r.ID()] = r
	}
	m.lists.plans, err = h.ListPlans(ctx, fleet.Root)
	h.must(err)
	for _, p := range m.lists.plans {
		m.plans[p.ID()] = p
	}
	m.lists.members, err = h.ListMembers(ctx, fleet.Root)
	h.must(err)
	for _, member := range m.lists.members {
		m.members[member.ID] = member
	}
	m.lists.keys, _, err = h.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 1000)
	h.must(err)
	for _, k := range m.lists.keys {
		m.keys[k.ID] = k
	}
	h.now = m
	return m
}

// check compares what everyone can do with the ceilings.
func (h *history) check() {
	now := h.state()
	within := func(id string) {
		may := h.may(now, id)
		for _, s := range now.scopes() {
			for i, d := range demands {
				if excess := may(id, s) &^ (h.group[s] | h.others[id][s]); excess&(1<<i) != 0 {
					h.Errorf("%s can do %v in %v, which it must not get", id, d, s)
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

// An actor is a member or a key of the group as a caller, or a person that acts for groups.
type actor struct {
	manage.Caller
	id string // ids with commas for a person
}

// is reports whether an id is the actor's, or that of a group that it acts for.
func (a actor) is(id string) bool { return id == a.id || slices.Contains(a.Members(), id) }

// actor picks a member or key of the group. ok is false if its credential is not accepted.
func (h *history) actor() (a actor, ok bool) {
	id := h.pick(h.order)
	if login := h.logins[id]; login != "" || id == somebody {
		groups := []string{login, "no member"}
		if h.state().members[id].Kind == keystore.Group {
			login = somebody
		} else if id == somebody {
			login, groups = somebody, h.someNames()
		}
		c, err := h.CallerByLogin(ctx, login, groups, "", time.Now())
		h.must(err)
		return actor{c, strings.Join(c.Members(), ",")}, c.Actor() != ""
	}
	lookup, caller, token := h.Lookup, manage.KeyCaller, h.secrets[id]
	if token == "" {
		lookup, caller, token = h.LookupMember, manage.MemberCaller, h.tokens[id]
	}
	answer, err := lookup(ctx, token, time.Now())
	h.must(err)
	if answer.Record == nil {
		return actor{}, false
	}
	q := keystore.Request{Now: answer.Now, Policy: h.Policy(),
		Namespace: h.Policy().Namespace("default")}
	if len(answer.Record.AllowedIPs) > 0 {
		q.Client = answer.Record.AllowedIPs[0].Addr()
	}
	outcome := keystore.Decide(answer.Record, &q)
	return actor{caller(answer.Record, ""), id},
		outcome == keystore.OK || outcome == keystore.Forbidden
}

// someNames returns the names of some of the group's members of kind group.
func (h *history) someNames() (list []string) {
	for _, m := range h.state().lists.members {
		if name := h.logins[m.ID]; m.Kind == keystore.Group && name != "" && !h.oneIn(3) {
			list = append(list, name)
		}
	}
	return list
}

// step does one random operation.
func (h *history) step() {
	a, ok := h.actor()
	for range 5 {
		if ok {
			break
		}
		a, ok = h.actor()
	}
	op := operations[h.rng.IntN(len(operations))]
	if h.oneIn(3) {
		op = operations[h.rng.IntN(often)]
	}
	if !ok {
		h.done["no actor"]++
		return
	}
	what, err := op.do(h, a)
	if err == nil && op.name != "request" && op.name != "lists" {
		h.now = nil
	}
	h.done[op.name+" "+fleet.Code(err)]++
	h.log = append(h.log, fmt.Sprintf("%s: %s %s: %s", a.id, op.name, what, fleet.Code(err)))
}

// someKey returns the id of a random key, usually one whose home is a namespace in which the actor
// has a grant.
func (h *history) someKey(a actor) string {
	keys := h.state().lists.keys
	if home := h.someNamespace(a); !h.oneIn(3) {
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

// someMember returns the id of a random member.
func (h *history) someMember() string {
	members := h.state().lists.members
	if len(members) == 0 {
		return "m_none"
	}
	return members[h.rng.IntN(len(members))].ID
}

// someSignIn returns the id of a random member, often the one from which root has taken all grants, or
// the owner of a key.
func (h *history) someSignIn() string {
	for id := range h.parked {
		if h.oneIn(2) {
			return id
		}
	}
	if h.oneIn(2) {
		return h.someMember()
	}
	return h.someKeyOwner()
}

// someKeyOwner returns the id of the owner of a random key, or of a random member if that is root.
func (h *history) someKeyOwner() string {
	keys := h.state().lists.keys
	if len(keys) == 0 {
		return h.someMember()
	}
	if owner := keys[h.rng.IntN(len(keys))].Owner; owner != keystore.RootMember {
		return owner
	}
	return h.someMember()
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
	spec := manage.KeySpec{Namespace: h.someNamespace(a), Owner: h.someOwner(),
		AllowedIPs: h.someAddresses(), Inactive: h.oneIn(8)}
	if d := lifetimes[h.rng.IntN(len(lifetimes))]; d != 0 {
		spec.ExpiresAt = time.Now().Add(d)
	}
	if h.oneIn(2) {
		spec.Home = &keystore.Grant{Permissions: h.somePermissions(a), Connected: h.oneIn(3)}
	} else {
		spec.Grants = h.someGrantsOf(a, h.oneIn(3))
	}
	if h.oneIn(2) {
		spec.Limits = h.someLimits()
	}
	if h.oneIn(6) {
		spec.NewRoles = []keystore.Role{{Name: h.pick(historyRoles),
			Permissions: h.somePermissions(a)}}
	}
	return spec
}

// someLimits returns random limits of a key, most of them without an own limit or a plan.
func (h *history) someLimits() (l keystore.KeyLimits) {
	l.Rate = h.someRate()
	if h.oneIn(2) {
		l.Plan = h.pick(historyPlans)
	}
	return l
}

func (h *history) someRate() keystore.RateLimit {
	switch n := h.rng.IntN(6); n {
	case 0:
		return keystore.RateLimit{Unlimited: true}
	case 1, 2, 3:
		return perMinute(int64(n * 5)).Rate
	}
	return keystore.RateLimit{}
}

// addKey adds a key to the group after an actor has received its token. If the actor is a key,
// addKey checks the limits for the new key.
func (h *history) addKey(a actor, key *keystore.Key, token string) {
	if old := h.secrets[key.ID]; old != "" {
		h.dead = append(h.dead, old)
	}
	h.secrets[key.ID] = token
	h.addToGroup(key.ID)
	if len(a.Members()) > 0 {
		return
	}
	h.now = nil
	now := h.state()
	creator := now.keys[a.id]
	if most := now.limit(a.id); now.limit(key.ID) > most {
		h.Errorf("key %s may send more requests than %s, which created it: %d", key.ID, a.id, most)
	}
	if !creator.ExpiresAt.IsZero() &&
		(key.ExpiresAt.IsZero() || key.ExpiresAt.After(creator.ExpiresAt)) {
		h.Errorf("key %s expires later than %s, which created it", key.ID, creator.ID)
	}
	inside := func(p netip.Prefix) bool {
		return slices.ContainsFunc(creator.AllowedIPs,
			func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) })
	}
	if len(creator.AllowedIPs) > 0 &&
		(len(key.AllowedIPs) == 0 || slices.ContainsFunc(key.AllowedIPs,
			func(p netip.Prefix) bool { return !inside(p) })) {
		h.Errorf("key %s is accepted from more addresses than %s, which created it", key.ID,
			creator.ID)
	}
}

// checkOwner checks that the group that owns a new key has all of its permissions.
func (h *history) checkOwner(a actor, key *keystore.Key) {
	if a.Login() == "" || !a.is(key.Owner) {
		return
	}
	h.now = nil
	now := h.state()
	for _, g := range key.Grants {
		s := scope{g.Namespace, g.Connected}
		if g.Namespace == "*" {
			s = everywhere
		}
		if excess := now.gives(g) &^ now.member(key.Owner, s); excess != 0 {
			h.Errorf("key %s belongs to the group %s, which lacks its permissions in %s", key.ID,
				key.Owner, g.Namespace)
		}
	}
}

// addToGroup adds a member or key to the group. The group's ceiling then replaces its own.
func (h *history) addToGroup(id string) {
	delete(h.others, id)
	if !slices.Contains(h.order, id) {
		h.order = append(h.order, id)
	}
}

// checkRaise checks that the actor that raised the limit of a key had all the permissions that the
// key's grants give.
func (h *history) checkRaise(a actor, before *model, id string) {
	h.now = nil
	now := h.state()
	if now.limit(id) <= before.limit(id) {
		return
	}
	for _, g := range now.keys[id].Grants {
		s := scope{g.Namespace, g.Connected}
		if g.Namespace == "*" {
			s = everywhere
		}
		if excess := now.gives(g) &^ h.may(before, a.id)(a.id, s); excess != 0 {
			h.Errorf("%s raised the limit of key %s without its permissions in %s", a.id, id,
				g.Namespace)
		}
	}
	if len(a.Members()) == 0 && now.limit(id) > before.limit(a.id) {
		h.Errorf("%s raised the limit of key %s beyond its own", a.id, id)
	}
}

// checkSignIn checks that an actor that gave a member a token or a login, or enabled it, may update
// members wherever the member has a grant or owns a key that is not revoked.
func (h *history) checkSignIn(a actor, before *model, id string) {
	if a.is(id) {
		return
	}
	var places []string
	for _, g := range before.members[id].Grants {
		places = append(places, g.Namespace)
	}
	for _, k := range before.keys {
		if k.Owner == id && k.RevokedAt.IsZero() {
			places = append(places, k.Namespace)
		}
	}
	for _, ns := range places {
		if before.member(a.id, scope{namespace: ns})&
			(demand{"write", "admin.members", "update"}).bit() == 0 {
			h.Errorf("%s lets somebody sign in as %s, which has a grant or a key in %s", a.id, id, ns)
		}
	}
}

// growOnlyKeys returns what the grants of keys in grow_only namespaces give.
func (h *history) growOnlyKeys(now *model) map[string]ceiling {
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

// checkGrowOnly performs an operation and checks that it takes nothing from keys in grow_only
// namespaces.
func (h *history) checkGrowOnly(do func() error) error {
	was := h.growOnlyKeys(h.state())
	err := do()
	if err != nil || len(was) == 0 {
		return err
	}
	h.now = nil
	is := h.growOnlyKeys(h.state())
	for id, before := range was {
		for s, mask := range before {
			if lost := mask &^ is[id][s]; lost != 0 {
				h.Errorf("key %s lost %b in %v in spite of grow_only", id, lost, s)
			}
		}
	}
	return err
}

// often is how many of the first operations are more likely than the others.
const often = 6

// operations are those of the group, and those with which root disables, narrows and restores
// members.
var operations = []struct {
	name string
	do   func(h *history, a actor) (what string, err error)
}{
	{"mint", func(h *history, a actor) (string, error) {
		spec := h.someSpec(a)
		key, token, err := h.MintKey(ctx, a.Caller, spec, nil)
		if err == nil {
			h.addKey(a, key, token.Reveal())
			h.checkOwner(a, key)
		}
		return fmt.Sprintf("%+v", spec), err
	}},
	{"edit", func(h *history, a actor) (string, error) {
		id, yes, no := h.someKey(a), true, false
		var patch manage.KeyPatch
		switch h.rng.IntN(12) {
		case 0, 1:
			g := h.someGrantsOf(a, h.oneIn(3))
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
			if owner == "" && len(a.Members()) > 0 {
				owner = h.pick(a.Members())
			}
			patch.Owner = &owner
		case 7:
			patch.NewRoles = []keystore.Role{{Name: h.pick(historyRoles),
				Permissions: h.somePermissions(a)}}
		case 8:
			patch.Edits.Add = h.someGrantsOf(a, h.oneIn(3))
		case 9:
			if grants := h.state().keys[id].Grants; len(grants) > 0 {
				g := grants[h.rng.IntN(len(grants))]
				if patch.Edits.Remove = []keystore.Grant{g}; h.oneIn(2) {
					patch.Edits = manage.GrantEdits{RemoveNamespaces: []string{g.Namespace}}
				}
			}
		case 10:
			rate := h.someRate()
			patch.Limits.Rate = &rate
		case 11:
			plan := h.pick(append(historyPlans, ""))
			patch.Plan = &plan
		}
		before := h.state()
		err := h.checkGrowOnly(func() error {
			return second3(h.EditKey(ctx, a.Caller, id, patch,
				manage.ChangeOptions{Wait: -1}))
		})
		if err == nil && id == a.id {
			h.Errorf("key %s has changed itself", id)
		}
		if err == nil {
			h.checkRaise(a, before, id)
		}
		return fmt.Sprintf("%s %+v", id, patch), err
	}},
	{"rotate", func(h *history, a actor) (string, error) {
		id := h.someKey(a)
		key, token, _, err := h.RotateKey(ctx, a.Caller, id, 0, manage.ChangeOptions{Wait: -1})
		if err == nil {
			h.addKey(a, key, token.Reveal())
		}
		return id, err
	}},
	{"edit role", func(h *history, a actor) (string, error) {
		id := h.someRole(a)
		list := h.somePermissions(a)
		err := h.checkGrowOnly(func() error {
			return second3(h.EditRole(ctx, a.Caller, id, manage.RolePatch{Permissions: list},
				manage.ChangeOptions{Wait: -1}))
		})
		return fmt.Sprint(id, list), err
	}},
	{"move", func(h *history, a actor) (string, error) {
		id := h.someNamespace(a)
		parent := h.pick([]string{h.someNamespace(a), h.someNamespace(a), ""})
		_, _, err := h.EditNamespace(ctx, a.Caller, id, manage.NamespacePatch{Parent: &parent},
			manage.ChangeOptions{Wait: -1})
		return id + " to " + parent, err
	}},
	{"reach", func(h *history, a actor) (string, error) {
		id, kinds := h.someNamespace(a), []string{h.pick(historyKinds)}
		if h.oneIn(3) {
			kinds = nil
		}
		_, _, err := h.EditNamespace(ctx, a.Caller, id, manage.NamespacePatch{Reach: &kinds},
			manage.ChangeOptions{Wait: -1})
		return fmt.Sprint(id, kinds), err
	}},
	{"import", func(h *history, a actor) (string, error) {
		h.created++
		spec := manage.ImportSpec{KeySpec: h.someSpec(a), Line: 1,
			Token: fmt.Sprintf("imported-%d-%d", h.created, h.rng.Uint64())}
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
			h.addKey(a, key, spec.Token)
			h.checkOwner(a, key)
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
		role := keystore.Role{
			Namespace: h.pick([]string{h.someNamespace(a), h.someNamespace(a), "*"}),
			Name:      h.pick(historyRoles), Permissions: h.somePermissions(a)}
		_, err := h.CreateRole(ctx, a.Caller, role)
		return fmt.Sprintf("%+v", role), err
	}},
	{"delete role", func(h *history, a actor) (string, error) {
		id := h.someRole(a)
		_, _, err := h.DeleteRole(ctx, a.Caller, id, manage.ChangeOptions{Wait: -1})
		return fmt.Sprint(id), err
	}},
	{"new plan", func(h *history, a actor) (string, error) {
		plan := keystore.Plan{
			Namespace: h.pick([]string{h.someNamespace(a), h.someNamespace(a), "*"}),
			Name:      h.pick(historyPlans), Limits: keystore.Limits{Rate: h.someRate()}}
		_, err := h.CreatePlan(ctx, a.Caller, plan)
		return fmt.Sprintf("%+v", plan), h.checkPlan(a, plan.Rate, err)
	}},
	{"edit plan", func(h *history, a actor) (string, error) {
		id, rate := h.somePlan(a), h.someRate()
		_, _, err := h.EditPlan(ctx, a.Caller, id,
			manage.PlanPatch{Limits: manage.LimitsPatch{Rate: &rate}},
			manage.ChangeOptions{Wait: -1})
		return fmt.Sprint(id, rate), h.checkPlan(a, rate, err)
	}},
	{"delete plan", func(h *history, a actor) (string, error) {
		id := h.somePlan(a)
		_, _, err := h.DeletePlan(ctx, a.Caller, id, manage.ChangeOptions{Wait: -1})
		return fmt.Sprint(id), err
	}},
	{"default plan", func(h *history, a actor) (string, error) {
		id, plan := h.someNamespace(a), h.pick(append(historyPlans, ""))
		_, _, err := h.EditNamespace(ctx, a.Caller, id,
			manage.NamespacePatch{DefaultPlan: &plan}, manage.ChangeOptions{Wait: -1})
		return id + " " + plan, err
	}},
	{"new member", func(h *history, a actor) (string, error) {
		h.created++
		m := keystore.Member{Name: "new", Login: fmt.Sprint("n", h.created),
			Grants: h.someGrantsOf(a, h.oneIn(2))}
		if h.oneIn(3) {
			m.Kind = keystore.Group
		}
		if len(h.logins) > 10 {
			return "", nil
		}
		member, err := h.CreateMember(ctx, a.Caller, m)
		if err == nil {
			h.logins[member.ID] = m.Login
			h.addToGroup(member.ID)
		}
		return fmt.Sprintf("%+v", m.Grants), err
	}},
	{"edit member", func(h *history, a actor) (string, error) {
		id, yes, no := h.someMember(), true, false
		var patch manage.MemberPatch
		switch h.rng.IntN(3) {
		case 0, 1:
			g := h.someGrantsOf(a, h.oneIn(2))
			patch.Grants = &g
		case 2:
			patch.Active = []*bool{&yes, &no}[h.rng.IntN(2)]
		}
		before := h.state()
		_, _, err := h.EditMember(ctx, a.Caller, id, patch, manage.ChangeOptions{Wait: -1})
		if err == nil && patch.Active == &yes && !before.members[id].Active {
			h.checkSignIn(a, before, id)
		}
		return fmt.Sprintf("%s %+v", id, patch), err
	}},
	{"login", func(h *history, a actor) (string, error) {
		id := h.someSignIn()
		h.created++
		login := fmt.Sprint("l", h.created)
		_, _, err := h.EditMember(ctx, a.Caller, id, manage.MemberPatch{Login: &login},
			manage.ChangeOptions{Wait: -1})
		if err == nil {
			h.checkSignIn(a, h.state(), id)
			h.logins[id] = login
			h.addToGroup(id)
		}
		return id, err
	}},
	{"token", func(h *history, a actor) (string, error) {
		id := h.someSignIn()
		_, token, _, err := h.NewMemberToken(ctx, a.Caller, id, manage.TokenSpec{},
			manage.ChangeOptions{Wait: -1})
		if err == nil {
			h.checkSignIn(a, h.state(), id)
			h.tokens[id] = token.Reveal()
			h.addToGroup(id)
		}
		return id, err
	}},
	{"transfer", func(h *history, a actor) (string, error) {
		from, to := h.someMember(), h.someMember()
		_, _, _, err := h.TransferKeys(ctx, a.Caller, from, to, manage.ChangeOptions{Wait: -1})
		return from + " " + to, err
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
			Parent: h.pick([]string{h.someNamespace(a), h.someNamespace(a), ""})}
		_, err := h.CreateNamespace(ctx, a.Caller, ns)
		if err == nil {
			h.now = nil
			now := h.state()
			h.group.add(now, ns.ID)
			for _, c := range h.others {
				c.add(now, ns.ID)
			}
		}
		return fmt.Sprintf("%+v", ns), err
	}},
	{"edit namespace", func(h *history, a actor) (string, error) {
		id, policy := h.someNamespace(a), []keystore.EditPolicy{keystore.EditFree,
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
		id := h.someKeyOwner()
		for was := range h.parked {
			id = was
		}
		m, there := h.state().members[id]
		if !there {
			delete(h.parked, id)
		}
		if !there || !h.inGroup(id) || len(h.parked) == 0 && !h.oneIn(3) {
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
			// Root gives the grants with the roles as they are now. A disabled member has them
			// once it is enabled again.
			now := h.state()
			m.Grants, m.Active = now.members[id].Grants, true
			now.members[id] = m
			h.raiseCeiling(now, id)
			h.now = nil
		}
		return fmt.Sprint(id, parked), err
	}},
	{"request", func(h *history, _ actor) (string, error) {
		now := h.state()
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
			got := h.outcomeOf(token, ns, d, client)
			// Nodes may cache the outcome of a deleted key for a short time.
			if got != want && !(gone && got == keystore.Rotated) {
				h.Errorf("a request of %s for %v in %s is %v, want %v", id, d, ns, got, want)
			}
			h.done["request "+got.String()]++
		}
		return "", nil
	}},
	{"lists", func(h *history, a actor) (string, error) { return "", h.checkLists(a) }},
}

// somePlan returns the id of a random plan.
func (h *history) somePlan(a actor) keystore.PlanID {
	plans := h.state().lists.plans
	if len(plans) == 0 || h.oneIn(8) {
		return keystore.PlanID{Namespace: h.someNamespace(a), Name: h.pick(historyPlans)}
	}
	return plans[h.rng.IntN(len(plans))].ID()
}

// checkPlan checks that the limit of a plan that an actor has written does not exceed its own. It
// returns err.
func (h *history) checkPlan(a actor, rate keystore.RateLimit, err error) error {
	if err == nil && len(a.Members()) == 0 && perMinuteOf(rate) > h.state().limit(a.id) {
		h.Errorf("%s wrote a plan beyond its own limit", a.id)
	}
	return err
}

// someRole returns the id of a random role, rarely a built-in one.
func (h *history) someRole(a actor) keystore.RoleID {
	roles := h.state().lists.roles
	home := h.someNamespace(a)
	near := slices.DeleteFunc(slices.Clone(roles),
		func(r keystore.Role) bool {
			return r.Namespace != home && r.Namespace != "*" || r.Builtin
		})
	if len(near) > 0 && !h.oneIn(8) {
		roles = near
	}
	return roles[h.rng.IntN(len(roles))].ID()
}

// outcomeOf returns the outcome of a request.
func (h *history) outcomeOf(token, namespace string, d demand, client netip.Addr) keystore.Outcome {
	a, err := h.Lookup(ctx, token, time.Now())
	h.must(err)
	if a.Outcome != keystore.OK {
		return a.Outcome
	}
	own, _ := h.Policy().LimitsOf(a.Record)
	if want := h.state().limit(a.Record.KeyID); perMinuteOf(own.Rate) != want &&
		!a.Record.RotatedOut() {
		h.Errorf("key %s has the limits %+v, want %d", a.Record.KeyID, own, want)
	}
	class := map[string]keystore.Class{"read": keystore.Read, "write": keystore.Write}[d.class]
	return keystore.Decide(a.Record,
		&keystore.Request{Now: a.Now, Policy: h.Policy(),
			Namespace: h.Policy().Namespace(namespace), Client: client,
			Need: keystore.Need{Class: class, Resource: d.resource, Operation: d.operation}})
}

// checkLists compares what an actor is shown with what it may read.
func (h *history) checkLists(a actor) error {
	now := h.state()
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
	if allowed := len(a.Members()) > 0 || anywhere("keys"); allowed != (err == nil) {
		h.Errorf("%s lists keys: %v", a.id, err)
	}
	seen := map[string]bool{}
	for _, k := range keys {
		seen[k.ID] = true
	}
	for id, k := range now.keys {
		if visible := reads("keys", k.Namespace) || a.is(k.Owner); err == nil && visible != seen[id] {
			h.Errorf("%s is shown the key %s: %v, want %v", a.id, id, seen[id], visible)
		}
		if _, err := h.FindKey(ctx, a.Caller,
			id); (err == nil) != (reads("keys", k.Namespace) || a.is(k.Owner) ||
			id == a.id) {
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
	plans, err := h.ListPlans(ctx, a.Caller)
	for _, p := range plans {
		if p.Namespace != "*" && !reads("plans", p.Namespace) {
			h.Errorf("%s is shown the plan %v", a.id, p.ID())
		}
	}
	if anywhere("plans") != (err == nil) {
		h.Errorf("%s lists plans: %v", a.id, err)
	}
	members, err := h.ListMembers(ctx, a.Caller)
	for _, m := range members {
		for _, g := range m.Grants {
			if !a.is(m.ID) && !reads("members", g.Namespace) {
				h.Errorf("%s is shown the grant of %s in %s", a.id, m.ID, g.Namespace)
			}
		}
	}
	if (len(a.Members()) > 0 || anywhere("members")) != (err == nil) {
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
