package manage

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// callerReads is how many reads of one caller use the database at the same time. The database
	// has more connections for reads, so that another caller need not wait for these.
	maxCallerReads = 2
	// readTimeout bounds one read, including the wait for its turn.
	readTimeout = 10 * time.Second
)

// turns limits the concurrent reads of each caller. The zero value is ready for use.
type readLimiter struct {
	mu sync.Mutex
	of map[string]*callerReads // by actor; only of those who have or await a turn
}

type callerReads struct {
	taken chan struct{}
	users int // who have or await a turn
}

// take waits for a turn, which lasts until done is called.
func (t *readLimiter) take(ctx context.Context, c Caller) (done func(), err error) {
	own, leave := t.enter(c.Actor())
	select {
	case own.taken <- struct{}{}:
		if ctx.Err() == nil {
			return func() { <-own.taken; leave() }, nil
		}
		<-own.taken
	case <-ctx.Done():
	}
	leave()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, &keystore.Error{Kind: keystore.KindBusy, Code: "too_many_reads",
			Detail: "the caller's other reads did not finish in time; wait for them, then try again"}
	}
	return nil, ctx.Err()
}

// enter returns the turns of an actor. The caller must leave them.
func (t *readLimiter) enter(actor string) (own *callerReads, leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[string]*callerReads)
	}
	own = t.of[actor]
	if own == nil {
		own = &callerReads{taken: make(chan struct{}, maxCallerReads)}
		t.of[actor] = own
	}
	own.users++
	return own, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(t.of, actor)
		}
	}
}
