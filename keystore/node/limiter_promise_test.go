package node

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A promise is what docs/limits.md allows a fleet to admit of a rate limit while the store fails.
// That is, in any time, what the store and the nodes had left in the beginning, what refills, what
// each fault gives back, and the slack of a fleet without faults.
type promise struct {
	*limitedFleet
	limit  keystore.RateLimit
	mu     sync.Mutex
	faults []fault
	marks  map[*limitedNode]*mark
}

// A mark is what a promise notes of a node.
type mark struct {
	alone atomic.Bool  // its last call has failed: it uses its share of the limit
	sends atomic.Int64 // the TAT in its running call; math.MaxInt64 without one
}

// A fault is a change of what the nodes can use.
type fault struct {
	at   time.Time
	more float64 // the requests that it gives back
	left
}

// left is what the nodes have left of a limit, in addition to their grants.
type left struct {
	requests float64
	most     float64 // their number after a pause
	rate     float64 // by which they grow in a second
}

// promise makes a fleet note its faults.
func (f *limitedFleet) promise(l keystore.RateLimit) *promise {
	p := &promise{limitedFleet: f, limit: l, marks: make(map[*limitedNode]*mark)}
	for _, n := range f.nodes {
		p.marks[n] = new(mark)
		p.marks[n].sends.Store(math.MaxInt64)
	}
	f.store.asked = func(n *limitedNode, bookings []keystore.Booking) {
		p.marks[n].sends.Store(bookings[0].Known)
	}
	f.store.answered = func(n *limitedNode, err error) {
		m := p.marks[n]
		m.sends.Store(math.MaxInt64)
		if failed := err != nil; failed != m.alone.Load() {
			p.fault(func() { m.alone.Store(failed) })
		}
	}
	return p
}

// fault notes a change of what the nodes can use.
func (p *promise) fault(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.left()
	change()
	after := p.left()
	p.faults = append(p.faults, fault{time.Now(), after.requests - before.requests, after})
}

// left returns what the nodes have left. A node that the store does not serve has its share, less
// what it knows to be used. If the store serves any node, the nodes also have what the store has
// left. After the store has lost its data, it has what the node leaves that knows least: that one
// may be the first to book.
func (p *promise) left() (l left) {
	now, nodes := time.Now().UnixMicro(), float64(len(p.nodes))
	perSecond := float64(p.limit.Requests) / p.limit.Per.Seconds()
	used := func(tat int64) float64 { return float64(max(0, tat-now)) * perSecond / 1e6 }
	add := func(burst, used, rate float64) {
		l.requests += max(0, burst-used)
		l.most += burst
		l.rate += rate
	}
	least := int64(math.MaxInt64)
	for _, n := range p.nodes {
		m, known := p.marks[n], n.known()
		served := !p.store.down.Load() && !n.away.Load()
		if served {
			least = min(least, known, m.sends.Load())
		}
		if !served || m.alone.Load() {
			burst := float64(max(1, p.limit.Burst/int64(len(p.nodes))))
			add(burst, used(known)/nodes, perSecond/nodes)
		}
	}
	if least < math.MaxInt64 {
		for _, stored := range p.store.dump() {
			least = max(least, stored.tat)
		}
		add(float64(sharing.part(&p.limit).Burst), used(least), perSecond)
	}
	return l
}

// known returns the TAT of the fleet's limit that a node knows.
func (n *limitedNode) known() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.rateMap["k"]
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.meter.TAT
}

// check fails the test unless the admitted requests stay within the promise. Of the events of one
// instant, the faults that give back come first, and those that take come last.
func (p *promise) check() {
	p.t.Helper()
	b := rateBucket{limit: &p.limit}
	booked := b.bookedLimit(sharing)
	validity := time.Duration(b.validity(&booked)) * time.Microsecond
	slack := float64(p.limit.Requests)*float64(validity)/float64(p.limit.Per) +
		float64(len(p.nodes))

	p.mu.Lock() // bookings that nobody waits for may be running
	events := slices.Clone(p.faults)
	p.mu.Unlock()
	for _, at := range p.admitted {
		events = append(events, fault{at: at})
	}
	order := func(e *fault) int {
		switch {
		case e.more > 0:
			return -1
		case e.left == left{}: // a request
			return 0
		}
		return 1
	}
	slices.SortStableFunc(events, func(a, b fault) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return order(&a) - order(&b)
	})
	start := events[0].at
	now := fault{at: start, left: left{most: float64(booked.Burst),
		rate: float64(p.limit.Requests) / p.limit.Per.Seconds()}}
	now.requests = now.most
	var recent []fault // their grants may be unused when others are booked again
	over, worst := 0, 0.0
	for _, e := range events {
		given := 0.0
		for len(recent) > 0 && e.at.Sub(recent[0].at) > validity {
			recent = recent[1:]
		}
		for _, r := range recent {
			given += r.more
		}
		now.requests = min(now.requests+now.rate*e.at.Sub(now.at).Seconds(), now.most+given)
		now.at = e.at
		if order(&e) == 0 {
			if now.requests--; now.requests+slack < -0.01 {
				over++
				worst = min(worst, now.requests+slack)
			}
			continue
		}
		now.requests += e.more
		now.most, now.rate = e.most, e.rate
		if e.more > 0 {
			recent = append(recent, e)
		}
	}
	if over > 0 {
		p.t.Errorf("seed %d: %d of %d requests admitted beyond the promise, up to %.2f at once: "+
			"%d nodes, %d faults, %d/%v with a burst of %d", p.seed, over, len(p.admitted), -worst,
			len(p.nodes), len(p.faults), p.limit.Requests, p.limit.Per, p.limit.Burst)
	}
}

// TestRateWithFailingStore checks the bound while the store is flushed, rolled back or unavailable
// to some nodes, and that the bound holds again afterwards.
func TestRateWithFailingStore(t *testing.T) {
	eachSeed(t, 40, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 5))
		limit, nodes := randomLimit(random), 2+random.IntN(5)
		f := newLimitedFleet(t, seed, keystore.Limits{Rate: limit}, nodes)
		f.store.slow.Store(int64(time.Duration(random.IntN(int(20 * time.Millisecond)))))
		p := f.promise(limit)
		ctx, cancel := context.WithCancel(t.Context())
		var faults sync.WaitGroup
		faults.Go(func() {
			dump := f.store.dump()
			for {
				time.Sleep(time.Duration(random.IntN(int(time.Second))))
				if ctx.Err() != nil {
					return
				}
				switch random.IntN(4) {
				case 0:
					p.fault(func() { f.store.flush(nil) })
				case 1:
					old := f.store.dump()
					p.fault(func() { f.store.flush(dump) })
					dump = old
				case 2:
					p.fault(func() { f.store.down.Store(!f.store.down.Load()) })
				case 3:
					n := f.nodes[random.IntN(nodes)]
					p.fault(func() { n.away.Store(!n.away.Load()) })
				}
			}
		})
		f.load(5*time.Second, 2*int(limit.Burst)/nodes+20)
		cancel()
		faults.Wait()
		p.check()
		f.store.down.Store(false)
		for _, n := range f.nodes {
			n.away.Store(false)
		}
		f.load(2*time.Second, 5)
		f.admitted = nil
		f.load(5*time.Second, 2*int(limit.Burst)/nodes+20)
		f.within(limit, slack(limit, nodes))
		f.close()
	})
}
