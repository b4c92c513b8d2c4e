package keystore

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// A holding is the grants of a key, with whom it acts for, or of a member, ready to be used. Equal
// ones in use are one and the same, so that what they resolve to is found once for a million keys.
type CompiledGrants struct {
	grants   []compiledGrant
	owner    string // empty: a member's own grants
	size     int64  // bytes, about
	resolved atomic.Pointer[resolved]
}

type compiledGrant struct {
	namespace string
	set       *Set // without what the roles give
	roles     []string
	connected bool
}

var holdings interner[CompiledGrants]

func CompileGrants(grants []Grant, owner string) *CompiledGrants {
	h := &CompiledGrants{owner: canonical(owner), grants: make([]compiledGrant, len(grants))}
	var text strings.Builder
	text.WriteString(owner)
	permissions := 0
	for i, g := range grants {
		c := compiledGrant{namespace: canonical(g.Namespace), set: g.Own(), roles: g.Roles,
			connected: g.Connected}
		h.grants[i] = c
		permissions += len(c.set.Permissions())
		// None of these holds a space.
		text.WriteString(" " + c.namespace + " " + c.set.String() + " " +
			strings.Join(c.roles, ",") + " " + strconv.FormatBool(c.connected))
	}
	// Each text is held three times: in the permissions, in the set and in the holding. A
	// permission may need a map of operations for itself.
	h.size = int64(200 + 3*text.Len() + 100*len(grants) + 400*permissions)
	return holdings.intern(text.String(), h)
}

func (h *CompiledGrants) Size() int64 {
	if h == nil {
		return 0
	}
	return h.size
}

// resolved is what one holding gives under one directory, in the namespaces that have been asked
// for.
type resolved struct {
	directory *Directory
	sets      map[*Namespace]*entitlement
}

// An entitlement is what a key may do in one namespace. In none it is nothing.
type entitlement struct {
	key   *Set
	owner *Set // bounds the key, unless it acts for root
	root  bool
	alive bool // the owner
	both  *Set // what both hold, to be shown; nil but in resolved
}

// allows reports whether it allows what a request needs: the key's own set does, and its owner's.
func (e *entitlement) allows(n *Need) bool {
	return e.key.Allows(*n) && (e.root || e.owner.Allows(*n))
}

// resolvedSets bounds how many namespaces of one holding are kept resolved.
const resolvedSets = 256

// under returns what a holding gives in a namespace, which may be nil, under a directory.
func (h *CompiledGrants) under(d *Directory, ns *Namespace) *entitlement {
	held := h.resolved.Load()
	if held != nil && held.directory == d {
		if e, known := held.sets[ns]; known {
			return e
		}
	}
	e := h.in(d, ns)
	if e.both = e.key; !e.root {
		e.both = Intersection(e.key, e.owner)
	}
	next := &resolved{directory: d, sets: map[*Namespace]*entitlement{ns: e}}
	if held != nil && held.directory == d && len(held.sets) < resolvedSets {
		maps.Copy(next.sets, held.sets)
	}
	h.resolved.Store(next)
	return e
}

// in is what a key with this holding may do in a namespace.
func (h *CompiledGrants) in(d *Directory, ns *Namespace) *entitlement {
	e := &entitlement{root: h.owner == RootMember, alive: d.OwnerActive(h.owner)}
	if ns == nil {
		return e
	}
	e.key = d.SetIn(h, ns, true)
	if m := d.members[h.owner]; m != nil && m.Active {
		e.owner = d.SetIn(m.holds, ns, false)
	}
	return e
}

// Everywhere reports whether one of the grants is in all namespaces.
func (h *CompiledGrants) Everywhere() bool {
	return slices.ContainsFunc(h.grants,
		func(g compiledGrant) bool { return g.namespace == AnyNamespace })
}
