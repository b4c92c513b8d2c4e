package keystore

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// Settings are what may change while the store is open.
type Settings struct {
	// TokenPrefixes are accepted; the first is for new keys. At least one, none of them [MemberPrefix].
	TokenPrefixes []string
	// LocalCache is how many records a process keeps at most. Zero: 1,000,000.
	LocalCache int
	// Lease is how long a node that is cut off may go on trusting what it has cached. Zero: 30 s.
	Lease time.Duration
}

const (
	DefaultLocalCache = 1_000_000
	DefaultLease      = 30 * time.Second
	DefaultPrefix     = "ak"
)

func (s Settings) withDefaults() Settings {
	if len(s.TokenPrefixes) == 0 {
		s.TokenPrefixes = []string{DefaultPrefix}
	}
	if s.LocalCache == 0 {
		s.LocalCache = DefaultLocalCache
	}
	if s.Lease == 0 {
		s.Lease = DefaultLease
	}
	return s
}

// An Observer is told of what takes time, off the hot path. Its methods must return at once.
type Observer interface {
	LookedUp(t Tier, took time.Duration) // a store was asked for a credential
	Propagated(took time.Duration)       // a change was in force on every node, counted from its commit
}

// A Keystore is one node: its caches, its lease, and the way to the database. It is safe for concurrent use.
type Keystore struct {
	db       Database
	logger   *slog.Logger
	observer Observer
	tokenKey atomic.Pointer[TokenKey]
	settings atomic.Pointer[Settings]
	stats    Stats
	cache    *localCache
	node     *node
}

// Open joins the deployment in db as a new node. configured is the token key of the configuration, nil for none. Close ends what Open began, db included.
func Open(ctx context.Context, db Database, configured *[32]byte, s Settings, o Observer, logger *slog.Logger) (*Keystore, error) {
	panic("being written")
}

// Configure applies other settings from now on.
func (k *Keystore) Configure(s Settings) { panic("being written") }

// Close leaves the deployment: nothing is trusted any more, the node's row is removed, the database is closed.
func (k *Keystore) Close() error { panic("being written") }

// An Answer is what is known of a credential.
type Answer struct {
	// Record is what the credential opens, nil when Outcome is [Malformed] or [Unknown].
	Record *Record
	// Outcome is [OK] when there is a record, whatever its state: [Decide] judges it.
	Outcome    Outcome
	generation uint64
}

// Lookup returns what is known of a credential that arrived before now was read. An error means that it cannot be known:
// [Unavailable]. A credential that cannot be one of ours is [Malformed] without asking any store. Member tokens are malformed.
func (k *Keystore) Lookup(ctx context.Context, credential string, now time.Time) (Answer, error) {
	panic("being written")
}

// HasPrefix reports whether a credential starts with one of our prefixes, members' included: it is not foreign.
func (k *Keystore) HasPrefix(credential string) bool { panic("being written") }

// Namespace returns the namespace of that id, nil when there is none. It needs no store.
func (k *Keystore) Namespace(id string) *Namespace { panic("being written") }

// Count counts one request for the metrics. ns is nil when the request's namespace does not exist or none is known.
func (k *Keystore) Count(ns *Namespace, o Outcome) { panic("being written") }

// A Running is a request on its way, so that it can be cut when its key stops being alive. It may be used again after Leave.
type Running struct {
	// Cut ends the request. It is called at most once, under a lock: it must not block, nor call the Keystore.
	Cut func()

	next, prev *Running
	record     *Record
	ends       int64
}

// Enter notes that a request of the answer's record is on its way. False: the record may have changed since; look it up and decide again.
// Every Enter that returned true is followed by one Leave.
func (k *Keystore) Enter(a Answer, r *Running, now time.Time) bool { panic("being written") }

// Leave takes the request out. When it returns, Cut is not running and will not be called.
func (k *Keystore) Leave(r *Running) { panic("being written") }

// Tier is where a lookup was answered.
type Tier uint8

const (
	TierLocal Tier = iota
	TierNegative
	TierRedis
	TierDatabase
	NumTiers int = iota
)

// String is the tier's label in the metrics.
func (t Tier) String() string { return [NumTiers]string{"local", "negative", "redis", "database"}[t] }

// LookupResult is how a tier answered.
type LookupResult uint8

const (
	Hit              LookupResult = iota // it knows the credential (negative: knows that it opens nothing)
	Miss                                 // it does not
	LookupFail                           // it could not be asked
	NumLookupResults int          = iota
)

// String is the result's label in the metrics.
func (r LookupResult) String() string { return [NumLookupResults]string{"hit", "miss", "error"}[r] }

// Stats counts since the Keystore was opened. Its fields are read with Load.
type Stats struct {
	Lookups     [NumTiers][NumLookupResults]atomic.Uint64
	StoreErrors atomic.Uint64 // of the database
}

// A Health is how the node stands.
type Health struct {
	Healthy        bool
	Problem        string // for people, empty when healthy
	Revision       Revision
	LeaseRemaining time.Duration // zero when lapsed
	CachedRecords  int
	Imported       bool
}

// Health asks the database.
func (k *Keystore) Health(ctx context.Context) Health { panic("being written") }

// Gauges is the same without asking: for metrics.
func (k *Keystore) Gauges() Health { panic("being written") }

// RequestCounts calls f for each namespace (at most 1000, then "_other") and outcome that was ever counted.
func (k *Keystore) RequestCounts(f func(namespace string, o Outcome, n uint64)) {
	panic("being written")
}

// CountKeys counts keys by status, from the database.
func (k *Keystore) CountKeys(ctx context.Context) (map[Status]int64, error) { panic("being written") }

// NodesByState counts nodes, from the database.
func (k *Keystore) NodesByState(ctx context.Context) (map[NodeState]int, error) {
	panic("being written")
}

type localCache struct{}
type node struct{}
