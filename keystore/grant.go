package keystore

// AnyNamespace is the namespace of a grant that applies in all namespaces, including those that are
// created later.
const AnyNamespace = "*"

// A Grant gives permissions and roles in one namespace (docs/authority.md, rule 3).
type Grant struct {
	Namespace   string
	Permissions []Permission
	Roles       []string // names of roles of this namespace, or of shared ones
	Connected   bool     // also applies in direct children, including those created later
}

// Own returns the grant's permissions, without those of its roles.
func (g Grant) Own() *Set { return NewSet(g.Permissions...) }
