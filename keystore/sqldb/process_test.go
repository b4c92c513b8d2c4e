//go:build unix

package sqldb

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/suspend"
)

// Environment variables of child processes: the tests run the test binary again as another process
// on the same file.
const (
	childVariable = "SQLDB_TEST_CHILD"
	// statementVariable is an SQL statement for the child to run instead.
	statementVariable = "SQLDB_TEST_STATEMENT"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		if err := child(path); err != nil {
			fmt.Println("error:", err, "unreachable:", Unreachable(err))
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	stopServer()
	os.Exit(code)
}

// child opens the database, joins, and creates keys until it is killed. It prints the id of each
// key after the commit.
func child(path string) error {
	ctx := context.Background()
	if statement := os.Getenv(statementVariable); statement != "" {
		return sqliteStore{path}.Exec(statement)
	}
	d, err := OpenSQLite(ctx, path)
	if err != nil {
		return err
	}
	if _, err := d.Deployment(ctx, nil); err != nil {
		return err
	}
	incarnation := fmt.Sprint("process ", os.Getpid())
	if err := d.Join(ctx, keystore.Node{Incarnation: incarnation}); err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		id := keystore.NewID()
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			k := benchKey(0, tx.Now())
			k.ID, k.Secrets[0].Digest = id, keystore.DigestOf(id)
			return insertKey(tx, k)
		})
		if err != nil {
			return err
		}
		fmt.Println(id)
	}
}

type process struct {
	*exec.Cmd
	out *bufio.Scanner
}

func startChild(t *testing.T, path string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+path)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, bufio.NewScanner(pipe)}
	t.Cleanup(p.kill)
	return p
}

// kill ends the process like kill -9.
func (p *process) kill() {
	_ = p.Process.Kill()
	_ = p.Wait()
}

func (p *process) line(t *testing.T) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatal("the other process ended:", p.out.Err())
	}
	if strings.HasPrefix(p.out.Text(), "error") {
		t.Fatal(p.out.Text())
	}
	return p.out.Text()
}

// TestConcurrentFirstStart: several processes can create the schema at the same time.
func TestConcurrentFirstStart(t *testing.T) {
	for range 5 {
		path := filepath.Join(t.TempDir(), "keys.db")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				d, err := OpenSQLite(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// TestKill kills two writing processes repeatedly: all keys that they reported as committed exist.
func TestKill(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "keys.db")
	var committed []string
	for range 8 {
		var both [2]*process
		for i := range both {
			// Both start at the same time. The first time, the file does not exist.
			both[i] = startChild(t, path)
		}
		for _, p := range both {
			if got := p.line(t); got != "ready" {
				t.Fatal(got)
			}
		}
		timer := time.AfterFunc(time.Duration(rand.IntN(80))*time.Millisecond, func() {
			for _, p := range both {
				_ = p.Process.Kill()
			}
		})
		for _, p := range both {
			for p.out.Scan() {
				committed = append(committed, p.out.Text())
			}
			_ = p.Wait()
		}
		timer.Stop()

		d, err := OpenSQLite(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range committed {
			if k, _, err := d.KeyByDigest(ctx, keystore.DigestOf(id)); err != nil || k == nil ||
				k.ID != id {
				t.Fatalf("key %s was lost: %v, %v", id, k, err)
			}
		}
		h, err := d.Renew(ctx, "nobody", keystore.Position{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Changes(ctx, 0, h.Revision); err != nil {
			t.Fatal("the change log has gaps:", err)
		}
		var sound string
		if err := d.readers.QueryRow("PRAGMA integrity_check").Scan(&sound); err != nil ||
			sound != "ok" {
			t.Fatal(sound, err)
		}
		if nodes, err := d.Nodes(ctx); err != nil || len(nodes) != 0 {
			t.Fatalf("nodes of killed processes: %v, %v", nodes, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d keys were committed", len(committed))
	if len(committed) == 0 {
		t.Fatal("no key was committed")
	}
}

// TestNodeOfAnEndedProcess: Nodes removes the node of an ended process, but not that of a stopped
// process or one whose lock file is missing.
func TestNodeOfAnEndedProcess(t *testing.T) {
	ctx := context.Background()
	path := newSQLite(t).path
	d, err := OpenSQLite(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p := startChild(t, path)
	p.line(t)
	nodes := func(want int) []string {
		t.Helper()
		list, err := d.Nodes(ctx)
		if err != nil || len(list) != want {
			t.Fatalf("nodes %v, %v, want %d", list, err, want)
		}
		files, err := filepath.Glob(path + "-node-*")
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	// A stopped process has not ended.
	if err := suspend.Child(p.Process); err != nil {
		t.Fatal(err)
	}
	nodes(1)
	p.kill()
	if files := nodes(0); len(files) != 0 {
		t.Fatalf("remaining files: %v", files)
	}
	if h, err := d.Renew(ctx, "nobody", keystore.Position{}); err != nil || h.Nodes != 0 {
		t.Fatalf("head %+v, %v", h, err)
	}

	// A removed lock file proves nothing.
	if err := d.Join(ctx, keystore.Node{Incarnation: "own"}); err != nil {
		t.Fatal(err)
	}
	files := nodes(1)
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	other, err := OpenSQLite(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if list, err := other.Nodes(ctx); err != nil || len(list) != 1 {
		t.Fatalf("nodes %v, %v", list, err)
	}
}
