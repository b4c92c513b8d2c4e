package bench

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
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

// Benchmark measures one Caddy with its keys in SQLite.
func Benchmark(b *testing.B) {
	measure(b, "make bench", "One Caddy", []part{
		{"go", benchmarkGo},
		{"usage", benchmarkUsage},
		{"caddy", benchmarkCaddys},
		{"profile", benchmarkProfiles},
		{"memory", benchmarkMemory},
		{"flood", benchmarkFlood},
		{"first", benchmarkFirstRequest},
		{"revoke", benchmarkRevoke},
	})
}

// BenchmarkFleet measures three Caddys with their keys in PostgreSQL.
func BenchmarkFleet(b *testing.B) {
	measure(b, "make bench-fleet", "Three Caddys on one PostgreSQL", []part{
		{"revoke", benchmarkFleetRevoke},
		{"cold", benchmarkCold},
		{"restart", benchmarkRestart},
		{"limits", benchmarkLimits},
	})
}

// BenchmarkKeys measures a very large number of keys.
func BenchmarkKeys(b *testing.B) {
	for _, database := range []string{"PostgreSQL", "SQLite"} {
		measure(b, fmt.Sprintf("make bench-keys KEYS=%d", manyKeys),
			fmt.Sprintf("%s keys in %s", grouped(manyKeys), database), []part{
				{database, func(b *testing.B) { benchmarkKeys(b, database == "PostgreSQL") }},
			})
	}
}

type part struct {
	name string
	run  func(*testing.B)
}

// measure runs the parts one after the other. Then it prints the chapter and, if BENCHMARKS names
// the document, writes it there.
func measure(b *testing.B, command, title string, parts []part) {
	report = chapter{command: command, title: title}
	for _, part := range parts {
		if !b.Run(part.name, part.run) {
			b.Fatalf("%s failed, so nothing is written", part.name)
		}
	}
	if report.sections.Len() == 0 { // -bench selected no part
		return
	}
	text := report.String()
	if file := os.Getenv("BENCHMARKS"); file != "" {
		before, _ := os.ReadFile(file) // a missing file is empty
		if err := os.WriteFile(file, []byte(with(string(before), title, text)), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	fmt.Print("\n", text)
}

// machine describes the machine on which the figures were measured.
func machine() string {
	of := func(file, pattern string) string {
		text, _ := os.ReadFile(file)
		if match := regexp.MustCompile(pattern).FindSubmatch(text); match != nil {
			return string(match[1])
		}
		return "unknown"
	}
	commit, _ := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	return fmt.Sprintf("%s: %s, %d cores, %s kB of memory, Linux %s, %s, load average %s at the "+
		"start and %s at the end, commit %s",
		time.Now().UTC().Format(time.DateOnly), of("/proc/cpuinfo", `model name\s*: (.*)`),
		runtime.NumCPU(), of("/proc/meminfo", `MemTotal:\s*(\d+)`),
		of("/proc/sys/kernel/osrelease", `(\S+)`), runtime.Version(), loadBefore, loadAverage(),
		strings.TrimSpace(string(commit)))
}

var loadBefore = loadAverage()

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	average, _, _ := strings.Cut(string(text), " ")
	return average
}

// numberFrom returns the number in an environment variable, or a default.
func numberFrom(variable string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return otherwise
}

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
