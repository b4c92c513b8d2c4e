package keystore

import "slices"

// An EffectiveGrant is the effect of one grant of a key.
type EffectiveGrant struct {
	Namespace string
	Connected bool
	Effective []Permission // the permissions that both the key and its owner have
	Sources   []Source     // of the key's permissions, before its owner limits them
}

// A Source says where a permission of a key comes from.
type Source struct {
	Permission Permission
	Own        bool     // the grant lists it
	Roles      []string // the grant's roles that have it
	// Cut means that the owner does not cover the permission, or that the namespace is unreadable.
	// The permission may then be effective in part or not at all.
	Cut bool
}

// Explain returns the effect of each of a key's grants, with the roles and members of the
// directory. In descendants that a grant reaches through `reach`, it has the same data permissions,
// but the limit is what the owner has there.
func (d *Directory) Explain(key *Key) []EffectiveGrant {
	owner := d.GrantsOf(key.Owner) // nil for root, which nothing limits
	list := make([]EffectiveGrant, len(key.Grants))
	for i := range key.Grants {
		g := &key.Grants[i]
		has := d.Expand(g)
		both := has
		covered := func(Permission) bool { return true }
		if d.unreadable(g.Namespace) {
			both, covered = nil, func(Permission) bool { return false }
		} else if owner != nil {
			set := d.SetFor(owner, g.Namespace, g.Connected, false)
			both, covered = Intersection(has, set), set.Covers
		}
		e := EffectiveGrant{Namespace: g.Namespace, Connected: g.Connected,
			Effective: both.Permissions()}
		for _, p := range has.Permissions() {
			s := Source{Permission: p, Own: slices.Contains(g.Permissions, p), Cut: !covered(p)}
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
