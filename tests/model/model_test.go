// Package model checks the SPIN models of the protocol (docs/protocol.md): no request that was sent
// after a revoke returned is accepted, whatever stalls, is lost or crashes. It also checks that the
// search finds a violation when a mechanism of the protocol is left out.
package model

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestProtocol(t *testing.T) {
	for _, c := range []struct {
		what    string
		model   string
		defines string
		fails   bool // whether a mechanism is left out, so that there is a violation
	}{
		{"the protocol", "lease", "", false},
		{"with crashes", "lease", "CRASH", false},
		{"with longer leases", "lease", "L=2 TMAX=6", false},
		{"broken: a reload resets the counters", "lease", "CRASH BUG_RELOAD", true},
		{"broken: the lease starts at the reply", "lease", "BUG_LEASE_AT_REPLY", true},
		{"broken: a revoke waits only as long as a lease", "lease", "BUG_NO_DRIFT", true},
		{"broken: a measured clock rate shortens the wait", "lease", "BUG_MEASURED_WAIT", true},
		{"broken: a load does not note the generation", "lease", "BUG_NO_FILL_TOKEN", true},
		{"broken: a request joins a load that a change overtook", "lease", "BUG_JOIN_FLIGHT", true},
		{"broken: entries in the shared cache have no revision", "lease", "BUG_NO_ASOF", true},
		{"broken: the members are read before the commit", "lease", "BUG_MEMBERS_FIRST", true},
		{"broken: a node acknowledges before it applies", "lease", "BUG_ACK_EARLY", true},
		{"broken: leases come from Redis", "lease", "BUG_REDIS_LEASE", true},
		{"broken: requests use a cached clock", "lease", "BUG_CACHED_CLOCK", true},
		{"broken: the lease is extended before the changes are applied", "lease",
			"BUG_RENEW_NO_APPLY", true},
		{"broken: the entry is deleted before the generation moves", "lease", "BUG_PURGE_ORDER",
			true},
		{"broken: compare and insert are two steps", "lease", "BUG_FILL_TOCTOU", true},

		{"a failover", "failover", "", false},
		{"a failover, with a shared cache", "failover", "SHARED TAKES=1", false},
		{"a failover, with fencing", "failover", fencing, false},
		{"a failover that loses acknowledged changes", "failover", lossy, false},
		{"broken: a visible row counts as a join", "failover", "BUG_VISIBLE_JOIN",
			true},
		{"broken: a visible change counts as a revoke", "failover",
			"BUG_VISIBLE_REVOKE", true},
		{"broken: a takeaway without an effect takes no revision", "failover", "BUG_NO_REVISION",
			true},
		{"broken: an acknowledgement counts in every history", "failover", "BUG_ACK_BY_NUMBER",
			true},
		{"broken: a record newer than applied is cached", "failover", "BUG_NEWER", true},
		{"broken: a request joins a load newer than applied", "failover", "BUG_JOIN_NEWER", true},
		{"broken: a shared entry counts in every history", "failover",
			"SHARED BUG_SHARED_BY_NUMBER",
			true},
		{"broken: rows that are not fencing are removed", "failover", fencing + " BUG_REMOVE_ANY",
			true},
		{"broken: the nodes of a lost history are not fenced", "failover",
			lossy + " BUG_FORGET_NODES", true},
		{"broken: only known nodes of a lost history are fenced", "failover",
			lossy + " BUG_KNOWN_ONLY", true},
		{"broken: failovers are noticed by position only", "failover",
			lossy + " BUG_NOTICE_BY_POSITION", true},
		{"broken: no last renewal before the response", "failover", lossy + " BUG_NO_LAST_LOOK",
			true},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			// A search that ends at the first violation takes less time than an optimizing
			// compiler.
			optimize := "-O2"
			if c.fails {
				optimize = "-O0"
			}
			if got := violated(t, c.model, optimize, strings.Fields(c.defines)); got != c.fails {
				t.Errorf("a revoked key is accepted: %v, want %v", got, c.fails)
			}
		})
	}
}

// Defines that bound the larger searches.
const (
	fencing = "FENCE TAKES=1 OTHERS=0 GIVES=0"
	lossy   = "LOSSY TAKES=1 OTHERS=0"
)

// violated searches all states of a model, built with the defines, for one in which a revoked key
// is accepted.
func violated(t *testing.T, name, optimize string, defines []string) bool {
	t.Helper()
	// The test itself reads the model, so that go test repeats it only after a change.
	model, err := os.ReadFile(name + ".pml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model"), model, 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		// With an error, the exit status of pan is not 0.
		if err != nil && !strings.Contains(string(out), "errors: 1") {
			t.Fatalf("%s: %v (`make deps` installs it)\n%s", name, err, out)
		}
		return string(out)
	}
	spin := []string{"-a", "-DN=1"}
	for _, d := range defines {
		spin = append(spin, "-D"+d)
	}
	command("spin", append(spin, "model")...)
	command("gcc", optimize, "-DSAFETY", "-DMEMLIM=3000", "-w", "-o", "pan", "pan.c")
	out := command("./pan", "-m100000", "-w24", "-n", "-E")
	if strings.Contains(out, "max search depth too small") ||
		strings.Contains(out, "out of memory") {
		t.Fatalf("incomplete search:\n%s", out)
	}
	switch errors := regexp.MustCompile(`errors: (\d+)`).FindStringSubmatch(out); {
	case errors == nil:
		t.Fatalf("no verdict:\n%s", out)
	case errors[1] == "0":
		return false
	case !strings.Contains(out, "assertion violated"):
		t.Fatalf("an unexpected error:\n%s", out)
	}
	return true
}
