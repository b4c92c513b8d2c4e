package bench

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const (
	coldKeys   = 1000
	coldRounds = 5
)

// benchmarkCold measures requests with keys that a node has not cached, with and without Redis.
func benchmarkCold(b *testing.B) {
	var t strings.Builder
	fmt.Fprintf(&t,
		"%s Three Caddys. %d rounds of %d new keys, one request per key over one connection, "+
			"through the whole Caddy: first to a node while no node\n"+
			"knows the key, then to another node, then to that node again. Medians of the "+
			"rounds, with the lowest and highest in parentheses. Queries are counted by "+
			"PostgreSQL's own statistics, round trips as `GETRANGE` by Redis's.\n\n",
		aboutPostgres, coldRounds, coldKeys)
	t.WriteString("| | request | p50 | p99 | queries per key | Redis round trips per key " +
		"|\n|---|---|--:|--:|--:|--:|\n")
	for _, withRedis := range []bool{false, true} {
		f := startFleet(b, 3, withRedis)
		phases := []struct {
			name      string
			node      int
			p50, p99  []float64
			lookups   float64
			roundTrip float64
		}{{name: "no node knows the key", node: 1}, {name: "another node knows it",
			node: 2}, {name: "this node knows it", node: 2}}
		for range coldRounds {
			tokens := newTokens(coldKeys)
			f.manager[0].importAll(b, tokens)
			for i := range phases {
				p := &phases[i]
				f.statements(b)
				before := f.roundTrips(b)
				got := askAll(b, f.Nodes[p.node], tokens, 1)
				lookups, _ := f.statements(b)
				p.lookups += lookups
				p.roundTrip += f.roundTrips(b) - before
				p.p50 = append(p.p50, float64(quantile(got.latencies, 0.5)))
				p.p99 = append(p.p99, float64(quantile(got.latencies, 0.99)))
				if i == 0 && withRedis {
					gate.Until(b, "the keys are in Redis", func() bool {
						n, err := f.redis.DBSize(context.Background()).Result()
						return err == nil && n >= int64(len(p.p50)*coldKeys)
					})
				}
			}
		}
		with := map[bool]string{false: "without Redis", true: "with Redis"}[withRedis]
		for _, p := range phases {
			fmt.Fprintf(&t, "| %s | %s | %s | %s | %.3f | %.3f |\n", with, p.name,
				middleAndRange(p.p50), middleAndRange(p.p99),
				p.lookups/(coldRounds*coldKeys), p.roundTrip/(coldRounds*coldKeys))
		}
		second := phases[1]
		queries := second.lookups / (coldRounds * coldKeys)
		roundTrips := second.roundTrip / (coldRounds * coldKeys)
		found := fmt.Sprintf("%.3f queries, %.3f round trips", queries, roundTrips)
		if withRedis {
			report.bar("first request with a key that only another node knows, with Redis",
				"one Redis round trip, no query", found, queries == 0 && roundTrips == 1)
		} else {
			report.bar("the same without Redis", "one query", found,
				queries == 1 && roundTrips == 0)
		}
	}
	report.section("A key that the node does not know", t.String())
	b.ReportMetric(0, "ns/op")
}

// middleAndRange formats the median and the range of times in nanoseconds.
func middleAndRange(values []float64) string {
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	return fmt.Sprintf("%v (%v to %v)", rounded(middleOf(values)), rounded(low), rounded(high))
}
