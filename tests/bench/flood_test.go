package bench

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const (
	legitimateRate = 200
	floodConns     = 32
	segments       = 7
	segmentLength  = 3 * time.Second
)

// benchmarkFlood measures how a flood of forged tokens affects requests with a valid key, and
// whether it reaches a store.
func benchmarkFlood(b *testing.B) {
	c := startCaddy(b, withKeys, startUpstream(b))
	token := string(c.Mint(b, gate.JSON{"name": "bench", "access": "read_only"}).Token)
	legitimate := load{addr: c.sites["proxy"], header: bearer(token), status: "200", conns: 8,
		rate: legitimateRate, length: segmentLength}
	mustRun(b, legitimate)

	kinds := []struct {
		name string
		load // the zero value is no flood
	}{
		{name: "quiet"},
		{"2,000 forged per second", load{addr: c.sites["proxy"], rate: 2000}},
		{"10,000 forged per second", load{addr: c.sites["proxy"], rate: 10000}},
		{"10,000 per second to a site with `respond 401`, for comparison",
			load{addr: c.sites["refuse"], rate: 10000}},
		{"the same again (control)", load{addr: c.sites["refuse"], rate: 10000}},
		{fmt.Sprintf("forged, as fast as possible over %d connections", floodConns),
			load{addr: c.sites["proxy"]}},
		{fmt.Sprintf("`respond 401`, as fast as possible over %d connections, for comparison",
			floodConns),
			load{addr: c.sites["refuse"]}},
	}
	p50s, p99s := make([][]float64, len(kinds)), make([][]float64, len(kinds))
	floods := make([][]float64, len(kinds))
	lookups := func() float64 { return c.Metric(b, "caddy_apikeys_lookups_total", "tier=database") }
	negative := func() float64 {
		return c.Metric(b, "caddy_apikeys_lookups_total",
			"tier=negative")
	}
	databaseBefore, negativeBefore := lookups(), negative()
	for turn := range segments {
		for n := range kinds {
			i := (turn + n) % len(kinds)
			kind := kinds[i]
			flooded := make(chan sample, 1)
			if kind.addr == "" {
				flooded <- sample{took: time.Second}
			} else {
				flood := kind.load
				flood.header, flood.status = bearer(forged()), "401"
				flood.conns, flood.length = floodConns, segmentLength
				go func() {
					got, err := flood.run()
					if err != nil {
						b.Error(err)
					}
					flooded <- got
				}()
			}
			good := mustRun(b, legitimate).latencies
			p50s[i] = append(p50s[i], float64(quantile(good, 0.5)))
			p99s[i] = append(p99s[i], float64(quantile(good, 0.99)))
			floods[i] = append(floods[i], (<-flooded).perSecond())
		}
	}
	asked, askedNegative := lookups()-databaseBefore, negative()-negativeBefore

	var t strings.Builder
	fmt.Fprintf(&t,
		"%d valid requests per second over 8 connections, timed from when each was due. At the "+
			"same time, requests with forged tokens: their checksum is right, their tag is "+
			"wrong.\n"+
			"%d segments of %v each, in turn. Medians over the segments, and of the ratios within "+
			"a turn.\n\n", legitimateRate, segments, segmentLength)
	t.WriteString("| other load | forged/s | valid requests: p50 | p99 | p99, × quiet " +
		"|\n|---|--:|--:|--:|--:|\n")
	timesQuiet := make([]spread, len(kinds))
	for i, kind := range kinds {
		timesQuiet[i] = ratios(p99s[i], p99s[0])
		fmt.Fprintf(&t, "| %s | %.0f | %v | %v | %v |\n", kind.name, middleOf(floods[i]),
			rounded(middleOf(p50s[i])), rounded(middleOf(p99s[i])), timesQuiet[i])
	}
	fmt.Fprintf(&t,
		"\nLookups meanwhile, by `caddy_apikeys_lookups_total`: database %.0f, negative cache "+
			"%.0f.\n"+
			"The load runs on the same processors as Caddy, so the last rows show what happens "+
			"when they are fully used, whatever the reason.\n", asked, askedNegative)
	report.bar("store operations in a flood of forged tokens", "none", fmt.Sprintf("%.0f", asked),
		asked == 0)
	timesRefused, again := ratios(p99s[2], p99s[3]), ratios(p99s[4], p99s[3])
	fmt.Fprintf(&t, "The control shows the error of the comparison: its p99 is %v that of the row "+
		"above it.\n", again)
	report.bar("p99 of valid requests during 10,000 forged ones per second",
		"≤ 1.00 × during 10,000 to `respond 401`", timesRefused.String(),
		hundredths(timesRefused.middle) <= 1)
	report.section("A flood of forged tokens", t.String())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(asked, "store-operations")
	b.ReportMetric(timesQuiet[2].middle, "p99-x-quiet")
	b.ReportMetric(timesRefused.middle, "p99-x-respond-401")
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// forged returns a well-formed token. Only its tag is wrong, because it is created without the
// deployment's token key.
func forged() string {
	token := []byte("ak_")
	for range 12 + 32 + 8 {
		token = append(token, base62[rand.IntN(62)])
	}
	sum := crc32.ChecksumIEEE(token)
	var check [6]byte
	for i := len(check) - 1; i >= 0; i-- {
		check[i] = base62[sum%62]
		sum /= 62
	}
	return string(append(token, check[:]...))
}
