package manage

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// maxCallerReads is how many reads of one caller use the database at the same time. The
	// database has more connections for reads, so other callers need not wait for this one.
	maxCallerReads = 2
	// readTimeout bounds one read that may take long, including the wait for its start: see
	// beginLongRead.
	readTimeout = 10 * time.Second
)

// A readLimiter limits the concurrent reads of each caller. The zero value is ready to use.
type readLimiter struct {
	mu       sync.Mutex
	byCaller map[string]*callerReads // only callers with running or waiting reads
}

type callerReads struct {
	running chan struct{}
	users   int // running and waiting reads
}

// acquire waits until the caller may start a read. The read ends when done is called.
func (l *readLimiter) acquire(ctx context.Context, c Caller) (done func(), err error) {
	own, leave := l.enter(c.Identity())
	select {
	case own.running <- struct{}{}:
		if ctx.Err() == nil {
			return func() { <-own.running; leave() }, nil
		}
		<-own.running
	case <-ctx.Done():
	}
	leave()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, &keystore.Error{Kind: keystore.KindBusy, Code: "too_many_reads",
			Detail: "the caller's other reads did not finish in time; wait for them, then try again"}
	}
	return nil, ctx.Err()
}

// enter returns the reads of the caller with this Identity. Whoever calls enter must call leave
// when it no longer uses them.
func (l *readLimiter) enter(caller string) (own *callerReads, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byCaller == nil {
		l.byCaller = make(map[string]*callerReads)
	}
	own = l.byCaller[caller]
	if own == nil {
		own = &callerReads{running: make(chan struct{}, maxCallerReads)}
		l.byCaller[caller] = own
	}
	own.users++
	return own, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(l.byCaller, caller)
		}
	}
}
