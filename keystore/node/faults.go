//go:build faults

package node

import (
	"context"
	"log"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// The protocol has fault points, so that tests/faults can show what each of its parts is for. A
// fault point is a comment `//fault: STATEMENT` on a line of its own. `make caddy-faults` builds a
// Caddy in which scripts/faults has turned these comments into code. This file has the functions
// that they call. The directory that the environment variable APIKEYS_FAULTS names controls them:
//
//	ablate      the ablation: the part of the protocol to leave out; read at the start
//	clock       the rate of this process's clock; read at the start
//	hold.POINT  while this file exists, goroutines wait at hold(POINT), having created held.POINT
var faultsDir = os.Getenv("APIKEYS_FAULTS")

// ablations are the parts of the protocol that a process can leave out. Most have the same names in
// tests/model.
var ablations = []string{
	"lease-from-reply",      // the lease counts from the database's reply
	"no-drift-margin",       // a revoke waits for the length of the lease, without a margin
	"no-fill-token",         // the answer of a read is cached although a change overtook the read
	"check-then-insert",     // the generation is compared before the lock is taken
	"bump-after-unlock",     // a change removes a record and counts the generation later
	"join-any-flight",       // a request joins a load that began before a change
	"shared-without-asof",   // an entry of the shared cache is used whatever its revision is
	"members-before-commit", // a revoke reads the nodes before it commits
	"ack-before-purge",      // a node acknowledges a change before it has applied it
	"lease-before-apply",    // a node extends its lease before it has applied what it read
	"cached-clock",          // a ticker reads the clock for all requests
	"reload-resets",         // a reload resets the generations
	"no-mac",                // an entry of the shared cache is used without the right MAC
	"remove-without-wait",   // a fenced node is removed at once
	"no-cut",                // running requests outlive their key
	"rate-shortens-wait",    // the measured rate of the database's clock shortens waits
	"silence-without-write", // after a silence of the database, a node continues without a write
	"newer-than-applied",    // a record is cached although its revision is not applied yet
	"forget-readers",        // nodes of a lost history are not waited for
	"limits-not-shared",     // each node has the whole of each rate limit
	"float-without-room",    // a request is admitted before it is booked although there is no room
	"spend-before-booking",  // a request that was admitted in advance is never booked
	"no-merge",              // a node does not restore state that the shared store has lost
	"share-not-carried",     // a node's share of a rate limit begins with a full burst
	"grant-twice",           // a reservation whose answer was lost is spent
	"node-clock-bucket",     // usage counts in the minute of the node's wall clock
	"rebuilt-batch",         // usage that was not acknowledged is written in another batch
}

var ablation = func() string {
	name := readFault("ablate")
	if name != "" && !slices.Contains(ablations, name) {
		log.Fatalf("ablation %q does not exist", name)
	}
	return name
}()

// readFault returns the content of a file in faultsDir, "" if it does not exist.
func readFault(name string) string {
	if faultsDir == "" {
		return ""
	}
	text, _ := os.ReadFile(filepath.Join(faultsDir, name))
	return strings.TrimSpace(string(text))
}

func ablated(name string) bool { return name == ablation }

func hold(point string) {
	if faultsDir == "" {
		return
	}
	for first := true; ; first = false {
		if _, err := os.Stat(filepath.Join(faultsDir, "hold."+point)); err != nil {
			return
		}
		if first {
			held := filepath.Join(faultsDir, "held."+point)
			if err := os.WriteFile(held, nil, 0o600); err != nil {
				log.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func faultyClock() clock {
	rate, err := strconv.ParseFloat(readFault("clock"), 64)
	if err != nil {
		return clock{}
	}
	return newClock(rate)
}

// holdUnlocked is hold without the shard's lock, which the caller holds.
func (s *shard) holdUnlocked(point string) {
	s.mu.Unlock()
	defer s.mu.Lock()
	hold(point)
}

// bumpAfterUnlock is invalidate under the ablation bump-after-unlock.
func (s *shard) bumpAfterUnlock(d *keystore.Digest) {
	s.records.remove(d)
	s.holdUnlocked("invalidate")
	s.generation.Add(1)
}

// resetGenerations is for the ablation reload-resets.
func (c *localCache) resetGenerations() {
	for i := range c.shards {
		c.shards[i].generation.Store(0)
	}
}

// unprepare is for the ablation rebuilt-batch.
func (b *usageBook) unprepare() {
	for i := range b.next.Rows {
		r := &b.next.Rows[i]
		b.addCounts(usageKey{begin: r.Begin.Unix(), key: r.Key, namespace: r.Namespace,
			owner: r.Owner, operation: r.Operation, outcome: r.Outcome}, &r.UsageCounts)
	}
	b.next.Rows = nil
}

// measuredRate holds the bits of the last result of [rateCheck.check], for rate-shortens-wait.
var measuredRate atomic.Uint64

func noteRate(rate float64) { measuredRate.Store(math.Float64bits(rate)) }

func shortenWait(wait time.Duration) time.Duration {
	bits := measuredRate.Load()
	if !ablated("rate-shortens-wait") || bits == 0 {
		return wait
	}
	return time.Duration(float64(wait) / min(1, math.Float64frombits(bits)))
}

// nodesBeforeCommit are the nodes that members-before-commit has read.
var nodesBeforeCommit atomic.Pointer[[]keystore.Node]

func readNodes(ctx context.Context, db keystore.Database) {
	if !ablated("members-before-commit") {
		return
	}
	if list, err := db.Nodes(ctx); err == nil {
		nodesBeforeCommit.Store(&list)
	}
	hold("members")
}

// awaited reports whether a revoke waits for a node.
func awaited(n *keystore.Node) bool {
	list := nodesBeforeCommit.Load()
	return list == nil || slices.ContainsFunc(*list,
		func(m keystore.Node) bool { return m.Incarnation == n.Incarnation })
}

// tickerTime is the time that the ticker of cached-clock has read.
var tickerTime atomic.Pointer[time.Time]

func init() {
	if !ablated("cached-clock") {
		return
	}
	go func() {
		for ; ; time.Sleep(time.Millisecond) {
			now := time.Now()
			tickerTime.Store(&now)
			hold("tick")
		}
	}()
}

func cachedClock(now time.Time) time.Time {
	if t := tickerTime.Load(); t != nil {
		return *t
	}
	return now
}
