package limits

import (
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
	// during runs beside the load when at requests have been admitted. The load does not end before
	// it returns.
	during func()
	at     int64
	// enough is how many admitted requests end the load. Default is unbounded.
	enough int64

	admitted atomic.Int64
}

// refusals is how many refusals in a row end a connection.
const refusals = 5

// run runs the load.
func (l *load) run(t *testing.T, s *stack) history {
	t.Helper()
	var (
		mu      sync.Mutex
		h       history
		senders sync.WaitGroup
		reached = make(chan struct{}) // l.at requests were admitted
		once    sync.Once
		over    atomic.Bool // during has returned
	)
	over.Store(l.during == nil)
	for i, g := range s.nodes {
		client, url := g.Client(t, gate.HTTP1)
		client.Transport.(*http.Transport).MaxIdleConnsPerHost = 4
		for range 3 {
			senders.Go(func() {
				for refused := 0; refused < refusals || !over.Load(); {
					r := request{node: i, sent: time.Now()}
					r.status = gate.Ask(t.Context(), client, url+"/v1/items/1", l.key.Token).Status
					r.answered = time.Now()
					mu.Lock()
					h = append(h, r)
					mu.Unlock()
					refused++
					if r.status == 200 {
						refused = 0
						n := l.admitted.Add(1)
						if n == l.at {
							once.Do(func() { close(reached) })
						}
						if l.enough > 0 && n >= l.enough {
							return
						}
					} else {
						time.Sleep(5 * time.Millisecond) // leave the processors to the nodes
					}
					if t.Context().Err() != nil || t.Failed() {
						return
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
		case <-time.After(time.Minute):
			t.Errorf("%d requests admitted within a minute, not %d", l.admitted.Load(), l.at)
		}
		over.Store(true)
	}
	<-ended
	return h
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
		t.Errorf("answers by other statuses than %v: %v", statuses, others)
	}
}

// within checks that in no time more requests were admitted than a limit allows, with more at once.
// A request counts in a time if it was sent and answered within it.
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

// reached returns how many requests have reached the API since the last call.
func (s *stack) reached() (n int) {
	for _, g := range s.nodes {
		n += len(g.Upstream.Take())
	}
	return n
}
