package keystore

import "net/netip"

// A Request contains the properties of a request that [Decide] depends on.
type Request struct {
	// Now is the time on the database's clock, in Unix nanoseconds, read after the request arrived.
	Now       int64
	Policy    *Directory // read after Now
	Namespace *Namespace // nil if the request names none, or one that does not exist
	Need      Need
	Client    netip.Addr // the zero Addr matches no allowed address
	Early     bool       // arrived as TLS early data (RFC 8470)
	// Narrowing has the restrictions of the request's derived token; nil if it has none.
	Narrowing *Narrowing
}

// Decide returns the outcome of a request with a record's credential. A nil record stands for a
// credential that is [Unknown]. Otherwise the result is the first that applies of [Rotated],
// [Revoked], [Expired], [Inactive], [OwnerDisabled], [Early], [Address], [Forbidden] and [OK]
// (docs/api_key.md, rule 1).
func Decide(r *Record, q *Request) Outcome {
	switch {
	case r == nil:
		return Unknown
	case q.Now >= r.secretExpires:
		return Rotated
	case r.revoked:
		return Revoked
	case q.Now >= min(r.keyExpires, q.Narrowing.Expiry()):
		return Expired
	case !r.active:
		return Inactive
	}
	e := r.grants.under(q.Policy, q.Namespace)
	narrowed := q.Narrowing.addresses()
	switch {
	case !e.ownerActive:
		return OwnerDisabled
	case q.Early && (q.Need.Class == Write || len(r.AllowedIPs)+len(narrowed) > 0):
		return Early
	case len(r.AllowedIPs) > 0 && !contains(r.AllowedIPs, q.Client),
		len(narrowed) > 0 && !contains(narrowed, q.Client):
		return Address
	case !e.allows(&q.Need) || !q.Narrowing.Allows(q.Namespace, &q.Need):
		return Forbidden
	}
	return OK
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
