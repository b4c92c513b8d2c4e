//go:build unix

package sqldb

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// benchUsage returns a row of typical usage of key number n of benchKey.
func benchUsage(n int, begin time.Time) keystore.UsageRow {
	k := benchKey(n, begin)
	requests := 1 + rand.Int64N(100)
	return keystore.UsageRow{
		Begin: begin, Key: k.ID, Namespace: k.Namespace, Owner: k.Owner,
		Operation: []string{"read", "write", "orders:read"}[n%3],
		UsageCounts: keystore.UsageCounts{
			Requests: requests, Units: requests, Status: [5]int64{1: requests - 1, 4: 1},
			BytesIn: 200 * requests, BytesOut: 4000 * requests,
			Latency: [6]int64{requests - 1, 1},
		},
	}
}

// addUsage adds the usage of n keys in a minute, in batches as nodes do.
func addBenchUsage(b *testing.B, d *DB, writer string, number *int64, begin time.Time, n int) {
	var rows []keystore.UsageRow
	for i := range n {
		rows = append(rows, benchUsage(i, begin))
		if len(rows) == keystore.MaxUsageRows || i == n-1 {
			*number++
			if err := d.AddUsage(b.Context(), keystore.UsageBatch{Writer: writer, Number: *number,
				Rows: rows}); err != nil {
				b.Fatal(err)
			}
			rows = rows[:0]
		}
	}
}

// BenchmarkAddUsage measures a flush of 10,000 keys.
func BenchmarkAddUsage(b *testing.B) {
	eachDatabase(b, b.Run, func(b *testing.B, node func() (*manage.Keystore, *countingDB)) {
		_, c := node()
		d := c.Database.(*DB)
		begin := time.Now().Truncate(time.Minute)
		var number int64
		for i := 0; b.Loop(); i++ {
			addBenchUsage(b, d, fmt.Sprint(b.Name()), &number, begin.Add(time.Duration(i/5)*time.Minute),
				10_000)
		}
	})
}
