package node

import (
	"context"
	"sync"
	"time"
)

// A bookkeeper makes bookings for many buckets at a time, one booking after the other. Buckets that
// are added during a booking wait for the next one, so a slow store gets fewer and larger bookings.
type bookkeeper[B any] struct {
	// book books for at most maxBooked buckets. It is called without their locks.
	book func(context.Context, []B) error
	// gap is the minimum time from the beginning of one booking to that of the next.
	gap  time.Duration
	kind bookingKind

	wake   chan struct{}
	mu     sync.Mutex
	queue  []*batch[B]
	last   uint32 // number of the last booking
	closed bool
}

// A bookingKind says which of the bookkeepers of a limiter makes a booking.
type bookingKind uint8

const (
	rateBooking bookingKind = iota
	quotaBooking

	numBookingKinds int = iota
)

// A batch is a booking with its buckets.
type batch[B any] struct {
	booking
	buckets []B
}

// A booking is one call to a store.
type booking struct {
	kind   bookingKind
	number uint32 // unique among those of its kind, from 1
	done   chan struct{}
	err    error // set before done is closed
}

// A tally is a bucket's counter for the latest booking of each kind, which another bucket may have
// asked for. It starts at 0 for each booking.
type tally[N int32 | int64] [numBookingKinds]struct {
	n       N
	booking uint32 // its number
}

// of returns the counter for a booking. It resets the counter if that was for another booking.
func (t *tally[N]) of(k *booking) *N {
	c := &t[k.kind]
	if c.booking != k.number {
		c.n, c.booking = 0, k.number
	}
	return &c.n
}

func (k *booking) finish(err error) {
	k.err = err
	close(k.done)
}

// maxBooked is the maximum number of buckets in one booking.
const maxBooked = 1000

func newBookkeeper[B any](
	kind bookingKind, gap time.Duration, book func(context.Context, []B) error,
) *bookkeeper[B] {
	return &bookkeeper[B]{kind: kind, book: book, gap: gap, wake: make(chan struct{}, 1)}
}

// add adds a bucket to a booking that has not begun, and returns that booking. After close, the
// booking has already failed.
func (k *bookkeeper[B]) add(b B) *booking {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.queue) == 0 || len(k.queue[len(k.queue)-1].buckets) == maxBooked {
		k.last++
		next := &batch[B]{booking: booking{kind: k.kind, number: k.last, done: make(chan struct{})}}
		if k.closed {
			next.finish(errClosed)
			return &next.booking
		}
		k.queue = append(k.queue, next)
	}
	next := k.queue[len(k.queue)-1]
	next.buckets = append(next.buckets, b)
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return &next.booking
}

// run makes bookings until ctx is done.
func (k *bookkeeper[B]) run(ctx context.Context) {
	defer k.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		}
		for next := k.take(); next != nil; next = k.take() {
			paced := time.After(k.gap)
			next.finish(k.book(ctx, next.buckets))
			select {
			case <-ctx.Done():
				return
			case <-paced:
			}
		}
	}
}

// take removes the first batch from the queue, or returns nil.
func (k *bookkeeper[B]) take() *batch[B] {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.queue) == 0 {
		return nil
	}
	next := k.queue[0]
	k.queue = k.queue[1:]
	return next
}

// close fails all bookings that have not begun, and those that are added later.
func (k *bookkeeper[B]) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, next := range k.queue {
		next.finish(errClosed)
	}
	k.queue = nil
}
