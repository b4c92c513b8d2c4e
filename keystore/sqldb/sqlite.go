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
	// writeWait is how long a change waits for the change of another process, unless its context
	// ends first.
	writeWait = 30 * time.Second
	// readers is how many lookups run at the same time. It must be more than the lookups of unknown
	// credentials that a node runs (untaggedLoads in keystore/node).
	readers = 8
	// bulkReaders is how many lists, searches and pages of the audit log run at the same time.
	bulkReaders = 4

	// writerCache is the maximum size of the writer's page cache, as a negative number of KiB.
	writerCache = "-16000"
	// importCache is the maximum size of the writer's page cache while it adds many keys.
	importCache = "-262144"
)

const beginSQLite = "SELECT max(?, coalesce(noted, 0)), noted FROM clock"

var sqliteDialect = dialect{
	goose:       goose.DialectSQLite3,
	migrations:  "sqlite",
	tableExists: "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?)",
	clock:       "?",
	standbys:    "false",
	timeline:    "''",
	begin:       beginSQLite,
	beginApart:  beginSQLite, // BEGIN has taken the lock of all writers anyway
	current:     "1 = 1",
	prepares:    true,
	contains:    "instr(lower(%s), lower(?)) > 0", // lower converts ASCII letters only, as required
	touchesOnly: `json_array_length(a.namespaces) > 0 AND NOT EXISTS (
		SELECT 1 FROM json_each(a.namespaces) n
		WHERE n.value NOT IN (SELECT value FROM json_each(?)))`,
	hasMetadata: "EXISTS (SELECT 1 FROM json_each(k.metadata) m " +
		"WHERE m.type = 'text' AND m.key = ? AND m.value = ?)",
	among:       "IN (SELECT value FROM json_each(?))",
	amongHex:    "IN (SELECT unhex(value) FROM json_each(?))",
	fromHex:     func(text string) string { return "unhex(" + text + ")" },
	total:       "total", // a double, so sums beyond 2^53 are rounded; sum would fail
	pairs:       "json_each(?)",
	items:       "json_each(?)",
	distinctIDs: "(SELECT DISTINCT id FROM (%s))",
	// Random digests change all pages of their index. Without room for these in the cache, each
	// batch would write and read every page again.
	beginMany:    "PRAGMA cache_size = " + importCache + "; INSERT INTO adding (one) VALUES (1)",
	endMany:      "DELETE FROM adding",
	resetMany:    "PRAGMA cache_size = " + writerCache,
	rest:         longestPoll + longestPoll/2,
	slowDrop:     true,
	bigint:       "INTEGER",
	usageTable:   " WITHOUT ROWID, STRICT",
	usageMinutes: " WITHOUT ROWID, STRICT",
	bind:         func(query string) string { return query },
	text:         func(s string) string { return s },
	isBusy:       func(err error) bool { return sqliteCode(err)&0xff == sqlite3.SQLITE_BUSY },
	isLost:       func(error) bool { return false },
	sqlState:     func(error) string { return "" },
	commitError:  func(err error) error { return err },
	explain:      explainSQLite,
}

// OpenSQLite opens the database in a file. It creates the file, readable only by its owner, if it
// does not exist. Several processes on one machine may have it open. The file must not be on a
// network file system.
//
// It uses one connection for writes, eight for lookups of keys, four for lists, two for leases and
// the change feed, and one that only keeps SQLite from removing the log. No kind waits for another.
func OpenSQLite(ctx context.Context, path string) (*DB, error) {
	path, err := createSQLite(path)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w",
			advisedError{"the file and its directory must exist and be writable, " +
				"and the disk must have space", fileError{err}})
	}
	d := newDB(sqliteDialect)
	if canLock {
		d.locks.base = path
	}
	// Check this first, because SQLite could apply the log of other files to ours.
	if err := d.locks.checkOthers(); err != nil {
		return nil, fmt.Errorf("opening the database: %w", fileError{err})
	}
	// The writer takes the lock at BEGIN. It waits for the lock in Go, where the context can end
	// the wait.
	d.writer = d.openSQLite(path, 1, "busy_timeout(0)", "synchronous(FULL)",
		"journal_size_limit(67108864)", "cache_size("+writerCache+")")
	d.readers = d.openSQLite(path, readers, "busy_timeout(1000)", "query_only(1)",
		"cache_size(-8000)")
	d.bulk = d.openSQLite(path, bulkReaders, "busy_timeout(1000)", "query_only(1)",
		"cache_size(-8000)")
	d.lease = d.openSQLite(path, 3, "busy_timeout(1000)", "query_only(1)")
	d.nodeRows, d.uses, d.quotas, d.usage = d.writer, d.writer, d.writer, d.writer
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
		_ = d.closePools() // the first error counts
		// After a deadline, the error also contains the cause of the delay.
		return nil, fmt.Errorf("opening the database %s: %w", path, explainSQLite(err))
	}
	return d, nil
}

// createSQLite creates the file and its directory, if missing, and returns the path without
// symbolic links. SQLite creates its other files with the same mode. An existing file must not be
// opened here: closing it would drop the POSIX locks that SQLite holds on it for other connections
// of this process.
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
		err = fmt.Errorf("%s is a directory or device: name a regular file", path)
	}
	return path, err
}

func (d *DB) openSQLite(path string, conns int, pragmas ...string) *sql.DB {
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: url.Values{
		"_pragma": pragmas, "_txlock": {"immediate"}, "_dqs": {"0"}, "_error_rc": {"1"},
	}.Encode()}
	db := sql.OpenDB(&intactConnector{d, u.String()})
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db
}

// An intactConnector is a [driver.Connector] that refuses to connect after a file was replaced.
// SQLite would create a removed log again, and the next process that opens the database would use
// it.
type intactConnector struct {
	db  *DB
	dsn string
}

// sqliteDriver is the driver that package sqlite has registered. The package exports none.
var sqliteDriver = func() driver.Driver {
	db, err := sql.Open("sqlite", "")
	if err != nil {
		panic(err) // the driver is not linked in
	}
	return db.Driver()
}()

// Connect implements [driver.Connector].
func (c *intactConnector) Connect(context.Context) (driver.Conn, error) {
	if err := c.db.intact(); err != nil {
		return nil, err
	}
	return sqliteDriver.Open(c.dsn)
}

// Driver implements [driver.Connector].
func (*intactConnector) Driver() driver.Driver { return sqliteDriver }

// refuseForeign returns an error if the file has tables of another program. It does not change the
// file.
func refuseForeign(ctx context.Context, d *DB) error {
	return d.retryBusy(ctx, func() error {
		var all, versions, version, head int
		err := d.writer.QueryRowContext(ctx, `SELECT count(*),
				count(*) FILTER (WHERE name = '`+schemaTable+`'),
				(SELECT count(*) FROM pragma_table_info('`+schemaTable+`')
					WHERE name = 'version_id'),
				count(*) FILTER (WHERE type = 'table' AND name = 'head')
			FROM sqlite_master WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'`).
			Scan(&all, &versions, &version, &head)
		// An interrupted first start leaves only the table of versions.
		if err != nil || all == 0 || version == 1 && (head == 1 || all == versions) {
			return err
		}
		return advisedError{"this file belongs to another program: name another file", errForeign}
	})
}

var errForeign = errors.New("its tables are not those of caddy-apikeys")

// sqliteWAL turns on write-ahead logging, permanently.
func sqliteWAL(ctx context.Context, d *DB) error {
	return d.retryBusy(ctx, func() error {
		var mode string
		err := d.writer.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode)
		if err == nil && mode != "wal" {
			err = fmt.Errorf("turning on write-ahead logging: the journal mode is %s: keep the "+
				"database on a local disk", mode)
		}
		return err
	})
}

// holdFiles keeps SQLite from removing the log as long as the database is open, and records which
// files are open.
func (d *DB) holdFiles(ctx context.Context, path string) (err error) {
	if d.holder, err = d.lease.Conn(ctx); err != nil {
		return err
	}
	if err := d.holder.QueryRowContext(ctx,
		"SELECT count(*) FROM sqlite_master").Scan(new(int)); err != nil {
		return err
	}
	if d.files, err = statFiles(path); err != nil {
		return fileError{err}
	}
	d.locks.files = fileIDs(path)
	return d.locks.checkOthers() // again: the files may have been replaced meanwhile
}

func sqliteCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return 0
}

// explainSQLite adds advice to an error.
func explainSQLite(err error) error {
	var advice string
	switch sqliteCode(err) & 0xff {
	case sqlite3.SQLITE_FULL:
		advice = "the disk is full; nothing was changed: free space and try again"
	case sqlite3.SQLITE_BUSY:
		advice = "another process holds the database's lock; nothing was changed: try again, or " +
			"stop the program that has a transaction open"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		advice = "the file and its directory must be writable for the user that runs this program"
	case sqlite3.SQLITE_CANTOPEN:
		advice = "its directory must exist and be writable for the user that runs this program"
	case sqlite3.SQLITE_NOTADB:
		advice = "this file is not an SQLite database: name another file, or move this one away"
	case sqlite3.SQLITE_CORRUPT:
		advice = "the file is damaged: restore a backup, or see https://sqlite.org/recovery.html"
	case sqlite3.SQLITE_IOERR:
		advice = "the disk reports an error or is full"
	default:
		return err
	}
	return advisedError{advice, err}
}
