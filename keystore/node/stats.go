package node

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

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
func (t Tier) String() string {
	return [NumTiers]string{"local", "negative", "redis", "database"}[t]
}

// LookupResult is how a tier answered.
type LookupResult uint8

const (
	// it knows the credential (negative: knows that it opens nothing)
	Hit              LookupResult = iota
	Miss                          // it does not
	LookupFail                    // it could not be asked
	NumLookupResults int          = iota
)

// String is the result's label in the metrics.
func (r LookupResult) String() string { return [NumLookupResults]string{"hit", "miss", "error"}[r] }

// Stats counts since the Keystore was opened.
type Stats struct {
	Lookups     [NumTiers][NumLookupResults]uint64
	StoreErrors uint64 // of the database
}

// An Observer is told of what takes time, off the hot path. Its methods must return at once.
type Observer interface {
	LookedUp(t Tier, took time.Duration) // a store was asked for a credential
	// a change was in force on every node, counted from its commit
	Propagated(took time.Duration)
}

// counters are the live Stats; hits of the local cache are counted in its shards.
type counters struct {
	lookups     [NumTiers][NumLookupResults]atomic.Uint64
	storeErrors atomic.Uint64
}

// countedNamespaces is how many namespaces have a label of their own in the metrics; the others
// share otherNamespace.
const (
	countedNamespaces = 1000
	otherNamespace    = "_other"
)

// requestCounts counts requests by namespace and outcome. The counters of a namespace restart at 0
// when it is deleted and created again.
type requestCounts struct {
	mu    sync.Mutex
	named map[string]*keystore.OutcomeCounts
	other keystore.OutcomeCounts
}

// keep drops the counters of namespaces that a directory does not have. Requests still running
// there are no longer counted.
func (c *requestCounts) Keep(d *keystore.Directory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.named, func(namespace string, _ *keystore.OutcomeCounts) bool {
		return d.Namespace(namespace) == nil
	})
}

// of returns a namespace's counters. It is called when the directory is made, not for each request.
// An id that the API refuses cannot be a label: it may not be valid UTF-8.
func (c *requestCounts) Of(namespace string) *keystore.OutcomeCounts {
	if !keystore.ValidNamespaceID(namespace) {
		return &c.other
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if held := c.named[namespace]; held != nil {
		return held
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

// Count counts one request for the metrics. ns is nil when the request's namespace does not exist
// or is not known.
func (n *Node) Count(ns *keystore.Namespace, o keystore.Outcome) {
	if ns == nil {
		n.requests.other[o].Add(1)
	} else {
		ns.Counts()[o].Add(1)
	}
}

// RequestCounts calls f for each namespace (at most 1000, then "_other") and each outcome that was
// counted.
func (n *Node) RequestCounts(f func(namespace string, o keystore.Outcome, n uint64)) {
	report := func(namespace string, counts *keystore.OutcomeCounts) {
		for o := range counts {
			if n := counts[o].Load(); n > 0 {
				f(namespace, keystore.Outcome(o), n)
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

// Stats returns the counts so far.
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
