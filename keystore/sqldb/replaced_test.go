//go:build unix

package sqldb

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// copyFile copies a file to a path, as a new file that is moved into place.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".copy", content, 0o600)
	}
	if err == nil {
		err = os.Rename(to+".copy", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// replacements replace or remove a file of an open database and return its path. path is that of the
// database, and node that of the lock file.
var replacements = map[string]func(t *testing.T, path, node string) (changed string){
	"backup moved over the file": func(t *testing.T, path, _ string) string {
		copyFile(t, path, path)
		return path
	},
	"file removed": func(t *testing.T, path, _ string) string {
		remove(t, path)
		return path
	},
	"directory moved": func(t *testing.T, path, _ string) string {
		if err := os.Rename(filepath.Dir(path), filepath.Dir(path)+".old"); err != nil {
			t.Fatal(err)
		}
		return path
	},
	"log removed": func(t *testing.T, path, _ string) string {
		remove(t, path+"-wal")
		return path + "-wal"
	},
	"log replaced": func(t *testing.T, path, _ string) string {
		copyFile(t, path+"-wal", path+"-wal")
		return path + "-wal"
	},
	"shared memory removed": func(t *testing.T, path, _ string) string {
		remove(t, path+"-shm")
		return path + "-shm"
	},
	"lock removed": func(t *testing.T, _, node string) string {
		remove(t, node)
		return node
	},
	"lock replaced": func(t *testing.T, _, node string) string {
		copyFile(t, node, node)
		return node
	},
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// TestFilesReplaced: after files of a database were replaced, renewals and changes fail.
func TestFilesReplaced(t *testing.T) {
	ctx := context.Background()
	for name, replace := range replacements {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data", "keys.db")
			d, err := OpenSQLite(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			const node = "node"
			if err := d.Join(ctx, keystore.Node{Incarnation: node}); err != nil {
				t.Fatal(err)
			}
			insert := func(n int) error {
				_, err := d.Update(ctx, func(tx keystore.Tx) error {
					return insertKey(tx, benchKey(n, tx.Now()))
				})
				return err
			}
			if err := insert(0); err != nil {
				t.Fatal(err)
			}
			before, err := d.Renew(ctx, node, keystore.Position{})
			if err != nil {
				t.Fatal(err)
			}
			select { // the signal of the insert
			case <-d.Changed():
			default:
			}
			changed := replace(t, path, d.locks.path(node))
			_, renewed := d.Renew(ctx, node, before.Position)
			_, reserved := d.Reserve(ctx, []keystore.Reservation{{Quota: "q", End: time.Now()}})
			for call, err := range map[string]error{
				"renew":       renewed,
				"reserve":     reserved,
				"change":      insert(1),
				"acknowledge": d.Acknowledge(ctx, node, keystore.Position{Revision: 1}),
			} {
				if !errors.Is(err, keystore.ErrReplaced) ||
					!strings.Contains(err.Error(), changed) {
					t.Errorf("%s: error %v, want one that names %s", call, err, changed)
				}
			}
			if err := d.Join(ctx, keystore.Node{Incarnation: "other"}); err == nil {
				t.Error("a node joined")
			}
			<-d.Changed() // so that the node does not wait for its next renewal
		})
	}

	t.Run("during a change", func(t *testing.T) {
		path := newSQLite(t).path
		d, err := OpenSQLite(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		_, err = d.Update(ctx, func(tx keystore.Tx) error {
			remove(t, path)
			return insertKey(tx, benchKey(0, tx.Now()))
		})
		if !errors.Is(err, keystore.ErrReplaced) {
			t.Error(err)
		}
	})

	t.Run("during the commit", func(t *testing.T) {
		path := newSQLite(t).path
		d, err := OpenSQLite(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		intact := d.committed
		d.committed = func(conn any) error {
			remove(t, path)
			return intact(conn)
		}
		_, err = d.Update(ctx, func(tx keystore.Tx) error {
			return insertKey(tx, benchKey(0, tx.Now()))
		})
		if !errors.Is(err, keystore.ErrReplaced) {
			t.Error(err)
		}
	})
}

// TestAfterReplacement: no process can open the new files while another one has the former files
// open. After the latter has closed them, its committed changes exist in the files that are left,
// and none of them is in the new files.
func TestAfterReplacement(t *testing.T) {
	ctx := context.Background()
	rows := map[string]struct {
		replace func(t *testing.T, path string)
		keys    int64 // after a restart, of three keys; one of them is in the backup
	}{
		"backup moved over the file": {func(t *testing.T, path string) {
			copyFile(t, path+".backup", path)
		}, 1},
		"backup moved in place of the file": {func(t *testing.T, path string) {
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
			copyFile(t, path+".backup", path)
		}, 1},
		"file removed":          {func(t *testing.T, path string) { remove(t, path) }, 0},
		"log removed":           {func(t *testing.T, path string) { remove(t, path+"-wal") }, 3},
		"shared memory removed": {func(t *testing.T, path string) { remove(t, path+"-shm") }, 3},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			path := newSQLite(t).path
			open := func() *DB {
				t.Helper()
				d, err := OpenSQLite(ctx, path)
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			insert := func(d *DB, n int) {
				t.Helper()
				if _, err := d.Update(ctx, func(tx keystore.Tx) error {
					return insertKey(tx, benchKey(n, tx.Now()))
				}); err != nil {
					t.Fatal(err)
				}
			}
			first := open()
			insert(first, 0)
			if err := (sqliteStore{path}).Exec("VACUUM INTO '" + path + ".backup'"); err != nil {
				t.Fatal(err)
			}
			second := open() // like another process
			for i, d := range []*DB{first, second} {
				if err := d.Join(ctx,
					keystore.Node{Incarnation: string(rune('a' + i))}); err != nil {
					t.Fatal(err)
				}
			}
			insert(first, 1)
			insert(second, 2)
			row.replace(t, path)
			for _, d := range []*DB{first, second} {
				if late, err := OpenSQLite(ctx, path); err == nil {
					t.Error("opened while another process has the former files open")
					late.Close()
				} else if !strings.Contains(err.Error(), "stop every Caddy") || !Unreachable(err) {
					t.Error(err)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
			d := open()
			defer d.Close()
			count := func(path string) (n int64) {
				t.Helper()
				d, err := OpenSQLite(ctx, path)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				var sound string
				if err := d.readers.QueryRow("PRAGMA integrity_check").Scan(&sound); err != nil ||
					sound != "ok" {
					t.Fatal(sound, err)
				}
				counts, err := d.CountKeys(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range counts {
					n += c
				}
				return n
			}
			if n := count(path); n != row.keys {
				t.Errorf("%d keys, want %d", n, row.keys)
			}
			if _, err := os.Stat(path + ".old"); err == nil {
				if n := count(path + ".old"); n != 3 {
					t.Errorf("the former file has %d keys, want 3", n)
				}
			}
			if err := d.Join(ctx, keystore.Node{Incarnation: "later"}); err != nil {
				t.Error(err)
			}
			insert(d, 3)
		})
	}
}

// TestCloseAfterReplacement: closing the former files does not destroy the new ones.
func TestCloseAfterReplacement(t *testing.T) {
	ctx := context.Background()
	for name, which := range map[string][]string{"log and index removed": {"-wal", "-shm"},
		"index removed": {"-shm"}} {
		t.Run(name, func(t *testing.T) {
			path := newSQLite(t).path
			d, err := OpenSQLite(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Join(ctx, keystore.Node{Incarnation: "node"}); err != nil {
				t.Fatal(err)
			}
			for _, file := range which {
				remove(t, path+file)
			}
			shell := func(statement string) {
				t.Helper()
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), childVariable+"="+path,
					statementVariable+"="+statement)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", statement, err, out)
				}
			}
			shell("CREATE TABLE other (x INT)")
			if err := d.Close(); !errors.Is(err, keystore.ErrReplaced) {
				t.Error(err)
			}
			shell("INSERT INTO other VALUES (1)")
		})
	}
}
