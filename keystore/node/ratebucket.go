package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A rateBucket is this node's state of one rate limit (docs/limits.md, "How it works"). Times are
// microseconds on the database's clock.
type rateBucket struct {
	id    bucketID
	mu    sync.Mutex
	limit *keystore.RateLimit
	// meter counts the requests that all nodes have booked, as far as this node knows. While the
	// nodes do not share the limit, it counts the requests that this node has admitted.
	meter     keystore.Meter
	latest    int64 // time of the last request, in Unix nanoseconds
	until     int64 // when the older grant in held expires
	later     int64 // when the newer one expires
	booked    int64 // when the last booking with an answer began; 0 before the first
	held      int32 // requests that are booked and not used
	newest    int32 // how many of held belong to the newer grant
	ahead     int32 // maximum number of requests to book before they arrive
	used      int32 // requests since the last booking, if there is a store
	queued    int32 // bookings that it is in and that have not begun
	counted   int32 // requests that wait for rate limits, this or another one
	reserving int32 // requests that wait for quotas, and later for rate limits
	floated   int8  // requests admitted and not booked yet: more than 1 only after an error
	advance   int8  // how many of floated are in the running booking
	booking   bool  // a booking is running
	retired   bool  // no longer in the limiter's map
}

const (
	// grantShare determines the validity of a grant: the limit's Per divided by grantShare.
	grantShare = 20
	// smallLimit is the smallest number of requests in Per, for each node, with which a node may
	// admit one request before it books it.
	smallLimit = 20
	// burstBookings is the number of bookings after the first one of a burst that, like it, book no
	// requests before they arrive.
	burstBookings = 4
	// bookingGap limits each node to 66 bookings of rate limits a second, unless bookings are full.
	bookingGap = 15 * time.Millisecond
	// leastBurst sets the smallest burst with which nodes book a shared limit: the requests that
	// its rate allows in this time. It is longer than bookingGap and a usual call, so that a node
	// reaches the rate of a limit with any burst.
	leastBurst = 25 * time.Millisecond
)

// A mode says how the nodes share rate limits.
type mode struct {
	nodes  int64 // registered nodes
	stored bool  // there is a shared store
	works  bool  // the shared store is available
	// aloneSince is the time since which there is no other node; 0 if there is one.
	aloneSince int64
	shared     bool // limits are booked in the shared store; else each node has a share of them
}

// part returns the limit by which a node admits requests or books them. If the
// nodes do not share the limit, each has an equal part of it. For this, Per is multiplied and
// Requests is not divided, so that a meter stays valid when the number of nodes changes.
func (m mode) part(l *keystore.RateLimit) keystore.RateLimit {
	part := *l
	switch {
	case m.shared:
		part.Burst = max(l.Burst, (l.Requests*int64(leastBurst)+int64(l.Per)-1)/int64(l.Per))
	case m.nodes > 1:
		part.Per *= time.Duration(m.nodes)
		part.Burst = max(1, l.Burst/m.nodes)
	}
	return part
}

// A verdict says whether a limit admits a request.
type verdict uint8

const (
	admitted verdict = iota
	refused
	unknown // only a booking can decide
)

// check returns whether the bucket admits a request at now.
func (b *rateBucket) check(m mode, now int64) verdict {
	if b.holds(now) {
		return admitted
	}
	part := m.part(b.limit)
	if !m.shared {
		b.settle(&part, now)
	}
	//fault: if ablated("float-without-room") && m.shared { return admitted }
	switch {
	case !b.meter.Fits(&part, now):
		return refused
	case m.works && (b.booked == 0 || b.booked < m.aloneSince):
		// Other nodes, or former processes, may have admitted requests that this one does not know.
		return unknown
	case m.shared && (b.floated > 0 || b.limit.Requests < smallLimit*m.nodes):
		return unknown
	}
	return admitted
}

// validity returns how long, in microseconds, a grant is valid. booked is the limit with which it
// is booked. If its burst is larger than that of the bucket's limit, the grant is valid for a
// shorter time, so that the nodes do not admit more.
func (b *rateBucket) validity(booked *keystore.RateLimit) int64 {
	per := b.limit.Per.Microseconds()
	more := (booked.Burst - b.limit.Burst) * per
	return per/grantShare - (more+b.limit.Requests-1)/b.limit.Requests
}

// bookedLimit returns the limit with which the bucket is booked. It is the same in every mode: the
// store forgets requests beyond a burst that seems to have been lowered.
func (b *rateBucket) bookedLimit(m mode) keystore.RateLimit {
	m.shared = true
	return m.part(b.limit)
}

// holds reports whether the bucket holds a grant. It drops expired grants.
func (b *rateBucket) holds(now int64) bool {
	if b.held > 0 && now >= b.until {
		b.held, b.newest, b.until = b.newest, 0, b.later
	}
	return b.held > 0 && now < b.until
}

// settle adds the requests that were admitted before they were booked to the node's own meter,
// except those in the running booking.
func (b *rateBucket) settle(l *keystore.RateLimit, now int64) {
	if b.floated > b.advance {
		b.meter = b.meter.Add(l, now, int64(b.floated-b.advance))
		b.floated = b.advance
	}
}

// take admits a request that check has admitted.
func (b *rateBucket) take(l *limiter, m mode, step keystore.Step, now int64) {
	if m.stored && b.used < keystore.MaxRate {
		b.used++
	}
	switch {
	case b.holds(now):
		if b.held--; b.held == b.newest { // the oldest are used first
			b.newest, b.until = 0, b.later
		}
		if b.held*2 >= b.used { // enough for half the time since the last booking
			return
		}
	case m.shared:
		b.floated++
	case m.nodes == 1:
		b.meter = b.meter.Next(b.limit, step, now)
	default:
		part := m.part(b.limit)
		b.meter = b.meter.Add(&part, now, 1)
	}
	if m.stored {
		b.queue(l)
	}
}

// refuse is called when check has refused a request.
func (b *rateBucket) refuse(l *limiter, m mode) {
	if m.stored && !m.shared && m.nodes > 1 { // ask whether the store is back
		b.queue(l)
	}
}

// admitsAnother reports whether the bucket has room for a request in addition to those that wait
// for a booking. Requests that wait for quotas count only for others that do (reserves): the database
// may be slow, and the quotas may refuse them.
func (b *rateBucket) admitsAnother(m mode, now int64, reserves bool) bool {
	part := m.part(b.limit)
	room := b.meter.Room(&part, now)
	if b.holds(now) {
		room += int64(b.held)
	}
	waiting := int64(b.counted)
	if reserves {
		waiting += int64(b.reserving)
	}
	return waiting < room
}

// queue adds the bucket to a booking, unless it is in one that has not begun. The caller holds the
// lock.
func (b *rateBucket) queue(l *limiter) {
	if b.queued == 0 {
		l.rateBooks.mu.Lock()
		b.await(l, 0, nil)
		l.rateBooks.mu.Unlock()
	}
}

// await adds the bucket, and requests that wait for it, to a booking. That is the argument with, if
// it has not begun. The caller holds the lock and that of l.rateBooks.
func (b *rateBucket) await(l *limiter, requests int32, with *booking) *booking {
	k, added := l.rateBooks.add(b, b.queued > 0, requests, with)
	if added {
		b.queued++
	}
	return k
}

// state returns the state of the limit after a charge.
func (b *rateBucket) state(now int64) limitState {
	s := limitState{meter: b.meter}
	if b.floated > 0 {
		s.meter = b.meter.Add(b.limit, now, int64(b.floated))
	}
	if b.holds(now) {
		s.held = int64(b.held)
	}
	return s
}

// setLimit changes the limit. The used part of the burst stays the same, in requests.
func (b *rateBucket) setLimit(l *limiter, m mode, to *keystore.RateLimit, now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	former := b.limit
	b.limit = to
	if *former == *to {
		return
	}
	from, part := m.part(former), m.part(to)
	b.settle(&from, now)
	b.meter = b.meter.Within(&from, &part, now)
	b.held, b.newest = 0, 0
	if m.stored { // the store forgets requests beyond a lowered burst now, not after a pause
		b.queue(l)
	}
}

// idle reports whether the state of the bucket is that of a new one.
func (b *rateBucket) idle(now int64) bool {
	return b.meter.TAT <= now && b.queued == 0 && !b.booking && b.floated == 0 && !b.holds(now)
}

// begin begins a booking. requests is the number of requests that wait for it, which may be 0. The
// caller holds the lock.
func (b *rateBucket) begin(epoch string, m mode, now int64, requests int32) keystore.Booking {
	want, limit := int64(0), b.bookedLimit(m)
	if m.shared {
		used, elapsed := int64(b.used), max(now-b.booked, 1)
		// ahead doubles while requests keep coming. A grant for a short burst would expire unused.
		validity := b.validity(&limit)
		switch {
		case elapsed > validity:
			b.ahead = -burstBookings
		case b.ahead < 0:
			b.ahead++
		default:
			b.ahead = min(2*b.ahead+1, keystore.MaxRate)
		}
		if used > 1 {
			// The use since the last booking, scaled to the validity of the grant.
			want = min(used*validity/elapsed, 2*used, max(0, int64(b.ahead)), limit.Burst)
		}
		need := b.counted
		if b.holds(now) {
			want -= int64(b.held)
			// A grant that expires during a usual call does not help the requests that wait.
			if now+leastBurst.Microseconds() < b.until {
				need -= b.held
			}
		}
		want = max(want, 0, int64(min(need, requests)))
	}
	k := keystore.Booking{
		Name:  fmt.Sprintf("apikeys:%s:rate:{%s}:%s", epoch, epoch, b.id),
		Limit: limit, Known: b.meter.TAT, Spent: int64(b.floated), Want: want,
	}
	//fault: if ablated("no-merge") { k.Known = 0 }
	//fault: if ablated("spend-before-booking") { k.Spent = 0 }
	b.queued--
	b.used, b.advance, b.booking = 0, b.floated, true
	return k
}

// end applies the answer to a booking. m and began are those of begin.
func (b *rateBucket) end(
	k *keystore.Booking, answer keystore.Booked, m mode, began, now int64,
) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.floated -= b.advance
	b.advance, b.booking = 0, false
	if b.bookedLimit(m) != k.Limit {
		return
	}
	b.booked = began
	// The store is not trusted: a wrong answer blocks the limit for at most the time of two bursts
	// and of twice the requests that all nodes may admit before they book them.
	latest := keystore.Meter{}.Add(&k.Limit, now, min(2*k.Limit.Burst, keystore.MaxRate))
	latest.TAT += 2 * b.limit.Per.Microseconds() / smallLimit
	b.meter = b.meter.Max(keystore.Meter{TAT: min(answer.TAT, max(latest.TAT, b.meter.TAT))})
	granted := int32(min(answer.Granted, k.Want))
	until := began + b.validity(&k.Limit)
	switch {
	case !b.holds(now):
		b.held, b.newest, b.until, b.later = granted, 0, until, until
	case granted > 0:
		if b.newest == 0 { // otherwise these expire with the previous grant
			b.later = until
		}
		b.held += granted
		b.newest += granted
	}
}

// undo is called after a failed booking. Its requests may or may not have been booked.
func (b *rateBucket) undo() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance, b.booking = 0, false
	//fault: if ablated("share-not-carried") { b.meter, b.floated = keystore.Meter{}, 0 }
}

// errNoStore means that the settings no longer have a shared store.
var errNoStore = errors.New("no shared store of rate limits is configured")

// bookRates books for rate limits in the shared store.
func (l *limiter) bookRates(ctx context.Context, next *batch[*rateBucket]) error {
	rates, list := l.rates(), next.buckets
	m, began := l.mode(), keystore.Micros(l.now())
	bookings := make([]keystore.Booking, len(list))
	epoch := l.epoch()
	for i, b := range list {
		b.mu.Lock()
		bookings[i] = b.begin(epoch, m, began, next.waiting[b])
		b.mu.Unlock()
	}
	var answers []keystore.Booked
	err := errNoStore
	if rates != nil {
		answers, err = rates.Book(ctx, time.UnixMicro(began), bookings)
	}
	if err != nil {
		for _, b := range list {
			b.undo()
		}
		if l.rates() == rates { // else a reload has replaced the store, and has closed this one
			l.degraded.Store(true)
			l.grants[GrantFail].Add(1)
		}
		return err
	}
	now := keystore.Micros(l.now())
	for i, b := range list {
		b.end(&bookings[i], answers[i], m, began, now)
	}
	l.degraded.Store(false)
	l.grants[GrantOK].Add(1)
	return nil
}
