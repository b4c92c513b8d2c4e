package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) {
	if redis := os.Getenv(checkerRedis); redis != "" {
		fmt.Fprintln(os.Stderr, runChecker(redis))
		os.Exit(1)
	}
	gate.Main(m)
}

// Benchmark is all of it, one after the other, and the document afterwards.
func Benchmark(b *testing.B) {
	for _, part := range []struct {
		name string
		run  func(*testing.B)
	}{
		{"go", benchmarkGo},
		{"sites", benchmarkSites},
		{"flood", benchmarkFlood},
		{"first", benchmarkFirstRequest},
		{"revoke", benchmarkRevoke},
	} {
		if !b.Run(part.name, part.run) {
			b.Fatalf("%s failed, so nothing is written", part.name)
		}
	}
	if file := os.Getenv("BENCHMARKS"); file != "" {
		if err := os.WriteFile(file, []byte(report.String()), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	fmt.Print("\n", report.String())
}

// report is what this run has found.
var report document

// A document becomes docs/benchmarks.md.
type document struct {
	bars, sections strings.Builder
}

func (d *document) bar(what, bar, found string, met bool) {
	verdict := "met"
	if !met {
		verdict = "**not met**"
	}
	fmt.Fprintf(&d.bars, "| %s | %s | %s | %s |\n", what, bar, found, verdict)
}

func (d *document) section(title, text string) {
	fmt.Fprintf(&d.sections, "\n## %s\n\n%s", title, text)
}

func (d *document) String() string {
	return fmt.Sprintf(`# Benchmarks

Written by %s, which runs everything in one go on one machine; do not edit. %s.

The machine's processors are shared with whatever else runs on it, and the load, the upstream, the checker and Redis run on it too: compare within a table,
and look at the control before believing a difference.

| what | bar | found | |
|---|---|---|---|
%s%s`, "`make bench`", machine(), d.bars.String(), d.sections.String())
}

// machine is what the figures were measured on.
func machine() string {
	of := func(file, pattern string) string {
		text, _ := os.ReadFile(file)
		if match := regexp.MustCompile(pattern).FindSubmatch(text); match != nil {
			return string(match[1])
		}
		return "unknown"
	}
	commit, _ := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	return fmt.Sprintf("%s: %s, %d cores, %s kB of memory, Linux %s, %s, load average before it began %s, commit %s",
		time.Now().UTC().Format(time.DateOnly), of("/proc/cpuinfo", `model name\s*: (.*)`), runtime.NumCPU(), of("/proc/meminfo", `MemTotal:\s*(\d+)`),
		of("/proc/sys/kernel/osrelease", `(\S+)`), runtime.Version(), loadBefore, strings.TrimSpace(string(commit)))
}

var loadBefore = func() string {
	text, _ := os.ReadFile("/proc/loadavg")
	before, _, _ := strings.Cut(string(text), " ")
	return before
}()

func bearer(token string) []string { return []string{"Authorization: Bearer " + token} }

func mustRun(b *testing.B, l load) sample {
	b.Helper()
	s, err := l.run()
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	used, err := processorTime(pid)
	if err != nil {
		b.Fatal(err)
	}
	return used
}

func freeAddr(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
