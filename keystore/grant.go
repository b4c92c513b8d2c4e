package keystore

// AnyNamespace is the namespace of a grant that reaches all of them, present and future.
const AnyNamespace = "*"

// A Grant is permissions and roles in one namespace.
type Grant struct {
	Namespace   string
	Permissions []Permission
	Roles       []string // names of roles; none exist yet
	Connected   bool     // takes in the namespace's direct children, present and future
}

// Set returns what the grant gives.
func (g Grant) Set() *Set { return NewSet(g.Permissions...) }

// A NamespaceSet is a grant as the data plane uses it.
type NamespaceSet struct {
	Namespace string
	Set       *Set // what this grant gives
	effective *Set // and what the key holds everywhere
	Connected bool
}

func compileGrants(grants []Grant) []NamespaceSet {
	out := make([]NamespaceSet, len(grants))
	var everywhere *Set
	for i, g := range grants {
		set := g.Set()
		out[i] = NamespaceSet{Namespace: canonical(g.Namespace), Set: set, effective: set, Connected: g.Connected}
		if g.Namespace == AnyNamespace {
			everywhere = set
		}
	}
	if everywhere != nil {
		for i := range out {
			out[i].effective = Union(out[i].Set, everywhere)
		}
	}
	return out
}
