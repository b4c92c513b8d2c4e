package api

import "time"

// A Key is the record of a key. It never holds a token.
type Key struct {
	ID           string            `json:"id" doc:"12 letters and digits; never changes"`
	Name         string            `json:"name"`
	Namespace    string            `json:"namespace" doc:"The home namespace; never changes"`
	Prefix       string            `json:"prefix" doc:"How the key is listed: the token's prefix and the first 8 characters of the id" example:"ak_1a2B3c4D…"`
	Access       string            `json:"access" enum:"read_only,read_write,custom" doc:"The short name of the permissions in the home namespace"`
	Grants       []Grant           `json:"grants" nullable:"false" doc:"What the key may do where; the home namespace first"`
	Owner        string            `json:"owner" doc:"The member the key acts for"`
	Status       string            `json:"status" enum:"active,inactive,expired,revoked"`
	Active       bool              `json:"active" doc:"Whether requests with the key are accepted: false for a key that was set inactive, has expired or is revoked"`
	CreatedAt    time.Time         `json:"created_at"`
	CreatedBy    string            `json:"created_by" doc:"A member or key id"`
	ExpiresAt    *time.Time        `json:"expires_at" doc:"From this moment on the key opens nothing; null: never. Never changes."`
	RevokedAt    *time.Time        `json:"revoked_at"`
	RevokedBy    *string           `json:"revoked_by"`
	RevokeReason *string           `json:"revoke_reason"`
	LastUsedAt   *time.Time        `json:"last_used_at" doc:"At most 10 s late; null: never used"`
	Secrets      []Secret          `json:"secrets" nullable:"false" doc:"What opens the key now, newest first: two while a rotation overlaps"`
	AllowedIPs   []string          `json:"allowed_ips" nullable:"false" doc:"CIDR ranges the key may be used from; empty: any"`
	RateLimit    any               `json:"rate_limit" doc:"Not built yet: always null"`
	Quota        any               `json:"quota" doc:"Not built yet: always null"`
	Metadata     map[string]string `json:"metadata"`
	Version      int64             `json:"version" doc:"1 when made, one more with each change; the ETag is the same number in quotes"`
}

// A Secret is one token that opens a key, without the token.
type Secret struct {
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at" doc:"null: with the key"`
}

// A Grant is permissions and roles in one namespace, as shown.
type Grant struct {
	Namespace   string   `json:"namespace" doc:"An id, or * for all namespaces"`
	Permissions []string `json:"permissions" nullable:"false"`
	Roles       []string `json:"roles" nullable:"false"`
	Connected   bool     `json:"connected" doc:"Extends the grant to the namespace's children, present and future"`
}

// A GrantRequest is a grant to be given.
type GrantRequest struct {
	Namespace   string   `json:"namespace" doc:"An id, or * for all namespaces"`
	Access      string   `json:"access,omitempty" enum:"read_only,read_write,custom" doc:"A short name for permissions; beside permissions only custom"`
	Permissions []string `json:"permissions,omitempty" maxItems:"500" example:"[\"orders:read\"]"`
	Roles       []string `json:"roles,omitempty" maxItems:"50"`
	Connected   bool     `json:"connected,omitempty"`
}

// A MintRequest describes a key to be made. Access, Permissions, Roles and Connected are the grant
// in the home namespace.
type MintRequest struct {
	Name        string            `json:"name" minLength:"1" doc:"1 to 200 characters without control characters"`
	Namespace   string            `json:"namespace,omitempty" doc:"The home namespace. Default: default"`
	Access      string            `json:"access,omitempty" enum:"read_only,read_write,custom" doc:"A short name for permissions; beside permissions only custom"`
	Permissions []string          `json:"permissions,omitempty" maxItems:"500" example:"[\"orders:read\"]"`
	Roles       []string          `json:"roles,omitempty" maxItems:"50"`
	Connected   bool              `json:"connected,omitempty"`
	Grants      []GrantRequest    `json:"grants,omitempty" maxItems:"100" doc:"In further namespaces"`
	NewRoles    []NewRole         `json:"new_roles,omitempty" maxItems:"50" doc:"Roles to make in the home namespace; the key has them there. Takes admin.roles:create, and is for minting one key, not for imports"`
	Active      *bool             `json:"active,omitempty" nullable:"true" doc:"Default: true"`
	ExpiresAt   *time.Time        `json:"expires_at,omitempty" nullable:"true" doc:"RFC 3339; null or absent: never"`
	AllowedIPs  []string          `json:"allowed_ips,omitempty" maxItems:"256" doc:"Addresses or CIDR ranges; empty: any" example:"[\"10.0.0.0/8\"]"`
	RateLimit   any               `json:"rate_limit,omitempty" doc:"Not built yet: leave it out"`
	Quota       any               `json:"quota,omitempty" doc:"Not built yet: leave it out"`
	Owner       string            `json:"owner,omitempty" doc:"A member. Default: the caller; for a key that mints, its owner"`
	Metadata    map[string]string `json:"metadata,omitempty" doc:"At most 4 KiB of names and values"`
}

// Minted is the answer to minting: the one place that shows the token.
type Minted struct {
	Key   Key    `json:"key"`
	Token string `json:"token" doc:"The secret to send. It is shown here and never again."`
}

// A KeyPatch is a merge patch (RFC 7396) of a key: what is absent stays, null goes back to the
// default. Access, Permissions, Roles and Connected replace their part of the grant in the home
// namespace, Grants replaces all grants; not both.
type KeyPatch struct {
	Name        Optional[string]             `json:"name,omitzero" minLength:"1"`
	Active      Optional[bool]               `json:"active,omitzero"`
	Access      Optional[string]             `json:"access,omitzero" enum:"read_only,read_write,custom"`
	Permissions Optional[[]string]           `json:"permissions,omitzero" maxItems:"500"`
	Roles       Optional[[]string]           `json:"roles,omitzero" maxItems:"50"`
	Connected   Optional[bool]               `json:"connected,omitzero"`
	Grants      Optional[[]GrantRequest]     `json:"grants,omitzero" maxItems:"100"`
	NewRoles    Optional[[]NewRole]          `json:"new_roles,omitzero" maxItems:"50" doc:"Roles to make in the home namespace, which join the key's others there"`
	ExpiresAt   Optional[time.Time]          `json:"expires_at,omitzero" doc:"Never changes: accepted only when it is what the key has"`
	AllowedIPs  Optional[[]string]           `json:"allowed_ips,omitzero" maxItems:"256"`
	RateLimit   Optional[any]                `json:"rate_limit,omitzero" doc:"Not built yet: leave it out"`
	Quota       Optional[any]                `json:"quota,omitzero" doc:"Not built yet: leave it out"`
	Owner       Optional[string]             `json:"owner,omitzero"`
	Metadata    Optional[map[string]*string] `json:"metadata,omitzero" doc:"Merged into what is there; a null value removes the name, null instead of the object removes all"`
}

// A GrantEdit adds and removes parts of a key's grants and leaves the rest. Namespaces are removed
// first, then parts, then parts are added.
type GrantEdit struct {
	Add              []GrantPart `json:"add,omitempty" maxItems:"100" doc:"Joins what the key has"`
	Remove           []GrantPart `json:"remove,omitempty" maxItems:"100" doc:"Permissions and roles that the key's grant lists; one that it does not list is 422"`
	RemoveNamespaces []string    `json:"remove_namespaces,omitempty" maxItems:"100" doc:"Where the key loses its grant, whatever it holds" example:"[\"acme-eu\"]"`
}

// A GrantPart is part of a grant, with at least one permission or role, or connected.
type GrantPart struct {
	Namespace   string   `json:"namespace,omitempty" doc:"An id, or * for all namespaces. Default: the key's home namespace"`
	Access      string   `json:"access,omitempty" enum:"read_only,read_write,custom" doc:"A short name for permissions; beside permissions only custom"`
	Permissions []string `json:"permissions,omitempty" maxItems:"500" example:"[\"orders:read\"]"`
	Roles       []string `json:"roles,omitempty" maxItems:"50"`
	Connected   bool     `json:"connected,omitempty" doc:"Extends the grant to the namespace's children; in remove, ends that"`
}

// A RevokeRequest ends a key for good.
type RevokeRequest struct {
	Reason string `json:"reason,omitempty" minLength:"0" doc:"Kept with the key, for people"`
	Made   bool   `json:"made,omitempty" doc:"Also revoke every key that this one made"`
}

// A RotateRequest asks for a new token of the same key.
type RotateRequest struct {
	Grace string `json:"grace,omitempty" doc:"How long the present token stays good, as a Go duration: 0s (default) to 720h" example:"24h"`
}

// KeyChanged is the answer to a change of a key.
type KeyChanged struct {
	Key         Key         `json:"key"`
	Token       string      `json:"token,omitempty" doc:"Only after rotating: the new token, shown here and never again"`
	Propagation Propagation `json:"propagation"`
}

// Keys is one page of a list.
type Keys = Page[Key]

// An ImportKey is a key whose credential was made elsewhere: exactly one of Token and SHA256.
type ImportKey struct {
	MintRequest
	Token  string `json:"token,omitempty" writeOnly:"true" doc:"The credential itself: 8 to 512 visible ASCII characters"`
	SHA256 string `json:"sha256,omitempty" writeOnly:"true" doc:"Its SHA-256 as 64 hex digits"`
}

// An ImportRequest is the JSON form of an import; the other is one ImportKey a line
// (application/x-ndjson).
type ImportRequest struct {
	Keys []ImportKey `json:"keys" nullable:"false"`
}

// Imported is the answer to an import.
type Imported struct {
	Imported int       `json:"imported"`
	Created  []Created `json:"created" nullable:"false" doc:"The imported keys, at most the first 10000"`
	Refused  []Refused `json:"refused" nullable:"false"`
}

// Created names the key of one imported line.
type Created struct {
	Line int    `json:"line" doc:"The line of the NDJSON, or the place in keys, counted from 1"`
	ID   string `json:"id" doc:"The id of the key"`
}

// Refused is a line that was not imported.
type Refused struct {
	Line   int    `json:"line" doc:"The line of the NDJSON, or the place in keys, counted from 1"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}
