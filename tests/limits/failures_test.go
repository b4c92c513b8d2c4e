package limits

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestRatesWithFailingRedis breaks Redis while a limit is in use, and after it was used up. All
// answers are 200 or 429, and no node gives back what was used.
func TestRatesWithFailingRedis(t *testing.T) {
	t.Parallel()
	s := threeWithRedis(t)
	for name, fail := range map[string]func(*load, dump){
		"killed": func(l *load, _ dump) {
			s.redis.Kill()
			l.answered(t, 100)
			s.redis.Run()
		},
		"stopped": func(l *load, _ dump) {
			s.redis.Stop()
			l.answered(t, 100)
			s.redis.Continue()
		},
		"flushed":  func(*load, dump) { s.forget(t) },
		"restored": func(_ *load, d dump) { s.restore(t, d) },
	} {
		for _, limit := range []keystore.RateLimit{
			{Requests: 30, Per: 24 * time.Hour, Burst: 30},
			{Requests: 600, Per: 24 * time.Hour, Burst: 300},
		} {
			s.failsInUse(t, name, limit, fail)
		}
		s.failsUsedUp(t, name, fail)
	}
}

// failsInUse breaks Redis when a third of a limit is used. Requests that one node has admitted
// since another node's last call to Redis may then be admitted once more. These are at most two
// thirds, unless the machine was too busy to break Redis in time.
func (s *stack) failsInUse(
	t *testing.T, name string, limit keystore.RateLimit, fail func(*load, dump),
) {
	t.Helper()
	l := &load{key: s.keyWith(t, limit), at: limit.Burst / 3}
	var before int64 // admitted when Redis broke
	l.during = func() {
		d := s.dump(t)
		l.answered(t, 10)
		before = l.admitted.Load()
		fail(l, d)
	}
	h := l.run(t, s)
	h.wantStatuses(t, 200, 429)
	s.within(t, h, limit, max(limit.Burst*2/3, before))
	// Requests that were booked in a call whose answer was lost are lost.
	if n := h.admitted(); n < int(limit.Burst)*2/3 {
		t.Errorf("Redis is %s: %d admitted of %d", name, n, limit.Burst)
	}
}

// failsUsedUp breaks Redis when a limit is used up and all nodes know it. From then on, the nodes
// admit only as many requests as the limit refills. The few that the others have admitted since a
// node's last call to Redis may be admitted once more.
func (s *stack) failsUsedUp(t *testing.T, name string, fail func(*load, dump)) {
	t.Helper()
	limit := keystore.RateLimit{Requests: 60, Per: time.Minute, Burst: 45}
	var d dump
	l := &load{key: s.keyWith(t, limit), at: limit.Burst / 3, during: func() { d = s.dump(t) }}
	h := l.run(t, s)
	allowance := s.allowance(t, limit)
	l = &load{key: l.key, enough: 6}
	l.during = func() { fail(l, d) }
	h = append(h, l.run(t, s)...)
	h.wantStatuses(t, 200, 429)
	h.within(t, limit, allowance+2*int64(len(s.nodes)))
	if t.Failed() {
		t.Fatalf("Redis was %s", name)
	}
}

// TestRatesThroughSentinelFailover kills a Redis whose replica then takes over. The nodes use their
// parts until they have found it.
func TestRatesThroughSentinelFailover(t *testing.T) {
	t.Parallel()
	s := threeWithSentinel(t, 300*time.Millisecond)
	s.failsUsedUp(t, "replaced by its replica", func(*load, dump) {
		s.redis.Kill()
		before := s.bookings(t, "ok")
		gate.Until(t, "all nodes book in the replica", func() bool {
			for i, booked := range s.bookings(t, "ok") {
				if booked < before[i]+2 { // one may have been answered before the kill
					return false
				}
			}
			return true
		})
	})
}

// A dump is the content of Redis.
type dump map[string]string

func (s *stack) dump(t *testing.T) dump {
	t.Helper()
	client := s.redisClient()
	defer client.Close()
	names, err := client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Error(err)
	}
	d := dump{}
	for _, name := range names {
		if d[name], err = client.Dump(t.Context(), name).Result(); err != nil {
			t.Error(err)
		}
	}
	return d
}

func (s *stack) restore(t *testing.T, d dump) {
	t.Helper()
	client := s.redisClient()
	defer client.Close()
	for name, value := range d {
		if err := client.RestoreReplace(t.Context(), name, time.Hour, value).Err(); err != nil {
			t.Error(err)
		}
	}
}

// TestQuotasWithFailures breaks processes and servers in the middle of a load. The quota is not
// exceeded by one unit.
func TestQuotasWithFailures(t *testing.T) {
	t.Parallel()
	const units = 300
	for name, fail := range map[string]func(*stack, *load){
		"a node is killed": func(s *stack, l *load) {
			s.nodes[2].Kill()
			l.answered(t, 50)
			s.nodes[2].Start(t)
			l.answered(t, 50)
		},
		"a node is restarted": func(s *stack, l *load) {
			s.nodes[2].Restart(t)
			l.answered(t, 50)
		},
		"Redis is killed": func(s *stack, l *load) {
			s.redis.Kill()
			l.answered(t, 50)
			s.redis.Run()
		},
		"PostgreSQL is killed": func(s *stack, l *load) {
			if err := s.fleet.Postgres.Halt(); err != nil {
				t.Error(err)
			}
			l.answered(t, 50)
			if err := s.fleet.Postgres.Run(); err != nil {
				t.Error(err)
			}
		},
		"a standby takes over": func(s *stack, l *load) {
			standby := s.fleet.Postgres.SynchronousStandby(t)
			l.answered(t, 20)
			if err := s.fleet.Postgres.Halt(); err != nil {
				t.Error(err)
			}
			if err := standby.Promote(); err != nil {
				t.Error(err)
			}
			for i := range s.nodes {
				s.fleet.Edge(i, gate.Database).LeadTo(standby.Address())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := threeWithRedisOn(t, postgrestest.StartFor(t))
			k := limitedKey(t, s.nodes[0], gate.JSON{"quota": monthly(units)})
			l := &load{key: k, at: units / 3}
			l.during = func() {
				fail(s, l)
				// The nodes have found their stores again when they mint and use a key.
				for _, g := range s.nodes {
					gate.Until(t, "a node works again", func() bool {
						minted, ok := g.Try(t.Context(), "POST", "/keys",
							gate.JSON{"name": "k", "access": "read_only"}).Key()
						return ok && gate.Ask(t.Context(), http.DefaultClient, g.URL,
							minted.Token).Status == 200
					})
				}
			}
			h := l.run(t, s)
			h.wantStatuses(t, 200, 429, 503, 0)
			n, reached := h.admitted(), s.reached(k)
			if n > units || reached > units {
				t.Errorf("%d of a quota of %d admitted, and %d have reached the API", n, units,
					reached)
			}
			// A node that is killed loses what it has reserved.
			if reached < units*2/3 {
				t.Errorf("%d of a quota of %d have reached the API", reached, units)
			}
		})
	}
}

// TestQuotaSurvivesRestarts checks that a process which exits returns what it has reserved, and that
// one which is killed does not admit anything twice.
func TestQuotaSurvivesRestarts(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := limitedKey(t, g, gate.JSON{"quota": monthly(50)})
	for range 2 {
		for range 7 {
			if r := g.Get(t, "/", k.Token); r.Status != 200 {
				t.Fatal(r)
			}
		}
		g.Restart(t)
	}
	if r := g.Get(t, "/", k.Token); left(t, r, "quota") != 35 {
		t.Errorf("after 15 requests and 2 restarts: %v", r)
	}
	g.Kill()
	g.Start(t)
	n := (&stack{nodes: []*gate.Gate{g}}).exhaust(t, k).admitted()
	if n > 35 || n < 35-16 {
		t.Errorf("%d more requests admitted of a quota of 50, of which 15 were used", n)
	}
}

// TestReloadGivesNothingBack reloads Caddy while limits are in use.
func TestReloadGivesNothingBack(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := limitedKey(t, g, gate.JSON{"rate_limit": daily(30), "quota": monthly(20)})
	for i := range 2 {
		for range 5 {
			if r := g.Get(t, "/", k.Token); r.Status != 200 {
				t.Fatal(r)
			}
		}
		c := gate.Config{APIKey: "realm r" + string(rune('0'+i))}
		if r := g.Reload(t, c); r.Exit != 0 {
			t.Fatal(r)
		}
	}
	r := g.Get(t, "/", k.Token)
	if rate, quota := left(t, r, "rate"), left(t, r, "quota"); rate != 19 || quota != 9 {
		t.Errorf("after 11 requests and 2 reloads, %d are left of 30 and %d of 20", rate, quota)
	}
	// Other settings of the database change nothing either.
	if r := g.Reload(t, gate.Config{APIKeys: "lease 9s"}); r.Exit != 0 {
		t.Fatal(r)
	}
	admits(t, g, k, 9)
}
