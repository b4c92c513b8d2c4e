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
	Set       *Set
	Connected bool
}

func compileGrants(grants []Grant) []NamespaceSet {
	out := make([]NamespaceSet, len(grants))
	for i, g := range grants {
		out[i] = NamespaceSet{Namespace: canonical(g.Namespace), Set: g.Set(), Connected: g.Connected}
	}
	return out
}
