package sqldb

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
)

// sqliteStore is a database file for the conformance suite.
type sqliteStore struct{ path string }

func newSQLite(t *testing.T) sqliteStore {
	return sqliteStore{filepath.Join(t.TempDir(), "keys.db")}
}

func (s sqliteStore) Open(t *testing.T) keystore.Database {
	t.Helper()
	d, err := OpenSQLite(context.Background(), s.path)
	if err != nil {
		t.Fatal(err)
	}
	once := &closeOnce{DB: d}
	t.Cleanup(func() { once.Close() })
	return once
}

// closeOnce lets a test close what the end of the test would.
type closeOnce struct {
	*DB
	closed bool
}

func (c *closeOnce) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	return c.DB.Close()
}

func (s sqliteStore) Exec(statement string) error {
	shell, err := sql.Open("sqlite", "file:"+s.path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer shell.Close()
	_, err = shell.Exec(statement)
	return err
}

func TestSQLite(t *testing.T) {
	keystoretest.TestDatabase(t, func(t *testing.T) keystoretest.Store { return newSQLite(t) })
}
