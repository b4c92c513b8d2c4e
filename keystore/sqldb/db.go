// Package sqldb is the system of record in an SQL database: [keystore.Database] for SQLite and PostgreSQL.
//
// The queries are written for both alike; where the two differ is in [dialect] and the migrations.
package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
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
	goose         goose.Dialect
	migrations    string
	migrationLock string // statement: holds off others that migrate until the end of its transaction; empty: none
	tableExists   string // query: whether there is a table of that name
	clock         string // expression with a place: the database's time in Unix microseconds, see reading
	current       string // condition: what this server knows is not older than what any other does
	begin         string // query: takes the lock of all who write, and returns the time; empty: BEGIN takes it
	prepares      bool   // statements that come again and again have to be prepared by hand
	contains      string // condition, with a place for an expression: that it contains a text, whatever the ASCII case
	touchesOnly   string // condition on a row a of the audit log: its namespaces are among those in a JSON array, and there are some
	among         string // the end of a condition: is one of the texts in a JSON array
	amongHex      string // the same for bytes, which the array has in hexadecimal
	pairs         string // what stands in a FROM for the names and texts of a JSON object, as key and value
	few           string // what stands in a FROM for the ids, each once, that a query finds: taken for few, whatever else is known
	analyze       string // statement: has the database look at the size of its tables, and make new plans; empty: it need not be told
	anew          []any  // arguments before the others, so that a query is planned for the tables as they are now
	addMany       string // statement: what is added to secrets until addedMany is one change; empty: the database sees for itself that it is many
	addedMany     string // statement
	manyEnds      string // statement, on the connection: the transaction that has added many is over
	unforced      string // the end of a condition on one row: the commit is answered before it is on the disk; empty: there is no such thing
	recordUse     string // statement: takes last uses as a JSON object, id to microseconds

	rest time.Duration // that a process leaves the write lock alone after it has held it longer than this, so that others who poll for it get it

	copyRows    func(ctx context.Context, driverConn any, table string, columns []string, rows [][]any) error // adds many rows at once; nil: there is no such way
	bind        func(query string) string                                                                     // gives the places for arguments, each a ?, the form that the database knows
	text        func(string) string                                                                           // what is stored of a text, and compared
	isBusy      func(error) bool                                                                              // of a write: it did not begin, try again
	isLost      func(error) bool                                                                              // the connection had been cut, another one may be good
	commitError func(error) error                                                                             // of a COMMIT: says so if the change may have been made
	committed   func(driverConn any) error                                                                    // after a COMMIT that was answered as made: why it may be lost all the same; nil: never
	explain     func(error) error                                                                             // adds what to do
}

// DB is a [keystore.Database].
type DB struct {
	dialect
	writer  *sql.DB // of changes
	readers *sql.DB
	lease   *sql.DB // for renewals and what belongs to them: never behind the readers
	beats   *sql.DB // for writes of the nodes' rows
	uses    *sql.DB // for writes of last uses

	postgres *postgres // nil: SQLite

	byDigest *sql.Stmt
	renew    *sql.Stmt

	keep          keystore.Revision
	lookedThrough int
	copied        atomic.Int64 // rows since the last analyze
	free          time.Time    // until then the write lock is left to other processes; belongs to whoever has the writer
	locks         locks
	feed          feed
}

var _ keystore.Database = (*DB)(nil)

func newDB(d dialect) *DB {
	return &DB{dialect: d, keep: keepRevisions, lookedThrough: lookedThrough, feed: feed{changed: make(chan struct{}, 1)}}
}

// start readies the schema and the statements, and follows the change log from then on.
func (d *DB) start(ctx context.Context, prepare func(context.Context, *DB) error) error {
	if err := prepare(ctx, d); err != nil {
		return err
	}
	if err := d.retryBusy(ctx, func() error { return d.migrate(ctx) }); err != nil {
		return err
	}
	// Whether this process may write is better known now than at the first change.
	err := d.write(ctx, func(t *tx) error {
		_, err := t.sql.ExecContext(ctx, "DELETE FROM nodes WHERE incarnation = ''")
		return err
	})
	if err != nil {
		return err
	}
	if d.byDigest, err = d.readers.PrepareContext(ctx, d.bind(byDigestQuery+" WHERE "+d.current)); err != nil {
		return err
	}
	if d.renew, err = d.lease.PrepareContext(ctx, d.bind(d.renewQuery())); err != nil {
		return err
	}
	if d.postgres != nil {
		return d.feed.start(ctx, d.lease, netInterval, d.postgres.listen)
	}
	return d.feed.start(ctx, d.lease, pollInterval, nil)
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
func (d *DB) retryBusy(ctx context.Context, f func() error) error { return retry(ctx, d.isBusy, f) }

// retryLost calls f until its connection is good: after a restart of the server each in the pool may be cut.
func (d *DB) retryLost(ctx context.Context, f func() error) error { return retry(ctx, d.isLost, f) }

// longestPoll is how long a process may sleep between two looks whether the write lock is free.
const longestPoll = 20 * time.Millisecond

func retry(ctx context.Context, again func(error) bool, f func() error) error {
	deadline := time.Now().Add(writeWait)
	for wait := time.Millisecond; ; wait = min(2*wait, longestPoll) {
		err := f()
		if err == nil || !again(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// query runs one that returns rows, outside of transactions.
func (d *DB) query(ctx context.Context, pool *sql.DB, query string, args ...any) (rows *sql.Rows, err error) {
	err = d.retryLost(ctx, func() error {
		rows, err = pool.QueryContext(ctx, d.bind(query), d.texts(args)...)
		return err
	})
	return rows, err
}

// read is query on the readers, planned for these arguments and the tables as they are now.
func (d *DB) read(ctx context.Context) querier {
	return func(query string, args ...any) (*sql.Rows, error) {
		return d.query(ctx, d.readers, query, append(slices.Clip(d.anew), args...)...)
	}
}

// exec runs a statement that is a transaction of its own, takes no revision, and may as well run twice.
func (d *DB) exec(ctx context.Context, pool *sql.DB, operation, statement string, args ...any) error {
	err := d.retryBusy(ctx, func() error {
		_, err := pool.ExecContext(ctx, d.bind(statement), d.texts(args)...)
		return err
	})
	return d.fail(ctx, operation, err)
}

// reading is what goes into the place of the dialect's clock: the time, where the database has no clock but this machine's.
func (d *DB) reading() any {
	if d.postgres != nil {
		return nil
	}
	return time.Now().UnixMicro()
}

// texts replaces, in the list itself, each text by what the database can store of it.
func (d *DB) texts(args []any) []any {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = d.text(s)
		}
	}
	return args
}

// write runs f in a transaction that is the only one to write.
func (d *DB) write(ctx context.Context, f func(*tx) error) error {
	var t *tx
	err := d.retryBusy(ctx, func() (err error) {
		t, err = d.beginWrite(ctx)
		return err
	})
	if err != nil {
		return err
	}
	defer t.close()
	if err := f(t); err != nil {
		return err
	}
	if err := t.sql.Commit(); err != nil {
		return d.commitError(err)
	}
	if d.committed == nil {
		return nil
	}
	return t.conn.Raw(d.committed)
}

func (d *DB) beginWrite(ctx context.Context) (*tx, error) {
	conn, err := d.writer.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if wait := time.Until(d.free); wait > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	t := &tx{db: d, ctx: ctx, conn: conn, began: time.Now(), stmts: map[string]*sql.Stmt{}}
	t.now = t.began.UTC().Truncate(time.Microsecond)
	if t.sql, err = conn.BeginTx(ctx, nil); err != nil {
		conn.Close()
		return nil, err
	}
	if d.begin == "" {
		return t, nil
	}
	if err := t.sql.QueryRowContext(ctx, d.begin).Scan(timeTo{&t.now}); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// Update implements [keystore.Database].
func (d *DB) Update(ctx context.Context, change func(keystore.Tx) error) (keystore.Revision, error) {
	var head keystore.Revision
	var refused error
	err := d.write(ctx, func(t *tx) error {
		if refused = change(t); refused == nil {
			// One that went on after the database failed must not commit: it may have rolled back already.
			refused = t.failed
		}
		if refused != nil {
			return refused
		}
		if err := t.row("SELECT revision FROM head").Scan(&head); err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM change_log WHERE revision <= ?", head-d.keep); err != nil {
			return err
		}
		_, err := t.exec("DELETE FROM marks WHERE revision <= ?", head-d.keep)
		return err
	})
	if refused != nil {
		return 0, refused
	}
	if err != nil {
		return 0, d.fail(ctx, "changing the database", err)
	}
	d.feed.committed(head)
	if d.copied.Load() >= analyzeFrom {
		d.copied.Store(0)
		_ = d.exec(ctx, d.readers, "analyzing", d.analyze) // without it, what comes next is slower
	}
	return head, nil
}

// RecordUse implements [keystore.Database].
func (d *DB) RecordUse(ctx context.Context, uses map[string]time.Time) error {
	const batch = 1000 // a revoke waits for one at most
	// In order, so that two processes that note the same ones do not wait for each other.
	ids := slices.Sorted(maps.Keys(uses))
	for part := range slices.Chunk(ids, batch) {
		micros := make(map[string]int64, len(part))
		for _, id := range part {
			micros[id] = uses[id].UnixMicro()
		}
		object, err := fromJSON(micros)
		if err != nil {
			return err
		}
		if err := d.exec(ctx, d.uses, "recording last uses", d.recordUse, object); err != nil {
			return err
		}
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

// start looks at the head again and again, and runs listen, which calls its argument whenever something may have changed.
func (f *feed) start(ctx context.Context, db *sql.DB, interval time.Duration, listen func(context.Context, func())) error {
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
	if listen != nil {
		f.done.Go(func() { listen(ctx, f.fire) })
	}
	f.done.Go(func() {
		tick := time.NewTicker(interval)
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
		f.fire()
	}
}

func (f *feed) fire() {
	select {
	case f.changed <- struct{}{}:
	default:
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
	rows, err := d.query(ctx, d.lease, "SELECT revision, kind, digest, ends FROM change_log WHERE revision > ? AND revision <= ? AND "+d.current+" ORDER BY revision, rowid", after, upTo)
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
