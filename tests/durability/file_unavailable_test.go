package durability

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestFileUnavailableAtStart starts Caddy with an SQLite file that it cannot open. Caddy serves
// requests that need no key, reports the reason, and becomes healthy as soon as it can open the
// file.
func TestFileUnavailableAtStart(t *testing.T) {
	t.Parallel()
	// A separate file system. Only root can mount it; the other faults do not need it.
	mount := func(t *testing.T, dir string) bool {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=700"); err != nil {
			t.Logf("not tested, this user cannot mount: %v", err)
			return false
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Errorf("unmounting %s: %v", dir, err)
			}
		})
		return true
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, row := range map[string]struct {
		why string
		// own mounts a file system as the database's directory and reports whether it could; nil
		// mounts nothing.
		own  func(t *testing.T, dir string) bool
		away func(t *testing.T, dir string) (restore func())
	}{
		"disk not mounted yet": {
			why: "must exist",
			away: func(t *testing.T, dir string) func() {
				must(t, os.Rename(dir, dir+".away"))
				return func() { must(t, os.Rename(dir+".away", dir)) }
			},
		},
		"locked by another program": {
			why: "another process holds the database's lock",
			away: func(t *testing.T, dir string) func() {
				other := openDatabase(t, filepath.Join(dir, "keys.db"))
				must(t, other.lock())
				return func() { other.unlock(t) }
			},
		},
		"disk read-only": {
			why: "writable",
			own: mount,
			away: func(t *testing.T, dir string) func() {
				must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
				return func() { must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT, "")) }
			},
		},
		"disk full": {
			why: "full",
			own: mount,
			away: func(t *testing.T, dir string) func() {
				f, err := os.Create(filepath.Join(dir, "ballast"))
				must(t, err)
				defer f.Close()
				for chunk := make([]byte, 4096); err == nil; {
					_, err = f.Write(chunk)
				}
				return func() { must(t, os.Remove(filepath.Join(dir, "ballast"))) }
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The file is a link to one in the faulty directory, since Caddy does not create the
			// directory of a link's target.
			parent := t.TempDir()
			dir := filepath.Join(parent, "disk")
			must(t, os.Mkdir(dir, 0o700))
			if row.own != nil && !row.own(t, dir) {
				return
			}
			must(t, os.WriteFile(filepath.Join(dir, "keys.db"), nil, 0o600))
			must(t, os.Symlink(filepath.Join(dir, "keys.db"), filepath.Join(parent, "keys.db")))
			g := gate.Start(t, gate.Config{Site: otherSite,
				APIKeys: "database sqlite " + filepath.Join(parent, "keys.db")})
			k := g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
			g.Stop(t)
			restore := row.away(t, dir)

			waits := func(when string) {
				t.Helper()
				wantWaiting(t, when, g, k)
				gate.Until(t, "health says why", func() bool {
					r := g.Call(t, "GET", "/health", nil)
					problem, _ := r.JSON()["problem"].(string)
					if r.Status != 503 || r.JSON()["healthy"] != false ||
						strings.Contains(problem, dir) {
						t.Fatalf("%s: health: %v", when, r)
					}
					return strings.Contains(problem, row.why)
				})
			}
			g.Start(t)
			for _, said := range []string{"cannot open the key database", row.why} {
				gate.Until(t, "the log says "+said,
					func() bool { return strings.Contains(g.Output(), said) })
			}
			waits("after the start")
			if r := g.Reload(t, g.Config()); r.Exit != 0 {
				t.Fatalf("a reload with the same database: %v", r)
			}
			waits("after a reload")

			restore()
			wantRecovered(t, g, k)
		})
	}
}

// TestReloadToUnavailableFile checks that Caddy keeps a working configuration if it cannot open the
// file of the new one.
func TestReloadToUnavailableFile(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	link := filepath.Join(t.TempDir(), "keys.db")
	if err := os.Symlink(filepath.Join(t.TempDir(), "nowhere", "keys.db"), link); err != nil {
		t.Fatal(err)
	}
	r := g.Reload(t, gate.Config{APIKeys: "database sqlite " + link})
	if r.Exit == 0 || !strings.Contains(r.Stderr, "no such file") {
		t.Errorf("a reload to a file that cannot be opened: %v", r)
	}
	if r := g.Get(t, "/", k.Token); r.Status != 200 {
		t.Errorf("after the reload was refused: %v", r)
	}
}
