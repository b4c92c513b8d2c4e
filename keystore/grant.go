package keystore

// AnyNamespace is the namespace of a grant that reaches all of them, present and future.
const AnyNamespace = "*"

// A Grant is permissions and roles in one namespace.
type Grant struct {
	Namespace   string
	Permissions []Permission
	Roles       []string // names of roles of this namespace, or shared ones
	Connected   bool     // takes in the namespace's direct children, present and future
}

// own returns the grant's permissions, without those of its roles.
func (g Grant) Own() *Set { return NewSet(g.Permissions...) }
