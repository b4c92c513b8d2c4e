package manage_test

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// This file is a model of docs/authority.md, slow and close to its text. It shares only the types
// of the objects with the code that it checks.

// A demand is what one request requires.
type demand struct{ class, resource, operation string }

// demands are all requests that are considered. A set of them is an integer with a bit for each.
var demands = []demand{
	{"read", "", ""}, {"write", "", ""}, {"read", "x", ""}, {"write", "x", ""}, {"read", "x", "op"},
	{"write", "x", "op"}, {"read", "y", ""}, {"write", "y", "op"},
	{"read", "admin.keys", ""}, {"write", "admin.keys", "create"},
	{"write", "admin.keys", "update"}, {"write", "admin.keys", "revoke"},
	{"read", "admin.roles", ""}, {"write", "admin.roles", "create"},
	{"write", "admin.roles", "update"},
	{"read", "admin.plans", ""}, {"write", "admin.plans", "create"},
	{"write", "admin.plans", "update"},
	{"read", "admin.members", ""}, {"write", "admin.members", "create"},
	{"write", "admin.members", "update"},
	{"read", "admin.namespaces", ""}, {"write", "admin.namespaces", "create"},
	{"write", "admin.namespaces", "update"}, {"read", "admin.audit", ""},
}

const (
	dataDemands = 8 // the first ones
	dataMask    = 1<<dataDemands - 1
)

func (d demand) admin() bool {
	return d.resource == "admin" || strings.HasPrefix(d.resource, "admin.")
}

// bit returns the bit of a demand.
func (d demand) bit() uint32 { return 1 << slices.Index(demands, d) }

// allowed returns the demands that a permission allows.
func allowed(permission string) (mask uint32) {
	resource, action, scoped := strings.Cut(permission, ":")
	for i, d := range demands {
		ok := false
		switch {
		case !scoped:
			ok = !d.admin() && (permission == "*" || permission == d.class)
		case resource == "admin" && d.admin():
			ok = action == "*" || action == d.class
		case resource == d.resource:
			ok = action == "*" || action == d.class || d.operation != "" && action == d.operation
		}
		if ok {
			mask |= 1 << i
		}
	}
	return mask
}

// A model is the state of a deployment.
type model struct {
	namespaces map[string]keystore.Namespace
	roles      map[keystore.RoleID]keystore.Role
	plans      map[keystore.PlanID]keystore.Plan
	members    map[string]keystore.Member
	keys       map[string]keystore.Key
	lists      struct { // the same objects in the order of lists
		namespaces []keystore.Namespace
		roles      []keystore.Role
		plans      []keystore.Plan
		members    []keystore.Member
		keys       []keystore.Key
	}
}

// gives returns what a grant allows where it applies.
func (m *model) gives(g keystore.Grant) (mask uint32) {
	for _, p := range g.Permissions {
		mask |= allowed(p.String())
	}
	for _, name := range g.Roles {
		role, local := m.roles[keystore.RoleID{Namespace: g.Namespace, Name: name}]
		if !local {
			role = m.roles[keystore.RoleID{Namespace: "*", Name: name}]
		}
		for _, p := range role.Permissions {
			mask |= allowed(p.String())
		}
	}
	return mask
}

// below reports whether a namespace is a descendant of another whose reach includes its kind.
func (m *model) below(above, id string) bool {
	kind := m.namespaces[id].Kind
	for p := m.namespaces[id].Parent; p != ""; p = m.namespaces[p].Parent {
		if p == above {
			return slices.Contains(m.namespaces[above].Reach, kind)
		}
	}
	return false
}

// A scope is a namespace, a namespace with its children including future ones, or all namespaces.
type scope struct {
	namespace string
	connected bool
}

var everywhere = scope{namespace: "*"}

// grants returns what the grants of a key or a member allow in a scope.
func (m *model) grants(list []keystore.Grant, s scope, key bool) (mask uint32) {
	for _, g := range list {
		switch {
		case g.Namespace == "*", g.Namespace == s.namespace && (g.Connected || !s.connected):
			mask |= m.gives(g)
		case s == everywhere || s.connected:
		case g.Connected && g.Namespace == m.namespaces[s.namespace].Parent:
			mask |= m.gives(g)
		case key && m.below(g.Namespace, s.namespace):
			mask |= m.gives(g) & dataMask
		}
	}
	return mask
}

// member returns what a member, or a person that acts for groups, may do in a scope. The id of the
// latter is a list of ids with commas.
func (m *model) member(id string, s scope) (mask uint32) {
	if id == keystore.RootMember {
		return 1<<len(demands) - 1
	}
	for _, one := range strings.Split(id, ",") {
		if member := m.members[one]; member.Active {
			mask |= m.grants(member.Grants, s, false)
		}
	}
	return mask
}

// key returns what a key may do in a scope.
func (m *model) key(id string, s scope) uint32 {
	k := m.keys[id]
	if !k.RevokedAt.IsZero() || !k.Active {
		return 0
	}
	return m.grants(k.Grants, s, true) & m.member(k.Owner, s)
}

// scopes returns all scopes.
func (m *model) scopes() []scope {
	list := []scope{everywhere}
	for id := range m.namespaces {
		list = append(list, scope{id, false}, scope{id, true})
	}
	return list
}

// A ceiling is the most that a caller may ever be able to do, by scope.
type ceiling map[scope]uint32

// raise adds what a member or key can do now.
func (c ceiling) raise(m *model, may func(string, scope) uint32, id string) {
	for _, s := range m.scopes() {
		c[s] |= may(id, s)
	}
}

// add adds the demands that existing grants allow in a new namespace: connected grants in its
// parent, grants in all namespaces, and keys' grants that reach it.
func (c ceiling) add(m *model, id string) {
	parent := m.namespaces[id].Parent
	c[scope{id, false}] = c[scope{parent, true}] | c[everywhere]
	c[scope{id, true}] = c[everywhere]
	for above := range m.namespaces {
		if m.below(above, id) {
			c[scope{id, false}] |= c[scope{above, false}] & dataMask
		}
	}
}

// unlimited is the number of requests per minute where there is no limit.
const unlimited = 1 << 40

// limit returns how many requests per minute a key may send according to its own row, its plan and
// the default plan of its home namespace. All rate limits have the same period and no extra burst.
func (m *model) limit(id string) int64 {
	k := m.keys[id]
	plan := k.Plan
	if plan == "" {
		plan = m.namespaces[k.Namespace].DefaultPlan
	}
	named, local := m.plans[keystore.PlanID{Namespace: k.Namespace, Name: plan}]
	if !local {
		named = m.plans[keystore.PlanID{Namespace: "*", Name: plan}]
	}
	for _, l := range []keystore.RateLimit{k.Rate, named.Rate} {
		if l != (keystore.RateLimit{}) {
			return perMinuteOf(l)
		}
	}
	return unlimited
}

func perMinuteOf(l keystore.RateLimit) int64 {
	if l.Requests == 0 {
		return unlimited
	}
	return l.Requests
}

// outcome returns the outcome of a request with a key's current token.
func (m *model) outcome(id, namespace string, d demand, client netip.Addr) keystore.Outcome {
	k, known := m.keys[id]
	_, exists := m.namespaces[namespace]
	switch {
	case !known:
		return keystore.Unknown
	case !k.RevokedAt.IsZero():
		return keystore.Revoked
	case !k.Active:
		return keystore.Inactive
	case k.Owner != keystore.RootMember && !m.members[k.Owner].Active:
		return keystore.OwnerDisabled
	case len(k.AllowedIPs) > 0 && !slices.ContainsFunc(k.AllowedIPs,
		func(p netip.Prefix) bool { return p.Contains(client) }):
		return keystore.Address
	case !exists || m.key(id, scope{namespace, false})&d.bit() == 0:
		return keystore.Forbidden
	}
	return keystore.OK
}
