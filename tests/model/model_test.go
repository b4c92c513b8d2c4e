// Package model checks the models of the protocol that a revoke relies on (docs/protocol.md) with
// SPIN: no request that was sent after a revoke returned is accepted, whatever stalls, is lost or
// crashes. It also checks that the search finds a violation when a mechanism is left out.
package model

import (
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
		fails   bool
	}{
		{"the protocol", "lease", "", false},
		{"with crashes", "lease", "CRASH", false},
		{"with longer leases", "lease", "L=2 TMAX=6", false},
		{"without: a reload keeps the counters", "lease", "CRASH BUG_RELOAD", true},
		{"without: the lease runs from before the question", "lease", "BUG_LEASE_AT_REPLY", true},
		{"without: waiting longer than a lease", "lease", "BUG_NO_DRIFT", true},
		{"without: a wait that no measured rate shortens", "lease", "BUG_MEASURED_WAIT", true},
		{"without: a load notes the generation", "lease", "BUG_NO_FILL_TOKEN", true},
		{"without: no joining of a load that a change overtook", "lease", "BUG_JOIN_FLIGHT", true},
		{"without: the shared cache's entries say of when they are", "lease", "BUG_NO_ASOF", true},
		{"without: the members are read after the commit", "lease", "BUG_MEMBERS_FIRST", true},
		{"without: acknowledging after applying", "lease", "BUG_ACK_EARLY", true},
		{"without: leases come from the database alone", "lease", "BUG_REDIS_LEASE", true},
		{"without: the clock is read for each request", "lease", "BUG_CACHED_CLOCK", true},
		{"without: applying before the lease is extended", "lease", "BUG_RENEW_NO_APPLY", true},
		{"without: the generation moves before the entry goes", "lease", "BUG_PURGE_ORDER", true},
		{"without: compare and insert are one step", "lease", "BUG_FILL_TOCTOU", true},

		{"a failover", "failover", "", false},
		{"a failover, with a shared cache", "failover", "SHARED TAKES=1", false},
		{"a failover, with fencing", "failover", fencing, false},
		{"a failover that loses answered changes", "failover", lossy, false},
		{"without: a visible row does not stand in for a join", "failover", "BUG_VISIBLE_JOIN",
			true},
		{"without: a visible change does not stand in for a revoke", "failover",
			"BUG_VISIBLE_REVOKE", true},
		{"without: a takeaway that changes nothing takes a revision", "failover", "BUG_NO_REVISION",
			true},
		{"without: an acknowledgement is of one history", "failover", "BUG_ACK_BY_NUMBER", true},
		{"without: no record newer than applied is cached", "failover", "BUG_NEWER", true},
		{"without: no joining of a load newer than applied", "failover", "BUG_JOIN_NEWER", true},
		{"without: a shared entry is of one history", "failover", "SHARED BUG_SHARED_BY_NUMBER",
			true},
		{"without: only a fencing row is removed", "failover", fencing + " BUG_REMOVE_ANY", true},
		{"without: the adopter fences the nodes of the lost history", "failover",
			lossy + " BUG_FORGET_NODES", true},
		{"without: and those that it has not seen", "failover", lossy + " BUG_KNOWN_ONLY", true},
		{"without: each failover is noticed", "failover", lossy + " BUG_NOTICE_BY_POSITION", true},
		{"without: a last look before the answer", "failover", lossy + " BUG_NO_LAST_LOOK", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			// A search that ends at the first violation takes less time than an optimizing compiler.
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

// The bounds of the larger searches.
const (
	fencing = "FENCE TAKES=1 OTHERS=0 GIVES=0"
	lossy   = "LOSSY TAKES=1 OTHERS=0"
)

// violated searches all states of a model, built with the defines, for one in which a revoked key
// is accepted.
func violated(t *testing.T, name, optimize string, defines []string) bool {
	t.Helper()
	model, err := filepath.Abs(name + ".pml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	command := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		// pan's exit status says the same
		if err != nil && !strings.Contains(string(out), "errors: 1") {
			t.Fatalf("%s: %v (make deps installs spin and gcc)\n%s", name, err, out)
		}
		return string(out)
	}
	spin := []string{"-a", "-DN=1"}
	for _, d := range defines {
		spin = append(spin, "-D"+d)
	}
	command("spin", append(spin, model)...)
	command("gcc", optimize, "-DSAFETY", "-DMEMLIM=3000", "-w", "-o", "pan", "pan.c")
	out := command("./pan", "-m100000", "-w24", "-n", "-E")
	if strings.Contains(out, "max search depth too small") ||
		strings.Contains(out, "out of memory") {
		t.Fatalf("the search is not complete:\n%s", out)
	}
	switch errors := regexp.MustCompile(`errors: (\d+)`).FindStringSubmatch(out); {
	case errors == nil:
		t.Fatalf("no verdict:\n%s", out)
	case errors[1] == "0":
		return false
	case !strings.Contains(out, "assertion violated"):
		t.Fatalf("another error than the one looked for:\n%s", out)
	}
	return true
}
