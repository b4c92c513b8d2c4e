package keystore

import (
	"net/netip"
	"slices"
	"time"
)

// RootMember is who acts through Caddy's admin endpoint, and owns what is made there.
const RootMember = "root"

// Status is what a key's fields add up to.
type Status string

const (
	StatusActive   Status = "active"
	StatusInactive Status = "inactive"
	StatusExpired  Status = "expired"
	StatusRevoked  Status = "revoked"
)

// Statuses lists them all.
var Statuses = []Status{StatusActive, StatusInactive, StatusExpired, StatusRevoked}

// A Secret is one digest that opens a key.
type Secret struct {
	Digest    Digest
	CreatedAt time.Time
	ExpiresAt time.Time // zero: with the key
	Imported  bool      // the credential was made elsewhere and has no tag of ours
}

// A Key is the record: it keeps its id for life. Times are UTC in microseconds.
type Key struct {
	ID        string
	Prefix    string // of its tokens, without the underscore
	Name      string
	Namespace string  // home
	Grants    []Grant // the home grant first, when there is one
	Owner     string  // the member it acts for
	// the owner's own token: it has no grants and opens only the doors of those who manage
	Personal  bool
	CreatedBy string
	Active    bool
	CreatedAt time.Time

	ExpiresAt    time.Time // zero: never. Never changes.
	RevokedAt    time.Time // zero: not revoked. Never goes back.
	RevokedBy    string
	RevokeReason string
	LastUsedAt   time.Time // zero: never used. Written in batches, at most 10 s late.

	Secrets    []Secret       // those that open it now or will until their end, newest first
	AllowedIPs []netip.Prefix // empty: any
	Metadata   map[string]string
	Version    int64 // 1 when made, one more with each change
}

// Status returns the key's status at now: revoked before expired before inactive, as the outcomes
// go.
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

// opens reports whether a digest is that of a secret which opens the key at now.
func (k *Key) Accepts(d Digest, now time.Time) bool {
	return slices.ContainsFunc(k.Secrets,
		func(s Secret) bool {
			return s.Digest == d &&
				(s.ExpiresAt.IsZero() || now.Before(s.ExpiresAt))
		})
}

// Listed is how the key is shown in lists: its prefix and the first 8 of its id.
func (k *Key) Listed() string { return ListedPrefix(k.Prefix, k.ID) }

// HomeGrant returns the grant in the key's own namespace, or nil.
func (k *Key) HomeGrant() *Grant {
	for i := range k.Grants {
		if k.Grants[i].Namespace == k.Namespace {
			return &k.Grants[i]
		}
	}
	return nil
}

// Access names the home grant's permissions.
func (k *Key) Access() Access {
	g := k.HomeGrant()
	if g == nil || len(g.Roles) > 0 {
		return Custom
	}
	return AccessOf(g.Own())
}

// newest returns the key's present secret, nil when none opens it any more.
func (k *Key) Current(now time.Time) *Secret {
	for i, s := range k.Secrets {
		if s.ExpiresAt.IsZero() || now.Before(s.ExpiresAt) {
			return &k.Secrets[i]
		}
	}
	return nil
}

// touches lists the namespaces a key has to do with: a member's token those that the member has.
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
