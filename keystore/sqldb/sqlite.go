package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// writeWait is how long a change waits for another process to end its own, unless its context
	// ends first.
	writeWait = 30 * time.Second
	// readers is how many look-ups run at the same time.
	readers = 8
	// bulkReaders is how many lists, searches and pages of the audit log are read at the same time.
	bulkReaders = 4

	// Sizes of the page cache of changes, in KiB, which it has when there is so much to keep:
	// always, and while many keys are added.
	writerCache = "-16000"
	importCache = "-262144"
)

var sqliteDialect = dialect{
	goose:       goose.DialectSQLite3,
	migrations:  "sqlite",
	tableExists: "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?)",
	clock:       "?",
	standbys:    "false",
	timeline:    "''",
	begin:       "SELECT max(?, coalesce(noted, 0)) FROM clock",
	current:     "1 = 1",
	prepares:    true,
	contains:    "instr(lower(%s), lower(?)) > 0", // its lower() knows ASCII only, as it should
	touchesOnly: `json_array_length(a.namespaces) > 0 AND NOT EXISTS (SELECT 1 FROM json_each(a.namespaces) n
		WHERE n.value NOT IN (SELECT value FROM json_each(?)))`,
	hasMetadata: "EXISTS (SELECT 1 FROM json_each(k.metadata) m WHERE m.type = 'text' AND m.key = " +
		"? AND m.value = ?)",
	among:    "IN (SELECT value FROM json_each(?))",
	amongHex: "IN (SELECT unhex(value) FROM json_each(?))",
	pairs:    "json_each(?)",
	few:      "(SELECT DISTINCT id FROM (%s))",
	// Keys of random order reach all of their indexes' pages: with no room for these, each would be
	// written and read again with every batch.
	addMany:   "PRAGMA cache_size = " + importCache + "; INSERT INTO adding (one) VALUES (1)",
	addedMany: "DELETE FROM adding",
	manyEnds:  "PRAGMA cache_size = " + writerCache,
	rest:      longestPoll + longestPoll/2,
	recordUse: `INSERT INTO last_uses (key_id, used_at)
		SELECT k.id, u.value FROM json_each(?) u JOIN keys k ON k.id = u.key WHERE true
		ON CONFLICT (key_id) DO UPDATE SET used_at = excluded.used_at WHERE excluded.used_at > last_uses.used_at`,
	bind:        func(query string) string { return query },
	text:        func(s string) string { return s },
	isBusy:      func(err error) bool { return sqliteCode(err)&0xff == sqlite3.SQLITE_BUSY },
	isLost:      func(error) bool { return false },
	commitError: func(err error) error { return err },
	explain:     explainSQLite,
}

// OpenSQLite opens the database in a file, which it makes, readable by its owner alone, if there is
// none. Several processes of one machine may have it open; a network file system will not do.
//
// The connections: one writes; eight look up keys; four read lists; two are for leases and the
// feed of changes; and one does nothing but keep SQLite from removing the log. None waits for
// another kind.
func OpenSQLite(ctx context.Context, path string) (*DB, error) {
	path, err := createSQLite(path)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w",
			advised{"the file and its directory must exist and be writable, and the disk must " +
				"have room", fileError{err}})
	}
	d := newDB(sqliteDialect)
	if canLock {
		d.locks.base = path
	}
	// before SQLite takes their log for that of our file
	if err := d.locks.checkOthers(); err != nil {
		return nil, fmt.Errorf("opening the database: %w", fileError{err})
	}
	// The writer asks for the lock at BEGIN and waits in Go, where the context counts.
	d.writer = d.openSQLite(path, 1, "busy_timeout(0)", "synchronous(FULL)",
		"journal_size_limit(67108864)", "cache_size("+writerCache+")")
	d.readers = d.openSQLite(path, readers, "busy_timeout(1000)", "query_only(1)",
		"cache_size(-8000)")
	d.bulk = d.openSQLite(path, bulkReaders, "busy_timeout(1000)", "query_only(1)",
		"cache_size(-8000)")
	d.lease = d.openSQLite(path, 3, "busy_timeout(1000)", "query_only(1)")
	d.beats, d.uses = d.writer, d.writer
	d.committed = func(any) error { return d.intact() }
	err = d.start(ctx, func(ctx context.Context, d *DB) error {
		if err := refuseForeign(ctx, d); err != nil {
			return err
		}
		if err := sqliteWAL(ctx, d); err != nil {
			return err
		}
		return d.holdFiles(ctx, path)
	})
	if err != nil {
		d.closePools()
		// what a deadline has cut short is said too
		return nil, fmt.Errorf("opening the database %s: %w", path, explainSQLite(err))
	}
	return d, nil
}

// createSQLite makes the file, and its directory, if missing, and returns its one true path. SQLite
// gives the files it makes beside it the same mode. An existing file must not be opened here:
// closing it would drop the POSIX locks that SQLite holds on it for other connections of this
// process.
func createSQLite(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	switch {
	case err == nil:
		if err := f.Close(); err != nil {
			return "", err
		}
	case !errors.Is(err, fs.ErrExist):
		return "", err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is a directory or device: name a file in it", path)
	}
	return path, err
}

func (d *DB) openSQLite(path string, conns int, pragmas ...string) *sql.DB {
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: url.Values{
		"_pragma": pragmas, "_txlock": {"immediate"}, "_dqs": {"0"}, "_error_rc": {"1"},
	}.Encode()}
	db := sql.OpenDB(&intactOnly{d, u.String()})
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db
}

// intactOnly opens connections to a file of which nothing was replaced: SQLite would create a log
// that was removed, under the eyes of the next process that opens the file.
type intactOnly struct {
	db  *DB
	dsn string
}

// sqliteDriver is the one that its package has registered: it has no other.
var sqliteDriver = func() driver.Driver {
	db, err := sql.Open("sqlite", "")
	if err != nil {
		panic(err) // the driver is not there: a build error
	}
	return db.Driver()
}()

// Connect implements [driver.Connector].
func (c *intactOnly) Connect(context.Context) (driver.Conn, error) {
	if err := c.db.intact(); err != nil {
		return nil, err
	}
	return sqliteDriver.Open(c.dsn)
}

// Driver implements [driver.Connector].
func (*intactOnly) Driver() driver.Driver { return sqliteDriver }

// refuseForeign fails if the file has tables of another program. It changes nothing in it.
func refuseForeign(ctx context.Context, d *DB) error {
	return d.retryBusy(ctx, func() error {
		var all, versions, version, head int
		err := d.writer.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE name = '`+schemaTable+`'),
				(SELECT count(*) FROM pragma_table_info('`+schemaTable+`') WHERE name = 'version_id'),
				count(*) FILTER (WHERE type = 'table' AND name = 'head')
			FROM sqlite_master WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'`).Scan(&all, &versions, &version, &head)
		// A first start that was stopped leaves the table of versions alone.
		if err != nil || all == 0 || version == 1 && (head == 1 || all == versions) {
			return err
		}
		return advised{"this file belongs to another program: name another file", errForeign}
	})
}

var errForeign = errors.New("its tables are not those of caddy-apikeys")

// sqliteWAL turns on write-ahead logging, which stays on.
func sqliteWAL(ctx context.Context, d *DB) error {
	return d.retryBusy(ctx, func() error {
		var mode string
		err := d.writer.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode)
		if err == nil && mode != "wal" {
			err = fmt.Errorf("write-ahead logging cannot be had here (journal mode %s): keep the "+
				"database on a local disk", mode)
		}
		return err
	})
}

// holdFiles keeps SQLite from removing the log as long as the database is open, and notes which
// files it has opened.
func (d *DB) holdFiles(ctx context.Context, path string) (err error) {
	if d.holder, err = d.lease.Conn(ctx); err != nil {
		return err
	}
	if err := d.holder.QueryRowContext(ctx,
		"SELECT count(*) FROM sqlite_master").Scan(new(int)); err != nil {
		return err
	}
	if d.files, err = noteFiles(path); err != nil {
		return fileError{err}
	}
	d.locks.files = fileIDs(path)
	return d.locks.checkOthers() // the files may have been replaced since it was asked before
}

func sqliteCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return 0
}

// explainSQLite adds to an error what to do about it.
func explainSQLite(err error) error {
	var advice string
	switch sqliteCode(err) & 0xff {
	case sqlite3.SQLITE_FULL:
		advice = "the disk is full, nothing was changed: make room and try again"
	case sqlite3.SQLITE_BUSY:
		advice = "another process holds the database's lock, nothing was changed: try again, or " +
			"end the program that has a transaction open"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		advice = "the file and its directory must be writable for the user that this program runs " +
			"as"
	case sqlite3.SQLITE_CANTOPEN:
		advice = "its directory must exist and be writable for the user that this program runs as"
	case sqlite3.SQLITE_NOTADB:
		advice = "this file is not an SQLite database: name another, or move it away"
	case sqlite3.SQLITE_CORRUPT:
		advice = "the file is damaged: restore a backup, or see https://sqlite.org/recovery.html"
	case sqlite3.SQLITE_IOERR:
		advice = "the disk reports an error or is full"
	default:
		return err
	}
	return advised{advice, err}
}
