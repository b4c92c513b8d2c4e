package bench

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const (
	restartKeys  = 10_000
	restartRate  = 300 // requests per second at each node
	restartConns = 8
)

// benchmarkRestart measures the queries to PostgreSQL and the latency for clients when a node
// starts with an empty cache, and when PostgreSQL was unavailable.
func benchmarkRestart(b *testing.B) {
	var t, u strings.Builder
	fmt.Fprintf(&t,
		"%s Three Caddys, %s keys that all three have cached, %d requests per second to each of "+
			"the two that keep running.\n"+
			"The third is stopped and started. %d clients connect as soon as it listens, and each "+
			"sends one request with every key, as fast as it gets answers, in the same order as "+
			"the others:\n"+
			"%s requests, %d of them at a time with the same key that the node does not know yet. "+
			"Any answer but 200 would have ended the benchmark.\n\n",
		aboutPostgres, grouped(restartKeys), restartRate, restartConns,
		grouped(restartKeys*restartConns), restartConns)
	t.WriteString("| | listens after | requests took | queries for keys | Redis round trips | " +
		"other statements per second | restarted node: p50 | p99 | longest | other nodes: p50 | " +
		"p99 | longest | other nodes before: p99 |\n" +
		"|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	u.WriteString("In the same run, with 300 requests per second to each of the three nodes, " +
		"PostgreSQL is stopped immediately, as in a crash, and started again. The leases are 30 s. " +
		"Any answer but 200\n" +
		"would have ended the benchmark.\n\n| | PostgreSQL was unavailable for | a key could be " +
		"created after | queries for keys in 10 s | new connections | other statements | " +
		"requests: p50 | p99 | longest |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, withRedis := range []bool{false, true} {
		with := map[bool]string{false: "without Redis", true: "with Redis"}[withRedis]
		f := startFleet(b, 3, withRedis)
		tokens := newTokens(restartKeys)
		f.manager[0].importAll(b, tokens)
		for _, g := range f.Nodes {
			askAll(b, g, tokens, restartConns)
		}
		if withRedis {
			gate.Until(b, "the keys are in Redis", func() bool {
				n, err := f.redis.DBSize(b.Context()).Result()
				return err == nil && n >= restartKeys
			})
		}

		stay, restarted := f.Nodes[:2], f.Nodes[2]
		end := traffic(b, stay, tokens, 4, restartRate)
		time.Sleep(5 * time.Second)
		before := end()

		end = traffic(b, stay, tokens, 4, restartRate)
		restarted.Stop(b)
		f.statements(b)
		roundTripsBefore := f.roundTrips(b)
		var clients sync.WaitGroup
		latencies := make([][]time.Duration, restartConns)
		listening := make([]time.Duration, restartConns)
		start := time.Now()
		for i := range restartConns {
			clients.Go(func() {
				whole := load{addr: addr(restarted), tokens: tokens, once: true, status: "200",
					conns: 1, length: 5 * time.Minute}
				for c, err := net.Dial("tcp", whole.addr); ; c, err = net.Dial("tcp", whole.addr) {
					if err == nil {
						c.Close()
						break
					}
					time.Sleep(time.Millisecond)
				}
				listening[i] = time.Since(start)
				got, err := whole.run()
				if err != nil {
					b.Error(err)
				}
				latencies[i] = got.latencies
			})
		}
		restarted.Start(b)
		clients.Wait()
		took := time.Since(start)
		lookups, others := f.statements(b)
		roundTrips := f.roundTrips(b) - roundTripsBefore
		during := end()
		if b.Failed() {
			return
		}
		there := slices.Concat(latencies...)
		slices.Sort(there)
		first := slices.Min(listening)
		fmt.Fprintf(&t,
			"| %s | %v | %v | %.0f | %.0f | %.0f | %v | %v | %v | %v | %v | %v | %v |\n", with,
			tens(first), (took - first).Round(100*time.Millisecond),
			lookups, roundTrips, others/took.Seconds(),
			tens(quantile(there, 0.5)), tens(quantile(there, 0.99)), tens(there[len(there)-1]),
			tens(quantile(during.latencies, 0.5)), tens(quantile(during.latencies, 0.99)),
			tens(during.latencies[len(during.latencies)-1]), tens(quantile(before.latencies, 0.99)))
		most := 0.0
		if !withRedis {
			most = restartKeys
		}
		report.bar(fmt.Sprintf("queries for %s keys when a node restarts under load, %s",
			grouped(restartKeys), with), fmt.Sprintf("≤ %.0f", most), fmt.Sprintf("%.0f", lookups),
			lookups <= most)
		report.bar("errors on the other nodes meanwhile, "+with, "none",
			fmt.Sprintf("0 of %d", len(during.latencies)), true)

		end = traffic(b, f.Nodes, tokens, 4, restartRate)
		time.Sleep(time.Second)
		halted := time.Now()
		if err := f.Postgres.Halt(); err != nil {
			b.Fatal(err)
		}
		if err := f.Postgres.Run(); err != nil {
			b.Fatal(err)
		}
		back := time.Now()
		gate.Until(b, "a key can be minted", func() bool {
			r := f.Nodes[0].Try(b.Context(), "POST", "/keys",
				gate.JSON{"name": "after", "access": "read_only"})
			return r.Status == 201
		})
		minted := time.Since(back)
		time.Sleep(time.Until(back.Add(10 * time.Second)))
		lookups, others = f.statements(b)
		sessions := f.number(b,
			"SELECT sum(sessions) FROM pg_stat_database WHERE datname = 'postgres'")
		during = end()
		fmt.Fprintf(&u, "| %s | %v | %v | %.0f | %.0f | %.0f | %v | %v | %v |\n", with,
			back.Sub(halted).Round(10*time.Millisecond), tens(minted), lookups, sessions, others,
			tens(quantile(during.latencies, 0.5)), tens(quantile(during.latencies, 0.99)),
			tens(during.latencies[len(during.latencies)-1]))
		report.bar("errors while PostgreSQL restarts, "+with, "none",
			fmt.Sprintf("0 of %d", len(during.latencies)), true)
	}
	report.section("A node restarts under load", t.String())
	report.section("PostgreSQL restarts under load", u.String())
	b.ReportMetric(0, "ns/op")
}
