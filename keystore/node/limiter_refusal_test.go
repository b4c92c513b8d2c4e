package node

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// waveTime is longer than it takes to answer the requests of a wave.
const waveTime = 200 * time.Millisecond

// wave sends n requests to random nodes at nearly the same time, and returns how many are admitted.
// Half of their keys are cached: these requests are charged a little later than they came, in
// another order.
func (f *limitedFleet) wave(n int) (admitted int64) {
	before := len(f.admitted)
	cached := make(map[*limitedNode]*entry)
	for _, n := range f.nodes {
		cached[n] = &entry{record: f.record}
	}
	var requests sync.WaitGroup
	for range n {
		to := f.nodes[f.random.IntN(len(f.nodes))]
		late, slow := rand.N(time.Millisecond), rand.N(time.Millisecond)
		answer := Answer{Record: f.record}
		if f.random.IntN(2) == 0 {
			answer.entry = cached[to]
		}
		requests.Go(func() {
			time.Sleep(late)
			answer.Now = time.Now().UnixNano()
			time.Sleep(slow)
			f.send(answer, to, 1)
		})
	}
	requests.Wait()
	return int64(len(f.admitted) - before)
}

// A modelLimit is the exact model of a rate limit. The time at which it admits the requests of a
// wave is uncertain by waveTime. So it has two meters, for the earliest time and for the latest.
type modelLimit struct {
	keystore.RateLimit
	early, late keystore.Meter
}

// room returns how many requests of a wave that begins now must be admitted. It is not exact if
// that depends on when they are admitted.
func (m *modelLimit) room() (room int64, exact bool) {
	begin := time.Now()
	room = m.late.Room(&m.RateLimit, begin.UnixMicro())
	return room, room == m.early.Room(&m.RateLimit, begin.Add(waveTime).UnixMicro())
}

func (m *modelLimit) admitted(n int64, begin, end time.Time) {
	m.early = m.early.Add(&m.RateLimit, begin.UnixMicro(), n)
	m.late = m.late.Add(&m.RateLimit, end.UnixMicro(), n)
}

// TestOneNodeRefusesNothingWithRoom checks that one node admits exactly those concurrent requests
// for which all limits have room: with and without a store, and with limits of the key, of its
// namespace or of both.
func TestOneNodeRefusesNothingWithRoom(t *testing.T) {
	eachSeed(t, 60, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 10))
		// One request refills in 5 s or more.
		rate := func() keystore.RateLimit {
			return keystore.RateLimit{Requests: 1 + random.Int64N(12), Per: time.Minute,
				Burst: 1 + random.Int64N(40)}
		}
		limits := [2]keystore.Limits{{Rate: rate()}, {Rate: rate()}}
		if only := random.IntN(3); only < 2 {
			limits[only].Rate = keystore.RateLimit{}
		}
		units := int64(1 << 40)
		if random.IntN(2) == 0 {
			units = 20 + random.Int64N(300)
			limits[random.IntN(2)].Quota = keystore.Quota{Units: units, Per: keystore.Month}
		}
		f := newLimitedFleet(t, seed, limits[0], 1)
		f.limitNamespace(limits[1])
		f.store.gone.Store(random.IntN(2) == 0)
		f.store.slow.Store(random.Int64N(int64(20 * time.Millisecond)))
		_, end := keystore.Month.Of(time.Now())
		if time.Until(end) < 24*time.Hour {
			time.Sleep(time.Until(end))
		}
		var models []*modelLimit
		for _, l := range limits {
			if l.Rate != (keystore.RateLimit{}) {
				models = append(models, &modelLimit{RateLimit: l.Rate})
			}
		}
		for range 25 {
			time.Sleep(time.Duration(random.IntN(int(30 * time.Second))))
			room, exact := int64(0), false
			for !exact {
				room, exact = units, true
				for _, m := range models {
					n, sure := m.room()
					room, exact = min(room, n), exact && sure
				}
				if !exact {
					time.Sleep(waveTime)
				}
			}
			n := room
			if random.IntN(3) > 0 { // else all that fit, and no more
				n = random.Int64N(2*min(room, 100) + 5)
			}
			begin := time.Now()
			admitted := f.wave(int(min(n, 200)))
			if took := time.Since(begin); took > waveTime {
				t.Fatalf("seed %d: a wave took %v", seed, took)
			}
			if want := min(n, room, 200); admitted != want {
				t.Fatalf("seed %d, %+v: %d of %d requests admitted, with room for %d", seed, limits,
					admitted, n, room)
			}
			for _, m := range models {
				m.admitted(admitted, begin, time.Now())
			}
			units -= admitted
		}
		f.close()
	})
}

// TestFleetAdmitsWholeBurst checks that several nodes admit as many concurrent requests as the
// burst of an unused limit has, whichever nodes they reach.
func TestFleetAdmitsWholeBurst(t *testing.T) {
	eachSeed(t, 60, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 11))
		limit := randomLimit(random)
		limit.Burst = 1 + random.Int64N(300)
		f := newLimitedFleet(t, seed, keystore.Limits{Rate: limit}, 2+random.IntN(5))
		f.store.slow.Store(random.Int64N(int64(20 * time.Millisecond)))
		for range 5 {
			if n := f.wave(int(limit.Burst)); n != limit.Burst {
				t.Errorf("seed %d: %d nodes admit %d of %d requests at once, with %d/%v", seed,
					len(f.nodes), n, limit.Burst, limit.Requests, limit.Per)
			}
			// Until the burst is available again, after what the nodes have booked beyond it.
			time.Sleep(limit.Per*time.Duration(2*limit.Burst)/time.Duration(limit.Requests) +
				limit.Per + time.Duration(random.IntN(int(time.Minute))))
		}
		f.close()
	})
}

// TestFleetRefusesNothingWithRoom checks that, under any load, several nodes refuse requests only
// when the store has nothing left, and that no node books more in advance than twice what it has
// admitted while a grant is valid.
func TestFleetRefusesNothingWithRoom(t *testing.T) {
	eachSeed(t, 40, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 12))
		limit, nodes := randomLimit(random), 2+random.IntN(5)
		f := newLimitedFleet(t, seed, keystore.Limits{Rate: limit}, nodes)
		f.store.slow.Store(int64(time.Duration(random.IntN(int(20 * time.Millisecond)))))
		booked := sharing.part(&limit)
		f.refusal = func(n *limitedNode, c *Charge) {
			for _, stored := range f.store.dump() {
				room := keystore.Meter{TAT: stored.tat}.Room(&booked, keystore.Micros(c.now))
				if waiting := n.waiting(); room > waiting {
					t.Errorf("seed %d: a node refuses a request, although the store has room "+
						"for %d and only %d wait", seed, room, waiting)
				}
			}
		}
		f.store.asked = func(n *limitedNode, bookings []keystore.Booking) {
			since := time.Now().Add(-limit.Per / grantShare)
			f.mu.Lock()
			defer f.mu.Unlock()
			n.past = slices.DeleteFunc(n.past, func(at time.Time) bool { return at.Before(since) })
			if most := 2*int64(len(n.past)) + n.waiting(); bookings[0].Want > most {
				t.Errorf("seed %d: a node books %d requests, after %d in a twentieth of %v", seed,
					bookings[0].Want, len(n.past), limit.Per)
			}
		}
		f.load(5*time.Second, 2*int(limit.Burst)/nodes+20)
		f.within(limit, slack(limit, nodes))
		f.close()
	})
}

// waiting returns how many requests wait for the fleet's limit on a node.
func (n *limitedNode) waiting() int64 {
	n.limiter.mu.Lock()
	defer n.limiter.mu.Unlock()
	b := n.rateMap["k"]
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.counted + b.reserving)
}
