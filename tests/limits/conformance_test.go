package limits

import (
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

var stacks = map[string]func(*testing.T) *stack{
	"SQLite":            func(t *testing.T) *stack { return sqliteStack(t, 1) },
	"three on SQLite":   func(t *testing.T) *stack { return sqliteStack(t, 3) },
	"Redis":             threeWithRedis,
	"Sentinel":          func(t *testing.T) *stack { return threeWithSentinel(t, time.Minute) },
	"Cluster":           threeWithCluster,
	"PostgreSQL, alone": threeWithoutRedis,
}

// TestStacks checks the promises for rates and quotas on each kind of deployment.
func TestStacks(t *testing.T) {
	t.Parallel()
	for name, start := range stacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.conforms(t)
		})
	}
}

// conforms checks that the nodes admit no more requests than docs/limits.md says, and all requests
// for which a limit has room.
func (s *stack) conforms(t *testing.T) {
	for _, l := range []keystore.RateLimit{
		{Requests: 30, Per: 24 * time.Hour, Burst: 30},   // so small that nodes book each request
		{Requests: 600, Per: 24 * time.Hour, Burst: 300}, // nodes book for many requests
	} {
		h := s.exhaust(t, s.keyWith(t, l))
		h.wantStatuses(t, 200, 429)
		s.within(t, h, l, 0)
		if n := h.admitted(); n < int(l.Burst) {
			t.Errorf("%d admitted of %d at once", n, l.Burst)
		}
	}

	// It refills: three times the burst is admitted in the end.
	l := keystore.RateLimit{Requests: 120, Per: time.Minute, Burst: 6}
	h := (&load{key: s.keyWith(t, l), enough: 3 * l.Burst}).run(t, s)
	h.wantStatuses(t, 200, 429)
	s.within(t, h, l, 0)

	// Two keys share the limit of their namespace.
	l = keystore.RateLimit{Requests: 240, Per: 24 * time.Hour, Burst: 60}
	complete(t, s.nodes[0], "PATCH", "/namespaces/default", gate.JSON{"rate_limit": l})
	var one, two history
	var loads sync.WaitGroup
	for _, h := range []*history{&one, &two} {
		k := s.keyWith(t, keystore.RateLimit{Requests: 45, Per: 24 * time.Hour, Burst: 45})
		loads.Go(func() { *h = s.exhaust(t, k) })
	}
	loads.Wait()
	h = append(one, two...)
	h.wantStatuses(t, 200, 429)
	s.within(t, h, l, 0)
	if n := h.admitted(); n < int(l.Burst) {
		t.Errorf("%d admitted of the %d of the namespace", n, l.Burst)
	}
	complete(t, s.nodes[0], "PATCH", "/namespaces/default", gate.JSON{"rate_limit": nil})

	k := limitedKey(t, s.nodes[0], gate.JSON{"quota": monthly(200)})
	h = s.exhaust(t, k)
	h.wantStatuses(t, 200, 429)
	if n, reached := h.admitted(), s.reached(k); n != 200 || reached != 200 {
		t.Errorf("%d of a quota of 200 admitted, and %d have reached the API", n, reached)
	}
}

// keyWith creates a key with a rate limit.
func (s *stack) keyWith(t *testing.T, l keystore.RateLimit) gate.Key {
	t.Helper()
	s.failed = s.bookings(t, "error")
	return limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": l})
}

// within checks what docs/limits.md promises for this stack and the last key of keyWith. more is
// the number of requests that a fault may admit in addition.
func (s *stack) within(t *testing.T, h history, l keystore.RateLimit, more int64) {
	t.Helper()
	h.within(t, l, s.allowance(t, l)+more)
}

// allowance returns how many requests beyond the burst the nodes may admit at once.
func (s *stack) allowance(t *testing.T, l keystore.RateLimit) int64 {
	t.Helper()
	n, more := int64(len(s.nodes)), s.slack(l)
	if s.redis == nil {
		return more
	}
	for i, failed := range s.bookings(t, "error") {
		if failed > s.failed[i] { // the node used its part beside what the others booked
			more += (l.Burst + n - 1) / n
		}
	}
	return more
}

// slack is the allowance while Redis works.
func (s *stack) slack(l keystore.RateLimit) (more int64) {
	if n := len(s.nodes); n > 1 {
		more += int64(n)
	}
	if s.redis != nil {
		more += (l.Requests + 19) / 20 // r·L
	}
	return more
}

// bookings returns how many calls for grants have ended with a result, by node.
func (s *stack) bookings(t *testing.T, result string) (n []float64) {
	t.Helper()
	for _, g := range s.nodes {
		n = append(n, g.Metric(t, "caddy_apikeys_limit_grants_total", "result="+result))
	}
	return n
}

// TestChargeExceedsByOneRequest checks that a quota is exceeded by no more than the charge of the
// request that was in flight.
func TestChargeExceedsByOneRequest(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: `route {
		api_key {
			charge X-Usage-Units
		}
		header X-Usage-Units 60
		respond ok
	}`})
	k := limitedKey(t, g, gate.JSON{"quota": monthly(100)})
	admits(t, g, k, 2)
	wantRefused(t, g.Get(t, "/", k.Token), "quota_exceeded", "quota")
	g.Patch(t, k.ID, gate.JSON{"quota": monthly(122)})
	if r := g.Get(t, "/", k.Token); r.Status != 200 || left(t, r, "quota") != 1 {
		t.Errorf("120 of 122 units were charged: %v", r)
	}
}
