//go:build unix

package sqldb

import (
	"context"
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

// A benchWriter adds usage in batches, as a node does.
type benchWriter struct {
	*DB
	number int64
}

// add adds the usage of keys 0 to n-1 in a minute.
func (w *benchWriter) add(b *testing.B, begin time.Time, n int) {
	b.Helper()
	for from := 0; from < n; from += keystore.MaxUsageRows {
		var rows []keystore.UsageRow
		for i := from; i < min(n, from+keystore.MaxUsageRows); i++ {
			rows = append(rows, benchUsage(i, begin))
		}
		w.number++
		if err := w.AddUsage(b.Context(), keystore.UsageBatch{Writer: "w", Number: w.number,
			Rows: rows}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUsage measures usage with a hundred thousand keys, or as many as APIKEYS_BENCH_KEYS.
func BenchmarkUsage(b *testing.B) {
	eachDatabase(b, b.Run, func(b *testing.B, node func() (*manage.Keystore, *countingDB)) {
		_, c := node()
		w := &benchWriter{DB: c.Database.(*DB)}
		b.Run("Add/10000", func(b *testing.B) { benchAddUsage(b, w) })
		b.Run("RollUp/10000", func(b *testing.B) { benchRollUp(b, w) })
		benchReadUsage(b, w)
	})
}

// benchAddUsage measures a flush of 10,000 keys. The keys are used in each minute, in which a node
// flushes 15 times.
func benchAddUsage(b *testing.B, w *benchWriter) {
	begin := time.Now().Truncate(time.Minute)
	for i := 0; b.Loop(); i++ {
		w.add(b, begin.Add(time.Duration(i/15)*time.Minute), 10_000)
	}
	var rows int64
	for _, s := range allSeries {
		var n int64
		if err := w.bulk.QueryRowContext(b.Context(), "SELECT count(*) FROM "+
			usageTableOf(keystore.Minute, toMinutes(begin)).name(&s)).Scan(&n); err != nil {
			b.Fatal(err)
		}
		rows += n
	}
	b.ReportMetric(float64(w.usageBytes(b, begin.UTC().Format("usage_minute_%_2006010215")))/
		float64(rows), "B/bucket")
}

// benchRollUp measures the roll-up of an hour in which 10,000 keys were used in ten minutes each,
// and its longest call.
func benchRollUp(b *testing.B, w *benchWriter) {
	hour := time.Now().AddDate(0, 0, 1).Truncate(24 * time.Hour)
	var longest time.Duration
	calls := 0
	for b.Loop() {
		b.StopTimer()
		for i := range 10 {
			w.add(b, hour.Add(time.Duration(6*i)*time.Minute), 10_000)
		}
		hour = hour.Add(time.Hour)
		if err := w.NoteTime(b.Context(), hour.Add(rollUpDelay)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for more := true; more; calls++ {
			began := time.Now()
			var err error
			if more, err = w.MaintainUsage(b.Context(),
				keystore.UsageKept{Minutes: time.Minute}); err != nil {
				b.Fatal(err)
			}
			longest = max(longest, time.Since(began))
		}
	}
	b.ReportMetric(float64(longest.Microseconds())/1000, "ms/longest")
	b.ReportMetric(float64(calls)/float64(b.N), "calls/op")
}

// benchReadUsage measures charts of a key that was used on each day of a year, like every hundredth
// key. The others were used on one day of each month.
func benchReadUsage(b *testing.B, w *benchWriter) {
	end := time.Date(time.Now().Year()+2, 1, 1, 0, 0, 0, 0, time.UTC)
	from := end.AddDate(-1, 0, 0)
	began, rows := time.Now(), int64(0)
	for month := from; month.Before(end); month = month.AddDate(0, 1, 0) {
		n, err := w.fillDays(b.Context(), month)
		if err != nil {
			b.Fatal(err)
		}
		rows += n
	}
	b.Logf("%d buckets of %d keys, %v each", rows, benchKeys, time.Since(began)/time.Duration(rows))
	if w.skipLocked != "" { // PostgreSQL: in use, tables grow slowly, and autovacuum keeps up
		if _, err := w.bulk.ExecContext(b.Context(), "VACUUM ANALYZE"); err != nil {
			b.Fatal(err)
		}
	}
	size := float64(w.usageBytes(b, from.Format("usage_day_key_2006")+"%")) / float64(rows)
	key := func() []string { return []string{usageKeyID(100 * rand.IntN((benchKeys+99)/100))} }
	for _, chart := range []struct {
		name string
		q    func() keystore.UsageQuery
		want int
	}{
		{"Days", func() keystore.UsageQuery {
			return keystore.UsageQuery{Step: keystore.Day, From: from, To: end, Keys: key()}
		}, int(end.Sub(from) / (24 * time.Hour))},
		{"Months", func() keystore.UsageQuery {
			return keystore.UsageQuery{Step: keystore.Month, From: from, To: end, Keys: key()}
		}, 12},
		{"Days of 100 keys in a month", func() keystore.UsageQuery {
			q := keystore.UsageQuery{Step: keystore.Day, From: from, To: from.AddDate(0, 1, 0),
				By: keystore.ByKey}
			for range 100 {
				q.Keys = append(q.Keys, usageKeyID(rand.IntN(benchKeys)))
			}
			return q
		}, -1},
		{"Top keys of a month", func() keystore.UsageQuery {
			return keystore.UsageQuery{Step: keystore.Month, From: from, To: from.AddDate(0, 1, 0),
				By: keystore.ByKey, Limit: 20}
		}, 20},
	} {
		b.Run(chart.name, func(b *testing.B) {
			for b.Loop() {
				sums, err := w.Usage(b.Context(), chart.q())
				if err != nil || chart.want >= 0 && len(sums) != chart.want {
					b.Fatal(len(sums), err)
				}
			}
			b.ReportMetric(size, "B/bucket")
		})
	}
}

func usageKeyID(n int) string { return fmt.Sprint("key", 100_000_000+n) }

// fillDays fills a table of days as a roll-up does.
func (w *benchWriter) fillDays(ctx context.Context, month time.Time) (rows int64, err error) {
	table := usageTableOf(keystore.Day, toMinutes(month))
	err = w.inBackground(ctx, w.usage, func(t *tx) error {
		if err := t.createUsageTable(table); err != nil {
			return err
		}
		last := (table.end()-table.begin)/(24*60) - 1
		rows, err = t.exec(`INSERT INTO `+table.name(&byKey)+` (key_id, namespace, owner, begins,
			outcome, requests, units, bytes_in, bytes_out, status_2xx, status_5xx, latency_1,
			latency_2)
			WITH RECURSIVE k(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM k WHERE n < ?),
				d(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM d WHERE i < ?)
			SELECT 'key' || CAST(100000000 + n AS text), 'ns' || CAST(n % 1999 AS text),
				'm_' || CAST(n % 100 AS text), CAST(? + i * 1440 AS integer), 'ok', 1000 + n % 7,
				1000 + n % 7, 200000 + n, 4000000 + n, 990 + n % 7, 10, 900, 100 + n % 7
			FROM k CROSS JOIN d WHERE n % 100 = 0 OR i = n % 28`,
			benchKeys-1, last, table.begin)
		return err
	})
	return rows, err
}

// usageBytes returns the size of the tables whose names match a pattern.
func (w *benchWriter) usageBytes(b *testing.B, pattern string) (bytes int64) {
	b.Helper()
	query := "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE aggregate = 1 AND name LIKE ?"
	if w.postgres != nil {
		query = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND " +
			"relnamespace = to_regnamespace(current_schema()) AND relname LIKE ?"
	}
	if err := w.bulk.QueryRowContext(b.Context(), w.bind(query), pattern).Scan(&bytes); err != nil {
		b.Fatal(err)
	}
	return bytes
}
