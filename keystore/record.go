package keystore

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// A Record is what one credential opens, as the data plane holds it: small, and fixed but for its last use.
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

const never = math.MaxInt64

// NewRecord compiles the record that digest opens; nil when the key has no such secret.
func NewRecord(k *Key, digest Digest) *Record {
	for _, s := range k.Secrets {
		if s.Digest == digest {
			return &Record{
				Digest: digest, KeyID: k.ID, Name: k.Name, Namespace: canonical(k.Namespace), Owner: canonical(k.Owner),
				held: holdingOf(k.Grants, k.Owner), AllowedIPs: k.AllowedIPs, Metadata: k.Metadata,
				keyEnds: unixOrNever(k.ExpiresAt), secretEnds: unixOrNever(s.ExpiresAt),
				revoked: !k.RevokedAt.IsZero(), active: k.Active, personal: k.Personal,
			}
		}
	}
	return nil
}

// size returns about how many bytes the record takes in the cache, without its holding.
func (r *Record) size() int64 {
	n := 320 + len(r.KeyID) + len(r.Name) + 32*len(r.AllowedIPs)
	for name, value := range r.Metadata {
		n += 80 + len(name) + len(value)
	}
	return int64(n)
}

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
