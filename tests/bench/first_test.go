package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// benchmarkFirstRequest measures the first request with a key after the node's start, and the next
// one.
func benchmarkFirstRequest(b *testing.B) {
	const keys = 200
	c := startCaddy(b, withKeys, startUpstream(b))
	tokens := make([]string, keys)
	for i := range tokens {
		tokens[i] = string(c.Mint(b, gate.JSON{"name": fmt.Sprint("bench ", i),
			"access": "read_only"}).Token)
	}
	c.Restart(b)
	warm := string(c.Mint(b, gate.JSON{"name": "warm", "access": "read_only"}).Token)
	mustRun(b, load{addr: c.sites["proxy"], header: bearer(warm), status: "200", conns: 1,
		length: time.Second})

	var t strings.Builder
	fmt.Fprintf(&t,
		"%d keys, one request each on a new connection, then one more each. SQLite, one "+
			"node.\n\n| request | database queries per key | p50 | p99 |\n|---|--:|--:|--:|\n",
		keys)
	var first float64
	for i, name := range []string{"first", "second"} {
		before := c.Metric(b, "caddy_apikeys_lookups_total", "tier=database")
		var latencies []time.Duration
		for _, token := range tokens {
			// A rate ensures that a load without a length sends exactly one request.
			got := mustRun(b, load{addr: c.sites["proxy"], header: bearer(token), status: "200",
				conns: 1, rate: 1, length: time.Millisecond})
			latencies = append(latencies, got.latencies...)
		}
		slices.Sort(latencies)
		queries := (c.Metric(b, "caddy_apikeys_lookups_total", "tier=database") - before) / keys
		if i == 0 {
			first = queries
		}
		fmt.Fprintf(&t, "| %s | %.2f | %v | %v |\n", name, queries,
			quantile(latencies, 0.5).Round(10*time.Microsecond),
			quantile(latencies, 0.99).Round(10*time.Microsecond))
	}
	report.bar("first request with a key that the node does not know", "one database query",
		fmt.Sprintf("%.2f", first), first == 1)
	report.section("The first request with a key", t.String())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(first, "queries/first")
}

// benchmarkRevoke measures how long revokes take until they are complete.
func benchmarkRevoke(b *testing.B) {
	const keys = 50
	c := startCaddy(b, withKeys, startUpstream(b))
	var t strings.Builder
	fmt.Fprintf(&t,
		"%d revokes through the admin endpoint, from the call to the answer `complete`. All "+
			"processes use the same SQLite file;\n"+
			"the other processes look at it every 50 ms.\n\n| processes | p50 | p99 "+
			"|\n|---|--:|--:|\n",
		keys)
	for nodes := 1; nodes <= 3; nodes++ {
		if nodes > 1 {
			gate.Start(b, gate.Config{Caddyfile: "{\n\tadmin {$GATE_ADMIN}\n\tapi_keys\n}\n" +
				"http://:{$GATE_HTTP} {\n\tbind 127.0.0.1\n\tapi_key\n}\n", DataOf: c.Gate})
		}
		var took []time.Duration
		for range keys {
			key := c.Mint(b, gate.JSON{"name": "bench", "access": "read_only"})
			begin := time.Now()
			c.Revoke(b, key.ID)
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		fmt.Fprintf(&t, "| %d | %v | %v |\n", nodes,
			quantile(took, 0.5).Round(100*time.Microsecond),
			quantile(took, 0.99).Round(100*time.Microsecond))
	}
	report.section("Revoke until complete", t.String())
	b.ReportMetric(0, "ns/op")
}
