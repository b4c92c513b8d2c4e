package keystore

import "net/netip"

// A Request is what [Decide] judges a record against.
type Request struct {
	// read after the request arrived, on the database's clock, in Unix nanoseconds
	Now       int64
	Policy    *Directory // read after Now was
	Namespace *Namespace // nil: none, or one that does not exist
	Need      Need
	Client    netip.Addr // the zero Addr is in no list
	Early     bool       // came as TLS early data (RFC 8470)
}

// Decide returns the outcome for a record, nil meaning that the credential opens nothing: [OK],
// [Unknown], [Rotated], [Revoked], [Expired], [Inactive], [OwnerDisabled], [Early], [Address] or
// [Forbidden], the first that applies. It is a pure function.
func Decide(r *Record, q *Request) Outcome {
	switch {
	case r == nil:
		return Unknown
	case q.Now >= r.secretEnds:
		return Rotated
	case r.revoked:
		return Revoked
	case q.Now >= r.keyEnds:
		return Expired
	case !r.active:
		return Inactive
	}
	may := r.held.under(q.Policy, q.Namespace)
	switch {
	case !may.alive:
		return OwnerDisabled
	case q.Early && (q.Need.Class == Write || len(r.AllowedIPs) > 0):
		return Early
	case len(r.AllowedIPs) > 0 && !contains(r.AllowedIPs, q.Client):
		return Address
	case !may.allows(&q.Need):
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
