package api

import "time"

// A Namespace is a partition of the API, such as an account or a workspace. Keys have permissions
// in namespaces.
type Namespace struct {
	ID          string     `json:"id"`
	Kind        string     `json:"kind" doc:"What the namespace represents: account, workspace, … Never changes."`
	Parent      *string    `json:"parent" doc:"The id of the parent namespace; null: none"`
	Name        string     `json:"name"`
	EditPolicy  string     `json:"edit_policy" enum:"free,grow_only"`
	Reach       []string   `json:"reach" nullable:"false" doc:"Kinds of descendant namespaces in which keys' grants here apply too, for data permissions"`
	KeyRoles    []string   `json:"key_roles" nullable:"false" doc:"The roles that every key of this namespace has in it, and no others; *: at least one role; empty: any roles or none"`
	TokenPrefix *string    `json:"token_prefix" doc:"The prefix of new tokens for keys of this namespace; null: the first prefix of the configuration"`
	ChildPrefix *string    `json:"child_prefix" doc:"How the ids of namespaces created or moved below this one must begin; null: this namespace requires no prefix"`
	RateLimit   *RateLimit `json:"rate_limit" doc:"The limit that all keys with this home namespace share; null: none"`
	Quota       *Quota     `json:"quota" doc:"The quota that all keys with this home namespace share; null: none"`
	DefaultPlan *string    `json:"default_plan" doc:"The plan of keys that name none; null: none"`
	MaxLifetime *string    `json:"max_lifetime" doc:"The time within which new keys must expire, such as 90d; null: no limit"`
	Idle        *IdleRule  `json:"idle" doc:"What happens to keys that are not used; null: the deployment decides"`
	OnLeak      string     `json:"on_leak" enum:"notify,inactivate,revoke" doc:"What happens to a key whose token is reported as leaked"`
	CreatedAt   time.Time  `json:"created_at"`
	Version     int64      `json:"version"`
	Unreadable  string     `json:"unreadable,omitempty" doc:"Why the database row, edited by hand, cannot be read. It grants nothing until it is repaired."`
}

// A NamespaceRequest describes a namespace to create.
type NamespaceRequest struct {
	ID          string     `json:"id" doc:"Starts with a letter or digit; at most 64 letters, digits, '.', '_', '~' and '-'"`
	Kind        string     `json:"kind,omitempty" minLength:"0"`
	Parent      *string    `json:"parent,omitempty" nullable:"true" doc:"The id of the parent namespace; null or absent: none"`
	Name        string     `json:"name,omitempty" minLength:"0"`
	EditPolicy  string     `json:"edit_policy,omitempty" enum:"free,grow_only" doc:"Default: free"`
	Reach       []string   `json:"reach,omitempty" maxItems:"50" doc:"Kinds of descendant namespaces in which keys' grants here apply too, for data permissions"`
	KeyRoles    []string   `json:"key_roles,omitempty" maxItems:"50" doc:"Shared roles that every key of this namespace has in it, and no others; *: at least one role"`
	TokenPrefix string     `json:"token_prefix,omitempty" doc:"A prefix that the configuration accepts"`
	ChildPrefix string     `json:"child_prefix,omitempty" doc:"How the ids of namespaces below this one must begin"`
	RateLimit   *RateLimit `json:"rate_limit,omitempty" doc:"The limit that all keys with this home namespace share; null or absent: none"`
	Quota       *Quota     `json:"quota,omitempty" doc:"The quota that all keys with this home namespace share; null or absent: none"`
	DefaultPlan string     `json:"default_plan,omitempty" nullable:"true" doc:"A shared plan, for keys that name none"`
	MaxLifetime string     `json:"max_lifetime,omitempty" nullable:"true" doc:"The time within which new keys must expire: days such as 90d, or a duration such as 12h; null or absent: no limit"`
	Idle        *IdleRule  `json:"idle,omitempty" doc:"What happens to keys that are not used; null or absent: the deployment decides"`
	OnLeak      string     `json:"on_leak,omitempty" enum:"notify,inactivate,revoke" doc:"What happens to a key whose token is reported as leaked. Default: notify"`
}

// A NamespacePatch is a merge patch (RFC 7396) of a namespace: absent fields stay, null restores
// the default.
type NamespacePatch struct {
	Name        Optional[string]    `json:"name,omitzero" minLength:"0"`
	EditPolicy  Optional[string]    `json:"edit_policy,omitzero" enum:"free,grow_only"`
	ID          Optional[string]    `json:"id,omitzero" doc:"Never changes: must equal the id"`
	Kind        Optional[string]    `json:"kind,omitzero" minLength:"0" doc:"Never changes: must equal the kind"`
	Parent      Optional[string]    `json:"parent,omitzero" doc:"null: none"`
	Reach       Optional[[]string]  `json:"reach,omitzero" maxItems:"50"`
	KeyRoles    Optional[[]string]  `json:"key_roles,omitzero" maxItems:"50"`
	TokenPrefix Optional[string]    `json:"token_prefix,omitzero" doc:"null: the first prefix of the configuration"`
	ChildPrefix Optional[string]    `json:"child_prefix,omitzero" doc:"null: none. Requires admin.namespaces:create in the parent, or in * without a parent"`
	RateLimit   Optional[RateLimit] `json:"rate_limit,omitzero" doc:"Replaces the limit; null: none. Requires admin.namespaces:update in the parent, or in * without a parent"`
	Quota       Optional[Quota]     `json:"quota,omitzero" doc:"Replaces the quota; null: none. Requires the same permission as rate_limit"`
	DefaultPlan Optional[string]    `json:"default_plan,omitzero" doc:"A plan of the namespace or a shared one; null: none. Requires the same permission as rate_limit"`
	MaxLifetime Optional[string]    `json:"max_lifetime,omitzero" doc:"For new keys: keys that exist keep their expiry; null: no limit"`
	Idle        Optional[IdleRule]  `json:"idle,omitzero" doc:"Replaces the rule; null: the deployment decides"`
	OnLeak      Optional[string]    `json:"on_leak,omitzero" enum:"notify,inactivate,revoke" doc:"null: notify"`
}

// An IdleRule says what happens to a key that has not been used for some time. For a key that was
// never used, the time begins with its creation.
type IdleRule struct {
	_ struct{} `nullable:"true"`

	After string `json:"after" doc:"Days such as 90d, or a duration such as 12h" example:"90d"`
	Then  string `json:"then" enum:"notify,inactivate" doc:"notify: add a row to the audit log; inactivate: also deactivate the key"`
}

// NamespaceChanged is the answer to a change of a namespace.
type NamespaceChanged struct {
	Namespace   Namespace   `json:"namespace"`
	Propagation Propagation `json:"propagation"`
}

// Namespaces is one page of a list, newest first.
type Namespaces = Page[Namespace]
