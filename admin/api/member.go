package api

import "time"

// A Member is a person or service that manages keys, and whom keys act for.
type Member struct {
	ID         string            `json:"id" doc:"m_ and 12 letters and digits; never changes"`
	Name       string            `json:"name"`
	Kind       string            `json:"kind" enum:"person,service"`
	Login      *string           `json:"login" doc:"The user of a door with trust_user that stands for this member; null: nobody"`
	Grants     []Grant           `json:"grants" nullable:"false" doc:"Those that the caller may see"`
	Labels     map[string]string `json:"labels"`
	Active     bool              `json:"active" doc:"false: its token and all keys that act for it are refused"`
	CreatedAt  time.Time         `json:"created_at"`
	CreatedBy  string            `json:"created_by" doc:"A member id"`
	Version    int64             `json:"version"`
	Unreadable string            `json:"unreadable,omitempty" doc:"Why its row, changed by hand in the database, cannot be read. Until it is mended it gives nothing."`
}

// A MemberRequest describes a member to be made. It is active, and has no token yet.
type MemberRequest struct {
	Name   string            `json:"name" minLength:"1" doc:"1 to 200 characters without control characters"`
	Kind   string            `json:"kind,omitempty" enum:"person,service" doc:"Default: person"`
	Login  string            `json:"login,omitempty" doc:"The user of a door with trust_user that stands for this member, to the letter"`
	Grants []GrantRequest    `json:"grants,omitempty" maxItems:"100"`
	Labels map[string]string `json:"labels,omitempty" doc:"At most 4 KiB of names and values"`
}

// A MemberPatch is a merge patch (RFC 7396) of a member: what is absent stays, null goes back to
// the default.
type MemberPatch struct {
	Name   Optional[string]             `json:"name,omitzero" minLength:"1"`
	Kind   Optional[string]             `json:"kind,omitzero" enum:"person,service"`
	Login  Optional[string]             `json:"login,omitzero" doc:"null: nobody"`
	Grants Optional[[]GrantRequest]     `json:"grants,omitzero" maxItems:"100" doc:"All those that the caller may see; the others stay"`
	Labels Optional[map[string]*string] `json:"labels,omitzero" doc:"Merged into what is there; a null value removes the name, null instead of the object removes all"`
	Active Optional[bool]               `json:"active,omitzero" doc:"false disables the member, its token and all keys that act for it"`
}

// A TokenRequest asks for a member's token. The one it has dies.
type TokenRequest struct {
	ExpiresAt  *time.Time `json:"expires_at,omitempty" nullable:"true" doc:"RFC 3339; null or absent: never"`
	AllowedIPs []string   `json:"allowed_ips,omitempty" maxItems:"256" doc:"Addresses or CIDR ranges it may be used from; empty: any"`
}

// MemberChanged is the answer to a change of a member.
type MemberChanged struct {
	Member      Member      `json:"member"`
	Token       string      `json:"token,omitempty" doc:"Only when one was asked for: shown here and never again"`
	Propagation Propagation `json:"propagation"`
}

// Members is one page of a list, newest first.
type Members = Page[Member]
