package node

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A bookkeeper makes bookings for many buckets at a time, one booking after the other. Buckets that
// are added during a booking wait for the next one, so a slow store gets fewer and larger bookings.
type bookkeeper[B comparable] struct {
	// book makes a booking. It is called without the locks of the buckets.
	book func(context.Context, *batch[B]) error
	// size is the number of buckets at which a booking is full. A full booking still accepts a
	// bucket together with one that it has, so it may have up to twice as many: see add.
	size int
	// gap is the minimum time from the beginning of one booking to that of the next. A full booking
	// does not wait, because grants would expire while their requests wait for other bookings.
	gap time.Duration

	wake   chan struct{}
	mu     sync.Mutex // after the locks of buckets
	queue  []*batch[B]
	closed bool
}

// A batch is a booking with its buckets.
type batch[B comparable] struct {
	booking
	buckets []B
	waiting map[B]int32 // requests that wait for it, 0 for quotas; an entry for each bucket
}

// A booking is one call to a store.
type booking struct {
	done chan struct{}
	err  error // set before done is closed
}

func (k *booking) finish(err error) {
	k.err = err
	close(k.done)
}

// maxBooked is the maximum number of buckets in one booking.
const maxBooked = 1000

func newBookkeeper[B comparable](
	gap time.Duration, size int, book func(context.Context, *batch[B]) error,
) *bookkeeper[B] {
	return &bookkeeper[B]{book: book, size: size, gap: gap, wake: make(chan struct{}, 1)}
}

// add adds a bucket, and requests that wait for it, to a booking that has not begun. It prefers the
// argument with, which may be nil. Next it prefers the first booking that has the bucket, if queued
// says that there is one. Otherwise it takes the last booking, or a new one if that is full. It
// returns the booking, and whether the bucket is new in it. After close, the booking has already
// failed. The caller holds the lock.
func (k *bookkeeper[B]) add(
	b B, queued bool, requests int32, with *booking,
) (to *booking, added bool) {
	if k.closed {
		failed := &booking{done: make(chan struct{})}
		failed.finish(errClosed)
		return failed, false
	}
	next := k.find(b, queued, with)
	if n := len(k.queue); next == nil && n > 0 && !k.full(k.queue[n-1]) {
		next = k.queue[n-1]
	}
	if next == nil {
		next = &batch[B]{
			booking: booking{done: make(chan struct{})},
			waiting: make(map[B]int32),
		}
		k.queue = append(k.queue, next)
	}
	before, has := next.waiting[b]
	if next.waiting[b] = before + requests; !has {
		next.buckets = append(next.buckets, b)
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return &next.booking, !has
}

// find returns the queued booking that add prefers, or nil. It begins where that probably is.
func (k *bookkeeper[B]) find(b B, queued bool, with *booking) *batch[B] {
	if with != nil {
		for _, next := range slices.Backward(k.queue) {
			if &next.booking == with {
				return next
			}
		}
	}
	if queued {
		for _, next := range k.queue {
			if _, has := next.waiting[b]; has {
				return next
			}
		}
	}
	return nil
}

func (k *bookkeeper[B]) full(next *batch[B]) bool { return len(next.buckets) >= k.size }

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
			begun := time.Now()
			next.finish(k.book(ctx, next))
			select {
			case <-ctx.Done():
				return
			case <-time.After(k.pause(begun)):
			}
		}
	}
}

// pause returns how long to wait for the next booking. begun is when the last one began.
func (k *bookkeeper[B]) pause(begun time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.queue) > 0 && k.full(k.queue[0]) {
		return 0
	}
	return time.Until(begun.Add(k.gap))
}

// take removes the first batch from the queue, or returns nil.
func (k *bookkeeper[B]) take() *batch[B] {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.queue) == 0 {
		return nil
	}
	next := k.queue[0]
	k.queue[0] = nil
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
