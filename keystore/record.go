package keystore

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unique"
)

// A Record is a key looked up by one of its credentials, in the form that nodes cache. It is
// immutable except for the time of its last use and for its deriving key. A node may learn the
// deriving key later, and learns it again after a prefix was added to `token_prefix`.
type Record struct {
	Digest     Digest
	KeyID      string
	Name       string
	Namespace  string // home
	Owner      string
	AllowedIPs []netip.Prefix

	metadata      packedTexts
	limits        unique.Handle[KeyLimits] // the zero handle if it sets none
	grants        *CompiledGrants
	keyExpires    int64 // Unix nanoseconds, or Never
	secretExpires int64 // Unix nanoseconds, Never or rotatedOut
	revoked       bool
	active        bool
	personal      bool

	// The deriving key of the credential. There may be a million records, so its prefix is a number.
	derivingPrefix atomic.Uint32             // see prefixNumber
	deriving       atomic.Pointer[PublicKey] // nil if it is unknown

	usedAt atomic.Int64 // Unix nanoseconds: see NoteUse
}

const (
	// Never is the expiry, in Unix nanoseconds, of a key or credential that never expires.
	Never = math.MaxInt64

	rotatedOut = math.MinInt64
)

// NewRecord returns the record of a key for one of its digests. A digest that is not among the
// key's secrets was rotated out. [Decide] always refuses its record.
func NewRecord(k *Key, digest Digest) *Record {
	r := &Record{
		Digest: digest, KeyID: k.ID, Name: k.Name, Namespace: canonical(k.Namespace),
		Owner: canonical(k.Owner), secretExpires: rotatedOut, grants: NoGrants,
	}
	for _, s := range k.Secrets {
		if s.Digest == digest {
			r.secretExpires = UnixNano(s.ExpiresAt)
			if s.Deriving != (DerivingKey{}) {
				r.SetDeriving(s.Deriving)
			}
		}
	}
	if r.RotatedOut() {
		return r // small, because many of them may be cached
	}
	r.grants, r.AllowedIPs = CompileGrants(k.Grants, k.Owner), k.AllowedIPs
	r.metadata = packTexts(k.Metadata)
	r.keyExpires, r.revoked = UnixNano(k.ExpiresAt), !k.RevokedAt.IsZero()
	r.active, r.personal = k.Active, k.Personal
	if k.KeyLimits != (KeyLimits{}) {
		r.limits = unique.Make(k.KeyLimits)
	}
	return r
}

// Size returns the approximate memory of the record in bytes, without its grants.
func (r *Record) Size() int64 {
	return int64(352 + len(r.KeyID) + len(r.Name) + 32*len(r.AllowedIPs) + len(r.metadata))
}

// RotatedOut reports whether a rotation has replaced the record's credential for good.
func (r *Record) RotatedOut() bool { return r.secretExpires == rotatedOut }

// lastSecond is the last second that Unix nanoseconds can represent, in the year 2262.
const lastSecond = math.MaxInt64 / int64(time.Second)

// UnixNano returns an expiry in Unix nanoseconds: [Never] for the zero time, and for times that
// nanoseconds cannot represent.
func UnixNano(t time.Time) int64 {
	if t.IsZero() || t.Unix() >= lastSecond {
		return Never
	}
	return t.UnixNano()
}

// Expiry returns when the credential or its key expires, in Unix nanoseconds, or [Never].
func (r *Record) Expiry() int64 { return min(r.keyExpires, r.secretExpires) }

// Metadata returns the value of a key's metadata, or "" if there is none with this name.
func (r *Record) Metadata(name string) string { return r.metadata.find(name) }

// Grants returns the compiled grants of the record's key.
func (r *Record) Grants() *CompiledGrants { return r.grants }

// Personal reports whether the record is that of a member's own token.
func (r *Record) Personal() bool { return r.personal }

// Usable reports whether the key is neither revoked nor inactive. It may have expired.
func (r *Record) Usable() bool { return r.active && !r.revoked }

// NoteUse records a use at now, in Unix nanoseconds, if the last recorded use is at least grain
// earlier. It reports whether it did.
func (r *Record) NoteUse(now int64, grain time.Duration) bool {
	return noteUse(&r.usedAt, now, grain)
}

func noteUse(usedAt *atomic.Int64, now int64, grain time.Duration) bool {
	last := usedAt.Load()
	return now-last >= int64(grain) && usedAt.CompareAndSwap(last, now)
}

// Deriving returns the deriving key of the record's credential. known is false if it is unknown.
func (r *Record) Deriving() (k DerivingKey, known bool) {
	public := r.deriving.Load()
	if public == nil {
		return k, false
	}
	return DerivingKey{*public, numberedPrefix(r.derivingPrefix.Load())}, true
}

// SetDeriving sets the deriving key of the record's credential.
func (r *Record) SetDeriving(k DerivingKey) {
	r.derivingPrefix.Store(prefixNumber(k.Prefix))
	public := k.Public // &k.Public would keep the rest of k too
	r.deriving.Store(&public)
}

// prefixNumbers numbers the prefixes of tokens, of which a deployment has few. Reading takes no lock.
var prefixNumbers struct {
	numbers sync.Map // string → uint32
	mu      sync.Mutex
	list    atomic.Pointer[[]string] // by number; replaced under mu
}

// prefixNumber returns the number of a prefix in this process.
func prefixNumber(prefix string) uint32 {
	p := &prefixNumbers
	if n, known := p.numbers.Load(prefix); known {
		return n.(uint32)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n, known := p.numbers.Load(prefix); known {
		return n.(uint32)
	}
	var list []string
	if known := p.list.Load(); known != nil {
		list = *known
	}
	n := uint32(len(list))
	list = append(list, prefix)
	p.list.Store(&list)
	p.numbers.Store(prefix, n)
	return n
}

// numberedPrefix returns the prefix with a number.
func numberedPrefix(n uint32) string { return (*prefixNumbers.list.Load())[n] }

// Set returns the permissions that the record's key and its owner both have in a namespace, or
// those of a derived token. As with [Intersection], some of them cannot be expressed and are
// missing.
func (r *Record) Set(d *Directory, ns *Namespace, n *Narrowing) *Set {
	both := r.grants.under(d, ns).both
	if ns == nil {
		return both
	}
	return n.Left(both, ns.ID)
}
