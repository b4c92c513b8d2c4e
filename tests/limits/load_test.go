package limits

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A request is one request of a load.
type request struct {
	node           int
	sent, answered time.Time
	status         int // 0 without an answer
}

// A history is the requests of a load.
type history []request

// A load sends requests with one key to all nodes of a stack, over a few connections to each, until
// all nodes refuse them.
type load struct {
	key gate.Key
	// during runs beside the load, and the load does not end before it returns. nil: nothing runs.
	during func()
	at     int64 // the number of admitted requests after which during begins; 0: at once
	// enough is how many admitted requests end the load, instead of refusals; 0: refusals end it.
	enough int64

	admitted, answers, unavailable atomic.Int64 // unavailable: answers 503

	mu      sync.Mutex
	left    map[int]int64 // the least number of requests that each node has reported to be left
	refused map[int]int   // answers 429 of each node
}

const (
	// refusals is how many refusals in a row end a connection.
	refusals = 5
	// patience limits each load. It is not a promise of the product.
	patience = 2 * time.Minute
)

// run runs the load.
func (l *load) run(t *testing.T, s *stack) history {
	t.Helper()
	var (
		h       history
		senders sync.WaitGroup
		reached = make(chan struct{}) // l.at requests were admitted
		over    atomic.Bool           // during has returned
	)
	over.Store(l.during == nil)
	l.left, l.refused = map[int]int64{}, map[int]int{}
	if l.at == 0 {
		close(reached)
	}
	deadline := time.Now().Add(patience)
	for i, g := range s.nodes {
		client, url := g.Client(t, gate.HTTP1)
		client.Transport.(*http.Transport).MaxIdleConnsPerHost = 4
		for range 3 {
			senders.Go(func() {
				for refused := 0; refused < refusals || l.enough > 0 || !over.Load(); {
					r := request{node: i, sent: time.Now()}
					answer := gate.Ask(t.Context(), client, url+"/v1/items/1", l.key.Token)
					r.status, r.answered = answer.Status, time.Now()
					l.mu.Lock()
					h = append(h, r)
					if state, ok := states(answer)["rate"]; ok {
						least, seen := l.left[i]
						if n := int64(state.left); !seen || n < least {
							l.left[i] = n
						}
					}
					if r.status == 429 {
						l.refused[i]++
					}
					l.mu.Unlock()
					l.answers.Add(1)
					switch r.status {
					case 200:
						refused = 0
						if l.admitted.Add(1) == l.at {
							close(reached)
						}
					case 429:
						refused++
					case 503:
						l.unavailable.Add(1)
					}
					if l.enough > 0 && l.admitted.Load() >= l.enough && over.Load() {
						return
					}
					if r.answered.After(deadline) {
						t.Errorf("node %d still answers %d after %v", i, r.status, patience)
						return
					}
					if r.status != 200 {
						time.Sleep(20 * time.Millisecond) // leave the processors to the nodes
					}
				}
			})
		}
	}
	ended := make(chan struct{})
	go func() {
		senders.Wait()
		close(ended)
	}()
	if l.during != nil {
		select {
		case <-reached:
			l.during()
		case <-ended:
			t.Errorf("%d requests admitted, not %d", l.admitted.Load(), l.at)
		case <-time.After(patience):
			t.Errorf("%d requests admitted within %v, not %d", l.admitted.Load(), patience, l.at)
		}
		over.Store(true)
	}
	<-ended
	return h
}

// answered returns when n more requests have been answered.
func (l *load) answered(t *testing.T, n int64) {
	t.Helper()
	from := l.answers.Load()
	gate.Until(t, "requests are answered", func() bool { return l.answers.Load() >= from+n })
}

// allRefuse returns when each node has refused another request.
func (l *load) allRefuse(t *testing.T, s *stack) {
	t.Helper()
	counts := func() map[int]int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return maps.Clone(l.refused)
	}
	before := counts()
	gate.Until(t, "each node refuses a request", func() bool {
		now := counts()
		for i := range s.nodes {
			if now[i] == before[i] {
				return false
			}
		}
		return true
	})
}

// exhaust sends requests until all nodes refuse them.
func (s *stack) exhaust(t *testing.T, k gate.Key) history {
	t.Helper()
	return (&load{key: k}).run(t, s)
}

func (h history) admitted() int { return h.count(200) }

func (h history) count(status int) (n int) {
	for _, r := range h {
		if r.status == status {
			n++
		}
	}
	return n
}

// wantStatuses checks that the answers have no other status.
func (h history) wantStatuses(t *testing.T, statuses ...int) {
	t.Helper()
	others := map[int]int{}
	for _, r := range h {
		if !slices.Contains(statuses, r.status) {
			others[r.status]++
		}
	}
	if len(others) > 0 {
		t.Errorf("number of answers with statuses other than %v: %v", statuses, others)
	}
}

// within checks that in no interval more requests were admitted than the limit allows with a burst
// that is raised by the number more. A request counts in an interval if it was sent and answered
// within it.
func (h history) within(t *testing.T, l keystore.RateLimit, more int64) {
	t.Helper()
	l.Burst += more
	var admitted history
	for _, r := range h {
		if r.status == 200 {
			admitted = append(admitted, r)
		}
	}
	slices.SortFunc(admitted, func(a, b request) int { return a.answered.Compare(b.answered) })
	for _, first := range admitted {
		begin, n := first.sent.UnixMicro(), int64(0)
		for _, r := range admitted {
			if r.sent.Before(first.sent) {
				continue
			}
			n++
			// the earliest time at which n requests may have been admitted
			if (keystore.Meter{}).Add(&l, begin, n).After(&l, 0) > r.answered.UnixMicro() {
				t.Errorf("%d requests admitted in %v, the limit of %d in %v allows %d at once", n,
					r.answered.Sub(first.sent), l.Requests, l.Per, l.Burst)
				return
			}
		}
	}
}

// reached returns how many requests with a key have reached the API since the last call.
func (s *stack) reached(k gate.Key) (n int) {
	for _, g := range s.nodes {
		for _, r := range g.Upstream.Take() {
			if r.Header.Get("X-Apikey-Id") == k.ID {
				n++
			}
		}
	}
	return n
}
