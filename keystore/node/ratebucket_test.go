package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// sharing is the mode of two nodes with a shared store.
var sharing = mode{nodes: 2, stored: true, works: true, shared: true}

// TestSmallBurstOfBookings checks the burst with which nodes book, and that grants expire earlier by
// the time in which the limit refills the difference to its own burst.
func TestSmallBurstOfBookings(t *testing.T) {
	for _, test := range []struct {
		requests, burst, want int64
		validity              int64 // in microseconds; a twentieth of the second if the burst is the same
	}{
		{1000, 5, 25, 30_000},
		{1000, 25, 25, 50_000},
		{70, 1, 2, 50_000 - 14_286},
		{40, 1, 1, 50_000},
		{30, 1, 1, 50_000},
	} {
		b := &rateBucket{limit: &keystore.RateLimit{Requests: test.requests, Per: time.Second,
			Burst: test.burst}}
		booked := b.bookedLimit(sharing)
		if v := b.validity(&booked); booked.Burst != test.want || v != test.validity {
			t.Errorf("%+v: booked with a burst of %d, valid for %d µs", test, booked.Burst, v)
		}
	}
}

// TestGrantsExpire checks that the requests of two grants are used in the order of the grants, and
// are available until their grant expires. A third one expires with the second.
func TestGrantsExpire(t *testing.T) {
	for _, test := range []struct {
		used, at int64
		want     int32
	}{
		{0, 49_999, 9}, {0, 50_000, 6}, {0, 59_999, 6}, {0, 60_000, 0},
		{1, 49_999, 8}, {1, 50_000, 6}, {3, 59_999, 6}, {4, 59_999, 5}, {4, 60_000, 0},
	} {
		b := &rateBucket{limit: &keystore.RateLimit{Requests: 1000, Per: time.Second, Burst: 100}}
		for i, granted := range []int64{3, 4, 2} {
			k := keystore.Booking{Limit: b.bookedLimit(sharing), Want: granted}
			at := int64(i) * 10_000
			b.end(&k, keystore.Booked{Granted: granted}, sharing, at, at)
		}
		for range test.used {
			b.take(nil, mode{nodes: 2, shared: true}, keystore.Step{}, 20_000)
		}
		held := int32(0)
		if b.holds(test.at) {
			held = b.held
		}
		if held != test.want {
			t.Errorf("%d µs after the first grant, with %d used: %d requests, want %d", test.at,
				test.used, held, test.want)
		}
	}
}

// TestRoomForWaiting checks that as many requests may wait for another limit as this one has room
// for, granted or not.
func TestRoomForWaiting(t *testing.T) {
	b := &rateBucket{limit: &keystore.RateLimit{Requests: 50, Per: time.Second, Burst: 5}, held: 3,
		until: 1}
	for b.admitsAnother(sharing, 0, false) && b.counted < 100 {
		b.counted++
	}
	if b.counted != 5+3 {
		t.Errorf("%d requests wait, want 8", b.counted)
	}
}

// TestAdvanceCountsInShare checks that a request admitted before its booking, which then fails, counts
// in this node's share of the limit.
func TestAdvanceCountsInShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 40, Per: time.Hour, Burst: 40}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 2)
		f.request(f.nodes[0], 1)
		f.store.down.Store(true)
		f.request(f.nodes[0], 1)
		time.Sleep(time.Second)
		f.together(40, f.nodes[0])
		// The share is 20 requests. The one that was booked used up half of one.
		if n := len(f.admitted); n != 20 {
			t.Errorf("%d requests admitted, want 20", n)
		}
		f.close()
	})
}

// TestSweepKeepsUsedLimits checks that the bucket of a rate limit is removed when the whole burst is
// available again, not earlier.
func TestSweepKeepsUsedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 5, Per: time.Minute, Burst: 5}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 1)
		f.store.gone.Store(true)
		f.together(5, f.nodes[0])
		f.nodes[0].sweep()
		if c := f.request(f.nodes[0], 1); c.Outcome != keystore.Limited {
			t.Errorf("%v after a whole burst", c.Outcome)
		}
		time.Sleep(limit.Per)
		f.nodes[0].sweep()
		if n := len(f.nodes[0].rateMap); n != 0 {
			t.Errorf("%d buckets are left", n)
		}
		f.close()
	})
}

// TestRefusedRequestsAskForStore checks that refused requests make a node notice that the shared
// store is available again, and that they query it for nothing else.
func TestRefusedRequestsAskForStore(t *testing.T) {
	for _, nodes := range []int{1, 2} {
		t.Run(fmt.Sprint("nodes=", nodes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limit := keystore.RateLimit{Requests: 50, Per: time.Hour, Burst: 50}
				f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, nodes)
				n := f.nodes[0]
				f.store.down.Store(nodes > 1)
				f.together(60, n)
				time.Sleep(time.Second)
				f.store.down.Store(false)
				refused := func() {
					t.Helper()
					if c := f.request(n, 1); c.Outcome != keystore.Limited {
						t.Errorf("%v beyond the limit", c.Outcome)
					}
					time.Sleep(time.Second)
				}
				refused()
				before := n.stats()
				if before.Degraded {
					t.Error("the node has not noticed that the store is available")
				}
				for range 10 {
					refused()
				}
				if after := n.stats(); after.Grants != before.Grants {
					t.Errorf("%d bookings, %d before", after.Grants, before.Grants)
				}
				f.close()
			})
		})
	}
}
