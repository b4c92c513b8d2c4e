package api

import "time"

// A Plan is a named pair of limits. It is shared, or belongs to one namespace and can only be named
// by keys that have their home there.
type Plan struct {
	Namespace   string     `json:"namespace" doc:"An id, or * for a shared plan"`
	Name        string     `json:"name"`
	Description string     `json:"description"`
	RateLimit   *RateLimit `json:"rate_limit" doc:"null: no limit"`
	Quota       *Quota     `json:"quota" doc:"null: no quota"`
	CreatedAt   time.Time  `json:"created_at"`
	Version     int64      `json:"version"`
	Unreadable  string     `json:"unreadable,omitempty" doc:"Why the database row, edited by hand, cannot be read. Until it is repaired, requests with keys that have the plan get 503."`
}

// A PlanRequest describes a plan to create.
type PlanRequest struct {
	Namespace   string     `json:"namespace" doc:"An id, or * for a shared plan"`
	Name        string     `json:"name" doc:"Starts with a letter or digit; at most 64 letters, digits, '.', '_', '~' and '-'"`
	Description string     `json:"description,omitempty" minLength:"0" doc:"For people: at most 1000 characters without control characters"`
	RateLimit   *RateLimit `json:"rate_limit,omitempty" doc:"null or absent: no limit"`
	Quota       *Quota     `json:"quota,omitempty" doc:"null or absent: no quota"`
}

// A PlanPatch is a merge patch (RFC 7396) of a plan: absent fields stay, null restores the default.
// A limit is replaced as a whole.
type PlanPatch struct {
	Namespace   Optional[string]    `json:"namespace,omitzero" doc:"Never changes: must equal the plan's namespace"`
	Name        Optional[string]    `json:"name,omitzero" doc:"Never changes: must equal the plan's name"`
	Description Optional[string]    `json:"description,omitzero" minLength:"0"`
	RateLimit   Optional[RateLimit] `json:"rate_limit,omitzero" doc:"Replaces the limit, for every key that has the plan; null: no limit"`
	Quota       Optional[Quota]     `json:"quota,omitzero" doc:"Replaces the quota, for every key that has the plan; null: no quota"`
}

// PlanChanged is the answer to a change of a plan.
type PlanChanged struct {
	Plan        Plan        `json:"plan"`
	Propagation Propagation `json:"propagation"`
}

// Plans is one page of a list, newest first.
type Plans = Page[Plan]
