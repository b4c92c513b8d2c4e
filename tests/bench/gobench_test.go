package bench

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// bars are the limits of Go benchmarks: the name, the benchmark that is subtracted, the unit, and
// the maximum.
var bars = []struct {
	what, benchmark, above, unit string
	most                         float64
}{
	{"token in hand to decision, cached key", "BenchmarkDecision/one", "", "ns/op", 300},
	{"the same, allocations", "BenchmarkDecision/one", "", "allocs/op", 0},
	{"whole handler, cached key, over an empty handler", "BenchmarkHandler/literal",
		"BenchmarkHandler/empty", "ns/op", 1500},
	{"the same, allocations", "BenchmarkHandler/literal", "BenchmarkHandler/empty", "allocs/op", 3},
	{"memory of a cached key, at one million", "BenchmarkCachedKeyMemory", "", "B/key", 400},
}

// benchmarkGo runs the Go benchmarks of the packages that handle a request.
func benchmarkGo(b *testing.B) {
	root, err := gate.Root()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-count", "5",
		"./keystore", "./caddymodule", "./caddymodule/redact")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	results := parse(string(out))
	var t strings.Builder
	fmt.Fprintf(&t,
		"`%s`, medians of the five.\n\n| benchmark | ns | B | allocations | "+
			"|\n|---|--:|--:|--:|---|\n", strings.Join(cmd.Args, " "))
	for _, r := range results {
		fmt.Fprintf(&t, "| %s | %s | %s | %s | %s |\n", r.name, r.value("ns/op"), r.value("B/op"),
			r.value("allocs/op"), r.others())
	}
	middle := func(benchmark, unit string) float64 {
		for _, r := range results {
			if values := r.values[unit]; r.name == benchmark && values != nil {
				return middleOf(values)
			}
		}
		b.Errorf("no %s with %s among the Go benchmarks", benchmark, unit)
		return 0
	}
	for _, bar := range bars {
		got := middle(bar.benchmark, bar.unit)
		if bar.above != "" {
			got -= middle(bar.above, bar.unit)
		}
		report.bar(bar.what, fmt.Sprintf("≤ %.0f %s", bar.most, bar.unit),
			fmt.Sprintf("%.4g %s", got, bar.unit), got <= bar.most)
	}
	report.section("Go benchmarks", t.String())
	b.ReportMetric(0, "ns/op")
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
