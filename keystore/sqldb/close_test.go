//go:build unix

package sqldb

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestClose: Close waits until running calls complete, but only for a limited time.
func TestClose(t *testing.T) {
	ctx := context.Background()
	for name, empty := range map[string]func(t *testing.T) (open func() (*DB, error)){
		"SQLite": func(t *testing.T) func() (*DB, error) {
			path := newSQLite(t).path
			return func() (*DB, error) { return OpenSQLite(ctx, path) }
		},
		"PostgreSQL": func(t *testing.T) func() (*DB, error) {
			s := postgresServer(t)
			url := s.URL(s.Schema(t))
			return func() (*DB, error) { return OpenPostgres(ctx, url) }
		},
	} {
		for _, waits := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", in time", false: ", too late"}[waits],
				func(t *testing.T) {
					open := empty(t)
					must := func(err error) {
						t.Helper()
						if err != nil {
							t.Fatal(err)
						}
					}
					db, err := open()
					must(err)
					_, err = db.Deployment(ctx, nil)
					must(err)
					if !waits {
						db.closeWait = time.Millisecond
					}
					began, release := make(chan struct{}), make(chan struct{})
					results := make(chan error, 2)
					go func() {
						_, err := db.Update(ctx, func(tx keystore.Tx) error {
							began <- struct{}{}
							<-release
							return tx.InsertNamespace(&keystore.Namespace{ID: "late"})
						})
						results <- err
					}()
					go func() {
						_, err := list(db.read(ctx), func(scan func(...any) error) (n int,
							err error) {
							began <- struct{}{}
							<-release
							return n, scan(&n)
						}, "SELECT 1")
						results <- err
					}()
					<-began
					<-began
					closed := make(chan error, 1)
					go func() { closed <- db.Close() }()
					if waits {
						for {
							_, err := db.Key(ctx, "none")
							if !errors.Is(err, keystore.ErrNotFound) {
								break // the database is being closed
							}
							time.Sleep(time.Millisecond)
						}
						if len(closed) > 0 {
							t.Fatal("Close did not wait")
						}
						close(release)
						must(<-closed)
						if len(results) < 2 {
							t.Fatal("Close did not wait for both calls")
						}
					} else {
						if err := <-closed; err == nil {
							t.Error("Close does not report running calls")
						}
						close(release)
					}
					for range 2 {
						if err := <-results; err != nil {
							t.Error(err)
						}
					}
					again, err := open()
					must(err)
					p, err := again.Policy(ctx, keystore.Nowhere)
					must(err)
					if len(p.Namespaces) != 2 {
						t.Errorf("the change is missing: %+v", p.Namespaces)
					}
					must(again.Close())
				})
		}
	}
}
