package keystoretest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// testUsage: batches count once, in every step and group.
func testUsage(t *testing.T, s Store) {
	u := newUsageTest(ready(t, s))
	must(t, u.at(usageStart))
	must(t, u.checkAll(time.Time{}))
	random := rand.New(rand.NewPCG(1, 1))
	for _, begin := range []time.Time{usageStart, usageStart.Add(time.Minute),
		usageStart.Add(31 * time.Minute), usageStart.Add(32 * 24 * time.Hour),
		usageStart.Add(-time.Hour)} {
		var rows []keystore.UsageRow
		for i := range 20 {
			rows = append(rows, someUsage(random, begin, fmt.Sprint("k", i)))
		}
		must(t, u.db.AddUsage(ctx, u.batch("w", rows...)))
		must(t, u.checkAll(time.Time{}))
	}
}

// testHugeUsage: sums of units stop at their maximum in every step, before and after a roll-up.
func testHugeUsage(t *testing.T, s Store) {
	u := newUsageTest(ready(t, s))
	must(t, u.at(usageStart))
	one := requests(usageStart, "one", "acme", "o", "read", 1)
	for i := range 3 {
		huge := requests(usageStart, "huge", "acme", "o", "read", 1)
		huge.Units = keystore.MaxUnits / 4 * 3
		must(t, u.db.AddUsage(ctx, u.batch("w", huge, one)))
		huge.Begin = usageStart.Add(time.Duration(i) * time.Minute)
		must(t, u.db.AddUsage(ctx, u.batch("w", huge)))
	}
	check := func() {
		t.Helper()
		for _, step := range keystore.Periods {
			q := keystore.UsageQuery{Step: step, By: keystore.ByNamespace}
			q.From, _ = step.Of(usageStart)
			_, q.To = step.Of(usageStart)
			sums, err := u.db.Usage(ctx, q)
			must(t, err)
			if len(sums) != 1 || sums[0].Units != keystore.MaxUnits {
				t.Errorf("%s: %+v", step, sums)
			}
		}
	}
	check()
	must(t, u.at(usageStart.Add(40*24*time.Hour)))
	must(t, u.maintain(keystore.UsageKept{}))
	check()
}

// testRandomUsage: see [RandomUsage].
func testRandomUsage(t *testing.T, s Store) {
	if err := RandomUsage([2]keystore.Database{s.Open(t), s.Open(t)}, 1); err != nil {
		t.Fatal(err)
	}
}

// requests returns a row with a number of requests.
func requests(begin time.Time, key, namespace, owner, operation string, n int64) keystore.UsageRow {
	return keystore.UsageRow{Begin: begin, Key: key, Namespace: namespace, Owner: owner,
		Operation: operation, UsageCounts: keystore.UsageCounts{Requests: n}}
}

// answer returns the requests of each group and bucket, in the order of the answer.
func answer(t *testing.T, db keystore.Database, q keystore.UsageQuery) string {
	t.Helper()
	sums, err := db.Usage(ctx, q)
	must(t, err)
	var list []string
	for _, s := range sums {
		list = append(list, fmt.Sprintf("%s %s %s %d", s.Group, s.Begin.Format("01-02T15:04"),
			s.Outcome, s.Requests))
	}
	return strings.Join(list, "\n")
}

// testUsageBatches: a batch counts unless it or a later one of its writer was added.
func testUsageBatches(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	total := int64(0)
	for i, step := range []struct {
		writer string
		number int64
		counts bool
	}{
		{"a", 1, true}, {"a", 1, false}, {"a", 2, true}, {"a", 1, false}, {"a", 2, false},
		{"b", 1, true}, {"A", 1, true}, {"b", 7, true}, {"b", 3, false}, {"b", 8, true},
		{"a", 3, true},
	} {
		n := int64(1) << i
		handle := []keystore.Database{db, other}[i%2]
		must(t, handle.AddUsage(ctx, keystore.UsageBatch{Writer: step.writer, Number: step.number,
			Rows: []keystore.UsageRow{requests(usageStart, "k", "n", "o", "read", n)}}))
		if step.counts {
			total += n
		}
		for _, by := range []keystore.UsageGroup{"", keystore.ByKey} {
			sums, err := db.Usage(ctx, keystore.UsageQuery{Step: keystore.Day, By: by})
			must(t, err)
			if len(sums) != 1 || sums[0].Requests != total {
				t.Fatalf("after batch %d of %s: %+v, want %d", step.number, step.writer, sums, total)
			}
		}
	}

	var rows []keystore.UsageRow
	for i := range keystore.MaxUsageRows + 1 {
		rows = append(rows, requests(usageStart, fmt.Sprint("k", i), "n", "o", "read", 1))
	}
	if err := db.AddUsage(ctx, keystore.UsageBatch{Writer: "c", Number: 1, Rows: rows}); err == nil {
		t.Error("a batch with too many rows is added")
	}
	must(t, db.AddUsage(ctx, keystore.UsageBatch{Writer: "c", Number: 1, Rows: rows[1:]}))
	must(t, db.AddUsage(ctx, keystore.UsageBatch{Writer: "c", Number: 2}))
	if sums, err := db.Usage(ctx, keystore.UsageQuery{Step: keystore.Month}); err != nil ||
		sums[0].Requests != total+keystore.MaxUsageRows {
		t.Errorf("%+v %v", sums, err)
	}
}

// testUsageFilters: each field of a query selects what it says, also if it is empty.
func testUsageFilters(t *testing.T, s Store) {
	db := ready(t, s)
	later := usageStart.Add(time.Hour)
	rows := []keystore.UsageRow{
		requests(usageStart, "k1", "a", "x", "read", 1),
		requests(usageStart, "k1", "a", "x", "write", 2),
		requests(usageStart, "k1", "b", "x", "read", 4), // the key moved
		requests(usageStart, "k2", "b", "y", "read", 8),
		requests(later, "k2", "b", "x", "read", 16), // and got another owner
		requests(later, "k3", "A", "y", "", 32),
	}
	rows[1].Outcome = keystore.Limited
	must(t, db.AddUsage(ctx, keystore.UsageBatch{Writer: "w", Number: 1, Rows: rows}))
	type query = keystore.UsageQuery
	for _, test := range []struct {
		q    query
		want int64 // requests
	}{
		{query{}, 63},
		{query{Keys: []string{"k1"}}, 7},
		{query{Keys: []string{"k1", "k3", "K2", "k1"}}, 39},
		{query{Keys: []string{}}, 0},
		{query{Namespaces: []string{"a"}}, 3},
		{query{Namespaces: []string{"b", "A"}}, 60},
		{query{Namespaces: []string{}}, 0},
		{query{OrOwners: []string{"x"}}, 63},
		{query{Home: "b"}, 28},
		{query{Home: "a", Keys: []string{"k1"}}, 3},
		{query{Home: "b", Namespaces: []string{"a"}}, 0},
		{query{Home: "b", Namespaces: []string{"a"}, OrOwners: []string{"x"}}, 20},
		{query{Namespaces: []string{}, OrOwners: []string{"x"}}, 23},
		{query{Namespaces: []string{"A"}, OrOwners: []string{"x"}}, 55},
		{query{Namespaces: []string{"b"}, OrOwners: []string{"x"}}, 31},
		{query{Namespaces: []string{"b"}, Keys: []string{"k1"}}, 4},
		{query{Namespaces: []string{"a"}, OrOwners: []string{"y"}, Keys: []string{"k2", "k1"}}, 11},
		{query{From: later.Truncate(time.Hour)}, 48},
		{query{To: later.Truncate(time.Hour)}, 15},
		{query{From: later.Truncate(time.Hour), To: later.Truncate(time.Hour)}, 0},
	} {
		for _, step := range []keystore.Period{keystore.Minute, keystore.Hour} {
			for _, by := range []keystore.UsageGroup{"", keystore.ByKey, keystore.ByOwner} {
				q := test.q
				q.Step, q.By = step, by
				sums, err := db.Usage(ctx, q)
				must(t, err)
				var n int64
				for _, s := range sums {
					n += s.Requests
				}
				if n != test.want {
					t.Errorf("%+v: %d requests, want %d", q, n, test.want)
				}
			}
		}
	}
	for by, want := range map[keystore.UsageGroup]string{
		"": " 11-30T00:00 ok 13\n 11-30T00:00 limited 2\n 12-01T00:00 ok 48",
		keystore.ByKey: "k1 11-30T00:00 ok 5\nk1 11-30T00:00 limited 2\nk2 11-30T00:00 ok 8\n" +
			"k2 12-01T00:00 ok 16\nk3 12-01T00:00 ok 32",
		keystore.ByNamespace: "A 12-01T00:00 ok 32\na 11-30T00:00 ok 1\n" +
			"a 11-30T00:00 limited 2\nb 11-30T00:00 ok 12\nb 12-01T00:00 ok 16",
		keystore.ByOwner: "x 11-30T00:00 ok 5\nx 11-30T00:00 limited 2\nx 12-01T00:00 ok 16\n" +
			"y 11-30T00:00 ok 8\ny 12-01T00:00 ok 32",
		keystore.ByOperation: " 12-01T00:00 ok 32\nread 11-30T00:00 ok 13\n" +
			"read 12-01T00:00 ok 16\nwrite 11-30T00:00 limited 2",
	} {
		got := strings.Split(answer(t, db, query{Step: keystore.Day, By: by}), "\n")
		slices.Sort(got) // outcomes have no order
		wanted := strings.Split(want, "\n")
		slices.Sort(wanted)
		if !slices.Equal(got, wanted) {
			t.Errorf("by %q:\n%s, want\n%s", by, got, wanted)
		}
	}
	for _, q := range []query{{}, {Step: "week"}, {Step: keystore.Day, By: "outcome"},
		{Step: keystore.Day, By: "'', key_id"},
		{Step: keystore.Day, By: keystore.ByOperation, Keys: []string{"k"}}} {
		if _, err := db.Usage(ctx, q); err == nil {
			t.Errorf("%+v: no error", q)
		}
	}
}

// testUsageLimit: an answer has the groups with the most requests in all buckets and outcomes of
// the query.
func testUsageLimit(t *testing.T, s Store) {
	u := newUsageTest(ready(t, s))
	must(t, u.at(usageStart))
	for i, row := range []keystore.UsageRow{
		requests(usageStart, "often", "n", "o", "", 3),
		requests(usageStart.Add(time.Minute), "often", "n", "o", "", 3),
		requests(usageStart.Add(time.Hour), "often", "n", "o", "", 3),
		requests(usageStart, "peak", "n", "o", "", 5),
		requests(usageStart, "tie b", "n", "o", "", 4),
		requests(usageStart, "tie a", "n", "o", "", 4),
		requests(usageStart, "refused", "n", "o", "", 2),
		requests(usageStart.Add(-time.Hour), "before", "n", "o", "", 100),
	} {
		if row.Key == "refused" {
			row.Outcome, row.Requests = keystore.Limited, 6
		}
		must(t, u.db.AddUsage(ctx, u.batch(fmt.Sprint("w", i%2), row)))
	}
	from := usageStart.Truncate(time.Hour)
	for range 2 {
		for limit, want := range []string{"before often peak refused tie a tie b", "often",
			"often refused", "often peak refused", "often peak refused tie a"} {
			q := keystore.UsageQuery{Step: keystore.Hour, By: keystore.ByKey, Limit: limit}
			if limit > 0 {
				q.From = from
			}
			sums, err := u.db.Usage(ctx, q)
			must(t, err)
			groups := make(map[string]bool)
			for _, s := range sums {
				groups[s.Group] = true
			}
			if got := strings.Join(slices.Sorted(maps.Keys(groups)), " "); got != want {
				t.Errorf("limit %d: %s, want %s", limit, got, want)
			}
			must(t, u.check(q))
		}
		must(t, u.check(keystore.UsageQuery{Step: keystore.Minute, Limit: 1})) // one group anyway
		must(t, u.at(usageStart.Add(26*time.Hour)))
		must(t, u.maintain(keystore.UsageKept{}))
	}
}

// testUsageRolledUp: answers are the same before, during and after each roll-up, also if usage comes
// late, across the ends of days, months and years.
func testUsageRolledUp(t *testing.T, s Store) {
	u := newUsageTest(ready(t, s))
	must(t, u.at(usageStart))
	random := rand.New(rand.NewPCG(2, 2))
	add := func(begin time.Time, keys int) {
		t.Helper()
		var rows []keystore.UsageRow
		for i := range keys {
			rows = append(rows, someUsage(random, begin, fmt.Sprint("k", i)))
		}
		for part := range slices.Chunk(rows, keystore.MaxUsageRows) {
			must(t, u.db.AddUsage(ctx, u.batch("w", part...)))
		}
	}
	add(usageStart, 700)
	add(usageStart.Add(45*time.Minute), 9)
	var kept keystore.UsageKept
	for i, after := range []time.Duration{0, 31 * time.Minute, 40 * time.Minute, 2 * time.Hour,
		26 * time.Hour, 31 * 24 * time.Hour, 33 * 24 * time.Hour, 65 * 24 * time.Hour} {
		must(t, u.at(usageStart.Add(after)))
		for more := true; more; {
			var err error
			for range 25 {
				if more, err = u.db.MaintainUsage(ctx, kept); err != nil || !more {
					break
				}
			}
			must(t, err)
			for _, late := range []time.Duration{0, time.Minute, 45 * time.Minute} {
				add(usageStart.Add(late), 5)
			}
			must(t, u.check(keystore.UsageQuery{Step: keystore.Periods[i%4], By: keystore.ByKey}))
			must(t, u.check(keystore.UsageQuery{Step: keystore.Periods[(i+1)%4]}))
		}
		add(u.now, 5)
		must(t, u.checkAll(time.Time{}))
	}
}

// testUsageDropped: buckets are dropped after the time for which they are kept, and only if the
// next longer ones contain them.
func testUsageDropped(t *testing.T, s Store) {
	u := newUsageTest(ready(t, s))
	must(t, u.at(usageStart))
	random := rand.New(rand.NewPCG(3, 3))
	for i := range 10 {
		must(t, u.db.AddUsage(ctx, u.batch("w", someUsage(random,
			usageStart.Add(time.Duration(i)*time.Minute), "k"))))
	}
	buckets := func(step keystore.Period) int {
		t.Helper()
		sums, err := u.db.Usage(ctx,
			keystore.UsageQuery{Step: step, To: usageStart.AddDate(1, 0, 0)})
		must(t, err)
		return len(sums)
	}
	short := keystore.UsageKept{Minutes: time.Second, Hours: time.Second, Days: time.Second}
	must(t, u.maintain(short))
	must(t, u.checkAll(time.Time{})) // nothing is complete
	for _, step := range []struct {
		after time.Duration
		kept  keystore.UsageKept
		gone  []keystore.Period // all others are complete
	}{
		{2 * time.Hour, keystore.UsageKept{}, nil},
		{2 * time.Hour, keystore.UsageKept{Minutes: 3 * time.Hour}, nil},
		{2 * time.Hour, keystore.UsageKept{Minutes: time.Second, Hours: time.Second},
			[]keystore.Period{keystore.Minute, keystore.Hour}},
		{26 * time.Hour, keystore.UsageKept{Days: 31 * 24 * time.Hour},
			[]keystore.Period{keystore.Minute, keystore.Hour}},
		{40 * 24 * time.Hour, short,
			[]keystore.Period{keystore.Minute, keystore.Hour, keystore.Day}},
		{400 * 24 * time.Hour, short,
			[]keystore.Period{keystore.Minute, keystore.Hour, keystore.Day}},
		{800 * 24 * time.Hour, keystore.UsageKept{Months: 365 * 24 * time.Hour}, keystore.Periods},
	} {
		must(t, u.at(usageStart.Add(step.after)))
		must(t, u.maintain(step.kept))
		for range 2 {
			for _, p := range keystore.Periods {
				if slices.Contains(step.gone, p) {
					if n := buckets(p); n > 0 {
						t.Errorf("after %v, %d sums by %s remain", step.after, n, p)
					}
				} else {
					must(t, u.check(keystore.UsageQuery{Step: p}))
					must(t, u.check(keystore.UsageQuery{Step: p, By: keystore.ByKey}))
				}
			}
			// Late usage counts only in the periods whose buckets are still kept.
			must(t, u.db.AddUsage(ctx, u.batch("w", someUsage(random, usageStart, "late"))))
		}
	}
	u.counted = nil
	must(t, u.db.AddUsage(ctx, u.batch("w", someUsage(random, u.now, "k"))))
	must(t, u.checkAll(time.Time{}))
}

func testUsedOperations(t *testing.T, s Store) {
	db := ready(t, s)
	insert(t, db, plain("k1"), plain("k2"))
	day, _ := keystore.Day.Of(usageStart)
	refused := requests(usageStart, "k1", "n", "o", "refused", 1)
	refused.Outcome = keystore.Forbidden
	for i, rows := range [][]keystore.UsageRow{
		{requests(usageStart, "k1", "n", "o", "read", 1), refused,
			requests(usageStart.Add(-time.Minute), "k1", "n", "o", "read", 1),
			requests(usageStart.Add(-50*time.Hour), "k2", "n", "o", "orders:read", 1)},
		{requests(usageStart.Add(-24*time.Hour), "k1", "n", "o", "read", 1),
			requests(usageStart, "k2", "n", "o", "", 1)},
		{requests(usageStart.Add(24*time.Hour), "k1", "m", "o", "write", 1),
			requests(usageStart.Add(-30*time.Hour), "k2", "n", "o", "orders:read", 1)},
	} {
		must(t, db.AddUsage(ctx, keystore.UsageBatch{Writer: "w", Number: int64(i + 1), Rows: rows}))
	}
	for _, test := range []struct {
		keys []string
		want map[string]map[string]time.Time
	}{
		{nil, map[string]map[string]time.Time{}},
		{[]string{"k1"}, map[string]map[string]time.Time{
			"k1": {"read": day, "write": day.AddDate(0, 0, 1)}}},
		{[]string{"k2", "nobody", "k1"}, map[string]map[string]time.Time{
			"k1": {"read": day, "write": day.AddDate(0, 0, 1)},
			"k2": {"": day, "orders:read": day.AddDate(0, 0, -1)}}},
	} {
		got, err := db.UsedOperations(ctx, test.keys)
		must(t, err)
		if !maps.EqualFunc(got, test.want, maps.Equal[map[string]time.Time, map[string]time.Time]) {
			t.Errorf("%v: %v, want %v", test.keys, got, test.want)
		}
	}
	// A row without counts notes an operation and adds no bucket and no group.
	must(t, db.AddUsage(ctx, keystore.UsageBatch{Writer: "w", Number: 4, Rows: []keystore.UsageRow{
		requests(usageStart, "k2", "n", "o", "move", 0)}}))
	got, err := db.UsedOperations(ctx, []string{"k2"})
	must(t, err)
	if !got["k2"]["move"].Equal(day) {
		t.Errorf("an operation without counts: %v", got)
	}
	sums, err := db.Usage(ctx, keystore.UsageQuery{Step: keystore.Minute, By: keystore.ByOperation})
	must(t, err)
	for _, sum := range sums {
		if sum.Requests == 0 {
			t.Errorf("a group without requests: %+v", sum)
		}
	}
	// The operations of a deleted key are deleted, also those that a node writes later.
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("k1") })
	must(t, db.AddUsage(ctx, keystore.UsageBatch{Writer: "w", Number: 5, Rows: []keystore.UsageRow{
		requests(usageStart, "k1", "n", "o", "read", 1)}}))
	got, err = db.UsedOperations(ctx, []string{"k1"})
	must(t, err)
	if len(got) > 0 {
		t.Errorf("operations of a deleted key: %v", got)
	}
}

// testUsageInterrupted: a call that is interrupted anywhere loses and repeats nothing.
func testUsageInterrupted(t *testing.T, s Store) {
	u := newUsageTest(ready(t, s))
	handles := []keystore.Database{u.db, s.Open(t)}
	must(t, u.at(usageStart))
	random := rand.New(rand.NewPCG(4, 4))
	for _, begin := range []time.Duration{0, time.Hour, 32 * 24 * time.Hour} {
		var rows []keystore.UsageRow
		for i := range keystore.MaxUsageRows {
			rows = append(rows, someUsage(random, usageStart.Add(begin), fmt.Sprint("k", i)))
		}
		must(t, u.db.AddUsage(ctx, u.batch("w", rows...)))
	}
	must(t, u.at(usageStart.Add(70*24*time.Hour)))
	kept := keystore.UsageKept{Minutes: time.Hour}
	longest := 500 * time.Microsecond
	for call, more := 0, true; more; call++ {
		bounded, cancel := context.WithCancel(ctx)
		stop := time.AfterFunc(time.Duration(random.Int64N(int64(longest))), cancel)
		done, err := handles[call%2].MaintainUsage(bounded, kept)
		switch {
		case err == nil:
			more = done
		case bounded.Err() == nil:
			t.Fatal(err)
		default:
			longest += longest / 10
		}
		stop.Stop()
		cancel()
	}
	for _, step := range keystore.Periods[1:] {
		must(t, u.check(keystore.UsageQuery{Step: step, By: keystore.ByKey}))
		must(t, u.check(keystore.UsageQuery{Step: step, By: keystore.ByOperation}))
	}
}

// testUsageTogether: several processes add usage, some of it twice and some late, while others roll
// up, drop and make changes.
func testUsageTogether(t *testing.T, s Store) {
	u := newUsageTest(ready(t, s))
	handles := []keystore.Database{u.db, s.Open(t)}
	must(t, u.at(usageStart))
	insert(t, u.db, plain("k"))
	kept := keystore.UsageKept{Minutes: 30 * time.Minute, Hours: 20 * time.Hour}
	const writers, batches = 4, 12
	work := make([][]keystore.UsageBatch, writers)
	for w := range writers {
		random := rand.New(rand.NewPCG(5, uint64(w)))
		for range batches {
			var rows []keystore.UsageRow
			for i := range 30 {
				rows = append(rows, someUsage(random, usageStart.Add(
					-time.Duration(random.IntN(1500))*time.Minute), fmt.Sprint("k", i)))
			}
			work[w] = append(work[w], u.batch(fmt.Sprint("w", w), rows...))
		}
	}
	var adding, maintaining sync.WaitGroup
	for w := range writers {
		adding.Go(func() {
			for i, b := range work[w] {
				for range 1 + i%2 {
					if err := handles[w%2].AddUsage(ctx, b); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	added := make(chan struct{})
	for _, db := range handles {
		maintaining.Go(func() {
			for {
				if _, err := db.MaintainUsage(ctx, kept); err != nil {
					t.Error(err)
					return
				}
				if _, err := db.Usage(ctx, keystore.UsageQuery{Step: keystore.Month}); err != nil {
					t.Error(err)
					return
				}
				edit(t, db, "k", func(*keystore.Key) {})
				select {
				case <-added:
					return
				default:
				}
			}
		})
	}
	adding.Wait()
	close(added)
	maintaining.Wait()
	must(t, u.maintain(kept))
	for _, step := range []keystore.Period{keystore.Day, keystore.Month} {
		must(t, u.check(keystore.UsageQuery{Step: step, By: keystore.ByKey}))
		must(t, u.check(keystore.UsageQuery{Step: step, By: keystore.ByOperation}))
	}
}
