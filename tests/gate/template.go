package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// databaseFile is the name of the SQLite file in Caddy's data directory.
const databaseFile = "apikeys.db"

var (
	databases atomic.Int64 // SQLite files that the gates of this package have asked for
	template  = sync.OnceValues(createTemplate)
)

// provideDatabase puts an SQLite file without keys into a gate's data directory, so that Caddy does
// not have to create the schema again. The first gate of a package creates its own.
func provideDatabase(t testing.TB, data string) {
	t.Helper()
	if databases.Add(1) == 1 {
		return
	}
	content, err := template()
	if err == nil {
		err = os.MkdirAll(data, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(data, databaseFile), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// createTemplate starts Caddy without a database, stops it, and returns the file that it created.
func createTemplate() ([]byte, error) {
	dir, err := os.MkdirTemp("", "gate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	g := &Gate{Dir: dir, Data: filepath.Join(dir, "data", "caddy"), Upstream: &Upstream{},
		config: Config{Caddyfile: "{\n\tadmin {$GATE_ADMIN}\n\tapi_keys\n}\n", AdminSocket: true}}
	g.listenOn(dir, 0, 0, 0)
	if err := g.start(); err != nil {
		return nil, fmt.Errorf("creating a database: %w\n%s", err, g.Output())
	}
	healthy := g.becomesHealthy()
	err = g.proc.stop()
	path := filepath.Join(g.Data, databaseFile)
	if _, left := os.Stat(path + "-wal"); err == nil && (!healthy || left == nil) {
		err = errors.New("the database was not ready, or not closed")
	}
	if err != nil {
		return nil, fmt.Errorf("creating a database: %w\n%s", err, g.Output())
	}
	return os.ReadFile(path)
}

// becomesHealthy waits for a database that a busy machine opens after Caddy has started.
func (g *Gate) becomesHealthy() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if g.Try(ctx, "GET", "/health", nil).Status == 200 {
			return true
		}
	}
	return false
}
