// Package sqldb is the system of record in an SQL database: [keystore.Database] for SQLite.
//
// The queries are written for SQLite and PostgreSQL alike; where the two differ is in [dialect] and the migrations.
package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// keepRevisions is how much of the change log stays. A node that is further behind treats everything as changed.
const keepRevisions = 100_000

// A dialect is what the databases do not agree on.
type dialect struct {
	goose       goose.Dialect
	migrations  string
	tableExists string            // query: whether there is a table of that name
	contains    string            // condition, with a place for an expression: that it contains a text, whatever the ASCII case
	hasRole     string            // condition on keys k
	isBusy      func(error) bool  // the write lock is taken: try again
	explain     func(error) error // adds what to do
}

// DB is a [keystore.Database].
type DB struct {
	dialect
	writer  *sql.DB
	readers *sql.DB
	lease   *sql.DB

	byDigest *sql.Stmt
	renew    *sql.Stmt

	keep  keystore.Revision
	locks locks
	feed  feed
}

var _ keystore.Database = (*DB)(nil)

func newDB(d dialect) *DB {
	return &DB{dialect: d, keep: keepRevisions, feed: feed{changed: make(chan struct{}, 1)}}
}

// start readies the schema and the statements, and follows the change log from then on.
func (d *DB) start(ctx context.Context, prepare func(context.Context, *DB) error) error {
	if err := prepare(ctx, d); err != nil {
		return err
	}
	if err := d.retryBusy(ctx, func() error { return migrate(ctx, d.writer, d.dialect) }); err != nil {
		return err
	}
	// Whether this process may write is better known now than at the first change.
	err := d.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM nodes WHERE incarnation = ''")
		return err
	})
	if err != nil {
		return err
	}
	if d.byDigest, err = d.readers.PrepareContext(ctx, byDigestQuery); err != nil {
		return err
	}
	if d.renew, err = d.lease.PrepareContext(ctx, renewQuery); err != nil {
		return err
	}
	return d.feed.start(ctx, d.lease)
}

// Close implements [keystore.Database].
func (d *DB) Close() error {
	d.feed.stop()
	err := d.closePools()
	d.locks.releaseAll()
	return err
}

func (d *DB) closePools() error {
	// The readers go first: the last connection to leave folds the write-ahead log into the file.
	var first error
	for _, pool := range []*sql.DB{d.readers, d.lease, d.writer} {
		if err := pool.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// explain gives an error what a person needs; that of the context comes first.
func (d *DB) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.dialect.explain(err)
}

// fail names the operation in an error of the database.
func (d *DB) fail(ctx context.Context, operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, d.explain(ctx, err))
}

// retryBusy calls f until the write lock is free. SQLite's own busy handler would not look at the context.
func (d *DB) retryBusy(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(writeWait)
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := f()
		if err == nil || !d.isBusy(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// write runs f in a transaction that is the only one to write.
func (d *DB) write(ctx context.Context, f func(*sql.Tx) error) error {
	var tx *sql.Tx
	err := d.retryBusy(ctx, func() (err error) {
		tx, err = d.writer.BeginTx(ctx, nil)
		return err
	})
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit this does nothing
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Update implements [keystore.Database].
func (d *DB) Update(ctx context.Context, change func(keystore.Tx) error) (keystore.Revision, error) {
	var head keystore.Revision
	var refused error
	err := d.write(ctx, func(sqltx *sql.Tx) error {
		t := d.newTx(ctx, sqltx)
		defer t.close()
		if refused = change(t); refused == nil {
			// One that went on after the database failed must not commit: SQLite may have rolled back already.
			refused = t.failed
		}
		if refused != nil {
			return refused
		}
		if err := t.row("SELECT revision FROM head").Scan(&head); err != nil {
			return err
		}
		_, err := t.exec("DELETE FROM change_log WHERE revision <= ?", head-d.keep)
		return err
	})
	if refused != nil {
		return 0, refused
	}
	if err != nil {
		return 0, d.fail(ctx, "changing the database", err)
	}
	d.feed.committed(head)
	return head, nil
}

// RecordUse implements [keystore.Database].
func (d *DB) RecordUse(ctx context.Context, uses map[string]time.Time) error {
	const batch = 1000 // a revoke waits for one at most
	ids := make([]string, 0, len(uses))
	for id := range uses {
		ids = append(ids, id)
	}
	for len(ids) > 0 {
		n := min(batch, len(ids))
		err := d.write(ctx, func(tx *sql.Tx) error {
			stmt, err := tx.PrepareContext(ctx, `
				INSERT INTO last_uses (key_id, used_at) SELECT id, ? FROM keys WHERE id = ?
				ON CONFLICT (key_id) DO UPDATE SET used_at = excluded.used_at WHERE excluded.used_at > last_uses.used_at`)
			if err != nil {
				return err
			}
			defer stmt.Close()
			for _, id := range ids[:n] {
				if _, err := stmt.ExecContext(ctx, uses[id].UnixMicro(), id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return d.fail(ctx, "recording last uses", err)
		}
		ids = ids[n:]
	}
	return nil
}

// A feed tells of new revisions, of this process and of others.
type feed struct {
	changed chan struct{}
	seen    atomic.Int64 // the revision last told of
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// pollInterval leaves room for a slow poll within the 100 ms of the contract.
const pollInterval = 50 * time.Millisecond

func (f *feed) start(ctx context.Context, db *sql.DB) error {
	stmt, err := db.PrepareContext(ctx, "SELECT revision FROM head")
	if err != nil {
		return err
	}
	var head int64
	if err := stmt.QueryRowContext(ctx).Scan(&head); err != nil {
		return err
	}
	f.seen.Store(head)
	ctx, f.cancel = context.WithCancel(context.Background())
	f.done.Go(func() {
		tick := time.NewTicker(pollInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// An error is left to whoever asks for the head next and can tell it to someone.
			if stmt.QueryRowContext(ctx).Scan(&head) == nil {
				f.committed(keystore.Revision(head))
			}
		}
	})
	return nil
}

func (f *feed) committed(head keystore.Revision) {
	if f.seen.Swap(int64(head)) != int64(head) {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
}

func (f *feed) stop() {
	f.cancel()
	f.done.Wait()
	close(f.changed)
}

// Changed implements [keystore.Database].
func (d *DB) Changed() <-chan struct{} { return d.feed.changed }

// Changes implements [keystore.Database]. It answers only when the log has every revision that was asked for.
func (d *DB) Changes(ctx context.Context, after, upTo keystore.Revision) ([]keystore.Change, error) {
	const operation = "reading the change log"
	rows, err := d.lease.QueryContext(ctx, "SELECT revision, kind, digest, ends FROM change_log WHERE revision > ? AND revision <= ? ORDER BY revision", after, upTo)
	if err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	defer rows.Close()
	var out []keystore.Change
	last := after
	for rows.Next() {
		var c keystore.Change
		if err := rows.Scan(&c.Revision, &c.Kind, digestTo{&c.Digest}, timeTo{&c.Ends}); err != nil {
			return nil, d.fail(ctx, operation, err)
		}
		if c.Revision > last+1 {
			return nil, keystore.ErrTruncated
		}
		last = c.Revision
		out = append(out, c)
	}
	if err := rows.Err(); err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	if last < upTo {
		return nil, keystore.ErrTruncated
	}
	return out, nil
}
