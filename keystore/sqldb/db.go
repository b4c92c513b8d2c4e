// Package sqldb implements [keystore.Database], the system of record, on SQLite and PostgreSQL.
//
// Both databases share the queries. Their differences are in [dialect] and in the migrations. Start
// reading at [DB.Update] and [DB.Renew].
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// keepRevisions is how many revisions the change log keeps. A node that is further behind treats
// everything as changed.
const keepRevisions = 100_000

// closeWait is how long Close waits for running calls.
const closeWait = 5 * time.Second

// A dialect holds the differences between the databases.
type dialect struct {
	goose      goose.Dialect
	migrations string // directory in migrations
	// migrationLock is a statement that makes other migrating processes wait until the end of its
	// transaction; empty: none.
	migrationLock string
	tableExists   string // query: whether there is a table of that name
	// clock is an expression for the database's time in Unix microseconds. It has a placeholder:
	// see DB.clockArg.
	clock    string
	standbys string // expression: whether commits wait for a standby
	timeline string // expression: the server's timeline
	current  string // condition: the data of this server is not older than that of any other
	// begin is a query that takes the lock of all writers, unless BEGIN has taken it, and returns
	// tx.now and tx.noted. It has a placeholder like clock.
	begin string
	// beginApart replaces begin in transactions that lock their own rows instead of all writers.
	beginApart string
	lockQuotas string // suffix of a query with a table q: it locks the rows of q
	skipLocked string // suffix of a query: it locks the rows, except those that are locked already
	prepares   bool   // repeated statements must be prepared by this package
	// contains is a condition with a verb for an expression and a placeholder for a text: the
	// expression contains the text, ignoring ASCII case.
	contains string
	// hasMetadata is a condition on a row k of keys, with placeholders for a name and a value.
	hasMetadata string
	bytewise    string // suffix of an expression: its text is compared byte by byte
	// touchesOnly is a condition on a row a of audit: it has namespaces, and all are in a JSON
	// array.
	touchesOnly string
	among       string // suffix of an expression: it is one of the texts in a JSON array
	amongHex    string // like among for bytes, which the array holds in hexadecimal
	// fromHex is an expression for the bytes of an expression in hexadecimal.
	fromHex func(string) string
	total   string // aggregate function: a sum that may be beyond 64 bits
	pairs   string // table: the fields of a JSON object, as key and value
	items   string // table: the items of a JSON array, as value
	// distinctIDs is a table with a verb for a query: the ids of the query without duplicates. The
	// database expects few, whatever its statistics say.
	distinctIDs string
	// analyze is a statement that updates the statistics of the tables, and so the query plans;
	// empty: not needed.
	analyze string
	// replan are arguments to put before those of a query that must be planned for the current size
	// of the tables.
	replan []any
	// beginMany is a statement: all secrets added between it and endMany are one change. Empty: the
	// database counts the rows itself.
	beginMany string
	endMany   string // statement
	resetMany string // statement for the connection, after the transaction of beginMany
	// unforced is a suffix of a condition: the commit may be answered before it is on disk. Empty:
	// not supported.
	unforced string
	lockKeys string // suffix of a query with a table k: it protects the rows of k from deletion
	// bigint is the type of a column for integers of 64 bits.
	bigint string
	// usageTable and usageMinutes are suffixes of CREATE TABLE for tables of usage. The latter is
	// for the usage by minutes.
	usageTable, usageMinutes string
	// shareUsage and lockUsage are suffixes of a query for a row of usage_state. They lock the row
	// until the end of the transaction. Others can share it only with shareUsage.
	shareUsage, lockUsage string
	impatient             string // statement: it limits how long this transaction waits for locks
	slowDrop              bool   // DROP TABLE reads all of the table while others cannot write

	// rest is how long a process waits before it takes the write lock again, after it has held the
	// lock for longer than rest. Other processes, which poll for the lock, get it meanwhile.
	rest time.Duration

	// copyRows adds many rows at once; nil: not supported.
	copyRows func(ctx context.Context, driverConn any, table string, columns []string,
		rows [][]any) error
	// bind converts the placeholders, each a ?, into the form of the database.
	bind        func(query string) string
	text        func(string) string // converts a text into the form that is stored and compared
	isBusy      func(error) bool    // the write did not begin: retry
	isLost      func(error) bool    // the connection was cut: another may work
	sqlState    func(error) string  // the SQLSTATE of an error; empty: it has none
	commitError func(error) error   // explains an error of COMMIT, after which the change may exist
	// committed returns an error if the last COMMIT may be lost although it succeeded; nil: never.
	committed func(driverConn any) error
	explain   func(error) error // adds advice to an error
}

// DB is a [keystore.Database].
type DB struct {
	dialect
	writer   *sql.DB // for changes
	readers  *sql.DB // for lookups of credentials: each finds one row by an index
	bulk     *sql.DB // for reads that may take long, by people and by programs that manage keys
	lease    *sql.DB // for lease renewals, which must not wait for the readers
	nodeRows *sql.DB // for writes of the nodes' rows
	uses     *sql.DB // for last uses and other writes that need no standby: see dialect.unforced
	quotas   *sql.DB // for grants of quotas, which must not wait for changes
	usage    *sql.DB // for usage, which must not wait for changes

	postgres  *postgres // nil: SQLite
	timelines timelines

	byDigest *sql.Stmt
	renew    *sql.Stmt

	closeWait time.Duration     // how long Close waits for running calls
	keep      keystore.Revision // how many revisions the change log keeps
	maxScan   int               // see the constant maxScan
	// rollUpRows is about how many rows one call of MaintainUsage rolls up: see the constant.
	rollUpRows int
	holder     *sql.Conn // of an SQLite file, see holdFiles
	files      files
	copied     atomic.Int64 // rows since the last analyze
	// restUntil is the time before which this process must not take the write lock: see
	// dialect.rest. Only the goroutine that has the writer's connection uses it.
	restUntil  time.Time
	background background
	forgetAt   atomic.Int64 // when to look for old periods of quotas, in Unix nanoseconds
	locks      locks
	feed       feed
}

var _ keystore.Database = (*DB)(nil)

func newDB(d dialect) *DB {
	return &DB{
		dialect: d, closeWait: closeWait, keep: keepRevisions, maxScan: maxScan,
		rollUpRows: rollUpRows, background: background{slot: make(chan struct{}, 1)},
		feed: feed{changed: make(chan struct{}, 1)},
	}
}

// start migrates the schema, prepares the statements and begins to follow the change log.
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
		return d.feed.start(ctx, d.lease, netInterval, d.postgres.listen, d.files, d.intact)
	}
	return d.feed.start(ctx, d.lease, pollInterval, nil, d.files, d.intact)
}

// firstWrite checks at the start that this process can write. Otherwise the first change would
// fail. In PostgreSQL a write may wait forever, for a lock or for a standby. After firstWriteWait,
// firstWrite returns an error that says for which.
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
		return advisedError{
			"PostgreSQL does not confirm a change: check that a synchronous standby is running",
			ctx.Err()}
	default:
		return advisedError{adviceLocked, ctx.Err()}
	}
}

// An advisedError is an error with advice for the operator.
type advisedError struct {
	advice string
	err    error
}

func (e advisedError) Error() string { return fmt.Sprintf("%s (%v)", e.advice, e.err) }
func (e advisedError) Unwrap() error { return e.err }

// Advice returns the advice in an error of this package, without details that may name servers and
// files. It is empty if the error has none.
func Advice(err error) string {
	e, _ := errors.AsType[advisedError](err)
	return e.advice
}

// Close implements [keystore.Database]. Files that must not be closed stay open until the process
// ends, and so do the locks of their nodes.
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

// closePools closes idle connections at once and connections in use when they are returned. It
// waits at most closeWait for the latter.
func (d *DB) closePools() error {
	// The readers go first: the last connection to close copies the write-ahead log into the file.
	if d.holder != nil {
		d.holder.Close()
	}
	pools := []*sql.DB{d.readers, d.bulk, d.lease, d.uses, d.quotas, d.usage, d.writer}
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

// explain adds advice to an error of the database. If the context has ended, it returns the
// context's error instead.
func (d *DB) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if Advice(err) != "" {
		return err
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

// retryBusy calls f until the write lock is free. SQLite's own busy handler does not know the
// context.
func (d *DB) retryBusy(ctx context.Context, f func() error) error { return retry(ctx, d.isBusy, f) }

// retryLost calls f until its connection works. After a restart of the server, every connection of
// the pool may be cut.
func (d *DB) retryLost(ctx context.Context, f func() error) error { return retry(ctx, d.isLost, f) }

// longestPoll is the longest sleep between two attempts to take the write lock.
const longestPoll = 20 * time.Millisecond

func retry(ctx context.Context, again func(error) bool, f func() error) error {
	deadline := time.Now().Add(writeWait)
	var before error
	for wait := time.Millisecond; ; wait = min(2*wait, longestPoll) {
		err := f()
		if err != nil && ctx.Err() != nil && before != nil {
			// The earlier error is the reason why the time was not enough.
			return fmt.Errorf("%w: %w", ctx.Err(), before)
		}
		if err == nil || !again(err) || time.Now().After(deadline) {
			return err
		}
		before = err
		if ended := sleep(ctx, wait); ended != nil {
			return fmt.Errorf("%w: %w", ended, err)
		}
	}
}

// sleep waits. It returns an error if ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// query runs a query outside of transactions.
func (d *DB) query(
	ctx context.Context, pool *sql.DB, query string, args ...any,
) (rows *sql.Rows, err error) {
	err = d.retryLost(ctx, func() error {
		rows, err = pool.QueryContext(ctx, d.bind(query), d.texts(args)...)
		return err
	})
	return rows, err
}

// read returns a querier for bulk reads, planned for their arguments and the current tables.
func (d *DB) read(ctx context.Context) querier {
	return func(query string, args ...any) (*sql.Rows, error) {
		return d.query(ctx, d.bulk, query, append(slices.Clip(d.replan), args...)...)
	}
}

// exec runs a statement that is its own transaction, takes no revision, and may run twice. A
// statement that must be durable has to write its row even if the row already has the values: an
// earlier attempt may have failed after writing them on this server alone.
func (d *DB) exec(
	ctx context.Context, pool *sql.DB, operation, statement string, args ...any,
) error {
	_, err := d.affect(ctx, pool, operation, statement, args...)
	return err
}

// affect is exec and returns how many rows the statement has affected. If it was repeated, these
// are the rows of the last attempt only.
func (d *DB) affect(
	ctx context.Context, pool *sql.DB, operation, statement string, args ...any,
) (n int64, err error) {
	if err := d.intact(); err != nil {
		return 0, fmt.Errorf("%s: %w", operation, err)
	}
	err = d.retryBusy(ctx, func() error {
		conn, err := pool.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		result, err := conn.ExecContext(ctx, d.bind(statement), d.texts(args)...)
		if err != nil {
			return err
		}
		if n, err = result.RowsAffected(); err != nil {
			return err
		}
		return d.confirm(conn)
	})
	return n, d.fail(ctx, operation, err)
}

// confirm fails if the connection's last commit may be lost although the database reported success.
func (d *DB) confirm(conn *sql.Conn) error {
	if d.committed == nil {
		return nil
	}
	return conn.Raw(d.committed)
}

// clockArg returns the argument for the placeholder of dialect.clock: the time of this machine for
// SQLite, which has no other clock, and nil for PostgreSQL.
func (d *DB) clockArg() any {
	if d.postgres != nil {
		return nil
	}
	return time.Now().UnixMicro()
}

// texts converts, in place, each text into the form that the database stores.
func (d *DB) texts(args []any) []any {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = d.text(s)
		}
	}
	return args
}

// write runs f in a transaction that holds the lock of all writers: see dialect.begin.
func (d *DB) write(ctx context.Context, f func(*tx) error) error {
	d.background.changes.Add(1)
	defer d.background.changes.Add(-1)
	return d.transact(ctx, d.writer, d.begin, f)
}

// transact runs f in a transaction on a connection of the pool, after the query begin.
func (d *DB) transact(
	ctx context.Context, pool *sql.DB, begin string, f func(*tx) error,
) error {
	var t *tx
	err := d.retryBusy(ctx, func() (err error) {
		t, err = d.beginWrite(ctx, pool, begin)
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

// beginWrite begins a transaction with the query begin.
func (d *DB) beginWrite(ctx context.Context, pool *sql.DB, begin string) (*tx, error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if wait := time.Until(d.restUntil); wait > 0 {
		_ = sleep(ctx, wait) // BeginTx reports the end of ctx
	}
	t := &tx{db: d, ctx: ctx, conn: conn, began: time.Now(), stmts: map[string]*sql.Stmt{}}
	if t.sql, err = conn.BeginTx(ctx, nil); err != nil {
		conn.Close()
		return nil, err
	}
	if err := t.sql.QueryRowContext(ctx, d.bind(begin),
		d.clockArg()).Scan(timeTo{&t.now}, timeTo{&t.noted}); err != nil {
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
			// A change that ignored an error of the database must not commit: the transaction may
			// have been rolled back already.
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
		_ = d.exec(ctx, d.bulk, "analyzing", d.analyze) // without it, later queries are slower
	}
	return head, nil
}

// A feed reports new revisions of this process and of others.
type feed struct {
	mu      sync.Mutex // for sending to changed, and closing it
	changed chan struct{}
	stopped bool
	seen    atomic.Int64 // the last reported revision

	silences  atomic.Int64 // how often reading the head has failed, perhaps because of a failover
	confirmed atomic.Int64 // the value of silences before the last Join or Confirm
	cancel    context.CancelFunc
	done      sync.WaitGroup
}

// maxSilence is how long the database may take to return the head. Every failover takes longer.
const maxSilence = 2 * time.Second

// pollInterval leaves room for a slow poll within the 100 ms that keystore.Database allows.
const pollInterval = 50 * time.Millisecond

// settled is the time after the last write to the files during which every poll reads the head. A
// write can be seen only when it is on disk, and old file systems round its time to a second.
const settled = time.Second

// start polls the head and runs listen, which calls its argument whenever something may have
// changed. While the files show that nothing was written, it reads the head every netInterval only.
// It fires once when the database is no longer intact; the next call that reads the head returns the
// reason.
func (f *feed) start(
	ctx context.Context, db *sql.DB, interval time.Duration, listen func(context.Context, func()),
	files files, intact func() error,
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
		var asked, written time.Time // the last query, and the last write just before it
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
			now, last := time.Now(), files.written()
			if last.Equal(written) && !last.IsZero() &&
				asked.Sub(last) > settled && now.Sub(asked) < netInterval {
				continue
			}
			asked, written = now, last
			look, cancel := context.WithTimeout(ctx, maxSilence)
			err := stmt.QueryRowContext(look).Scan(&head)
			cancel()
			if err != nil { // the next call that reads the head reports it
				f.silences.Add(1)
				written = time.Time{}
				continue
			}
			f.committed(keystore.Revision(head))
		}
	})
	return nil
}

// committed fires if the head is new.
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

// Changes implements [keystore.Database]. It requires that the log has every revision in the range.
func (d *DB) Changes(
	ctx context.Context, after, upTo keystore.Revision,
) ([]keystore.Change, error) {
	const operation = "reading the change log"
	rows, err := d.query(ctx, d.lease,
		"SELECT revision, kind, digest, ends, (SELECT owner FROM keys WHERE id = key_id) "+
			"FROM change_log WHERE revision > ? AND revision <= ? "+
			"AND "+d.current+" ORDER BY revision, rowid", after, upTo)
	if err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	defer rows.Close()
	var out []keystore.Change
	last := after
	for rows.Next() {
		var c keystore.Change
		if err := rows.Scan(&c.Revision, &c.Kind, digestTo{&c.Digest}, timeTo{&c.Ends},
			textTo{&c.Owner}); err != nil {
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
