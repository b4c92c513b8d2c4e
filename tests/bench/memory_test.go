package bench

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// benchmarkMemory compares the memory of a process with api_key that has answered one request with
// that of a stock one.
func benchmarkMemory(b *testing.B) {
	const starts = 5
	upstream := startUpstream(b)
	caddys := []*caddy{startCaddy(b, stock, upstream), startCaddy(b, control, upstream),
		startCaddy(b, withFormat, upstream), startCaddy(b, withKeys, upstream)}
	token := string(caddys[3].Mint(b, gate.JSON{"name": "bench", "access": "read_only"}).Token)
	seen := make([][]float64, len(caddys))
	for range starts {
		for i, process := range caddys {
			process.Restart(b)
			mustRun(b, load{addr: process.sites["proxy"], header: bearer(token), status: "200",
				conns: 1, rate: 1, length: time.Millisecond})
			time.Sleep(time.Second) // for background work after a start
			seen[i] = append(seen[i], megabytes(b, process.Gate, "RssAnon"))
		}
	}
	var t strings.Builder
	fmt.Fprintf(&t, "`RssAnon` of `/proc/PID/status`, a second after the first request, medians "+
		"of %d starts.\n\n| process | MB | more than stock |\n|---|--:|--:|\n", starts)
	for i, process := range caddys {
		fmt.Fprintf(&t, "| %s | %.1f | %+.1f |\n", process.name, middleOf(seen[i]),
			middleOf(seen[i])-middleOf(seen[0]))
	}
	more := middleOf(seen[3]) - middleOf(seen[0])
	report.bar("memory of an idle Caddy with `api_key`, minus that of a stock one", "≤ 15 MB",
		fmt.Sprintf("%.1f MB", more), more <= 15)
	report.section("Memory of an idle Caddy", t.String())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(more, "MB-over-stock")
}

// megabytes returns a line of /proc/PID/status in units of 1,000,000 bytes.
func megabytes(b *testing.B, g *gate.Gate, line string) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.Pid()))
	match := regexp.MustCompile(line + `:\s*(\d+) kB`).FindSubmatch(text)
	if err != nil || match == nil {
		b.Fatalf("no %s of process %d: %v", line, g.Pid(), err)
	}
	kilobytes, err := strconv.Atoi(string(match[1]))
	if err != nil {
		b.Fatal(err)
	}
	return float64(kilobytes) * 1024 / 1e6
}
