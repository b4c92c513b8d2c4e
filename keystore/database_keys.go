package keystore

import (
	"context"
	"net/netip"
	"time"
)

// KeyReader is the part of a [Database] that reads keys.
type KeyReader interface {
	// KeyByDigest returns the key that a secret with this digest authenticates as, and the head of
	// the change log, both from one snapshot taken after the call began. The digest of a token that
	// was rotated out still finds its key, but is not among the key's Secrets. The key is nil, with
	// no error, if no key has or had the secret.
	KeyByDigest(ctx context.Context, d Digest) (*Key, Position, error)
	// DerivingKey returns the deriving key of the secret with this digest. It returns the zero value
	// if it is unknown, and for a secret that was rotated out.
	DerivingKey(ctx context.Context, d Digest) (DerivingKey, error)
	// Key returns one key, or ErrNotFound.
	Key(ctx context.Context, id string) (*Key, error)
	// Keys returns at most limit keys that match a filter, in the order of its Sort, and the cursor
	// of the next page, empty after the last. A page also ends at about [PageBytes]. A cursor stays
	// valid while keys are created and deleted. With the opposite Sort, the same cursor leads to
	// the previous keys. If no index leads to only the matching keys, such as with a Text or
	// StatusActive, Keys examines at most ten thousand keys: a page may be short or empty without
	// being the last. Only the order by creation time works for any number of keys. With another
	// order and more than ten thousand keys, including those of NotOwners, Keys returns an [Error]
	// of KindInvalid.
	Keys(ctx context.Context, f KeyFilter, cursor string, limit int) (keys []Key, next string,
		err error)
	// MemberTokens returns the keys of the tokens of members, without revoked ones.
	MemberTokens(ctx context.Context, members []string) ([]Key, error)
	// OwnedHomes is [KeyRelations.OwnedHomes].
	OwnedHomes(ctx context.Context, member string) ([]string, error)
	// CountMatching returns the number of keys that match a filter, but at most a limit. It reports
	// false instead if it would have to examine more than ten thousand keys, and always for a
	// Text, Metadata or Unused that no other field of the filter narrows down.
	CountMatching(ctx context.Context, f KeyFilter, limit int) (n int, ok bool, err error)
	// CountKeys returns the number of keys by status.
	CountKeys(ctx context.Context) (map[Status]int64, error)
	// CountPrefixes returns, by prefix, the number of keys with a token of this deployment whose
	// prefix is not in except. It counts no revoked or expired keys and no members' own tokens.
	CountPrefixes(ctx context.Context, except []string) (map[string]int64, error)
	// MostKeys returns the highest [KeyRelations.CountOwned] of all owners but root, and the
	// highest [KeyRelations.CountHomed].
	MostKeys(ctx context.Context) (owner, namespace int64, err error)
	// RefusedKeys returns the keys that [KeyWriter.InsertKeys] would refuse now, as errors by
	// index.
	RefusedKeys(ctx context.Context, keys []*Key) (refused map[int]error, err error)
}

// UsageRecorder is the part of a [Database] that stores what nodes learn when keys are used.
type UsageRecorder interface {
	// RecordUse stores last uses, by key id. It ignores unknown ids, and uses and derived uses that
	// are not later than the stored ones. It deletes the entries of uses that it has stored or
	// ignored, even if it fails.
	RecordUse(ctx context.Context, uses map[string]LastUse) error
	// RecordDeriving stores the deriving keys of secrets that have none, and the prefixes of those
	// that have the same public key. It adds a [ForeignPrefix] to one that is stored. It ignores
	// unknown digests and those of secrets that were rotated out. Like RecordUse, it deletes the
	// entries of keys that it has stored or ignored.
	RecordDeriving(ctx context.Context, keys map[Digest]DerivingKey) error
}

// A LastUse is the last request that a key was accepted for.
type LastUse struct {
	At   time.Time
	From netip.Addr // of the client; the zero Addr if it is unknown
	// Derived is the last of these requests with a derived token. It is not later than At.
	Derived DerivedUse
}

// A DerivedUse is the last request that a key was accepted for with a token derived from it.
type DerivedUse struct {
	At   time.Time // zero if there was none; written in batches, at most 10 s late
	Note string    // of the token; text of its holder. It is empty if it has none or it is unknown
}

// Merge adds another use of the same key.
func (u *LastUse) Merge(other LastUse) {
	derived := u.Derived
	if other.Derived.At.After(derived.At) {
		derived = other.Derived
	}
	if other.At.After(u.At) {
		*u = other
	}
	u.Derived = derived
}

// A KeyFilter selects keys. A key must match every field that is set; the zero value selects all.
type KeyFilter struct {
	Namespaces []string // the home is one of these; nil matches any key, an empty list none
	In         string   // the home, or the namespace of a grant; empty matches any key
	// Visible and OrOwners are one condition: the home is in Visible, or one of the members OrOwners
	// owns the key. A nil Visible matches any key.
	Visible   []string
	OrOwners  []string
	Status    Status
	Now       time.Time // the time at which Status is determined
	Owner     string
	Owners    []string // the owner is one of these; nil matches any key, an empty list none
	NotOwners []string // the owner is none of these
	CreatedBy string
	Role      string
	Plan      string            // the plan that the key itself names
	Metadata  map[string]string // the key has all of these entries, compared exactly
	// Expiring selects keys that expire within this time after Now. Unused selects keys that were
	// not used within this time before Now; a key that was never used counts from its creation.
	// Both leave out revoked and expired keys. Zero matches any key.
	Expiring, Unused time.Duration
	// Text occurs in the name, the id or a listed prefix. ASCII case is ignored, and there are no
	// wildcards.
	Text string
	Sort KeySort
}

// A KeySort is the order of a list: created_at, name, expires_at or last_used_at, with a leading
// minus for descending order. Names are ordered by their UTF-8 bytes, ignoring ASCII case. A key
// without expiry sorts after all others, a key that was never used before them. The zero value is
// [NewestFirst].
type KeySort string

// NewestFirst is the default order of lists.
const NewestFirst KeySort = ""
