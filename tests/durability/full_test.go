package durability

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestFullDisk mints keys until the disk is full. Caddy reports it, loses nothing, and continues to
// accept keys. Changes succeed again once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	// A resource limit makes writes fail with EFBIG. It needs no privileges.
	t.Run("file size limit", func(t *testing.T) {
		dir := t.TempDir()
		fill(t, dir, func(g *gate.Gate, full bool) {
			if g == nil {
				return // the limit ended with the process
			}
			var limit unix.Rlimit
			if err := unix.Prlimit(g.Pid(), unix.RLIMIT_FSIZE, nil, &limit); err != nil {
				t.Fatal(err)
			}
			limit.Cur = limit.Max
			if full {
				limit.Cur = uint64(size(t, filepath.Join(dir, "keys.db-wal"))) + 16<<10
			}
			if err := unix.Prlimit(g.Pid(), unix.RLIMIT_FSIZE, &limit, nil); err != nil {
				t.Fatal(err)
			}
		})
	})
	// A full file system makes writes fail with ENOSPC. Only root can mount it; other users test
	// the limit above alone.
	t.Run("tmpfs", func(t *testing.T) {
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=700"); err != nil {
			t.Logf("not tested, this user cannot mount: %v", err)
			return
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Errorf("unmounting %s: %v", dir, err)
			}
		})
		ballast := filepath.Join(dir, "ballast")
		fill(t, dir, func(_ *gate.Gate, full bool) {
			if !full {
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
				return
			}
			f, err := os.Create(ballast)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for chunk := make([]byte, 4096); err == nil; {
				_, err = f.Write(chunk)
			}
			if err := f.Truncate(size(t, ballast) - 32<<10); err != nil { // room for some mints
				t.Fatal(err)
			}
		})
	})
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// fill runs the test with a database in dir. disk makes the disk full, or makes room again; g is
// nil if Caddy is not running.
func fill(t *testing.T, dir string, disk func(g *gate.Gate, full bool)) {
	g := gate.Start(t, gate.Config{APIKeys: "lease 2s\ndatabase sqlite " +
		filepath.Join(dir, "keys.db")})
	t.Cleanup(func() { gate.SearchForTokens(t, dir) })
	mint := func() gate.Response {
		return g.Try(t.Context(), "POST", "/keys",
			gate.JSON{"name": "k", "access": "read_only",
				"metadata": gate.JSON{"filler": strings.Repeat("x", 1000)}})
	}
	var keys []gate.Key
	until := func(n int) (r gate.Response) {
		for range n {
			r = mint()
			k, ok := r.Key()
			if !ok {
				return r
			}
			keys = append(keys, k)
		}
		return r
	}
	works := func(when string) {
		t.Helper()
		for i, k := range keys {
			if r := g.Get(t, "/", k.Token); r.Status != 200 {
				t.Fatalf("%s, key %d of %d: %v", when, i, len(keys), r)
			}
		}
		count := 0
		for more := ""; ; {
			page := g.Call(t, "GET", "/keys?limit=1000"+more, nil).JSON()
			items, _ := page["items"].([]any)
			count += len(items)
			cursor, ok := page["next_cursor"].(string)
			if !ok {
				break
			}
			more = "&cursor=" + cursor
		}
		if count != len(keys) {
			t.Fatalf("%s: %d keys are listed, %d were minted", when, count, len(keys))
		}
	}
	until(5)
	works("before")

	disk(g, true)
	wantUnavailable(t, fmt.Sprint("a mint after ", len(keys)), until(2000))
	works("on a full disk")
	wantUnavailable(t, "a revoke on a full disk",
		g.Try(t.Context(), "POST", "/keys/"+keys[0].ID+"/revoke", gate.JSON{}))
	works("after a revoke that was refused")
	if !strings.Contains(g.Output(), "disk") || !strings.Contains(g.Output(), "full") {
		t.Errorf("the log does not say that the disk is full: %s", gate.Redact(g.Output()))
	}

	disk(g, false)
	if r := until(5); r.Status != 201 {
		t.Fatalf("after room was made: %v", r)
	}
	works("after room was made")
	g.Revoke(t, keys[0].ID)
	if r := g.Get(t, "/", keys[0].Token); r.Code() != "key_revoked" {
		t.Error(r)
	}
	gone := keys[0]
	keys = keys[1:]

	// Once more, with kill -9 on the full disk.
	disk(g, true)
	wantUnavailable(t, fmt.Sprint("a mint after ", len(keys)), until(2000))
	g.Kill()
	disk(nil, false)
	g.Start(t)
	for i, k := range keys {
		if r := g.Get(t, "/", k.Token); r.Status != 200 {
			t.Fatalf("after kill -9 on a full disk, key %d of %d: %v", i, len(keys), r)
		}
	}
	if r := g.Get(t, "/", gone.Token); r.Code() != "key_revoked" {
		t.Error(r)
	}
}
