package limits

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// daily is a rate limit that does not refill during a test.
func daily(requests int) gate.JSON { return rate(requests, "24h") }

func rate(requests int, per string) gate.JSON {
	return gate.JSON{"requests": requests, "per": per}
}

// monthly is a quota. Near the end of a month, it waits for the next one, so that the test sees only
// one period.
func monthly(units int) gate.JSON {
	if _, end := keystore.Month.Of(time.Now()); time.Until(end) < 10*time.Minute {
		time.Sleep(time.Until(end))
	}
	return gate.JSON{"requests": units, "per": "month"}
}

// limitedKey creates a key with limits. When it returns, all nodes know the key, and each other: they
// have learned both in the same renewal of their leases.
func limitedKey(t *testing.T, g *gate.Gate, limits gate.JSON) gate.Key {
	t.Helper()
	k := g.Mint(t, gate.JSON{"name": "k", "access": "read_write"})
	g.Patch(t, k.ID, limits)
	return k
}

// A limitState is a member of the field RateLimit: what is left, and the seconds until there is more.
type limitState struct{ left, seconds int }

var member = regexp.MustCompile(`"([a-z-]+)";r=(\d+);t=(\d+)`)

// states returns the members of the field RateLimit by name.
func states(r gate.Response) map[string]limitState {
	states := map[string]limitState{}
	for _, value := range r.Header.Values("RateLimit") {
		for _, found := range member.FindAllStringSubmatch(value, -1) {
			var s limitState
			s.left, _ = strconv.Atoi(found[2])
			s.seconds, _ = strconv.Atoi(found[3])
			states[found[1]] = s
		}
	}
	return states
}

// left returns what is left of a limit after a response.
func left(t *testing.T, r gate.Response, limit string) int {
	t.Helper()
	s, ok := states(r)[limit]
	if !ok {
		t.Fatalf("no limit %s: %v", limit, r)
	}
	return s.left
}

// admits fails the test unless a gate admits exactly n requests with a key, one after the other.
func admits(t *testing.T, g *gate.Gate, k gate.Key, n int) {
	t.Helper()
	for i := range n + 1 {
		r := g.Get(t, "/v1/items/1", k.Token)
		if want := map[bool]int{true: 200, false: 429}[i < n]; r.Status != want {
			t.Fatalf("request %d of %d: want %d, got %v", i+1, n, want, r)
		}
	}
}

// wantRefused checks a refusal: the code, the violated policies and Retry-After.
func wantRefused(t *testing.T, r gate.Response, code string, violated ...string) {
	t.Helper()
	retry, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if r.Status != 429 || r.Code() != code || len(r.Reached) > 0 || err != nil || retry < 1 ||
		fmt.Sprint(r.JSON()["violated-policies"]) != fmt.Sprint(violated) {
		t.Fatalf("want a refusal with %s by %v, got %v", code, violated, r)
	}
	for _, limit := range violated {
		if s := states(r)[limit]; s.left != 0 || retry < s.seconds {
			t.Errorf("Retry-After is %d, and %s has %d left and more in %d s", retry, limit, s.left,
				s.seconds)
		}
	}
}

// metrics returns the metrics of a gate as text.
func metrics(t *testing.T, g *gate.Gate) string {
	t.Helper()
	r, err := http.Get("http://" + g.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
