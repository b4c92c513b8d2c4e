package scenarios

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestSecretsOfAWholeRun uses tokens in every correct and incorrect way, with debug logs and a
// failing upstream. It searches the responses for the tokens. The harness then searches everything
// that Caddy wrote.
func TestSecretsOfAWholeRun(t *testing.T) {
	t.Parallel()
	site := `
		@gone path /gone
		api_key {
			from bearer
			from header X-API-Key
			from header Authorization Token
			from basic
			from query key
			from cookie session
			public /public
			errors caddy
		}
		reverse_proxy @gone 127.0.0.1:1
		reverse_proxy {$GATE_UPSTREAM}
		handle_errors {
			respond "{err.message} {err.status_code}" {err.status_code}
		}`
	config := gate.Config{Site: site, Global: "debug", Servers: "trace"}
	g := gate.Start(t, config)
	live := g.Mint(t, gate.JSON{"name": "live", "access": "read_only"}).Token
	dead := g.Mint(t, gate.JSON{"name": "dead", "access": "read_only"})
	g.Revoke(t, dead.ID)
	rotated := g.Mint(t, gate.JSON{"name": "rotated", "access": "read_only"})
	renewed := g.Rotate(t, rotated.ID, "0s").Token
	const imported = "an-imported-token/of.1234567890"
	g.Import(t, gate.JSON{"name": "imported", "access": "read_only", "token": imported})
	mistyped := live[:len(live)-1] + "~"
	unknown := gate.Token("no-such-imported-token-0123456789")
	gate.Watch(string(mistyped), string(unknown))
	tokens := map[string]gate.Token{"live": live, "revoked": dead.Token,
		"rotated": rotated.Token, "renewed": renewed, "imported": imported,
		"mistyped": mistyped, "unknown": unknown}

	basic := func(user, password string) string {
		encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		gate.Watch(encoded)
		return "Authorization: Basic " + encoded
	}
	for name, token := range tokens {
		as := string(token)
		for _, protocol := range gate.Protocols {
			for _, target := range []string{"/x", "/gone", "/public", "/a/../b"} {
				for _, r := range []gate.Request{
					{Header: []string{"authorization: Bearer " + as}},
					{Header: []string{"authorization: Bearer secret-token:" + as}},
					{Header: []string{"authorization: Token " + as}},
					{Header: []string{"x-api-key: " + as}},
					{Header: []string{strings.Replace(basic("user", as), "Authorization",
						"authorization", 1)}},
					{Header: []string{strings.Replace(basic(as, ""), "Authorization",
						"authorization", 1)}},
					{Header: []string{"cookie: a=b; session=" + as}},
					{Target: "?key=" + url.QueryEscape(as)},
					// ambiguous
					{Header: []string{"x-api-key: " + as, "authorization: Bearer " + as}},
					{Method: "PURGE", Header: []string{"x-api-key: " + as}},
				} {
					r.Protocol, r.Target = protocol, target+r.Target
					got := g.Do(t, r)
					if answer := fmt.Sprint(got.Header, string(got.Body)); got.Status != 200 &&
						strings.Contains(answer, as) {
						t.Errorf("the response to a %s token, in a %s of %s with %d headers, "+
							"contains it", name, r.Method, target, len(r.Header))
					}
				}
			}
		}
	}
	// Tokens in wrong places. Only those with the form of a token can be recognized there.
	for _, r := range []gate.Request{
		{Target: "/" + string(live) + "/in/the/path"},
		{Target: "/x?other=" + string(live)},
		{Header: []string{"Referer: http://example.com/?key=" + string(live),
			"User-Agent: " + string(live), "X-Anything: " + string(live)}},
		{Header: []string{"Authorization: Beerer " + string(live)}},
	} {
		g.Do(t, r)
	}

	// Management requests with tokens in wrong places.
	for _, r := range []gate.Response{
		g.Call(t, "GET", "/keys/"+string(live), nil),
		g.Call(t, "GET", "/keys?q="+string(live), nil),
		g.Call(t, "POST", "/keys", gate.JSON{"name": "n", "access": string(live)}),
		g.Call(t, "POST", "/keys", `{"name":"`+string(live)),
		g.Call(t, "POST", "/keys/import",
			gate.JSON{"keys": []gate.JSON{{"name": "again", "access": "read_only",
				"token": imported}}}),
		g.Call(t, "POST", "/keys/import?partial=1",
			gate.JSON{"keys": []gate.JSON{{"name": "short", "access": "everything",
				"token": unknown}}}),
		g.Call(t, "POST", "/verify", gate.JSON{"token": live}),
		g.Call(t, "POST", "/verify", gate.JSON{"token": string(mistyped),
			"permission": "everything"}),
		g.Call(t, "GET", "/health?key="+string(live), nil),
	} {
		for name, token := range tokens {
			if strings.Contains(fmt.Sprint(r.Header, string(r.Body)), string(token)) {
				t.Errorf("a response of the admin endpoint with status %d contains the %s token",
					r.Status, name)
			}
		}
	}
	for _, args := range [][]string{{"keys", "show", string(live)},
		{"keys", "revoke", "--yes", string(live)}, {"verify", string(live)}, {"keys", "mint",
			"--name", "x", string(live)}} {
		if r := g.APIKeys(t, "", args...); r.Exit == 0 ||
			strings.Contains(r.Stdout+r.Stderr, string(live)) {
			t.Errorf("apikeys %s with a token as an argument: exit %d, or the output contains it",
				args[0], r.Exit)
		}
	}
	for _, token := range tokens {
		if r := g.APIKeys(t, string(token)+"\n", "verify"); strings.Contains(r.Stdout+r.Stderr,
			string(token)) {
			t.Error("verify repeats the token")
		}
	}
	if r := g.Reload(t, config); r.Exit != 0 {
		t.Error(r)
	}
	g.Restart(t)
	g.Get(t, "/x", live)
}
