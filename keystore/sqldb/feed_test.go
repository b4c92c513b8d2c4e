package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestFeedRests: while nothing is written, an SQLite database is read twice a second instead of
// twenty times. After a write, and while its time is unknown, it is read at every poll.
func TestFeedRests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		write := func(at time.Time) {
			if err := os.Chtimes(path, at, at); err != nil {
				t.Error(err)
			}
		}
		write(time.Now().Add(-time.Hour))
		var queries atomic.Int64
		db := sql.OpenDB(&countingConnector{queries: &queries})
		defer db.Close()
		db.SetMaxOpenConns(1)
		if _, err := db.Exec("CREATE TABLE head AS SELECT 1 AS revision"); err != nil {
			t.Fatal(err)
		}
		f := feed{changed: make(chan struct{}, 1)}
		if err := f.start(t.Context(), db, pollInterval, nil, files{{}, {path: path}},
			func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		defer f.stop()
		during := func(d time.Duration) int {
			before := queries.Load()
			time.Sleep(d)
			synctest.Wait()
			return int(queries.Load() - before)
		}
		during(time.Second)
		if n := during(10 * time.Second); n != 20 {
			t.Errorf("%d queries in 10 s at rest", n)
		}
		if _, err := db.Exec("UPDATE head SET revision = 2"); err != nil {
			t.Fatal(err)
		}
		written := time.Now()
		write(written)
		<-f.changed
		if took := time.Since(written); took > pollInterval {
			t.Error("the change was seen after", took)
		}
		// A slow write is visible only some time after the time that the file shows.
		if n := during(settled); n < 19 {
			t.Errorf("%d queries in the second after a write", n)
		}
		during(2 * pollInterval)
		if n := during(10 * time.Second); n != 20 {
			t.Errorf("%d queries in 10 s at rest again", n)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if n := during(10 * time.Second); n < 199 {
			t.Errorf("%d queries in 10 s without a log", n)
		}
	})
}

// A countingConnector connects to a database in memory and counts prepared queries.
type countingConnector struct{ queries *atomic.Int64 }

func (c *countingConnector) Connect(context.Context) (driver.Conn, error) {
	conn, err := sqliteDriver.Open(":memory:")
	return countingConn{conn, c.queries}, err
}

func (*countingConnector) Driver() driver.Driver { return sqliteDriver }

type countingConn struct {
	driver.Conn
	queries *atomic.Int64
}

func (c countingConn) Prepare(query string) (driver.Stmt, error) {
	stmt, err := c.Conn.Prepare(query)
	return countingStmt{stmt, c.queries}, err
}

type countingStmt struct {
	driver.Stmt
	queries *atomic.Int64
}

func (s countingStmt) Query(args []driver.Value) (driver.Rows, error) {
	s.queries.Add(1)
	return s.Stmt.Query(args) //nolint:staticcheck // the driver's own form without a context
}
