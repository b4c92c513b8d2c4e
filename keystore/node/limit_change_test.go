package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// setRate changes the rate limit of the fleet's key.
func (f *limitedFleet) setRate(l keystore.RateLimit) {
	f.record = limitedRecord(keystore.KeyLimits{Limits: keystore.Limits{Rate: l}})
}

// TestLoweredBurst checks that requests beyond a lowered burst are forgotten, also by the store:
// after Retry, a client gets the rate of the limit.
func TestLoweredBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 10, Per: time.Minute, Burst: 100}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 1)
		f.together(100, f.nodes[0])
		time.Sleep(time.Second)
		limit.Burst = 10
		f.setRate(limit)
		c := f.request(f.nodes[0], 1)
		if retry := c.State(KeyRate).Retry; c.Outcome != keystore.Limited || retry > 6*time.Second {
			t.Errorf("%v, Retry %v", c.Outcome, retry)
		}
		f.admitted = nil
		for range 10 {
			time.Sleep(6 * time.Second)
			f.request(f.nodes[0], 1)
		}
		if n := len(f.admitted); n != 10 {
			t.Errorf("%d requests admitted in a minute, want 10", n)
		}
		f.close()
	})
}

// TestLoweredBurstRefills checks that a pause after a change refills the burst, although no request
// has been admitted since.
func TestLoweredBurstRefills(t *testing.T) {
	for _, nodes := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			limit := keystore.RateLimit{Requests: 100, Per: time.Minute, Burst: 1000}
			f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, nodes)
			f.together(1000, f.nodes[0])
			time.Sleep(time.Second)
			limit.Burst = 100
			f.setRate(limit)
			if c := f.request(f.nodes[0], 1); c.Outcome != keystore.Limited {
				t.Errorf("%d nodes: %v after the change", nodes, c.Outcome)
			}
			time.Sleep(time.Minute)
			f.admitted = nil
			for range 100 {
				f.request(f.nodes[0], 1)
				time.Sleep(time.Millisecond)
			}
			if n := len(f.admitted); n < 95 {
				t.Errorf("%d nodes: %d requests admitted after a minute, want 100", nodes, n)
			}
			f.close()
		})
	}
}

// TestRaisedBurstOfLateNode checks that a node that does not know yet that the burst was raised
// refills it for no other node: each sends the state that it knows.
func TestRaisedBurstOfLateNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 100, Per: 24 * time.Hour, Burst: 10}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 2)
		f.request(f.nodes[1], 1)
		late := f.record
		limit.Burst = 100
		f.setRate(limit)
		for range 300 {
			f.request(f.nodes[0], 1)
			f.requestWith(late, f.nodes[1], 1)
			time.Sleep(20 * time.Millisecond)
		}
		f.within(limit, 10+slack(limit, 2))
		f.close()
	})
}

// TestModeChangesNoBurst checks that a node books with the same limit in every mode. Otherwise the
// store would forget requests whenever the mode changes.
func TestModeChangesNoBurst(t *testing.T) {
	limit := &keystore.RateLimit{Requests: 1000, Per: time.Second, Burst: 5}
	for _, m := range []mode{
		{nodes: 1, stored: true}, {nodes: 1, stored: true, works: true}, {nodes: 2, stored: true},
		sharing,
	} {
		b := rateBucket{limit: limit}
		if k := b.begin("e", m, 0, 0); k.Limit.Burst != 25 || k.Limit.Per != limit.Per {
			t.Errorf("%+v: booked with %+v", m, k.Limit)
		}
	}
}

// TestChangedShare checks that a change keeps the used part of a node's share.
func TestChangedShare(t *testing.T) {
	for name, down := range map[string]func(*limitedFleet){
		"no store":   func(f *limitedFleet) { f.store.gone.Store(true) },
		"store down": func(f *limitedFleet) { f.store.down.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limit := keystore.RateLimit{Requests: 90, Per: 24 * time.Hour, Burst: 90}
				f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 3)
				down(f)
				f.nodes[0].degraded.Store(true)
				f.together(10, f.nodes[0])
				limit.Burst = 91
				f.setRate(limit)
				f.together(50, f.nodes[0])
				if n := len(f.admitted); n != 30 {
					t.Errorf("%d requests admitted of a share of 30", n)
				}
				f.close()
			})
		})
	}
}

// A forgetfulLedger has forgotten all periods that ended a day ago, like the database.
type forgetfulLedger struct{ *quotaStore }

func (s forgetfulLedger) Reserve(
	ctx context.Context, reservations []keystore.Reservation,
) ([]keystore.QuotaGrant, error) {
	grants, err := s.quotaStore.Reserve(ctx, reservations)
	for i := range grants {
		if r := &reservations[i]; r.End.Before(time.Now().Add(-24 * time.Hour)) {
			grants[i] = keystore.QuotaGrant{Total: r.Limit}
		}
	}
	return grants, err
}

// TestNoThresholdOfForgottenPeriod checks that no threshold is reported for a period that the
// ledger has forgotten: one that ended long ago, or none, because the period of the quota was
// changed while the bucket waited for a reservation.
func TestNoThresholdOfForgottenPeriod(t *testing.T) {
	for name, late := range map[string]func(*limitedFleet, *quotaBucket){
		"changed": func(_ *limitedFleet, b *quotaBucket) {
			b.setLimit(&keystore.Quota{Units: 1000, Per: keystore.Day})
		},
		"ended": func(f *limitedFleet, _ *quotaBucket) {
			f.ledger.slow.Store(0)
			time.Sleep(49 * time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
				n := f.nodes[0]
				n.ledger = forgetfulLedger{f.ledger}
				n.reportsThresholds = func() bool { return true }
				f.policy = hourly(1000)
				f.ledger.slow.Store(int64(50 * time.Hour)) // of the first reservation
				n.spend(f.record, 10)
				synctest.Wait()
				n.spend(f.record, 10) // with the second one
				late(f, n.quotaMap["/acme"])
				time.Sleep(3 * 50 * time.Hour)
				if w := n.thresholds.waiting; len(w) > 0 {
					t.Errorf("reported %+v", w)
				}
				f.close()
			})
		})
	}
}
