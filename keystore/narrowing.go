package keystore

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
	"weak"
)

// Caveats say how a derived token narrows its key (docs/derived.md).
type Caveats struct {
	// ExpiresAt is when the token expires. It is required, and rounded down to a second.
	ExpiresAt time.Time
	// NotBefore is when the token becomes valid. The zero time means at once.
	NotBefore time.Time
	// Permissions limit what the token allows, within the key's permissions; nil means no limit.
	Permissions []string
	// Namespaces are the namespaces in which the token is valid; nil means all of the key's.
	Namespaces []string
	// AllowedIPs are the addresses that may use the token; nil means all of the key's.
	AllowedIPs []netip.Prefix
	// Note is written to the access log, at most 200 characters.
	Note string
}

// A Narrowing has the restrictions of a derived token in the form that [Decide] uses. A nil
// *Narrowing restricts nothing. It is immutable except for the time of its last use.
type Narrowing struct {
	AllowedIPs []netip.Prefix // empty if the token allows all addresses
	Note       string

	Validity
	scope      *Set // nil for all permissions
	namespaces []string

	usedAt atomic.Int64 // Unix nanoseconds: see NoteUse
}

// A Validity says when a derived token is valid.
type Validity struct {
	expires   int64 // Unix seconds
	notBefore int64 // Unix seconds; 0 if the token has always been valid
}

// notBeforeLeeway is how long before NotBefore a token is accepted, because the clock of the
// program that derived it may be fast.
const notBeforeLeeway = 60 * time.Second

// ValidAt returns [OK] if the token is valid at now, in Unix nanoseconds, [Expired] if it has
// expired, and [Malformed] if it is not valid yet or expires more than longest after now.
func (v *Validity) ValidAt(now int64, longest time.Duration) Outcome {
	seconds := now / int64(time.Second)
	switch {
	case seconds >= v.expires:
		return Expired
	case v.expires-seconds > int64(longest/time.Second):
		return Malformed
	case v.notBefore-seconds > int64(notBeforeLeeway/time.Second):
		return Malformed
	}
	return OK
}

// Expiry returns when the token expires, in Unix nanoseconds, or [Never] for a nil Narrowing.
func (n *Narrowing) Expiry() int64 {
	if n == nil || n.expires >= lastSecond {
		return Never
	}
	return n.expires * int64(time.Second)
}

// Allows reports whether the token allows a need in a namespace, which may be nil. The key and its
// owner must allow it too.
func (n *Narrowing) Allows(ns *Namespace, need *Need) bool {
	return n == nil ||
		(n.namespaces == nil || ns != nil && slices.Contains(n.namespaces, ns.ID)) &&
			(n.scope == nil || n.scope.Allows(*need))
}

// NoteUse records a use of the token like [Record.NoteUse]. It reports false for a nil Narrowing.
func (n *Narrowing) NoteUse(now int64, grain time.Duration) bool {
	return n != nil && noteUse(&n.usedAt, now, grain)
}

// addresses returns the allowed addresses of the token.
func (n *Narrowing) addresses() []netip.Prefix {
	if n == nil {
		return nil
	}
	return n.AllowedIPs
}

// Left returns the permissions of the token in a namespace. both is the set of the permissions that
// its key and the key's owner both have there.
func (n *Narrowing) Left(both *Set, namespace string) *Set {
	switch {
	case n == nil || both == nil:
		return both
	case n.namespaces != nil && !slices.Contains(n.namespaces, namespace):
		return nil
	case n.scope == nil:
		return both
	}
	return intersections.of(both, n.scope)
}

// Namespaces returns the namespaces in which the token is valid, or nil for all. The caller must not
// modify the list.
func (n *Narrowing) Namespaces() []string {
	if n == nil {
		return nil
	}
	return n.namespaces
}

// Size returns the approximate memory of the narrowing in bytes.
func (n *Narrowing) Size() int64 {
	size := 200 + len(n.Note) + 32*len(n.AllowedIPs)
	for _, ns := range n.namespaces {
		size += 24 + len(ns)
	}
	// A permission is in the set and in its text.
	for _, p := range n.scope.Permissions() {
		size += 800 + 6*(len(p.Resource)+len(p.Action))
	}
	return int64(size)
}

// intersections caches the intersections of the permissions of keys with those of their owners, and
// with the scopes of derived tokens, because both are often the same for many keys and tokens. It
// is bounded separately: a token with a short scope such as `*` can have many permissions, which
// [Narrowing.Size] does not count.
var intersections intersectionCache

// An intersectionCache is a small cache of [Intersection]. Each pair of sets has one place in it.
type intersectionCache [256]atomic.Pointer[cachedIntersection]

// A cachedIntersection refers to the sets by their numbers, so that it does not keep them in
// memory.
type cachedIntersection struct {
	a, b uint64
	both weak.Pointer[Set]
	kept *Set // both, or nil if it is larger than maxKeptSet
}

// maxKeptSet is the maximum number of permissions of a set that an intersectionCache keeps, so that
// the cache takes some 10 MB at most. Of a larger set it keeps only a weak pointer, until the next
// garbage collection: computing it for each request may take a millisecond.
const maxKeptSet = 64

var intersectionSeed = maphash.MakeSeed()

// of returns the intersection of two sets.
func (c *intersectionCache) of(a, b *Set) *Set {
	if a == nil || b == nil || a == b {
		return Intersection(a, b)
	}
	pair := [2]uint64{a.number, b.number}
	place := &c[maphash.Comparable(intersectionSeed, pair)%uint64(len(c))]
	if in := place.Load(); in != nil && in.a == a.number && in.b == b.number {
		if in.kept != nil {
			return in.kept
		}
		if both := in.both.Value(); both != nil {
			return both
		}
	}
	in := &cachedIntersection{a: a.number, b: b.number}
	both := Intersection(a, b)
	if in.both = weak.Make(both); len(both.list) <= maxKeptSet {
		in.kept = both
	}
	place.Store(in)
	return both
}
