package bench

import (
	"os"
	"testing"
	"time"
)

func TestALoadSeesItsUpstream(t *testing.T) {
	addr := startUpstream(t)
	got, err := load{addr: addr, status: "200", conns: 2, rate: 100,
		length: 100 * time.Millisecond}.run()
	if n := len(got.latencies); err != nil || n < 8 || n > 12 {
		t.Errorf("100 requests a second for 0.1 s: %d requests, error %v", n, err)
	}
	if _, err := (load{addr: addr, status: "401", conns: 1,
		length: time.Minute}).run(); err == nil {
		t.Error("another status than the one that must come is no error")
	}
}

func TestQuantile(t *testing.T) {
	sorted := make([]time.Duration, 100)
	for i := range sorted {
		sorted[i] = time.Duration(i + 1)
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := quantile(sorted, q); got != want {
			t.Errorf("quantile %v of 1 to 100: %d, not %d", q, got, want)
		}
	}
}

func TestProcessorTime(t *testing.T) {
	before, err := processorTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if after, err := processorTime(os.Getpid()); err != nil || after > before {
			return
		}
	}
	t.Error("10 s of work took no processor time")
}

func TestParse(t *testing.T) {
	got := parse("goos: linux\nBenchmarkA-2   \t 100\t 30.5 ns/op\t 0 B/op\nBenchmarkA-2 100 10 " +
		"ns/op 0 B/op\nBenchmarkA-2 100 20 ns/op 0 B/op\nBenchmarkB/sub 1 7 bytes/key\nPASS\n")
	if len(got) != 2 || got[0].name != "BenchmarkA" || got[0].value("ns/op") != "20" ||
		got[1].name != "BenchmarkB/sub" || got[1].others() != "7 bytes/key" {
		t.Errorf("%+v", got)
	}
}
