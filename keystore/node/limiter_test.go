package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A limitedFleet is a number of limiters without databases, in a synctest bubble. It checks the
// promises of docs/limits.md under any load.
type limitedFleet struct {
	t          *testing.T
	seed       uint64
	random     *rand.Rand
	policy     *keystore.Directory
	record     *keystore.Record
	store      *rateStore
	ledger     *quotaStore
	nodes      []*limitedNode
	live       atomic.Int64
	aloneSince atomic.Int64
	work       sync.WaitGroup // the bookkeepers

	mu       sync.Mutex
	admitted []time.Time
	refused  int
	unknown  int
	tried    bool // requests that seem to wait have left: see try
	// refusal is called when a node has refused a request. nil: nothing is called.
	refusal func(*limitedNode, *Charge)
}

// A limitedNode is one limiter.
type limitedNode struct {
	*limiter
	store  *storeOf
	stop   context.CancelFunc
	away   atomic.Bool // from the shared store
	killed atomic.Bool
	past   []time.Time // when it has admitted requests
}

func newLimitedFleet(t *testing.T, seed uint64, l keystore.Limits, nodes int) *limitedFleet {
	f := &limitedFleet{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 0))}
	f.live.Store(int64(nodes))
	f.policy = keystore.NewDirectory(&keystore.Policy{
		Namespaces: []keystore.Namespace{{ID: "acme"}}})
	f.record = limitedRecord(keystore.KeyLimits{Limits: l})
	f.store = &rateStore{meters: make(map[string]storedRate)}
	f.ledger = &quotaStore{granted: make(map[string]int64)}
	for range nodes {
		f.start()
	}
	return f
}

func limitedRecord(l keystore.KeyLimits) *keystore.Record { return recordOf("k", l) }

// recordOf returns the record of a key in the namespace acme.
func recordOf(id string, l keystore.KeyLimits) *keystore.Record {
	digest := keystore.DigestOf(id)
	return keystore.NewRecord(&keystore.Key{ID: id, Namespace: "acme", Owner: keystore.RootMember,
		Active: true, Secrets: []keystore.Secret{{Digest: digest}}, KeyLimits: l}, digest)
}

// eachLimit runs a test with a rate limit and with a quota.
func eachLimit(t *testing.T, test func(t *testing.T, name string, limits keystore.Limits)) {
	for name, limits := range map[string]keystore.Limits{
		"rate":  {Rate: keystore.RateLimit{Requests: 5, Per: time.Second, Burst: 5}},
		"quota": {Quota: keystore.Quota{Units: 5, Per: keystore.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, name, limits) })
		})
	}
}

func (f *limitedFleet) start() *limitedNode {
	n := &limitedNode{}
	n.store = &storeOf{f.store, n}
	n.limiter = newLimiter(dependencies{
		now:        func() int64 { return time.Now().UnixNano() },
		nodes:      f.live.Load,
		aloneSince: f.aloneSince.Load,
		epoch:      func() string { return "e" },
		rates: func() keystore.SharedRates {
			if f.store.gone.Load() {
				return nil
			}
			return n.store
		},
		ledger:    f.ledger,
		policy:    func() *keystore.Directory { return f.policy },
		unchanged: func(Answer) bool { return true },
		failed:    func(_ string, err error) error { return err },
	})
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	f.work.Go(func() { n.rateBooks.run(ctx) })
	f.work.Go(func() { n.quotaBooks.run(ctx) })
	f.nodes = append(f.nodes, n)
	return n
}

// close stops the nodes, so that the bubble can end. It checks that no bucket counts requests that
// do not wait any more.
func (f *limitedFleet) close() {
	for _, n := range f.nodes {
		n.stop()
	}
	f.work.Wait()
	synctest.Wait()
	for _, n := range f.nodes {
		for id, b := range n.rateMap {
			if n := b.counted + b.reserving; n != 0 && !f.tried {
				f.t.Errorf("seed %d: %s counts %d requests", f.seed, id, n)
			}
		}
		for id, b := range n.quotaMap {
			if b.counted() != 0 && !f.tried {
				f.t.Errorf("seed %d: %s counts %d units of requests", f.seed, id, b.counted())
			}
		}
	}
}

// eachSeed runs random histories, each in a bubble, until one fails.
func eachSeed(t *testing.T, seeds uint64, history func(t *testing.T, seed uint64)) {
	for seed := range seeds / fewer {
		synctest.Test(t, func(t *testing.T) { history(t, seed) })
		if t.Failed() {
			return
		}
	}
}

// request sends a request to a node.
func (f *limitedFleet) request(n *limitedNode, units int64) Charge {
	return f.requestWith(f.record, n, units)
}

// requestWith is request with another key.
func (f *limitedFleet) requestWith(r *keystore.Record, n *limitedNode, units int64) Charge {
	return f.send(Answer{Record: r, Now: time.Now().UnixNano()}, n, units)
}

// send sends a request whose key has been looked up.
func (f *limitedFleet) send(answer Answer, n *limitedNode, units int64) (c Charge) {
	err := n.charge(context.Background(), &c, answer, f.policy, units)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case n.killed.Load(): // the client got no answer
	case err != nil:
		f.unknown++
	case c.Outcome == keystore.OK:
		f.admitted = append(f.admitted, time.Now())
		n.past = append(n.past, time.Now())
	default:
		f.refused++
		if f.refusal != nil {
			f.refusal(n, &c)
		}
	}
	return c
}

// load sends requests for a while: each node at random gets bursts, pauses and a steady stream.
func (f *limitedFleet) load(d time.Duration, most int) {
	var done sync.WaitGroup
	for _, n := range f.nodes {
		seed := f.random.Uint64()
		done.Go(func() {
			random := rand.New(rand.NewPCG(seed, 1))
			for end := time.Now().Add(d); time.Now().Before(end); {
				switch random.IntN(3) {
				case 0:
					for range random.IntN(most) {
						done.Go(func() { f.request(n, 1) })
					}
				case 1:
					for range random.IntN(most) {
						f.request(n, 1)
						time.Sleep(time.Duration(random.IntN(int(20 * time.Millisecond))))
					}
				}
				time.Sleep(time.Duration(random.IntN(int(100 * time.Millisecond))))
			}
		})
	}
	done.Wait()
}

// within fails the test unless the admitted requests stay within a limit whose burst is larger by
// extra.
func (f *limitedFleet) within(l keystore.RateLimit, extra int64) {
	f.t.Helper()
	slices.SortFunc(f.admitted, time.Time.Compare)
	bound := l
	bound.Burst += extra
	var m keystore.Meter
	over := 0
	for _, at := range f.admitted {
		if m.Room(&bound, at.UnixMicro()) < 1 {
			over++
			continue
		}
		m = m.Add(&bound, at.UnixMicro(), 1)
	}
	if over > 0 {
		f.t.Errorf("seed %d: %d requests beyond %d/%v with a burst of %d and %d more, of %d admitted", f.seed, over,
			l.Requests, l.Per, l.Burst, extra, len(f.admitted))
	}
}

// slack is how many requests several nodes may admit beyond a limit: the rate for the validity of a
// grant, and one for each node.
func slack(l keystore.RateLimit, nodes int) int64 {
	return (l.Requests+grantShare-1)/grantShare + int64(nodes)
}

// A rateStore is a shared store of rate limits. Its arithmetic is that of the contract.
type rateStore struct {
	mu     sync.Mutex
	meters map[string]storedRate
	gone   atomic.Bool                     // no store is configured
	down   atomic.Bool                     // its calls fail
	lie    atomic.Pointer[keystore.Booked] // the answer to each booking, if not nil
	slow   atomic.Int64                    // the longest time of a call, half before and half after booking
	fixed  atomic.Bool                     // each call takes that time

	// asked is called when a node begins a call, and answered when the call ends. nil: nothing is.
	asked    func(*limitedNode, []keystore.Booking)
	answered func(*limitedNode, error)
}

// A storedRate is the TAT of a limit in the store.
type storedRate struct {
	tat   int64
	limit keystore.RateLimit
}

var errAway = errors.New("the store is unreachable")

func (s *rateStore) book(now int64, bookings []keystore.Booking) []keystore.Booked {
	s.mu.Lock()
	defer s.mu.Unlock()
	answers := make([]keystore.Booked, len(bookings))
	for i, k := range bookings {
		before := s.meters[k.Name]
		m := keystore.Meter{TAT: before.tat}
		if before.limit.Requests != k.Limit.Requests || before.limit.Per != k.Limit.Per ||
			before.limit.Burst > k.Limit.Burst {
			m = m.Within(&before.limit, &k.Limit, now)
		}
		m = keystore.Meter{TAT: max(m.TAT, k.Known)}
		m = m.Add(&k.Limit, now, k.Spent)
		granted := min(k.Want, m.Room(&k.Limit, now))
		m = m.Add(&k.Limit, now, granted)
		tat := m.TAT
		if m != (keystore.Meter{TAT: tat}) {
			tat++
		}
		s.meters[k.Name] = storedRate{tat, k.Limit}
		answers[i] = keystore.Booked{Granted: granted, TAT: tat}
		if lie := s.lie.Load(); lie != nil {
			answers[i] = *lie
		}
	}
	return answers
}

// storeOf is the store as one node reaches it.
type storeOf struct {
	*rateStore
	node *limitedNode
}

func (s *storeOf) Book(
	ctx context.Context, now time.Time, bookings []keystore.Booking,
) ([]keystore.Booked, error) {
	if s.asked != nil {
		s.asked(s.node, bookings)
	}
	answers, err := s.call(ctx, now, bookings)
	if s.answered != nil {
		s.answered(s.node, err)
	}
	return answers, err
}

func (s *storeOf) call(
	_ context.Context, now time.Time, bookings []keystore.Booking,
) ([]keystore.Booked, error) {
	pause := func() {
		slow := s.slow.Load() / 2
		if slow > 0 && !s.fixed.Load() {
			slow = rand.Int64N(slow)
		}
		time.Sleep(time.Duration(slow))
	}
	pause()
	if s.down.Load() || s.node.away.Load() {
		return nil, errAway
	}
	if len(bookings) > maxBooked {
		panic(fmt.Sprint(len(bookings), " limits in one call"))
	}
	answers := s.book(now.UnixMicro(), bookings)
	pause()
	if s.down.Load() || s.node.away.Load() {
		return nil, errAway // booked, but the answer is lost
	}
	return answers, nil
}

// dump returns what the store has.
func (s *rateStore) dump() map[string]storedRate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.meters)
}

// flush forgets all bookings, or those since an old dump.
func (s *rateStore) flush(dump map[string]storedRate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meters = maps.Clone(dump)
	if dump == nil {
		s.meters = make(map[string]storedRate)
	}
}

// TestRateOfOneNode checks that one node admits all requests that the limit allows, and no others.
func TestRateOfOneNode(t *testing.T) {
	eachSeed(t, 20, func(t *testing.T, seed uint64) {
		limit := randomLimit(rand.New(rand.NewPCG(seed, 2)))
		f := newLimitedFleet(t, seed, keystore.Limits{Rate: limit}, 1)
		if seed%2 == 0 {
			f.store.gone.Store(true)
		}
		f.load(5*time.Second, 300)
		f.within(limit, 0)
		// Each refusal was correct: the admitted requests leave no room.
		for range 10 {
			c := f.request(f.nodes[0], 1)
			if c.Outcome == keystore.OK {
				continue
			}
			retry := c.State(KeyRate).Retry
			time.Sleep(retry - time.Microsecond)
			if early := f.request(f.nodes[0], 1); early.Outcome == keystore.OK {
				t.Errorf("%+v: admitted before Retry %v", limit, retry)
			}
			time.Sleep(time.Microsecond)
			if again := f.request(f.nodes[0], 1); again.Outcome != keystore.OK {
				t.Errorf("%+v: refused after Retry %v", limit, retry)
			}
		}
		f.close()
	})
}

func randomLimit(random *rand.Rand) keystore.RateLimit {
	requests := int64(1) << random.IntN(12)
	return keystore.RateLimit{Requests: requests + random.Int64N(requests),
		Burst: 1 + random.Int64N(2*requests),
		Per:   time.Duration(1+random.IntN(5)) * time.Second}
}

// TestRateOfFleet checks the bound of several nodes with a shared store, fast or slow.
func TestRateOfFleet(t *testing.T) {
	eachSeed(t, 40, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 3))
		limit, nodes := randomLimit(random), 2+random.IntN(9)
		f := newLimitedFleet(t, seed, keystore.Limits{Rate: limit}, nodes)
		f.store.slow.Store(int64(time.Duration(random.IntN(int(40 * time.Millisecond)))))
		f.load(5*time.Second, 2*int(limit.Burst)/nodes+20)
		f.within(limit, slack(limit, nodes))
		f.close()
	})
}

// TestSlowLookup checks that a request whose lookup has taken long counts when it is charged, not
// when it came. Otherwise the limit would also admit what it has refilled since.
func TestSlowLookup(t *testing.T) {
	limit := keystore.RateLimit{Requests: 10, Per: time.Second, Burst: 10}
	for name, early := range map[string]int{"none before": 0, "one before": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 1)
				slow := Answer{Record: f.record, Now: time.Now().UnixNano()}
				time.Sleep(2 * time.Second)
				for range early {
					f.request(f.nodes[0], 1)
				}
				for i := range 10 - early {
					var c Charge
					err := f.nodes[0].charge(t.Context(), &c, slow, f.policy, 1)
					if err != nil || c.Outcome != keystore.OK {
						t.Errorf("request %d: %v, %v", i, c.Outcome, err)
					}
				}
				if c := f.request(f.nodes[0], 1); c.Outcome != keystore.Limited {
					t.Errorf("%v after a whole burst", c.Outcome)
				}
				f.close()
			})
		})
	}
}

// TestOrderOfRequests checks that concurrent requests use the whole burst although they are not
// charged in the order in which they came.
func TestOrderOfRequests(t *testing.T) {
	limit := keystore.RateLimit{Requests: 10, Per: time.Second, Burst: 2}
	for name, limits := range map[string][2]keystore.Limits{
		"key": {{Rate: limit}, {}}, "namespace": {{}, {Rate: limit}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, limits[0], 1)
				f.store.gone.Store(true)
				f.limitNamespace(limits[1])
				first := Answer{Record: f.record, Now: time.Now().UnixNano(),
					entry: &entry{record: f.record}}
				time.Sleep(time.Millisecond)
				for i, want := range []keystore.Outcome{keystore.OK, keystore.OK, keystore.Limited} {
					var c Charge
					answer := first
					if i == 0 {
						answer.Now = time.Now().UnixNano()
					}
					err := f.nodes[0].charge(t.Context(), &c, answer, f.policy, 1)
					if err != nil || c.Outcome != want {
						t.Errorf("request %d: %v, %v, want %v", i, c.Outcome, err, want)
					}
				}
				f.close()
			})
		})
	}
}

// TestOneRequestInAdvance checks that a node admits no request before its first booking, and later at
// most one that is not booked, even while it waits for the store. The state of the limit counts it.
func TestOneRequestInAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 2 * smallLimit, Per: 100 * time.Second, Burst: 100}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 2)
		f.store.slow.Store(int64(40 * time.Millisecond))
		if c := f.request(f.nodes[0], 1); !c.Waited {
			t.Error("the first request did not wait for its booking")
		}
		c := f.request(f.nodes[0], 1)
		if s := c.State(KeyRate); s.Remaining != 98 || c.Waited {
			t.Errorf("%d remain, waited: %v", s.Remaining, c.Waited)
		}
		synctest.Wait()
		second := make(chan Charge, 1)
		f.work.Go(func() { second <- f.request(f.nodes[0], 1) })
		synctest.Wait()
		f.mu.Lock()
		if n := len(f.admitted); n != 2 {
			t.Errorf("%d requests admitted before one is booked", n)
		}
		f.mu.Unlock()
		time.Sleep(time.Second)
		c = <-second
		if s := c.State(KeyRate); c.Outcome != keystore.OK || s.Remaining != 97 {
			t.Errorf("%v, %d remain", c.Outcome, s.Remaining)
		}
		f.close()
	})
}

// TestLastNodeAsksFirst checks that a node which is alone, because the others have left, asks the
// shared store what they have admitted before it admits a request.
func TestLastNodeAsksFirst(t *testing.T) {
	limit := keystore.RateLimit{Requests: 100, Per: time.Hour, Burst: 100}
	for _, before := range []int{1, 2, 3} {
		for store, want := range map[string]int{"works": 100, "is unavailable": 200} {
			if before == 3 && store != "works" {
				continue // the last node admits what its last answer leaves
			}
			t.Run(fmt.Sprintf("%d nodes before, the store %s", before, store), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, before)
					f.store.slow.Store(int64(4 * time.Millisecond))
					var last *limitedNode
					if before == 3 { // it has asked before the others used up the limit
						last = f.nodes[2]
						f.together(5, last)
						time.Sleep(time.Second)
					}
					f.together(150, f.nodes[0])
					time.Sleep(time.Second) // longer than calls of the store take
					f.nodes[0].stop()
					f.aloneSince.Store(time.Now().UnixNano())
					f.live.Store(1)
					f.store.down.Store(store != "works")
					if last == nil {
						last = f.start()
					}
					f.together(150, last)
					if n := len(f.admitted); n != want {
						t.Errorf("%d requests admitted of %d", n, want)
					}
					f.close()
				})
			})
		}
	}
}

// TestSmallBurstOfFleet checks the bound of limits whose burst is smaller than the number of nodes,
// so that the requests that all nodes admit in advance are more than two bursts.
func TestSmallBurstOfFleet(t *testing.T) {
	eachSeed(t, 20, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 7))
		nodes := 3 + random.IntN(8)
		limit := keystore.RateLimit{Requests: smallLimit * int64(nodes),
			Per: time.Duration(1+random.IntN(100)) * time.Second, Burst: 1 + random.Int64N(3)}
		f := newLimitedFleet(t, seed, keystore.Limits{Rate: limit}, nodes)
		f.store.slow.Store(int64(time.Duration(random.IntN(int(20 * time.Millisecond)))))
		f.load(20*time.Second, 40)
		f.within(limit, slack(limit, nodes))
		f.close()
	})
}

// TestSmallBurstReachesRate checks that several nodes admit a steady stream of nine tenths of the
// rate, whichever nodes it reaches, although the burst is smaller than what refills between two
// bookings, and that they keep the bound while more requests arrive.
func TestSmallBurstReachesRate(t *testing.T) {
	limit := keystore.RateLimit{Requests: 1000, Per: time.Second, Burst: 5}
	for _, reached := range []int{1, 3} {
		for _, perSecond := range []int{900, 4000} {
			t.Run(fmt.Sprint(perSecond, " per second to ", reached, " of 3"), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 3)
					f.store.slow.Store(int64(4 * time.Millisecond))
					var requests sync.WaitGroup
					for i := range 2 * perSecond {
						requests.Go(func() {
							c := f.request(f.nodes[i%reached], 1)
							if n := c.State(KeyRate).Remaining; n > limit.Burst {
								t.Errorf("%d remain of a burst of %d", n, limit.Burst)
							}
						})
						time.Sleep(time.Second / time.Duration(perSecond))
					}
					requests.Wait()
					if n, want := len(f.admitted), 2*900*95/100; n < want {
						t.Errorf("%d requests admitted, want %d", n, want)
					}
					f.within(limit, slack(limit, 3))
					f.close()
				})
			})
		}
	}
}

// TestFleetReachesRate checks that several nodes with a shared store admit nearly all that a limit
// allows while more requests arrive, and all that arrive at nine tenths of its rate.
func TestFleetReachesRate(t *testing.T) {
	limit := keystore.RateLimit{Requests: 50, Per: time.Second, Burst: 50}
	const duration = 20 * time.Second
	for _, perSecond := range []int{45, 60, 500} {
		synctest.Test(t, func(t *testing.T) {
			f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 3)
			f.store.slow.Store(int64(4 * time.Millisecond))
			var requests sync.WaitGroup
			sent := perSecond * int(duration/time.Second)
			for i := range sent {
				requests.Go(func() { f.request(f.nodes[i%3], 1) })
				time.Sleep(time.Second / time.Duration(perSecond))
			}
			requests.Wait()
			want := min(sent, 50+int(duration/time.Second)*50*9/10)
			if n := len(f.admitted); n < want {
				t.Errorf("%d of %d requests admitted at %d per second, want %d", n, sent, perSecond,
					want)
			}
			f.close()
		})
	}
}

// TestRateWithoutStore checks that the shares of all nodes together stay within the limit, and that
// the nodes divide what the limit had left when the store became unavailable.
func TestRateWithoutStore(t *testing.T) {
	eachSeed(t, 40, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 4))
		limit, nodes := randomLimit(random), 2+random.IntN(9)
		f := newLimitedFleet(t, seed, keystore.Limits{Rate: limit}, nodes)
		if seed%2 == 0 {
			f.store.gone.Store(true)
		} else {
			f.store.down.Store(true)
		}
		f.load(5*time.Second, 2*int(limit.Burst)/nodes+20)
		f.within(limit, slack(limit, nodes))
		f.close()
	})
}

// TestUsedUpBurstStaysUsedUp checks that a used-up burst is not refilled when the store becomes
// unavailable or loses its data.
func TestUsedUpBurstStaysUsedUp(t *testing.T) {
	limit := keystore.RateLimit{Requests: 100, Per: 100 * time.Second, Burst: 100}
	for name, lose := range map[string]func(*limitedFleet){
		"away":    func(f *limitedFleet) { f.store.down.Store(true) },
		"flushed": func(f *limitedFleet) { f.store.flush(nil) },
		"removed": func(f *limitedFleet) { f.store.gone.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 3)
				for i := range 60 {
					f.request(f.nodes[i%3], 1)
				}
				time.Sleep(limit.Per/grantShare + time.Second) // until no grant is left
				for _, n := range f.nodes {                    // so that each knows what the others have used
					time.Sleep(time.Second)
					f.request(n, 1)
				}
				time.Sleep(time.Second)
				if n := len(f.admitted); n < 55 {
					t.Errorf("only %d admitted", n)
				}
				lose(f)
				for i := range 300 {
					f.request(f.nodes[i%3], 1)
					time.Sleep(time.Millisecond)
				}
				f.within(limit, slack(limit, 3))
				f.close()
			})
		})
	}
}

// TestChangedLimitIsNotNew checks that a node that has not seen a key before its limit was changed
// learns from the store what the others have admitted.
func TestChangedLimitIsNotNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 90, Per: 24 * time.Hour, Burst: 90}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 3)
		for range 90 {
			f.request(f.nodes[0], 1)
		}
		limit.Requests, limit.Burst = 120, 120
		f.record = limitedRecord(keystore.KeyLimits{Limits: keystore.Limits{Rate: limit}})
		f.admitted = nil
		for range 120 {
			f.request(f.nodes[1], 1)
		}
		if n := len(f.admitted); n < 27 || n > 33 {
			t.Errorf("%d admitted after 90 of 120", n)
		}
		f.close()
	})
}

// TestUnknownLimitsAreUnavailable checks that a key whose limits cannot be read is neither unlimited
// nor refused.
func TestUnknownLimitsAreUnavailable(t *testing.T) {
	acme := keystore.Namespace{ID: "acme", DefaultPlan: "gold"}
	gold := keystore.Plan{Namespace: "acme", Name: "gold"}
	broken := gold
	broken.Unreadable = "quota: per must be hour, day or month"
	for name, test := range map[string]struct {
		policy keystore.Policy
		plan   string
		known  bool
	}{
		"a plan": {keystore.Policy{Namespaces: []keystore.Namespace{acme},
			Plans: []keystore.Plan{gold}}, "gold", true},
		"no plan":        {keystore.Policy{Namespaces: []keystore.Namespace{{ID: "acme"}}}, "", true},
		"a lost plan":    {keystore.Policy{Namespaces: []keystore.Namespace{acme}}, "silver", false},
		"a lost default": {keystore.Policy{Namespaces: []keystore.Namespace{acme}}, "", false},
		"a broken plan": {keystore.Policy{Namespaces: []keystore.Namespace{acme},
			Plans: []keystore.Plan{broken}}, "", false},
		"a broken namespace": {keystore.Policy{Namespaces: []keystore.Namespace{{ID: "acme",
			Unreadable: "rate_limit: x", LimitsUnreadable: true}}}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, keystore.Limits{}, 1)
				f.policy = keystore.NewDirectory(&test.policy)
				f.record = limitedRecord(keystore.KeyLimits{Plan: test.plan})
				a := Answer{Record: f.record, Now: time.Now().UnixNano(), entry: new(entry)}
				for range 2 {
					var c Charge
					err := f.nodes[0].charge(t.Context(), &c, a, f.policy, 1)
					if (err == nil) != test.known || c.Terms != nil {
						t.Errorf("%+v, %v", c, err)
					}
				}
				f.close()
			})
		})
	}
}

// TestWrongAnswersOfStore checks that a store with wrong answers blocks a key only for a limited
// time, and grants no more than was requested.
func TestWrongAnswersOfStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 100, Per: time.Second, Burst: 100}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 2)
		f.store.lie.Store(&keystore.Booked{Granted: math.MaxInt64, TAT: math.MaxInt64})
		for range 10_000 {
			f.request(f.nodes[0], 1)
		}
		f.within(limit, slack(limit, 2))
		f.store.lie.Store(nil)
		time.Sleep(2*time.Second + limit.Per/10 + time.Microsecond)
		if c := f.request(f.nodes[0], 1); c.Outcome != keystore.OK {
			t.Errorf("%v after two bursts and a tenth of the period", c.Outcome)
		}
		f.close()
	})
}

// A quotaStore is a ledger of quotas.
type quotaStore struct {
	keystore.QuotaLedger // nil: nodes call only Reserve
	mu                   sync.Mutex
	granted              map[string]int64
	calls                int
	lose                 atomic.Int64 // how many in a thousand calls fail, half of them after the commit
	slow                 atomic.Int64 // the time that a call takes in addition
}

func (s *quotaStore) Reserve(
	_ context.Context, reservations []keystore.Reservation,
) ([]keystore.QuotaGrant, error) {
	time.Sleep(time.Duration(s.slow.Load() + rand.Int64N(int64(10*time.Millisecond))))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	lost, lose := rand.Int64N(1000), s.lose.Load()
	if lost < lose/2 {
		return nil, errAway
	}
	grants := make([]keystore.QuotaGrant, len(reservations))
	for i := range reservations {
		r := &reservations[i]
		name := r.Quota + r.Begin.String()
		grants[i] = r.Grant(s.granted[name])
		s.granted[name] = grants[i].Total
	}
	if lost < lose {
		return nil, errAway // committed, but the answer is lost
	}
	return grants, nil
}

// totals returns the units that were granted, by quota and period.
func (s *quotaStore) totals() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.granted))
}

// TestQuotaIsNeverExceeded checks that all nodes together admit exactly the units of the quota and,
// when something fails, not one unit more.
func TestQuotaIsNeverExceeded(t *testing.T) {
	eachSeed(t, 60, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 6))
		nodes := 1 + random.IntN(5)
		quota := keystore.Quota{Units: 1 + random.Int64N(2000), Per: keystore.Day}
		f := newLimitedFleet(t, seed, keystore.Limits{Quota: quota}, nodes)
		failing := seed%2 == 0
		if failing {
			f.ledger.lose.Store(random.Int64N(500))
		}
		for range 20 {
			f.load(time.Second, 40)
			if failing && random.IntN(3) == 0 {
				i := random.IntN(len(f.nodes))
				f.nodes[i].stop()
				if random.IntN(2) == 0 {
					f.nodes[i].returnAll(t.Context())
				}
				f.nodes[i].killed.Store(true)
				f.nodes = slices.Delete(f.nodes, i, i+1)
				f.start()
			}
		}
		if n := int64(len(f.admitted)); n > quota.Units {
			t.Errorf("seed %d: %d of %d units", seed, n, quota.Units)
		} else if !failing && n < quota.Units {
			t.Errorf("seed %d: only %d of %d units, although there is room", seed, n, quota.Units)
		}
		f.admitted = nil
		now := time.Now()
		_, end := quota.Per.Of(now)
		time.Sleep(end.Sub(now))
		f.ledger.lose.Store(0)
		if c := f.request(f.nodes[0], 1); c.Outcome != keystore.OK {
			t.Errorf("seed %d: %v in the next period", seed, c.Outcome)
		}
		f.close()
	})
}

// TestReservationFollowsUse checks that a node that has reserved many units and then gets few
// requests returns what it does not need, so that the other nodes are not refused for long.
func TestReservationFollowsUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, _ := keystore.Day.Of(time.Now())
		time.Sleep(time.Until(begin.Add(24 * time.Hour)))
		quota := keystore.Quota{Units: 12_000, Per: keystore.Day}
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: quota}, 3)
		for range 2000 {
			f.request(f.nodes[0], 1)
		}
		for range 3 * 12 { // three hours with one request in five minutes
			for range 5 {
				time.Sleep(sweepInterval)
				for _, n := range f.nodes {
					n.sweep()
				}
			}
			f.request(f.nodes[0], 1)
		}
		for f.refused == 0 {
			f.request(f.nodes[1], 1)
		}
		if n := int64(len(f.admitted)); n < quota.Units-2*firstReservation {
			t.Errorf("refused after %d of %d units", n, quota.Units)
		}
		for range 3 * firstReservation {
			f.request(f.nodes[0], 1)
		}
		if n := int64(len(f.admitted)); n != quota.Units {
			t.Errorf("%d of %d units admitted", n, quota.Units)
		}
		f.close()
	})
}

// TestAllOrNone checks that a request that one limit refuses is charged to no other.
func TestAllOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := keystore.Limits{
			Rate:  keystore.RateLimit{Requests: 5, Per: time.Minute, Burst: 5},
			Quota: keystore.Quota{Units: 100, Per: keystore.Month},
		}
		f := newLimitedFleet(t, 1, limits, 1)
		var c Charge
		for range 20 {
			c = f.request(f.nodes[0], 3)
		}
		if c.Outcome != keystore.Limited || c.State(KeyQuota).Remaining != 85 {
			t.Errorf("%v with %d units left, want limited with 85", c.Outcome,
				c.State(KeyQuota).Remaining)
		}
		time.Sleep(time.Minute)
		if c = f.request(f.nodes[0], 86); c.Outcome != keystore.Exhausted {
			t.Errorf("%v for 86 of 85 units", c.Outcome)
		}
		if c = f.request(f.nodes[0], 85); c.Outcome != keystore.OK {
			t.Errorf("%v for 85 of 85 units", c.Outcome)
		}
		if room := c.State(KeyRate).Remaining; room != 4 {
			t.Errorf("the rate has room for %d, want 4: the exhausted request must cost nothing", room)
		}
		if c.Violated(KeyRate) {
			t.Error("a rate that admitted the request is violated")
		}
		counts := f.nodes[0].stats().Decisions
		if rate, quota := counts[KeyRate], counts[KeyQuota]; rate[LimitOK] != 6 ||
			rate[LimitRefused] != 15 || quota[LimitOK] != 6 || quota[LimitRefused] != 1 {
			t.Errorf("the decisions are %d of the rate and %d of the quota", rate, quota)
		}
		f.close()
	})
}

// TestUnknownQuotaIsUnavailable checks that Charge returns an error, not a refusal, if nobody knows
// whether a quota has room.
func TestUnknownQuotaIsUnavailable(t *testing.T) {
	for _, shadow := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			quota := keystore.Quota{Units: 100, Per: keystore.Hour, Shadow: shadow}
			f := newLimitedFleet(t, 1, keystore.Limits{Quota: quota}, 1)
			f.request(f.nodes[0], 1)
			f.ledger.lose.Store(1000)
			for range 100 {
				f.request(f.nodes[0], 1)
			}
			if shadow && len(f.admitted) != 101 {
				t.Errorf("a quota in shadow admits %d of 101", len(f.admitted))
			}
			if !shadow && (len(f.admitted) > 64 || f.refused > 0 || f.unknown < 37) {
				t.Errorf("%d admitted, %d refused, %d unknown", len(f.admitted), f.refused, f.unknown)
			}
			f.close()
		})
	}
}

// TestShadowNeverWaitsLong checks that a request waits for a shadow quota only once while the
// database hangs, and that no other limit refuses it for that.
func TestShadowNeverWaitsLong(t *testing.T) {
	quota := keystore.Quota{Units: 100, Per: keystore.Hour, Shadow: true}
	for name, limits := range map[string]keystore.Limits{
		"alone": {Quota: quota},
		"with a rate whose grants expire sooner": {Quota: quota,
			Rate: keystore.RateLimit{Requests: 10, Per: time.Second, Burst: 10}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLimitedFleet(t, 1, limits, 2)
				f.ledger.lose.Store(1000)
				f.ledger.slow.Store(int64(QueryTimeout))
				begun := time.Now()
				if c := f.request(f.nodes[0], 1); c.Outcome != keystore.OK || !c.Refused(KeyQuota) {
					t.Errorf("%v, refused in shadow %v", c.Outcome, c.Refused(KeyQuota))
				}
				if took := time.Since(begun); took > QueryTimeout+time.Second {
					t.Errorf("it took %v", took)
				}
				f.close()
			})
		})
	}
}

// TestClosedLimiter checks that nobody waits for a limiter that is closed.
func TestClosedLimiter(t *testing.T) {
	eachLimit(t, func(t *testing.T, _ string, limits keystore.Limits) {
		f := newLimitedFleet(t, 1, limits, 2)
		f.close()
		f.request(f.nodes[0], 1)
		if f.unknown != 1 {
			t.Error("a request to a closed limiter is not an error")
		}
	})
}

// TestStoreIsNoticedAgain checks that a node without requests notices when the shared store is
// available again.
func TestStoreIsNoticedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: 100, Per: time.Hour, Burst: 100}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 2)
		f.store.down.Store(true)
		f.request(f.nodes[0], 1)
		time.Sleep(time.Second) // until no booking is queued
		if !f.nodes[0].stats().Degraded {
			t.Error("the node has not noticed that the store is unavailable")
		}
		f.live.Store(1)
		if f.nodes[0].stats().Degraded {
			t.Error("a node that is alone has no share")
		}
		f.live.Store(2)
		f.store.down.Store(false)
		for range 2 {
			f.nodes[0].sweep()
			time.Sleep(time.Second)
			if s := f.nodes[0].stats(); s.Degraded || s.Grants[GrantOK] != 1 {
				t.Errorf("degraded: %v, %d bookings that worked, want 1", s.Degraded,
					s.Grants[GrantOK])
			}
		}
		f.close()
	})
}

// A stingyLedger grants nothing, although it says that everything is left.
type stingyLedger struct{ keystore.QuotaLedger }

func (stingyLedger) Reserve(
	_ context.Context, reservations []keystore.Reservation,
) ([]keystore.QuotaGrant, error) {
	time.Sleep(time.Millisecond)
	return make([]keystore.QuotaGrant, len(reservations)), nil
}

// TestNoRequestWaitsForever checks that a request gets an answer even if a limit seems to have room
// each time, but never grants it: a rate refuses the request, and a quota is unknown. It does not
// wait if its client leaves.
func TestNoRequestWaitsForever(t *testing.T) {
	eachLimit(t, func(t *testing.T, name string, limits keystore.Limits) {
		f := newLimitedFleet(t, 1, limits, 2)
		f.limitNamespace(keystore.Limits{
			Rate: keystore.RateLimit{Requests: 100, Per: time.Second, Burst: 100}})
		f.store.lie.Store(&keystore.Booked{})
		f.nodes[0].ledger = stingyLedger{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		defer cancel()
		answer := Answer{Record: f.record, Now: time.Now().UnixNano()}
		if err := f.nodes[0].charge(ctx, new(Charge), answer, f.policy, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a client: %v", err)
		}
		f.request(f.nodes[0], 1)
		if refused := f.refused == 1; refused != (name == "rate") || f.refused+f.unknown != 1 {
			t.Errorf("%d refused, %d unknown", f.refused, f.unknown)
		}
		f.close()
	})
}

// TestChargedMoreThanQuota checks that units that are charged after the response count, even beyond
// the quota.
func TestChargedMoreThanQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := keystore.Quota{Units: 100, Per: keystore.Hour}
		f := newLimitedFleet(t, 1, keystore.Limits{Quota: quota}, 2)
		f.request(f.nodes[0], 1)
		f.nodes[0].spend(f.record, 98)
		synctest.Wait()
		time.Sleep(time.Second)
		if c := f.request(f.nodes[1], 2); c.Outcome != keystore.Exhausted {
			t.Errorf("%v for 2 of 1 units on another node", c.Outcome)
		}
		f.nodes[0].spend(f.record, 500)
		time.Sleep(time.Second)
		if granted := f.ledger.totals(); !slices.Equal(granted, []int64{599}) {
			t.Errorf("the ledger has %v, want 599 spent units", granted)
		}
		f.close()
	})
}

func ExampleTerms() {
	t := newTerms(keystore.Limits{
		Rate:  keystore.RateLimit{Requests: 100, Per: time.Second, Burst: 200},
		Quota: keystore.Quota{Units: 100000, Per: keystore.Month},
	}, keystore.Limits{})
	fmt.Println(t.Policy)
	// Output: "rate";q=100;w=1;apikeys-burst=200, "quota";q=100000
}

// BenchmarkCharge measures what a limit adds to a decision.
func BenchmarkCharge(b *testing.B) {
	rate := keystore.RateLimit{Requests: keystore.MaxRate, Per: time.Second, Burst: keystore.MaxRate}
	quota := keystore.Quota{Units: keystore.MaxQuota, Per: keystore.Month}
	for name, limits := range map[string]keystore.Limits{
		"rate": {Rate: rate}, "rate and quota": {Rate: rate, Quota: quota}, "none": {},
	} {
		b.Run(name, func(b *testing.B) {
			policy := keystore.NewDirectory(&keystore.Policy{
				Namespaces: []keystore.Namespace{{ID: "acme"}}})
			l := newLimiter(dependencies{
				now:       func() int64 { return time.Now().UnixNano() },
				nodes:     func() int64 { return 1 },
				epoch:     func() string { return "e" },
				rates:     func() keystore.SharedRates { return nil },
				ledger:    &quotaStore{granted: make(map[string]int64)},
				policy:    func() *keystore.Directory { return policy },
				unchanged: func(Answer) bool { return true },
			})
			go l.rateBooks.run(b.Context())
			go l.quotaBooks.run(b.Context())
			record := limitedRecord(keystore.KeyLimits{Limits: limits})
			now := time.Now().UnixNano()
			answer := Answer{Record: record, Now: now, entry: &entry{record: record}}
			b.ReportAllocs()
			for b.Loop() {
				var c Charge
				if policy.Limits(record) {
					if err := l.charge(b.Context(), &c, answer, policy, 1); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// A generousLedger grants everything and remembers nothing.
type generousLedger struct{ keystore.QuotaLedger }

func (generousLedger) Reserve(
	_ context.Context, reservations []keystore.Reservation,
) ([]keystore.QuotaGrant, error) {
	grants := make([]keystore.QuotaGrant, len(reservations))
	for i := range reservations {
		grants[i] = reservations[i].Grant(0)
	}
	return grants, nil
}

// TestLimitSize checks that a limit in use takes at most 200 bytes beside the cached record of its
// key (BenchmarkLimitMemory measures it): a bucket, its entry in the limiter's map, and buckets.
func TestLimitSize(t *testing.T) {
	const mapEntry = 40 // measured: 24 bytes, and the free slots
	for name, bucket := range map[string]uintptr{
		"rate": unsafe.Sizeof(rateBucket{}), "quota": unsafe.Sizeof(quotaBucket{}),
	} {
		if size := bucket + mapEntry + unsafe.Sizeof(buckets{}); size > 200 {
			t.Errorf("%s: %d bytes", name, size)
		}
	}
}

// BenchmarkLimitMemory measures the memory of the limits of a key in use, without that of the
// cached record.
func BenchmarkLimitMemory(b *testing.B) {
	const n = 100_000
	rate := keystore.RateLimit{Requests: 100, Per: time.Second, Burst: 200}
	quota := keystore.Quota{Units: 100_000, Per: keystore.Month}
	policy := keystore.NewDirectory(&keystore.Policy{})
	for name, limits := range map[string]keystore.Limits{
		"rate": {Rate: rate}, "quota": {Quota: quota}, "rate and quota": {Rate: rate, Quota: quota},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				entries := make([]*entry, n)
				for i := range entries {
					entries[i] = &entry{record: keystore.NewRecord(&keystore.Key{
						ID: fmt.Sprintf("%012d", i), Secrets: []keystore.Secret{{}},
						KeyLimits: keystore.KeyLimits{Limits: limits}}, keystore.Digest{})}
				}
				before := heapInUse()
				l := newLimiter(dependencies{
					now:       func() int64 { return time.Now().UnixNano() },
					nodes:     func() int64 { return 1 },
					rates:     func() keystore.SharedRates { return nil },
					ledger:    generousLedger{},
					policy:    func() *keystore.Directory { return policy },
					unchanged: func(Answer) bool { return true },
				})
				ctx, stop := context.WithCancel(b.Context())
				var books sync.WaitGroup
				books.Go(func() { l.quotaBooks.run(ctx) })
				// Requests of many keys wait for the same reservation.
				for some := range slices.Chunk(entries, maxBooked) {
					var requests sync.WaitGroup
					for _, e := range some {
						requests.Go(func() {
							var c Charge
							answer := Answer{Record: e.record, Now: time.Now().UnixNano(), entry: e}
							if err := l.charge(b.Context(), &c, answer, policy, 1); err != nil {
								b.Error(err)
							}
						})
					}
					requests.Wait()
				}
				stop()
				books.Wait()
				b.ReportMetric(float64(heapInUse()-before)/n, "B/key")
				runtime.KeepAlive(l)
				runtime.KeepAlive(entries)
			}
		})
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
