package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
)

// sqliteStore is a database file for the conformance suite.
type sqliteStore struct{ path string }

// newSQLite returns an empty, migrated database. It is a copy, because a migration takes as long as
// a small test.
func newSQLite(t testing.TB) sqliteStore {
	t.Helper()
	content, err := migrated()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return sqliteStore{path}
}

// migrated is the content of the file that newSQLite copies.
var migrated = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "sqldb")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "keys.db")
	d, err := OpenSQLite(context.Background(), path)
	if err != nil {
		return nil, err
	}
	if err := d.Close(); err != nil { // copies the log into the file
		return nil, err
	}
	return os.ReadFile(path)
})

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

// closeOnce ignores a second Close, so that a test can close the database before its end.
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
	t.Parallel()
	keystoretest.TestDatabase(t, func(t *testing.T) keystoretest.Store {
		return upgradedStore{newSQLite(t), sqliteDialect, new(bool)}
	})
}

// TestDamagedDerivingKey: a damaged public key is read as unknown, not as one for which everyone
// can sign.
func TestDamagedDerivingKey(t *testing.T) {
	d := newSQLite(t).Open(t).(*closeOnce)
	digest := insertSecret(t, d.DB)
	for _, statement := range []string{"PRAGMA ignore_check_constraints = ON",
		fmt.Sprintf("INSERT INTO deriving_keys VALUES (x'%x', x'00', 'ak')", digest[:])} {
		if _, err := d.writer.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if k, err := d.DerivingKey(t.Context(), digest); err != nil || k != (keystore.DerivingKey{}) {
		t.Error(k, err)
	}
	k, _, err := d.KeyByDigest(t.Context(), digest)
	if err != nil || k == nil || k.Secrets[0].Deriving != (keystore.DerivingKey{}) {
		t.Error(k, err)
	}
}
