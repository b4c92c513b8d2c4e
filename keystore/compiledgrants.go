package keystore

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// CompiledGrants are the grants of a key with its owner, or the grants of a member, prepared for
// decisions. Equal ones share one value, so that a million keys with equal grants resolve them only
// once. A nil *CompiledGrants stands for root, which nothing limits. Only its method Size may be
// called.
type CompiledGrants struct {
	grants   []compiledGrant // ordered by namespace
	owner    string          // empty for the grants of a member
	size     int64           // approximate bytes
	resolved atomic.Pointer[resolved]
}

type compiledGrant struct {
	namespace string
	set       *Set // without the permissions of the roles
	roles     []string
	connected bool
}

// sortGrants orders grants by namespace and puts equal ones next to each other.
func sortGrants(list []compiledGrant) {
	slices.SortStableFunc(list, func(a, b compiledGrant) int {
		return cmp.Or(strings.Compare(a.namespace, b.namespace),
			strings.Compare(a.set.String(), b.set.String()))
	})
}

func (g compiledGrant) equal(other compiledGrant) bool {
	return g.namespace == other.namespace && g.set == other.set &&
		g.connected == other.connected && slices.Equal(g.roles, other.roles)
}

// granted returns the grants in a namespace.
func (g *CompiledGrants) granted(namespace string) []compiledGrant {
	start, found := slices.BinarySearchFunc(g.grants, namespace,
		func(one compiledGrant, wanted string) int { return strings.Compare(one.namespace, wanted) })
	end := start
	for found && end < len(g.grants) && g.grants[end].namespace == namespace {
		end++
	}
	return g.grants[start:end]
}

var compiledGrants interner[CompiledGrants]

// CompileGrants returns the compiled grants of a key with this owner, or those of a member if owner
// is empty.
func CompileGrants(grants []Grant, owner string) *CompiledGrants {
	g := &CompiledGrants{owner: canonical(owner), grants: make([]compiledGrant, len(grants))}
	for i, one := range grants {
		g.grants[i] = compiledGrant{namespace: canonical(one.Namespace), set: one.Own(),
			roles: one.Roles, connected: one.Connected}
	}
	sortGrants(g.grants)
	var text strings.Builder
	// Lengths come first: a row that was edited by hand can contain any text.
	write := func(part string) {
		text.WriteString(strconv.Itoa(len(part)) + ":" + part)
	}
	write(owner)
	permissions := 0
	for _, c := range g.grants {
		permissions += len(c.set.Permissions())
		write(c.namespace)
		write(c.set.String())
		text.WriteString(strconv.FormatBool(c.connected) + strconv.Itoa(len(c.roles)) + ",")
		for _, role := range c.roles {
			write(role)
		}
	}
	// Each text is stored three times: in the permissions, in the set and in the interner. A
	// permission may need its own map of operations.
	g.size = int64(200 + 3*text.Len() + 100*len(grants) + 400*permissions)
	return compiledGrants.intern(text.String(), g)
}

// Size returns the approximate memory of the grants in bytes.
func (g *CompiledGrants) Size() int64 {
	if g == nil {
		return 0
	}
	return g.size
}

// resolved caches entitlements under one directory, by the namespaces of earlier requests.
type resolved struct {
	directory *Directory
	first     *Namespace // most keys are used in only one
	inFirst   *entitlement
	others    map[*Namespace]*entitlement // nil if there are none
}

// An entitlement has the permissions of a key in one namespace (docs/authority.md, rule 4). Without
// a namespace, it has none.
type entitlement struct {
	key         *Set
	owner       *Set // limits the key, unless root owns it
	root        bool // root owns the key
	ownerActive bool
	both        *Set // key, limited by owner; for display; set only in resolved
}

// allows reports whether both the key and its owner allow a request.
func (e *entitlement) allows(n *Need) bool {
	return e.key.Allows(*n) && (e.root || e.owner.Allows(*n))
}

// maxResolved is the maximum number of namespaces for which a resolved caches entitlements.
const maxResolved = 256

// under returns what a key with these grants may do in a namespace, which may be nil.
func (g *CompiledGrants) under(d *Directory, ns *Namespace) *entitlement {
	cached := g.resolved.Load()
	if cached != nil && cached.directory == d {
		if cached.first == ns {
			return cached.inFirst
		}
		if e, known := cached.others[ns]; known {
			return e
		}
	}
	e := g.in(d, ns)
	if e.both = e.key; !e.root {
		e.both = intersections.of(e.key, e.owner)
	}
	next := &resolved{directory: d, first: ns, inFirst: e}
	if cached != nil && cached.directory == d && 1+len(cached.others) < maxResolved {
		next.first, next.inFirst = cached.first, cached.inFirst
		next.others = make(map[*Namespace]*entitlement, len(cached.others)+1)
		maps.Copy(next.others, cached.others)
		next.others[ns] = e
	}
	g.resolved.Store(next)
	return e
}

// in does the same as under, without the cache. It does not set entitlement.both.
func (g *CompiledGrants) in(d *Directory, ns *Namespace) *entitlement {
	e := &entitlement{root: g.owner == RootMember, ownerActive: d.OwnerActive(g.owner)}
	if ns == nil {
		return e
	}
	e.key = d.SetIn(g, ns, true)
	if m := d.members[g.owner]; m != nil && m.Active {
		e.owner = d.SetIn(m.grants, ns, false)
	}
	return e
}

// Everywhere reports whether one of the grants applies in all namespaces.
func (g *CompiledGrants) Everywhere() bool {
	return slices.ContainsFunc(g.grants,
		func(one compiledGrant) bool { return one.namespace == AnyNamespace })
}
