package api

import "time"

// A Role is a named set of permissions. It is shared, or belongs to one namespace and can only be
// named in grants there.
type Role struct {
	Namespace   string     `json:"namespace" doc:"An id, or * for a shared role"`
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Permissions []string   `json:"permissions" nullable:"false"`
	Builtin     bool       `json:"builtin" doc:"Whether the role is built in and cannot be changed"`
	CreatedAt   *time.Time `json:"created_at" doc:"null for built-in roles"`
	Version     int64      `json:"version"`
	Unreadable  string     `json:"unreadable,omitempty" doc:"Why the database row, edited by hand, cannot be read. It grants nothing until it is repaired."`
}

// A NewRole describes a role to create with the key that gets it, or with an edit of that key.
type NewRole struct {
	Name        string   `json:"name" doc:"Starts with a letter or digit; at most 64 letters, digits, '.', '_', '~' and '-'"`
	Description string   `json:"description,omitempty" minLength:"0" doc:"For people: at most 1000 characters without control characters"`
	Permissions []string `json:"permissions" nullable:"false" maxItems:"500" example:"[\"orders:read\"]"`
}

// A RoleRequest describes a role to create.
type RoleRequest struct {
	Namespace   string   `json:"namespace" doc:"An id, or * for a shared role"`
	Name        string   `json:"name" doc:"Starts with a letter or digit; at most 64 letters, digits, '.', '_', '~' and '-'"`
	Description string   `json:"description,omitempty" minLength:"0" doc:"For people: at most 1000 characters without control characters"`
	Permissions []string `json:"permissions" nullable:"false" maxItems:"500" example:"[\"orders:read\"]"`
}

// A RolePatch is a merge patch (RFC 7396) of a role: absent fields stay, null restores the default.
type RolePatch struct {
	Namespace   Optional[string]   `json:"namespace,omitzero" doc:"Never changes: must equal the role's namespace"`
	Name        Optional[string]   `json:"name,omitzero" doc:"Never changes: must equal the role's name"`
	Description Optional[string]   `json:"description,omitzero" minLength:"0"`
	Permissions Optional[[]string] `json:"permissions,omitzero" maxItems:"500" doc:"Replaces the permissions, for every key and member that has the role"`
}

// RoleChanged is the answer to a change of a role.
type RoleChanged struct {
	Role        Role        `json:"role"`
	Propagation Propagation `json:"propagation"`
}

// Roles is one page of a list, newest first and the built-in ones last.
type Roles = Page[Role]
