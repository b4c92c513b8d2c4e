package limits

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A redisFault breaks Redis during a load, whose key has a limit. d is an old dump of Redis. It
// returns how many requests beyond the burst the nodes may admit at once, by docs/limits.md.
type redisFault func(l *load, limit keystore.RateLimit, d dump) (more int64)

// TestRatesWithFailingRedis breaks Redis while a limit is in use, and after it was used up. All
// answers are 200 or 429, and no node gives back what was used.
func TestRatesWithFailingRedis(t *testing.T) {
	t.Parallel()
	for name, start := range stacks {
		if name != "Redis" && name != "Sentinel" && name != "Cluster" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			for name, fault := range map[string]redisFault{
				"killed":   s.interrupted(t, s.redis.Kill, s.redis.Run),
				"stopped":  s.interrupted(t, s.redis.Stop, s.redis.Continue),
				"flushed":  s.losing(t, dump.forget),
				"restored": s.losing(t, dump.restore),
			} {
				for _, limit := range []keystore.RateLimit{
					{Requests: 30, Per: 24 * time.Hour, Burst: 30},
					{Requests: 600, Per: 24 * time.Hour, Burst: 300},
				} {
					s.failsInUse(t, name, limit, fault)
				}
				s.failsUsedUp(t, name, fault)
			}
		})
	}
}

// interrupted returns a fault that makes Redis unavailable until all nodes have used up their
// shares. Each has its share of what it knows to be left. Redis may have booked the whole burst.
// Afterwards, a share may have a fraction of a request left.
func (s *stack) interrupted(t *testing.T, interrupt, end func()) redisFault {
	return func(l *load, limit keystore.RateLimit, _ dump) (more int64) {
		nodes := int64(len(s.nodes))
		for _, used := range s.known(t, l, limit) {
			more += (limit.Burst - used + nodes - 1) / nodes
		}
		interrupt()
		l.allRefuse(t, s)
		end()
		return more + nodes + s.slack(limit)
	}
}

// losing returns a fault that makes Redis lose bookings. They may be made again until the nodes
// that know them have booked.
func (s *stack) losing(
	t *testing.T, lose func(dump, *testing.T, redis.Pipeliner),
) redisFault {
	return func(l *load, limit keystore.RateLimit, d dump) (more int64) {
		known := slices.Min(s.known(t, l, limit))
		client := s.redisClient()
		defer client.Close()
		names := client.Keys(t.Context(), "*"+l.key.ID).Val()
		var before *redis.StringCmd
		_, err := client.TxPipelined(t.Context(), func(c redis.Pipeliner) error {
			before = c.Get(t.Context(), strings.Join(names, " "))
			lose(d, t, c)
			return nil
		})
		var tat int64
		if err != nil && !errors.Is(err, redis.Nil) {
			t.Errorf("what Redis has of %q: %v", names, err)
		} else if err == nil {
			_, err := fmt.Sscanf(before.Val(), "%d/", &tat)
			if err != nil {
				t.Errorf("Redis has %q: %v", before.Val(), err)
			}
		}
		m := keystore.Meter{TAT: tat}
		booked := limit.Burst - m.Room(&limit, time.Now().UnixMicro())
		return max(0, booked-known) + s.allowance(t, limit)
	}
}

// known returns how much of a limit each node knows, at least, to be used. That is what it has told
// clients, less a request that it may have admitted in advance. A node that has not reached Redis
// tells what its share has left, so it counts as knowing nothing.
func (s *stack) known(t *testing.T, l *load, limit keystore.RateLimit) []int64 {
	t.Helper()
	l.mu.Lock()
	left := maps.Clone(l.left)
	l.mu.Unlock()
	known := make([]int64, len(s.nodes))
	for i, failed := range s.bookings(t, "error") {
		if n, seen := left[i]; seen && failed == s.failed[i] {
			known[i] = max(0, limit.Burst-n-1)
		}
	}
	return known
}

// failsInUse breaks Redis when a third of a limit is used.
func (s *stack) failsInUse(
	t *testing.T, name string, limit keystore.RateLimit, fault redisFault,
) {
	t.Helper()
	l := &load{key: s.keyWith(t, limit), at: limit.Burst / 3}
	var more int64
	l.during = func() {
		d := s.dump(t)
		l.answered(t, 10)
		more = fault(l, limit, d)
	}
	h := l.run(t, s)
	h.wantStatuses(t, 200, 429)
	h.within(t, limit, more)
	// Requests that were booked in a call whose answer was lost are lost.
	if n := h.admitted(); n < int(limit.Burst)*2/3 {
		t.Errorf("Redis is %s: %d admitted of %d", name, n, limit.Burst)
	}
	if t.Failed() {
		t.Fatalf("Redis was %s while %+v was in use", name, limit)
	}
}

// failsUsedUp breaks Redis when a limit is used up and all nodes know it. From then on, the nodes
// admit only as many requests as the limit refills. The few that the others have admitted since a
// node's last call to Redis may be admitted once more.
func (s *stack) failsUsedUp(t *testing.T, name string, fault redisFault) {
	t.Helper()
	limit := keystore.RateLimit{Requests: 60, Per: time.Minute, Burst: 45}
	var d dump
	l := &load{key: s.keyWith(t, limit), at: limit.Burst / 3, during: func() { d = s.dump(t) }}
	h := l.run(t, s)
	allowance := s.allowance(t, limit)
	l = &load{key: l.key, enough: 6}
	l.during = func() { fault(l, limit, d) }
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
	replaced := func(*load, keystore.RateLimit, dump) int64 {
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
		return 0
	}
	s.failsUsedUp(t, "replaced by its replica", replaced)
}

// A dump is what Redis has of rate limits.
type dump map[string]string

func (s *stack) dump(t *testing.T) dump {
	t.Helper()
	client := s.redisClient()
	defer client.Close()
	names, err := client.Keys(t.Context(), "*:rate:*").Result()
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

func (dump) forget(t *testing.T, c redis.Pipeliner) { c.FlushAll(t.Context()) }

func (d dump) restore(t *testing.T, c redis.Pipeliner) {
	for name, value := range d {
		c.RestoreReplace(t.Context(), name, time.Hour, value)
	}
}

// quotaUnits is the quota in TestQuotasWithFailures.
const quotaUnits = 300

// TestQuotasWithFailures breaks processes and servers in the middle of a load. The quota is not
// exceeded by one unit.
func TestQuotasWithFailures(t *testing.T) {
	t.Parallel()
	servers := func(t *testing.T) *stack { return threeWithRedisOn(t, postgrestest.StartFor(t)) }
	file := func(t *testing.T) *stack { return sqliteStack(t, 3) }
	for name, test := range map[string]struct {
		start func(*testing.T) *stack
		fail  func(*testing.T, *stack, *load)
	}{
		"a node is killed":               {servers, killsNode},
		"a node on SQLite is killed":     {file, killsNode},
		"all nodes on SQLite are killed": {file, killsAll},
		"a node is restarted":            {servers, restartsNode},
		"a node on SQLite is restarted":  {file, restartsNode},
		"a node on SQLite hangs":         {file, pausesNode},
		"the SQLite file is locked":      {file, locksFile},
		"Redis is killed": {servers, func(t *testing.T, s *stack, l *load) {
			s.redis.Kill()
			l.answered(t, 50)
			s.redis.Run()
		}},
		"PostgreSQL is killed": {servers, func(t *testing.T, s *stack, l *load) {
			if err := s.fleet.Postgres.Halt(); err != nil {
				t.Error(err)
			}
			l.answered(t, 50)
			if err := s.fleet.Postgres.Run(); err != nil {
				t.Error(err)
			}
		}},
		"a standby takes over": {servers, func(t *testing.T, s *stack, l *load) {
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
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.start(t)
			s.failsWithQuota(t, func(l *load) { test.fail(t, s, l) })
		})
	}
}

func killsNode(t *testing.T, s *stack, l *load) {
	s.nodes[2].Kill()
	l.answered(t, 50)
	s.nodes[2].Start(t)
	l.answered(t, 50)
}

func killsAll(t *testing.T, s *stack, l *load) {
	for _, g := range s.nodes {
		g.Kill()
	}
	for _, g := range s.nodes {
		g.Start(t)
	}
	l.answered(t, 50)
}

func restartsNode(t *testing.T, s *stack, l *load) {
	s.nodes[2].Restart(t)
	l.answered(t, 50)
}

// pausesNode makes a node hang, perhaps while it has SQLite's write lock.
func pausesNode(t *testing.T, s *stack, l *load) {
	s.nodes[2].Pause(t)
	l.answered(t, 20)
	s.nodes[2].Resume()
	l.answered(t, 50)
}

// locksFile is another program that keeps SQLite's write lock until no node can reserve units.
func locksFile(t *testing.T, s *stack, l *load) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.nodes[0].Data, "apikeys.db")+"?mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exec := func(query string) error {
		_, err := conn.ExecContext(t.Context(), query)
		return err
	}
	gate.Until(t, "the file is locked", func() bool { return exec("BEGIN IMMEDIATE") == nil })
	l.answered(t, 50)
	gate.Until(t, "a node cannot reserve units, or all are used", func() bool {
		return l.unavailable.Load() > 0 || l.admitted.Load() == quotaUnits
	})
	if err := exec("ROLLBACK"); err != nil {
		t.Error(err)
	}
}

// failsWithQuota breaks a stack when a third of a quota is used.
func (s *stack) failsWithQuota(t *testing.T, fail func(*load)) {
	t.Helper()
	const units = quotaUnits
	k := limitedKey(t, s.nodes[0], gate.JSON{"quota": monthly(units)})
	l := &load{key: k, at: units / 3}
	l.during = func() {
		fail(l)
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
		t.Errorf("%d of a quota of %d admitted, and %d have reached the API", n, units, reached)
	}
	// A node that is killed loses what it has reserved.
	if reached < units*2/3 {
		t.Errorf("%d of a quota of %d have reached the API", reached, units)
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
