package bench

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// rounds is the number of rounds of each comparison: BENCH_ROUNDS, or 13. If the control of a
// comparison with goals differs from the stock process by more than 1 %, more follow, up to longest.
var (
	rounds  = numberFrom("BENCH_ROUNDS", 13)
	longest = 3*rounds | 1 // like the number of rounds, odd: the median is one of them
)

const (
	roundLength = time.Second
	conns       = 32
	// A process can be faster or slower than another with the same configuration until it ends,
	// because of where its memory lies. So the processes are restarted after so many rounds.
	life = 4
)

// A comparison has the processes that are compared.
type comparison struct {
	stock, control, encoder, keys *caddy
	few, none                     *caddy // keys with fewer identity headers
	constants                     *caddy // the identity headers without keys
	forward                       *caddy
	checker                       checker // behind forward
}

// A round is one load on one process.
type round struct {
	perSecond, cpu, checkerCPU float64 // CPU time in microseconds per request
	p50, p99                   time.Duration
}

func cpuOf(r round) float64  { return r.cpu }
func rateOf(r round) float64 { return r.perSecond }

// benchmarkCaddys compares processes: a stock Caddy, the same again to show the error of the
// comparison, one with our log format, three with our handler too, one that only changes the headers
// that our handler changes, and one with forward_auth.
func benchmarkCaddys(b *testing.B) {
	upstream := startUpstream(b)
	c := comparison{checker: startChecker(b),
		stock: startCaddy(b, stock, upstream), control: startCaddy(b, control, upstream),
		encoder: startCaddy(b, withFormat, upstream), keys: startCaddy(b, withKeys, upstream),
		few: startCaddy(b, fewHeaders, upstream), none: startCaddy(b, noHeaders, upstream)}
	spec := gate.JSON{"name": "bench", "access": "read_only"}
	key := c.keys.Mint(b, spec)
	c.constants = startCaddy(b, setHeaders(key.ID), upstream)
	c.forward = startCaddy(b, forwardAuth(c.checker.addr), upstream)
	token := string(key.Token)
	c.checker.know(b, token)
	for _, process := range []*caddy{c.stock, c.control, c.encoder, c.keys, c.constants,
		c.forward} {
		process.token = token
	}
	for _, process := range []*caddy{c.few, c.none} {
		process.token = string(process.Mint(b, spec).Token)
	}
	for _, r := range requests {
		b.Run(r.name, func(b *testing.B) { c.compare(b, r) })
	}
}

// compare measures the processes in turn with one kind of request.
func (c *comparison) compare(b *testing.B, r request) {
	caddys := []*caddy{c.stock, c.control, c.encoder, c.keys, c.few}
	if r.goals {
		caddys = append(caddys, c.none, c.constants)
	}
	withForward := r.name == "wrk"
	if withForward {
		caddys = append(caddys, c.forward)
	}
	seen := make([][]round, len(caddys))
	of := func(process *caddy) []round { return seen[slices.Index(caddys, process)] }
	for n := 0; n < rounds ||
		n < longest && r.goals && (n%2 == 0 || differ(of(c.control), of(c.stock))); n++ {
		if n%life == 0 {
			for _, process := range caddys {
				process.Restart(b)
			}
			for _, process := range caddys { // warm up connections, cache and heap
				c.measure(b, r, process)
			}
		}
		seen = inTurn(n, seen, func(i int) round { return c.measure(b, r, caddys[i]) })
	}

	var t strings.Builder
	if withForward {
		fmt.Fprintf(&t, "%s\n\n", aboutComparison())
	}
	t.WriteString("| process | requests/s | CPU µs per request | p50 | p99 | CPU, × stock | " +
		"throughput, × stock |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for i, process := range caddys {
		fmt.Fprintf(&t, "| %s | %.0f | %.1f | %v | %v | %v | %v |\n", process.name,
			median(seen[i], rateOf), median(seen[i], cpuOf),
			durationMedian(seen[i], func(r round) time.Duration { return r.p50 }),
			durationMedian(seen[i], func(r round) time.Duration { return r.p99 }),
			ratio(seen[i], of(c.stock), cpuOf), ratio(seen[i], of(c.stock), rateOf))
	}
	cpu, rate := ratio(of(c.keys), of(c.stock), cpuOf), ratio(of(c.keys), of(c.stock), rateOf)
	format := ratio(of(c.encoder), of(c.stock), cpuOf)
	if r.goals {
		report.bar("CPU per request with `api_key`: "+r.title, "≤ 1.03 × stock", cpu.String(),
			hundredths(cpu.middle) <= 1.03)
		report.bar("the same, throughput", "≥ 0.97 × stock", rate.String(),
			hundredths(rate.middle) >= 0.97)
		report.bar("the same, CPU with `format api_keys` alone", "≤ 1.00 × stock", format.String(),
			hundredths(format.middle) <= 1)
	}
	if withForward {
		over := ratio(of(c.keys), of(c.forward), rateOf)
		report.bar("throughput with `api_key`, against `forward_auth` to a Redis-backed checker",
			"≥ 2 ×", over.String(), hundredths(over.middle) >= 2)
		fmt.Fprintf(&t, "\nThe checker behind `forward_auth` is a separate process. It takes "+
			"%.1f µs more CPU time per request, not counting its Redis.\n\n",
			median(of(c.forward), func(r round) float64 { return r.checkerCPU }))
		t.WriteString(c.instructions(r, caddys))
	}
	if n := len(of(c.stock)); n > rounds {
		fmt.Fprintf(&t, "\n%d rounds.\n", n)
	}
	report.section("With and without keys: "+r.title, t.String())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ratio(of(c.control), of(c.stock), cpuOf).middle, "control-cpu-x-stock")
	b.ReportMetric(format.middle, "format-cpu-x-stock")
	b.ReportMetric(cpu.middle, "cpu-x-stock")
	b.ReportMetric(rate.middle, "rate-x-stock")
}

func aboutComparison() string {
	var names []string
	for _, line := range browserHeaders {
		name, _, _ := strings.Cut(line, ":")
		names = append(names, "`"+name+"`")
	}
	return fmt.Sprintf("Processes of one binary. The stock one has no `api_keys` in its "+
		"configuration, and its logs are Caddy's JSON; the third differs from it in `log { format "+
		"api_keys }` only; those with `api_key` in front of `reverse_proxy` or `respond` have the "+
		"`api_keys` app too. `request_header` is Caddy's own way to remove `Authorization` and to "+
		"set five headers, here to the constants that `api_key` sets: its extra cost over the stock "+
		"process is the price of five headers. In this table only, the last one has "+
		"`forward_auth`.\n"+
		"In this table and the next ones, at least %d rounds of %v on each "+
		"process in turn, over %d connections with one request at a time each. The processes are "+
		"restarted after every %d rounds. Every process gets "+
		"the same requests: a GET with `Host` and `Authorization`, as wrk sends it, or with a "+
		"browser's headers too (%s).\nCPU time is the scheduler's, in nanoseconds. The access log "+
		"is a file. HTTP/2 is without TLS, so that encryption does not hide the difference.\n"+
		"Medians over the rounds; ratios are medians of the ratios within a round, with the middle "+
		"half of them in parentheses. The control is the stock process again. In the first "+
		"three tables, rounds are added until its medians differ by at most 1 %%, up to %d rounds.\n"+
		"Behind `reverse_proxy`, what `format api_keys` saves pays for most of `api_key`. With "+
		"`respond`, nothing is proxied, so there is no debug line to save.",
		rounds, roundLength, conns, life, strings.Join(names, ", "), longest)
}

// measure sends one load to a process.
func (c *comparison) measure(b *testing.B, r request, process *caddy) round {
	b.Helper()
	before, checkerBefore := cpu(b, process.Pid()), cpu(b, c.checker.pid)
	got := mustRun(b, r.load(process))
	n := float64(len(got.latencies))
	took := round{
		perSecond:  got.perSecond(),
		cpu:        micros(cpu(b, process.Pid())-before) / n,
		checkerCPU: micros(cpu(b, c.checker.pid)-checkerBefore) / n,
		p50:        quantile(got.latencies, 0.5),
		p99:        quantile(got.latencies, 0.99),
	}
	process.emptyAccessLog(b, r.log)
	return took
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// emptyAccessLog truncates the access log, so that it does not fill the disk. It fails if the log
// has entries but should be empty, or the reverse.
func (c *caddy) emptyAccessLog(b *testing.B, wanted bool) {
	b.Helper()
	path := filepath.Join(c.Dir, "access.log")
	info, err := os.Stat(path)
	if err == nil && (info.Size() > 0) != wanted {
		b.Fatalf("%s: the access log has %d bytes", c.name, info.Size())
	}
	if err == nil {
		err = os.Truncate(path, 0)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// differ reports whether two processes with the same configuration differ by more than 1 %. Such a
// difference is an error of the comparison: something else used the machine.
func differ(a, b []round) bool {
	cpu, rate := ratio(a, b, cpuOf).middle, ratio(a, b, rateOf).middle
	return math.Abs(cpu-1) > 0.01 || math.Abs(rate-1) > 0.01
}

// inTurn adds one round per process, beginning with a different process each time.
func inTurn(n int, seen [][]round, measure func(process int) round) [][]round {
	for i := range seen {
		process := (n + i) % len(seen)
		seen[process] = append(seen[process], measure(process))
	}
	return seen
}

// instructions returns the sentence about user-mode instructions.
func (c *comparison) instructions(r request, caddys []*caddy) string {
	perRequest := make(map[*caddy][]float64)
	for range 5 {
		for _, process := range caddys {
			var got sample
			counted, err := userInstructions(process.Pid(), func() (err error) {
				got, err = r.load(process).run()
				return err
			})
			if err != nil {
				return fmt.Sprintf("User-mode instructions per request (`perf stat -e "+
					"instructions:u`) cannot be counted on this machine: %v.\n", err)
			}
			perRequest[process] = append(perRequest[process],
				counted/float64(len(got.latencies)))
		}
	}
	var t strings.Builder
	t.WriteString("User-mode instructions per request (`perf stat -e instructions:u -p`), medians " +
		"of five:")
	plain := middleOf(perRequest[c.stock])
	for _, process := range caddys {
		fmt.Fprintf(&t, " %s %.0f (%+.0f);", process.name, middleOf(perRequest[process]),
			middleOf(perRequest[process])-plain)
	}
	added := middleOf(perRequest[c.keys]) - plain
	report.bar("user-mode instructions that `api_key` adds to a request", "≤ 6,000",
		fmt.Sprintf("%.0f", added), added <= 6000)
	return strings.TrimSuffix(t.String(), ";") + ".\n"
}

// A spread is the median and the quartiles.
type spread struct{ low, middle, high float64 }

func (s spread) String() string {
	return fmt.Sprintf("%.2f × (%.2f to %.2f)", s.middle, s.low, s.high)
}

// hundredths rounds a ratio as String does, so that the verdict agrees with the printed ratio.
func hundredths(ratio float64) float64 { return math.Round(ratio*100) / 100 }

func ratio(of, to []round, what func(round) float64) spread {
	return ratios(each(of, what), each(to, what))
}

func ratios(of, to []float64) spread {
	all := make([]float64, len(of))
	for i := range of {
		all[i] = of[i] / to[i]
	}
	slices.Sort(all)
	n := len(all)
	return spread{all[n/4], all[n/2], all[n-1-n/4]}
}

func each(rounds []round, what func(round) float64) []float64 {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = what(r)
	}
	return values
}

func median(rounds []round, what func(round) float64) float64 {
	return middleOf(each(rounds, what))
}

func durationMedian(rounds []round, what func(round) time.Duration) time.Duration {
	return rounded(median(rounds, func(r round) float64 { return float64(what(r)) }))
}

func rounded(nanoseconds float64) time.Duration {
	return time.Duration(nanoseconds).Round(10 * time.Microsecond)
}

func middleOf(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
