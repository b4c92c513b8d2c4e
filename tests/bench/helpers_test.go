package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLoadOverHTTP1(t *testing.T) {
	addr := startUpstream(t)
	got, err := load{addr: addr, status: "200", conns: 2, rate: 100,
		length: 100 * time.Millisecond}.run()
	if n := len(got.latencies); err != nil || n < 8 || n > 12 {
		t.Errorf("100 requests a second for 0.1 s: %d requests, error %v", n, err)
	}
	if _, err := (load{addr: addr, status: "401", conns: 1,
		length: time.Minute}).run(); err == nil {
		t.Error("an unexpected status is no error")
	}
}

func TestLoadOverHTTP2(t *testing.T) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := httptest.NewUnstartedServer(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer a" {
				w.WriteHeader(http.StatusUnauthorized)
			}
			fmt.Fprint(w, r.Proto)
		}))
	server.Config.Protocols = &protocols
	server.Start()
	defer server.Close()
	l := load{addr: server.Listener.Addr().String(), http2: true, status: "200", conns: 2,
		tokens: []string{"a", "a", "a", "a", "a"}, once: true, length: time.Minute}
	if got, err := l.run(); err != nil || len(got.latencies) != len(l.tokens) {
		t.Errorf("%d requests: %d responses, error %v", len(l.tokens), len(got.latencies), err)
	}
	l.tokens = []string{"b"}
	if _, err := l.run(); err == nil {
		t.Error("a 401 is no error")
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

// TestProcessorTime compares the CPU time of this process with that of its threads, after one of
// them has worked and exited.
func TestProcessorTime(t *testing.T) {
	exited := make(chan time.Duration)
	go func() {
		runtime.LockOSThread() // the thread exits with the goroutine
		var used unix.Timespec
		for used.Nano() < int64(100*time.Millisecond) {
			if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
				t.Error(err)
				break
			}
		}
		exited <- time.Duration(used.Nano())
	}()
	worked := <-exited
	process, err := processorTime(os.Getpid())
	if err != nil || process < worked {
		t.Errorf("%v, error %v; one thread has worked for %v", process, err, worked)
	}
	files, err := filepath.Glob("/proc/self/task/*/schedstat")
	if err != nil {
		t.Fatal(err)
	}
	var threads time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var running, waiting, slices int64
		if _, err := fmt.Sscan(string(text), &running, &waiting, &slices); err != nil {
			t.Fatalf("%s: %q: %v", file, text, err)
		}
		threads += time.Duration(running)
	}
	after, err := processorTime(os.Getpid())
	if err != nil || after < threads {
		t.Errorf("the process has used %v, error %v; its threads %v", after, err, threads)
	}
}

func TestRatios(t *testing.T) {
	got := ratios([]float64{2, 6, 12, 2, 10}, []float64{1, 2, 3, 2, 2})
	if want := (spread{2, 3, 4}); got != want {
		t.Errorf("quartiles of 2, 3, 4, 1 and 5: %v, want %v", got, want)
	}
	if got := hundredths(1.034); got != 1.03 {
		t.Errorf("1.034 in hundredths: %v", got)
	}
}

func TestParse(t *testing.T) {
	got := parse("goos: linux\nBenchmarkA-2   \t 100\t 30.5 ns/op\t 0 B/op\nBenchmarkA-2 100 10 " +
		"ns/op 0 B/op\nBenchmarkA-2 100 20 ns/op 0 B/op\nBenchmarkB/sub 1 7 bytes/key\nPASS\n")
	if len(got) != 2 || got[0].name != "BenchmarkA" || got[0].value("ns/op") != "20" ||
		got[1].name != "BenchmarkB/sub" || got[1].others() != "7 bytes/key" {
		t.Errorf("%+v", got)
	}
}
