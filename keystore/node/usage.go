package node

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Use is a request that has ended, for [Node.CountUse].
type Use struct {
	Operation string // the permission that the request needed: see [keystore.Need.String]
	Outcome   keystore.Outcome
	// Also means that the request needed Operation besides another permission. Then Operation is
	// noted as used, but no request is counted.
	Also bool

	// The fields from Units to Took are ignored if the request was refused.

	Units int64 // charged
	// Status is the status of the response. Zero means that the request was cut before it had one,
	// or that the response does not pass through this Caddy.
	Status            int
	BytesIn, BytesOut int64
	Took              time.Duration // until Ended

	Ended time.Time // on the machine's clock
}

// CountUse counts a request with the answer's key. Members' own tokens are not counted. It costs no
// query, and waits for nothing but other requests with the same credential and, at the first use
// after a flush, for the shard.
func (n *Node) CountUse(a Answer, u Use) {
	if n.settings.Load().Usage.Off || a.Record.Personal() {
		return
	}
	// All nodes must agree on the minute, so it is taken from the database's clock: the machine's
	// clock may be wrong.
	ended := n.clock.of(u.Ended)
	now, _ := n.membership.lease.term.Load().at(ended)
	//fault: if ablated("node-clock-bucket") { now = ended.UnixNano() }
	minute := now / int64(time.Minute)
	if a.entry != nil {
		if c := a.entry.uses.Load(); c != nil && c.add(a.Record, minute, &u) {
			return
		}
	}
	for !n.cache.shard(&a.Record.Digest).useCell(&a).add(a.Record, minute, &u) {
	}
}

// A useCell counts the requests with one credential between two flushes. Its size makes Go allocate
// it on cache lines of its own.
type useCell struct {
	mu    sync.Mutex
	taken bool // by a flush; nothing may be added any more
	rows  []useRow
	first [1]useRow // the usual array of rows
	_     [256 - 240]byte
}

// A useRow is a [keystore.UsageRow] of a useCell.
type useRow struct {
	minute  int64 // since 1970, on the database's clock
	outcome keystore.Outcome
	// The record may be replaced between two requests.
	operation, owner, namespace, key string
	counts                           keystore.UsageCounts
}

// useCell returns the cell of an answer's credential, in its shard, and links it to the cache entry.
func (s *shard) useCell(a *Answer) *useCell {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.uses[a.Record.Digest]
	if c == nil {
		c = new(useCell)
		c.rows = c.first[:0]
		if s.uses == nil {
			s.uses = make(map[keystore.Digest]*useCell)
		}
		s.uses[a.Record.Digest] = c
	}
	if a.entry != nil {
		a.entry.uses.Store(c)
	}
	return c
}

// add counts a request. It returns false if the cell was taken.
func (c *useCell) add(r *keystore.Record, minute int64, u *Use) bool {
	c.mu.Lock()
	if c.taken {
		c.mu.Unlock()
		return false
	}
	if counts := c.row(r, minute, u); !u.Also {
		countUse(counts, u)
	}
	c.mu.Unlock()
	return true
}

func countUse(c *keystore.UsageCounts, u *Use) {
	c.Requests++
	if u.Outcome.Refuses() {
		return
	}
	c.Units = keystore.AddUnits(c.Units, u.Units)
	c.BytesIn += u.BytesIn
	c.BytesOut += u.BytesOut
	class := u.Status/100 - 1
	if class < 0 || class >= len(c.Status) {
		return
	}
	c.Status[class]++
	i := 0
	for i < len(keystore.LatencyBounds) && u.Took > keystore.LatencyBounds[i] {
		i++
	}
	c.Latency[i]++
}

// row returns the counts for a request. The caller holds the lock.
func (c *useCell) row(r *keystore.Record, minute int64, u *Use) *keystore.UsageCounts {
	for i := len(c.rows) - 1; i >= 0; i-- {
		row := &c.rows[i]
		// Equal texts are usually the same text in memory, which makes the comparison cheap.
		if row.minute == minute && row.outcome == u.Outcome && row.operation == u.Operation &&
			row.owner == r.Owner && row.namespace == r.Namespace && row.key == r.KeyID {
			return &row.counts
		}
	}
	c.rows = append(c.rows, useRow{minute: minute, outcome: u.Outcome, operation: u.Operation,
		owner: r.Owner, namespace: r.Namespace, key: r.KeyID})
	return &c.rows[len(c.rows)-1].counts
}

// A usageBook holds counts that are not in the database yet.
type usageBook struct {
	mu   sync.Mutex // held by a flush
	rows map[usageKey]*keystore.UsageCounts
	step keystore.Period     // of rows: longer than a minute if there were too many
	next keystore.UsageBatch // the batch that AddUsage has to accept next; its Rows are nil if none

	pending                  atomic.Int64 // see UsageStats
	written, failed, dropped atomic.Uint64
}

// A usageKey identifies a [keystore.UsageRow].
type usageKey struct {
	begin                            int64 // Unix seconds
	key, namespace, owner, operation string
	outcome                          keystore.Outcome
}

func newUsageBook() *usageBook {
	return &usageBook{
		rows: make(map[usageKey]*keystore.UsageCounts), step: keystore.Minute,
		next: keystore.UsageBatch{Writer: keystore.RandomBase62(22)}, // 131 bits
	}
}

// flushUsage writes what was counted since the last flush. Counts that cannot be written stay for
// the next flush.
func (n *Node) flushUsage(ctx context.Context) {
	b := n.usage
	b.mu.Lock()
	defer b.mu.Unlock()
	b.collect(n.cache)
	if dropped := b.bound(maxUsageRows); dropped > 0 {
		b.dropped.Add(uint64(dropped))
		n.logger.Error("usage dropped; the database was unavailable for too long",
			slog.Int("rows", dropped))
	}
	began, wrote := time.Now(), false
	for b.prepare() {
		if err := n.addUsage(ctx, b.next); err != nil {
			b.failed.Add(1)
			_ = n.StoreFailed("writing usage", err)
			//fault: if ablated("rebuilt-batch") { b.unprepare() }
			break
		}
		b.written.Add(1)
		b.next.Rows, wrote = nil, true
		if ctx.Err() != nil {
			break
		}
	}
	if wrote {
		n.observer.UsageFlushed(time.Since(began))
	}
	b.pending.Store(int64(len(b.rows) + len(b.next.Rows)))
}

func (n *Node) addUsage(ctx context.Context, batch keystore.UsageBatch) error {
	ctx, cancel := context.WithTimeout(ctx, WriteTimeout)
	defer cancel()
	return n.db.AddUsage(ctx, batch)
}

// pause waits. It returns false if ctx is done.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// closeUsage flushes usage for the last time. It logs how many rows the database has not accepted.
func (n *Node) closeUsage() {
	ctx, cancel := context.WithTimeout(context.Background(), QueryTimeout)
	defer cancel()
	n.flushUsage(ctx)
	if lost := n.usage.pending.Load(); lost > 0 {
		n.logger.Error("usage lost; the database did not accept it before shutdown",
			slog.Int64("rows", lost))
	}
}

// collect takes the cells of all shards. No cell outlives it, so that keys that are no longer used
// need no memory.
func (b *usageBook) collect(cache *localCache) {
	for i := range cache.shards {
		s := &cache.shards[i]
		s.mu.Lock()
		cells := s.uses
		s.uses = nil
		for d, c := range cells {
			for _, t := range []*table{&s.records, &s.negatives} {
				if e := t.find(&d); e != nil {
					e.uses.CompareAndSwap(c, nil)
				}
			}
		}
		s.mu.Unlock()
		for _, c := range cells {
			c.mu.Lock()
			rows := c.rows
			c.taken, c.rows = true, nil
			c.mu.Unlock()
			for i := range rows {
				b.add(&rows[i])
			}
		}
	}
}

func (b *usageBook) add(r *useRow) {
	b.addCounts(usageKey{begin: r.minute * 60, key: r.key, namespace: r.namespace, owner: r.owner,
		operation: r.operation, outcome: r.outcome}, &r.counts)
}

func (b *usageBook) addCounts(k usageKey, counts *keystore.UsageCounts) {
	if b.step != keystore.Minute {
		begin, _ := b.step.Of(time.Unix(k.begin, 0))
		k.begin = begin.Unix()
	}
	sum := b.rows[k]
	if sum == nil {
		sum = new(keystore.UsageCounts) // not counts: it may be a part of a larger object
		b.rows[k] = sum
	}
	sum.Add(counts)
}

// maxUsageRows is the maximum number of rows that wait for the database. They need about 300 bytes
// each.
const maxUsageRows = 1 << 20

// bound reduces the rows to a maximum. It merges minutes into hours, and then into days: a merged
// row counts in the first minute of its hour or day. As a last resort, it drops the oldest rows,
// and returns their number.
func (b *usageBook) bound(most int) (dropped int) {
	for _, step := range []keystore.Period{keystore.Hour, keystore.Day} {
		if len(b.rows) > most && (b.step == keystore.Minute || step == keystore.Day) {
			b.step = step
			before := b.rows
			b.rows = make(map[usageKey]*keystore.UsageCounts)
			for k, counts := range before {
				b.addCounts(k, counts)
			}
		}
	}
	for len(b.rows) > most {
		oldest := int64(math.MaxInt64)
		for k := range b.rows {
			oldest = min(oldest, k.begin)
		}
		for k := range b.rows {
			if k.begin == oldest && len(b.rows) > most {
				delete(b.rows, k)
				dropped++
			}
		}
	}
	return dropped
}

// prepare moves rows to the next batch, unless the batch was tried before: it may have been added
// although AddUsage failed, so it must stay as it is. prepare returns false if there is nothing to
// write.
func (b *usageBook) prepare() bool {
	if b.next.Rows != nil {
		return true
	}
	for k, counts := range b.rows {
		if len(b.next.Rows) == keystore.MaxUsageRows {
			break
		}
		b.next.Rows = append(b.next.Rows, keystore.UsageRow{
			Begin: time.Unix(k.begin, 0).UTC(), Key: k.key, Namespace: k.namespace, Owner: k.owner,
			Operation: k.operation, Outcome: k.outcome, UsageCounts: *counts})
		delete(b.rows, k)
	}
	if len(b.rows) == 0 {
		b.step = keystore.Minute
		b.rows = make(map[usageKey]*keystore.UsageCounts) // a map never shrinks
	}
	if b.next.Rows == nil {
		return false
	}
	b.next.Number++
	return true
}

// UsageStats are counts since the node was opened.
type UsageStats struct {
	Pending         int64  // rows that the last flush could not write
	Written, Failed uint64 // batches
	Dropped         uint64 // rows that were dropped after a long outage of the database
}

// UsageStats returns the state of counted usage.
func (n *Node) UsageStats() UsageStats {
	b := n.usage
	return UsageStats{Pending: b.pending.Load(), Written: b.written.Load(),
		Failed: b.failed.Load(), Dropped: b.dropped.Load()}
}

const (
	// usageInterval is the average time to the next call of MaintainUsage if there is nothing more
	// to do.
	usageInterval = time.Minute
	// usagePause sets the pause after a step of MaintainUsage: this many times the duration of the
	// step. The pause leaves the database time for changes of keys.
	usagePause = 9
)

// maintainUsage rolls up and deletes old usage.
func (n *Node) maintainUsage(ctx context.Context) {
	for wait := rand.N(usageInterval); pause(ctx, wait); {
		if wait = n.maintainUsageOnce(ctx); wait == 0 {
			wait = usageInterval/2 + rand.N(usageInterval)
		}
	}
}

// maintainUsageOnce does one step, and returns the pause after it: 0 if there is nothing more to do.
func (n *Node) maintainUsageOnce(ctx context.Context) time.Duration {
	usage := n.settings.Load().Usage
	if usage.Off || !n.membership.lease.holds(n.clock.now()) {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, WriteTimeout)
	defer cancel()
	began := time.Now()
	more, err := n.db.MaintainUsage(ctx, *usage.Kept)
	if err != nil {
		_ = n.StoreFailed("rolling up usage", err)
	}
	if err != nil || !more {
		return 0
	}
	return max(100*time.Millisecond, usagePause*time.Since(began))
}
