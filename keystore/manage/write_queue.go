package manage

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// bulkTimeout bounds one transaction of a bulk change. Only one such transaction runs at a time.
const bulkTimeout = 30 * time.Second

// A writeQueue keeps bulk changes, which take many transactions, from delaying changes that take
// one. The transactions of bulk changes run one at a time. Each waits for the single changes that
// arrived before it, so a single change waits for at most one of them.
type writeQueue struct {
	bulk    chan struct{} // full while the transaction of a bulk change waits or runs
	mu      sync.Mutex
	singles map[chan struct{}]bool // the single changes; each channel is closed when it is done
}

func newWriteQueue() *writeQueue {
	return &writeQueue{bulk: make(chan struct{}, 1), singles: make(map[chan struct{}]bool)}
}

// enter registers a single change. The caller must call leave when the change is done.
func (q *writeQueue) enter() (leave func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	done := make(chan struct{})
	q.singles[done] = true
	return func() {
		close(done)
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.singles, done)
	}
}

// enterBulk waits until a transaction of a bulk change may run. If it returns nil, the caller must
// call leaveBulk after the transaction.
func (q *writeQueue) enterBulk(ctx context.Context) error {
	select {
	case q.bulk <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	q.mu.Lock()
	earlier := slices.Collect(maps.Keys(q.singles))
	q.mu.Unlock()
	for _, done := range earlier {
		select {
		case <-done:
		case <-ctx.Done():
			q.leaveBulk()
			return ctx.Err()
		}
	}
	return nil
}

func (q *writeQueue) leaveBulk() { <-q.bulk }
