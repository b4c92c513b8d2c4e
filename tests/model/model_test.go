// Package model checks the model of the protocol that a revoke relies on (docs/protocol.md) with SPIN: no request that was
// sent after a revoke returned is accepted, whatever stalls, is lost or crashes; and each of the mechanisms is needed for that.
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
		defines string
		fails   bool
	}{
		{"the protocol", "", false},
		{"with crashes", "CRASH", false},
		{"with longer leases", "L=2 TMAX=6", false},
		{"without: a reload keeps the counters", "CRASH BUG_RELOAD", true},
		{"without: the lease runs from before the question", "BUG_LEASE_AT_REPLY", true},
		{"without: waiting longer than a lease", "BUG_NO_DRIFT", true},
		{"without: a load notes the generation", "BUG_NO_FILL_TOKEN", true},
		{"without: no joining of a load that a change overtook", "BUG_JOIN_FLIGHT", true},
		{"without: the shared cache's entries say of when they are", "BUG_NO_ASOF", true},
		{"without: the members are read after the commit", "BUG_MEMBERS_FIRST", true},
		{"without: acknowledging after applying", "BUG_ACK_EARLY", true},
		{"without: leases come from the database alone", "BUG_REDIS_LEASE", true},
		{"without: the clock is read for each request", "BUG_CACHED_CLOCK", true},
		{"without: applying before the lease is extended", "BUG_RENEW_NO_APPLY", true},
		{"without: the generation moves before the entry goes", "BUG_PURGE_ORDER", true},
		{"without: compare and insert are one step", "BUG_FILL_TOCTOU", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got := violated(t, strings.Fields(c.defines)); got != c.fails {
				t.Errorf("a revoked key is accepted: %v, want %v", got, c.fails)
			}
		})
	}
}

// violated searches all states of the model, built with the defines, for one in which a revoked key is accepted.
func violated(t *testing.T, defines []string) bool {
	t.Helper()
	model, err := filepath.Abs("lease.pml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	command := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil && !strings.Contains(string(out), "errors: 1") { // pan's exit status says the same
			t.Fatalf("%s: %v (make deps installs spin and gcc)\n%s", name, err, out)
		}
		return string(out)
	}
	spin := []string{"-a", "-DN=1"}
	for _, d := range defines {
		spin = append(spin, "-D"+d)
	}
	command("spin", append(spin, model)...)
	command("gcc", "-O2", "-DSAFETY", "-DMEMLIM=3000", "-w", "-o", "pan", "pan.c")
	out := command("./pan", "-m100000", "-w24", "-n", "-E")
	if strings.Contains(out, "max search depth too small") || strings.Contains(out, "out of memory") {
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
