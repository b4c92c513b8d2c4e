// Package sqldb is the system of record in an SQL database: [keystore.Database] for SQLite and
// PostgreSQL.
//
// The queries are written for both alike; where the two differ is in [dialect] and the migrations.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// keepRevisions is how much of the change log stays. A node that is further behind treats
// everything as changed.
const keepRevisions = 100_000

// closeWait is how long Close waits for running calls.
const closeWait = 5 * time.Second

// A dialect is what the databases do not agree on.
type dialect struct {
	goose      goose.Dialect
	migrations string
	// statement: holds off others that migrate until the end of its transaction; empty: none
	migrationLock string
	tableExists   string // query: whether there is a table of that name
	// expression with a place: the database's time in Unix microseconds, see reading
	clock    string
	standbys string // expression: whether commits wait for a standby
	timeline string // expression: the server's timeline
	current  string // condition: what this server knows is not older than what any other does
	// query with a place as in clock: takes the lock of all who write, unless BEGIN has, and
	// returns the time of the change
	begin    string
	prepares bool // statements that come again and again have to be prepared by hand
	// condition, with a place for an expression: that it contains a text, whatever the ASCII case
	contains string
	// condition on a row k of keys, with places for a name and a value of its metadata
	hasMetadata string
	bytewise    string // the end of an expression: a text that is compared byte by byte
	// condition on a row a of the audit log: its namespaces are among those in a JSON array, and
	// there are some
	touchesOnly string
	among       string // the end of a condition: is one of the texts in a JSON array
	amongHex    string // the same for bytes, which the array has in hexadecimal
	// what stands in a FROM for the names and texts of a JSON object, as key and value
	pairs string
	// what stands in a FROM for the ids, each once, that a query finds: taken for few, whatever
	// else is known
	few string
	// statement: has the database look at the size of its tables, and make new plans; empty: it
	// need not be told
	analyze string
	// arguments before the others, so that a query is planned for the tables as they are now
	anew []any
	// statement: what is added to secrets until addedMany is one change; empty: the database sees
	// for itself that it is many
	addMany   string
	addedMany string // statement
	manyEnds  string // statement, on the connection: the transaction that has added many is over
	// the end of a condition: the commit is answered before it is on the disk; empty: there is no
	// such thing
	unforced  string
	recordUse string // statement: takes last uses as a JSON object, id to microseconds

	// that a process leaves the write lock alone after it has held it longer than this, so that
	// others who poll for it get it
	rest time.Duration

	// adds many rows at once; nil: there is no such way
	copyRows func(ctx context.Context, driverConn any, table string, columns []string,
		rows [][]any) error
	// gives the places for arguments, each a ?, the form that the database knows
	bind        func(query string) string
	text        func(string) string // what is stored of a text, and compared
	isBusy      func(error) bool    // of a write: it did not begin, try again
	isLost      func(error) bool    // the connection had been cut, another one may be good
	commitError func(error) error   // of a COMMIT: says so if the change may have been made
	// after a COMMIT that was answered as made: why it may be lost all the same; nil: never
	committed func(driverConn any) error
	explain   func(error) error // adds what to do
}

// DB is a [keystore.Database].
type DB struct {
	dialect
	writer  *sql.DB // of changes
	readers *sql.DB // for look-ups of what a request shows: each finds one row, by an index
	bulk    *sql.DB // for reads that may take long: those of people, and of programs that manage
	lease   *sql.DB // for renewals and what belongs to them: never behind the readers
	beats   *sql.DB // for writes of the nodes' rows
	uses    *sql.DB // for writes of last uses, which wait for no standby: see dialect.unforced

	postgres  *postgres // nil: SQLite
	timelines timelines

	byDigest *sql.Stmt
	renew    *sql.Stmt

	closeWait     time.Duration // how long Close waits for calls that run
	keep          keystore.Revision
	lookedThrough int
	holder        *sql.Conn // of an SQLite file, see holdFiles
	files         files
	copied        atomic.Int64 // rows since the last analyze
	// until then the write lock is left to other processes; belongs to whoever has the writer
	free  time.Time
	locks locks
	feed  feed
}

var _ keystore.Database = (*DB)(nil)

func newDB(d dialect) *DB {
	return &DB{
		dialect: d, closeWait: closeWait, keep: keepRevisions, lookedThrough: lookedThrough,
		feed: feed{changed: make(chan struct{}, 1)},
	}
}

// start readies the schema and the statements, and follows the change log from then on.
func (d *DB) start(ctx context.Context, prepare func(context.Context, *DB) error) error {
	if err := prepare(ctx, d); err != nil {
		return err
	}
	if err := d.retryBusy(ctx, func() error { return d.migrate(ctx) }); err != nil {
		return err
	}
	if err := d.firstWrite(ctx); err != nil {
		return err
	}
	var err error
	if d.byDigest, err = d.readers.PrepareContext(ctx,
		d.bind(byDigestQuery+" WHERE "+d.current)); err != nil {
		return err
	}
	if d.renew, err = d.lease.PrepareContext(ctx, d.bind(d.renewQuery())); err != nil {
		return err
	}
	if d.postgres != nil {
		return d.feed.start(ctx, d.lease, netInterval, d.postgres.listen, d.intact)
	}
	return d.feed.start(ctx, d.lease, pollInterval, nil, d.intact)
}

// firstWrite checks at start that this process can write, so that the first change does not have to
// find out. A write may wait for others, in PostgreSQL for ever; a start reports that instead.
func (d *DB) firstWrite(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstWriteWait)
	defer cancel()
	began := false
	err := d.write(ctx, func(t *tx) error {
		began = true
		_, err := t.sql.ExecContext(ctx, "DELETE FROM nodes WHERE incarnation = ''")
		return err
	})
	switch {
	case d.postgres == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return err
	case began:
		return advised{
			"PostgreSQL does not confirm a change: is a synchronous standby running?", ctx.Err()}
	default:
		return advised{adviceLocked, ctx.Err()}
	}
}

// advised is an error with advice.
type advised struct {
	advice string
	err    error
}

func (e advised) Error() string { return fmt.Sprintf("%s (%v)", e.advice, e.err) }
func (e advised) Unwrap() error { return e.err }

// Advice returns the advice of an error of this package, without details that may name servers and
// files. It may be empty.
func Advice(err error) string {
	e, _ := errors.AsType[advised](err)
	return e.advice
}

// Close implements [keystore.Database]. Files that must not be closed stay open, and their nodes
// locked, until the process ends.
func (d *DB) Close() error {
	d.feed.stop()
	if !d.files.closable() {
		return d.intact()
	}
	d.emptyLog()
	err := d.closePools()
	d.locks.releaseAll()
	return err
}

// closePools closes idle connections at once, and connections in use when they are returned. It
// waits for those at most closeWait.
func (d *DB) closePools() error {
	// The readers go first: the last connection to leave folds the write-ahead log into the file.
	if d.holder != nil {
		d.holder.Close()
	}
	pools := []*sql.DB{d.readers, d.bulk, d.lease, d.uses, d.writer}
	var first error
	for _, pool := range pools {
		if err := pool.Close(); err != nil && first == nil {
			first = err
		}
	}
	deadline := time.Now().Add(d.closeWait)
	for _, pool := range pools {
		for n := pool.Stats().OpenConnections; n > 0; n = pool.Stats().OpenConnections {
			if time.Now().After(deadline) {
				return errors.Join(first,
					fmt.Errorf("closing the database: connections in use after %s: %d", d.closeWait,
						n))
			}
			time.Sleep(time.Millisecond)
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

// retryBusy calls f until the write lock is free. SQLite's own busy handler would not look at the
// context.
func (d *DB) retryBusy(ctx context.Context, f func() error) error { return retry(ctx, d.isBusy, f) }

// retryLost calls f until its connection is good: after a restart of the server each in the pool
// may be cut.
func (d *DB) retryLost(ctx context.Context, f func() error) error { return retry(ctx, d.isLost, f) }

// longestPoll is the longest sleep between two attempts to take the write lock.
const longestPoll = 20 * time.Millisecond

func retry(ctx context.Context, again func(error) bool, f func() error) error {
	deadline := time.Now().Add(writeWait)
	var before error
	for wait := time.Millisecond; ; wait = min(2*wait, longestPoll) {
		err := f()
		if err != nil && ctx.Err() != nil && before != nil {
			// which says more than that the time was over
			return fmt.Errorf("%w: %w", ctx.Err(), before)
		}
		if err == nil || !again(err) || time.Now().After(deadline) {
			return err
		}
		before = err
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// query runs one that returns rows, outside of transactions.
func (d *DB) query(
	ctx context.Context, pool *sql.DB, query string, args ...any,
) (rows *sql.Rows, err error) {
	err = d.retryLost(ctx, func() error {
		rows, err = pool.QueryContext(ctx, d.bind(query), d.texts(args)...)
		return err
	})
	return rows, err
}

// read runs a bulk query, planned for its arguments and the current tables.
func (d *DB) read(ctx context.Context) querier {
	return func(query string, args ...any) (*sql.Rows, error) {
		return d.query(ctx, d.bulk, query, append(slices.Clip(d.anew), args...)...)
	}
}

// exec runs a statement that is a transaction of its own, takes no revision, and may run twice. A
// statement that must be durable has to write its row even if the row has the values already: an
// earlier attempt may have failed after writing them on this server alone.
func (d *DB) exec(
	ctx context.Context, pool *sql.DB, operation, statement string, args ...any,
) error {
	if err := d.intact(); err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	err := d.retryBusy(ctx, func() error {
		conn, err := pool.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.ExecContext(ctx, d.bind(statement), d.texts(args)...); err != nil {
			return err
		}
		return d.confirm(conn)
	})
	return d.fail(ctx, operation, err)
}

// confirm fails if the connection's last commit may be lost although the database reported success.
func (d *DB) confirm(conn *sql.Conn) error {
	if d.committed == nil {
		return nil
	}
	return conn.Raw(d.committed)
}

// reading is what goes into the place of the dialect's clock: the time, where the database has no
// clock but this machine's.
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
	if err := d.intact(); err != nil {
		return err
	}
	if err := t.sql.Commit(); err != nil {
		return d.commitError(err)
	}
	return d.confirm(t.conn)
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
	if t.sql, err = conn.BeginTx(ctx, nil); err != nil {
		conn.Close()
		return nil, err
	}
	if err := t.sql.QueryRowContext(ctx, d.bind(d.begin),
		d.reading()).Scan(timeTo{&t.now}); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// Update implements [keystore.Database].
func (d *DB) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	var head keystore.Revision
	var refused error
	err := d.write(ctx, func(t *tx) error {
		if refused = change(t); refused == nil {
			// One that went on after the database failed must not commit: it may have rolled back
			// already.
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
		_ = d.exec(ctx, d.bulk, "analyzing", d.analyze) // without it, what comes next is slower
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
	mu      sync.Mutex // for sending to changed, and closing it
	changed chan struct{}
	stopped bool
	seen    atomic.Int64 // the revision last told of

	silences  atomic.Int64 // how often the database has not answered within maxSilence
	confirmed atomic.Int64 // what that was before the last Join or Confirm
	cancel    context.CancelFunc
	done      sync.WaitGroup
}

// maxSilence is how long the database may take to return the head. No failover is faster.
const maxSilence = 2 * time.Second

// pollInterval leaves room for a slow poll within the 100 ms of the contract.
const pollInterval = 50 * time.Millisecond

// start looks at the head again and again, and runs listen, which calls its argument whenever
// something may have changed. That the database is no longer intact is told once: whoever asks for
// the head is told what it is.
func (f *feed) start(
	ctx context.Context, db *sql.DB, interval time.Duration, listen func(context.Context, func()),
	intact func() error,
) error {
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
		for damaged := false; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			before := damaged
			if damaged = intact() != nil; damaged && !before {
				f.fire()
			}
			look, cancel := context.WithTimeout(ctx, maxSilence)
			err := stmt.QueryRowContext(look).Scan(&head)
			cancel()
			// it is left to whoever asks for the head next and can tell it to someone
			if err != nil {
				f.silences.Add(1)
				continue
			}
			f.committed(keystore.Revision(head))
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
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *feed) stop() {
	f.cancel()
	f.done.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	close(f.changed)
}

// Changed implements [keystore.Database].
func (d *DB) Changed() <-chan struct{} { return d.feed.changed }

// Changes implements [keystore.Database]. It answers only when the log has every revision that was
// asked for.
func (d *DB) Changes(
	ctx context.Context, after, upTo keystore.Revision,
) ([]keystore.Change, error) {
	const operation = "reading the change log"
	rows, err := d.query(ctx, d.lease,
		"SELECT revision, kind, digest, ends FROM change_log WHERE revision > ? AND revision <= ? "+
			"AND "+d.current+" ORDER BY revision, rowid", after, upTo)
	if err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	defer rows.Close()
	var out []keystore.Change
	last := after
	for rows.Next() {
		var c keystore.Change
		if err := rows.Scan(&c.Revision, &c.Kind, digestTo{&c.Digest},
			timeTo{&c.Ends}); err != nil {
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
