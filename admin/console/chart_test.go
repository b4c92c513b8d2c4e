package console_test

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/console"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

var update = flag.Bool("update", false, "rewrite testdata/*.html with the current output")

// tally returns the counts of requests, given as alternating outcomes and numbers.
func tally(counts ...any) (t manage.UsageTally) {
	for i := 0; i < len(counts); i += 2 {
		o, n := counts[i].(keystore.Outcome), int64(counts[i+1].(int))
		t.Requests += n
		t.Outcomes[o] += n
		if !o.Refuses() {
			t.Units += n
		}
	}
	return t
}

// buckets returns the usage of consecutive periods.
func buckets(begin time.Time, step keystore.Period, tallies ...manage.UsageTally) (
	u *manage.UsageSeries,
) {
	u = new(manage.UsageSeries)
	for _, t := range tallies {
		_, end := step.Of(begin)
		u.Buckets = append(u.Buckets, manage.UsageBucket{Begin: begin, UsageTally: t})
		u.Total.Add(&t.UsageCounts)
		for o, n := range t.Outcomes {
			u.Total.Outcomes[o] += n
		}
		begin = end
	}
	return u
}

// month returns 30 days with requests of every kind.
func month() *manage.UsageSeries {
	var days []manage.UsageTally
	for i := range 30 {
		t := tally(keystore.OK, 40+i*i%97)
		switch {
		case i%7 == 5:
			t = tally(keystore.OK, 31, keystore.Limited, 18, keystore.Exhausted, 25)
		case i%7 == 6:
			t = tally()
		case i > 21:
			t = tally(keystore.OK, 70, keystore.Forbidden, 20, keystore.Inactive, 9,
				keystore.Expired, 6, keystore.Early, 12)
		}
		days = append(days, t)
	}
	return buckets(time.Date(2026, 10, 30, 0, 0, 0, 0, time.UTC), keystore.Day, days...)
}

// TestCharts compares charts with files in testdata.
func TestCharts(t *testing.T) {
	quota := func(n int64, per keystore.Period) *api.Quota {
		return &api.Quota{Requests: n, Per: string(per)}
	}
	var hours []manage.UsageTally
	for i := range 24 {
		h := tally(keystore.OK, 10+i)
		h.Units *= int64(1 + i%3)
		hours = append(hours, h)
	}
	huge := tally(keystore.OK, math.MaxInt64/64, keystore.Limited, 1)
	newYear := time.Date(2026, 12, 31, 5, 0, 0, 0, time.UTC)
	for name, chart := range map[string]string{
		"days": console.Chart(keystore.Day, month(), quota(100, keystore.Day)),
		"hours_units": console.Chart(keystore.Hour, buckets(newYear, keystore.Hour, hours...),
			quota(1_000_000, keystore.Hour)),
		"months_huge": console.Chart(keystore.Month, buckets(newYear.AddDate(0, -11, -30),
			keystore.Month, append(make([]manage.UsageTally, 11), huge)...), nil),
		"none": console.Chart(keystore.Day, buckets(newYear, keystore.Day,
			make([]manage.UsageTally, 30)...), quota(100, keystore.Day)),
		"one": console.Chart(keystore.Day, buckets(newYear.Truncate(24*time.Hour), keystore.Day,
			tally(keystore.OK, 1)), quota(100, keystore.Month)),
		"spark": console.Spark(month()),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".html")
			if *update {
				if err := os.WriteFile(file, []byte(chart), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if chart != string(want) {
				t.Errorf("differs from %s, which -update rewrites:\n%s", file, chart)
			}
			if problem := wellFormed(chart); problem != "" {
				t.Error(problem)
			}
		})
	}
}
