package caddymodule

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// The header fields of limits (draft-ietf-httpapi-ratelimit-headers). As keys of a header map,
// these names are not in Go's canonical form. So a handler that sets a field of the same name does
// not replace ours: both are sent, and their values are one list (RFC 9110 §5.3).
const (
	rateLimitField       = "RateLimit"
	rateLimitPolicyField = "RateLimit-Policy"
)

// charge charges an accepted call to the limits of its key, and reports whether it had to wait for
// them. A request is charged only once, even if it passes several handlers.
func (h *Handler) charge(c *call) (outcome keystore.Outcome, waited bool) {
	if h.forAdmin || c.request.units > 0 {
		return keystore.OK, false
	}
	charge, err := c.keys.Charge(c.r.Context(), c.answer, c.policy, c.cost)
	if err != nil {
		return keystore.Unavailable, false
	}
	c.request.limits = 0 // a former handler may have set those of another key
	if charge.Terms != nil {
		c.limits = charge
		c.request.limits = charge.RefusedBy()
	}
	if charge.Outcome == keystore.OK {
		c.request.units = c.cost
	}
	return charge.Outcome, charge.Waited
}

// announceLimits sets the response headers of a call whose key is limited.
func (h *Handler) announceLimits(c *call) {
	if c.limits.Terms == nil {
		return
	}
	header := c.w.Header()
	if h.LimitHeaders == "" {
		fields := headerSetter{header, make([]string, 0, 2)}
		fields.set(rateLimitPolicyField, c.limits.Terms.Policy)
		if states := limitStates(&c.limits); states != "" {
			fields.set(rateLimitField, states)
		}
	}
	if h.Preflight != nil && c.limits.Outcome == keystore.OK { // refuse does it for refusals
		exposeLimits(header, c.r.Header)
	}
}

// limitStates returns the value of RateLimit.
func limitStates(charge *node.Charge) string {
	var array [256]byte
	b := array[:0]
	for l := range node.LimitName(node.NumLimits) {
		if !charge.Terms.Applies(l) {
			continue
		}
		state := charge.State(l)
		if state.Remaining < 0 {
			continue
		}
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(b, '"')
		b = append(b, l.String()...)
		b = append(b, `";r=`...)
		b = strconv.AppendInt(b, state.Remaining, 10)
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, wholeSeconds(state.Reset), 10)
	}
	return string(b)
}

// wholeSeconds returns a duration in seconds, rounded up. It is at least 0.
func wholeSeconds(d time.Duration) int64 {
	return int64((max(0, d) + time.Second - 1) / time.Second)
}

// violations returns the limits that refused a call, as a set of 1<<LimitName, and the time after
// which all of them may admit it.
func violations(charge *node.Charge) (set int, retry time.Duration) {
	if charge.Terms == nil {
		return 0, 0
	}
	for l := range node.LimitName(node.NumLimits) {
		if charge.Violated(l) {
			set |= 1 << l
			retry = max(retry, charge.State(l).Retry)
		}
	}
	return set, retry
}

// clockMargin is the largest difference between the clocks of two nodes that Retry-After allows
// for. Each clock follows that of the database, except for the delay of its queries.
const clockMargin = 100 * time.Millisecond

// retryAfterValue returns the value of Retry-After: more than the duration, so that other nodes
// admit the request then too. The jitter, at most 3 %, spreads the clients that wait for the same
// moment.
func retryAfterValue(retry time.Duration) string {
	seconds := wholeSeconds(retry + clockMargin)
	return strconv.FormatInt(seconds+rand.Int64N(seconds*3/100+1), 10)
}

// exposeLimits allows the page that sent a request to read the response headers of limits.
func exposeLimits(answer, request http.Header) {
	if request["Origin"] != nil {
		answer.Add("Access-Control-Expose-Headers",
			rateLimitField+", "+rateLimitPolicyField+", Retry-After")
	}
}

// quotaExceeded is a problem document of the type quota-exceeded
// (draft-ietf-httpapi-ratelimit-headers).
type quotaExceeded struct {
	api.Problem
	ViolatedPolicies []string `json:"violated-policies"`
}

const quotaExceededType = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// abusePolicy is the violated policy of a request that the option `abuse` refuses.
const abusePolicy = "abuse"

// limitDetails explain the refusals of limits.
var limitDetails = [node.NumLimits]string{
	node.KeyRate:        "The API key sends too many requests.",
	node.KeyQuota:       "The API key has used up its quota.",
	node.NamespaceRate:  "The API keys of the namespace together send too many requests.",
	node.NamespaceQuota: "The API keys of the namespace together have used up their quota.",
}

// costDetails returns explanations of the refusals of quotas that may have room for cheaper
// requests, or nil if there are none.
func costDetails(
	charge *node.Charge, violated int, cost int64,
) (details map[node.LimitName]string) {
	for _, l := range []node.LimitName{node.KeyQuota, node.NamespaceQuota} {
		if violated&(1<<l) == 0 {
			continue
		}
		quota, end := charge.Quota(l)
		left := charge.State(l).Remaining
		owner := "the API key"
		if l == node.NamespaceQuota {
			owner = "the namespace"
		}
		var detail string
		switch {
		case cost > quota.Units:
			detail = fmt.Sprintf("This request costs %d units, more than the whole quota of %s: "+
				"%d per %s.", cost, owner, quota.Units, quota.Per)
		case left > 0 && left < cost:
			detail = fmt.Sprintf("This request costs %d units. The quota of %s has %d left until "+
				"%s.", cost, owner, left, end.Format(time.RFC3339))
		default:
			continue
		}
		if details == nil {
			details = make(map[node.LimitName]string)
		}
		details[l] = detail
	}
	return details
}

// limitProblem returns the problem document for a set of violated limits. The empty set stands for
// the option `abuse`.
func limitProblem(f refusal) quotaExceeded {
	p := quotaExceeded{Problem: f.problem()}
	p.Type = quotaExceededType
	var details []string
	for l := range node.LimitName(node.NumLimits) {
		if f.violated&(1<<l) != 0 {
			p.ViolatedPolicies = append(p.ViolatedPolicies, l.String())
			details = append(details, cmp.Or(f.costs[l], limitDetails[l]))
		}
	}
	p.Detail = strings.Join(details, " ")
	if f.violated == 0 {
		p.ViolatedPolicies = []string{abusePolicy}
		p.Detail = "Too many invalid API keys have come from this address."
	}
	return p
}

// limitBodies are the bodies of [keystore.Limited] and [keystore.Exhausted], by the violated
// limits.
var limitBodies = func() (bodies [2][1 << node.NumLimits]body) {
	for i, outcome := range []keystore.Outcome{keystore.Limited, keystore.Exhausted} {
		for set := range bodies[i] {
			text, _ := json.Marshal(limitProblem(refusal{outcome: outcome, violated: set}))
			bodies[i][set] = newBody(text)
		}
	}
	return bodies
}()

// limitBody returns the body of a refusal for [keystore.Limited] or [keystore.Exhausted].
func (f refusal) limitBody() body {
	switch {
	case f.status != 0 || f.costs != nil:
		return marshal(limitProblem(f))
	case f.outcome == keystore.Exhausted:
		return limitBodies[1][f.violated]
	}
	return limitBodies[0][f.violated]
}
