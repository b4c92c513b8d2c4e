package api

import "time"

// A Role is a named set of permissions. It belongs to one namespace, whose grants alone can name
// it, or is shared.
type Role struct {
	Namespace   string     `json:"namespace" doc:"An id, or * for a shared role"`
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Permissions []string   `json:"permissions" nullable:"false"`
	Builtin     bool       `json:"builtin" doc:"It comes with the product and cannot be changed"`
	CreatedAt   *time.Time `json:"created_at" doc:"null: with the product"`
	Version     int64      `json:"version"`
	Unreadable  string     `json:"unreadable,omitempty" doc:"Why its row, changed by hand in the database, cannot be read. Until it is mended it gives nothing."`
}

// A NewRole is a role to be made beside what will have it.
type NewRole struct {
	Name        string   `json:"name" doc:"A letter or digit, then at most 63 more of these, '.', '_', '~' and '-'"`
	Description string   `json:"description,omitempty" minLength:"0" doc:"For people: at most 1000 characters without control characters"`
	Permissions []string `json:"permissions" nullable:"false" maxItems:"500" example:"[\"orders:read\"]"`
}

// A RoleRequest describes a role to be made.
type RoleRequest struct {
	Namespace   string   `json:"namespace" doc:"An id, or * for a shared role"`
	Name        string   `json:"name" doc:"A letter or digit, then at most 63 more of these, '.', '_', '~' and '-'"`
	Description string   `json:"description,omitempty" minLength:"0" doc:"For people: at most 1000 characters without control characters"`
	Permissions []string `json:"permissions" nullable:"false" maxItems:"500" example:"[\"orders:read\"]"`
}

// A RolePatch is a merge patch (RFC 7396) of a role.
type RolePatch struct {
	Namespace   Optional[string]   `json:"namespace,omitzero" doc:"Never changes: accepted only when it is what the role has"`
	Name        Optional[string]   `json:"name,omitzero" doc:"Never changes: accepted only when it is what the role has"`
	Description Optional[string]   `json:"description,omitzero" minLength:"0"`
	Permissions Optional[[]string] `json:"permissions,omitzero" maxItems:"500" doc:"All there are, for everyone who has the role"`
}

// RoleChanged is the answer to a change of a role.
type RoleChanged struct {
	Role        Role        `json:"role"`
	Propagation Propagation `json:"propagation"`
}

// Roles is one page of a list, newest first and the built-in ones last.
type Roles = Page[Role]
