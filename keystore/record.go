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

	held       *CompiledGrants
	keyEnds    int64 // Unix nanoseconds; math.MaxInt64: never
	secretEnds int64
	revoked    bool
	active     bool
	personal   bool

	usedAt atomic.Int64 // Unix nanoseconds, coarse: see lastused.go
}

// Values of a record's keyEnds and secretEnds.
const (
	Never      = math.MaxInt64
	rotatedOut = math.MinInt64
)

// NewRecord compiles the record of a key for one of its digests. A digest that is not among the
// key's secrets was rotated out: its record opens nothing, at any time.
func NewRecord(k *Key, digest Digest) *Record {
	r := &Record{
		Digest: digest, KeyID: k.ID, Name: k.Name, Namespace: canonical(k.Namespace),
		Owner: canonical(k.Owner), secretEnds: rotatedOut, held: NoGrants,
	}
	for _, s := range k.Secrets {
		if s.Digest == digest {
			r.secretEnds = UnixNano(s.ExpiresAt)
		}
	}
	if r.RotatedOut() {
		return r // many of them may be cached, so it holds nothing else
	}
	r.held, r.AllowedIPs, r.Metadata = CompileGrants(k.Grants, k.Owner), k.AllowedIPs, k.Metadata
	r.keyEnds, r.revoked = UnixNano(k.ExpiresAt), !k.RevokedAt.IsZero()
	r.active, r.personal = k.Active, k.Personal
	return r
}

// size returns about how many bytes the record takes in the cache, without its holding.
func (r *Record) Size() int64 {
	n := 320 + len(r.KeyID) + len(r.Name) + 32*len(r.AllowedIPs)
	for name, value := range r.Metadata {
		n += 80 + len(name) + len(value)
	}
	return int64(n)
}

// opensNothing reports whether the record is of a digest that was rotated out.
func (r *Record) RotatedOut() bool { return r.secretEnds == rotatedOut }

// lastNano is the last second that Unix nanoseconds can tell: in the year 2262.
const lastNano = math.MaxInt64 / int64(time.Second)

func UnixNano(t time.Time) int64 {
	if t.IsZero() || t.Unix() >= lastNano {
		return Never
	}
	return t.UnixNano()
}

// Ends returns when the record stops opening anything by itself, in Unix nanoseconds.
func (r *Record) Ends() int64 { return min(r.keyEnds, r.secretEnds) }

// Grants returns the compiled grants of the record's key.
func (r *Record) Grants() *CompiledGrants { return r.held }

// Personal reports whether the record is of a member's own token.
func (r *Record) Personal() bool { return r.personal }

// Usable reports whether the key is neither revoked nor inactive. It may have expired.
func (r *Record) Usable() bool { return r.active && !r.revoked }

// NoteUse notes a use at now, in Unix nanoseconds, and reports whether it is at least grain later
// than the last one that was noted.
func (r *Record) NoteUse(now int64, grain time.Duration) bool {
	last := r.usedAt.Load()
	return now-last >= int64(grain) && r.usedAt.CompareAndSwap(last, now)
}

// Set returns what the record's key and its owner both hold in a namespace.
func (r *Record) Set(d *Directory, ns *Namespace) *Set {
	return r.held.under(d, ns).both
}
