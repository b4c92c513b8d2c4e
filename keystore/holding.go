package keystore

import (
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
)

// A holding is the grants of a key, with whom it acts for, or of a member, ready to be used. Equal ones in use are one and the same, so that
// what they resolve to is found once for a million keys.
type holding struct {
	grants   []compiledGrant
	owner    string // empty: a member's own grants
	resolved atomic.Pointer[resolved]
}

type compiledGrant struct {
	namespace string
	set       *Set // without what the roles give
	roles     []string
	connected bool
}

var holdings interner[holding]

func holdingOf(grants []Grant, owner string) *holding {
	h := &holding{owner: canonical(owner), grants: make([]compiledGrant, len(grants))}
	var text strings.Builder
	text.WriteString(owner)
	for i, g := range grants {
		c := compiledGrant{namespace: canonical(g.Namespace), set: g.own(), roles: g.Roles, connected: g.Connected}
		h.grants[i] = c
		// None of these holds a space.
		text.WriteString(" " + c.namespace + " " + c.set.String() + " " + strings.Join(c.roles, ",") + " " + strconv.FormatBool(c.connected))
	}
	return holdings.intern(text.String(), h)
}

// resolved are the sets of one holding under one directory, as far as they have been asked for.
type resolved struct {
	directory *Directory
	alive     bool // the owner
	sets      map[*Namespace]entitlement
}

// An entitlement is what a key may do in one namespace.
type entitlement struct {
	key   *Set
	owner *Set // bounds the key, unless it acts for root
	root  bool
	both  *Set // what both hold, to be shown; nil but in resolved
}

// Allows reports whether it allows what a request needs: the key's own set does, and its owner's.
func (e entitlement) Allows(n Need) bool {
	return e.key.Allows(n) && (e.root || e.owner.Allows(n))
}

// resolvedSets bounds how many namespaces of one holding are kept resolved.
const resolvedSets = 256

// under returns the sets of a holding under a directory, with that of a namespace among them, unless it is nil.
func (h *holding) under(d *Directory, ns *Namespace) *resolved {
	held := h.resolved.Load()
	if held != nil && held.directory == d {
		if _, known := held.sets[ns]; known || ns == nil {
			return held
		}
	}
	next := &resolved{directory: d, alive: d.aliveOwner(h.owner), sets: make(map[*Namespace]entitlement, 1)}
	if held != nil && held.directory == d && len(held.sets) < resolvedSets {
		maps.Copy(next.sets, held.sets)
	}
	if ns != nil {
		e := h.in(d, ns)
		if e.both = e.key; !e.root {
			e.both = intersection(e.key, e.owner)
		}
		next.sets[ns] = e
	}
	h.resolved.Store(next)
	return next
}

// in is what a key with this holding may do in a namespace.
func (h *holding) in(d *Directory, ns *Namespace) entitlement {
	e := entitlement{key: d.setIn(h, ns, true), root: h.owner == RootMember}
	if m := d.members[h.owner]; m != nil && m.Active {
		e.owner = d.setIn(m.holds, ns, false)
	}
	return e
}
