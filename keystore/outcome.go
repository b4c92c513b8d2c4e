package keystore

import (
	"net/http"
	"sync/atomic"
)

// An Outcome is the result of checking one request. The set is closed (docs/api_key.md, rule 1).
// The outcome determines the status, the code in the body, the metric label and the log field, so
// that these cannot disagree.
type Outcome uint8

// Outcomes. docs/api_key.md, "Outcomes", describes each.
const (
	OK Outcome = iota
	Public
	Anonymous
	Preflight
	Foreign
	BadTarget
	Method
	Ambiguous
	Missing
	Malformed
	Unknown
	Unavailable
	Revoked
	Expired
	Inactive
	OwnerDisabled
	Early
	Address
	Forbidden
	Limited
	Exhausted
	UntrustedProxy
	Rotated // a rotation has replaced the token; clients get the same response as for Unknown

	// NumOutcomes is the number of outcomes.
	NumOutcomes int = iota
)

var outcomes = [NumOutcomes]struct {
	name   string
	status int // 0 if the request continues
	code   string
	title  string
}{
	OK:        {name: "ok"},
	Public:    {name: "public"},
	Anonymous: {name: "anonymous"},
	Preflight: {"preflight", http.StatusNoContent, "", ""},
	Foreign:   {name: "foreign"},
	BadTarget: {"bad_target", http.StatusBadRequest, "non_canonical_target",
		"The request target is not in canonical form"},
	Method: {"method", http.StatusMethodNotAllowed, "method_not_allowed",
		"This method is not allowed"},
	Ambiguous: {"ambiguous", http.StatusBadRequest, "ambiguous_credentials",
		"The request carries more than one credential"},
	Missing: {"missing", http.StatusUnauthorized, "missing_key", "An API key is required"},
	Malformed: {"malformed", http.StatusUnauthorized, "invalid_key",
		"The API key is not valid"},
	Unknown: {"unknown", http.StatusUnauthorized, "invalid_key", "The API key is not valid"},
	Unavailable: {"unavailable", http.StatusServiceUnavailable, "unavailable",
		"The API key cannot be checked at the moment"},
	Revoked: {"revoked", http.StatusUnauthorized, "key_revoked",
		"The API key has been revoked"},
	Expired: {"expired", http.StatusUnauthorized, "key_expired", "The API key has expired"},
	Inactive: {"inactive", http.StatusUnauthorized, "key_inactive",
		"The API key is inactive"},
	OwnerDisabled: {"owner_disabled", http.StatusUnauthorized, "owner_disabled",
		"The member that the API key acts for is disabled"},
	Early: {"early", http.StatusTooEarly, "too_early",
		"This request must not be sent as TLS early data"},
	Address: {"address", http.StatusForbidden, "address_not_allowed",
		"The API key may not be used from this address"},
	Forbidden: {"forbidden", http.StatusForbidden, "insufficient_permission",
		"The API key does not allow this request"},
	Limited: {"limited", http.StatusTooManyRequests, "rate_limited",
		"Too many requests"},
	Exhausted: {"exhausted", http.StatusTooManyRequests, "quota_exceeded",
		"The quota is used up"},
	UntrustedProxy: {"untrusted_proxy", http.StatusForbidden, "untrusted_proxy",
		"The request does not come from a trusted proxy"},
	Rotated: {"rotated", http.StatusUnauthorized, "invalid_key", "The API key is not valid"},
}

// String returns the outcome's name in logs and metrics.
func (o Outcome) String() string { return outcomes[o].name }

// Status returns the HTTP status of the response, or 0 if the request continues to the next
// handler.
func (o Outcome) Status() int { return outcomes[o].status }

// Code returns the `code` of the problem document, or the empty string if there is none.
func (o Outcome) Code() string { return outcomes[o].code }

// Title returns the `title` of the problem document.
func (o Outcome) Title() string { return outcomes[o].title }

// Refuses reports whether the request is answered with a problem document.
func (o Outcome) Refuses() bool { return outcomes[o].code != "" }

// OutcomeCounts counts requests by outcome. Requests with different keys that are accepted at the
// same time rarely write to the same cache line.
type OutcomeCounts struct {
	accepted [countStripes]stripe // OK, by the digest of the credential
	others   [NumOutcomes]atomic.Uint64
}

const (
	countStripes = 64
	cacheLine    = 64 // bytes
)

// A stripe is a counter on a cache line of its own.
type stripe struct {
	n atomic.Uint64
	_ [cacheLine - 8]byte
}

// Add counts one request with a record, which is nil if the request has none.
func (c *OutcomeCounts) Add(o Outcome, r *Record) {
	if o == OK && r != nil {
		c.accepted[r.Digest[0]%countStripes].n.Add(1)
	} else {
		c.others[o].Add(1)
	}
}

// Load returns the number of requests with an outcome.
func (c *OutcomeCounts) Load(o Outcome) uint64 {
	n := c.others[o].Load()
	if o == OK {
		for i := range c.accepted {
			n += c.accepted[i].n.Load()
		}
	}
	return n
}
