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
	gap time.Duration

	wake   chan struct{}
	mu     sync.Mutex
	due    []B
	next   *booking
	closed bool
}

// A booking is one run of a bookkeeper, for all buckets that were added before.
type booking struct {
	done chan struct{}
	err  error // set before done is closed
}

// maxBooked is the maximum number of buckets in one call to a store.
const maxBooked = 1000

func newBookkeeper[B any](gap time.Duration, book func(context.Context, []B) error) *bookkeeper[B] {
	return &bookkeeper[B]{book: book, gap: gap, wake: make(chan struct{}, 1)}
}

// add adds a bucket to the next booking, and returns that booking. After close, the booking has
// already failed.
func (k *bookkeeper[B]) add(b B) *booking {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		failed := &booking{done: make(chan struct{}), err: errClosed}
		close(failed.done)
		return failed
	}
	k.due = append(k.due, b)
	if k.next == nil {
		k.next = &booking{done: make(chan struct{})}
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	return k.next
}

// run makes bookings until ctx is done.
func (k *bookkeeper[B]) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			k.close()
			return
		case <-k.wake:
		}
		paced := time.NewTimer(k.gap)
		k.mu.Lock()
		due, this := k.due, k.next
		k.due, k.next = nil, nil
		k.mu.Unlock()
		if this != nil {
			for len(due) > 0 {
				n := min(len(due), maxBooked)
				if err := k.book(ctx, due[:n]); err != nil {
					this.err = err
				}
				due = due[n:]
			}
			close(this.done)
		}
		select {
		case <-ctx.Done():
		case <-paced.C:
		}
		paced.Stop()
	}
}

// close fails the next booking and all later ones.
func (k *bookkeeper[B]) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.next != nil {
		k.next.err = errClosed
		close(k.next.done)
		k.next, k.due = nil, nil
	}
}
