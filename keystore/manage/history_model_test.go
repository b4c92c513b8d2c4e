package manage_test

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// What spec sections 3 and 7a say of who may do what, as slow and plain as they say it. It shares
// nothing with the code that it judges but the shape of the objects, which root reads.

// A demand is what one request asks for.
type demand struct{ class, resource, operation string }

// demands are all that is looked at; a set of them is a word with a bit for each.
var demands = []demand{
	{"read", "", ""}, {"write", "", ""}, {"read", "x", ""}, {"write", "x", ""}, {"read", "x", "op"},
	{"write", "x", "op"}, {"read", "y", ""}, {"write", "y", "op"},
	{"read", "admin.keys", ""}, {"write", "admin.keys", "create"},
	{"write", "admin.keys", "update"}, {"write", "admin.keys", "revoke"},
	{"read", "admin.roles", ""}, {"write", "admin.roles", "create"},
	{"write", "admin.roles", "update"},
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

// bit is the one that stands for a demand.
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

// A truth is a deployment at one moment.
type truth struct {
	namespaces map[string]keystore.Namespace
	roles      map[keystore.RoleID]keystore.Role
	members    map[string]keystore.Member
	keys       map[string]keystore.Key
	lists      struct { // of the same, in the order in which they are listed
		namespaces []keystore.Namespace
		roles      []keystore.Role
		members    []keystore.Member
		keys       []keystore.Key
	}
}

// gives is what a grant gives where it counts.
func (t *truth) gives(g keystore.Grant) (mask uint32) {
	for _, p := range g.Permissions {
		mask |= allowed(p.String())
	}
	for _, name := range g.Roles {
		role, local := t.roles[keystore.RoleID{Namespace: g.Namespace, Name: name}]
		if !local {
			role = t.roles[keystore.RoleID{Namespace: "*", Name: name}]
		}
		for _, p := range role.Permissions {
			mask |= allowed(p.String())
		}
	}
	return mask
}

// below reports whether a namespace lies somewhere below another, and is of a kind that its reach
// takes in.
func (t *truth) below(above, id string) bool {
	kind := t.namespaces[id].Kind
	for p := t.namespaces[id].Parent; p != ""; p = t.namespaces[p].Parent {
		if p == above {
			return slices.Contains(t.namespaces[above].Reach, kind)
		}
	}
	return false
}

// A scope is a namespace, a namespace with all that will be connected to it, or all namespaces.
type scope struct {
	namespace string
	connected bool
}

var everywhere = scope{namespace: "*"}

// grants is what grants, of a key or not, give in a scope.
func (t *truth) grants(list []keystore.Grant, s scope, key bool) (mask uint32) {
	for _, g := range list {
		switch {
		case g.Namespace == "*", g.Namespace == s.namespace && (g.Connected || !s.connected):
			mask |= t.gives(g)
		case s == everywhere || s.connected:
		case g.Connected && g.Namespace == t.namespaces[s.namespace].Parent:
			mask |= t.gives(g)
		case key && t.below(g.Namespace, s.namespace):
			mask |= t.gives(g) & dataMask
		}
	}
	return mask
}

// member is what a member may do in a scope.
func (t *truth) member(id string, s scope) uint32 {
	if id == keystore.RootMember {
		return 1<<len(demands) - 1
	}
	m := t.members[id]
	if !m.Active {
		return 0
	}
	return t.grants(m.Grants, s, false)
}

// key is what a key may do in a scope.
func (t *truth) key(id string, s scope) uint32 {
	k := t.keys[id]
	if !k.RevokedAt.IsZero() || !k.Active {
		return 0
	}
	return t.grants(k.Grants, s, true) & t.member(k.Owner, s)
}

// scopes lists all there are.
func (t *truth) scopes() []scope {
	list := []scope{everywhere}
	for id := range t.namespaces {
		list = append(list, scope{id, false}, scope{id, true})
	}
	return list
}

// A ceiling is the most that somebody may come to do.
type ceiling map[scope]uint32

// raise lets in what somebody may do now.
func (c ceiling) raise(t *truth, may func(string, scope) uint32, id string) {
	for _, s := range t.scopes() {
		c[s] |= may(id, s)
	}
}

// add says what there is to have in a new namespace: what connected grants and such in all
// namespaces take in, and what reaches down to keys.
func (c ceiling) add(t *truth, id string) {
	new := t.namespaces[id]
	c[scope{id, false}] = c[scope{new.Parent, true}] | c[everywhere]
	c[scope{id, true}] = c[everywhere]
	for above := range t.namespaces {
		if t.below(above, id) {
			c[scope{id, false}] |= c[scope{above, false}] & dataMask
		}
	}
}

// outcome is what a request with a key's present token comes to.
func (t *truth) outcome(id, namespace string, d demand, client netip.Addr) keystore.Outcome {
	k, there := t.keys[id]
	_, exists := t.namespaces[namespace]
	switch {
	case !there:
		return keystore.Unknown
	case !k.RevokedAt.IsZero():
		return keystore.Revoked
	case !k.Active:
		return keystore.Inactive
	case k.Owner != keystore.RootMember && !t.members[k.Owner].Active:
		return keystore.OwnerDisabled
	case len(k.AllowedIPs) > 0 && !slices.ContainsFunc(k.AllowedIPs,
		func(p netip.Prefix) bool { return p.Contains(client) }):
		return keystore.Address
	case !exists || t.key(id, scope{namespace, false})&d.bit() == 0:
		return keystore.Forbidden
	}
	return keystore.OK
}
