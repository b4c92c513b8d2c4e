package api

import "time"

// A Namespace is the partition a key is good for.
type Namespace struct {
	ID         string    `json:"id"`
	Kind       string    `json:"kind" doc:"What it stands for: account, workspace, … Never changes."`
	Parent     *string   `json:"parent" doc:"Not built yet: always null"`
	Name       string    `json:"name"`
	EditPolicy string    `json:"edit_policy" enum:"free,grow_only"`
	Reach      []string  `json:"reach" nullable:"false" doc:"Not built yet: always empty"`
	CreatedAt  time.Time `json:"created_at"`
	Version    int64     `json:"version"`
}

// A NamespaceRequest describes a namespace to be made.
type NamespaceRequest struct {
	ID          string   `json:"id" doc:"A letter or digit, then at most 63 more of these, '.', '_', '~' and '-'"`
	Kind        string   `json:"kind,omitempty"`
	Parent      *string  `json:"parent,omitempty" nullable:"true" doc:"Not built yet: leave it out"`
	Name        string   `json:"name,omitempty"`
	EditPolicy  string   `json:"edit_policy,omitempty" enum:"free,grow_only" doc:"Default: free"`
	Reach       []string `json:"reach,omitempty" doc:"Not built yet: leave it out"`
	KeyRoles    []string `json:"key_roles,omitempty" doc:"Not built yet: leave it out"`
	TokenPrefix string   `json:"token_prefix,omitempty" doc:"Not built yet: leave it out"`
}

// A NamespacePatch is a merge patch (RFC 7396) of a namespace.
type NamespacePatch struct {
	Name        Optional[string]   `json:"name,omitzero"`
	EditPolicy  Optional[string]   `json:"edit_policy,omitzero" enum:"free,grow_only"`
	ID          Optional[string]   `json:"id,omitzero" doc:"Never changes: accepted only when it is what the namespace has"`
	Kind        Optional[string]   `json:"kind,omitzero" doc:"Never changes: accepted only when it is what the namespace has"`
	Parent      Optional[string]   `json:"parent,omitzero" doc:"Not built yet: leave it out"`
	Reach       Optional[[]string] `json:"reach,omitzero" doc:"Not built yet: leave it out"`
	KeyRoles    Optional[[]string] `json:"key_roles,omitzero" doc:"Not built yet: leave it out"`
	TokenPrefix Optional[string]   `json:"token_prefix,omitzero" doc:"Not built yet: leave it out"`
}

// NamespaceChanged is the answer to a change of a namespace.
type NamespaceChanged struct {
	Namespace   Namespace   `json:"namespace"`
	Propagation Propagation `json:"propagation"`
}

// Namespaces is one page of a list, newest first.
type Namespaces struct {
	Items      []Namespace `json:"items" nullable:"false"`
	NextCursor *string     `json:"next_cursor" doc:"What to pass as cursor for the next page; null on the last one"`
}
