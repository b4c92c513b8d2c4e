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
	// Outcome is [keystore.OK], [keystore.Limited] or [keystore.Exhausted]. The request was charged
	// only if it is [keystore.OK].
	Outcome keystore.Outcome
	// Terms are the limits that apply; nil if there are none.
	Terms *Terms
	// Waited says that the request has waited for a store, so the Answer may be outdated. The
	// caller must look the key up again.
	Waited bool

	states [NumLimits]limitState
	mode   mode
	now    int64 // Unix nanoseconds
}

// A limitState is the state of a limit. [Charge.State] computes its result from it.
type limitState struct {
	refused  bool
	violated bool           // refused, and not in shadow
	meter    keystore.Meter // of a rate
	// held is the number of requests that this node has booked and not used. For a quota, it is the
	// number of units left for all nodes: see LimitState.Remaining.
	held int64
	end  int64 // of a quota's period, in Unix nanoseconds
}

// useUp charges everything that a rate has left, for requests that wait for it.
func (s *limitState) useUp(part keystore.RateLimit, now int64) {
	s.meter, s.held = s.meter.Add(&part, now, s.meter.Room(&part, now)), 0
}

// Refused reports whether a limit refused the request, or would have refused it if it were not a
// shadow limit.
func (c *Charge) Refused(l LimitName) bool { return c.states[l].refused }

// Violated reports whether a limit refused the request. Unlike [Charge.Refused], it is false for
// shadow limits.
func (c *Charge) Violated(l LimitName) bool { return c.states[l].violated }

// RefusedBy returns the limits for which [Charge.Refused] is true, as a set of 1<<LimitName.
func (c *Charge) RefusedBy() (set int) {
	for l := range c.states {
		if c.states[l].refused {
			set |= 1 << l
		}
	}
	return set
}

// State returns the state of a limit that applies, after the charge.
func (c *Charge) State(l LimitName) LimitState {
	s := &c.states[l]
	state := LimitState{Refused: s.refused}
	rate, _ := c.Terms.of(l)
	if rate == nil {
		state.Remaining, state.Reset = s.held, time.Duration(s.end-c.now)
		if s.refused {
			state.Retry = state.Reset
		}
		return state
	}
	part, now := c.mode.part(rate), keystore.Micros(c.now)
	part.Burst = min(part.Burst, rate.Burst) // clients see the burst, even if nodes book more
	room := s.meter.Room(&part, now)
	state.Remaining = min(room+s.held, rate.Burst)
	until := func(room int64) time.Duration {
		return time.Duration(max(0, s.meter.After(&part, room)-now)) * time.Microsecond
	}
	if room < part.Burst {
		state.Reset = until(room + 1)
	}
	if s.refused {
		state.Retry = max(until(1), time.Microsecond)
	}
	return state
}

// Quota returns a quota that applies, KeyQuota or NamespaceQuota, and the end of its period.
func (c *Charge) Quota(l LimitName) (quota keystore.Quota, end time.Time) {
	_, q := c.Terms.of(l)
	return *q, time.Unix(0, c.states[l].end).UTC()
}

// A LimitState is the state of one limit.
type LimitState struct {
	// Remaining is the number of requests, or units of a quota, that are left as far as the node
	// knows. It is -1 if the node does not know a quota yet.
	Remaining int64
	// Reset is the time until more become available.
	Reset time.Duration
	// Refused is [Charge.Refused]. Retry is then the time until the limit may admit the request.
	Refused bool
	Retry   time.Duration
}

// Terms are the limits that apply to a key. Keys with equal limits share them.
type Terms struct {
	Key, Namespace keystore.Limits
	steps          [2]keystore.Step // of the rates
	defect         error            // why the limits are not known, or nil
	// Policy is the field value of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers).
	Policy string
}

// of returns the limit with a name: a rate limit or a quota, which is zero if there is none.
func (t *Terms) of(l LimitName) (*keystore.RateLimit, *keystore.Quota) {
	switch l {
	case KeyRate:
		return &t.Key.Rate, nil
	case KeyQuota:
		return nil, &t.Key.Quota
	case NamespaceRate:
		return &t.Namespace.Rate, nil
	}
	return nil, &t.Namespace.Quota
}

// Applies reports whether the terms contain a limit.
func (t *Terms) Applies(l LimitName) bool {
	rate, quota := t.of(l)
	return rate != nil && *rate != keystore.RateLimit{} || quota != nil && *quota != keystore.Quota{}
}

// Shadow reports whether a limit is in shadow.
func (t *Terms) Shadow(l LimitName) bool {
	rate, quota := t.of(l)
	return rate != nil && rate.Shadow || quota != nil && quota.Shadow
}

// Charge charges a request that costs units to all limits of the answer's key, or to none of them
// (docs/limits.md). An error means that the outcome is [keystore.Unavailable], because it is
// unknown whether a quota has enough units left.
func (n *Node) Charge(
	ctx context.Context, a Answer, d *keystore.Directory, units int64,
) (c Charge, err error) {
	if d.Limits(a.Record) {
		err = n.limiter.charge(ctx, &c, a, d, units)
	}
	return c, err
}

// ChargeMore charges more units of a charged request to its quotas, even beyond them. The quotas are
// the current ones, because the request may have taken long.
func (n *Node) ChargeMore(a Answer, units int64) {
	if n.Policy().Limits(a.Record) {
		n.limiter.spend(a.Record, units)
	}
}

// A LimitResult is the decision of a limit on a request.
type LimitResult uint8

// Results of limits.
const (
	LimitOK      LimitResult = iota // there was room
	LimitRefused                    // the request was refused
	LimitShadow                     // a shadow limit would have refused the request

	// NumLimitResults is the number of results.
	NumLimitResults int = iota
)

// String returns the result's label in the metrics.
func (r LimitResult) String() string {
	return [NumLimitResults]string{"ok", "refused", "shadow"}[r]
}

// A GrantResult is the result of a call for grants of rate limits.
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
	// Degraded reports whether the node uses its share of each rate limit, because the shared store
	// is unavailable.
	Degraded bool
}

// LimitStats returns the node's counts of limits.
func (n *Node) LimitStats() LimitStats { return n.limiter.stats() }
