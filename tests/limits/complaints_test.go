package limits

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// The tests in this file are named after what users report about the limits of other gateways.
// Some of these reports need an exact clock as well: in keystore/node, TestFleetReachesRate checks
// that several nodes do not throttle below a rate, and TestLimitsOfForgottenBuckets that a limit
// survives the removal of its state.

// TestEvery429HasRetryAfter refuses a request by each kind of limit.
func TestEvery429HasRetryAfter(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Sites: map[string]gate.Config{
		"namespace-rate":  {APIKey: "namespace namespace-rate"},
		"namespace-quota": {APIKey: "namespace namespace-quota"},
	}})
	for limit, fields := range map[string]gate.JSON{
		"rate":            {"rate_limit": daily(1)},
		"quota":           {"quota": monthly(1)},
		"namespace-rate":  {"rate_limit": daily(1)},
		"namespace-quota": {"quota": monthly(1)},
	} {
		spec := gate.JSON{"name": "k", "access": "read_only"}
		if strings.HasPrefix(limit, "namespace-") {
			g.Namespace(t, limit, fields)
			spec["namespace"] = limit
		} else {
			maps.Copy(spec, fields)
		}
		code := "rate_limited"
		if strings.HasSuffix(limit, "quota") {
			code = "quota_exceeded"
		}
		token := "authorization: Bearer " + string(g.Mint(t, spec).Token)
		request := gate.Request{Host: limit, Header: []string{token}}
		if r := g.Do(t, request); r.Status != 200 {
			t.Fatalf("%s: %v", limit, r)
		}
		wantRefused(t, g.Do(t, request), code, limit)
		request.Method = "HEAD"
		for _, request.Protocol = range gate.Protocols {
			r := g.Do(t, request)
			if r.Status != 429 || r.Header.Get("Retry-After") == "" {
				t.Errorf("%s: HEAD over %v: %v", limit, request.Protocol, r)
			}
		}
	}
}

// TestRefusedKeyRecovers checks that Retry-After is correct: a client that waits for this time is
// admitted, every time.
func TestRefusedKeyRecovers(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := limitedKey(t, g, gate.JSON{"rate_limit": gate.JSON{"requests": 1, "per": "2s"}})
	for range 2 {
		var r gate.Response
		for r.Status != 429 {
			if r = g.Get(t, "/", k.Token); r.Status != 200 && r.Status != 429 {
				t.Fatal(r)
			}
		}
		wantRefused(t, r, "rate_limited", "rate")
		wait, _ := time.ParseDuration(r.Header.Get("Retry-After") + "s")
		time.Sleep(wait)
		if r = g.Get(t, "/", k.Token); r.Status != 200 {
			t.Fatalf("after Retry-After: %v", r)
		}
	}
}

// TestRefusedRequestsAreNotCounted checks that a client which never waits gets the rate of its
// limit, and that requests which the rate limit refuses use no units of the quota.
func TestRefusedRequestsAreNotCounted(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := limitedKey(t, g, gate.JSON{"rate_limit": rate(2, "1s"), "quota": monthly(1000)})
	admitted, refused := 0, 0
	for end := time.Now().Add(time.Minute); admitted < 8 || refused < 8; {
		switch r := g.Get(t, "/", k.Token); r.Status {
		case 200:
			admitted++
		case 429:
			refused++
			if got := left(t, r, "quota"); got != 1000-admitted {
				t.Fatalf("%d left of the quota after %d requests", got, admitted)
			}
		default:
			t.Fatal(r)
		}
		if time.Now().After(end) {
			t.Fatalf("%d admitted and %d refused in a minute", admitted, refused)
		}
	}
}

// TestRemainingNeverJumps checks that the remaining number falls by one with each request until it
// is 0, and that requests are refused only then.
func TestRemainingNeverJumps(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := limitedKey(t, g, gate.JSON{"rate_limit": daily(25), "quota": monthly(40)})
	for i := range 25 {
		r := g.Get(t, "/", k.Token)
		if got := left(t, r, "rate"); r.Status != 200 || got != 24-i {
			t.Fatalf("%d left after %d requests: %v", got, i+1, r)
		}
		if got := left(t, r, "quota"); got != 39-i {
			t.Fatalf("%d left of the quota after %d requests", got, i+1)
		}
	}
	wantRefused(t, g.Get(t, "/", k.Token), "rate_limited", "rate")
	g.Patch(t, k.ID, gate.JSON{"rate_limit": nil})
	for i := range 15 {
		if r := g.Get(t, "/", k.Token); r.Status != 200 || left(t, r, "quota") != 14-i {
			t.Fatalf("request %d: %v", i+26, r)
		}
	}
	wantRefused(t, g.Get(t, "/", k.Token), "quota_exceeded", "quota")
}

// TestRemainingNeverRises checks that the remaining number never rises on any connection of a
// client that uses one connection to each of several nodes.
func TestRemainingNeverRises(t *testing.T) {
	t.Parallel()
	s := threeWithRedis(t)
	k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(300), "quota": monthly(300)})
	last := map[string]int{}
	for i := 0; ; i++ {
		n := i % 3
		r := s.nodes[n].Get(t, "/", k.Token)
		for _, limit := range []string{"rate", "quota"} {
			name := limit + string(rune('0'+n))
			now := left(t, r, limit)
			if before, seen := last[name]; seen && now > before {
				t.Fatalf("request %d: %s on node %d rises from %d to %d", i, limit, n, before, now)
			}
			last[name] = now
		}
		if r.Status == 429 {
			break
		}
	}
}

// TestNothingIsCountedTwice sends requests through a site with two handlers, and public requests and
// preflights, which cost nothing.
func TestNothingIsCountedTwice(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: `route {
		api_key {
			public /public
			preflight
		}
		api_key /v1/* {
			public /public
			preflight
		}
		reverse_proxy {$GATE_UPSTREAM}
	}`})
	k := limitedKey(t, g, gate.JSON{"rate_limit": daily(9), "quota": monthly(9)})
	for range 3 {
		g.Get(t, "/public", k.Token)
		g.Do(t, gate.Request{Method: "OPTIONS", Target: "/v1/items/1", Header: []string{
			"Origin: https://app.example.com", "Access-Control-Request-Method: GET",
			"Authorization: Bearer " + string(k.Token)}})
	}
	admits(t, g, k, 9)
	for _, limit := range []string{"rate", "quota"} {
		if got := g.Metric(t, "caddy_apikeys_limit_decisions_total", "limit="+limit,
			"result=ok"); got != 9 {
			t.Errorf("%s: the metric counts %v of 9", limit, got)
		}
	}
}

// TestEachHandlerHasItsSettings checks that cost, charge and limit_headers apply to the site that
// has them, for the same key.
func TestEachHandlerHasItsSettings(t *testing.T) {
	t.Parallel()
	const ok = "\nrespond ok"
	g := gate.Start(t, gate.Config{Sites: map[string]gate.Config{
		"dear.example.com": {Site: `api_key {
			operation orders:export read GET /export {
				cost 10
			}
		}` + ok},
		"quiet.example.com": {Site: `api_key {
			limit_headers off
		}` + ok},
		"counted.example.com": {Site: `route {
			api_key {
				charge X-Usage-Units
			}
			header X-Usage-Units 5
			respond ok
		}`},
		"uncounted.example.com": {Site: `route {
			api_key
			header X-Usage-Units 5
			respond ok
		}`},
		"api.example.com": {Site: "header X-Usage-Units 5" + ok},
		"replaced.example.com": {Site: `route {
			api_key {
				charge X-Usage-Units
			}
			reverse_proxy 127.0.0.1:{$GATE_HTTP} {
				header_up Host api.example.com
				handle_response {
					respond replaced
				}
			}
		}`},
	}})
	k := limitedKey(t, g, gate.JSON{"quota": monthly(1000)})
	get := func(host, target string) gate.Response {
		t.Helper()
		r := g.Do(t, gate.Request{Host: host + ".example.com", Target: target,
			Header: []string{"Authorization: Bearer " + string(k.Token)}})
		if r.Status != 200 {
			t.Fatal(r)
		}
		return r
	}
	used := 0
	wantLeft := func(r gate.Response, units int) {
		t.Helper()
		if used += units; left(t, r, "quota") != 1000-used {
			t.Fatalf("%d left, want %d", left(t, r, "quota"), 1000-used)
		}
	}
	wantLeft(get("plain", "/export"), 1)
	wantLeft(get("dear", "/export"), 10)
	wantLeft(get("dear", "/other"), 1)
	if r := get("quiet", "/export"); len(states(r)) > 0 || r.Header.Get("RateLimit-Policy") != "" {
		t.Errorf("limit_headers off: %v", r)
	}
	used++
	if r := get("counted", "/export"); r.Header.Get("X-Usage-Units") != "" {
		t.Errorf("the client sees what it was charged: %v", r)
	}
	used += 5
	if r := get("replaced", "/export"); r.Header.Get("X-Usage-Units") != "" ||
		string(r.Body) != "replaced" {
		t.Errorf("the response of the API is not replaced: %v", r)
	}
	used += 5
	if r := get("uncounted", "/export"); r.Header.Get("X-Usage-Units") == "" {
		t.Errorf("a header is removed that means nothing to this site: %v", r)
	}
	used++
	wantLeft(get("plain", "/"), 1)
}

// TestLimitHoldsForCachedKeys limits a key that a node has cached, and checks that the lookups of
// the limited requests do not reach the database.
func TestLimitHoldsForCachedKeys(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	for range 10 {
		if r := g.Get(t, "/", k.Token); r.Status != 200 || len(states(r)) > 0 {
			t.Fatal(r)
		}
	}
	g.Patch(t, k.ID, gate.JSON{"rate_limit": daily(20)})
	lookups := func() float64 {
		return g.Metric(t, "caddy_apikeys_lookups_total", "tier=database")
	}
	g.Get(t, "/", k.Token)
	before := lookups()
	admits(t, g, k, 19)
	if n := lookups() - before; n != 0 {
		t.Errorf("%v lookups in the database", n)
	}
}

// TestQuotaAndRateAreToldApart checks that a used-up quota and a rate limit differ in the code, in
// the violated policies and in the metrics.
func TestQuotaAndRateAreToldApart(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	quota := limitedKey(t, g, gate.JSON{"quota": monthly(2), "rate_limit": daily(50)})
	admits(t, g, quota, 2)
	r := g.Get(t, "/", quota.Token)
	wantRefused(t, r, "quota_exceeded", "quota")
	if got := left(t, r, "rate"); got != 48 {
		t.Errorf("the quota refuses, and the rate has %d left", got)
	}
	limited := limitedKey(t, g, gate.JSON{"quota": monthly(50), "rate_limit": daily(3)})
	admits(t, g, limited, 3)
	wantRefused(t, g.Get(t, "/", limited.Token), "rate_limited", "rate")
	for outcome, want := range map[string]float64{"exhausted": 2, "limited": 2} {
		if got := g.Metric(t, "caddy_apikeys_requests_total", "outcome="+outcome); got != want {
			t.Errorf("%v requests with the outcome %s, want %v", got, outcome, want)
		}
	}
}

// TestKeyIsNeverAMetricLabel searches the metrics for the id of a limited key.
func TestKeyIsNeverAMetricLabel(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := limitedKey(t, g, gate.JSON{"quota": monthly(3), "rate_limit": daily(50)})
	admits(t, g, k, 3)
	text := metrics(t, g)
	if strings.Contains(text, k.ID) {
		t.Error("the metrics contain the id of the key")
	}
	if !strings.Contains(text, "caddy_apikeys_limit_decisions_total") {
		t.Error("the metrics have no limits")
	}
}

// TestCounterThatExpiresRefusesNothing sends requests below the limit while Redis forgets the limit
// between them. None is refused.
func TestCounterThatExpiresRefusesNothing(t *testing.T) {
	t.Parallel()
	s := threeWithRedis(t)
	k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": gate.JSON{"requests": 10, "per": "1s",
		"burst": 4}})
	for i := range 30 {
		if r := s.nodes[i%3].Get(t, "/", k.Token); r.Status != 200 {
			t.Fatalf("request %d: %v", i, r)
		}
		s.forget(t)
		time.Sleep(200 * time.Millisecond)
	}
}

// TestSlowStoreDoesNotLetTrafficThrough delays the answers of Redis, or withholds them, and checks
// that the limit holds: each node uses its part of it.
func TestSlowStoreDoesNotLetTrafficThrough(t *testing.T) {
	t.Parallel()
	s := threeWithRedis(t)
	for name, slow := range map[string]func(){
		"slow":    func() { s.edge.Slow(5 * time.Second) },
		"hanging": s.edge.Hang,
		"mute":    s.edge.HangReplies,
	} {
		k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(30)})
		slow()
		h := s.exhaust(t, k)
		s.edge.Heal()
		h.wantStatuses(t, 200, 429)
		if n := h.admitted(); n < 30-3 || n > 30+3 {
			t.Errorf("Redis is %s: %d admitted with a limit of 30", name, n)
		}
	}
}

// TestRedisDownIsNotNTimesTheLimit kills Redis. The nodes together keep the limit, and say that they
// use their parts.
func TestRedisDownIsNotNTimesTheLimit(t *testing.T) {
	t.Parallel()
	s := threeWithRedis(t)
	degraded := func(want float64) {
		t.Helper()
		gate.Until(t, "each node reports whether it has Redis for limits", func() bool {
			k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(100)})
			for _, g := range s.nodes {
				g.Get(t, "/", k.Token)
				if g.Metric(t, "caddy_apikeys_limit_degraded") != want {
					return false
				}
			}
			return true
		})
	}
	degraded(0)
	k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(60)})
	s.redis.Kill()
	h := s.exhaust(t, k)
	h.wantStatuses(t, 200, 429)
	if n := h.admitted(); n < 60 || n > 60+3 {
		t.Errorf("%d admitted with a limit of 60", n)
	}
	degraded(1)
	s.redis.Run()
	degraded(0)
}

// TestThreeGatewaysDoNotThrottleBelowTheLimit checks that three nodes together admit all that the
// limit allows, and that one of them does if the others get no requests.
func TestThreeGatewaysDoNotThrottleBelowTheLimit(t *testing.T) {
	t.Parallel()
	s := threeWithRedis(t)
	limits := gate.JSON{"rate_limit": daily(300)}
	h := s.exhaust(t, limitedKey(t, s.nodes[0], limits))
	h.wantStatuses(t, 200, 429)
	if n := h.admitted(); n < 300 {
		t.Errorf("three nodes admit %d of 300", n)
	}
	admits(t, s.nodes[1], limitedKey(t, s.nodes[0], limits), 300)
}

// TestLimitOf70HoldsOnSeveralNodes sends a thousand requests to three nodes without Redis.
func TestLimitOf70HoldsOnSeveralNodes(t *testing.T) {
	t.Parallel()
	s := threeWithoutRedis(t)
	k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(70)})
	var (
		mu       sync.Mutex
		admitted int
		senders  sync.WaitGroup
	)
	for i, g := range s.nodes {
		client, url := g.Client(t, gate.HTTP1)
		for range 2 {
			senders.Go(func() {
				for range 1000 / 6 {
					switch r := gate.Ask(t.Context(), client, url, k.Token); r.Status {
					case 200:
						mu.Lock()
						admitted++
						mu.Unlock()
					case 429:
					default:
						t.Errorf("node %d: %v", i, r)
					}
				}
			})
		}
	}
	senders.Wait()
	if admitted < 69 || admitted > 70 { // each node has a part of 23
		t.Errorf("%d admitted", admitted)
	}
}

// TestQuotaOf80AdmitsNo101 uses up a quota from many connections to three nodes at once.
func TestQuotaOf80AdmitsNo101(t *testing.T) {
	t.Parallel()
	s := threeWithoutRedis(t)
	k := limitedKey(t, s.nodes[0], gate.JSON{"quota": monthly(80)})
	h := s.exhaust(t, k)
	h.wantStatuses(t, 200, 429)
	if n := h.admitted(); n != 80 {
		t.Errorf("%d admitted", n)
	}
}

// TestDeadNodesLeaveNothingBehind kills a node. When its lease has expired, the other one has the
// whole limit, and everything that the nodes have written to Redis expires by itself.
func TestDeadNodesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	s := postgresStack(t, 2, "")
	k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(40)})
	if r := s.nodes[0].Get(t, "/", k.Token); left(t, r, "rate") != 19 {
		t.Errorf("of two nodes: %v", r)
	}
	s.nodes[1].Kill()
	gate.Until(t, "the node that is left has the whole limit", func() bool {
		k := limitedKeyWhileDead(t, s.nodes[0], gate.JSON{"rate_limit": daily(40)})
		return left(t, s.nodes[0].Get(t, "/", k.Token), "rate") == 39
	})

	s = threeWithRedis(t)
	k = limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(300)})
	s.exhaust(t, k)
	ctx := context.Background()
	client := s.redisClient()
	defer client.Close()
	names, err := client.Keys(ctx, "*").Result()
	if err != nil || len(names) == 0 {
		t.Fatalf("nothing in Redis: %v", err)
	}
	for _, name := range names {
		if ttl, err := client.PTTL(ctx, name).Result(); err != nil || ttl <= 0 {
			t.Errorf("%s expires in %v: %v", name, ttl, err)
		}
	}
}
