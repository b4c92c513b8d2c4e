package api

import "time"

// A Member is a person, a service or a group that manages keys. Keys act for members. People act
// for a group if the site that they sign in to says that they are in it.
type Member struct {
	ID         string            `json:"id" doc:"m_ and 12 letters and digits; never changes"`
	Name       string            `json:"name"`
	Kind       string            `json:"kind" enum:"person,service,group"`
	Login      *string           `json:"login" doc:"The user name, verified by a site with trust_user, that signs in as this member; for a group its name in trust_groups; null: none"`
	Grants     []Grant           `json:"grants" nullable:"false" doc:"The grants that the caller may see"`
	Labels     map[string]string `json:"labels"`
	Active     bool              `json:"active" doc:"If false, the member's token and all keys that act for it are refused"`
	CreatedAt  time.Time         `json:"created_at"`
	CreatedBy  string            `json:"created_by" doc:"The id of a member, or the actor of a person that acts for groups as in the audit log"`
	Version    int64             `json:"version"`
	Unreadable string            `json:"unreadable,omitempty" doc:"Why the database row, edited by hand, cannot be read. It grants nothing until it is repaired."`
}

// A MemberRequest describes a member to create. A new member is active and has no token.
type MemberRequest struct {
	Name   string            `json:"name" minLength:"1" doc:"1 to 200 characters, at least one of them visible, without control or invisible characters"`
	Kind   string            `json:"kind,omitempty" enum:"person,service,group" doc:"Default: person. A group has no token. A member cannot become a group, nor a group something else"`
	Login  string            `json:"login,omitempty" doc:"The user name, verified by a site with trust_user, that signs in as this member; for a group its name in trust_groups. Case matters"`
	Grants []GrantRequest    `json:"grants,omitempty" maxItems:"100"`
	Labels map[string]string `json:"labels,omitempty" doc:"At most 4 KiB of names and values"`
}

// A MemberPatch is a merge patch (RFC 7396) of a member: absent fields stay, null restores the
// default.
type MemberPatch struct {
	Name   Optional[string]             `json:"name,omitzero" minLength:"1"`
	Kind   Optional[string]             `json:"kind,omitzero" enum:"person,service,group"`
	Login  Optional[string]             `json:"login,omitzero" doc:"null: none"`
	Grants Optional[[]GrantRequest]     `json:"grants,omitzero" maxItems:"100" doc:"Replaces the grants that the caller may see; the others stay"`
	Labels Optional[map[string]*string] `json:"labels,omitzero" doc:"Merged into the member's labels. A null value removes its name; null for the object removes all"`
	Active Optional[bool]               `json:"active,omitzero" doc:"false disables the member, its token and all keys that act for it"`
}

// A TokenRequest asks for a new token of a member. It replaces the current one.
type TokenRequest struct {
	ExpiresAt  *time.Time `json:"expires_at,omitempty" nullable:"true" doc:"RFC 3339; null or absent: never"`
	AllowedIPs []string   `json:"allowed_ips,omitempty" maxItems:"256" doc:"The addresses or CIDR ranges that the token may be used from; empty: any address"`
}

// A TransferRequest asks to transfer all keys of a member to another member.
type TransferRequest struct {
	To string `json:"to" minLength:"1" doc:"The id of the new owner"`
}

// MemberChanged is the answer to a change of a member.
type MemberChanged struct {
	Member      Member      `json:"member"`
	Token       string      `json:"token,omitempty" doc:"The new token if one was requested; it is shown here and never again"`
	Transferred *int        `json:"transferred,omitempty" doc:"The number of transferred keys; only after a transfer"`
	Propagation Propagation `json:"propagation"`
}

// Members is one page of a list, newest first.
type Members = Page[Member]
