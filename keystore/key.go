package keystore

import (
	"net/netip"
	"slices"
	"time"
)

// RootMember is the member that requests to Caddy's admin endpoint act as. It owns the keys that
// they create.
const RootMember = "root"

// Status is the state of a key: see [Key.Status].
type Status string

// Statuses of keys.
const (
	StatusActive   Status = "active"
	StatusInactive Status = "inactive"
	StatusExpired  Status = "expired"
	StatusRevoked  Status = "revoked"
)

// StatusOwnerDisabled selects, in a list of keys, those that are active but refused because their
// owner is disabled: see [OwnerDisabled]. [Key.Status] never returns it, because a key does not know
// the state of its owner.
const StatusOwnerDisabled Status = "owner_disabled"

// StatusUsable selects, in a list of keys, those that are active and whose owner is enabled. Like
// [StatusOwnerDisabled], it is the status of no key.
const StatusUsable Status = "usable"

// Statuses lists every status that [Key.Status] returns.
var Statuses = []Status{StatusActive, StatusInactive, StatusExpired, StatusRevoked}

// A Secret is the stored part of a credential that authenticates as a key.
type Secret struct {
	Digest    Digest
	CreatedAt time.Time
	ExpiresAt time.Time // zero if it expires with the key
	Imported  bool      // another system created the credential, so it has no tag
	Deriving  DerivingKey
}

// Secret returns the stored part of a new token. It takes some 20 µs.
func (t Token) Secret(createdAt time.Time) Secret {
	return Secret{Digest: t.Digest(), CreatedAt: createdAt,
		Deriving: NewDerivingKey(t.text, t.Prefix())}
}

// A Key gives a program access. Its id never changes. Times are UTC in microseconds.
type Key struct {
	ID        string
	Prefix    string // of its tokens, without the underscore
	Name      string
	Namespace string  // home
	Grants    []Grant // begins with the home grant, if there is one
	Owner     string  // id of the member that it acts for
	// Personal marks the record of a member's own token. It has no grants, and is accepted only
	// for management.
	Personal  bool
	CreatedBy string
	Active    bool
	CreatedAt time.Time

	ExpiresAt    time.Time // zero if it never expires; immutable
	RevokedAt    time.Time // zero if it is not revoked; final
	RevokedBy    string
	RevokeReason string
	LastUsedAt   time.Time  // zero if it was never used; written in batches, at most 10 s late
	LastUsedFrom netip.Addr // the client of the last use; the zero Addr if it is unknown
	// LastDerived is the last use with a token that was derived from the key.
	LastDerived DerivedUse

	Secrets    []Secret       // newest first; one that a rotation replaced may have expired
	AllowedIPs []netip.Prefix // empty if all addresses are allowed
	KeyLimits
	Metadata map[string]string
	Version  int64 // 1 for a new key, incremented by each change
}

// Status returns the key's status at now. Revoked precedes expired, which precedes inactive, as in
// [Decide].
func (k *Key) Status(now time.Time) Status {
	switch {
	case !k.RevokedAt.IsZero():
		return StatusRevoked
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return StatusExpired
	case !k.Active:
		return StatusInactive
	}
	return StatusActive
}

// Accepts reports whether one of the key's secrets has this digest and has not expired at now.
func (k *Key) Accepts(d Digest, now time.Time) bool {
	return slices.ContainsFunc(k.Secrets,
		func(s Secret) bool { return s.Digest == d && s.validAt(now) })
}

func (s *Secret) validAt(now time.Time) bool {
	return s.ExpiresAt.IsZero() || now.Before(s.ExpiresAt)
}

// Listed returns the form of the key in lists: its prefix and the first 8 characters of its id.
func (k *Key) Listed() string { return ListedPrefix(k.Prefix, k.ID) }

// HomeGrant returns the grant in the key's home namespace, or nil.
func (k *Key) HomeGrant() *Grant {
	for i := range k.Grants {
		if k.Grants[i].Namespace == k.Namespace {
			return &k.Grants[i]
		}
	}
	return nil
}

// Access returns the short name of the home grant's permissions.
func (k *Key) Access() Access {
	g := k.HomeGrant()
	if g == nil || len(g.Roles) > 0 {
		return Custom
	}
	return AccessOf(g.Own())
}

// Current returns the newest secret that has not expired at now, or nil.
func (k *Key) Current(now time.Time) *Secret {
	for i := range k.Secrets {
		if k.Secrets[i].validAt(now) {
			return &k.Secrets[i]
		}
	}
	return nil
}

// Touches lists the home namespace and those of the grants. For the record of a member's token, it
// lists those of the member's grants.
func (k *Key) Touches(d *Directory) []string {
	if m := d.members[k.Owner]; k.Personal && m != nil {
		return m.Touches()
	}
	list := []string{k.Namespace}
	for _, g := range k.Grants {
		if g.Namespace != k.Namespace {
			list = append(list, g.Namespace)
		}
	}
	return list
}
