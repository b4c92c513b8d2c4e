package node

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A LimitName is one of the limits that can apply to a request.
type LimitName uint8

// Names of limits.
const (
	KeyRate LimitName = iota
	KeyQuota
	NamespaceRate
	NamespaceQuota

	// NumLimits is the number of limits.
	NumLimits int = iota
)

// String returns the limit's name in header fields, problem documents and metrics.
func (l LimitName) String() string {
	return [NumLimits]string{"rate", "quota", "namespace-rate", "namespace-quota"}[l]
}

// A Charge is the result of [Node.Charge].
type Charge struct {
	// Outcome is [keystore.OK], [keystore.Limited] or [keystore.Exhausted]. Only in the first case
	// the request was charged.
	Outcome keystore.Outcome
	// Terms are the limits that apply; nil if there are none.
	Terms *Terms

	states [NumLimits]LimitState
}

// Refused reports whether a limit has refused the request, or would have if it were not in shadow.
func (c *Charge) Refused(l LimitName) bool { return c.states[l].Refused }

// State returns the state of a limit that applies, after the charge.
func (c *Charge) State(l LimitName) LimitState { return c.states[l] }

// A LimitState is the state of one limit.
type LimitState struct {
	// Remaining is how many requests, or units of a quota, are certainly left.
	Remaining int64
	// Reset is when more becomes available.
	Reset time.Duration
	// Refused reports whether the limit has refused the request, or would have if it were not in
	// shadow. Retry is then the time until it may admit the request.
	Refused bool
	Retry   time.Duration
}

// Terms are the limits that apply to a key. Keys with equal limits share them.
type Terms struct {
	Key, Namespace keystore.Limits
	// Policy is the field value of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers).
	Policy string
}

// Applies reports whether the terms contain a limit.
func (t *Terms) Applies(l LimitName) bool {
	switch l {
	case KeyRate:
		return t.Key.Rate != keystore.RateLimit{}
	case KeyQuota:
		return t.Key.Quota != keystore.Quota{}
	case NamespaceRate:
		return t.Namespace.Rate != keystore.RateLimit{}
	}
	return t.Namespace.Quota != keystore.Quota{}
}

// Charge charges a request, which costs a number of units, to all the limits of the answer's key
// together, or to none of them (docs/limits.md). An error means that the answer is
// [keystore.Unavailable]: it is not known whether a quota has room.
func (n *Node) Charge(
	ctx context.Context, a Answer, d *keystore.Directory, units int64,
) (Charge, error) {
	return Charge{}, nil
}

// ChargeMore charges further units to the quotas of a request that was charged, even beyond them.
func (n *Node) ChargeMore(a Answer, d *keystore.Directory, units int64) {}

// LimitResult is what a limit has said to a request.
type LimitResult uint8

// Results of limits.
const (
	LimitOK      LimitResult = iota // there was room
	LimitRefused                    // the request was refused
	LimitShadow                     // the request would have been refused, but the limit is in shadow

	// NumLimitResults is the number of results.
	NumLimitResults int = iota
)

// String returns the result's label in the metrics.
func (r LimitResult) String() string {
	return [NumLimitResults]string{"ok", "refused", "shadow"}[r]
}

// GrantResult is how a call for grants of rate limits has ended.
type GrantResult uint8

// Results of calls for grants.
const (
	GrantOK GrantResult = iota
	GrantFail

	// NumGrantResults is the number of results.
	NumGrantResults int = iota
)

// String returns the result's label in the metrics.
func (r GrantResult) String() string { return [NumGrantResults]string{"ok", "error"}[r] }

// LimitStats are counts since the node was opened.
type LimitStats struct {
	Decisions [NumLimits][NumLimitResults]uint64
	Grants    [NumGrantResults]uint64
	// Degraded reports whether the node uses its share of each rate limit, because the store of
	// shared limits is away.
	Degraded bool
}

// LimitStats returns the node's counts of limits.
func (n *Node) LimitStats() LimitStats { return LimitStats{} }
