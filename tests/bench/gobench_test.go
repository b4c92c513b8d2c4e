package bench

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// bars are the limits of Go benchmarks: the name, the benchmark, the one that is subtracted, the
// unit, and the maximum.
var bars = []struct {
	what, benchmark, above, unit string
	most                         float64
}{
	{"from token to decision, cached key", "BenchmarkDecision/one", "", "ns/op", 160},
	{"the same, allocations", "BenchmarkDecision/one", "", "allocs/op", 0},
	{"the same for a derived token, allocations", "BenchmarkDerivedDecision/verified", "",
		"allocs/op", 0},
	{"the first decision about a derived token", "BenchmarkDerivedDecision/fresh", "", "ns/op",
		100_000},
	{"refusal of a derived token with hundreds of claims", "BenchmarkForgedDerived/claims", "",
		"ns/op", 50_000},
	{"whole handler, cached key, minus an empty handler", "BenchmarkHandler/literal",
		"BenchmarkHandler/empty", "ns/op", 800},
	{"the same, allocations", "BenchmarkHandler/literal", "BenchmarkHandler/empty", "allocs/op", 1},
	{"refusal of a forged token, in the store", "BenchmarkForgedToken", "", "ns/op", 500},
	{"refusal of a forged token, whole handler, allocations", "BenchmarkRefusal/forged",
		"BenchmarkHandler/empty", "allocs/op", 2},
	{"verifying wrong signatures in the name of one key, share of a core",
		"BenchmarkForgedDerived/one_key", "", "%", 10},
	{"memory of verified derived tokens, 100,000 small ones", "BenchmarkVerifiedMemory/small", "",
		"MiB", 64},
	{"the same, as many as fit with 100 permissions", "BenchmarkVerifiedMemory/permissions", "",
		"MiB", 64},
	{"the same, with 100 namespaces", "BenchmarkVerifiedMemory/namespaces", "", "MiB", 64},
	{"the same, with 100 addresses", "BenchmarkVerifiedMemory/addresses", "", "MiB", 64},
	{"whole handler, derived token that was verified, allocations", "BenchmarkHandler/derived",
		"BenchmarkHandler/empty", "allocs/op", 2},
	{"charge to a rate limit", "BenchmarkCharge/rate", "BenchmarkCharge/none", "ns/op", 60},
	{"the same, allocations", "BenchmarkCharge/rate", "", "allocs/op", 0},
	{"memory of a rate limit in use", "BenchmarkLimitMemory/rate", "", "B/key", 200},
	{"memory of a quota in use", "BenchmarkLimitMemory/quota", "", "B/key", 200},
	{"memory of a rate limit and a quota of one key in use", "BenchmarkLimitMemory/rate_and_quota",
		"", "B/key", 200},
	{"counting a request in usage", "BenchmarkCountUse/one_key", "", "ns/op", 40},
	{"the same, allocations", "BenchmarkCountUse/one_key", "", "allocs/op", 0},
	{"memory of a cached key, at one million", "BenchmarkCachedKeyMemory", "", "B/key", 400},
	{"access log entry of a request with a key, minus one without",
		"BenchmarkAccessEntry/api_keys_with_key", "BenchmarkAccessEntry/api_keys", "ns/op", 1000},
}

// benchmarkGo runs the Go benchmarks of the packages that handle a request.
func benchmarkGo(b *testing.B) {
	all := []string{"-bench", ".", "-benchmem", "-benchtime", "300ms", "-count", "5",
		"./keystore/manage", "./keystore/node", "./caddymodule", "./caddymodule/redact",
		"./caddymodule/route"}
	results := goTest(b, all...)
	var t strings.Builder
	fmt.Fprintf(&t, "`%s`, medians of the five.\n\n%s", "go test -run ^$ "+strings.Join(all, " "),
		table(results))
	for _, bar := range bars {
		got := middle(b, results, bar.benchmark, bar.unit)
		if bar.above != "" {
			got -= middle(b, results, bar.above, bar.unit)
		}
		report.bar(bar.what, fmt.Sprintf("≤ %.0f %s", bar.most, bar.unit),
			fmt.Sprintf("%.4g %s", got, bar.unit), got <= bar.most)
	}
	key := middle(b, results, "BenchmarkDerivedDecision/key", "ns/op")
	derived := middle(b, results, "BenchmarkDerivedDecision/verified", "ns/op")
	report.bar("derived token that was verified, against a key", "≤ 1.3 ×",
		fmt.Sprintf("%.2f ×", derived/key), derived <= 1.3*key)
	t.WriteString(benchmarkScaling(b))
	least := middle(b, results, "BenchmarkDecision/least", "ns/op")
	one := middle(b, results, "BenchmarkDecision/one", "ns/op")
	fmt.Fprintf(&t, "\nReading the clock and hashing the token, without which no decision is "+
		"possible, take %.0f ns (BenchmarkDecision/least). The rest of a decision takes %.0f ns. On "+
		"the machine for which the bars in nanoseconds were set, the two took 90 ns.\n"+
		"BenchmarkDecision/parallel has one goroutine per processor, parallel_8 and parallel_64 have "+
		"8 and 64. Each goroutine has a key of its own. Running requests are in 256 shards, and counters "+
		"in stripes, each with its own cache lines. So of 64 requests with different keys, one shares "+
		"its shard with another with a probability of 22 %%, and then waits only while a list is "+
		"changed. Requests with the same key always share both.\n"+
		"The two allocations of the handler are the state that logs read after the handlers have "+
		"returned, which cannot be reused, and the function that Caddy's `Replacer.Map` takes.\n",
		least, one-least)
	report.section("Go benchmarks", t.String())
	b.ReportMetric(0, "ns/op")
}

func table(results []*result) string {
	var t strings.Builder
	t.WriteString("| benchmark | ns | B | allocations | |\n|---|--:|--:|--:|---|\n")
	for _, r := range results {
		fmt.Fprintf(&t, "| %s | %s | %s | %s | %s |\n", r.name, r.value("ns/op"), r.value("B/op"),
			r.value("allocs/op"), r.others())
	}
	return t.String()
}

// benchmarkUsage measures how usage is written and read in the databases.
func benchmarkUsage(b *testing.B) {
	all := []string{"-bench", "^BenchmarkUsage$", "-benchmem", "-benchtime", "10x",
		"./keystore/sqldb"}
	results := goTest(b, all...)
	for _, database := range []string{"SQLite", "PostgreSQL"} {
		for _, bar := range []struct {
			what, benchmark string
			most            time.Duration
		}{
			{"writing the usage of 10,000 keys", "Add/10000", time.Second},
			{"a year of days of one key among 100,000", "Days", 50 * time.Millisecond},
		} {
			took := time.Duration(middle(b, results,
				"BenchmarkUsage/"+database+"/"+bar.benchmark, "ns/op"))
			report.bar(bar.what+", "+database, fmt.Sprintf("≤ %v", bar.most),
				took.Round(time.Millisecond/10).String(), took <= bar.most)
		}
	}
	report.section("Usage", fmt.Sprintf("`%s`, means of ten.\n\n%s", "go test -run ^$ "+
		strings.Join(all, " "), table(results)))
	b.ReportMetric(0, "ns/op")
}

// benchmarkScaling measures decisions about one key on one and on two processors, and returns the
// sentence about it.
func benchmarkScaling(b *testing.B) string {
	const name = "BenchmarkDecision/parallel"
	var took []float64
	for _, processors := range []string{"1", "2"} {
		took = append(took, middle(b, goTest(b, "-bench", "^BenchmarkDecision$/^parallel$", "-cpu",
			processors, "-benchtime", "300ms", "-count", "9", "./keystore/manage"), name, "ns/op"))
	}
	scaling := took[0] / took[1]
	report.bar("decisions per second on two processors, compared with one", "≥ 1.9 ×",
		fmt.Sprintf("%.2f ×", scaling), hundredths(scaling) >= 1.9)
	return fmt.Sprintf("\n%s takes %.1f ns with `-cpu 1` and %.1f ns with `-cpu 2`, medians of "+
		"nine: %.2f × as many decisions per second. It needs two processors that nothing else "+
		"uses.\n", name, took[0], took[1], scaling)
}

// goTest runs Go benchmarks in the root module and returns their results.
func goTest(b *testing.B, args ...string) []*result {
	b.Helper()
	root, err := gate.Root()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("go", append([]string{"test", "-run", "^$"}, args...)...)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return parse(string(out))
}

// middle returns the median of a benchmark in a unit.
func middle(b *testing.B, results []*result, benchmark, unit string) float64 {
	b.Helper()
	for _, r := range results {
		if values := r.values[unit]; r.name == benchmark && values != nil {
			return middleOf(values)
		}
	}
	b.Errorf("no %s with %s among the Go benchmarks", benchmark, unit)
	return 0
}

type result struct {
	name   string
	values map[string][]float64 // by unit
	units  []string             // in order
}

func (r result) value(unit string) string {
	if r.values[unit] == nil {
		return ""
	}
	return strconv.FormatFloat(middleOf(r.values[unit]), 'f', -1, 64)
}

func (r result) others() string {
	var text []string
	for _, unit := range r.units {
		if unit != "ns/op" && unit != "B/op" && unit != "allocs/op" {
			text = append(text, r.value(unit)+" "+unit)
		}
	}
	return strings.Join(text, ", ")
}

// line matches `BenchmarkName-2   1000   123 ns/op   0 B/op`.
var line = regexp.MustCompile(`(?m)^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+(.+)$`)

func parse(text string) []*result {
	var results []*result
	byName := map[string]*result{}
	for _, match := range line.FindAllStringSubmatch(text, -1) {
		r := byName[match[1]]
		if r == nil {
			r = &result{name: match[1], values: map[string][]float64{}}
			byName[r.name] = r
			results = append(results, r)
		}
		fields := strings.Fields(match[2])
		for i := 0; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				break
			}
			if r.values[fields[i+1]] == nil {
				r.units = append(r.units, fields[i+1])
			}
			r.values[fields[i+1]] = append(r.values[fields[i+1]], value)
		}
	}
	return results
}
