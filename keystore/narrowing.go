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
	// Permissions are those of the key's permissions that the token has; nil means all.
	Permissions []string
	// Namespaces are those in which the token is valid; nil means all of the key's.
	Namespaces []string
	// AllowedIPs are the addresses that may use the token; nil means all of the key's.
	AllowedIPs []netip.Prefix
	// Note is written to the access log, at most 200 characters.
	Note string
}

// A Narrowing has the restrictions of a derived token in the form that [Decide] uses. A nil
// *Narrowing restricts nothing.
type Narrowing struct {
	AllowedIPs []netip.Prefix // empty if the token allows all addresses
	Note       string

	Validity
	scope      *Set // nil for all permissions
	namespaces []string
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

// addresses returns the allowed addresses of the token.
func (n *Narrowing) addresses() []netip.Prefix {
	if n == nil {
		return nil
	}
	return n.AllowedIPs
}

// Left returns exactly the permissions that the token has in a namespace. key and owner are the
// sets of its key and of the key's owner there. The result has an operation only if the token
// allows it both as a read and as a write, because a permission cannot say that only a read is
// allowed.
func (n *Narrowing) Left(key, owner *Set, namespace string) *Set {
	if n.namespaces != nil && !slices.Contains(n.namespaces, namespace) {
		return nil
	}
	left := lefts.common(key, owner)
	if n.scope != nil {
		left = lefts.common(left, n.scope)
	}
	return left
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
		size += 16 + len(ns)
	}
	// A permission is in the set and in its text.
	for _, p := range n.scope.Permissions() {
		size += 800 + 6*(len(p.Resource)+len(p.Action))
	}
	return int64(size)
}

// common returns the set that allows a request if both a and b allow it, as far as permissions can
// express that. [Intersection] may contain less: `orders:*` and `read` have `orders:read` in
// common.
func common(a, b *Set) *Set {
	var list []Permission
	add := func(p Permission, unless *Set) {
		if a.allowsAll(p) && b.allowsAll(p) && !unless.allowsAll(p) {
			list = append(list, p)
		}
	}
	for _, s := range []*Set{a, b} {
		for _, p := range s.Permissions() {
			add(p, nil)
		}
	}
	listed := NewSet(list...)
	for _, s := range []*Set{a, b} {
		for _, p := range s.Permissions() {
			if p.Resource != "" {
				add(Permission{p.Resource, "read"}, listed)
				add(Permission{p.Resource, "write"}, listed)
			}
		}
	}
	return NewSet(list...)
}

// lefts caches the results of Left, because many tokens have the same scope and the same sets. It
// has a bound of its own: a token with a short scope such as `*` can have many permissions, which
// [Narrowing.Size] does not count.
var lefts commons

// commons is a small cache of results of common, in which each pair of sets has one place.
type commons [256]atomic.Pointer[commonSet]

// A commonSet is what two sets have in common. It refers to them by their numbers, so that it does not
// keep them.
type commonSet struct {
	a, b uint64
	both weak.Pointer[Set]
	kept *Set // both, unless it is long
}

// maxKeptSet is how many permissions a set can have for commons to keep it, so that the cache takes
// some 10 MB at most. A larger one stays until the next garbage collection, because computing it
// for each request may take a millisecond.
const maxKeptSet = 64

var commonSeed = maphash.MakeSeed()

func (c *commons) common(a, b *Set) *Set {
	if a == b {
		return a
	}
	if a == nil || b == nil {
		return nil
	}
	place := &c[maphash.Comparable(commonSeed, [2]uint64{a.number, b.number})%uint64(len(c))]
	if in := place.Load(); in != nil && in.a == a.number && in.b == b.number {
		if in.kept != nil {
			return in.kept
		}
		if both := in.both.Value(); both != nil {
			return both
		}
	}
	in := &commonSet{a: a.number, b: b.number}
	both := common(a, b)
	if in.both = weak.Make(both); len(both.list) <= maxKeptSet {
		in.kept = both
	}
	place.Store(in)
	return both
}
