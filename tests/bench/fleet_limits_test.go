package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const (
	limitLoad  = 4 * time.Second
	limitConns = 4 // for each node that gets requests
)

var (
	limitNodes = []int{1, 3, 10}
	limitRates = []int{10, 100, 10_000} // requests per second
)

// benchmarkLimits measures how exactly a fleet keeps a rate limit, and how many commands Redis gets.
func benchmarkLimits(b *testing.B) {
	var t strings.Builder
	fmt.Fprintf(&t, "Clients ask as fast as they can for %v, over %d connections to each node that "+
		"they use. Allowed is burst + rate · time; the burst is as large as the rate per "+
		"second.\n\n"+
		"| nodes | limit | requests go to | Redis | offered/s | admitted / allowed | commands/s |\n"+
		"|--:|--:|---|---|--:|--:|--:|\n", limitLoad, limitConns)
	for _, nodes := range limitNodes {
		f := startFleet(b, nodes, true)
		// Redis is unavailable last: afterwards the nodes need a moment until they use it again.
		for _, redis := range []string{"up", "flushed", "away"} {
			for _, rate := range limitRates {
				for _, used := range slices.Compact([]int{nodes, 1}) {
					f.limitRow(b, &t, rate, f.Nodes[:used], redis)
				}
			}
			if nodes == 1 {
				break // a single node needs no Redis
			}
		}
	}
	report.section("How exactly rate limits are kept", t.String())
	report.section("The same load on other rate limits", otherLimits(b))
	b.ReportMetric(0, "ns/op")
}

// limitRow adds one row to the table.
func (f fleet) limitRow(
	b *testing.B, t *strings.Builder, rate int, used []*gate.Gate, redis string,
) {
	b.Helper()
	var made struct{ Token string }
	f.manager[0].call(b, "POST", "/keys", fmt.Appendf(nil, `{"name":"limited","access":"read_only",
		"rate_limit":{"requests":%d,"per":"1s"}}`, rate), 201, &made)
	if redis == "away" {
		f.Redis.Stop()
	}
	before := f.bookings(b, redis)
	var flushed sync.WaitGroup
	if redis == "flushed" {
		flushed.Go(func() {
			time.Sleep(limitLoad / 2)
			f.redis.FlushAll(context.Background())
		})
	}
	admitted, offered, took := limitedLoad(b, urls(used), made.Token)
	flushed.Wait()
	commands := f.bookings(b, redis) - before
	if redis == "away" {
		f.Redis.Continue()
	}
	to := "one node"
	if len(used) == len(f.Nodes) {
		to = "all"
	}
	fmt.Fprintf(t, "| %d | %d/s | %s | %s | %.0f | %.2f | %.0f |\n", len(f.Nodes), rate, to, redis,
		float64(offered)/took.Seconds(), float64(admitted)/allowedIn(took, rate),
		commands/took.Seconds())
}

// allowedIn returns how many requests a rate limit with the burst of one second admits in some
// time.
func allowedIn(took time.Duration, rate int) float64 {
	return float64(rate) * (1 + took.Seconds())
}

func urls(nodes []*gate.Gate) []string {
	list := make([]string, len(nodes))
	for i, g := range nodes {
		list[i] = g.URL
	}
	return list
}

// bookings returns how many calls of the script of rate limits Redis has answered.
func (f fleet) bookings(b *testing.B, redis string) float64 {
	b.Helper()
	if redis == "away" {
		return 0
	}
	stats, err := f.redis.Info(context.Background(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	var n, sum float64
	for line := range strings.SplitSeq(stats, "\n") {
		if _, err := fmt.Sscanf(line, "cmdstat_evalsha:calls=%f", &n); err == nil {
			sum += n
		}
	}
	return sum
}

// limitedLoad asks some nodes as fast as it can, and returns how many requests were admitted and
// sent, and how long it took.
func limitedLoad(
	b *testing.B, nodes []string, token string,
) (admitted, offered int64, took time.Duration) {
	b.Helper()
	var ok, all, failed atomic.Int64
	var done sync.WaitGroup
	begun := time.Now()
	for _, url := range nodes {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: limitConns}}
		for range limitConns {
			done.Go(func() {
				for time.Since(begun) < limitLoad {
					r, _ := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
					r.Header.Set("Authorization", "Bearer "+token)
					answer, err := client.Do(r)
					if err != nil {
						failed.Add(1)
						continue
					}
					_, _ = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
					all.Add(1)
					switch answer.StatusCode {
					case http.StatusOK:
						ok.Add(1)
					case http.StatusTooManyRequests:
					default:
						failed.Add(1)
					}
				}
			})
		}
	}
	done.Wait()
	if n := failed.Load(); n > 0 {
		b.Errorf("%d requests failed", n)
	}
	return ok.Load(), all.Load(), time.Since(begun)
}
