package node

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// hourly returns a directory in which the namespace of the tests has a quota.
func hourly(units int64) *keystore.Directory {
	return keystore.NewDirectory(&keystore.Policy{Namespaces: []keystore.Namespace{{ID: "acme",
		Limits: keystore.Limits{Quota: keystore.Quota{Units: units, Per: keystore.Hour}}}}})
}

// ask charges a request of a cached key under a directory.
func (f *limitedFleet) ask(e *entry, d *keystore.Directory) keystore.Outcome {
	f.t.Helper()
	var c Charge
	a := Answer{Record: f.record, Now: time.Now().UnixNano(), entry: e}
	if err := f.nodes[0].charge(context.Background(), &c, a, d, 1); err != nil {
		f.t.Fatal(err)
	}
	return c.Outcome
}

// TestOldRequestKeepsNewQuota checks that a long request that ends after its quota was lowered does
// not bring the former quota back.
func TestOldRequestKeepsNewQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
		f.policy = hourly(1000)
		stream, other := new(entry), new(entry) // two keys of one namespace
		former := f.policy
		f.ask(stream, former)
		f.ask(other, former)
		f.policy = hourly(5)
		for range 10 {
			f.ask(other, f.policy)
		}
		f.ask(new(entry), former) // a request that has read the policy before
		f.nodes[0].spend(f.record, 1)
		for range 20 {
			if f.ask(other, f.policy) == keystore.OK {
				t.Fatal("admitted under a quota that is used up")
			}
		}
		f.close()
	})
}

// TestLongRequestOutlivesItsBucket checks that units which are charged after a bucket was removed
// are booked once, with those of the bucket that follows.
func TestLongRequestOutlivesItsBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
		f.policy = hourly(1000)
		f.ask(new(entry), f.policy)
		_, end := keystore.Hour.Of(time.Now())
		time.Sleep(time.Until(end))
		f.nodes[0].sweep()
		if n := len(f.nodes[0].quotaMap); n != 0 {
			t.Errorf("%d buckets are left", n)
		}
		f.ask(new(entry), f.policy)
		f.nodes[0].spend(f.record, 500)
		f.nodes[0].spend(f.record, 500)
		time.Sleep(time.Second)
		if f.ask(new(entry), f.policy) != keystore.Exhausted {
			t.Error("admitted although all units were charged")
		}
		f.close()
	})
}

// TestRemovedBucketIsReplaced checks that a cached key whose buckets were removed is charged to those
// that other keys of its namespace use.
func TestRemovedBucketIsReplaced(t *testing.T) {
	eachLimit(t, func(t *testing.T, _ string, limits keystore.Limits) {
		f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
		f.limitNamespace(limits)
		n, key := f.nodes[0], new(entry)
		f.ask(key, f.policy)
		time.Sleep(time.Hour)
		n.sweep()
		f.ask(key, f.policy)
		if n := len(n.rateMap) + len(n.quotaMap); n != 1 {
			t.Errorf("%d buckets, want another one", n)
		}
		f.close()
	})
}

// TestAllUnitsAreReturned checks that a node that exits returns the units of all its quotas, in calls
// of at most maxBooked, except those without units or of a period that has ended.
func TestAllUnitsAreReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
		quotas := f.nodes[0].quotaMap
		for i := range maxBooked + 3 {
			id := bucketID(rune(0x4e00 + i))
			quotas[id] = &quotaBucket{id: id, left: 4, limit: &keystore.Quota{Units: 10,
				Per: keystore.Month}, end: time.Now().UnixNano() + 1}
		}
		quotas["\u4e00"].left = 0
		quotas["\u4e01"].end--
		f.nodes[0].returnAll(t.Context())
		if calls, n := f.ledger.calls, len(f.ledger.granted); calls != 2 || n != maxBooked+1 {
			t.Errorf("%d calls for %d quotas", calls, n)
		}
		f.close()
	})
}

// TestSweepDuringReservation checks that no bucket is removed while the database is asked.
func TestSweepDuringReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := keystore.Quota{Units: 20, Per: keystore.Day}
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: quota}, 1)
		f.ledger.slow.Store(int64(100 * time.Millisecond))
		go func() {
			time.Sleep(50 * time.Millisecond)
			f.nodes[0].sweep()
		}()
		for range 40 {
			f.request(f.nodes[0], 1)
		}
		if len(f.admitted) != 20 {
			t.Errorf("%d of 20 admitted", len(f.admitted))
		}
		f.close()
	})
}

// TestRequestFromFormerPeriod checks that requests which arrived before a period and are charged in
// it do not lose its reservation.
func TestRequestFromFormerPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 20,
			Per: keystore.Hour}}, 1)
		_, end := keystore.Hour.Of(time.Now())
		time.Sleep(time.Until(end) - time.Millisecond)
		late := Answer{Record: f.record, Now: time.Now().UnixNano()}
		time.Sleep(20 * time.Millisecond)
		f.request(f.nodes[0], 1)
		for range 4 {
			var c Charge
			if err := f.nodes[0].charge(context.Background(), &c, late, f.policy, 1); err != nil ||
				c.Outcome != keystore.OK {
				t.Errorf("%v, %v", c.Outcome, err)
			}
		}
		for range 40 {
			f.request(f.nodes[0], 1)
		}
		if n := len(f.admitted) + 4; n != 20 {
			t.Errorf("%d of 20 admitted", n)
		}
		f.close()
	})
}

// TestPeriodEnds checks that a request at the end of a period counts in the next one.
func TestPeriodEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 20,
			Per: keystore.Hour}}, 1)
		f.request(f.nodes[0], 1)
		_, end := keystore.Hour.Of(time.Now())
		time.Sleep(time.Until(end) - time.Nanosecond)
		for _, want := range []int64{18, 19} {
			c := f.request(f.nodes[0], 1)
			if n := c.State(KeyQuota).Remaining; n != want {
				t.Errorf("%d units left, want %d", n, want)
			}
			time.Sleep(time.Nanosecond)
		}
		f.close()
	})
}

// TestReservationOutlivesItsPeriod checks that units which were reserved for a period do not count in
// the next one.
func TestReservationOutlivesItsPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 20,
			Per: keystore.Hour}}, 1)
		f.ledger.slow.Store(int64(time.Second))
		_, end := keystore.Hour.Of(time.Now())
		time.Sleep(time.Until(end) - time.Second/2)
		f.work.Go(func() { f.request(f.nodes[0], 1) })
		time.Sleep(time.Until(end))
		for range 40 {
			f.request(f.nodes[0], 1)
		}
		if n := len(f.admitted); n != 20 {
			t.Errorf("%d of 20 admitted", n)
		}
		f.close()
	})
}

// TestUnusedUnitsAreReturned checks that a node returns units after idleReservation without use, not
// earlier, and only once, even if it exits meanwhile or gets no answer. It reserves no others, and
// removes the bucket.
func TestUnusedUnitsAreReturned(t *testing.T) {
	for _, meanwhile := range []string{"", "the node exits", "the answer is lost"} {
		t.Run(meanwhile, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 100,
					Per: keystore.Month}}, 2)
				n := f.nodes[0]
				f.request(n, 1)
				b := n.quotaMap["k"]
				time.Sleep(idleReservation - time.Nanosecond)
				n.sweep()
				// The node reserves a quarter of what is left, divided by the number of nodes.
				if b.left != 100/reservedPart/2-1 || b.owed != 0 {
					t.Errorf("%d units are left and %d returned too early", b.left, -b.owed)
				}
				time.Sleep(time.Nanosecond)
				f.ledger.slow.Store(int64(time.Second))
				n.sweep()
				synctest.Wait()
				want := []int64{1}
				switch meanwhile {
				case "the node exits":
					n.returnAll(t.Context())
				case "the answer is lost":
					f.ledger.lose.Store(1000)
					want = []int64{1, 12} // returned or not
					time.Sleep(2 * time.Second)
					f.ledger.lose.Store(0)
					n.sweep()
				}
				time.Sleep(2 * time.Second)
				if g := f.ledger.totals(); len(g) != 1 || !slices.Contains(want, g[0]) {
					t.Errorf("%d units granted, want %d", g, want)
				}
				if n.sweep(); meanwhile == "" && len(n.quotaMap) != 0 {
					t.Error("the bucket is not removed")
				}
				f.close()
			})
		})
	}
}

// TestUsedBucketStays checks that the bucket of a quota without reserved units is removed
// idleReservation after its last use, not earlier.
func TestUsedBucketStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 20,
			Per: keystore.Month}}, 1)
		f.request(f.nodes[0], 20)
		time.Sleep(idleReservation - time.Nanosecond)
		for _, want := range []int{1, 0} {
			f.nodes[0].sweep()
			if n := len(f.nodes[0].quotaMap); n != want {
				t.Errorf("%d buckets, want %d", n, want)
			}
			time.Sleep(time.Nanosecond)
		}
		f.close()
	})
}

// TestReservationIsReduced checks that a node which has reserved units for a burst returns those that
// its later use does not need, after idleReservation.
func TestReservationIsReduced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 10_000,
			Per: keystore.Month}}, 1)
		n := f.nodes[0]
		f.request(n, 100)
		time.Sleep(time.Second)
		synctest.Wait()
		b := n.quotaMap["k"]
		time.Sleep(time.Until(time.Unix(0, b.since).Add(idleReservation - time.Nanosecond)))
		f.request(n, 1)
		f.ledger.slow.Store(int64(time.Second))
		for _, want := range []int64{100 + 200, 101 + firstReservation} {
			n.sweep()
			b.mu.Lock()
			if granted := f.ledger.totals()[0] + b.owed; granted != want {
				t.Errorf("%d units granted, want %d", granted, want)
			}
			b.mu.Unlock()
			time.Sleep(time.Nanosecond)
		}
		time.Sleep(2 * time.Second)
		c := f.request(n, 1)
		if left := c.State(KeyQuota).Remaining; left != 10_000-102 {
			t.Errorf("%d units left, want 9898", left)
		}
		f.close()
	})
}

// TestReservesInAdvance checks that requests do not wait for reservations, except the first, and that
// a node reserves nothing if the quota has nothing left.
func TestReservesInAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 100,
			Per: keystore.Month}}, 1)
		for i := range 90 {
			if c := f.request(f.nodes[0], 1); c.Waited != (i == 0) {
				t.Errorf("request %d waited: %v", i, c.Waited)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		before := f.ledger.calls
		f.request(f.nodes[0], 10)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := f.ledger.calls - before; n != 1 {
			t.Errorf("%d reservations for the last units", n)
		}
		f.close()
	})
}

// TestReturnedUnitsAreNoticed checks that a node which was refused units asks again after
// askInterval, and gets those that another node has returned since. It does not have to wait for
// those that it returns itself.
func TestReturnedUnitsAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 100,
			Per: keystore.Month}}, 2)
		a, b := f.nodes[0], f.nodes[1]
		request := func(units int64, want keystore.Outcome) {
			t.Helper()
			if c := f.request(a, units); c.Outcome != want {
				t.Errorf("%v for %d units, want %v", c.Outcome, units, want)
			}
		}
		f.request(b, 10)
		time.Sleep(time.Second)
		request(90, keystore.Exhausted)
		again := time.Now().Add(askInterval)
		b.returnAll(t.Context())
		time.Sleep(time.Until(again) - time.Nanosecond)
		request(90, keystore.Exhausted)
		time.Sleep(time.Nanosecond)
		request(80, keystore.OK)

		time.Sleep(idleReservation)
		request(11, keystore.Exhausted)
		a.sweep()
		request(10, keystore.OK)
		f.close()
	})
}

// TestChargeIsBookedAfterOutage checks that units which were charged while the database failed are
// booked without another request.
func TestChargeIsBookedAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 1000,
			Per: keystore.Month}}, 2)
		f.request(f.nodes[0], 1)
		f.ledger.lose.Store(1000)
		f.nodes[0].spend(f.record, 5000)
		time.Sleep(time.Second)
		f.ledger.lose.Store(0)
		f.nodes[0].sweep()
		time.Sleep(time.Second)
		if c := f.request(f.nodes[1], 1); c.Outcome != keystore.Exhausted {
			t.Errorf("%v on another node", c.Outcome)
		}
		f.close()
	})
}

// TestChargesNeedFewReservations checks that a node also reserves the units that it charges after
// responses, so that it needs few reservations.
func TestChargesNeedFewReservations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 1_000_000_000,
			Per: keystore.Month}}, 1)
		for range 1000 {
			f.request(f.nodes[0], 1)
			f.nodes[0].spend(f.record, 499)
			time.Sleep(50 * time.Millisecond)
		}
		f.close()
		if n := f.ledger.calls; n > 100 {
			t.Errorf("%d reservations for 1000 requests", n)
		}
	})
}

// TestChargedDuringReservation checks that units which were charged beyond the quota use up what a
// running reservation grants, so that no request is admitted before they are booked.
func TestChargedDuringReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 100,
			Per: keystore.Month}}, 1)
		f.request(f.nodes[0], 1)
		f.ledger.slow.Store(int64(time.Second))
		for range firstReservation - 5 { // the last one makes a reservation
			f.request(f.nodes[0], 1)
		}
		synctest.Wait()
		f.nodes[0].spend(f.record, 500)
		time.Sleep(3 * time.Second / 2) // the reservation has ended, and the next one runs
		f.ledger.mu.Lock()
		if n := f.ledger.calls; n != 2 {
			t.Errorf("%d reservations have ended, want 2", n)
		}
		f.ledger.mu.Unlock()
		if c := f.request(f.nodes[0], 1); c.Outcome != keystore.Exhausted {
			t.Errorf("%v although more than the quota was charged", c.Outcome)
		}
		f.close()
	})
}

// TestReturnsDelayNoRequest checks that a request waits for one call at most besides its own while
// a node returns many unused reservations to a database that hangs.
func TestReturnsDelayNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := keystore.Quota{Units: 100_000, Per: keystore.Month}
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: quota}, 1)
		n := f.nodes[0]
		for i := range 20_000 {
			id := bucketID(string(rune(i + 0x4e00)))
			n.quotaMap[id] = &quotaBucket{id: id, limit: &quota, left: 4,
				end: time.Now().Add(time.Hour).UnixNano()}
		}
		f.ledger.slow.Store(int64(QueryTimeout))
		f.ledger.lose.Store(1000)
		n.sweep()
		time.Sleep(time.Millisecond)
		begun := time.Now()
		f.request(n, 1)
		if took := time.Since(begun); took > 2*QueryTimeout+time.Second {
			t.Errorf("it took %v", took)
		}
		f.close()
	})
}

// TestRemainingDuringReservation checks that units which were charged beyond a reservation are not
// reported as left while they are booked.
func TestRemainingDuringReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 1000,
			Per: keystore.Month}}, 1)
		f.request(f.nodes[0], 1)
		f.ledger.slow.Store(int64(time.Second))
		f.nodes[0].spend(f.record, 20)
		b := f.nodes[0].quotaMap[bucketID(f.record.KeyID)]
		for _, when := range []string{"while they are booked", "afterwards"} {
			synctest.Wait()
			b.mu.Lock()
			if n := b.remaining(); n != 979 {
				t.Errorf("%d left %s, want 979", n, when)
			}
			b.mu.Unlock()
			time.Sleep(2 * time.Second)
		}
		f.close()
	})
}

// TestLostHistory checks that units from a history that the database has lost are not returned.
func TestLostHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 100,
			Per: keystore.Month}}, 1)
		f.request(f.nodes[0], 1)
		f.ledger.mu.Lock()
		for name := range f.ledger.granted {
			f.ledger.granted[name] = 10 // a restored backup
		}
		f.ledger.mu.Unlock()
		f.nodes[0].forgetReservations()
		f.nodes[0].returnAll(t.Context())
		f.close()
		for _, granted := range f.ledger.totals() {
			if granted != 10 {
				t.Errorf("%d granted, want 10", granted)
			}
		}
	})
}

// TestExpensiveRequestLeavesTheRest checks that a node reserves nothing for a request that costs more
// than the quota has left, so that cheaper requests, mostly on another node, get all of it.
func TestExpensiveRequestLeavesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 100,
			Per: keystore.Month}}, 2)
		a, b := f.nodes[0], f.nodes[1]
		f.request(b, 1)
		f.ledger.slow.Store(int64(100 * time.Millisecond))
		var together sync.WaitGroup
		for _, units := range []int64{100, 1, 100, 2} { // they wait for the same reservation
			together.Go(func() { f.request(a, units) })
		}
		together.Wait()
		if len(f.admitted) != 3 || f.refused != 2 {
			t.Errorf("%d admitted and %d refused, want 3 and 2", len(f.admitted), f.refused)
		}
		for f.refused == 2 {
			f.request(b, 1)
			time.Sleep(askInterval)
			f.request(a, 100)
			f.refused--
		}
		if n := len(f.admitted); n < 3+80 {
			t.Errorf("%d requests admitted before a node is refused, want 83", n)
		}
		for range 20 {
			f.request(a, 1)
		}
		if n := len(f.admitted); n != 3+96 {
			t.Errorf("%d requests admitted, want 99", n)
		}
		f.close()
	})
}

// TestRefusedCostsAskOnce checks that a node knows for a while what a quota has left, so that
// requests that cost more do not query the database.
func TestRefusedCostsAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: keystore.Quota{Units: 100,
			Per: keystore.Month}}, 2)
		n := f.nodes[0]
		f.request(n, 10)
		for range 100 {
			f.request(n, 95)
		}
		f.ledger.mu.Lock()
		calls := f.ledger.calls
		f.ledger.mu.Unlock()
		if calls > 2 || f.refused != 100 {
			t.Errorf("%d reservations, %d requests refused", calls, f.refused)
		}
		time.Sleep(askInterval)
		if c := f.request(n, 90); c.Outcome != keystore.OK {
			t.Error("refused although all of it is left")
		}
		f.close()
	})
}

// TestParseQuota checks that the names in the ledger can be split.
func TestParseQuota(t *testing.T) {
	for i, id := range bucketIDs(&keystore.Record{KeyID: "4fYQ0hTz81Lk", Namespace: "acme~key.1"}) {
		b := &quotaBucket{id: id, limit: &keystore.Quota{Units: 1, Per: keystore.Month}}
		got, per, namespace := ParseQuota(b.ledgerName())
		if got != []string{"4fYQ0hTz81Lk", "acme~key.1"}[i] || per != keystore.Month ||
			namespace != (i == 1) {
			t.Errorf("%s: %s, %s, %v", b.ledgerName(), got, per, namespace)
		}
	}
}
