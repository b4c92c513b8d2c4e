package node

import (
	"context"
	"errors"
	"fmt"
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
	surroundings

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
}

// surroundings are the dependencies of a limiter.
type surroundings struct {
	now    func() int64 // the database's clock, in Unix nanoseconds
	nodes  func() int64 // number of registered nodes
	epoch  func() string
	rates  func() keystore.SharedRates // nil if there is none
	ledger keystore.QuotaLedger
}

// A bucketID identifies the limits of a key or a namespace.
type bucketID struct {
	namespace bool
	id        string
}

func (b bucketID) String() string {
	if b.namespace {
		return "namespace/" + b.id
	}
	return "key/" + b.id
}

func (n *Node) newLimiter() *limiter {
	return newLimiter(surroundings{
		now:    func() int64 { return n.Now().UnixNano() },
		nodes:  func() int64 { return n.membership.nodes.Load() },
		epoch:  func() string { return n.seal.Load().deployment.Epoch },
		rates:  func() keystore.SharedRates { return n.settings.Load().Rates },
		ledger: n.db,
	})
}

// newLimiter returns a limiter with these surroundings.
func newLimiter(s surroundings) *limiter {
	l := &limiter{
		surroundings: s,
		rateMap:      make(map[bucketID]*rateBucket), quotaMap: make(map[bucketID]*quotaBucket),
		terms: make(map[[2]keystore.Limits]*Terms),
	}
	l.rateBooks = newBookkeeper(bookingGap, l.bookRates)
	l.quotaBooks = newBookkeeper(0, l.bookQuotas)
	return l
}

// mode returns how the nodes currently share rate limits.
func (l *limiter) mode() mode {
	m := mode{nodes: max(1, l.nodes()), stored: l.rates() != nil}
	m.shared = m.stored && m.nodes > 1 && !l.degraded.Load()
	return m
}

// buckets holds the buckets of a record's limits under one directory: those of the key at index 0
// and those of its home namespace at index 1. A bucket is nil if there is no such limit.
type buckets struct {
	directory *keystore.Directory
	terms     *Terms
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
		if b := a.entry.buckets.Load(); b != nil && b.directory == d {
			return b
		}
	}
	b := l.resolve(a.Record, d)
	if a.entry != nil {
		a.entry.buckets.Store(b)
	}
	return b
}

func (l *limiter) resolve(r *keystore.Record, d *keystore.Directory) *buckets {
	key, namespace := d.LimitsOf(r)
	now := keystore.Micros(l.now())
	l.mu.Lock()
	defer l.mu.Unlock()
	if key == (keystore.Limits{}) && namespace == (keystore.Limits{}) {
		if l.unlimited == nil || l.unlimited.directory != d {
			l.unlimited = &buckets{directory: d}
		}
		return l.unlimited
	}
	t := l.terms[[2]keystore.Limits{key, namespace}]
	if t == nil {
		t = newTerms(key, namespace)
		l.terms[[2]keystore.Limits{key, namespace}] = t
	}
	b := &buckets{directory: d, terms: t}
	for i, limits := range []*keystore.Limits{&t.Key, &t.Namespace} {
		id := bucketID{namespace: i == 1, id: r.KeyID}
		if i == 1 {
			id.id = r.Namespace
		}
		if limits.Rate != (keystore.RateLimit{}) {
			b.rates[i] = l.rateMap[id]
			if b.rates[i] == nil {
				b.rates[i] = &rateBucket{id: id, limit: &limits.Rate}
				l.rateMap[id] = b.rates[i]
			}
			b.rates[i].setLimit(&limits.Rate, now)
		}
		if limits.Quota != (keystore.Quota{}) {
			b.quotas[i] = l.quotaMap[id]
			if b.quotas[i] == nil {
				b.quotas[i] = &quotaBucket{id: id, limit: &limits.Quota}
				l.quotaMap[id] = b.quotas[i]
			}
			b.quotas[i].setLimit(&limits.Quota)
		}
	}
	return b
}

// lock locks all buckets, those of the key first. If one is retired, it unlocks them and returns
// false.
func (b *buckets) lock() bool {
	live := true
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
	if !live {
		b.unlock()
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

// maxBookings is the maximum number of bookings that a request waits for. It needs more than one
// only if other requests take what was booked for it.
const maxBookings = 10

// charge charges a request to all limits of a record or to none.
func (l *limiter) charge(
	ctx context.Context, c *Charge, a Answer, d *keystore.Directory, units int64,
) error {
	c.now = a.Now
	for tries := 0; ; {
		b := l.find(&a, d)
		if b.terms == nil {
			return nil
		}
		c.mode = l.mode()
		if !b.lock() {
			if a.entry != nil {
				a.entry.buckets.CompareAndSwap(b, nil)
			}
			continue
		}
		c.Terms = b.terms
		wait, waits, err := l.chargeLocked(c, b, units, tries == maxBookings)
		b.unlock()
		if err != nil {
			return err
		}
		if !waits {
			l.counts.add(c, a.Record)
			return nil
		}
		for name, w := range wait {
			if w == nil {
				continue
			}
			select {
			case <-w.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			quota := b.quotaOf(LimitName(name))
			switch {
			case w.err == nil:
			case errors.Is(w.err, errClosed):
				return w.err
			case quota == nil: // the next try uses this node's share of the rate
			case quota.Shadow:
				tries = maxBookings
			default:
				return fmt.Errorf("reserving units of a quota: %w", w.err)
			}
		}
		tries = min(tries+1, maxBookings)
		c.now = l.now()
	}
}

// quotaOf returns the quota with this name, or nil if it is a rate limit.
func (b *buckets) quotaOf(name LimitName) *keystore.Quota {
	switch name {
	case KeyQuota:
		return &b.terms.Key.Quota
	case NamespaceQuota:
		return &b.terms.Namespace.Quota
	}
	return nil
}

// errContended means that other requests repeatedly took the units that were reserved for a
// request.
var errContended = errors.New("too many requests wait for units of the quota")

// chargeLocked charges or refuses a request, or returns the bookings that the request must wait
// for. The last try does not wait: a rate limit that is still unknown refuses the request, and a
// quota that is still unknown is an error. The caller holds the locks.
func (l *limiter) chargeLocked(
	c *Charge, b *buckets, units int64, last bool,
) (wait [NumLimits]*booking, waits bool, err error) {
	micros := keystore.Micros(c.now)
	var verdicts [NumLimits]verdict
	c.Outcome = keystore.OK
	for i := range b.rates {
		if r := b.rates[i]; r != nil {
			v := r.check(c.mode, micros)
			if v == unknown && last {
				v = refused
			}
			if v == refused && !r.limit.Shadow {
				c.Outcome = keystore.Limited
			}
			verdicts[rateNames[i]], waits = v, waits || v == unknown
		}
		if q := b.quotas[i]; q != nil {
			v := q.check(c.now, units)
			if v == unknown && last {
				v = refused
				if !q.limit.Shadow {
					err = errContended
				}
			}
			if v == refused && !q.limit.Shadow && c.Outcome == keystore.OK {
				c.Outcome = keystore.Exhausted
			}
			verdicts[quotaNames[i]], waits = v, waits || v == unknown
		}
	}
	if err != nil && c.Outcome != keystore.Limited {
		return wait, false, err
	}
	if waits && c.Outcome == keystore.OK {
		for i := range b.rates {
			if name := rateNames[i]; verdicts[name] == unknown {
				b.rates[i].waiting++
				wait[name] = b.rates[i].queue(l)
			}
			if name := quotaNames[i]; verdicts[name] == unknown {
				wait[name] = b.quotas[i].await(l, units)
			}
		}
		return wait, true, nil
	}
	for i := range b.rates {
		if r := b.rates[i]; r != nil {
			name := rateNames[i]
			v := verdicts[name]
			switch {
			case v == refused:
				r.refuse(l, c.mode)
			case c.Outcome == keystore.OK:
				r.take(l, c.mode, b.terms.steps[i], micros)
			}
			c.states[name] = r.state(micros)
			c.states[name].refused = v == refused
		}
		if q := b.quotas[i]; q != nil {
			name := quotaNames[i]
			v := verdicts[name]
			if v == admitted && c.Outcome == keystore.OK {
				q.take(l, c.now, units)
			}
			c.states[name] = q.state()
			c.states[name].refused = v == refused
		}
	}
	return wait, false, nil
}

// spend charges units to the quotas of a record, even beyond the quotas.
func (l *limiter) spend(a Answer, d *keystore.Directory, units int64) {
	b := l.find(&a, d)
	for _, q := range b.quotas {
		if q != nil {
			q.spend(l, l.now(), units)
		}
	}
}

// sweepInterval is the time between two calls of sweep.
const sweepInterval = time.Minute

// sweep removes buckets whose state is that of a new one, and returns idle reservations. While the
// shared store is unavailable, it queues one of the other buckets, so that the node notices when
// the store is available again.
func (l *limiter) sweep() {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.terms)
	asks := l.degraded.Load() && l.rates() != nil
	for id, b := range l.rateMap {
		b.mu.Lock()
		if b.idle(keystore.Micros(now)) {
			b.retired = true
			delete(l.rateMap, id)
		} else if asks {
			b.queue(l)
			asks = false
		}
		b.mu.Unlock()
	}
	if len(l.rateMap) == 0 {
		l.degraded.Store(false) // nothing is shared
	}
	for id, b := range l.quotaMap {
		b.mu.Lock()
		if b.idle(l, now) {
			b.retired = true
			delete(l.quotaMap, id)
		}
		b.mu.Unlock()
	}
}

// returnAll returns all reserved units. It must be called after the last request.
func (l *limiter) returnAll(ctx context.Context) {
	l.mu.Lock()
	var list []*quotaBucket
	for _, b := range l.quotaMap {
		list = append(list, b)
	}
	l.mu.Unlock()
	now := l.now()
	var returns []keystore.Reservation
	for _, b := range list {
		b.mu.Lock()
		b.owed -= b.left
		b.left = 0
		if b.owed != 0 && now < b.end {
			r := b.reserve(1)
			r.Want, r.Need = 0, 0
			returns = append(returns, r)
		}
		b.mu.Unlock()
	}
	for len(returns) > 0 && ctx.Err() == nil {
		n := min(len(returns), maxBooked)
		if _, err := l.ledger.Reserve(ctx, returns[:n]); err != nil {
			return // the units are lost for their periods
		}
		returns = returns[n:]
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
		case c.Terms.shadow(name):
			n.others[name][LimitShadow].Add(1)
		default:
			n.others[name][LimitRefused].Add(1)
		}
	}
}

func (t *Terms) shadow(name LimitName) bool {
	return [NumLimits]bool{t.Key.Rate.Shadow, t.Key.Quota.Shadow, t.Namespace.Rate.Shadow,
		t.Namespace.Quota.Shadow}[name]
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
	s.Degraded = l.degraded.Load() && l.nodes() > 1
	return s
}
