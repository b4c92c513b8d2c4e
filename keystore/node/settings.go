package node

import (
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Settings can change while a node is running. A zero field stands for its default below.
type Settings struct {
	// TokenPrefixes are the accepted prefixes of keys' tokens. New keys get the first one.
	// [keystore.MemberPrefix] must not be among them.
	TokenPrefixes []string
	// AbandonedPrefixes are former prefixes that are deliberately no longer accepted: see
	// [OtherPrefix].
	AbandonedPrefixes []string
	// LocalCache is the approximate maximum number of cached records.
	LocalCache int
	// LocalCacheBytes is the approximate maximum memory of the cached records. A record that needs
	// more than 1/256 of it is not cached.
	LocalCacheBytes int64
	// Lease is how long a node without a connection to the database may use its cache.
	Lease time.Duration
	// Capacity limits how much the deployment can hold.
	Capacity keystore.Capacity
	// Cache is shared by all nodes; nil disables it. The caller closes it once no Settings refers
	// to it.
	Cache keystore.SharedCache
	// Rates lets the nodes share rate limits; nil divides each limit among them. The caller closes
	// it like Cache.
	Rates keystore.SharedRates
	// Usage says whether requests are counted.
	Usage UsageSettings
	// Derive says which derived tokens are accepted.
	Derive DeriveSettings
	// Reminders says which reminders the audit log gets.
	Reminders ReminderSettings
	// Thresholds says whether the audit log records that 80 % and 100 % of a quota are used.
	Thresholds bool
}

// DeriveSettings are the settings of derived tokens (docs/derived.md).
type DeriveSettings struct {
	// Off refuses all of them.
	Off bool
	// Max is the maximum time from now to the expiry of a derived token.
	Max time.Duration
}

// ReminderSettings are the settings of reminders (docs/lifetimes.md).
type ReminderSettings struct {
	// Off stops the reminders of keys that expire soon or have expired.
	Off bool
	// Before lists the times before the expiry of a key at which there is a reminder; nil stands
	// for DefaultRemind.
	Before []time.Duration
	// Unused is how long a key must be unused to be reported; zero for never. The Idle of the key's
	// namespace replaces it.
	Unused time.Duration
}

// DefaultRemind lists the times before the expiry of a key at which there are reminders by default.
var DefaultRemind = []time.Duration{30 * day, 7 * day, day}

const day = 24 * time.Hour

// UsageSettings are the settings of usage (docs/usage.md).
type UsageSettings struct {
	// Off stops counting, and noting the addresses of last uses. Usage that was counted before is
	// neither rolled up nor deleted.
	Off bool
	// Kept is how long usage is kept; nil stands for [keystore.DefaultUsageKept].
	Kept *keystore.UsageKept
}

// Defaults of [Settings].
const (
	DefaultLocalCache = 1_000_000
	DefaultLease      = 30 * time.Second
	// DefaultLocalCacheBytes suffices for DefaultLocalCache typical keys.
	DefaultLocalCacheBytes = 1 << 30
)

func (s Settings) withDefaults() Settings {
	if len(s.TokenPrefixes) == 0 {
		s.TokenPrefixes = []string{keystore.DefaultPrefix}
	}
	if s.LocalCache == 0 {
		s.LocalCache = DefaultLocalCache
	}
	if s.LocalCacheBytes == 0 {
		s.LocalCacheBytes = DefaultLocalCacheBytes
	}
	if s.Lease == 0 {
		s.Lease = DefaultLease
	}
	if s.Derive.Max == 0 {
		s.Derive.Max = keystore.DefaultDerivedLife
	}
	s.Capacity = s.Capacity.WithDefaults()
	if s.Usage.Kept == nil {
		s.Usage.Kept = &keystore.DefaultUsageKept
	}
	if s.Reminders.Before == nil {
		s.Reminders.Before = DefaultRemind
	}
	return s
}
