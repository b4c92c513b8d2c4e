package keystore

import "time"

// A Role is a named set of permissions. It belongs to one namespace, whose grants alone can name
// it, or is shared: [AnyNamespace]. A name is shared or local, never both.
type Role struct {
	Namespace   string
	Name        string
	Description string // for people
	Permissions []Permission
	Builtin     bool // made with the product: it cannot be changed
	CreatedAt   time.Time
	Version     int64
	// why its row, changed by hand, cannot be read: it gives nothing until it is mended; empty: it
	// can
	Unreadable string
}

// A RoleID names a role.
type RoleID struct{ Namespace, Name string }

// ID is the role's.
func (r *Role) ID() RoleID { return RoleID{r.Namespace, r.Name} }

// builtinRoles are shared, and for members (spec section 7). The database does not hold them.
var builtinRoles = []Role{
	{Namespace: AnyNamespace, Name: "client-admin",
		Description: "Everything, members and namespaces included.",
		Permissions: MustParsePermissions("*", "admin:*"), Builtin: true, Version: 1},
	{Namespace: AnyNamespace, Name: "developer",
		Description: "All data, keys and roles; reads the rest.",
		Permissions: MustParsePermissions("*", "admin.keys:*", "admin.roles:*", "admin:read"),
		Builtin:     true,
		Version:     1},
	{Namespace: AnyNamespace, Name: "viewer",
		Description: "Sees keys and the rest, and changes nothing.",
		Permissions: MustParsePermissions("admin:read"), Builtin: true, Version: 1},
}

func MustParsePermissions(words ...string) []Permission {
	out := make([]Permission, len(words))
	for i, w := range words {
		p, err := ParsePermission(w)
		if err != nil {
			panic(err)
		}
		out[i] = p
	}
	return out
}

// ValidRoleName reports whether s is `[A-Za-z0-9][A-Za-z0-9._~-]{0,63}`, as namespace ids are.
func ValidRoleName(s string) bool { return ValidName(s) }

// touches lists the namespaces a role has to do with.
func (r *Role) Touches() []string { return []string{r.Namespace} }
