package keystore

import "slices"

// NoGrants are the grants of a member that does not exist or is disabled. They differ from the
// grants of every existing member, even of one that has none.
var NoGrants = new(CompiledGrants)

// GrantsOf returns the grants that limit a member and the keys it owns. It returns nil for root,
// which nothing limits, and [NoGrants] for a member that does not exist or is disabled. For several
// members it returns the grants of all of them.
func (d *Directory) GrantsOf(members ...string) *CompiledGrants {
	granted := NoGrants
	var several []compiledGrant
	for _, id := range members {
		if id == RootMember {
			return nil
		}
		switch m := d.members[id]; {
		case m == nil || !m.Active:
		case granted == NoGrants:
			granted = m.grants
		case several == nil:
			several = slices.Concat(granted.grants, m.grants.grants)
		default:
			several = append(several, m.grants.grants...)
		}
	}
	if several == nil {
		return granted
	}
	sortGrants(several)
	return &CompiledGrants{grants: slices.CompactFunc(several, compiledGrant.equal)}
}

// SetFor returns the permissions that grants give in a namespace, or in all namespaces for
// [AnyNamespace]. If wide is true, or the namespace does not exist, only connected grants and
// grants in all namespaces count. key is as for [Directory.SetIn].
func (d *Directory) SetFor(g *CompiledGrants, namespace string, wide, key bool) *Set {
	if ns := d.namespaces[namespace]; ns != nil && !wide {
		return d.SetIn(g, ns, key)
	}
	parts := d.expandAll(g.granted(AnyNamespace), false)
	if namespace != AnyNamespace && !d.unreadable(namespace) {
		parts = append(parts, d.expandAll(g.granted(namespace), true)...)
	}
	return Union(parts...)
}

// SetIn returns the permissions that grants give in a namespace (docs/authority.md, rule 3). key
// says whether the grants are a key's. Only those also apply in descendants through `reach`. In an
// unreadable namespace, only grants in all namespaces count.
func (d *Directory) SetIn(g *CompiledGrants, ns *Namespace, key bool) *Set {
	parts := d.expandAll(g.granted(AnyNamespace), false)
	if ns.Unreadable == "" {
		parts = append(parts, d.expandAll(g.granted(ns.ID), false)...)
		if ns.Parent != "" && !d.unreadable(ns.Parent) {
			parts = append(parts, d.expandAll(g.granted(ns.Parent), true)...)
		}
		for _, above := range ns.reachedBy {
			if key && !d.unreadable(above) {
				for _, set := range d.expandAll(g.granted(above), false) {
					parts = append(parts, set.Data())
				}
			}
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

// expandAll returns the permissions of each grant in a list, or only of the connected ones.
func (d *Directory) expandAll(list []compiledGrant, connected bool) (parts []*Set) {
	for i := range list {
		if list[i].connected || !connected {
			parts = append(parts, d.expand(&list[i]))
		}
	}
	return parts
}

// expand returns the permissions of a grant, including those of its roles.
func (d *Directory) expand(g *compiledGrant) *Set {
	if len(g.roles) == 0 {
		return g.set
	}
	parts := []*Set{g.set}
	for _, name := range g.roles {
		parts = append(parts, d.RoleSet(g.namespace, name))
	}
	return Union(parts...)
}

// HasGrant reports whether grants contain a grant in g's namespace. If g is connected, that grant
// must be connected too.
func HasGrant(grants []Grant, g *Grant) bool { return indexGrant(grants, g) >= 0 }

func indexGrant(grants []Grant, g *Grant) int {
	return slices.IndexFunc(grants,
		func(b Grant) bool { return b.Namespace == g.Namespace && (b.Connected || !g.Connected) })
}

// Adds reports whether a grant in after gives anything that the grant of its namespace in before
// does not: see [HasGrant].
func (d *Directory) Adds(before, after []Grant) bool {
	return slices.ContainsFunc(after,
		func(g Grant) bool { return !HasGrant(before, &g) || len(d.Added(before, &g)) > 0 })
}

// Added returns the permissions of g that the grant of its namespace in before does not cover: see
// [HasGrant]. It includes all permissions of each added role, because the holder of a role also
// gets the permissions that the role is given later.
func (d *Directory) Added(before []Grant, g *Grant) []Permission {
	var was *Set
	var had []string
	if i := indexGrant(before, g); i >= 0 {
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

// Expand returns the permissions of a grant, including those of its roles: roles of the grant's
// namespace, and shared ones.
func (d *Directory) Expand(g *Grant) *Set {
	return d.expand(&compiledGrant{namespace: g.Namespace, set: g.Own(), roles: g.Roles,
		connected: g.Connected})
}

// Touched lists the namespaces in which grants apply, sorted. key is as for [Directory.SetIn].
func (d *Directory) Touched(g *CompiledGrants, key bool) []string {
	var list []string
	for i := range g.grants {
		list = append(list, g.grants[i].namespace)
	}
	for id, ns := range d.namespaces {
		applies := slices.ContainsFunc(g.granted(ns.Parent),
			func(one compiledGrant) bool { return one.connected })
		for _, above := range ns.reachedBy {
			applies = applies || key && len(g.granted(above)) > 0
		}
		if applies {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
