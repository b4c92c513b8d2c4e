package caddymodule

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// from is a change of a request that sets the client's address.
func from(address string) func(*http.Request) {
	return func(r *http.Request) { caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, address) }
}

func TestAbuse(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	imported := func(credential string) {
		t.Helper()
		if _, _, err := h.keys.ImportKeys(t.Context(), manage.Root("test"), []manage.ImportSpec{{
			KeySpec: manage.KeySpec{Name: "imported", Namespace: "acme",
				Home: &keystore.Grant{Namespace: "acme",
					Permissions: []keystore.Permission{{Action: "read"}}}},
			Token: credential}}, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	imported("imported-cached-0123456789")
	imported("imported-uncached-0123456789")
	revokedKey, revoked := h.key("read")
	if _, _, err := h.keys.RevokeKey(t.Context(), manage.Root("test"), revokedKey.ID, "test", false,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	h.app.abuse = &abuseLimit{keystore.RateLimit{Requests: 3, Per: 24 * time.Hour, Burst: 3},
		newFailures()}
	plain, forwarded := h.handler("namespace acme"), h.handler("namespace acme\nforwarded")
	get := func(credential, address string) answer {
		return h.send(plain, "GET /"+keyLine(credential), from(address))
	}
	expect := func(name string, a answer, outcome string, status int) {
		t.Helper()
		if a.outcome() != outcome || a.StatusCode != status {
			t.Errorf("%s: %s %d, want %s %d", name, a.outcome(), a.StatusCode, outcome, status)
		}
	}
	const attacker = "203.0.113.7"
	expect("an imported key", get("imported-cached-0123456789", attacker), "ok", 200)
	expect("no credential", h.send(plain, "GET /", from(attacker)), "missing", 401)
	expect("malformed", get(junk, attacker), "malformed", 401)
	expect("unknown", get("unknown-0123456789", attacker), "unknown", 401)
	expect("forbidden", h.send(plain, "POST /"+keyLine(token), from(attacker)), "forbidden", 403)
	expect("revoked", get(revoked, attacker), "revoked", 401)

	expect("over the limit", get(junk, attacker), "limited", 429)
	expect("revoked", get(revoked, attacker), "limited", 429)
	before := h.keys.Stats()
	expect("not looked up", get("imported-uncached-0123456789", attacker), "limited", 429)
	expect("not looked up", get("unknown-9876543210", attacker), "limited", 429)
	if after := h.keys.Stats(); after != before {
		t.Errorf("credentials without a tag were looked up: %v, before %v", after, before)
	}
	expect("no credential", h.send(plain, "GET /", from(attacker)), "missing", 401)
	expect("a valid key", get(token, attacker), "ok", 200)
	expect("a cached imported key", get("imported-cached-0123456789", attacker), "ok", 200)
	expect("its spelling in IPv6", get(junk, "::ffff:203.0.113.7"), "limited", 429)
	expect("through a proxy", h.send(forwarded,
		"GET /\nX-Forwarded-Method: GET\nX-Forwarded-Uri: /"+keyLine(junk), from(attacker),
		trustedPeer), "limited", 429)
	expect("another address", get("imported-uncached-0123456789", "203.0.113.8"), "ok", 200)
	expect("another address", get(junk, "203.0.113.8"), "malformed", 401)

	a := get(junk, attacker)
	var problem struct {
		Type, Code, Title, Detail string
		Status                    int
		ViolatedPolicies          []string `json:"violated-policies"`
	}
	if err := json.Unmarshal([]byte(a.body), &problem); err != nil {
		t.Fatal(err)
	}
	if problem.Type != quotaExceededType || problem.Code != "rate_limited" || problem.Status != 429 ||
		problem.Detail == "" || fmt.Sprint(problem.ViolatedPolicies) != "[abuse]" {
		t.Errorf("the body is %s", a.body)
	}
	retry, err := strconv.Atoi(a.Header.Get("Retry-After"))
	if third := 8*3600 + 1; err != nil || retry < third-60 || retry > third+third*3/100 {
		t.Errorf("Retry-After is %q", a.Header.Get("Retry-After"))
	}
	if get("unknown-0123456789", attacker).body != a.body {
		t.Error("the answers for invalid keys differ")
	}

	// A client with a slow clock, or one that has not noticed that its token has expired, is not
	// guessing.
	const late = "203.0.113.9"
	expired := deriveToken(t, token, keystore.Caveats{ExpiresAt: time.Now().Add(-time.Second)})
	forged := expired[:len(expired)-9] + "AAAAAAAAA"
	for range 4 {
		expect("an expired derived token", get(expired, late), "expired", 401)
		expect("one with a wrong signature", get(forged, late), "expired", 401)
	}
	early := deriveToken(t, token, keystore.Caveats{ExpiresAt: time.Now().Add(time.Hour),
		NotBefore: time.Now().Add(10 * time.Minute)})
	long := deriveToken(t, token, keystore.Caveats{ExpiresAt: time.Now().Add(25 * time.Hour)})
	for range 4 {
		expect("a derived token that is not valid yet", get(early, late), "malformed", 401)
		expect("one that is valid for too long", get(long, late), "malformed", 401)
	}
	expect("it does not count", get(junk, late), "malformed", 401)
	expect("from an address over the limit", get(expired, attacker), "expired", 401)
	_, ending := h.key("read",
		func(s *manage.KeySpec) { s.ExpiresAt = time.Now().Add(200 * time.Millisecond) })
	child := deriveToken(t, ending, keystore.Caveats{ExpiresAt: time.Now().Add(time.Hour)})
	for get(ending, "@").outcome() == "ok" {
		time.Sleep(10 * time.Millisecond)
	}
	expect("an expired key", get(ending, attacker), "limited", 429)
	expect("a token derived from it", get(child, attacker), "limited", 429)

	for i := range 4 {
		outcome, status := "malformed", 401
		if i == 3 {
			outcome, status = "limited", 429
		}
		expect("a /64", get(junk, fmt.Sprintf("2001:db8:0:1::%d", i)), outcome, status)
	}
	expect("another /64", get(junk, "2001:db8:0:2::1"), "malformed", 401)
	for range 5 {
		expect("an unknown address", get(junk, "@"), "malformed", 401)
	}
}

// TestFailuresBound compares each address with a meter of its own, as long as no set is full.
func TestFailuresBound(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		var schedule [256]byte
		for i := range schedule {
			schedule[i] = byte(random.Uint32())
		}
		checkFailures(t, schedule[:])
	}
}

func FuzzFailures(f *testing.F) {
	f.Add([]byte{3, 60, 0, 0, 0, 0, 1, 1, 0, 0})
	f.Fuzz(checkFailures)
}

// checkFailures runs a schedule: the first two bytes are the limit, each further one adds a failure
// of one of eight addresses after a pause.
func checkFailures(t *testing.T, schedule []byte) {
	if len(schedule) < 2 {
		return
	}
	failures := newFailures()
	limit := keystore.RateLimit{Requests: 1 + int64(schedule[0]), Burst: 1 + int64(schedule[0]),
		Per: time.Duration(1+schedule[1]) * time.Second}
	now := failures.epoch
	var meters [failureWays]keystore.Meter
	for _, b := range schedule[2:] {
		i := b % failureWays
		now = now.Add(time.Duration(b/failureWays) * time.Second / 16)
		address := netip.AddrFrom4([4]byte{192, 0, 2, i})
		micros := failures.micros(now)
		room := meters[i].Room(&limit, micros) > 0
		wait := failures.wait(func() netip.Addr { return address }, now, &limit)
		if room != (wait == 0) {
			t.Fatalf("%v at %v: wait %v, room %v", address, now, wait, room)
		}
		if got := failures.add(address, now, &limit); got != wait {
			t.Fatalf("%v at %v: the failure waits for %v, a lookup for %v", address, now, got, wait)
		}
		if room {
			meters[i] = meters[i].Add(&limit, micros, 1)
			continue
		}
		if failures.wait(func() netip.Addr { return address }, now.Add(wait), &limit) != 0 ||
			failures.wait(func() netip.Addr { return address }, now.Add(wait-1000), &limit) == 0 {
			t.Fatalf("%v at %v: %v is not the earliest time", address, now, wait)
		}
	}
}

// TestChangedAbuse checks that a reload with another limit keeps the failures of an address, up to
// the new limit, and that they count as long as that says.
func TestChangedAbuse(t *testing.T) {
	h := newFixture(t)
	former := &abuseLimit{keystore.RateLimit{Requests: 20, Per: 24 * time.Hour, Burst: 20},
		newFailures()}
	plain := h.handler("namespace acme")
	get := func(credential, address string) string {
		return h.send(plain, "GET /"+keyLine(credential), from(address)).outcome()
	}
	fill := func(address string) {
		t.Helper()
		h.app.abuse = former
		for i := range 21 {
			want := "malformed"
			if i == 20 {
				want = "limited"
			}
			if got := get(junk, address); got != want {
				t.Errorf("failure %d: %s, want %s", i, got, want)
			}
		}
	}
	fill("203.0.113.7")
	h.app.abuse = &abuseLimit{keystore.RateLimit{Requests: 1000, Per: time.Minute, Burst: 1000},
		former.failures}
	// A credential without a tag is looked up only if its address is not over the limit.
	for _, credential := range []string{"unknown-0123456789", junk} {
		if got := get(credential, "203.0.113.7"); got == "limited" {
			t.Errorf("%s: %s under the raised limit", credential, got)
		}
	}

	fill("203.0.113.8")
	h.app.abuse = &abuseLimit{keystore.RateLimit{Requests: 5, Per: time.Hour, Burst: 5},
		former.failures}
	a := h.send(plain, "GET /"+keyLine(junk), from("203.0.113.8"))
	retry, err := strconv.Atoi(a.Header.Get("Retry-After"))
	if a.outcome() != "limited" || err != nil || retry > 3600/5*103/100+1 {
		t.Errorf("under the lowered limit: %s, Retry-After %d", a.outcome(), retry)
	}
}

// TestSlowerAbuse: under a limit that refills more slowly, an address stays over the limit for
// longer, from its next request on.
func TestSlowerAbuse(t *testing.T) {
	f, address := newFailures(), netip.MustParseAddr("203.0.113.7")
	wait := func(seconds int, limit *keystore.RateLimit) time.Duration {
		return f.wait(func() netip.Addr { return address },
			f.epoch.Add(time.Duration(seconds)*time.Second), limit)
	}
	minute := &keystore.RateLimit{Requests: 10, Per: time.Minute, Burst: 10}
	hour := &keystore.RateLimit{Requests: 10, Per: time.Hour, Burst: 10}
	for range 10 {
		if over := f.add(address, f.epoch, minute); over != 0 {
			t.Fatal(over)
		}
	}
	if got := wait(2, hour); got < 5*time.Minute {
		t.Errorf("after two seconds: %v", got)
	}
	if got := wait(7, hour); got < 5*time.Minute {
		t.Errorf("when the former limit had room: %v", got)
	}
}

// TestFailuresMemory floods the counts with addresses. Those that fail most stay.
func TestFailuresMemory(t *testing.T) {
	if size := unsafe.Sizeof(failures{}); size > maxFailing*(64<<10)/1000 {
		t.Errorf("%d addresses take %d bytes", maxFailing, size)
	}
	failures := newFailures()
	limit := keystore.RateLimit{Requests: 5, Burst: 5, Per: time.Hour}
	attacker := netip.MustParseAddr("203.0.113.7")
	for range 5 {
		failures.add(attacker, failures.epoch, &limit)
	}
	var address [4]byte
	for i := range 10 * maxFailing {
		binary.BigEndian.PutUint32(address[:], uint32(10<<24+i))
		if failures.add(netip.AddrFrom4(address), failures.epoch, &limit) > 0 {
			t.Fatal("an address is over the limit after its first failure")
		}
	}
	if failures.add(attacker, failures.epoch, &limit) == 0 {
		t.Error("the flood has replaced an address that is over the limit")
	}
}

// TestFailuresConcurrently checks that no more failures are admitted than the limit allows when
// many requests fail at the same time.
func TestFailuresConcurrently(t *testing.T) {
	failures := newFailures()
	limit := keystore.RateLimit{Requests: 100, Burst: 100, Per: 24 * time.Hour}
	var admitted [8]int
	var done sync.WaitGroup
	for i := range admitted {
		done.Go(func() {
			for n := range 1000 {
				address := netip.AddrFrom4([4]byte{192, 0, 2, byte(n % 4)})
				client := func() netip.Addr { return address }
				if failures.wait(client, failures.epoch, &limit) == 0 &&
					failures.add(address, failures.epoch, &limit) == 0 {
					admitted[i]++
				}
			}
		})
	}
	done.Wait()
	sum := 0
	for _, n := range admitted {
		sum += n
	}
	if sum != 400 {
		t.Errorf("%d failures were admitted, want 400", sum)
	}
}
