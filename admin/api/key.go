package api

import "time"

// A Key is the record of a key. It never holds a token.
type Key struct {
	ID            string            `json:"id" doc:"12 letters and digits; never changes"`
	Name          string            `json:"name"`
	Namespace     string            `json:"namespace" doc:"The home namespace; never changes"`
	Prefix        string            `json:"prefix" doc:"The key as shown in lists: the prefix of its token and the first 8 characters of its id" example:"ak_1a2B3c4D…"`
	Access        string            `json:"access" enum:"read_only,read_write,custom" doc:"A short name for the permissions in the home namespace"`
	Grants        []Grant           `json:"grants" nullable:"false" doc:"The key's permissions and roles by namespace, the home namespace first"`
	Owner         string            `json:"owner" doc:"The member that the key acts for"`
	Status        string            `json:"status" enum:"active,inactive,expired,revoked"`
	Active        bool              `json:"active" doc:"Whether the status is active: false if the key was set inactive, has expired or is revoked. It does not depend on the owner"`
	OwnerDisabled bool              `json:"owner_disabled" doc:"Whether the owner is disabled; if so, the key is refused"`
	CreatedAt     time.Time         `json:"created_at"`
	CreatedBy     string            `json:"created_by" doc:"The id of a member or key, or the actor of a person that acts for groups as in the audit log"`
	ExpiresAt     *time.Time        `json:"expires_at" doc:"When the key expires; null: never. Cannot be changed."`
	RevokedAt     *time.Time        `json:"revoked_at"`
	RevokedBy     *string           `json:"revoked_by"`
	RevokeReason  *string           `json:"revoke_reason"`
	LastUsedAt    *time.Time        `json:"last_used_at" doc:"The latest use, up to 10 s late; null: never used"`
	LastUsedFrom  *string           `json:"last_used_from" doc:"The address of the client of the latest use; null: unknown"`
	DerivedUsedAt *time.Time        `json:"derived_used_at" doc:"The latest use with a token derived from the key, up to 10 s late; null: never"`
	DerivedNote   *string           `json:"derived_note" doc:"The note of that derived token, text of its holder; null: it has none, or it is unknown"`
	Secrets       []Secret          `json:"secrets" nullable:"false" doc:"Newest first: the present token, then one that the last rotation replaced with a grace, even after it has expired"`
	AllowedIPs    []string          `json:"allowed_ips" nullable:"false" doc:"The CIDR ranges that the key may be used from; empty: any address"`
	RateLimit     *RateLimit        `json:"rate_limit" doc:"null: the plan decides"`
	Quota         *Quota            `json:"quota" doc:"null: the plan decides"`
	Plan          *string           `json:"plan" doc:"The name of a plan; null: the default plan of the home namespace, if it has one"`
	Metadata      map[string]string `json:"metadata"`
	Version       int64             `json:"version" doc:"1 when created, incremented by each change; the ETag is the same number in quotes"`
}

// EffectiveStatus returns Status, or owner_disabled for an active key whose owner is disabled. Lists
// can be filtered by it.
func (k Key) EffectiveStatus() string {
	if k.OwnerDisabled && k.Status == "active" {
		return "owner_disabled"
	}
	return k.Status
}

// A Secret describes a token of a key, without the token itself.
type Secret struct {
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at" doc:"When the token expires; null: with the key"`
}

// A Grant holds permissions and roles in one namespace, as answers show it.
type Grant struct {
	Namespace   string   `json:"namespace" doc:"An id, or * for all namespaces"`
	Permissions []string `json:"permissions" nullable:"false"`
	Roles       []string `json:"roles" nullable:"false"`
	Connected   bool     `json:"connected" doc:"Extends the grant to the namespace's children, present and future"`
}

// A GrantRequest describes a grant to give.
type GrantRequest struct {
	Namespace   string   `json:"namespace" doc:"An id, or * for all namespaces"`
	Access      string   `json:"access,omitempty" enum:"read_only,read_write,custom" doc:"A short name for permissions; only custom can be combined with permissions"`
	Permissions []string `json:"permissions,omitempty" maxItems:"500" example:"[\"orders:read\"]"`
	Roles       []string `json:"roles,omitempty" maxItems:"50"`
	Connected   bool     `json:"connected,omitempty"`
}

// A MintRequest describes a key to mint. Access, Permissions, Roles and Connected are the grant in
// the home namespace.
type MintRequest struct {
	Name        string            `json:"name" minLength:"1" doc:"1 to 200 characters, at least one of them visible, without control or invisible characters"`
	Namespace   string            `json:"namespace,omitempty" doc:"The home namespace. Default: default"`
	Access      string            `json:"access,omitempty" enum:"read_only,read_write,custom" doc:"A short name for permissions; only custom can be combined with permissions"`
	Permissions []string          `json:"permissions,omitempty" maxItems:"500" example:"[\"orders:read\"]"`
	Roles       []string          `json:"roles,omitempty" maxItems:"50"`
	Connected   bool              `json:"connected,omitempty"`
	Grants      []GrantRequest    `json:"grants,omitempty" maxItems:"100" doc:"The grants in other namespaces"`
	NewRoles    []NewRole         `json:"new_roles,omitempty" maxItems:"50" doc:"Roles to create in the home namespace and to give to the key there. Requires admin.roles:create. Not available in imports"`
	Active      *bool             `json:"active,omitempty" nullable:"true" doc:"Default: true"`
	ExpiresAt   *time.Time        `json:"expires_at,omitempty" nullable:"true" doc:"RFC 3339; null or absent: never"`
	AllowedIPs  []string          `json:"allowed_ips,omitempty" maxItems:"256" doc:"Addresses or CIDR ranges; empty: any address" example:"[\"10.0.0.0/8\"]"`
	RateLimit   *RateLimit        `json:"rate_limit,omitempty" doc:"null or absent: the plan decides"`
	Quota       *Quota            `json:"quota,omitempty" doc:"null or absent: the plan decides"`
	Plan        string            `json:"plan,omitempty" nullable:"true" doc:"The name of a plan of the home namespace, or of a shared one. Default: the default plan of the home namespace"`
	Owner       string            `json:"owner,omitempty" doc:"The id of a member. Default: the caller, or the owner of the calling key"`
	Metadata    map[string]string `json:"metadata,omitempty" doc:"At most 4 KiB of names and values"`
}

// Minted is the answer to minting a key, and the only one that shows its token.
type Minted struct {
	Key   Key    `json:"key"`
	Token string `json:"token" doc:"The token, which is shown here and never again"`
}

// A KeyPatch is a merge patch (RFC 7396) of a key: absent fields stay, null restores the default.
// Access, Permissions, Roles and Connected replace their part of the grant in the home namespace.
// Grants replaces all grants and cannot be combined with them.
type KeyPatch struct {
	Name        Optional[string]             `json:"name,omitzero" minLength:"1"`
	Active      Optional[bool]               `json:"active,omitzero"`
	Access      Optional[string]             `json:"access,omitzero" enum:"read_only,read_write,custom"`
	Permissions Optional[[]string]           `json:"permissions,omitzero" maxItems:"500"`
	Roles       Optional[[]string]           `json:"roles,omitzero" maxItems:"50"`
	Connected   Optional[bool]               `json:"connected,omitzero"`
	Grants      Optional[[]GrantRequest]     `json:"grants,omitzero" maxItems:"100"`
	NewRoles    Optional[[]NewRole]          `json:"new_roles,omitzero" maxItems:"50" doc:"Roles to create in the home namespace and to add to the key there"`
	ExpiresAt   Optional[time.Time]          `json:"expires_at,omitzero" doc:"Cannot be changed: must equal the key's expiry"`
	AllowedIPs  Optional[[]string]           `json:"allowed_ips,omitzero" maxItems:"256"`
	RateLimit   Optional[RateLimit]          `json:"rate_limit,omitzero" doc:"Replaces the limit; null: the plan decides"`
	Quota       Optional[Quota]              `json:"quota,omitzero" doc:"Replaces the quota; null: the plan decides"`
	Plan        Optional[string]             `json:"plan,omitzero" doc:"null: the default plan of the home namespace"`
	Owner       Optional[string]             `json:"owner,omitzero"`
	Metadata    Optional[map[string]*string] `json:"metadata,omitzero" doc:"Merged into the key's metadata. A null value removes its name; null for the object removes all"`
}

// A GrantEdit adds and removes parts of a key's grants and leaves the rest. It removes namespaces
// first, then removes parts, then adds parts.
type GrantEdit struct {
	Add              []GrantPart `json:"add,omitempty" maxItems:"100" doc:"Parts to add to the key's grants"`
	Remove           []GrantPart `json:"remove,omitempty" maxItems:"100" doc:"Parts to remove. Each permission and role must be listed in the key's grant (422)"`
	RemoveNamespaces []string    `json:"remove_namespaces,omitempty" maxItems:"100" doc:"Namespaces in which the key loses its whole grant" example:"[\"acme-eu\"]"`
}

// A GrantPart is part of a grant, with at least one permission or role, or connected.
type GrantPart struct {
	Namespace   string   `json:"namespace,omitempty" doc:"An id, or * for all namespaces. Default: the key's home namespace"`
	Access      string   `json:"access,omitempty" enum:"read_only,read_write,custom" doc:"A short name for permissions; only custom can be combined with permissions"`
	Permissions []string `json:"permissions,omitempty" maxItems:"500" example:"[\"orders:read\"]"`
	Roles       []string `json:"roles,omitempty" maxItems:"50"`
	Connected   bool     `json:"connected,omitempty" doc:"Extends the grant to the namespace's children; in remove, no longer extends it"`
}

// A RevokeRequest revokes a key permanently.
type RevokeRequest struct {
	Reason string `json:"reason,omitempty" minLength:"0" doc:"A human-readable explanation, stored with the key"`
	Made   bool   `json:"made,omitempty" doc:"Whether to also revoke every key that this key created, directly or through other keys"`
}

// A RotateRequest asks for a new token of the same key.
type RotateRequest struct {
	Grace string `json:"grace,omitempty" doc:"How long the current token stays valid, as a Go duration: 0s (default) to 720h" example:"24h"`
}

// KeyChanged is the answer to a change of a key.
type KeyChanged struct {
	Key         Key         `json:"key"`
	Token       string      `json:"token,omitempty" doc:"After a rotation: the new token, which is shown here and never again"`
	Propagation Propagation `json:"propagation"`
}

// Keys is one page of a list.
type Keys = Page[Key]

// An ImportKey is a key whose credential was created elsewhere. Exactly one of Token and SHA256 is
// set.
type ImportKey struct {
	MintRequest
	Token  string `json:"token,omitempty" writeOnly:"true" doc:"The credential: 8 to 512 visible ASCII characters"`
	SHA256 string `json:"sha256,omitempty" writeOnly:"true" doc:"The SHA-256 of the credential as 64 hex digits"`
}

// An ImportRequest is an import as JSON. As application/x-ndjson, an import is one ImportKey per
// line.
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
	Line int    `json:"line" doc:"The line of the NDJSON, or the position in keys, counted from 1"`
	ID   string `json:"id" doc:"The id of the key"`
}

// Refused says why a line was not imported.
type Refused struct {
	Line   int    `json:"line" doc:"The line of the NDJSON, or the position in keys, counted from 1"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}
