package durability

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// shell runs a statement on the SQLite file, like another program.
func shell(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// TestFilesReplaced replaces the SQLite files while two Caddys run. Neither may serve from the
// former files, nor may one that is restarted while the other runs. After both have been stopped,
// the new files count.
func TestFilesReplaced(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		replace func(path string) error
		gone    bool // whether keys that were minted after the backup are lost
	}{
		"backup moved over the file": {func(path string) error {
			return os.Rename(path+".backup",
				path)
		}, true},
		"log and index removed": {func(path string) error {
			if err := os.Remove(path + "-wal"); err != nil {
				return err
			}
			return os.Remove(path + "-shm")
		}, false},
		"lock files replaced": {func(path string) error {
			locks, err := filepath.Glob(path + "-node-*")
			for _, lock := range locks {
				var content []byte
				if content, err = os.ReadFile(lock); err == nil {
					err = os.WriteFile(path+".copy", content, 0o600)
				}
				if err == nil {
					err = os.Rename(path+".copy", lock)
				}
				if err != nil {
					return err
				}
			}
			return err
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gates := two(t, gate.Config{APIKeys: "lease 10m"})
			path := filepath.Join(gates[0].Data, "apikeys.db")
			early := gates[0].Mint(t, gate.JSON{"name": "early", "access": "read_only"})
			shell(t, path, "VACUUM INTO '"+path+".backup'")
			late := gates[0].Mint(t, gate.JSON{"name": "late", "access": "read_only"})
			for _, g := range gates {
				for _, k := range []gate.Key{early, late} {
					if r := g.Get(t, "/", k.Token); r.Status != 200 {
						t.Fatal(r)
					}
				}
			}
			if err := row.replace(path); err != nil {
				t.Fatal(err)
			}
			refuses := func(when string, g *gate.Gate) {
				t.Helper()
				for _, k := range []gate.Key{early, late} {
					if r := g.Get(t, "/", k.Token); r.Status != 503 ||
						r.Header.Get("Retry-After") == "" {
						t.Errorf("%s: %v", when, r)
					}
				}
				wantUnavailable(t, when+": a mint",
					g.Call(t, "POST", "/keys", gate.JSON{"name": "n", "access": "read_only"}))
				wantUnavailable(t, when+": a revoke",
					g.Try(t.Context(), "POST", "/keys/"+early.ID+"/revoke", gate.JSON{}))
				if r := g.Call(t, "GET", "/health", nil); r.Status != 503 ||
					r.JSON()["healthy"] != false {
					t.Errorf("%s: health: %v", when, r)
				}
			}
			for _, g := range gates {
				gate.Until(t, "the node answers 503",
					func() bool { return g.Get(t, "/", early.Token).Status == 503 })
				refuses("after the replacement", g)
				if n := strings.Count(g.Output(), "files of the database were replaced"); n == 0 {
					t.Error("the log does not say what happened")
				}
			}

			// One node is restarted too early, while the other has the former files open.
			gates[0].Restart(t)
			// Replacing lock files removes no file that a process has open.
			if name != "lock files replaced" {
				refuses("restarted while the other runs", gates[0])
			}
			gates[1].Stop(t)
			gate.Until(t, "the key in the backup is accepted",
				func() bool { return gates[0].Get(t, "/", early.Token).Status == 200 })
			gates[1].Start(t)
			want := 200
			if row.gone {
				want = 401
			}
			for _, g := range gates {
				if r := g.Get(t, "/", late.Token); r.Status != want {
					t.Errorf("the key minted after the backup: want %d, got %v", want, r)
				}
			}
			// Copied lock files do not prove that the former nodes, which may hold a lease, have
			// ended.
			if name == "lock files replaced" {
				if r := gates[0].Call(t, "POST", "/keys/"+early.ID+"/revoke?wait=0s",
					gate.JSON{}); r.Status != 202 {
					t.Error(r)
				}
			} else {
				gates[0].Revoke(t, early.ID)
			}
			for _, g := range gates {
				if r := g.Get(t, "/", early.Token); r.Code() != "key_revoked" {
					t.Error(r)
				}
			}
		})
	}
}

// TestRestore follows docs/operations.md: stop all nodes, remove the WAL and its index, put the
// backup in place, set a new epoch, and start.
func TestRestore(t *testing.T) {
	t.Parallel()
	gates := two(t, gate.Config{})
	path := filepath.Join(gates[0].Data, "apikeys.db")
	kept := gates[0].Mint(t, gate.JSON{"name": "kept", "access": "read_only"})
	shell(t, path, "VACUUM INTO '"+path+".backup'")
	lost := gates[1].Mint(t, gate.JSON{"name": "lost", "access": "read_only"})
	gates[0].Kill() // so that the WAL stays
	gates[1].Stop(t)
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.Rename(path+".backup", path); err != nil {
		t.Fatal(err)
	}
	shell(t, path, "DELETE FROM nodes; UPDATE head SET epoch = lower(hex(randomblob(16)))")
	for _, g := range gates {
		g.Start(t)
	}
	for _, g := range gates {
		if r := g.Get(t, "/", kept.Token); r.Status != 200 {
			t.Error(r)
		}
		if r := g.Get(t, "/", lost.Token); r.Status != 401 {
			t.Error(r)
		}
	}
	gates[0].Revoke(t, kept.ID)
	for _, g := range gates {
		if r := g.Get(t, "/", kept.Token); r.Code() != "key_revoked" {
			t.Error(r)
		}
	}
}
