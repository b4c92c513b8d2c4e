package keystore

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// A Record is what one credential opens or has opened, as the data plane holds it: small, and fixed
// but for its last use.
type Record struct {
	Digest     Digest
	KeyID      string
	Name       string
	Namespace  string // home
	Owner      string
	AllowedIPs []netip.Prefix
	Metadata   map[string]string

	held       *holding
	keyEnds    int64 // Unix nanoseconds; math.MaxInt64: never
	secretEnds int64
	revoked    bool
	active     bool
	personal   bool

	usedAt atomic.Int64 // Unix nanoseconds, coarse: see lastused.go
}

// Values of a record's keyEnds and secretEnds.
const (
	never      = math.MaxInt64
	rotatedOut = math.MinInt64
)

// NewRecord compiles the record of a key for one of its digests. A digest that is not among the
// key's secrets was rotated out: its record opens nothing, at any time.
func NewRecord(k *Key, digest Digest) *Record {
	r := &Record{
		Digest: digest, KeyID: k.ID, Name: k.Name, Namespace: canonical(k.Namespace),
		Owner: canonical(k.Owner), secretEnds: rotatedOut, held: nothing,
	}
	for _, s := range k.Secrets {
		if s.Digest == digest {
			r.secretEnds = unixOrNever(s.ExpiresAt)
		}
	}
	if r.opensNothing() {
		return r // many of them may be cached, so it holds nothing else
	}
	r.held, r.AllowedIPs, r.Metadata = holdingOf(k.Grants, k.Owner), k.AllowedIPs, k.Metadata
	r.keyEnds, r.revoked = unixOrNever(k.ExpiresAt), !k.RevokedAt.IsZero()
	r.active, r.personal = k.Active, k.Personal
	return r
}

// size returns about how many bytes the record takes in the cache, without its holding.
func (r *Record) size() int64 {
	n := 320 + len(r.KeyID) + len(r.Name) + 32*len(r.AllowedIPs)
	for name, value := range r.Metadata {
		n += 80 + len(name) + len(value)
	}
	return int64(n)
}

// opensNothing reports whether the record is of a digest that was rotated out.
func (r *Record) opensNothing() bool { return r.secretEnds == rotatedOut }

// lastNano is the last second that Unix nanoseconds can tell: in the year 2262.
const lastNano = math.MaxInt64 / int64(time.Second)

func unixOrNever(t time.Time) int64 {
	if t.IsZero() || t.Unix() >= lastNano {
		return never
	}
	return t.UnixNano()
}

// Ends returns when the record stops opening anything by itself, in Unix nanoseconds.
func (r *Record) ends() int64 { return min(r.keyEnds, r.secretEnds) }

// Set returns what the record's key and its owner both hold in a namespace.
func (r *Record) Set(d *Directory, ns *Namespace) *Set {
	return r.held.under(d, ns).both
}
