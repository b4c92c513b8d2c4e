package bench

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// consoleSite is a separate site of the same Caddy, so that the site of the other measurements
// stays unchanged.
const (
	consoleHost = "console.localhost"
	consoleSite = "http://" + consoleHost + `:{$GATE_HTTP} {
	api_keys_admin
}
`
)

// benchmarkConsole measures pages of the console, and returns them as a table.
func benchmarkConsole(b *testing.B, g *gate.Gate, m manager) string {
	var member, minted struct{ ID, Token string }
	m.call(b, "POST", "/members",
		[]byte(`{"name":"Ada","kind":"person","grants":[{"namespace":"*","roles":["client-admin"]}]}`),
		201, &member)
	m.call(b, "POST", "/members/"+member.ID+"/token", []byte("{}"), 200, &minted)
	key, _ := m.mint(b)

	cookie := ""
	ask := func(method, path, form string) *http.Response {
		b.Helper()
		r, err := http.NewRequestWithContext(b.Context(), method, g.URL+path,
			strings.NewReader(form))
		if err != nil {
			b.Fatal(err)
		}
		r.Host = consoleHost
		r.Header.Set("Cookie", cookie)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		return answer
	}
	answer := ask("POST", "/apikeys/sign-in", url.Values{"token": {minted.Token}}.Encode())
	answer.Body.Close()
	for _, c := range answer.Cookies() {
		cookie = c.Name + "=" + c.Value
	}
	if answer.StatusCode != http.StatusSeeOther || cookie == "" {
		b.Fatalf("signing in: %s", answer.Status)
	}

	var t strings.Builder
	fmt.Fprintf(&t,
		"\nPages of the console, %d calls each, or one call if it takes longer than a "+
			"second.\n\n| page "+
			"| p50 | longest |\n|---|--:|--:|\n", lists)
	slowest := time.Duration(0)
	for _, path := range []string{
		"keys", "keys?sort=created_at", "keys?namespace=default", "keys?namespace=ns7",
		"keys?namespace=ns7&sort=name", "keys?namespace=ns7&sort=expires_at", "keys?sort=name",
		"keys?status=active", "keys?status=inactive", "keys?status=revoked", "keys?q=number+77",
		"keys?q=nowhere", "keys?namespace=ns7&q=nowhere", "keys?role=nobody",
		"keys/" + key, "audit", "audit?namespace=ns7", "audit?object=" + key,
		"audit?action=member.create", "audit?actor=" + member.ID, "namespaces/ns7",
		"members/" + member.ID,
	} {
		times, found := timed(func() string {
			answer := ask("GET", "/apikeys/"+path, "")
			defer answer.Body.Close()
			if _, err := io.Copy(io.Discard, answer.Body); err != nil {
				b.Fatal(err)
			}
			// The console cannot sort this many keys.
			if answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusSeeOther &&
				path == "keys?sort=name" {
				return ""
			}
			return " **" + answer.Status + "**"
		})
		if strings.HasPrefix(path, "keys?") || path == "keys" {
			slowest = max(slowest, quantile(times, 0.5))
		}
		fmt.Fprintf(&t, "| `%s`%s | %v | %v |\n",
			strings.ReplaceAll(strings.ReplaceAll(path, key, "{id}"), member.ID, "{id}"), found,
			tens(quantile(times, 0.5)), tens(times[len(times)-1]))
	}
	report.bar("slowest page of the console's table of keys, p50", "≤ 100 ms",
		fmt.Sprint(tens(slowest)), slowest <= 100*time.Millisecond)
	return t.String()
}

// timed calls f several times, or once if it takes longer than a second. It returns the sorted
// durations and the last result.
func timed(f func() string) (times []time.Duration, last string) {
	for len(times) < lists && (len(times) == 0 || times[0] < time.Second) {
		begin := time.Now()
		last = f()
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	return times, last
}
