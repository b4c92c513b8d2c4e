package sqldb

import (
	"context"
	"database/sql"
	"sync/atomic"
	"time"
)

// A background orders the transactions of this process on a database with a single writer. Changes
// of keys go first: a change waits for at most one low-priority transaction.
type background struct {
	changes atomic.Int32  // those that wait for the write lock or hold it
	slot    chan struct{} // held by a low-priority transaction
	held    time.Duration // how long these have held the write lock since the last rest
}

// yieldLimit is how long a low-priority transaction waits for changes. After that it no longer lets
// them go first, so that an import of many keys does not block it.
const yieldLimit = time.Second

// inBackground runs f in a low-priority transaction. Unless the database has a single writer, the
// transaction and changes do not wait for each other.
func (d *DB) inBackground(ctx context.Context, pool *sql.DB, f func(*tx) error) error {
	if pool != d.writer {
		return d.transact(ctx, pool, d.beginApart, f)
	}
	b := &d.background
	select {
	case b.slot <- struct{}{}:
		defer func() { <-b.slot }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for limit := time.Now().Add(yieldLimit); b.changes.Load() > 0 && time.Now().Before(limit); {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	var began time.Time
	err := d.transact(ctx, pool, d.beginApart, func(t *tx) error {
		began = t.began
		return f(t)
	})
	if began.IsZero() {
		return err
	}
	// These transactions follow each other, so they rest as if they were one: see dialect.rest.
	if b.held += time.Since(began); b.held > d.rest {
		b.held = 0
		_ = sleep(ctx, d.rest) // the transaction has ended, whatever happens to ctx
	}
	return err
}
