package limits

import (
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// complete makes a change that must be complete when it is answered.
func complete(t *testing.T, g *gate.Gate, method, path string, body gate.JSON) {
	t.Helper()
	if r := g.Call(t, method, path, body); !r.Complete() {
		t.Fatalf("%s %s: want a complete change, got %v", method, path, r)
	}
}

// TestChangesApplyEverywhere changes the limits of keys, plans and namespaces through one node. When
// the change is answered, all nodes follow the new limits, whether these are lower or higher.
func TestChangesApplyEverywhere(t *testing.T) {
	t.Parallel()
	s := threeWithRedis(t)
	first := s.nodes[0]
	wantPolicy := func(k gate.Key, change, policy string) {
		t.Helper()
		for i, g := range s.nodes {
			r := g.Get(t, "/", k.Token)
			if got := r.Header.Get("RateLimit-Policy"); r.Status != 200 || got != policy {
				t.Errorf("%s: the policy of node %d is %q: %v", change, i, got, r)
			}
		}
	}
	const (
		rate50      = `"rate";q=50;w=86400;apikeys-burst=50`
		rate500     = `"rate";q=500;w=86400;apikeys-burst=500`
		namespace60 = `"namespace-rate";q=60;w=86400;apikeys-burst=60`
		quota900    = `"quota";q=900`
	)
	first.Call(t, "POST", "/plans", gate.JSON{"namespace": "*", "name": "small",
		"rate_limit": daily(50)})
	first.Call(t, "POST", "/plans", gate.JSON{"namespace": "default", "name": "large",
		"rate_limit": daily(500), "quota": monthly(900)})
	k := first.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	wantPolicy(k, "a new key", "")
	for _, change := range []struct {
		path   string
		body   gate.JSON
		policy string
	}{
		{"/keys/" + k.ID, gate.JSON{"plan": "small"}, rate50},
		{"/keys/" + k.ID, gate.JSON{"plan": "large"}, rate500 + ", " + quota900},
		{"/plans/default/large", gate.JSON{"rate_limit": daily(50)}, rate50 + ", " + quota900},
		{"/plans/default/large", gate.JSON{"quota": nil}, rate50},
		{"/keys/" + k.ID, gate.JSON{"rate_limit": daily(500)}, rate500},
		{"/keys/" + k.ID, gate.JSON{"rate_limit": gate.JSON{"unlimited": true}}, ""},
		{"/namespaces/default", gate.JSON{"rate_limit": daily(60)}, namespace60},
		{"/keys/" + k.ID, gate.JSON{"rate_limit": nil, "plan": nil}, namespace60},
		{"/namespaces/default", gate.JSON{"default_plan": "small"}, rate50 + ", " + namespace60},
		{"/namespaces/default", gate.JSON{"default_plan": nil, "rate_limit": nil}, ""},
	} {
		complete(t, first, "PATCH", change.path, change.body)
		wantPolicy(k, "PATCH "+change.path, change.policy)
	}
}

// TestRaisedLimitAdmitsAtOnce uses up a limit, and raises and lowers it. What was used stays used.
func TestRaisedLimitAdmitsAtOnce(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := limitedKey(t, g, gate.JSON{"rate_limit": daily(10), "quota": monthly(25)})
	admits(t, g, k, 10)
	g.Patch(t, k.ID, gate.JSON{"rate_limit": daily(30)})
	admits(t, g, k, 15) // then the quota is used up
	wantRefused(t, g.Get(t, "/", k.Token), "quota_exceeded", "quota")
	g.Patch(t, k.ID, gate.JSON{"quota": monthly(1000)})
	admits(t, g, k, 5) // then the rate is used up
	wantRefused(t, g.Get(t, "/", k.Token), "rate_limited", "rate")
	g.Patch(t, k.ID, gate.JSON{"rate_limit": nil, "quota": monthly(30)})
	wantRefused(t, g.Get(t, "/", k.Token), "quota_exceeded", "quota")
	g.Patch(t, k.ID, gate.JSON{"quota": nil})
	if r := g.Get(t, "/", k.Token); r.Status != 200 || len(states(r)) > 0 {
		t.Errorf("without limits: %v", r)
	}
}

// TestChangedLimitOfThreeNodes changes a limit that three nodes have used up. What was used stays
// used. Nodes may forget what was used beyond a limit that was lowered.
func TestChangedLimitOfThreeNodes(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *stack{
		"Redis": threeWithRedis, "without Redis": threeWithoutRedis,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(90)})
			s.exhaust(t, k)
			for _, change := range []struct{ limit, least, most int }{
				{150, 60, 60}, {120, 0, 0}, {210, 60, 90},
			} {
				s.nodes[1].Patch(t, k.ID, gate.JSON{"rate_limit": daily(change.limit)})
				h := s.exhaust(t, k)
				h.wantStatuses(t, 200, 429)
				if n := h.admitted(); n < change.least-3 || n > change.most+3+change.limit/20 {
					t.Errorf("%d more requests are admitted after a change to %d, want %d to %d", n,
						change.limit, change.least, change.most)
				}
			}
		})
	}
}

// TestChangedLimitOfUnseenKey uses up a limit through one node, changes it, and continues through
// the others. They do not know what the first one has admitted, but together they keep the new limit.
func TestChangedLimitOfUnseenKey(t *testing.T) {
	t.Parallel()
	s := threeWithRedis(t)
	k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(90)})
	admits(t, s.nodes[0], k, 90)
	s.nodes[0].Patch(t, k.ID, gate.JSON{"rate_limit": daily(120)})
	h := s.exhaust(t, k)
	h.wantStatuses(t, 200, 429)
	if n := h.admitted(); n < 30-3 || n > 120+3+120/20 {
		t.Errorf("%d admitted after a change to 120", n)
	}
}

// TestMetrics checks the metrics of limits: what they have decided, including in shadow.
func TestMetrics(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := limitedKey(t, g, gate.JSON{
		"rate_limit": gate.JSON{"requests": 2, "per": "24h", "shadow": true}, "quota": monthly(5)})
	admits(t, g, k, 5)
	for labels, want := range map[[2]string]float64{
		{"limit=rate", "result=ok"}:                2,
		{"limit=rate", "result=shadow"}:            4,
		{"limit=rate", "result=refused"}:           0,
		{"limit=quota", "result=ok"}:               5,
		{"limit=quota", "result=refused"}:          1,
		{"limit=namespace-rate", "result=ok"}:      0,
		{"limit=namespace-quota", "result=ok"}:     0,
		{"limit=namespace-quota", "result=shadow"}: 0,
	} {
		if got := g.Metric(t, "caddy_apikeys_limit_decisions_total", labels[:]...); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
	if got := g.Metric(t, "caddy_apikeys_limit_degraded"); got != 0 {
		t.Errorf("one process without Redis: degraded is %v", got)
	}
}

// TestUnknownQuotaGets503 stops the database. The node spends what it has reserved. Then it
// answers 503: neither 429, because there may be room, nor 200.
func TestUnknownQuotaGets503(t *testing.T) {
	t.Parallel()
	server := postgrestest.StartFor(t)
	f := gate.StartFleet(t, gate.FleetConfig{Postgres: server, NoCache: true, Lease: time.Minute})
	g := f.Nodes[0]
	quota := limitedKey(t, g, gate.JSON{"quota": monthly(1000)})
	limited := limitedKey(t, g, gate.JSON{"rate_limit": daily(5)})
	for _, k := range []gate.Key{quota, limited} {
		if r := g.Get(t, "/", k.Token); r.Status != 200 {
			t.Fatal(r)
		}
	}
	if err := server.Halt(); err != nil {
		t.Fatal(err)
	}
	admitted := 1
	var r gate.Response
	for r = g.Get(t, "/", quota.Token); r.Status == 200; r = g.Get(t, "/", quota.Token) {
		admitted++
	}
	if r.Status != 503 || r.Header.Get("Retry-After") == "" || admitted < 2 || admitted >= 1000 {
		t.Fatalf("after %d requests: %v", admitted, r)
	}
	admits(t, g, limited, 4) // a rate limit needs no database
	if err := server.Run(); err != nil {
		t.Fatal(err)
	}
	gate.Until(t, "the quota has room", func() bool {
		r = g.Get(t, "/", quota.Token)
		return r.Status == 200
	})
	if admitted++; left(t, r, "quota") > 1000-admitted {
		t.Errorf("%d left of the quota after %d requests", left(t, r, "quota"), admitted)
	}
}
