package node

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// usedLimits are the limits of a key or a namespace, and what requests have used of them. The use
// is between two bounds, because it is uncertain when each request was admitted.
type usedLimits struct {
	keystore.Limits
	low, high keystore.Meter // bounds of the meter
	used      map[time.Time]int64
}

// begin returns when the quota's period began.
func (m *usedLimits) begin(at time.Time) time.Time {
	begin, _ := m.Quota.Per.Of(at)
	return begin
}

// use adds requests that were admitted between two times, in one period.
func (m *usedLimits) use(from, to time.Time, n, units int64) {
	if m.Rate != (keystore.RateLimit{}) {
		m.low = m.low.Add(&m.Rate, from.UnixMicro(), n)
		m.high = m.high.Add(&m.Rate, to.UnixMicro(), n)
	}
	m.used[m.begin(to)] += n * units
}

// room returns the least and the most requests that the limits admit between two times.
func (m *usedLimits) room(from, to time.Time, units int64) (least, most int64) {
	least, most = keystore.MaxRate, keystore.MaxRate
	if r := &m.Rate; *r != (keystore.RateLimit{}) {
		least = m.high.Room(r, from.UnixMicro())
		most = m.low.Room(r, to.UnixMicro())
		if took := to.Sub(from); took > 0 {
			most += took.Microseconds()*r.Requests/r.Per.Microseconds() + 1
		}
	}
	if q := m.Quota; q != (keystore.Quota{}) {
		left := max(0, q.Units-m.used[m.begin(to)]) / units
		least, most = min(least, left), min(most, left)
	}
	return least, most
}

// TestOneNodeAgreesWithModel compares one node with a model. Several keys have limits of their own
// and those of their namespace, requests cost different numbers of units, and the shared store
// fails and loses its data. The node admits what all limits have room for, and nothing else.
func TestOneNodeAgreesWithModel(t *testing.T) {
	eachSeed(t, 60, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 8))
		f := newLimitedFleet(t, seed, keystore.Limits{}, 1)
		defer f.close()
		n := f.nodes[0]
		f.store.gone.Store(random.IntN(3) == 0)
		f.store.slow.Store(random.Int64N(int64(20 * time.Millisecond)))
		limits := make([]usedLimits, 2+random.IntN(3)) // the last are those of the namespace
		for i := range limits {
			limits[i] = usedLimits{Limits: randomLimits(random), used: make(map[time.Time]int64)}
		}
		namespace := &limits[len(limits)-1]
		f.limitNamespace(namespace.Limits)
		pace := []time.Duration{time.Millisecond, time.Second, time.Minute}[random.IntN(3)]
		for range 300 {
			switch random.IntN(50) {
			case 0:
				f.store.down.Store(!f.store.down.Load())
			case 1:
				f.store.flush(nil)
			case 2:
				n.sweep()
			case 3:
				time.Sleep(time.Duration(random.Int64N(int64(3 * time.Hour))))
			}
			i, units := random.IntN(len(limits)-1), 1+random.Int64N(3)
			count, key := 1, &limits[i]
			if random.IntN(5) == 0 {
				count += random.IntN(30)
			}
			record := recordOf(fmt.Sprint(i), keystore.KeyLimits{Limits: key.Limits})
			from, before := time.Now(), len(f.admitted)
			for range count {
				f.requestWith(record, n, units)
			}
			to, admitted := time.Now(), int64(len(f.admitted)-before)
			least, most := int64(count), int64(count)
			for _, m := range []*usedLimits{key, namespace} {
				l, u := m.room(from, to, units)
				least, most = min(least, l), min(most, u)
				if m.begin(from) != m.begin(to) {
					least, most = 0, int64(count)
				}
				m.use(from, to, admitted, units)
			}
			if admitted < least || admitted > most {
				t.Fatalf("seed %d: %d of %d requests admitted, want %d to %d; %+v and %+v", seed,
					admitted, count, least, most, key.Limits, namespace.Limits)
			}
			time.Sleep(time.Duration(random.Int64N(int64(pace))))
		}
	})
}

// randomLimits returns a rate limit, a quota, both or none.
func randomLimits(random *rand.Rand) (l keystore.Limits) {
	if random.IntN(4) > 0 {
		l.Rate = randomLimit(random)
		l.Rate.Per *= []time.Duration{1, 60, 3600}[random.IntN(3)]
		if random.IntN(10) == 0 { // less than a microsecond for each request
			l.Rate = keystore.RateLimit{Requests: keystore.MaxRate, Per: time.Minute, Burst: 3}
		}
	}
	if random.IntN(3) > 0 {
		l.Quota = keystore.Quota{Units: 1 + random.Int64N(500),
			Per: keystore.Periods[1+random.IntN(3)]}
	}
	return l
}
