package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A limiter charges requests to limits. Each limit has a bucket, which decides from memory if it
// can. Bookkeepers make the bookings that buckets need: for rate limits in the shared store, for
// quotas in the database.
type limiter struct {
	dependencies

	rateBooks  *bookkeeper[*rateBucket]
	quotaBooks *bookkeeper[*quotaBucket]
	degraded   atomic.Bool // the last booking of rates failed

	mu        sync.Mutex // before the locks of buckets
	rateMap   map[bucketID]*rateBucket
	quotaMap  map[bucketID]*quotaBucket
	terms     map[[2]keystore.Limits]*Terms
	unlimited *buckets // for keys without limits under the last directory
	counts    limitCounts
	grants    [NumGrantResults]atomic.Uint64

	thresholds thresholdBook
}

// dependencies are the stores and functions that a limiter needs.
type dependencies struct {
	now   func() int64 // the database's clock, in Unix nanoseconds
	nodes func() int64 // number of registered nodes
	// aloneSince returns the time, in Unix nanoseconds, since which there is no other node. It is
	// called only if nodes has returned 1 and rates has returned a store.
	aloneSince func() int64
	epoch      func() string
	rates      func() keystore.SharedRates // nil if there is none
	ledger     keystore.QuotaLedger
	policy     func() *keystore.Directory          // the current one
	unchanged  func(Answer) bool                   // see Node.Unchanged
	failed     func(doing string, err error) error // reports a failure of the ledger
	// reportsThresholds returns Settings.Thresholds. nil stands for false.
	reportsThresholds func() bool
}

// A bucketID identifies the limits of a key or a namespace. It is the id of a key, or a slash and the
// id of a namespace: neither id contains a slash.
type bucketID string

func (b bucketID) String() string {
	if strings.HasPrefix(string(b), "/") {
		return "namespace" + string(b)
	}
	return "key/" + string(b)
}

// bucketIDs returns the ids of the limits of a record's key and of its home namespace.
func bucketIDs(r *keystore.Record) [2]bucketID {
	return [2]bucketID{bucketID(r.KeyID), bucketID("/" + r.Namespace)}
}

func (n *Node) newLimiter() *limiter {
	return newLimiter(dependencies{
		now:               func() int64 { return n.Now().UnixNano() },
		nodes:             func() int64 { return n.membership.nodes.Load() },
		aloneSince:        func() int64 { return n.membership.aloneSince.Load() },
		epoch:             func() string { return n.seal.Load().deployment.Epoch },
		rates:             func() keystore.SharedRates { return n.settings.Load().Rates },
		ledger:            n.db,
		policy:            n.Policy,
		unchanged:         n.Unchanged,
		failed:            n.StoreFailed,
		reportsThresholds: func() bool { return n.settings.Load().Thresholds },
	})
}

// newLimiter returns a limiter with these dependencies.
func newLimiter(s dependencies) *limiter {
	l := &limiter{
		dependencies: s,
		rateMap:      make(map[bucketID]*rateBucket), quotaMap: make(map[bucketID]*quotaBucket),
		terms: make(map[[2]keystore.Limits]*Terms),
	}
	// The other half is for the limits of the namespaces: see chargeLocked.
	l.rateBooks = newBookkeeper(bookingGap, maxBooked/2, l.bookRates)
	l.quotaBooks = newBookkeeper(0, maxBooked, l.bookQuotas)
	return l
}

// mode returns how the nodes currently share rate limits.
func (l *limiter) mode() mode {
	m := mode{nodes: max(1, l.nodes()), stored: l.rates() != nil}
	//fault: if ablated("limits-not-shared") { m.nodes = 1 }
	m.works = m.stored && !l.degraded.Load()
	m.shared = m.works && m.nodes > 1
	if m.works && m.nodes == 1 {
		m.aloneSince = keystore.Micros(l.aloneSince())
	}
	return m
}

// buckets holds the buckets of a record's limits under one directory: those of the key at index 0
// and those of its home namespace at index 1. A bucket is nil if there is no such limit.
type buckets struct {
	directory uint64 // its Serial
	terms     *Terms // nil: no limits
	rates     [2]*rateBucket
	quotas    [2]*quotaBucket
}

// The names of the limits in buckets, by index.
var (
	rateNames  = [2]LimitName{KeyRate, NamespaceRate}
	quotaNames = [2]LimitName{KeyQuota, NamespaceQuota}
)

// find returns the buckets of a record.
func (l *limiter) find(a *Answer, d *keystore.Directory) *buckets {
	if a.entry != nil {
		if b := a.entry.buckets.Load(); b != nil && b.directory == d.Serial() {
			return b
		}
	}
	b, latest := l.resolve(a, d)
	if a.entry != nil && latest {
		a.entry.buckets.Store(b)
	}
	return b
}

// resolve returns the buckets of a record. It reports whether the record and the directory are
// still the latest. If they are not, the buckets keep their limits, which may be newer.
func (l *limiter) resolve(a *Answer, d *keystore.Directory) (b *buckets, latest bool) {
	r := a.Record
	if defect := d.LimitsDefect(r); defect != "" {
		return &buckets{directory: d.Serial(), terms: &Terms{defect: errors.New(defect)}}, true
	}
	key, namespace := d.LimitsOf(r)
	now, m := keystore.Micros(l.now()), l.mode()
	l.mu.Lock()
	defer l.mu.Unlock()
	if key == (keystore.Limits{}) && namespace == (keystore.Limits{}) {
		if l.unlimited == nil || l.unlimited.directory != d.Serial() {
			l.unlimited = &buckets{directory: d.Serial()}
		}
		return l.unlimited, true
	}
	t := l.terms[[2]keystore.Limits{key, namespace}]
	if t == nil {
		t = newTerms(key, namespace)
		l.terms[[2]keystore.Limits{key, namespace}] = t
	}
	b = &buckets{directory: d.Serial(), terms: t}
	// Check it under the lock, so that no newer limits are replaced.
	latest = d == l.policy() && l.unchanged(*a)
	ids := bucketIDs(r)
	for i, limits := range []*keystore.Limits{&t.Key, &t.Namespace} {
		id := ids[i]
		if limits.Rate != (keystore.RateLimit{}) {
			b.rates[i] = l.rateMap[id]
			if b.rates[i] == nil {
				b.rates[i] = &rateBucket{id: id, limit: &limits.Rate}
				l.rateMap[id] = b.rates[i]
			}
			if latest {
				b.rates[i].setLimit(l, m, &limits.Rate, now)
			}
		}
		if limits.Quota != (keystore.Quota{}) {
			b.quotas[i] = l.quotaMap[id]
			if b.quotas[i] == nil {
				b.quotas[i] = &quotaBucket{id: id, limit: &limits.Quota}
				l.quotaMap[id] = b.quotas[i]
			}
			if latest {
				b.quotas[i].setLimit(&limits.Quota)
			}
		}
	}
	return b, latest
}

// lock locks all buckets, those of the key first. It returns false if one is retired.
func (b *buckets) lock() (live bool) {
	live = true
	for i := range b.rates {
		if r := b.rates[i]; r != nil {
			r.mu.Lock()
			live = live && !r.retired
		}
		if q := b.quotas[i]; q != nil {
			q.mu.Lock()
			live = live && !q.retired
		}
	}
	return live
}

func (b *buckets) unlock() {
	for i := range b.rates {
		if r := b.rates[i]; r != nil {
			r.mu.Unlock()
		}
		if q := b.quotas[i]; q != nil {
			q.mu.Unlock()
		}
	}
}

const (
	// maxTries is the number of bookings after which a waiting request is refused by a rate limit
	// that has room only for other waiting requests. After twice as many bookings that included the
	// request, a rate limit that is still unknown refuses it even if it has room: a store may
	// always answer so late that grants have expired.
	maxTries = 10
	// longestWait is the time after which it is an error that a quota is still unknown. A rate limit
	// or a quota in shadow that is still unknown then counts as used up.
	longestWait = 5 * QueryTimeout
)

// errContended means that other requests repeatedly took the units that were reserved for a
// request.
var errContended = errors.New("too many requests wait for units of the quota")

// patience is what a request has waited for.
type patience struct {
	bookings int
	rates    int  // bookings of rate limits that included it
	over     bool // whether it has waited for longestWait
	// counted and reserves are what count has added to the buckets, and whether it was added to
	// their reserving.
	counted  [NumLimits]int64
	reserves bool
}

// charge charges a request to all limits of a record or to none.
func (l *limiter) charge(
	ctx context.Context, c *Charge, a Answer, d *keystore.Directory, units int64,
) error {
	c.now = a.Now
	if a.entry == nil { // the lookup may have taken long
		c.now = l.now()
	}
	b := l.find(&a, d)
	var p patience
	var since time.Time // when the wait began
	for {
		if b.terms == nil {
			return nil
		}
		if b.terms.defect != nil {
			return b.terms.defect
		}
		c.mode = l.mode()
		live := b.lock()
		if p.bookings > 0 {
			b.uncount(&p)
		}
		if !live {
			b.unlock()
			if a.entry != nil {
				a.entry.buckets.CompareAndSwap(b, nil)
			}
			b = l.find(&a, d)
			continue
		}
		c.Terms = b.terms
		wait, waits := l.chargeLocked(c, b, units, &p)
		b.unlock()
		switch {
		case !waits:
			l.counts.add(c, a.Record)
			return nil
		case p.over:
			return l.failed("reserving units of a quota", errContended)
		case p.bookings == 0:
			since = time.Now()
		}
		p.bookings++
		if err := b.wait(ctx, &wait); err != nil {
			b.lock()
			b.uncount(&p)
			b.unlock()
			return err
		}
		c.now, c.Waited = l.now(), true
		p.over = time.Since(since) >= longestWait
	}
}

// wait waits until bookings are finished. It returns an error if the request cannot be charged.
func (b *buckets) wait(ctx context.Context, bookings *[NumLimits]*booking) error {
	for name, w := range bookings {
		if w == nil {
			continue
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		rate, _ := b.terms.of(LimitName(name))
		switch {
		case w.err == nil:
		case errors.Is(w.err, errClosed):
			return w.err
		case rate != nil: // the next try uses this node's share of the rate
		case b.terms.Shadow(LimitName(name)): // the next try does not wait for it
		default:
			return fmt.Errorf("reserving units of a quota: %w", w.err)
		}
	}
	return nil
}

// chargeLocked charges or refuses a request, or returns the bookings that the request must wait
// for. The caller holds the locks.
func (l *limiter) chargeLocked(
	c *Charge, b *buckets, units int64, p *patience,
) (wait [NumLimits]*booking, waits bool) {
	// Concurrent requests are not charged in the order in which they came. At the time at which a
	// request came, a limit may have less room than now. latest is ahead of the clock by at most a
	// hundredth of the lease, after the database's clock was set back.
	for _, r := range b.rates {
		if r != nil {
			c.now = max(c.now, r.latest)
		}
	}
	micros := keystore.Micros(c.now)
	var verdicts [NumLimits]verdict
	c.Outcome = keystore.OK
	for i := range b.rates {
		if r := b.rates[i]; r != nil {
			r.latest = c.now
			v := r.check(c.mode, micros)
			if v == refused && !r.limit.Shadow {
				c.Outcome = keystore.Limited
			}
			verdicts[rateNames[i]], waits = v, waits || v == unknown
		}
		if q := b.quotas[i]; q != nil {
			v := q.check(c.now, units)
			if v == refused && !q.limit.Shadow && c.Outcome == keystore.OK {
				c.Outcome = keystore.Exhausted
			}
			verdicts[quotaNames[i]], waits = v, waits || v == unknown
		}
	}
	waits = waits && c.Outcome == keystore.OK
	counted := false
	var full *rateBucket // it has room only for other requests, which wait
	if waits {
		counted, full = b.count(c, &verdicts, units, p)
		waits = false
		for i, r := range b.rates {
			name, quota := rateNames[i], quotaNames[i]
			if r != nil && (p.bookings >= maxTries && r == full ||
				(p.rates >= 2*maxTries || p.over) && verdicts[name] == unknown) {
				verdicts[name] = refused
				if !r.limit.Shadow {
					c.Outcome = keystore.Limited
				}
			}
			if p.over && verdicts[quota] == unknown && b.quotas[i].limit.Shadow {
				verdicts[quota] = refused
			}
			waits = waits || verdicts[name] == unknown || verdicts[quota] == unknown
		}
		if waits = waits && c.Outcome == keystore.OK; !waits || p.over {
			b.uncount(p)
		}
	}
	if waits && p.over { // it waits no longer, even for a quota
		return wait, true
	}
	if waits {
		// A quota may still refuse the request. Reserved units can then serve other requests, but a
		// request that was booked for a rate would be lost. So rates book it once the quotas are
		// known.
		booked := int32(0)
		if counted && verdicts[KeyQuota] != unknown && verdicts[NamespaceQuota] != unknown {
			booked = 1
			p.rates++
		}
		l.rateBooks.mu.Lock() // so that no booking begins between the two
		for i, r := range b.rates {
			// Both rates book the request together, even if one of them would admit it without a
			// grant now. Otherwise the first grant could expire while the request waits for the
			// second.
			name := rateNames[i]
			if verdicts[name] == unknown || r != nil && verdicts[name] == admitted &&
				booked > 0 && c.mode.shared {
				wait[name] = r.await(l, booked, wait[KeyRate])
			}
		}
		l.rateBooks.mu.Unlock()
		for i, q := range b.quotas {
			if name := quotaNames[i]; verdicts[name] == unknown {
				if counted {
					wait[name] = q.await(l, units)
				} else {
					wait[name] = q.queue(l)
				}
			}
		}
		return wait, true
	}
	for i := range b.rates {
		if r := b.rates[i]; r != nil {
			name := rateNames[i]
			v := verdicts[name]
			switch {
			case v == refused:
				r.refuse(l, c.mode)
			case c.Outcome == keystore.OK:
				step := b.terms.steps[i]
				if rate, _ := b.terms.of(name); *rate != *r.limit { // it has changed since
					step = r.limit.Step()
				}
				r.take(l, c.mode, step, micros)
			}
			c.states[name] = r.state(micros)
			if v == refused && r == full {
				c.states[name].useUp(c.mode.part(r.limit), micros)
			}
			c.states[name].refused = v == refused
			c.states[name].violated = v == refused && !r.limit.Shadow
		}
		if q := b.quotas[i]; q != nil {
			name := quotaNames[i]
			v := verdicts[name]
			if v == admitted && c.Outcome == keystore.OK {
				q.take(l, c.now, units)
			}
			c.states[name] = q.state()
			c.states[name].refused = v == refused
			c.states[name].violated = v == refused && !q.limit.Shadow
		}
	}
	return wait, false
}

// count counts a waiting request in its limits, and returns true. If a known limit has no room for
// another waiting request, it counts nothing and returns false: bookings of the other limits would
// be wasted. If that limit is a rate limit, count also returns its bucket. If other waiting
// requests need the reserved units of a quota, its verdict becomes unknown. The caller holds the
// locks, and calls uncount when the request has waited.
func (b *buckets) count(
	c *Charge, verdicts *[NumLimits]verdict, units int64, p *patience,
) (counted bool, full *rateBucket) {
	then := *verdicts
	reserves, room := false, true
	for i, q := range b.quotas {
		name := quotaNames[i]
		if q != nil && !q.limit.Shadow && then[name] == admitted {
			then[name] = q.check(c.now, q.counted()+units)
			room = room && then[name] != refused
		}
		reserves = reserves || then[name] == unknown
	}
	for _, r := range b.rates {
		if r != nil && !r.limit.Shadow &&
			!r.admitsAnother(c.mode, keystore.Micros(c.now), reserves) {
			return false, r
		}
	}
	if !room {
		return false, nil
	}
	p.reserves = reserves
	for i, r := range b.rates {
		if r != nil {
			p.counted[rateNames[i]] = 1
		}
		if q := b.quotas[i]; q != nil && then[quotaNames[i]] == admitted {
			p.counted[quotaNames[i]] = units
		}
	}
	b.recount(p, 1)
	*verdicts = then
	return true, nil
}

// uncount undoes count: the request no longer waits. The caller holds the locks.
func (b *buckets) uncount(p *patience) {
	b.recount(p, -1)
	p.counted = [NumLimits]int64{}
}

// recount adds what count has found to the buckets, times sign.
func (b *buckets) recount(p *patience, sign int64) {
	for i := range b.rates {
		if r := b.rates[i]; r != nil {
			n := int32(sign * p.counted[rateNames[i]])
			if p.reserves {
				r.reserving += n
			} else {
				r.counted += n
			}
		}
		if q := b.quotas[i]; q != nil {
			q.count(sign * p.counted[quotaNames[i]])
		}
	}
}

// spend charges units to the quotas of a record, even beyond them.
func (l *limiter) spend(r *keystore.Record, units int64) {
	key, namespace := l.policy().LimitsOf(r)
	now, ids := l.now(), bucketIDs(r)
	l.mu.Lock() // so that no bucket is retired meanwhile
	defer l.mu.Unlock()
	for i, quota := range []keystore.Quota{key.Quota, namespace.Quota} {
		if quota == (keystore.Quota{}) {
			continue
		}
		b := l.quotaMap[ids[i]]
		if b == nil {
			b = &quotaBucket{id: ids[i], limit: &quota}
			l.quotaMap[b.id] = b
		}
		b.spend(l, now, units)
	}
}

// sweepInterval is the time between two calls of sweep.
const sweepInterval = time.Minute

// sweep removes buckets whose state is that of a new one, and returns unused reservations. While the
// shared store is unavailable, it tries a booking for one bucket, so that the node notices when the
// store works again.
func (l *limiter) sweep() {
	now := l.now()
	l.mu.Lock()
	clear(l.terms)
	rates, quotas := slices.Collect(maps.Values(l.rateMap)), slices.Collect(maps.Values(l.quotaMap))
	l.mu.Unlock()
	asks := l.degraded.Load() && l.rates() != nil
	for batch := range slices.Chunk(rates, maxBooked) {
		l.mu.Lock()
		for _, b := range batch {
			b.mu.Lock()
			if b.idle(keystore.Micros(now)) {
				b.retired = true
				delete(l.rateMap, b.id)
			} else if asks {
				b.queue(l)
				asks = false
			}
			b.mu.Unlock()
		}
		l.mu.Unlock()
	}
	returns := 0
	for batch := range slices.Chunk(quotas, maxBooked) {
		l.mu.Lock()
		for _, b := range batch {
			b.mu.Lock()
			switch {
			case b.idle(now):
				b.retired = true
				delete(l.quotaMap, b.id)
			case returns < maxBooked && b.settle(l, now): // more would delay requests
				returns++
			}
			b.mu.Unlock()
		}
		l.mu.Unlock()
	}
}

// forgetReservations drops all reserved units. It is called when the database has lost changes,
// perhaps including the reservations.
func (l *limiter) forgetReservations() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.quotaMap {
		b.forget()
	}
}

// returnAll returns all reserved units. It must be called after the last request.
func (l *limiter) returnAll(ctx context.Context) {
	l.mu.Lock()
	quotas := slices.Collect(maps.Values(l.quotaMap))
	l.mu.Unlock()
	now := l.now()
	var returns []keystore.Reservation
	for _, b := range quotas {
		b.mu.Lock()
		b.giveBack()
		if b.owed != 0 && now < b.end {
			r := b.reserve(1)
			r.Want, r.Waiting = 0, nil
			returns = append(returns, r)
		}
		b.mu.Unlock()
	}
	for batch := range slices.Chunk(returns, maxBooked) {
		if _, err := l.ledger.Reserve(ctx, batch); err != nil {
			return // the units are lost for their periods
		}
	}
}

// newTerms returns terms with their steps and policy.
func newTerms(key, namespace keystore.Limits) *Terms {
	t := &Terms{Key: key, Namespace: namespace}
	var policies []string
	for i, limits := range []keystore.Limits{key, namespace} {
		if r := limits.Rate; r != (keystore.RateLimit{}) {
			t.steps[i] = r.Step()
			policies = append(policies, fmt.Sprintf("%q;q=%d;w=%d;apikeys-burst=%d",
				rateNames[i].String(), r.Requests, (r.Per+time.Second-1)/time.Second, r.Burst))
		}
		if q := limits.Quota; q != (keystore.Quota{}) {
			policies = append(policies, fmt.Sprintf("%q;q=%d", quotaNames[i].String(), q.Units))
		}
	}
	t.Policy = strings.Join(policies, ", ")
	return t
}

// limitCounts counts the decisions of limits. Admissions are counted in stripes, so that concurrent
// requests with different keys rarely write to the same cache line.
type limitCounts struct {
	admitted [countStripes]struct {
		n [NumLimits]atomic.Uint64
		_ [64 - 8*NumLimits]byte
	}
	others [NumLimits][NumLimitResults]atomic.Uint64
}

const countStripes = 16

func (n *limitCounts) add(c *Charge, r *keystore.Record) {
	for name := range LimitName(NumLimits) {
		switch {
		case !c.Terms.Applies(name):
		case !c.states[name].refused:
			if c.Outcome == keystore.OK {
				n.admitted[r.Digest[0]%countStripes].n[name].Add(1)
			}
		case !c.Violated(name):
			n.others[name][LimitShadow].Add(1)
		default:
			n.others[name][LimitRefused].Add(1)
		}
	}
}

func (l *limiter) stats() (s LimitStats) {
	for name := range NumLimits {
		for result := range NumLimitResults {
			s.Decisions[name][result] = l.counts.others[name][result].Load()
		}
		for i := range l.counts.admitted {
			s.Decisions[name][LimitOK] += l.counts.admitted[i].n[name].Load()
		}
	}
	for i := range s.Grants {
		s.Grants[i] = l.grants[i].Load()
	}
	m := l.mode()
	s.Degraded = m.stored && m.nodes > 1 && l.degraded.Load()
	return s
}
