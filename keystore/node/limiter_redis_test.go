//go:build unix

package node

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/redistest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sharedcache"
)

// TestCommandsOfLimits checks that three nodes which get 50,000 requests a second with 1,000 keys
// send Redis at most 200 commands a second, and refuse nothing. Time stands still while Redis
// works, so the speed of the machine does not matter.
func TestCommandsOfLimits(t *testing.T) {
	server := redistest.Start(t)
	for range 5 {
		if measured := testCommandsOfLimits(t, server.Addr()); measured {
			return
		}
	}
	t.Error("five times, Redis did not answer within a second")
}

// testCommandsOfLimits reports false if Redis did not answer, as on a busy machine: nodes then share
// limits without it, and send other commands.
func testCommandsOfLimits(t *testing.T, address string) (measured bool) {
	const keys, perSecond, nodes = 1000, 50_000, 3
	const duration = time.Second / fewer
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{}, nodes)
		for _, n := range f.nodes {
			r, err := sharedcache.OpenRedis(sharedcache.Options{
				URL: "redis://" + address + "?timeout=1s"})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			n.rates = func() keystore.SharedRates { return r }
		}
		limit := keystore.RateLimit{Requests: 2 * perSecond / keys, Per: time.Second,
			Burst: 4 * perSecond / keys}
		var entries [keys][nodes]*entry
		for i := range entries {
			record := recordOf(fmt.Sprint(i),
				keystore.KeyLimits{Limits: keystore.Limits{Rate: limit}})
			for j := range entries[i] {
				entries[i][j] = &entry{record: record}
			}
		}
		client := redis.NewClient(&redis.Options{Addr: address, Protocol: 2})
		defer client.Close()

		var requests sync.WaitGroup
		load := func(d time.Duration) {
			const pause = time.Second / perSecond
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(pause) {
				to := f.random.IntN(nodes)
				e := entries[f.random.IntN(keys)][to]
				a := Answer{Record: e.record, Now: time.Now().UnixNano(), entry: e}
				requests.Go(func() { f.send(a, f.nodes[to], 1) })
			}
		}
		load(time.Second / 2) // until each node has each key
		before := commands(t, client)
		load(duration)
		after := commands(t, client)
		requests.Wait()
		f.close()
		for _, n := range f.nodes {
			if n.stats().Grants[GrantFail] > 0 {
				return
			}
		}
		measured = true
		sent := after.sent - before.sent
		t.Logf("%d commands in %v, whose scripts run %d", sent, duration,
			after.inScripts-before.inScripts)
		// A node may begin a call at the beginning of this time, and another at its end.
		if sent > 200/fewer+nodes {
			t.Errorf("%d commands in %v", sent, duration)
		}
		if n := f.refused + f.unknown; n > 0 {
			t.Errorf("%d requests refused, %d failed", f.refused, f.unknown)
		}
	})
	return measured
}

// redisCommands are how many commands clients have sent to Redis, and how many scripts have called.
type redisCommands struct{ sent, inScripts int64 }

func commands(t *testing.T, client *redis.Client) (n redisCommands) {
	t.Helper()
	stats, err := client.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(stats) {
		name, rest, _ := strings.Cut(line, ":calls=")
		var calls int64
		if _, err := fmt.Sscanf(rest, "%d,", &calls); err != nil {
			continue
		}
		switch strings.TrimPrefix(name, "cmdstat_") {
		case "getrange", "set":
			n.inScripts += calls
		case "info":
		default:
			n.sent += calls
		}
	}
	return n
}
