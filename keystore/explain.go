package keystore

import "slices"

// An Entitled is what a key may do in the namespaces of one of its grants.
type Entitled struct {
	Namespace string
	Connected bool
	Effective []Permission // what key and owner both allow there
	Sources   []Source     // what the key itself has there, by permission
}

// A Source says where a permission of a key comes from.
type Source struct {
	Permission Permission
	Own        bool     // given by the grant itself
	Roles      []string // that give it
	// the owner does not cover it, so that it counts as far as Effective says, or not at all
	Cut bool
}

// Explain says what a key's grants come to as this node knows roles and members now, and where it
// comes from. What a namespace's `reach` adds below it is the same as in it.
func (d *Directory) Explain(key *Key) []Entitled {
	owner := d.GrantsOf(key.Owner) // nil: root, whom nothing bounds
	list := make([]Entitled, len(key.Grants))
	for i := range key.Grants {
		g := &key.Grants[i]
		has := d.Expand(g)
		both := has
		bounds := func(Permission) bool { return true }
		if d.broken(g.Namespace) {
			both, bounds = nil, func(Permission) bool { return false }
		} else if owner != nil {
			set := d.SetFor(owner, g.Namespace, g.Connected, false)
			both, bounds = Intersection(has, set), set.Covers
		}
		e := Entitled{Namespace: g.Namespace, Connected: g.Connected, Effective: both.Permissions()}
		for _, p := range has.Permissions() {
			s := Source{Permission: p, Own: slices.Contains(g.Permissions, p), Cut: !bounds(p)}
			for _, role := range g.Roles {
				if slices.Contains(d.RoleSet(g.Namespace, role).Permissions(), p) {
					s.Roles = append(s.Roles, role)
				}
			}
			e.Sources = append(e.Sources, s)
		}
		list[i] = e
	}
	return list
}
