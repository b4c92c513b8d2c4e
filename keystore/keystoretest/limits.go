package keystoretest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// someLimits are valid limits, as rows can have them.
var someLimits = []keystore.Limits{
	{},
	{Rate: keystore.RateLimit{Requests: 1, Per: time.Second, Burst: 1}},
	{Rate: keystore.RateLimit{Requests: 100, Per: time.Minute, Burst: 20, Shadow: true}},
	{Rate: keystore.RateLimit{Requests: keystore.MaxRate, Per: keystore.MaxPer,
		Burst: keystore.MaxRate}},
	{Rate: keystore.RateLimit{Requests: 3, Per: time.Hour + time.Second + time.Microsecond,
		Burst: 2}},
	{Rate: keystore.RateLimit{Requests: 3, Per: 90 * time.Minute, Burst: 2},
		Quota: keystore.Quota{Units: 1, Per: keystore.Hour}},
	{Quota: keystore.Quota{Units: keystore.MaxQuota, Per: keystore.Month}},
	{Quota: keystore.Quota{Units: 5, Per: keystore.Day, Shadow: true}},
	{Rate: keystore.RateLimit{Unlimited: true}, Quota: keystore.Quota{Unlimited: true}},
}

// testLimits: keys and namespaces keep their limits, and an update replaces them.
func testLimits(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	var keys []*keystore.Key
	for i, l := range someLimits {
		k := plain(fmt.Sprint("k", i))
		k.KeyLimits = keystore.KeyLimits{Limits: l, Plan: []string{"", "gold", "Ünï '\" %"}[i%3]}
		keys = append(keys, k)
	}
	check := func() {
		t.Helper()
		list, _, err := other.Keys(ctx, keystore.KeyFilter{}, "", len(keys))
		must(t, err)
		if len(list) != len(keys) {
			t.Fatalf("%d keys", len(list))
		}
		for _, want := range keys {
			got, _, err := other.KeyByDigest(ctx, digest(want.ID))
			must(t, err)
			i := slices.IndexFunc(list, func(k keystore.Key) bool { return k.ID == want.ID })
			if i < 0 || got.KeyLimits != want.KeyLimits || list[i].KeyLimits != want.KeyLimits {
				t.Errorf("%s has %+v, want %+v", want.ID, got.KeyLimits, want.KeyLimits)
			}
		}
	}
	insert(t, db, keys[:5]...)
	update(t, db, func(tx keystore.Tx) error {
		id, err := tx.BeginImport("i", keystore.RootMember)
		must(t, err)
		for _, k := range keys[5:] {
			k.CreatedAt = tx.Now()
		}
		refused, err := tx.StageKeys(id, keys[5:])
		must(t, err)
		if len(refused) > 0 {
			t.Fatalf("refused: %v", refused)
		}
		return tx.PublishImport(id)
	})
	check()
	for i, k := range keys {
		k.KeyLimits = keys[(i+1)%len(keys)].KeyLimits
		edit(t, db, k.ID, func(old *keystore.Key) { old.KeyLimits = k.KeyLimits })
	}
	check()

	for i, l := range someLimits {
		ns := keystore.Namespace{ID: "n", Limits: l, DefaultPlan: fmt.Sprint("plan ", i),
			CreatedAt: start, Version: 1}
		update(t, db, func(tx keystore.Tx) error { return tx.InsertNamespace(&ns) })
		for range 2 {
			p := policy(t, other)
			if got := p.Namespaces[slices.IndexFunc(p.Namespaces, func(ns keystore.Namespace) bool {
				return ns.ID == "n"
			})]; !reflect.DeepEqual(got, ns) {
				t.Errorf("namespace %+v, want %+v", got, ns)
			}
			ns.Limits, ns.DefaultPlan = someLimits[len(someLimits)-1-i], ""
			update(t, db, func(tx keystore.Tx) error { return tx.UpdateNamespace(&ns) })
		}
		update(t, db, func(tx keystore.Tx) error { return tx.DeleteNamespace("n") })
	}
}

func testPlans(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second) }
	plans := []keystore.Plan{ // newest first
		{Namespace: "a", Name: "gold", Description: "Réads '\" %", Limits: someLimits[5],
			CreatedAt: at(2), Version: 3},
		{Namespace: "a", Name: "Gold", Limits: someLimits[2], CreatedAt: at(1), Version: 1},
		{Namespace: "A", Name: "gold", Limits: someLimits[8], CreatedAt: at(1), Version: 1},
		{Namespace: "*", Name: "free", CreatedAt: at(0), Version: 1},
	}
	check := func(got *keystore.Policy) {
		t.Helper()
		if !reflect.DeepEqual(got.Plans, plans) {
			t.Fatalf("plans\n%+v, want\n%+v", got.Plans, plans)
		}
	}
	before := position(t, db)
	update(t, db, func(tx keystore.Tx) error {
		for _, p := range plans {
			must(t, tx.InsertPlan(&p))
		}
		p, err := tx.Policy(keystore.Nowhere)
		must(t, err)
		check(p)
		return nil
	})
	check(policy(t, other))
	changed, err := other.Policy(ctx, before)
	must(t, err)
	if len(changed.Plans) != len(plans) || len(changed.Changed) != len(plans) ||
		changed.Changed[0].Kind != keystore.PlanObject {
		t.Errorf("changes %+v", changed)
	}

	// A refused change has no effect, and the transaction continues.
	at1 := head(t, db)
	update(t, db, func(tx keystore.Tx) error {
		wantErr(t, tx.InsertPlan(&plans[0]), keystore.ErrExists)
		wantErr(t, tx.UpdatePlan(&keystore.Plan{Namespace: "b", Name: "gold"}),
			keystore.ErrNotFound)
		wantErr(t, tx.DeletePlan(keystore.PlanID{Namespace: "*", Name: "gold"}),
			keystore.ErrNotFound)
		return nil
	})
	check(policy(t, db))
	if got := head(t, db); got != at1 {
		t.Errorf("refusals moved the head from %d to %d", at1, got)
	}

	plans[0].Description, plans[0].Limits, plans[0].Version = "", someLimits[6], 4
	replaced := plans[0]
	replaced.CreatedAt = at(9)
	update(t, db, func(tx keystore.Tx) error { return tx.UpdatePlan(&replaced) })
	check(policy(t, other))
	update(t, db, func(tx keystore.Tx) error { return tx.DeletePlan(plans[0].ID()) })
	plans = plans[1:]
	check(policy(t, other))
}

// testPlanInUse: PlanInUse finds a key in any status that names a plan.
func testPlanInUse(t *testing.T, s Store) {
	db := ready(t, s)
	key := func(id, home, plan string) *keystore.Key {
		k := plain(id)
		k.Namespace, k.Plan = home, plan
		return k
	}
	check := func(used map[keystore.PlanID]string) {
		t.Helper()
		update(t, db, func(tx keystore.Tx) error {
			for id, want := range used {
				by, err := tx.PlanInUse(id)
				must(t, err)
				if want == "" && by != "" || want != "" && !slices.Contains(strings.Fields(want), by) {
					t.Errorf("%v is used by %q, want one of %q", id, by, want)
				}
			}
			return nil
		})
	}
	none := key("none", "a", "")
	revoked := key("revoked", "b", "silver")
	revoked.RevokedAt, revoked.Active = start, false
	insert(t, db, none, revoked, key("k1", "a", "gold"), key("k2", "b", "gold"))
	type used = map[keystore.PlanID]string
	check(used{{Namespace: "a", Name: "gold"}: "k1", {Namespace: "b", Name: "gold"}: "k2",
		{Namespace: "*", Name: "gold"}: "k1 k2", {Namespace: "b", Name: "silver"}: "revoked",
		{Namespace: "a", Name: "silver"}: "", {Namespace: "A", Name: "gold"}: "",
		{Namespace: "*", Name: "Gold"}: "", {Namespace: "a", Name: ""}: "",
		{Namespace: "*", Name: ""}: ""})
	edit(t, db, "k1", func(k *keystore.Key) { k.Plan = "" })
	must(t, s.Exec("UPDATE key_limits SET plan = 'by hand' WHERE key_id = 'revoked'"))
	must(t, s.Exec("UPDATE keys SET namespace = 'c' WHERE id = 'revoked'"))
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("k2") })
	check(used{{Namespace: "*", Name: "gold"}: "", {Namespace: "b", Name: "silver"}: "",
		{Namespace: "b", Name: "by hand"}: "", {Namespace: "c", Name: "by hand"}: "revoked"})
}

// testUnreadableLimits: a key whose limits are invalid cannot be read. A namespace or a plan keeps
// its valid limits, and reports why the others are invalid.
func testUnreadableLimits(t *testing.T, s Store) {
	db := ready(t, s)
	a, b := plain("a"), plain("b")
	a.Plan, b.Plan = "p", "p"
	insert(t, db, a, b)
	update(t, db, func(tx keystore.Tx) error {
		must(t, tx.InsertNamespace(&keystore.Namespace{ID: "n"}))
		return tx.InsertPlan(&keystore.Plan{Namespace: "n", Name: "p"})
	})
	set := func(table, column, value string) {
		t.Helper()
		must(t, s.Exec("UPDATE "+table+" SET "+column+" = '"+value+"'"))
	}
	good := keystore.Limits{Rate: keystore.RateLimit{Requests: 5, Per: time.Minute, Burst: 5},
		Quota: keystore.Quota{Units: 7, Per: keystore.Day}}
	tables := []string{"key_limits", "namespaces", "plans"}
	for _, table := range tables {
		set(table, "rate_limit", `{"requests":5,"per":"60s"}`)
		set(table, "quota", ` {"per":"day","requests":7,"shadow":false}`)
	}
	read := func(what string, want keystore.Limits, unreadable string) {
		t.Helper()
		k, err := db.Key(ctx, "a")
		if unreadable == "" && (err != nil || k.Limits != want) ||
			unreadable != "" && (err == nil || !strings.Contains(err.Error(), unreadable)) {
			t.Errorf("%s: key %+v, %v", what, k, err)
		}
		p := policy(t, db)
		for object, got := range map[string]struct {
			keystore.Limits
			reason string
		}{
			"namespace": {p.Namespaces[0].Limits, p.Namespaces[0].Unreadable},
			"plan":      {p.Plans[0].Limits, p.Plans[0].Unreadable},
		} {
			if got.Limits != want || (got.reason != "") != (unreadable != "") ||
				!strings.Contains(got.reason, unreadable) {
				t.Errorf("%s: %s %+v, want %+v", what, object, got, want)
			}
		}
	}
	read("valid", good, "")
	for _, table := range tables {
		set(table, "rate_limit", `{"requests":5,"per":"1ms"}`)
	}
	read("invalid rate limit", keystore.Limits{Quota: good.Quota}, "rate_limit")
	for _, table := range tables {
		set(table, "rate_limit", `{"requests":5,"per":"1m"}`)
		set(table, "quota", `{"requests":7,"per":"week"}`)
	}
	read("invalid quota", keystore.Limits{Rate: good.Rate}, "quota")
	must(t, s.Exec(`UPDATE key_limits SET quota = NULL WHERE key_id = 'b'`))
	if k, err := db.Key(ctx, "b"); err != nil || k.Rate != good.Rate {
		t.Errorf("the other key: %+v, %v", k, err)
	}
}

// inMonth returns the reservation, in the current month unless it has a period.
func inMonth(r keystore.Reservation) keystore.Reservation {
	if r.Begin.IsZero() {
		r.Begin, r.End = keystore.Month.Of(time.Now())
	}
	return r
}

// reserve makes reservations in one transaction.
func reserve(
	t *testing.T, db keystore.QuotaLedger, reservations ...keystore.Reservation,
) []keystore.QuotaGrant {
	t.Helper()
	for i, r := range reservations {
		reservations[i] = inMonth(r)
	}
	grants, err := db.Reserve(ctx, reservations)
	must(t, err)
	if len(grants) != len(reservations) {
		t.Fatalf("%d grants for %d reservations", len(grants), len(reservations))
	}
	return grants
}

// granted returns the number of units of a quota that were granted in the current month.
func granted(t *testing.T, db keystore.QuotaLedger, quota string) int64 {
	t.Helper()
	return reserve(t, db, keystore.Reservation{Quota: quota})[0].Total
}

func testReserve(t *testing.T, s Store) {
	db := ready(t, s)
	handles := []keystore.Database{db, s.Open(t)}
	type reservation = keystore.Reservation
	for i, step := range []struct {
		what string
		ask  reservation
		want keystore.QuotaGrant
	}{
		{"first", reservation{Limit: 10, Want: 4}, keystore.QuotaGrant{Units: 4, Total: 4}},
		{"second", reservation{Limit: 10, Want: 4, Share: 1},
			keystore.QuotaGrant{Units: 4, Total: 8}},
		{"what is left", reservation{Limit: 10, Want: 4, Waiting: []int64{1, 2}},
			keystore.QuotaGrant{Units: 2, Total: 10}},
		{"exhausted", reservation{Limit: 10, Want: 4, Waiting: []int64{4}},
			keystore.QuotaGrant{Total: 10}},
		{"raised", reservation{Limit: 110, Want: 40, Share: 4},
			keystore.QuotaGrant{Units: 25, Total: 35}},
		{"less than the share", reservation{Limit: 110, Want: 5, Share: 4},
			keystore.QuotaGrant{Units: 5, Total: 40}},
		{"needs more than the share",
			reservation{Limit: 110, Want: 40, Waiting: []int64{30}, Share: 4},
			keystore.QuotaGrant{Units: 30, Total: 70}},
		{"cheap requests before one that does not fit",
			reservation{Limit: 110, Want: 40, Waiting: []int64{5, 6, 30}, Share: 4},
			keystore.QuotaGrant{Units: 11, Total: 81}},
		{"one that does not fit", reservation{Limit: 110, Waiting: []int64{30}, Share: 4},
			keystore.QuotaGrant{Total: 81}},
		{"one for which the held units are too few",
			reservation{Limit: 110, Waiting: []int64{30}, Held: 11, Share: 4},
			keystore.QuotaGrant{Units: 19, Total: 100}},
		{"one that fits with the held units",
			reservation{Limit: 110, Waiting: []int64{30}, Held: 20, Share: 4},
			keystore.QuotaGrant{Units: 10, Total: 110}},
		{"lowered", reservation{Limit: 50, Want: 5, Waiting: []int64{5}, Booked: -40},
			keystore.QuotaGrant{Total: 70}},
		{"booked", reservation{Limit: 100, Want: 5, Booked: 7},
			keystore.QuotaGrant{Units: 5, Total: 82}},
		{"booked beyond the limit", reservation{Limit: 100, Want: 5, Booked: 20},
			keystore.QuotaGrant{Total: 102}},
		{"returned", reservation{Limit: 100, Booked: -12}, keystore.QuotaGrant{Total: 90}},
		{"returned and granted again",
			reservation{Limit: 100, Want: 15, Waiting: []int64{15}, Booked: -5},
			keystore.QuotaGrant{Units: 15, Total: 100}},
		{"returned too much", reservation{Limit: 100, Want: 1, Booked: -1000},
			keystore.QuotaGrant{Units: 1, Total: 1}},
		{"nothing", reservation{}, keystore.QuotaGrant{Total: 1}},
		{"the largest", reservation{Limit: keystore.MaxQuota, Want: keystore.MaxQuota},
			keystore.QuotaGrant{Units: keystore.MaxQuota - 1, Total: keystore.MaxQuota}},
	} {
		step.ask.Quota = "q"
		if got := reserve(t, handles[i%2], step.ask)[0]; got != step.want {
			t.Errorf("%s: %+v, want %+v", step.what, got, step.want)
		}
	}

	// Quotas and periods are separate, and the answers are in the order of the reservations.
	now := time.Now()
	hour, ends := keystore.Hour.Of(now)
	long := strings.Repeat("q", 200)
	for round := range int64(2) {
		got := reserve(t, handles[round],
			reservation{Quota: "z", Limit: 9, Want: 4},
			reservation{Quota: "Q", Limit: 9, Want: 3},
			reservation{Quota: "r", Begin: ends, End: ends.Add(time.Hour), Limit: 9, Want: 2},
			reservation{Quota: "r", Begin: hour, End: ends, Limit: 9, Want: 1},
			reservation{Quota: long, Limit: 9, Want: 0, Booked: 6},
			reservation{Quota: "Ünï '\" %", Limit: 1, Want: 1},
		)
		want := []keystore.QuotaGrant{{Units: 4}, {Units: 3}, {Units: 2}, {Units: 1}, {}, {}}
		for i := range want {
			want[i].Total = want[i].Units * (round + 1)
		}
		want[4].Total = 6 * (round + 1)
		want[5] = keystore.QuotaGrant{Units: 1 - round, Total: 1}
		if !slices.Equal(got, want) {
			t.Errorf("grants\n%+v, want\n%+v", got, want)
		}
	}
	if got := reserve(t, db); len(got) != 0 {
		t.Errorf("%d grants for no reservations", len(got))
	}
}

// testReserveMany: one call can have thousands of reservations.
func testReserveMany(t *testing.T, s Store) {
	db := ready(t, s)
	const n = 3000
	for round := range int64(3) {
		list := make([]keystore.Reservation, n)
		for i := range list {
			list[i] = keystore.Reservation{Quota: fmt.Sprint(n - i), Limit: 1 + int64(i%4), Want: 1}
		}
		for i, got := range reserve(t, db, list...) {
			want := keystore.QuotaGrant{Total: min(list[i].Limit, round+1)}
			if want.Total > round {
				want.Units = 1
			}
			if got != want {
				t.Fatalf("round %d, reservation %d: %+v, want %+v", round, i, got, want)
			}
		}
	}
}

// testReserveTogether: concurrent reservations of several nodes never exceed the limit together.
func testReserveTogether(t *testing.T, s Store) {
	handles := []keystore.Database{ready(t, s), s.Open(t)}
	const workers, quotas, limit = 16, 8, 400
	var mu sync.Mutex
	var sum [quotas]int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for exhausted := false; !exhausted; {
				numbers := rng.Perm(quotas)[:1+rng.IntN(quotas)]
				var list []keystore.Reservation
				for _, q := range numbers {
					list = append(list, inMonth(keystore.Reservation{Quota: fmt.Sprint("q", q),
						Limit: limit, Want: 1 + rng.Int64N(20), Waiting: []int64{rng.Int64N(3)},
						Share: rng.Int64N(workers)}))
				}
				grants, err := handles[w%2].Reserve(ctx, list)
				if err != nil {
					t.Error(err)
					return
				}
				exhausted = len(list) == quotas
				mu.Lock()
				for i, g := range grants {
					sum[numbers[i]] += g.Units
					if g.Total > limit {
						t.Errorf("%d units were granted", g.Total)
					}
					exhausted = exhausted && g.Total == limit
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for q, n := range sum {
		if total := granted(t, handles[0], fmt.Sprint("q", q)); n != limit || total != limit {
			t.Errorf("quota %d: %d units were granted, and %d counted, of %d", q, n, total, limit)
		}
	}
}

// testReserveCancelled: after a call that fails, units may be lost, but never granted twice. The
// units of a single call are granted completely or not at all.
func testReserveCancelled(t *testing.T, s Store) {
	handles := []keystore.Database{ready(t, s), s.Open(t)}
	const workers, each, limit, want = 6, 30, 600, 5
	var mu sync.Mutex
	var got, lost, booked, unknown int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(w)))
			for range each {
				bounded, cancel := context.WithTimeout(ctx,
					time.Duration(rng.IntN(8000))*time.Microsecond)
				grants, err := handles[w%2].Reserve(bounded, []keystore.Reservation{
					inMonth(keystore.Reservation{Quota: "granted", Limit: limit, Want: want}),
					inMonth(keystore.Reservation{Quota: "booked", Booked: 1}),
				})
				cancel()
				mu.Lock()
				if err != nil {
					lost, unknown = lost+want, unknown+1
				} else {
					got, booked = got+grants[0].Units, booked+1
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	total := granted(t, handles[0], "granted")
	if total < got || total > got+lost || total > limit {
		t.Errorf("%d units are counted, %d were granted and up to %d lost", total, got, lost)
	}
	if total := granted(t, handles[1], "booked"); total < booked || total > booked+unknown {
		t.Errorf("%d units are counted, %d were booked and perhaps %d more", total, booked, unknown)
	}
	if rest := reserve(t, handles[0], keystore.Reservation{Quota: "granted", Limit: limit,
		Want: limit})[0]; got+rest.Units > limit || rest.Total != limit {
		t.Errorf("%d units were granted before and %+v at the end", got, rest)
	}
}

// testReserveForgets: periods are forgotten a day after their end, and nothing is granted in them
// any more.
func testReserveForgets(t *testing.T, s Store) {
	db := ready(t, s)
	ago := func(d time.Duration) time.Time {
		return time.Now().Add(-d).UTC().Truncate(time.Microsecond)
	}
	must(t, db.NoteTime(ctx, time.Now()))
	old, recent := ago(72*time.Hour), ago(12*time.Hour)
	ended := func(quota string, end time.Time) keystore.Reservation {
		return keystore.Reservation{Quota: quota, Begin: end.Add(-time.Hour), End: end, Limit: 9,
			Want: 4}
	}
	if got := reserve(t, db, ended("late", old), ended("q", recent)); got[0].Units != 0 ||
		got[1] != (keystore.QuotaGrant{Units: 4, Total: 4}) {
		t.Errorf("in a period that ended three days ago: %+v; twelve hours ago: %+v", got[0], got[1])
	}
	var rows []string
	for i := range 1500 {
		rows = append(rows, fmt.Sprintf("('old %d', %d, %d, 9)", i,
			old.Add(-time.Hour).UnixMicro(), old.UnixMicro()))
	}
	refill := "INSERT INTO quota_grants (quota, begins, ends, granted) VALUES " +
		strings.Join(rows, ", ")
	must(t, s.Exec(refill))
	other := s.Open(t)
	for range 3 {
		reserve(t, other, keystore.Reservation{Quota: "q", Limit: 9, Want: 1})
	}
	if err := s.Exec(refill); err != nil { // fails if one of the rows exists
		t.Errorf("old periods are not forgotten: %v", err)
	}
	if got := reserve(t, db, ended("q", recent))[0]; got.Total != 8 {
		t.Errorf("%+v in a period that ended twelve hours ago", got)
	}
	if err := s.Exec("INSERT INTO quota_grants (quota, begins, ends, granted) VALUES ('late', " +
		fmt.Sprint(old.Add(-time.Hour).UnixMicro()) + ", 0, 0)"); err != nil {
		t.Errorf("a period that ended three days ago was written: %v", err)
	}
}

// testReserveClock: a database clock that is ahead of the time of the nodes ends no period.
func testReserveClock(t *testing.T, s Store) {
	db := ready(t, s)
	now := time.Now().Add(-72 * time.Hour)
	must(t, db.NoteTime(ctx, now))
	begin, end := keystore.Hour.Of(now)
	for i, want := range []keystore.QuotaGrant{
		{Units: 4, Total: 4}, {Units: 4, Total: 8}, {Units: 1, Total: 9},
	} {
		got := reserve(t, s.Open(t), keystore.Reservation{Quota: "q", Begin: begin, End: end,
			Limit: 9, Want: 4})[0]
		if got != want {
			t.Errorf("reservation %d: %+v, want %+v", i, got, want)
		}
	}
}

// testNearQuotas: NearQuotas returns the quotas of current periods that are used up or nearly so,
// by the limit of the last reservation.
func testNearQuotas(t *testing.T, s Store) {
	db := ready(t, s)
	now := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	must(t, db.NoteTime(ctx, now))
	begin, end := now.Add(-time.Hour), now.Add(time.Hour)
	use := func(quota string, units, granted int64) keystore.QuotaUse {
		return keystore.QuotaUse{Quota: quota, Begin: begin, End: end, Units: units,
			Granted: granted}
	}
	grant := func(u keystore.QuotaUse) {
		t.Helper()
		reserve(t, db, keystore.Reservation{Quota: u.Quota, Begin: u.Begin, End: u.End,
			Limit: u.Units, Booked: u.Granted})
	}
	half, most, over, all := use("key/half/day", 10, 5), use("key/most/month", keystore.MaxQuota,
		keystore.MaxQuota-1), use("namespace/over/hour", 4, 6), use("key/all/hour", 3, 3)
	for _, u := range []keystore.QuotaUse{half, most, over, all, use("key/less", 1000, 499),
		use("key/unused", 10, 0)} {
		grant(u)
	}
	ended, later := use("key/ended", 1, 1), use("key/later", 1, 1)
	ended.End, later.Begin = now, now.Add(time.Microsecond)
	grant(ended)
	grant(later)
	// A release that stored no limits in the ledger has written this row.
	must(t, s.Exec(fmt.Sprintf("INSERT INTO quota_grants (quota, begins, ends, granted) VALUES "+
		"('key/former', %d, %d, 9)", begin.UnixMicro(), end.UnixMicro())))
	check := func(share float64, limit int, want ...keystore.QuotaUse) {
		t.Helper()
		got, err := s.Open(t).NearQuotas(ctx, share, limit)
		must(t, err)
		if !slices.Equal(got, want) {
			t.Errorf("quotas from %v:\n%+v, want\n%+v", share, got, want)
		}
	}
	check(0.5, 9, over, all, most, half)
	check(0.5, 2, over, all)
	check(1, 9, over, all)
	// The last limit counts, not the one with which most of the units were granted.
	half.Units = 5
	reserve(t, db, keystore.Reservation{Quota: half.Quota, Begin: begin, End: end, Limit: 5})
	check(1, 9, over, all, half)
}
