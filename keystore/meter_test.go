package keystore

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestMeter compares a meter with a list of all admitted requests: in any time t it admits at most
// Burst + Requests·t/Per, and it refuses no request within that bound.
func TestMeter(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		limit := RateLimit{Requests: 1 + random.Int64N(20), Burst: 1 + random.Int64N(20),
			Per: MinPer + time.Duration(random.Int64N(1_000_000))*time.Microsecond}
		per := limit.Per.Microseconds()
		var m Meter
		var admitted []int64
		now := int64(1_800_000_000_000_000)
		for range 300 {
			now += random.Int64N(2 * per / limit.Requests)
			fits := true
			for i, at := range admitted {
				// With this request, len(admitted)−i+1 were admitted since the time at.
				count := int64(len(admitted) - i + 1)
				fits = fits && (count-limit.Burst)*per <= (now-at)*limit.Requests
			}
			switch {
			case m.Fits(&limit, now) != fits || (m.Room(&limit, now) > 0) != fits:
				t.Fatalf("seed %d: %+v: Fits %v, Room %d, want %v", seed, limit,
					m.Fits(&limit, now), m.Room(&limit, now), fits)
			case fits:
				if m.Next(&limit, limit.Step(), now) != m.Add(&limit, now, 1) {
					t.Fatalf("seed %d: %+v: Next and Add differ", seed, limit)
				}
				m = m.Add(&limit, now, 1)
				admitted = append(admitted, now)
			default:
				after := m.After(&limit, 1)
				if m.Fits(&limit, after-1) || !m.Fits(&limit, after) {
					t.Fatalf("seed %d: %+v: admits at another time than After %d", seed, limit,
						after-now)
				}
			}
		}
	}
}

// TestMeterAtItsBounds checks that the largest limits do not overflow.
func TestMeterAtItsBounds(t *testing.T) {
	const now = 1_800_000_000_000_000
	for _, limit := range []RateLimit{
		{Requests: 1, Per: MaxPer, Burst: MaxRate}, {Requests: MaxRate, Per: MaxPer, Burst: MaxRate},
		{Requests: MaxRate, Per: MinPer, Burst: 1}, {Requests: 1, Per: MinPer, Burst: 1},
	} {
		m := Meter{}.Add(&limit, now, limit.Burst)
		if room := (Meter{}).Room(&limit, now); room != limit.Burst {
			t.Errorf("%+v: room for %d at first", limit, room)
		}
		if m.Fits(&limit, now) || m.Room(&limit, now) != 0 || m.Room(&limit, 0) != 0 {
			t.Errorf("%+v: room beyond the burst", limit)
		}
		if at := m.After(&limit, 1); at <= now || !m.Fits(&limit, at) {
			t.Errorf("%+v: no room after %d", limit, at-now)
		}
		if m = m.Add(&limit, now, MaxRate); m.Fits(&limit, now) || m.TAT < now {
			t.Errorf("%+v: room beyond twice the burst", limit)
		}
	}
}

// TestMeterOfChangedLimit checks that changing a limit does not refill it.
func TestMeterOfChangedLimit(t *testing.T) {
	const now = 1_800_000_000_000_000
	from := RateLimit{Requests: 10, Per: time.Second, Burst: 100}
	m := Meter{}.Add(&from, now, 60)
	for _, test := range []struct {
		to   RateLimit
		room int64
	}{
		{RateLimit{Requests: 1, Per: time.Hour, Burst: 100}, 40},
		{RateLimit{Requests: 1000, Per: time.Second, Burst: 1000}, 940},
		{RateLimit{Requests: 10, Per: time.Second, Burst: 50}, 0},
	} {
		if room := m.Within(&from, &test.to, now).Room(&test.to, now); room != test.room {
			t.Errorf("%+v: room for %d, want %d", test.to, room, test.room)
		}
	}
}
