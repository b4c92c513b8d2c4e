package keystore

import (
	"net/http"
	"sync/atomic"
)

// An Outcome is the answer to one request. The set is closed: it decides the status, the code in
// the body, the metric label and the log field, so that they cannot disagree (spec section 5).
type Outcome uint8

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
	UntrustedProxy
	Rotated // the token was replaced by a rotation; callers get the answer of Unknown

	NumOutcomes int = iota
)

var outcomes = [NumOutcomes]struct {
	name   string
	status int // 0: the request goes on
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
	UntrustedProxy: {"untrusted_proxy", http.StatusForbidden, "untrusted_proxy",
		"The request does not come from a trusted proxy"},
	Rotated: {"rotated", http.StatusUnauthorized, "invalid_key", "The API key is not valid"},
}

// String is the outcome's name in logs and metrics.
func (o Outcome) String() string { return outcomes[o].name }

// Status is the HTTP status of the refusal, 0 when the request goes on to the next handler.
func (o Outcome) Status() int { return outcomes[o].status }

// Code is the `code` of the problem document, empty when there is none.
func (o Outcome) Code() string { return outcomes[o].code }

// Title is the `title` of the problem document.
func (o Outcome) Title() string { return outcomes[o].title }

// Refuses reports whether the request ends here with a problem document.
func (o Outcome) Refuses() bool { return outcomes[o].code != "" }

// OutcomeCounts counts requests by outcome.
type OutcomeCounts [NumOutcomes]atomic.Uint64
