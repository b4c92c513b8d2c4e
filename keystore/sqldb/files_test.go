//go:build unix

package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func TestModes(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "new", "deep")
	path := filepath.Join(dir, "a b?c#d%20.db")
	d, err := OpenSQLite(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Join(ctx, keystore.Node{Incarnation: "i"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600, path + "-wal": 0o600,
		path + "-shm": 0o600, path + "-node-i": 0o600} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
	// A symbolic link to the file is the same database.
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	other, err := OpenSQLite(ctx, link)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if nodes, err := other.Nodes(ctx); err != nil || len(nodes) != 1 {
		t.Fatalf("nodes through a link: %v, %v", nodes, err)
	}
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := write("notes.txt", strings.Repeat("not a database\n", 500))
	for name, row := range map[string]struct {
		path, want string
		temporary  bool // whether the error may be temporary
	}{
		"directory":      {dir, "directory", false},
		"beneath a file": {filepath.Join(text, "keys.db"), "not a directory", false},
		"not a database": {text, "not an SQLite database", false},
		"short text":     {write("short.txt", "hello"), "not an SQLite database", false},
		"dangling link": {func() string {
			p := filepath.Join(dir, "link")
			_ = os.Symlink(filepath.Join(dir, "no", "where"), p)
			return p
		}(), "no such file", true},
		"damaged": {damaged(t, filepath.Join(dir, "damaged.db")), "damaged", false},
		"header, then garbage": {write("garbage.db",
			"SQLite format 3\x00"+strings.Repeat("\xff", 8192)), "database", false},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := OpenSQLite(context.Background(), row.path)
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %q, want %q and the path in it", err, row.want)
			}
			if got := Unreachable(err); got != row.temporary {
				t.Errorf("Unreachable: %v", got)
			}
		})
	}
	if content, err := os.ReadFile(text); err != nil ||
		!strings.HasPrefix(string(content), "not a database") {
		t.Error("a file that is not a database was changed")
	}
}

// TestForeignFiles: a file of another program is refused and not changed.
func TestForeignFiles(t *testing.T) {
	const version = "CREATE TABLE schema_version (id INTEGER PRIMARY KEY, version_id INTEGER NOT " +
		"NULL, is_applied INTEGER NOT NULL, tstamp TIMESTAMP)"
	for name, row := range map[string]struct {
		schema string
		ours   bool
	}{
		"a table": {
			"CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('x')", false},
		"a view":                       {"CREATE VIEW one AS SELECT 1", false},
		"a table of the same name":     {"CREATE TABLE keys (id TEXT)", false},
		"another table schema_version": {"CREATE TABLE schema_version (version TEXT)", false},
		"our schema_version, no head":  {version + "; CREATE TABLE keys (id TEXT)", false},
		"no tables":                    {"PRAGMA user_version = 7", true},
		"an interrupted first start": {version +
			"; INSERT INTO schema_version (version_id, is_applied) VALUES (0, 1)", true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(row.schema); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			d, err := OpenSQLite(t.Context(), path)
			if err == nil {
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if row.ours {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "belongs to another program") ||
				!strings.Contains(err.Error(), path) || Unreachable(err) {
				t.Errorf("error %v", err)
			}
			after, err := os.ReadFile(path)
			if err != nil || string(after) != string(before) {
				t.Errorf("the file was changed: %v", err)
			}
			if left, _ := filepath.Glob(path + "-*"); len(left) > 0 {
				t.Errorf("remaining files: %v", left)
			}
		})
	}
}

// damaged creates a database and overwrites all but its first page.
func damaged(t *testing.T, path string) string {
	t.Helper()
	d, err := OpenSQLite(context.Background(), path)
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range content[4096:] {
		content[4096+i] = 0xff
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReadOnly checks the errors for a directory or file that cannot be written. It runs a child
// process, as the user nobody if the test runs as root, because root can write everywhere.
func TestReadOnly(t *testing.T) {
	for _, row := range []struct {
		name      string
		dir, file os.FileMode
		want      string
	}{
		{"read-only directory without a file", 0o555, 0, "permission denied"},
		{"read-only directory", 0o555, 0o666, "writable"},
		{"read-only file", 0o777, 0o444, "writable"},
	} {
		t.Run(row.name, func(t *testing.T) {
			// Not t.TempDir, which other users cannot enter.
			parent, err := os.MkdirTemp("", "sqldb")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(parent) })
			dir := filepath.Join(parent, "data")
			path := filepath.Join(dir, "keys.db")
			if err := errors.Join(os.Chmod(parent, 0o755), os.Mkdir(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
			if row.file != 0 {
				d, err := OpenSQLite(context.Background(), path)
				if err == nil {
					err = errors.Join(d.Close(), os.Chmod(path, row.file))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(dir, row.dir); err != nil {
				t.Fatal(err)
			}
			binary := filepath.Join(parent, "child") // readable by the other user
			content, err := os.ReadFile(os.Args[0])
			if err == nil {
				err = os.WriteFile(binary, content, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(binary)
			cmd.Env, cmd.Dir = append(os.Environ(), childVariable+"="+path), parent
			if os.Getuid() == 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534,
					Gid: 65534}}
			}
			out, err := cmd.Output()
			if err == nil || !strings.Contains(string(out), row.want) ||
				!strings.Contains(string(out), path) ||
				!strings.Contains(string(out), "unreachable: true") {
				t.Fatalf("%v: %s, want %q, the path, and Unreachable", err, out, row.want)
			}
			t.Logf("%s", out)
		})
	}
}

func TestNewerSchema(t *testing.T) {
	s := newSQLite(t)
	s.Open(t).Close()
	if err := s.Exec("INSERT INTO " + schemaTable +
		" (version_id, is_applied) VALUES (999, 1)"); err != nil {
		t.Fatal(err)
	}
	_, err := OpenSQLite(context.Background(), s.path)
	if !errors.Is(err, keystore.ErrNewerSchema) || Unreachable(err) ||
		!strings.Contains(err.Error(), "999") || !strings.Contains(err.Error(), "backup") {
		t.Fatalf("error %v", err)
	}
}

// TestFullDisk: on a full disk a change fails as a whole, and the next one succeeds once there is
// space.
func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	d := fill(t, 100)
	var pages int
	if err := d.writer.QueryRow("PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit := func(pages int) {
		t.Helper()
		if _, err := d.writer.Exec(fmt.Sprint("PRAGMA max_page_count = ", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(pages + 20)
	n, err := 100, error(nil)
	insert := func() error {
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			// A caller that ignores the errors must not commit half a change.
			_ = insertKey(tx, benchKey(n, tx.Now()))
			_ = insertKey(tx, benchKey(n+1, tx.Now()))
			return tx.Remember("caller", fmt.Sprint(n), strings.Repeat("x", 2000),
				tx.Now().AddDate(-1, 0, 0))
		})
		return err
	}
	for err == nil && n < 10_000 {
		if err = insert(); err == nil {
			n += 2
		}
	}
	if err == nil || !strings.Contains(err.Error(), "disk is full") || !Unreachable(err) {
		t.Fatalf("error %v", err)
	}
	check := func() {
		t.Helper()
		counts, err := d.CountKeys(ctx)
		var all int64
		for _, count := range counts {
			all += count
		}
		if err != nil || all != int64(n) {
			t.Fatalf("%d keys, want %d: %v", all, n, err)
		}
		h, err := d.Renew(ctx, "nobody", keystore.Position{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Changes(ctx, 0, h.Revision); err != nil {
			t.Fatal(err)
		}
	}
	check()
	limit(1 << 30)
	if err := insert(); err != nil {
		t.Fatal("with space on the disk:", err)
	}
	n += 2
	check()
}

func TestChangeLogStaysBounded(t *testing.T) {
	ctx := context.Background()
	d := fill(t, 1)
	d.keep = 10
	for n := range 20 {
		if _, err := d.Update(ctx, func(tx keystore.Tx) error {
			return insertKey(tx, benchKey(n+1, tx.Now()))
		}); err != nil {
			t.Fatal(err)
		}
	}
	h, err := d.Renew(ctx, "nobody", keystore.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Changes(ctx, h.Revision-10, h.Revision); err != nil || len(got) != 10 {
		t.Fatalf("%d changes, %v", len(got), err)
	}
	if _, err := d.Changes(ctx, h.Revision-11, h.Revision); !errors.Is(err, keystore.ErrTruncated) {
		t.Fatal(err)
	}
}

// TestLocked: the error of a start that waits for the lock of another program names the lock.
func TestLocked(t *testing.T) {
	s := newSQLite(t)
	s.Open(t).Close()
	other, err := sql.Open("sqlite", "file:"+s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	conn, err := other.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(context.Background(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	_, err = OpenSQLite(context.Background(), s.path)
	if !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), "another process holds") || !Unreachable(err) {
		t.Error(err)
	}
}
