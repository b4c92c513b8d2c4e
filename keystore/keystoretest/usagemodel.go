package keystoretest

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// usageStart is in the future, so that a test can set the database's clock. Half an hour later, a
// month ends, and a month later, a year.
var usageStart = time.Date(2039, 11, 30, 23, 30, 0, 0, time.UTC)

// A usageTest compares the usage in a database with what was counted.
type usageTest struct {
	db      keystore.Database
	now     time.Time // of the database
	counted []keystore.UsageRow
	number  map[string]int64 // of the last batch of each writer
}

func newUsageTest(db keystore.Database) *usageTest {
	return &usageTest{db: db, number: make(map[string]int64)}
}

// at advances the database's clock.
func (u *usageTest) at(now time.Time) error {
	u.now = now
	return u.db.NoteTime(ctx, now)
}

// batch returns the next batch of a writer, and counts it.
func (u *usageTest) batch(writer string, rows ...keystore.UsageRow) keystore.UsageBatch {
	u.number[writer]++
	u.counted = append(u.counted, rows...)
	return keystore.UsageBatch{Writer: writer, Number: u.number[writer], Rows: rows}
}

// maintain calls MaintainUsage until there is nothing more to roll up or drop.
func (u *usageTest) maintain(kept keystore.UsageKept) error {
	for range 10_000 {
		if more, err := u.db.MaintainUsage(ctx, kept); err != nil || !more {
			return err
		}
	}
	return fmt.Errorf("MaintainUsage always has more to do")
}

// sums answers a query from what was counted.
func (u *usageTest) sums(q keystore.UsageQuery) []keystore.UsageSum {
	type cell struct {
		group   string
		begin   time.Time
		outcome keystore.Outcome
	}
	sums := make(map[cell]*keystore.UsageCounts)
	requests := make(map[string]int64)
	for i := range u.counted {
		r := &u.counted[i]
		c := cell{outcome: r.Outcome}
		c.begin, _ = q.Step.Of(r.Begin)
		if q.Keys != nil && !slices.Contains(q.Keys, r.Key) ||
			q.Home != "" && r.Namespace != q.Home ||
			q.Namespaces != nil && !slices.Contains(q.Namespaces, r.Namespace) &&
				!slices.Contains(q.OrOwners, r.Owner) ||
			!q.From.IsZero() && c.begin.Before(q.From) || !q.To.IsZero() && !c.begin.Before(q.To) {
			continue
		}
		switch q.By {
		case keystore.ByKey:
			c.group = r.Key
		case keystore.ByNamespace:
			c.group = r.Namespace
		case keystore.ByOwner:
			c.group = r.Owner
		case keystore.ByOperation:
			c.group = r.Operation
		}
		if sums[c] == nil {
			sums[c] = new(keystore.UsageCounts)
		}
		sums[c].Add(&r.UsageCounts)
		requests[c.group] += r.Requests
	}
	var groups []string
	for g := range requests {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b string) int {
		return cmp.Or(cmp.Compare(requests[b], requests[a]), strings.Compare(a, b))
	})
	if q.Limit > 0 {
		groups = groups[:min(q.Limit, len(groups))]
	}
	var list []keystore.UsageSum
	for c, counts := range sums {
		if slices.Contains(groups, c.group) {
			list = append(list, keystore.UsageSum{Group: c.group, Begin: c.begin, Outcome: c.outcome,
				UsageCounts: *counts})
		}
	}
	sortSums(list)
	return list
}

func sortSums(list []keystore.UsageSum) {
	slices.SortFunc(list, func(a, b keystore.UsageSum) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), a.Begin.Compare(b.Begin),
			cmp.Compare(a.Outcome, b.Outcome))
	})
}

// check compares the answer to a query.
func (u *usageTest) check(q keystore.UsageQuery) error {
	got, err := u.db.Usage(ctx, q)
	if err != nil {
		return err
	}
	if !slices.IsSortedFunc(got, func(a, b keystore.UsageSum) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), a.Begin.Compare(b.Begin))
	}) {
		return fmt.Errorf("%+v: not ordered by group and time: %+v", q, got)
	}
	sortSums(got)
	if want := u.sums(q); !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%+v:\n%+v, want\n%+v", q, got, want)
	}
	return nil
}

// checkAll compares all steps and groups.
func (u *usageTest) checkAll(from time.Time) error {
	for _, step := range keystore.Periods {
		for _, by := range usageGroups {
			q := keystore.UsageQuery{Step: step, By: by}
			if !from.IsZero() {
				q.From, _ = step.Of(from)
			}
			if err := u.check(q); err != nil {
				return err
			}
		}
	}
	return nil
}

// someUsage returns a row with random counts.
func someUsage(random *rand.Rand, begin time.Time, key string) keystore.UsageRow {
	r := keystore.UsageRow{Begin: begin, Key: key,
		Namespace: []string{"a", "b", "Ünï '\" %"}[random.IntN(3)],
		Owner:     []string{"m_1", "m_2"}[random.IntN(2)],
		Operation: []string{"", "read", "orders:search"}[random.IntN(3)]}
	r.Outcome = []keystore.Outcome{keystore.OK, keystore.OK, keystore.Limited,
		keystore.Rotated}[random.IntN(4)]
	r.Requests = 1 + random.Int64N(5)
	if r.Outcome == keystore.OK {
		r.Units = random.Int64N(100)
		r.BytesIn, r.BytesOut = random.Int64N(1000), random.Int64N(1<<40)
		r.Status[random.IntN(5)], r.Latency[random.IntN(6)] = r.Requests, r.Requests
	}
	return r
}

// RandomUsage adds random batches, repeats some, rolls up and drops, on two handles of an empty
// store, and compares the answers with what was counted.
func RandomUsage(handles [2]keystore.Database, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 8))
	if _, err := handles[0].Deployment(ctx, nil); err != nil {
		return err
	}
	u := newUsageTest(handles[0])
	if err := u.at(usageStart); err != nil {
		return err
	}
	kept := keystore.UsageKept{Minutes: 3 * time.Hour, Hours: 50 * time.Hour,
		Days: 45 * 24 * time.Hour}
	var batches []keystore.UsageBatch
	for step := range 80 {
		u.db = handles[random.IntN(2)]
		if err := u.randomStep(random, kept, &batches); err != nil {
			return fmt.Errorf("seed %d, step %d: %w", seed, step, err)
		}
	}
	for range 2 {
		for _, step := range keystore.Periods {
			for _, by := range usageGroups {
				q := u.inTime(keystore.UsageQuery{Step: step, By: by}, kept)
				if err := u.check(q); err != nil {
					return fmt.Errorf("seed %d, at the end: %w", seed, err)
				}
			}
		}
		if err := u.maintain(kept); err != nil {
			return err
		}
	}
	return nil
}

func (u *usageTest) randomStep(
	random *rand.Rand, kept keystore.UsageKept, batches *[]keystore.UsageBatch,
) error {
	switch random.IntN(10) {
	case 0, 1, 2:
		begin := u.now.Truncate(time.Minute)
		late := []time.Duration{0, 0, 0, 0, time.Minute, 5 * time.Minute, time.Hour, 5 * time.Hour,
			30 * time.Hour, 60 * time.Hour, 20 * 24 * time.Hour, 70 * 24 * time.Hour}
		var rows []keystore.UsageRow
		for i := range 1 + random.IntN(12) {
			rows = append(rows, someUsage(random, begin.Add(-late[random.IntN(len(late))]),
				fmt.Sprint("k", i)))
		}
		b := u.batch(fmt.Sprint("w", random.IntN(3)), rows...)
		*batches = append(*batches, b)
		return u.db.AddUsage(ctx, b)
	case 3:
		if len(*batches) == 0 {
			return nil
		}
		return u.db.AddUsage(ctx, (*batches)[random.IntN(len(*batches))])
	case 4, 5:
		return u.at(u.now.Add([]time.Duration{20 * time.Second, 4 * time.Minute, 50 * time.Minute,
			5 * time.Hour, 26 * time.Hour, 9 * 24 * time.Hour}[random.IntN(6)]))
	case 6:
		for range random.IntN(5) {
			if _, err := u.db.MaintainUsage(ctx, kept); err != nil {
				return err
			}
		}
	case 7:
		if random.IntN(3) == 0 {
			return u.maintain(kept)
		}
		bounded, cancel := context.WithCancel(ctx)
		defer cancel()
		time.AfterFunc(time.Duration(random.IntN(5000))*time.Microsecond, cancel)
		if _, err := u.db.MaintainUsage(bounded, kept); err != nil && bounded.Err() == nil {
			return err
		}
	case 8, 9:
		q := keystore.UsageQuery{Step: keystore.Periods[random.IntN(len(keystore.Periods))],
			By:         usageGroups[random.IntN(len(usageGroups))],
			Home:       []string{"", "", "a"}[random.IntN(3)],
			Namespaces: [][]string{nil, nil, {"a"}, {"b", "Ünï '\" %"}, {}}[random.IntN(5)],
			OrOwners:   [][]string{nil, {"m_1"}, {"m_0", "m_1"}}[random.IntN(3)], Limit: random.IntN(4),
		}
		if q.By != keystore.ByOperation {
			q.Keys = [][]string{nil, nil, {"k1", "k2", "nobody"}, {"k0"}, {}}[random.IntN(5)]
		}
		return u.check(u.inTime(q, kept))
	}
	return nil
}

// inTime restricts a query to buckets that are not dropped.
func (u *usageTest) inTime(q keystore.UsageQuery, kept keystore.UsageKept) keystore.UsageQuery {
	if age := kept.Of(q.Step); age > 0 {
		_, q.From = q.Step.Of(u.now.Add(-age))
	}
	return q
}

// usageGroups are all groups.
var usageGroups = []keystore.UsageGroup{"", keystore.ByKey, keystore.ByNamespace, keystore.ByOwner,
	keystore.ByOperation}
