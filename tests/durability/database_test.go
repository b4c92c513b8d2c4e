package durability

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A database is the gate's SQLite file, opened by another program.
type database struct {
	conn *sql.Conn
}

func openDatabase(t *testing.T, path string) database {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		db.Close()
	})
	return database{conn}
}

func (d database) exec(t *testing.T, query string) {
	t.Helper()
	if _, err := d.conn.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// lock takes SQLite's write lock. It fails if another connection has it.
func (d database) lock() error {
	_, err := d.conn.ExecContext(context.Background(), "BEGIN IMMEDIATE")
	return err
}

func (d database) unlock(t *testing.T) {
	t.Helper()
	d.exec(t, "ROLLBACK")
}

// TestLockedDatabase leaves a transaction of another program open. Requests with keys succeed and
// changes fail without an effect.
func TestLockedDatabase(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{APIKeys: "lease 2s"})
	known := g.Mint(t, gate.JSON{"name": "known", "access": "read_only"})
	fresh := g.Mint(t, gate.JSON{"name": "fresh", "access": "read_only"}) // not cached
	if r := g.Get(t, "/", known.Token); r.Status != 200 {
		t.Fatal(r)
	}
	other := openDatabase(t, filepath.Join(g.Data, "apikeys.db"))
	gate.Until(t, "the database is locked", func() bool { return other.lock() == nil })
	begun := time.Now()
	type answers struct{ mint, revoke gate.Response }
	answered := make(chan answers)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		revoked := make(chan gate.Response)
		go func() { revoked <- g.Try(ctx, "POST", "/keys/"+known.ID+"/revoke", gate.JSON{}) }()
		minted := g.Try(ctx, "POST", "/keys", gate.JSON{"name": "n", "access": "read_only"})
		answered <- answers{minted, <-revoked}
	}()
	var got answers
	for done := false; !done; {
		for _, k := range []gate.Key{known, fresh} {
			if r := g.Get(t, "/", k.Token); r.Status != 200 {
				t.Fatalf("%s, after %s of a locked database: %v", k.JSON["name"], time.Since(begun),
					r)
			}
		}
		select {
		case got = <-answered:
			done = true
		default:
		}
	}
	if took := time.Since(begun); took < 4*time.Second {
		t.Logf("the changes failed after %s, within two leases", took)
	}
	wantUnavailable(t, "a mint", got.mint)
	wantUnavailable(t, "a revoke", got.revoke)
	other.unlock(t)
	if n := len(g.Call(t, "GET", "/keys", nil).JSON()["items"].([]any)); n != 2 {
		t.Errorf("%d keys, want the 2 earlier ones", n)
	}
	g.Revoke(t, known.ID)
	if r := g.Get(t, "/", known.Token); r.Code() != "key_revoked" {
		t.Error(r)
	}
}

// wantUnavailable checks the response to a change whose store fails.
func wantUnavailable(t *testing.T, what string, r gate.Response) {
	t.Helper()
	if r.Status != 503 || r.Code() != "unavailable" || r.Header.Get("Retry-After") == "" {
		t.Errorf("%s: want 503 unavailable with Retry-After, got %v", what, r)
	}
}

// TestNewerSchema checks that an older program does not touch the database of a newer one.
func TestNewerSchema(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	g.Stop(t)
	db := openDatabase(t, filepath.Join(g.Data, "apikeys.db"))
	db.exec(t, "INSERT INTO schema_version (version_id, is_applied) VALUES (4711, 1)")
	r := g.StartFails(t)
	for _, want := range []string{"newer version", "4711", "apikeys.db", "backup"} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("the refusal does not say %q: %v", want, r)
		}
	}
	db.exec(t, "DELETE FROM schema_version WHERE version_id = 4711")
	g.Start(t)
	if r := g.Get(t, "/", k.Token); r.Status != 200 {
		t.Errorf("after restoring the version: %v", r)
	}
}
