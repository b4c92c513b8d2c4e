package node

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Tier is a place where credentials are looked up.
type Tier uint8

// Tiers, in the order in which they are asked.
const (
	TierLocal    Tier = iota // cached records
	TierNegative             // cached unknown credentials
	TierRedis                // the shared cache
	TierDatabase

	// NumTiers is the number of tiers.
	NumTiers int = iota
)

// String returns the tier's label in the metrics.
func (t Tier) String() string {
	return [NumTiers]string{"local", "negative", "redis", "database"}[t]
}

// LookupResult is the result of a lookup in one tier.
type LookupResult uint8

// Results of lookups.
const (
	Hit        LookupResult = iota // found; in [TierNegative], known to be invalid
	Miss                           // not found
	LookupFail                     // the tier failed

	// NumLookupResults is the number of results.
	NumLookupResults int = iota
)

// String returns the result's label in the metrics.
func (r LookupResult) String() string { return [NumLookupResults]string{"hit", "miss", "error"}[r] }

// Stats are counts since the node was opened.
type Stats struct {
	Lookups     [NumTiers][NumLookupResults]uint64
	StoreErrors uint64 // failures of the database
}

// An Observer receives durations. Its methods must return at once and be safe for concurrent use.
type Observer interface {
	// LookedUp reports a lookup in the shared cache or the database.
	LookedUp(t Tier, took time.Duration)
	// Propagated reports how long after its commit a change was in force on every node.
	Propagated(took time.Duration)
	// UsageFlushed reports the duration of a flush that has written usage.
	UsageFlushed(took time.Duration)
}

// counters are the current Stats. Hits of the local cache are counted in its shards.
type counters struct {
	lookups     [NumTiers][NumLookupResults]atomic.Uint64
	storeErrors atomic.Uint64
}

const (
	// countedNamespaces is how many namespaces have their own label in the metrics.
	countedNamespaces = 1000
	// otherNamespace is the label of all others.
	otherNamespace = "_other"
)

// requestCounts counts requests by namespace and outcome. It implements [keystore.RequestCounters].
// The counters of a namespace start at 0 again when it is deleted and created again.
type requestCounts struct {
	mu    sync.Mutex
	named map[string]*keystore.OutcomeCounts
	other keystore.OutcomeCounts
}

// Keep drops the counters of namespaces that a directory does not have. Requests that still run in
// them are no longer counted.
func (c *requestCounts) Keep(d *keystore.Directory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.named, func(namespace string, _ *keystore.OutcomeCounts) bool {
		return d.Namespace(namespace) == nil
	})
}

// Of returns the counters of a namespace. Directories call it, not requests. An id that the API
// would refuse gets no label, because it may not be valid UTF-8.
func (c *requestCounts) Of(namespace string) *keystore.OutcomeCounts {
	if !keystore.ValidNamespaceID(namespace) {
		return &c.other
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if counts := c.named[namespace]; counts != nil {
		return counts
	}
	if len(c.named) >= countedNamespaces {
		return &c.other
	}
	if c.named == nil {
		c.named = make(map[string]*keystore.OutcomeCounts)
	}
	c.named[namespace] = new(keystore.OutcomeCounts)
	return c.named[namespace]
}

// Count counts one request for the metrics. ns is nil if the request has no known namespace, and r
// is nil if it has no known key.
func (n *Node) Count(ns *keystore.Namespace, r *keystore.Record, o keystore.Outcome) {
	counts := &n.requests.other
	if ns != nil {
		counts = ns.Counts()
	}
	counts.Add(o, r)
}

// RequestCounts calls f with the number of requests, by namespace and outcome, unless it is 0. At
// most 1000 namespaces are reported by name, and the others together as "_other".
func (n *Node) RequestCounts(f func(namespace string, o keystore.Outcome, n uint64)) {
	report := func(namespace string, counts *keystore.OutcomeCounts) {
		for o := range keystore.Outcome(keystore.NumOutcomes) {
			if n := counts.Load(o); n > 0 {
				f(namespace, o, n)
			}
		}
	}
	n.requests.mu.Lock()
	defer n.requests.mu.Unlock()
	for name, counts := range n.requests.named {
		report(name, counts)
	}
	report(otherNamespace, &n.requests.other)
}

// Stats returns the current counts.
func (n *Node) Stats() Stats {
	var s Stats
	for t := range n.counters.lookups {
		for r := range n.counters.lookups[t] {
			s.Lookups[t][r] = n.counters.lookups[t][r].Load()
		}
	}
	for i := range n.cache.shards {
		sh := &n.cache.shards[i]
		s.Lookups[TierLocal][Hit] += sh.hits.Load()
		s.Lookups[TierLocal][Miss] += sh.misses.Load()
		s.Lookups[TierNegative][Hit] += sh.negativeHits.Load()
	}
	s.StoreErrors = n.counters.storeErrors.Load()
	return s
}
