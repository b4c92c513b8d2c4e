package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// limitNamespace gives limits to the namespace of the fleet's records.
func (f *limitedFleet) limitNamespace(l keystore.Limits) {
	f.policy = keystore.NewDirectory(&keystore.Policy{
		Namespaces: []keystore.Namespace{{ID: "acme", Limits: l}}})
}

// together sends n requests to a node at the same time.
func (f *limitedFleet) together(n int, to *limitedNode) {
	var requests sync.WaitGroup
	for range n {
		requests.Go(func() { f.request(to, 1) })
	}
	requests.Wait()
}

// TestSteadyUseLosesNoGrants checks that several nodes with a shared store admit a stream of nine
// tenths of the rate completely, whether it reaches one node or all. Grants that expire before they
// are used would use up the limit too. Nearly all requests find a grant, so they do not wait, and a
// node makes few calls.
func TestSteadyUseLosesNoGrants(t *testing.T) {
	limit := keystore.RateLimit{Requests: 1000, Per: time.Second, Burst: 100}
	for _, reached := range []int{1, 3} {
		t.Run(fmt.Sprint(reached, " of 3 nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 3)
				f.store.slow.Store(int64(2 * time.Millisecond))
				var requests sync.WaitGroup
				var waited atomic.Int32
				for i := range 10_000 {
					requests.Go(func() {
						if f.request(f.nodes[i%reached], 1).Waited {
							waited.Add(1)
						}
					})
					time.Sleep(time.Second / 900)
				}
				requests.Wait()
				if f.refused > 0 {
					t.Errorf("%d requests refused", f.refused)
				}
				calls := f.nodes[0].stats().Grants[GrantOK]
				if n := waited.Load(); n > 200 || calls > 500 {
					t.Errorf("%d requests waited, %d bookings", n, calls)
				}
				f.close()
			})
		})
	}
}

// TestManyKeysAtOnce checks that requests with many more keys than one booking has, which arrive at
// the same time, use the limit of their namespace completely. Its grants must not expire while the
// requests wait for bookings of their own limits.
func TestManyKeysAtOnce(t *testing.T) {
	for _, slow := range []time.Duration{time.Millisecond, 20 * time.Millisecond} {
		for _, spread := range []time.Duration{0, 50 * time.Millisecond} {
			t.Run(fmt.Sprint(slow, " a call, within ", spread), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testManyKeysAtOnce(t, slow, spread) })
			})
		}
	}
}

func testManyKeysAtOnce(t *testing.T, slow, spread time.Duration) {
	const keys = 8 * maxBooked
	limits := keystore.KeyLimits{Limits: keystore.Limits{
		Rate: keystore.RateLimit{Requests: 5, Per: time.Second, Burst: 5}}}
	f := newLimitedFleet(t, 1, keystore.Limits{}, 2)
	f.limitNamespace(keystore.Limits{
		Rate: keystore.RateLimit{Requests: keys, Per: time.Second, Burst: keys}})
	f.store.slow.Store(int64(slow))
	f.store.fixed.Store(true)
	var requests sync.WaitGroup
	for i := range keys {
		record := recordOf(fmt.Sprint(i), limits)
		requests.Go(func() { f.requestWith(record, f.nodes[0], 1) })
		if i%100 == 99 {
			time.Sleep(spread * 100 / keys)
		}
	}
	requests.Wait()
	if n := f.refused + f.unknown; n > 0 {
		t.Errorf("%d of %d requests refused", n, keys)
	}
	f.close()
}

// TestBurstLeavesTheRest checks that a burst uses only as much of a limit as it has requests: a
// node must not book more for a stream that has ended.
func TestBurstLeavesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 10, Per: time.Second, Burst: 60}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 2)
		f.together(30, f.nodes[0])
		time.Sleep(time.Second)
		f.together(40, f.nodes[0])
		if f.refused > 0 {
			t.Errorf("%d of 40 requests refused", f.refused)
		}
		f.close()
	})
}

// TestRefusedRequestsUseUpNoOtherLimit checks that requests refused by the limit of a key book
// nothing of the limit of its namespace.
func TestRefusedRequestsUseUpNoOtherLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := keystore.RateLimit{Requests: 1000, Per: 24 * time.Hour, Burst: 1000}
		quota := keystore.Quota{Units: 1000, Per: keystore.Month}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: keystore.RateLimit{Requests: 10,
			Per: time.Second, Burst: 10}}, 2)
		f.limitNamespace(keystore.Limits{Rate: shared, Quota: quota})
		f.store.slow.Store(int64(2 * time.Millisecond))
		for range 10 {
			f.together(500, f.nodes[0])
			time.Sleep(time.Second)
		}
		admitted := int64(len(f.admitted))
		booked := f.store.booked(shared)
		granted := f.ledger.totals()[0]
		// Streams are booked in advance.
		if admitted < 90 || booked > 2*admitted || granted > 3*admitted {
			t.Errorf("%d admitted, %d requests booked and %d units reserved", admitted, booked,
				granted)
		}
		f.close()
	})
}

// TestManyKeysBookForTheirNamespace checks that requests with more keys than one booking has book no
// more of the limits of their keys than the limit of their namespace admits.
func TestManyKeysBookForTheirNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room = 100
		day := 24 * time.Hour
		f := newLimitedFleet(t, 1, keystore.Limits{}, 2)
		f.limitNamespace(keystore.Limits{
			Rate: keystore.RateLimit{Requests: room, Per: day, Burst: room}})
		f.store.slow.Store(int64(20 * time.Millisecond))
		limit := keystore.RateLimit{Requests: 1, Per: day, Burst: 1}
		var requests sync.WaitGroup
		for i := range 3 * maxBooked {
			record := recordOf(fmt.Sprint(i),
				keystore.KeyLimits{Limits: keystore.Limits{Rate: limit}})
			requests.Go(func() { f.requestWith(record, f.nodes[0], 1) })
		}
		requests.Wait()
		if n := f.store.booked(limit); len(f.admitted) != room || n > room {
			t.Errorf("%d requests admitted, and %d booked, want %d", len(f.admitted), n, room)
		}
		f.close()
	})
}

// TestBusyNamespaceUsesUpNoKey checks that a key books no more requests of its own limit than are
// admitted, while another key uses up the limit of their namespace, on the same node or another.
func TestBusyNamespaceUsesUpNoKey(t *testing.T) {
	for busy := range 2 {
		t.Run(fmt.Sprint("node ", busy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testBusyNamespace(t, busy) })
		})
	}
}

func testBusyNamespace(t *testing.T, busy int) {
	f := newLimitedFleet(t, 1, keystore.Limits{}, 2)
	f.limitNamespace(keystore.Limits{
		Rate: keystore.RateLimit{Requests: 30, Per: time.Second, Burst: 10}})
	f.store.slow.Store(int64(20 * time.Millisecond))
	limit := keystore.RateLimit{Requests: 300, Per: 24 * time.Hour, Burst: 300}
	record := recordOf("small", keystore.KeyLimits{Limits: keystore.Limits{Rate: limit}})
	var requests sync.WaitGroup
	end := time.Now().Add(time.Minute)
	requests.Go(func() {
		for time.Now().Before(end) {
			f.request(f.nodes[busy], 1)
			time.Sleep(5 * time.Millisecond)
		}
	})
	admitted := int64(0)
	for time.Now().Before(end) {
		if f.requestWith(record, f.nodes[0], 1).Outcome == keystore.OK {
			admitted++
		}
		time.Sleep(rand.N(time.Second))
	}
	requests.Wait()
	if booked := f.store.booked(limit); admitted == 0 || booked > admitted+2 {
		t.Errorf("%d requests admitted, and %d booked", admitted, booked)
	}
	f.close()
}

// booked returns how many requests the store has for all limits that are equal to one of them.
func (s *rateStore) booked(limit keystore.RateLimit) (n int64) {
	for _, stored := range s.dump() {
		if stored.limit == limit {
			m := keystore.Meter{TAT: stored.tat}
			n += limit.Burst - m.Room(&limit, time.Now().UnixMicro())
		}
	}
	return n
}

// TestSlowQuotaDelaysNoOtherKey checks that requests which wait for the quota of their key take no
// room of a small limit of its namespace from other keys, even if the database is slow.
func TestSlowQuotaDelaysNoOtherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{}, 2)
		f.limitNamespace(keystore.Limits{
			Rate: keystore.RateLimit{Requests: 10, Per: time.Second, Burst: 10}})
		limited := recordOf("limited", keystore.KeyLimits{Limits: keystore.Limits{
			Quota: keystore.Quota{Units: 1, Per: keystore.Month}}})
		f.requestWith(limited, f.nodes[0], 1)
		time.Sleep(askInterval + time.Second)
		f.ledger.slow.Store(int64(QueryTimeout))
		var requests sync.WaitGroup
		for range 30 {
			requests.Go(func() { f.requestWith(limited, f.nodes[0], 1) })
		}
		time.Sleep(time.Millisecond)
		begun := time.Now()
		c := f.request(f.nodes[0], 1)
		if took := time.Since(begun); c.Outcome != keystore.OK || took > time.Second/10 {
			t.Errorf("%v after %v", c.Outcome, took)
		}
		requests.Wait()
		f.close()
	})
}

// TestRequestsForQuotasAndRatesCountTogether checks that requests which the limit of a namespace
// refuses book nothing of the limits of their keys, even while other requests in the namespace wait
// for quotas.
func TestRequestsForQuotasAndRatesCountTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 200
		day := 24 * time.Hour
		f := newLimitedFleet(t, 1, keystore.Limits{}, 2)
		const before = 9
		// The limit is small, so that the node admits no request before it is booked.
		f.limitNamespace(keystore.Limits{Rate: keystore.RateLimit{Requests: before + 10, Per: day,
			Burst: before + 10}})
		f.store.slow.Store(int64(4 * time.Millisecond))
		for range before {
			f.request(f.nodes[0], 1)
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		limits := [...]keystore.Limits{
			{Rate: keystore.RateLimit{Requests: 5, Per: day, Burst: 5}},
			{Quota: keystore.Quota{Units: 1000, Per: keystore.Month}},
		}
		var requests sync.WaitGroup
		for i := range 2 * keys {
			record := recordOf(fmt.Sprint(i), keystore.KeyLimits{Limits: limits[i%2]})
			requests.Go(func() { f.requestWith(record, f.nodes[0], 1) })
		}
		requests.Wait()
		time.Sleep(time.Second)
		booked := f.store.booked(limits[0].Rate) // one request each
		if n := len(f.admitted) - before; n != 10 || booked > 10 {
			t.Errorf("%d requests admitted, and %d booked", n, booked)
		}
		f.close()
	})
}

// TestExhaustedQuotaUsesUpNoRate checks that requests refused by the quota of a key book nothing of a
// small limit of its namespace, which its other keys need, whether the node knows the quota or not.
func TestExhaustedQuotaUsesUpNoRate(t *testing.T) {
	for name, pause := range map[string]time.Duration{
		"known": askInterval + time.Second, "forgotten": idleReservation + sweepInterval,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := keystore.RateLimit{Requests: 50, Per: 24 * time.Hour, Burst: 50}
				f := newLimitedFleet(t, 1, keystore.Limits{
					Quota: keystore.Quota{Units: 5, Per: keystore.Month}}, 3)
				f.limitNamespace(keystore.Limits{Rate: shared})
				f.store.slow.Store(int64(2 * time.Millisecond))
				for range 5 {
					f.together(100, f.nodes[0])
					time.Sleep(pause)
					f.nodes[0].sweep()
				}
				booked := f.store.booked(shared)
				if len(f.admitted) != 5 || booked > 5 {
					t.Errorf("%d admitted of 5, and %d requests booked", len(f.admitted), booked)
				}
				f.close()
			})
		})
	}
}

// TestContendedQuotaIsNotViolated checks that a request is refused by a rate limit that has room only
// for other waiting requests, and that the refusal does not name a quota for which they all wait.
func TestContendedQuotaIsNotViolated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{
			Rate:  keystore.RateLimit{Requests: 5, Per: time.Hour, Burst: 5},
			Quota: keystore.Quota{Units: 100, Per: keystore.Month}}, 1)
		f.ledger.slow.Store(int64(time.Second))
		var first sync.WaitGroup
		first.Go(func() { f.request(f.nodes[0], 1) })
		synctest.Wait()
		for range 5 {
			if c, waits := f.try(&patience{}); !waits {
				t.Errorf("%v instead of a wait", c.Outcome)
			}
		}
		c, waits := f.try(&patience{bookings: maxTries})
		if waits || c.Outcome != keystore.Limited || !c.Violated(KeyRate) || c.Violated(KeyQuota) {
			t.Errorf("%v, violated: rate %v, quota %v", c.Outcome, c.Violated(KeyRate),
				c.Violated(KeyQuota))
		}
		first.Wait()
		f.close()
	})
}

// try charges a request that has waited, or finds that it must wait again.
func (f *limitedFleet) try(p *patience) (c Charge, waits bool) {
	n, a := f.nodes[0], Answer{Record: f.record, Now: time.Now().UnixNano()}
	b := n.find(&a, f.policy)
	b.lock()
	defer b.unlock()
	c = Charge{now: a.Now, mode: n.mode(), Terms: b.terms}
	_, waits = n.chargeLocked(&c, b, 1, p)
	f.tried = true
	if !waits && p.counted != [NumLimits]int64{} {
		f.t.Errorf("a request that does not wait is counted: %v", p.counted)
	}
	return c, waits
}

// TestRatesAreBookedTogether checks that a request which waits for the limit of its namespace books
// that of its key by the same call, even if the key's limit would admit it now.
func TestRatesAreBookedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: keystore.RateLimit{Requests: 100,
			Per: time.Second, Burst: 100}}, 2)
		f.limitNamespace(keystore.Limits{
			Rate: keystore.RateLimit{Requests: 10, Per: time.Second, Burst: 10}})
		f.request(f.nodes[0], 1) // the first one waits for both anyway
		time.Sleep(time.Second)
		n, a := f.nodes[0], Answer{Record: f.record}
		b := n.find(&a, f.policy)
		b.lock()
		c := Charge{now: n.now(), mode: n.mode(), Terms: b.terms}
		var p patience
		wait, _ := n.chargeLocked(&c, b, 1, &p)
		if wait[KeyRate] == nil || wait[KeyRate] != wait[NamespaceRate] {
			t.Errorf("waits for %v", wait)
		}
		b.uncount(&p)
		b.unlock()
		f.close()
	})
}

// TestPatience checks when a request stops waiting for an unknown limit. For a rate limit, it does
// not matter how often the request has waited for a quota.
func TestPatience(t *testing.T) {
	rate := keystore.RateLimit{Requests: 5, Per: time.Hour, Burst: 5}
	quota := keystore.Quota{Units: 5, Per: keystore.Hour}
	shadow := quota
	shadow.Shadow = true
	for name, test := range map[string]struct {
		limits keystore.Limits
		patience
		want  keystore.Outcome
		waits bool
	}{
		"a rate after many bookings of a quota": {keystore.Limits{Rate: rate},
			patience{bookings: 9 * maxTries, rates: maxTries}, keystore.OK, true},
		"a rate after its bookings": {keystore.Limits{Rate: rate},
			patience{bookings: 2 * maxTries, rates: 2 * maxTries}, keystore.Limited, false},
		"a rate after a long time": {keystore.Limits{Rate: rate},
			patience{bookings: 1, over: true}, keystore.Limited, false},
		"a quota after many bookings": {keystore.Limits{Quota: quota},
			patience{bookings: 9 * maxTries}, keystore.OK, true},
		"a quota after a long time": {keystore.Limits{Quota: quota},
			patience{bookings: 1, over: true}, keystore.OK, true},
		"a quota in shadow after a long time": {keystore.Limits{Quota: shadow},
			patience{bookings: 1, over: true}, keystore.OK, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, test.limits, 2)
				if c, waits := f.try(&test.patience); waits != test.waits || c.Outcome != test.want {
					t.Errorf("%v, waits: %v, want %v and %v", c.Outcome, waits, test.want, test.waits)
				}
				f.close()
			})
		})
	}
}

// TestRetryAfterWaitingRequests checks that a request which is refused because other requests wait
// for all that a rate limit has left is told when the limit has room after these.
func TestRetryAfterWaitingRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rate := keystore.RateLimit{Requests: 2, Per: time.Hour, Burst: 2}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: rate}, 2)
		for range 2 {
			if _, waits := f.try(new(patience)); !waits {
				t.Error("a request does not wait")
			}
		}
		refused, _ := f.try(&patience{bookings: maxTries})
		state := refused.State(KeyRate)
		if state.Remaining != 0 || state.Retry != rate.Per/2 || !refused.Violated(KeyRate) {
			t.Errorf("%+v", state)
		}
		f.close()
	})
}

// TestContendedLimitsAnswer checks that a request which waits for a rate limit and for a quota is
// admitted or refused while the stores work, even if many others wait.
func TestContendedLimitsAnswer(t *testing.T) {
	eachSeed(t, 24, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 9))
		f := newLimitedFleet(t, seed, keystore.Limits{
			Rate: keystore.RateLimit{Requests: 100 + r.Int64N(400), Per: time.Second,
				Burst: 20 + r.Int64N(200)},
			Quota: keystore.Quota{Units: 2000 + r.Int64N(20_000), Per: keystore.Month},
		}, 2+r.IntN(5))
		f.store.slow.Store(int64(1+r.IntN(20)) * int64(time.Millisecond))
		f.ledger.slow.Store(int64(1+r.IntN(200)) * int64(time.Millisecond))
		var requests sync.WaitGroup
		for range 10 {
			for _, n := range f.nodes {
				for range 50 {
					units := 1 + r.Int64N(20)
					requests.Go(func() { f.request(n, units) })
				}
			}
			time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		}
		requests.Wait()
		if f.unknown > 0 {
			t.Errorf("seed %d: %d requests neither admitted nor refused", seed, f.unknown)
		}
		f.close()
	})
}

// TestLateGrantsEndTheWait checks that a request does not wait for ever if the limit always has room,
// but the store answers when the grants have expired.
func TestLateGrantsEndTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{
			Rate: keystore.RateLimit{Requests: 39, Per: time.Second, Burst: 39}}, 2)
		f.store.slow.Store(int64(2 * time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var c Charge
		a := Answer{Record: f.record, Now: time.Now().UnixNano()}
		if err := f.nodes[0].charge(ctx, &c, a, f.policy, 1); err != nil {
			t.Errorf("after a minute: %v", err)
		}
		f.close()
	})
}

// TestRaisedLimitDuringWait checks that a request which waits for its quota while its rate limit is
// raised is charged to the new limit like any other.
func TestRaisedLimitDuringWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := func(rate keystore.RateLimit) *keystore.Directory {
			return keystore.NewDirectory(&keystore.Policy{Namespaces: []keystore.Namespace{
				{ID: "acme", Limits: keystore.Limits{Rate: rate,
					Quota: keystore.Quota{Units: 1000, Per: keystore.Month}}}}})
		}
		f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
		f.ledger.slow.Store(int64(time.Second))
		former := policy(keystore.RateLimit{Requests: 1, Per: 24 * time.Hour, Burst: 1})
		f.policy = former
		var waiting sync.WaitGroup
		waiting.Go(func() { f.ask(new(entry), former) })
		synctest.Wait()
		f.policy = policy(keystore.RateLimit{Requests: 1000, Per: time.Second, Burst: 1000})
		waiting.Go(func() { f.ask(new(entry), f.policy) })
		waiting.Wait()
		time.Sleep(time.Second)
		if outcome := f.ask(new(entry), f.policy); outcome != keystore.OK {
			t.Errorf("%v under the raised limit", outcome)
		}
		f.close()
	})
}

// TestChangedQuotaLosesNoUnits checks that units reserved before or while the quota changes are
// returned.
func TestChangedQuotaLosesNoUnits(t *testing.T) {
	for name, before := range map[string]time.Duration{"before": 2 * time.Second, "while": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
				f.ledger.slow.Store(int64(time.Second))
				f.policy = hourly(1000)
				former := f.policy
				var waiting sync.WaitGroup
				waiting.Go(func() { f.ask(new(entry), former) })
				synctest.Wait()
				time.Sleep(before)
				f.policy = hourly(50)
				waiting.Go(func() { f.ask(new(entry), f.policy) })
				waiting.Wait()
				for range 48 {
					if outcome := f.ask(new(entry), f.policy); outcome != keystore.OK {
						t.Fatalf("%v although units are left", outcome)
					}
				}
				if outcome := f.ask(new(entry), f.policy); outcome != keystore.Exhausted {
					t.Errorf("%v for a unit beyond the quota", outcome)
				}
				f.close()
			})
		})
	}
}

// TestEnforcedLimitDuringRequest checks that the refusal names a limit that was in shadow when the
// request began.
func TestEnforcedLimitDuringRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := func(shadow bool) *keystore.Directory {
			return keystore.NewDirectory(&keystore.Policy{Namespaces: []keystore.Namespace{
				{ID: "acme", Limits: keystore.Limits{Rate: keystore.RateLimit{Requests: 1,
					Per: time.Hour, Burst: 1, Shadow: shadow}}}}})
		}
		f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
		former := policy(true)
		f.policy = policy(false)
		f.ask(new(entry), f.policy)
		var c Charge
		a := Answer{Record: f.record, Now: time.Now().UnixNano()}
		if err := f.nodes[0].charge(t.Context(), &c, a, former, 1); err != nil {
			t.Fatal(err)
		}
		if c.Outcome != keystore.Limited || !c.Violated(NamespaceRate) {
			t.Errorf("%v, violated: %v", c.Outcome, c.Violated(NamespaceRate))
		}
		f.close()
	})
}

// TestPeriodChangedDuringReservation checks that the answer to a reservation does not count after the
// period of the quota was changed and changed back: units that were charged would be returned.
func TestPeriodChangedDuringReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
		f.policy = hourly(100)
		hour := f.policy
		f.ask(new(entry), hour)
		f.ledger.slow.Store(int64(time.Second))
		f.nodes[0].spend(f.record, 200)
		synctest.Wait()
		for _, per := range []keystore.Period{keystore.Day, keystore.Hour} {
			f.nodes[0].quotaMap["/acme"].setLimit(&keystore.Quota{Units: 100, Per: per})
		}
		for range 3 {
			if outcome := f.ask(new(entry), hour); outcome != keystore.Exhausted {
				t.Errorf("%v although all units were charged", outcome)
			}
		}
		f.close()
	})
}
