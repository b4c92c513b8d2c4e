package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const (
	rounds      = 120
	roundLength = 300 * time.Millisecond
	conns       = 16
)

// caddyfile has one site per port. The sites differ in the handler before the same reverse_proxy.
const caddyfile = `{
	admin {$GATE_ADMIN}
	auto_https off
	default_bind 127.0.0.1
	log {
		level WARN
		format api_keys
	}
	api_keys
}
http://:{$BENCH_PLAIN}, http://:{$BENCH_CONTROL} {
	reverse_proxy {$BENCH_UPSTREAM}
}
http://:{$BENCH_KEYS} {
	api_key
	reverse_proxy {$BENCH_UPSTREAM}
}
http://:{$BENCH_FORWARD} {
	forward_auth {$BENCH_CHECKER} {
		uri /check
		copy_headers X-Key-Id
	}
	reverse_proxy {$BENCH_UPSTREAM}
}
http://:{$BENCH_REFUSE} {
	respond 401
}
`

// sites are the addresses of the sites of caddyfile.
type sites struct{ plain, control, keys, forward, refuse string }

// startSites runs caddyfile with an upstream and the checker at an address.
func startSites(b *testing.B, checker string) (*gate.Gate, sites) {
	b.Helper()
	s := sites{freeAddr(b), freeAddr(b), freeAddr(b), freeAddr(b), freeAddr(b)}
	port := func(name, addr string) string {
		return name + "=" +
			addr[strings.LastIndexByte(addr, ':')+1:]
	}
	g := gate.Start(b, gate.Config{Caddyfile: caddyfile, Env: []string{
		port("BENCH_PLAIN", s.plain), port("BENCH_CONTROL", s.control), port("BENCH_KEYS", s.keys),
		port("BENCH_FORWARD", s.forward), port("BENCH_REFUSE", s.refuse),
		"BENCH_UPSTREAM=" + startUpstream(b), "BENCH_CHECKER=" + checker,
	}})
	return g, s
}

// A round is one load on one site.
type round struct {
	perSecond, cpu, checkerCPU float64 // CPU time in microseconds per request
	p50, p99                   time.Duration
}

// benchmarkSites compares sites of one process in turns: reverse_proxy alone, the same again to
// show the error of the comparison, reverse_proxy behind api_key, and reverse_proxy behind
// forward_auth.
func benchmarkSites(b *testing.B) {
	// The checker needs the token, the token needs Caddy, and Caddy needs the address of the
	// checker.
	checker := startChecker(b)
	g, s := startSites(b, checker.addr)
	token := string(g.Mint(b, gate.JSON{"name": "bench", "access": "read_only"}).Token)
	checker.know(b, token)

	names := []string{"`reverse_proxy`", "the same again (control)", "`api_key`, `reverse_proxy`",
		"`forward_auth`, `reverse_proxy`"}
	addrs := []string{s.plain, s.control, s.keys, s.forward}
	seen := make([][]round, len(addrs))
	measure := func(i int) round {
		before, checkerBefore := cpu(b, g.Pid()), cpu(b, checker.pid)
		got := mustRun(b, load{addr: addrs[i], header: bearer(token), status: "200", conns: conns,
			length: roundLength})
		n := float64(len(got.latencies))
		return round{
			perSecond:  got.perSecond(),
			cpu:        float64((cpu(b, g.Pid()) - before).Microseconds()) / n,
			checkerCPU: float64((cpu(b, checker.pid) - checkerBefore).Microseconds()) / n,
			p50:        quantile(got.latencies, 0.5),
			p99:        quantile(got.latencies, 0.99),
		}
	}
	for i := range addrs { // warm up connections, cache and heap
		measure(i)
	}
	for n := range rounds {
		seen = inTurn(n, seen, measure)
	}

	var t strings.Builder
	fmt.Fprintf(&t,
		"%d rounds of %v on each site in turn, %d connections, the same GET with the same "+
			"`Authorization` everywhere. Medians over the rounds;\n"+
			"ratios are medians of the ratios within a round, with the middle half of them in "+
			"parentheses.\n\n", rounds, roundLength, conns)
	t.WriteString("| site | requests/s | CPU µs per request | p50 | p99 | CPU, × plain | " +
		"throughput, × plain |\n|---|--:|--:|--:|--:|--:|--:|\n")
	cpuOf := func(r round) float64 { return r.cpu }
	rateOf := func(r round) float64 { return r.perSecond }
	for i, name := range names {
		fmt.Fprintf(&t, "| %s | %.0f | %.1f | %v | %v | %v | %v |\n", name, median(seen[i], rateOf),
			median(seen[i], cpuOf),
			durationMedian(seen[i], func(r round) time.Duration { return r.p50 }),
			durationMedian(seen[i], func(r round) time.Duration { return r.p99 }),
			ratio(seen[i], seen[0], cpuOf), ratio(seen[i], seen[0], rateOf))
	}
	fmt.Fprintf(&t,
		"\nThe checker behind `forward_auth` is a separate process. It takes another %.1f µs of "+
			"CPU "+
			"per request, without its Redis.\n\n",
		median(seen[3], func(r round) float64 { return r.checkerCPU }))
	t.WriteString(instructions(g.Pid(), names, addrs, token))

	cpuRatio, rateRatio, overForward := ratio(seen[2], seen[0], cpuOf), ratio(seen[2], seen[0],
		rateOf), ratio(seen[2], seen[3], rateOf)
	report.bar("CPU time per request with `api_key`, compared with none", "≤ 1.05 ×",
		cpuRatio.String(),
		cpuRatio.middle <= 1.05)
	report.bar("throughput with `api_key`, compared with none", "≥ 0.95 ×", rateRatio.String(),
		rateRatio.middle >= 0.95)
	report.bar("throughput with `api_key`, compared with `forward_auth` to a Redis-backed checker",
		"≥ 2 ×", overForward.String(), overForward.middle >= 2)
	report.section("The same Caddy with and without keys", t.String())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(cpuRatio.middle, "cpu-x-plain")
	b.ReportMetric(rateRatio.middle, "rate-x-plain")
	b.ReportMetric(overForward.middle, "rate-x-forward_auth")
}

// inTurn adds one round per site, each time beginning with another site.
func inTurn(n int, seen [][]round, measure func(site int) round) [][]round {
	for i := range seen {
		site := (n + i) % len(seen)
		seen[site] = append(seen[site], measure(site))
	}
	return seen
}

// instructions returns the sentence about user-mode instructions.
func instructions(pid int, names, addrs []string, token string) string {
	perRequest := make([][]float64, len(addrs))
	for range 5 {
		for i, addr := range addrs {
			var got sample
			counted, err := userInstructions(pid, func() (err error) {
				got,
					err = load{addr: addr, header: bearer(token), status: "200", conns: conns,
					length: roundLength}.run()
				return err
			})
			if err != nil {
				return fmt.Sprintf("User-mode instructions per request (`perf stat -e "+
					"instructions:u`) cannot be counted on this machine: %v.\n", err)
			}
			perRequest[i] = append(perRequest[i], counted/float64(len(got.latencies)))
		}
	}
	var t strings.Builder
	t.WriteString("User-mode instructions per request (`perf stat -e instructions:u -p`), medians " +
		"of five:")
	plain := middleOf(perRequest[0])
	for i, name := range names {
		fmt.Fprintf(&t, " %s %.0f (%+.0f);", name, middleOf(perRequest[i]),
			middleOf(perRequest[i])-plain)
	}
	added := middleOf(perRequest[2]) - plain
	report.bar("user-mode instructions that `api_key` adds to a request", "≤ 12,000",
		fmt.Sprintf("%.0f", added), added <= 12000)
	return strings.TrimSuffix(t.String(), ";") + ".\n"
}

// A spread is the median and the quartiles.
type spread struct{ low, middle, high float64 }

func (s spread) String() string {
	return fmt.Sprintf("%.2f × (%.2f to %.2f)", s.middle, s.low, s.high)
}

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
