package caddymodule

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dunglas/httpsfv"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// limit writes limits of a key and, if they are not zero, of the namespace acme.
func (h *fixture) limit(id string, key, namespace keystore.Limits) {
	h.t.Helper()
	_, err := h.keys.Write(h.t.Context(), func(tx keystore.Tx) error {
		k, err := tx.Key(id)
		if err != nil {
			return err
		}
		k.Limits = key
		k.Version++
		if err := tx.UpdateKey(k); err != nil || namespace == (keystore.Limits{}) {
			return err
		}
		ns := *h.keys.Policy().Namespace("acme")
		ns.Limits = namespace
		ns.Version++
		return tx.UpdateNamespace(&ns)
	})
	if err == nil {
		err = h.keys.Renew(h.t.Context())
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// daily is a rate limit that does not refill during a test.
func daily(requests int64) keystore.RateLimit {
	return keystore.RateLimit{Requests: requests, Per: 24 * time.Hour, Burst: requests}
}

func monthly(units int64) keystore.Quota {
	return keystore.Quota{Units: units, Per: keystore.Month}
}

// limitedKey returns the token of a key with limits.
func (h *fixture) limitedKey(rate keystore.RateLimit, quota keystore.Quota) string {
	h.t.Helper()
	key, token := h.key("read write")
	h.limit(key.ID, keystore.Limits{Rate: rate, Quota: quota}, keystore.Limits{})
	return token
}

// field parses a header field whose value is a list of strings with integer parameters. The name in
// the header map need not be in canonical form.
func field(t *testing.T, header http.Header, name string) map[string]map[string]int64 {
	t.Helper()
	var lines []string
	for key, values := range header {
		if strings.EqualFold(key, name) {
			lines = append(lines, values...)
		}
	}
	list, err := httpsfv.UnmarshalList(lines)
	if err != nil {
		t.Fatalf("%s: %q: %v", name, lines, err)
	}
	members := make(map[string]map[string]int64)
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			t.Fatalf("%s: %q has an inner list", name, lines)
		}
		label, ok := item.Value.(string)
		if !ok || members[label] != nil {
			t.Fatalf("%s: %q", name, lines)
		}
		members[label] = make(map[string]int64)
		for _, parameter := range item.Params.Names() {
			value, _ := item.Params.Get(parameter)
			if members[label][parameter], ok = value.(int64); !ok {
				t.Fatalf("%s: %q: %s is no integer", name, lines, parameter)
			}
		}
	}
	return members
}

// remaining returns the r of a limit, or -1.
func remaining(t *testing.T, header http.Header, limit string) int64 {
	t.Helper()
	if state, ok := field(t, header, "RateLimit")[limit]; ok {
		return state["r"]
	}
	return -1
}

// checkRefused checks the response to a request that limits have refused.
func checkRefused(t *testing.T, a answer, code string, violated ...string) {
	t.Helper()
	if a.StatusCode != 429 || a.seen != nil {
		t.Fatalf("status %d: %s", a.StatusCode, a.body)
	}
	var problem struct {
		Type, Code, Title, Detail string
		Status                    int
		ViolatedPolicies          []string `json:"violated-policies"`
	}
	if err := json.Unmarshal([]byte(a.body), &problem); err != nil {
		t.Fatalf("%v: %q", err, a.body)
	}
	if problem.Type != "https://iana.org/assignments/http-problem-types#quota-exceeded" ||
		problem.Code != code || problem.Status != 429 || problem.Title == "" ||
		problem.Detail == "" || !slices.Equal(problem.ViolatedPolicies, violated) {
		t.Errorf("the body is %s", a.body)
	}
	checkRetryAfter(t, a.Header, violated...)
}

// checkRetryAfter checks that Retry-After is the time until all violated limits have room, with at
// most a second of margin and 3 % jitter.
func checkRetryAfter(t *testing.T, header http.Header, violated ...string) {
	t.Helper()
	retry, err := strconv.ParseInt(header.Get("Retry-After"), 10, 64)
	var least int64
	for _, limit := range violated {
		state := field(t, header, "RateLimit")[limit]
		least = max(least, state["t"])
		if r := state["r"]; r != 0 {
			t.Errorf("%s has refused and has %d left", limit, r)
		}
	}
	if err != nil || retry < max(1, least) || float64(retry) > 1.03*float64(least+1) {
		t.Errorf("Retry-After is %q, the limit has room in %d s", header.Get("Retry-After"), least)
	}
}

func TestLimitAnswers(t *testing.T) {
	h := newFixture(t)
	handler := h.handler("namespace acme")
	token := h.limitedKey(daily(2), monthly(1000))
	for i, method := range []string{"GET", "HEAD"} {
		a := h.send(handler, method+" /"+keyLine(token))
		if a.outcome() != "ok" || a.seen == nil {
			t.Fatalf("%s: %s", method, a.outcome())
		}
		policy := field(t, a.Header, "RateLimit-Policy")
		if rate, quota := policy["rate"], policy["quota"]; len(policy) != 2 || rate["q"] != 2 ||
			rate["w"] != 86400 || quota["q"] != 1000 {
			t.Errorf("the policy is %v", policy)
		}
		state := field(t, a.Header, "RateLimit")
		if rate, quota := state["rate"], state["quota"]; len(state) != 2 ||
			rate["r"] != int64(1-i) || rate["t"] < 1 || rate["t"] > 43200 ||
			quota["r"] > int64(999-i) || quota["t"] < 1 || quota["t"] > 31*86400 {
			t.Errorf("after request %d, the state is %v", i, state)
		}
	}
	checkRefused(t, h.send(handler, "GET /"+keyLine(token)), "rate_limited", "rate")
	if a := h.send(handler, "HEAD /"+keyLine(token)); a.StatusCode != 429 || a.body != "" {
		t.Errorf("HEAD: %d %q", a.StatusCode, a.body)
	} else {
		checkRetryAfter(t, a.Header, "rate")
	}
	// Refused requests cost nothing, whether a limit or another check refuses them.
	quota := h.limitedKey(keystore.RateLimit{}, monthly(1))
	if a := h.send(handler, "PURGE /"+keyLine(quota)); a.StatusCode != 405 {
		t.Fatal(a.outcome())
	}
	if a := h.send(h.handler("namespace globex"), "GET /"+keyLine(quota)); a.StatusCode != 403 {
		t.Fatal(a.outcome())
	}
	if a := h.send(handler, "GET /"+keyLine(quota)); a.outcome() != "ok" {
		t.Fatal(a.outcome())
	}
	for range 2 {
		checkRefused(t, h.send(handler, "GET /"+keyLine(quota)), "quota_exceeded", "quota")
	}

	_, unlimited := h.key("read")
	if a := h.send(handler, "GET /"+keyLine(unlimited)); a.outcome() != "ok" ||
		len(field(t, a.Header, "RateLimit")) > 0 || len(field(t, a.Header, "RateLimit-Policy")) > 0 {
		t.Errorf("a key without limits: %v", a.Header)
	}
}

func TestNamespaceLimits(t *testing.T) {
	h := newFixture(t)
	handler := h.handler("namespace acme")
	first, token := h.key("read")
	_, other := h.key("read")
	h.limit(first.ID, keystore.Limits{Rate: daily(100)},
		keystore.Limits{Rate: daily(2), Quota: monthly(1000)})
	a := h.send(handler, "GET /"+keyLine(token))
	if state := field(t, a.Header, "RateLimit"); len(state) != 3 || state["rate"]["r"] != 99 ||
		state["namespace-rate"]["r"] != 1 || state["namespace-quota"] == nil {
		t.Errorf("the state is %v", state)
	}
	if a := h.send(handler, "GET /"+keyLine(other)); a.outcome() != "ok" {
		t.Fatal(a.outcome())
	}
	a = h.send(handler, "GET /"+keyLine(token))
	checkRefused(t, a, "rate_limited", "namespace-rate")
	if r := remaining(t, a.Header, "rate"); r != 99 {
		t.Errorf("the namespace's limit has refused, and the key has %d left", r)
	}
	checkRefused(t, h.send(handler, "GET /"+keyLine(other)), "rate_limited", "namespace-rate")
}

func TestLimitsInShadow(t *testing.T) {
	h := newFixture(t)
	rate := daily(1)
	rate.Shadow = true
	token := h.limitedKey(rate, monthly(3))
	handler := h.handler("namespace acme")
	for range 3 {
		if a := h.send(handler, "GET /"+keyLine(token)); a.outcome() != "ok" ||
			remaining(t, a.Header, "rate") != 0 {
			t.Fatalf("%s: %v", a.outcome(), a.Header)
		}
	}
	a := h.send(handler, "GET /"+keyLine(token))
	checkRefused(t, a, "quota_exceeded", "quota")
}

// TestLimitsInLog checks that the access log names the limits that refused a request or, in shadow,
// would have.
func TestLimitsInLog(t *testing.T) {
	h := newFixture(t)
	shadow := daily(1)
	shadow.Shadow = true
	token := h.limitedKey(shadow, monthly(2))
	handler := h.handler("namespace acme")
	for i, want := range []any{nil, []any{"rate"}, []any{"rate", "quota"}} {
		a := h.send(handler, "GET /"+keyLine(token))
		enc := zapcore.NewMapObjectEncoder()
		if err := a.vars[requestVar].(*request).MarshalLogObject(enc); err != nil {
			t.Fatal(err)
		}
		if got := enc.Fields["api_key_limits"]; !reflect.DeepEqual(got, want) {
			t.Errorf("request %d: %v, want %v", i, got, want)
		}
	}
}

// TestFreeRequests checks which requests cost nothing.
func TestFreeRequests(t *testing.T) {
	h := newFixture(t)
	token := h.limitedKey(daily(2), keystore.Quota{})
	first := h.handler("namespace acme\npublic /public\noptional\nforeign pass\npreflight")
	for _, wire := range []string{"GET /public" + keyLine(token), "GET /",
		"GET /" + keyLine("a.b.c-0123456789"),
		"OPTIONS /\nOrigin: https://a.example\nAccess-Control-Request-Method: GET" +
			keyLine(token)} {
		if a := h.send(first, wire); a.outcome() == "ok" ||
			len(field(t, a.Header, "RateLimit")) > 0 {
			t.Errorf("%s: %s, %v", wire, a.outcome(), a.Header)
		}
	}
	twice := errorRoute{first: first, second: h.handler("namespace acme"), failing: true}
	for i := range int64(2) {
		a := h.send(twice, "GET /"+keyLine(token))
		if r := remaining(t, a.Header, "rate"); a.seen == nil || r != 1-i {
			t.Errorf("request %d: %s, %d left", i, a.outcome(), r)
		}
	}
	// The second handler refuses the request for another reason, and the third one looks up the key
	// again.
	third := h.limitedKey(daily(2), keystore.Quota{})
	thrice := errorRoute{second: h.handler("namespace acme"), first: middleware(
		func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			return h.handler("namespace acme\npass_credential").ServeHTTP(w, r, caddyhttp.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) error {
					inner := h.handler("namespace globex\nerrors caddy\npass_credential")
					return inner.ServeHTTP(w, r, next)
				}))
		})}
	if a := h.send(thrice, "GET /"+keyLine(third)); a.seen == nil ||
		remaining(t, a.Header, "rate") != 1 {
		t.Errorf("three handlers: %s, %v", a.outcome(), a.Header)
	}
	// The second handler does not admit a request that the first one refused.
	if a := h.send(twice, "GET /"+keyLine(token)); a.seen != nil || a.outcome() == "ok" {
		t.Errorf("a refused request: %s", a.outcome())
	}
}

func TestLimitErrorsCaddy(t *testing.T) {
	h := newFixture(t)
	token := h.limitedKey(daily(1), keystore.Quota{})
	handler := h.handler("namespace acme\nerrors caddy")
	if a := h.send(handler, "GET /"+keyLine(token)); a.err != nil ||
		remaining(t, a.Header, "rate") != 0 {
		t.Fatal(a.err, a.Header)
	}
	a := h.send(handler, "GET /"+keyLine(token))
	var err caddyhttp.HandlerError
	if !errors.As(a.err, &err) || err.StatusCode != 429 || err.Err.Error() != "rate_limited" {
		t.Errorf("the error is %v", a.err)
	}
	checkRetryAfter(t, a.Header, "rate")
	if len(field(t, a.Header, "RateLimit-Policy")) != 1 {
		t.Error("RateLimit-Policy is missing")
	}
}

func TestLimitForwarded(t *testing.T) {
	h := newFixture(t)
	for style, status := range map[string]int{"forwarded": 429, "forwarded nginx": 403} {
		token := h.limitedKey(daily(1), keystore.Quota{})
		handler := h.handler("namespace acme\n" + style)
		wire := "GET /\nX-Forwarded-Method: GET\nX-Forwarded-Uri: /" + keyLine(token)
		if a := h.send(handler, wire, trustedPeer); a.StatusCode != 204 ||
			remaining(t, a.Header, "rate") != 0 {
			t.Fatalf("%d %v", a.StatusCode, a.Header)
		}
		a := h.send(handler, wire, trustedPeer)
		if a.StatusCode != status || !strings.Contains(a.body, `"violated-policies":["rate"]`) ||
			!strings.Contains(a.body, fmt.Sprintf(`"status":%d`, status)) {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		checkRetryAfter(t, a.Header, "rate")
		if code := a.Header.Get("X-Apikey-Code"); status == 403 && code != "rate_limited" {
			t.Errorf("the code is %q", code)
		}
	}
}

func TestLimitHeadersOff(t *testing.T) {
	h := newFixture(t)
	token := h.limitedKey(daily(1), keystore.Quota{})
	handler := h.handler("namespace acme\nlimit_headers off")
	for range 2 {
		a := h.send(handler, "GET /"+keyLine(token))
		if len(field(t, a.Header, "RateLimit")) > 0 || len(field(t, a.Header, "RateLimit-Policy")) > 0 {
			t.Errorf("%v", a.Header)
		}
		if a.StatusCode == 429 && a.Header.Get("Retry-After") == "" {
			t.Error("Retry-After is missing")
		}
	}
}

// TestLimitsForPages checks that a page of another origin can read the headers.
func TestLimitsForPages(t *testing.T) {
	h := newFixture(t)
	token := h.limitedKey(daily(1), keystore.Quota{})
	handler := h.handler("namespace acme\npreflight https://a.example")
	for _, status := range []int{200, 429} {
		a := h.send(handler, "GET /\nOrigin: https://a.example"+keyLine(token))
		exposed := strings.Split(strings.Join(a.Header["Access-Control-Expose-Headers"], ", "), ", ")
		slices.Sort(exposed)
		if a.StatusCode != status ||
			!slices.Equal(exposed, []string{"RateLimit", "RateLimit-Policy", "Retry-After"}) {
			t.Errorf("%d: exposed %q", a.StatusCode, exposed)
		}
	}
	if a := h.send(handler, "GET /"+keyLine(token)); a.Header["Access-Control-Expose-Headers"] != nil {
		t.Error("CORS headers without an Origin")
	}
}

// A limitedSite is a handler behind a real server, in front of an API.
func (h *fixture) limitedSite(handler *Handler, api http.HandlerFunc) *httptest.Server {
	h.t.Helper()
	site := httptest.NewUnstartedServer(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
			if err := handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) error {
					api(w, r)
					return nil
				})); err != nil {
				h.t.Error(err)
			}
		}))
	site.EnableHTTP2 = true
	site.StartTLS()
	h.t.Cleanup(site.Close)
	return site
}

// fetch sends a GET with a key and reads the whole response.
func fetch(t *testing.T, site *httptest.Server, path, token string, trace *httptrace.ClientTrace) *http.Response {
	t.Helper()
	ctx := t.Context()
	if trace != nil {
		ctx = httptrace.WithClientTrace(ctx, trace)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, site.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := site.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res
}

// TestLimitFieldsOfTheAPI checks that the API's own fields do not replace ours, whether it adds or
// sets them.
func TestLimitFieldsOfTheAPI(t *testing.T) {
	h := newFixture(t)
	token := h.limitedKey(daily(10), keystore.Quota{})
	site := h.limitedSite(h.handler("namespace acme"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("RateLimit-Policy", `"api";q=5`)
		w.Header().Add("RateLimit", `"api";r=4`)
		_, _ = io.WriteString(w, "data")
		_ = http.NewResponseController(w).Flush() // a stream
		_, _ = io.WriteString(w, "more")
	})
	res := fetch(t, site, "/", token, nil)
	if state := field(t, res.Header, "RateLimit"); len(state) != 2 || state["api"]["r"] != 4 ||
		state["rate"]["r"] != 9 {
		t.Errorf("the state is %v", state)
	}
	if policy := field(t, res.Header, "RateLimit-Policy"); len(policy) != 2 ||
		policy["api"]["q"] != 5 || policy["rate"]["q"] != 10 {
		t.Errorf("the policy is %v", policy)
	}
}

func TestOperationCosts(t *testing.T) {
	h := newFixture(t)
	token := h.limitedKey(daily(1000), monthly(100_000))
	handler := h.handler("namespace acme\nmethods write MOVE\nalso_judge X-Original-Path\n" +
		"operation orders:export read GET /export {\ncost 10\n}\n" +
		"operation orders:put write PUT /b {\ncost 1000\n}\n" +
		"operation orders:move write MOVE /a {\ncost 3\n}")
	before := h.send(handler, "GET /"+keyLine(token))
	for _, test := range []struct {
		wire string
		cost int64
	}{
		{"GET /export", 10}, {"HEAD /export", 10}, {"OPTIONS /export", 10}, {"POST /export", 1},
		{"GET /", 1}, {"MOVE /a\nDestination: /c", 3}, {"MOVE /a\nDestination: /b", 1000},
		{"GET /\nX-Original-Path: /export", 10}, {"PUT /b\nX-Original-Path: /export", 1000},
	} {
		after := h.send(handler, test.wire+keyLine(token))
		if after.outcome() != "ok" {
			t.Fatal(test.wire, after.outcome())
		}
		spent := remaining(t, before.Header, "quota") - remaining(t, after.Header, "quota")
		if rate := remaining(t, before.Header, "rate") - remaining(t, after.Header, "rate"); spent !=
			test.cost || rate != 1 {
			t.Errorf("%s costs %d units and %d requests, want %d and 1", test.wire, spent, rate,
				test.cost)
		}
		before = after
	}
}

// TestCostBeyondQuota checks what a refusal says if only the cost of the request exceeds a quota.
func TestCostBeyondQuota(t *testing.T) {
	h := newFixture(t)
	handler := h.handler("namespace acme\noperation a:ten read GET /ten {\ncost 10\n}\n" +
		"operation a:million read GET /million {\ncost 1000000\n}")
	key, token := h.key("read")
	h.limit(key.ID, keystore.Limits{Quota: monthly(14)}, keystore.Limits{Quota: monthly(1002)})
	_, end := keystore.Month.Of(time.Now())
	until := end.Format(time.RFC3339)
	for _, test := range []struct{ path, want string }{
		{"/million", "This request costs 1000000 units, more than the whole quota of the API " +
			"key: 14 per month. This request costs 1000000 units, more than the whole quota of the " +
			"namespace: 1002 per month."},
		{"/ten", ""},
		{"/ten", "This request costs 10 units. The quota of the API key has 4 left until " + until +
			"."},
		{"/", ""}, {"/", ""}, {"/", ""}, {"/", ""},
		{"/ten", "The API key has used up its quota."},
		{"/", "The API key has used up its quota."},
	} {
		a := h.send(handler, "GET "+test.path+keyLine(token))
		var problem struct{ Detail, Code string }
		if test.want == "" {
			if a.outcome() != "ok" {
				t.Fatal(test.path, a.outcome(), a.body)
			}
			continue
		}
		if err := json.Unmarshal([]byte(a.body), &problem); err != nil || a.StatusCode != 429 ||
			problem.Detail != test.want || problem.Code != "quota_exceeded" {
			t.Errorf("%s: %d %s", test.path, a.StatusCode, a.body)
		}
	}
	h.limit(key.ID, keystore.Limits{Quota: keystore.Quota{Unlimited: true}}, keystore.Limits{})
	a := h.send(handler, "GET /million"+keyLine(token))
	if !strings.Contains(a.body, `"detail":"This request costs 1000000 units, more than the whole `+
		`quota of the namespace: 1002 per month."`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// A chargedSite is a limitedSite with `charge`. It measures what the requests cost.
type chargedSite struct {
	*httptest.Server
	h     *fixture
	token string
}

// cost returns what a request costs, and its response.
func (s *chargedSite) cost(t *testing.T, path string, trace *httptrace.ClientTrace) (int64, *http.Response) {
	t.Helper()
	quota := func() int64 {
		return remaining(t, s.h.send(s.h.handler("namespace acme"), "GET /"+
			keyLine(s.token)).Header, "quota")
	}
	before := quota()
	res := fetch(t, s.Server, path, s.token, trace)
	return before - quota() - 1, res
}

func TestCharge(t *testing.T) {
	h := newFixture(t)
	site := chargedSite{h: h, token: h.limitedKey(keystore.RateLimit{}, monthly(1_000_000_000))}
	values := map[string][]string{
		"/none": nil, "/less": {"0"}, "/same": {"1"}, "/seven": {"7"}, "/first": {"x", "5", "9"},
		"/list": {"-1, 4, 6"}, "/signed": {"+5"}, "/large": {"1000000000001"}, "/empty": {""},
		"/fraction": {"2.5"}, "/expensive": {"25"},
	}
	set := func(w http.ResponseWriter, units ...string) {
		for _, u := range units {
			w.Header().Add("X-Usage-Units", u)
		}
	}
	site.Server = h.limitedSite(
		h.handler("namespace acme\ncharge x-usage-units\npublic /public\n"+
			"operation orders:x read GET /expensive {\ncost 10\n}"),
		func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/write":
				set(w, "11")
				_, _ = io.WriteString(w, "no call of WriteHeader")
			case "/silent":
				set(w, "12")
			case "/flush":
				set(w, "13")
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
				set(w, "99") // too late
				_, _ = io.WriteString(w, "a stream")
			case "/flusher":
				set(w, "14")
				w.(http.Flusher).Flush()
			case "/copy":
				set(w, "15")
				if _, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("data")); err != nil {
					t.Error(err)
				}
			case "/early":
				set(w, "98")
				w.WriteHeader(http.StatusEarlyHints)
				set(w, "16")
				w.WriteHeader(http.StatusOK)
				w.WriteHeader(http.StatusAccepted) // superfluous
			case "/trailer":
				w.Header().Set("Trailer", "X-Usage-Units")
				_, _ = io.WriteString(w, "tokens")
				set(w, "17")
			case "/undeclared":
				_, _ = io.WriteString(w, "tokens")
				w.Header().Set(http.TrailerPrefix+"X-Usage-Units", "18")
			case "/error":
				set(w, "19")
				w.WriteHeader(http.StatusInternalServerError)
			case "/public":
				set(w, "20")
			default:
				set(w, values[r.URL.Path]...)
				w.WriteHeader(http.StatusOK)
			}
		})
	for path, want := range map[string]int64{
		"/none": 1, "/less": 1, "/same": 1, "/seven": 7, "/first": 5, "/list": 4, "/signed": 1,
		"/large": 1, "/empty": 1, "/fraction": 1, "/expensive": 25, "/write": 11, "/silent": 12,
		"/flush": 13, "/flusher": 14, "/copy": 15, "/early": 16, "/trailer": 17,
		"/undeclared": 18, "/error": 19, "/public": 0,
	} {
		hinted := false
		cost, res := site.cost(t, path, &httptrace.ClientTrace{
			Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
				hinted = true
				if header["X-Usage-Units"] != nil {
					t.Errorf("%s: an informational response shows the units", path)
				}
				return nil
			}})
		if cost != want {
			t.Errorf("%s costs %d units, want %d", path, cost, want)
		}
		if hinted != (path == "/early") {
			t.Errorf("%s: informational response: %v", path, hinted)
		}
		if res.Header["X-Usage-Units"] != nil || res.Trailer.Get("X-Usage-Units") != "" {
			t.Errorf("%s: the client sees the units: %v %v", path, res.Header, res.Trailer)
		}
	}
}

// TestChargeOfUpgrades checks the option with a response that takes over the connection.
func TestChargeOfUpgrades(t *testing.T) {
	h := newFixture(t)
	site := chargedSite{h: h, token: h.limitedKey(keystore.RateLimit{}, monthly(1_000_000))}
	site.Server = h.limitedSite(h.handler("namespace acme\ncharge X-Usage-Units"),
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Usage-Units", "21")
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Connection", "Upgrade")
			if r.URL.Path == "/101" {
				w.WriteHeader(http.StatusSwitchingProtocols)
			}
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			if r.URL.Path != "/101" {
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+
					"websocket\r\nConnection: Upgrade\r\n\r\n")
			}
		})
	site.Client().Transport.(*http.Transport).ForceAttemptHTTP2 = false
	site.Client().Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"http/1.1"}
	for _, path := range []string{"/101", "/own"} {
		cost, res := site.cost(t, path, nil)
		if cost != 21 || res.StatusCode != 101 || res.Header["X-Usage-Units"] != nil {
			t.Errorf("%s: %d units, %d %v", path, cost, res.StatusCode, res.Header)
		}
	}
}

// TestChargeOfLists checks the option with a filtered list, and with an unfilterable one.
func TestChargeOfLists(t *testing.T) {
	h := newFixture(t)
	site := chargedSite{h: h, token: h.limitedKey(keystore.RateLimit{}, monthly(1_000_000))}
	site.Server = h.limitedSite(
		h.handler("namespace acme\ncharge X-Usage-Units\nlist GET /list account\nlist GET /text account"),
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Usage-Units", "30")
			w.Header().Set("Content-Type", map[string]string{"/list": "application/json"}[r.URL.Path])
			_, _ = io.WriteString(w, `["acme","globex"]`)
		})
	for path, status := range map[string]int{"/list": 200, "/text": 502} {
		cost, res := site.cost(t, path, nil)
		if cost != 30 || res.StatusCode != status || res.Header["X-Usage-Units"] != nil {
			t.Errorf("%s: %d units, %d %v", path, cost, res.StatusCode, res.Header)
		}
		if remaining(t, res.Header, "quota") < 0 {
			t.Errorf("%s: RateLimit is missing: %v", path, res.Header)
		}
	}
}

// TestChargeOnce checks that two handlers with the option charge the reported cost once.
func TestChargeOnce(t *testing.T) {
	h := newFixture(t)
	token := h.limitedKey(keystore.RateLimit{}, monthly(1_000_000))
	handler := h.handler("namespace acme\ncharge X-Usage-Units")
	api := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("X-Usage-Units", "40")
		w.Header().Set("X-Rows", "45")
		return nil
	})
	inner := h.handler("namespace acme\ncharge X-Rows")
	both := middleware(func(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
		return handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) error { return inner.ServeHTTP(w, r, api) }))
	})
	a := h.send(both, "GET /"+keyLine(token))
	if a.Header["X-Usage-Units"] != nil || a.Header["X-Rows"] != nil {
		t.Errorf("the client sees the units: %v", a.Header)
	}
	left := remaining(t, a.Header, "quota")
	after := h.send(handler, "GET /"+keyLine(token))
	if cost := left - remaining(t, after.Header, "quota"); cost != 44+1 {
		t.Errorf("the request and another one cost %d units, want 46", cost+1)
	}
}

// TestRefusedRequestLeaves checks that a refused request is not registered as running.
func TestRefusedRequestLeaves(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	h.limit(key.ID, keystore.Limits{Rate: daily(1)}, keystore.Limits{})
	handler := h.handler("namespace acme")
	h.send(handler, "GET /"+keyLine(token))
	conn, peer := net.Pipe()
	defer func() { _ = peer.Close() }()
	if a := h.send(handler, "GET /"+keyLine(token), func(r *http.Request) {
		*r = *r.WithContext(withConn(r.Context(), conn))
	}); a.StatusCode != 429 {
		t.Fatal(a.outcome())
	}
	if _, _, err := h.keys.RevokeKey(t.Context(), manage.Root("test"), key.ID, "test", false,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(conn, "open\n") }()
	if line, err := bufio.NewReader(peer).ReadString('\n'); err != nil || line != "open\n" {
		t.Errorf("the revoke has cut a refused request: %v", err)
	}
}

// TestUnknownQuota checks that responses show no state of a quota that the node has not asked the
// database for. A guess could be too low, and would have to rise later.
func TestUnknownQuota(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	h.limit(key.ID, keystore.Limits{Rate: daily(1)}, keystore.Limits{})
	handler := h.handler("namespace acme")
	h.send(handler, "GET /"+keyLine(token))
	h.limit(key.ID, keystore.Limits{Rate: daily(1), Quota: monthly(10)}, keystore.Limits{})
	a := h.send(handler, "GET /"+keyLine(token))
	checkRefused(t, a, "rate_limited", "rate")
	if states := field(t, a.Header, "RateLimit"); len(states) != 1 {
		t.Errorf("the states are %v, and nobody has asked for the quota", states)
	}
	if policies := field(t, a.Header, "RateLimit-Policy"); len(policies) != 2 {
		t.Errorf("the policies are %v", policies)
	}
}

// waitingContext calls a function when a request begins to wait.
type waitingContext struct {
	context.Context
	waits func()
}

func (c waitingContext) Done() <-chan struct{} {
	c.waits()
	return c.Context.Done()
}

// TestLimitAfterStart checks that a request that waited for the app to start is charged at the end of
// the wait. At the time of its arrival, requests that came later would leave it no room.
func TestLimitAfterStart(t *testing.T) {
	h := newFixture(t)
	token := h.limitedKey(daily(2), keystore.Quota{})
	h.app = &App{started: make(chan struct{})}
	handler := h.handler("namespace acme")
	waits, outcome := make(chan struct{}), make(chan string)
	go func() {
		r := wireRequest(t, "GET /"+keyLine(token))
		outcome <- h.serve(handler, r.WithContext(waitingContext{r.Context(),
			sync.OnceFunc(func() { close(waits) })})).outcome()
	}()
	<-waits
	h.app.store.Store(&store{keys: h.keys})
	if got := h.send(handler, "GET /"+keyLine(token)).outcome(); got != "ok" {
		t.Errorf("a request during the start: %s", got)
	}
	close(h.app.started)
	if got := <-outcome; got != "ok" {
		t.Errorf("a request from before the start: %s", got)
	}
}

// TestRevokeWhileWaitingForQuota checks that a request is not passed on, and that another proxy is
// not told to pass it on, if its key is revoked while it waits for units of its quota.
func TestRevokeWhileWaitingForQuota(t *testing.T) {
	h := newFixture(t)
	const options = "namespace acme\noperation orders:export read GET /export {\ncost 1000\n}\n"
	for more, wire := range map[string]string{
		"":          "GET /export",
		"forwarded": "GET /auth\nX-Forwarded-Method: GET\nX-Forwarded-Uri: /export",
	} {
		key, token := h.key("read")
		h.limit(key.ID, keystore.Limits{Quota: monthly(100_000)}, keystore.Limits{})
		// The first request also waits for its key. The second one waits only for the quota.
		h.send(h.handler("namespace acme"), "GET /"+keyLine(token))
		conn, peer := net.Pipe()
		waited := false
		a := h.send(h.handler(options+more), wire+keyLine(token), trustedPeer,
			func(r *http.Request) {
				*r = *r.WithContext(withConn(waitingContext{r.Context(), sync.OnceFunc(func() {
					waited = true
					revoke(t, h.keys, key.ID)
				})}, conn))
			})
		if !waited || a.seen != nil || a.outcome() != "revoked" {
			t.Errorf("%q: waited: %v, passed on: %v, outcome %s", more, waited, a.seen != nil,
				a.outcome())
		}
		_ = peer.Close()
	}
}

// TestRevokeWhileLookingUp checks the same for a request whose key is revoked while it is looked up.
func TestRevokeWhileLookingUp(t *testing.T) {
	h := newFixture(t)
	for more, wire := range map[string]string{
		"":          "GET /",
		"forwarded": "GET /auth\nX-Forwarded-Method: GET\nX-Forwarded-Uri: /",
	} {
		key, token := h.key("read")
		waited := false
		a := h.send(h.handler("namespace acme\n"+more), wire+keyLine(token), trustedPeer,
			func(r *http.Request) {
				*r = *r.WithContext(waitingContext{r.Context(), sync.OnceFunc(func() {
					waited = true
					time.Sleep(20 * time.Millisecond) // the database has probably answered
					revoke(t, h.keys, key.ID)
				})})
			})
		if !waited || a.seen != nil || a.outcome() != "revoked" {
			t.Errorf("%q: waited: %v, passed on: %v, outcome %s", more, waited, a.seen != nil,
				a.outcome())
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, test := range []struct {
		retry       time.Duration
		least, most int64
	}{
		{0, 1, 1}, {900 * time.Millisecond, 1, 1}, {900*time.Millisecond + 1, 2, 2},
		{time.Second, 2, 2}, {32 * time.Second, 33, 33}, {99 * time.Second, 100, 103},
		{24*time.Hour - time.Second, 86400, 88992},
	} {
		seen := map[int64]bool{}
		for range 1000 {
			seconds, err := strconv.ParseInt(retryAfterValue(test.retry), 10, 64)
			if err != nil || seconds < test.least || seconds > test.most {
				t.Fatalf("%v: %d, %v", test.retry, seconds, err)
			}
			seen[seconds] = true
		}
		if test.most > test.least && len(seen) < 3 {
			t.Errorf("%v has no jitter", test.retry)
		}
	}
}

// TestLimitAllocations limits the additional allocations of a limited request to two: the value of
// RateLimit and the array of header values.
func TestLimitAllocations(t *testing.T) {
	h := newFixture(t)
	handler := h.handler("namespace acme")
	_, unlimited := h.key("read")
	limited := h.limitedKey(keystore.RateLimit{Requests: 1_000_000, Per: time.Second,
		Burst: 1_000_000}, keystore.Quota{}) // a quota is granted in the background
	allocations := func(token string) float64 {
		const runs = 200
		requests := make([]*repeater, runs+1)
		for i := range requests {
			requests[i] = newRepeater(t, "GET /"+keyLine(token))
			requests[i].serve(t, handler)
			delete(requests[i].w.header, rateLimitField)
		}
		i := 0
		return testing.AllocsPerRun(runs, func() { requests[i].serve(t, handler); i++ })
	}
	if more := allocations(limited) - allocations(unlimited); more > 2 {
		t.Errorf("a limited request has %v more allocations, want at most 2", more)
	}
}
