package api

import "time"

// A Namespace is the partition a key is good for.
type Namespace struct {
	ID          string    `json:"id"`
	Kind        string    `json:"kind" doc:"What it stands for: account, workspace, … Never changes."`
	Parent      *string   `json:"parent" doc:"The namespace it lies in; null: none"`
	Name        string    `json:"name"`
	EditPolicy  string    `json:"edit_policy" enum:"free,grow_only"`
	Reach       []string  `json:"reach" nullable:"false" doc:"The kinds of namespaces below this one, at any depth, in which keys' grants here count too, for data permissions"`
	KeyRoles    []string  `json:"key_roles" nullable:"false" doc:"Keys of this namespace have exactly these roles in it; *: at least one; empty: any or none"`
	TokenPrefix *string   `json:"token_prefix" doc:"Of new tokens for keys of this namespace; null: the deployment's first"`
	ChildPrefix *string   `json:"child_prefix" doc:"The ids of namespaces that are created or moved below this one must begin with it; null: any id"`
	CreatedAt   time.Time `json:"created_at"`
	Version     int64     `json:"version"`
	Unreadable  string    `json:"unreadable,omitempty" doc:"Why its row, changed by hand in the database, cannot be read. Until it is mended it gives nothing."`
}

// A NamespaceRequest describes a namespace to be made.
type NamespaceRequest struct {
	ID          string   `json:"id" doc:"A letter or digit, then at most 63 more of these, '.', '_', '~' and '-'"`
	Kind        string   `json:"kind,omitempty" minLength:"0"`
	Parent      *string  `json:"parent,omitempty" nullable:"true" doc:"The namespace it lies in; null or absent: none"`
	Name        string   `json:"name,omitempty" minLength:"0"`
	EditPolicy  string   `json:"edit_policy,omitempty" enum:"free,grow_only" doc:"Default: free"`
	Reach       []string `json:"reach,omitempty" maxItems:"50" doc:"Kinds of namespaces below this one in which keys' grants here count too"`
	KeyRoles    []string `json:"key_roles,omitempty" maxItems:"50" doc:"Shared ones, as it has none of its own yet; or *: keys have at least one role"`
	TokenPrefix string   `json:"token_prefix,omitempty" doc:"One that the configuration accepts"`
	ChildPrefix string   `json:"child_prefix,omitempty" doc:"The ids of namespaces below this one must begin with it"`
}

// A NamespacePatch is a merge patch (RFC 7396) of a namespace: what is absent stays, null goes back
// to the default.
type NamespacePatch struct {
	Name        Optional[string]   `json:"name,omitzero" minLength:"0"`
	EditPolicy  Optional[string]   `json:"edit_policy,omitzero" enum:"free,grow_only"`
	ID          Optional[string]   `json:"id,omitzero" doc:"Never changes: accepted only when it is what the namespace has"`
	Kind        Optional[string]   `json:"kind,omitzero" minLength:"0" doc:"Never changes: accepted only when it is what the namespace has"`
	Parent      Optional[string]   `json:"parent,omitzero" doc:"null: none"`
	Reach       Optional[[]string] `json:"reach,omitzero" maxItems:"50"`
	KeyRoles    Optional[[]string] `json:"key_roles,omitzero" maxItems:"50"`
	TokenPrefix Optional[string]   `json:"token_prefix,omitzero" doc:"null: the deployment's first"`
	ChildPrefix Optional[string]   `json:"child_prefix,omitzero" doc:"null: none. Requires admin.namespaces:create in the parent, or in * without one"`
}

// NamespaceChanged is the answer to a change of a namespace.
type NamespaceChanged struct {
	Namespace   Namespace   `json:"namespace"`
	Propagation Propagation `json:"propagation"`
}

// Namespaces is one page of a list, newest first.
type Namespaces = Page[Namespace]
