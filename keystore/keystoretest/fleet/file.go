package fleet

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// File returns the path of a new SQLite file that no node has used. The file already has the
// schema: creating that takes longer than most tests.
func File(t testing.TB) string {
	t.Helper()
	content, err := schema()
	path := filepath.Join(t.TempDir(), "apikeys.db")
	if err == nil {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// schema returns the content of a file that has the schema and no rows of a deployment.
var schema = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "schema-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "apikeys.db")
	db, err := sqldb.OpenSQLite(context.Background(), path)
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil { // also writes the log back to the file
		return nil, err
	}
	return os.ReadFile(path)
})
