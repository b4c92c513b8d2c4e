package keystore

import "slices"

// nothing is held by a member that is not there, or disabled. No member has it.
var NoGrants = new(CompiledGrants)

// holds returns what bounds a member, and keys that act for it; nil for root.
func (d *Directory) GrantsOf(member string) *CompiledGrants {
	if member == RootMember {
		return nil
	}
	if m := d.members[member]; m != nil && m.Active {
		return m.holds
	}
	return NoGrants
}

// heldIn is what a holding gives in a namespace, or in all of them: [AnyNamespace].
func (d *Directory) SetFor(h *CompiledGrants, namespace string, wide, key bool) *Set {
	if ns := d.namespaces[namespace]; ns != nil && !wide {
		return d.SetIn(h, ns, key)
	}
	var parts []*Set
	for i := range h.grants {
		g := &h.grants[i]
		here := g.namespace == namespace && g.connected && !d.broken(namespace)
		if g.namespace == AnyNamespace || here {
			parts = append(parts, d.gives(g))
		}
	}
	return Union(parts...)
}

// setIn is what a holding gives in a namespace. Only keys' grants reach below
// through a namespace's `reach`. In one that is unreadable only grants in all namespaces count.
func (d *Directory) SetIn(h *CompiledGrants, ns *Namespace, key bool) *Set {
	var parts []*Set
	for i := range h.grants {
		switch g := &h.grants[i]; {
		case g.namespace == AnyNamespace:
			parts = append(parts, d.gives(g))
		case ns.Unreadable != "" || d.broken(g.namespace):
		case g.namespace == ns.ID || g.connected && g.namespace == ns.Parent:
			parts = append(parts, d.gives(g))
		case key && d.Reaches(g.namespace, ns):
			parts = append(parts, d.gives(g).Data())
		}
	}
	switch len(parts) {
	case 0:
		return nil
	case 1:
		return parts[0]
	}
	return Union(parts...)
}

// gives is a grant's permissions and those of its roles, which are roles of the grant's namespace
// or shared ones.
func (d *Directory) gives(g *compiledGrant) *Set {
	if len(g.roles) == 0 {
		return g.set
	}
	parts := []*Set{g.set}
	for _, name := range g.roles {
		parts = append(parts, d.RoleSet(g.namespace, name))
	}
	return Union(parts...)
}

// gives reports whether grants have one in the same namespace with at least the same reach.
func HasGrant(grants []Grant, g *Grant) bool {
	return slices.ContainsFunc(grants,
		func(b Grant) bool { return b.Namespace == g.Namespace && (b.Connected || !g.Connected) })
}

// adds reports whether grants give anything that those before them did not.
func (d *Directory) Adds(before, after []Grant) bool {
	return slices.ContainsFunc(after,
		func(g Grant) bool { return !HasGrant(before, &g) || len(d.Added(before, &g)) > 0 })
}

// added is what a grant gives that those before it did not cover, and all of each role that they
// did not name: whoever has it gets what is added to it later.
func (d *Directory) Added(before []Grant, g *Grant) []Permission {
	var was *Set
	var had []string
	if i := slices.IndexFunc(before,
		func(b Grant) bool {
			return b.Namespace == g.Namespace &&
				(b.Connected || !g.Connected)
		}); i >= 0 {
		was, had = d.Expand(&before[i]), before[i].Roles
	}
	list := slices.DeleteFunc(slices.Clone(d.Expand(g).Permissions()), was.Covers)
	for _, name := range g.Roles {
		if !slices.Contains(had, name) {
			list = append(list, d.RoleSet(g.Namespace, name).Permissions()...)
		}
	}
	return list
}

// expand is what a grant gives, roles included.
func (d *Directory) Expand(g *Grant) *Set {
	return d.gives(&compiledGrant{namespace: g.Namespace, set: g.Own(), roles: g.Roles,
		connected: g.Connected})
}

// touchedBy lists the namespaces that grants name or take in.
func (d *Directory) Touched(h *CompiledGrants, key bool) []string {
	var list []string
	for i := range h.grants {
		g := &h.grants[i]
		list = append(list, g.namespace)
		for id, ns := range d.namespaces {
			if g.connected && ns.Parent == g.namespace || key && d.Reaches(g.namespace, ns) {
				list = append(list, id)
			}
		}
	}
	return list
}
