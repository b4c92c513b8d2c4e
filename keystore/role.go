package keystore

import "time"

// A Role is a named set of permissions. It belongs to one namespace, and only grants in that
// namespace can name it. A shared role has the namespace [AnyNamespace], and any grant can name it.
// No other role can have the name of a shared one.
type Role struct {
	Namespace   string
	Name        string
	Description string // for people
	Permissions []Permission
	Builtin     bool // part of the product, and immutable
	CreatedAt   time.Time
	Version     int64
	// Unreadable is the reason why the row, edited with SQL, cannot be read, or empty. Such a role
	// has no permissions until it is repaired.
	Unreadable string
}

// A RoleID identifies a role.
type RoleID struct{ Namespace, Name string }

// ID returns the role's id.
func (r *Role) ID() RoleID { return RoleID{r.Namespace, r.Name} }

// builtinRoles are shared roles for members (docs/authority.md, rule 8). They have no rows in the
// database.
var builtinRoles = []Role{
	{Namespace: AnyNamespace, Name: "client-admin",
		Description: "Full access, including members and namespaces.",
		Permissions: MustParsePermissions("*", "admin:*"), Builtin: true, Version: 1},
	{Namespace: AnyNamespace, Name: "developer",
		Description: "Full access to data, keys, roles and plans; read access to the rest.",
		Permissions: MustParsePermissions("*", "admin.keys:*", "admin.roles:*", "admin.plans:*",
			"admin:read"),
		Builtin: true, Version: 1},
	{Namespace: AnyNamespace, Name: "viewer",
		Description: "Read access to everything except data.",
		Permissions: MustParsePermissions("admin:read"), Builtin: true, Version: 1},
}

// MustParsePermissions parses permissions, and panics if one is invalid.
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

// Touches lists the role's namespace.
func (r *Role) Touches() []string { return []string{r.Namespace} }
