package adversarial

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestOneOutcomeEverywhere checks that the response, the metric and the access log agree.
func TestOneOutcomeEverywhere(t *testing.T) {
	t.Parallel()
	const anonymous = "anonymous.example.com"
	w := start(t, gate.Config{APIKey: operations + "foreign pass\npreflight",
		Sites: map[string]gate.Config{anonymous: {APIKey: "optional"}}})
	items := []string{"items:read"}
	w.mint(t, "Inactive", gate.JSON{"permissions": items, "active": false})
	w.mint(t, "Address", gate.JSON{"permissions": items, "allowed_ips": []string{"10.0.0.0/8"}})
	deleted := w.mint(t, "Deleted", gate.JSON{"permissions": items})
	w.Revoke(t, deleted.ID)
	w.Call(t, "DELETE", "/keys/"+deleted.ID, nil)
	w.Rotate(t, w.mint(t, "Rotated", gate.JSON{"permissions": items}).ID, "0s")
	expires := time.Now().Add(3 * time.Second) // minting may take long on a busy machine
	w.mint(t, "Expired", gate.JSON{"permissions": items,
		"expires_at": expires.UTC().Format(time.RFC3339Nano)})
	time.Sleep(time.Until(expires)) // nothing signals the expiry

	for host, rows := range map[string]map[string]row{ // by host and outcome
		"": {
			"ok": {send: "GET /v1/items/1", header: []string{"X-API-Key: {R}"},
				want: "200"},
			"missing": {send: "GET /v1/items/1", want: "401 missing_key"},
			"ambiguous": {send: "GET /v1/items/1",
				header: []string{"X-API-Key: a", "X-API-Key: b"},
				want:   "400 ambiguous_credentials"},
			"bad_target": {send: "GET //", want: "400 non_canonical_target"},
			"malformed": {send: "GET /v1/items/1", header: []string{"X-API-Key: {J}"},
				want: "401 invalid_key"},
			"public": {send: "GET /public/1", want: "200", as: "-"},
			"preflight": {send: "OPTIONS /x",
				header: []string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"},
				want:   "204"},
			"foreign": {send: "GET /x", header: []string{"Authorization: Bearer e30"},
				want: "200", as: "-"},
			"unknown": {send: "GET /v1/items/1", header: []string{"X-API-Key: {Deleted}"},
				want: "401 invalid_key"},
			"rotated": {send: "GET /v1/items/1", header: []string{"X-API-Key: {Rotated}"},
				want: "401 invalid_key"},
			"inactive": {send: "GET /v1/items/1", header: []string{"X-API-Key: {Inactive}"},
				want: "401 key_inactive"},
			"revoked": {send: "GET /v1/items/1", header: []string{"X-API-Key: {X}"},
				want: "401 key_revoked"},
			"expired": {send: "GET /v1/items/1", header: []string{"X-API-Key: {Expired}"},
				want: "401 key_expired"},
			"method": {send: "PURGE /v1/items/1", want: "405 method_not_allowed"},
			"forbidden": {send: "GET /v1/admin/1", header: []string{"X-API-Key: {R}"},
				want: "403 insufficient_permission"},
			"address": {send: "GET /v1/items/1", header: []string{"X-API-Key: {Address}"},
				want: "403 address_not_allowed"},
		},
		anonymous: {
			"anonymous": {send: "GET /v1/items/1", want: "200", as: "-"},
		},
	} {
		w.host = host
		for outcome, r := range rows {
			counted := func(labels ...string) float64 {
				return w.Metric(t, "caddy_apikeys_requests_total", labels...)
			}
			all, before := counted(), counted("outcome="+outcome)
			r.what, r.on = outcome, "1"
			w.run(t, []row{r})
			if more, moreOfAll := counted("outcome="+outcome)-before, counted()-all; more != 1 ||
				moreOfAll != 1 {
				t.Errorf("%s: one request was counted %v times, %v times under all outcomes",
					outcome, more, moreOfAll)
			}
			var entry map[string]any
			gate.Until(t, "the access log has "+outcome, func() bool {
				lines := strings.Split(strings.TrimSpace(w.AccessLog()), "\n")
				entry = nil
				return json.Unmarshal([]byte(lines[len(lines)-1]), &entry) == nil &&
					entry["api_key_outcome"] == outcome
			})
			id, _ := entry["api_key_id"].(string)
			switch outcome {
			case "ok", "forbidden":
				if id != w.ids["R"] || entry["api_key_namespace"] != "default" {
					t.Errorf("%s: the access log names key %q in %v", outcome, id,
						entry["api_key_namespace"])
				}
			case "rotated":
				if id != w.ids["Rotated"] {
					t.Errorf("%s: the access log names key %q", outcome, id)
				}
			case "missing", "ambiguous", "bad_target", "malformed", "public", "preflight",
				"foreign", "unknown", "method", "anonymous":
				if id != "" {
					t.Errorf("%s: the access log names key %q", outcome, id)
				}
			}
		}
	}
}

// TestPlaceholders checks the placeholders that later handlers can use.
func TestPlaceholders(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{Site: `
		api_key {
			` + operations + `
		}
		reverse_proxy {$GATE_UPSTREAM} {
			header_up Seen-User {http.auth.user.id}
			header_up Seen-Namespace {http.api_key.namespace}
			header_up Seen "{http.api_key.id}|{http.api_key.name}|{http.api_key.owner}|{http.api_key.outcome}"
		}`})
	id := w.ids["R"]
	w.run(t, []row{
		{what: "a key", send: "GET /v1/items/1", header: []string{"X-API-Key: {R}"}, want: "200",
			kept: []string{"Seen-User: " + id, "Seen-Namespace: default",
				"Seen: " + id + "|R|root|ok"}},
		{what: "public", send: "GET /public/1", want: "200", as: "-",
			kept: []string{"Seen: |||public"}},
	})
}

// TestRevokedUnderLoad checks the promise on one node: no request that was sent after the revoke
// returned is accepted, on old and new connections. A key is valid as soon as it is minted.
func TestRevokedUnderLoad(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	for range 5 {
		k := w.mint(t, "K", gate.JSON{"permissions": []string{"items:read"}})
		if r := w.Get(t, "/v1/items/1", k.Token); r.Status != 200 {
			t.Fatalf("a new key: %v", r)
		}
		type answer struct {
			sent   time.Time
			status int
		}
		var (
			mu      sync.Mutex
			answers []answer
			stop    = make(chan struct{})
			senders sync.WaitGroup
		)
		for _, protocol := range gate.Protocols {
			client, url := w.Client(t, protocol)
			for range 4 {
				senders.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						r, _ := http.NewRequest("GET", url+"/v1/items/1", nil)
						r.Header.Set("Authorization", "Bearer "+string(k.Token))
						a := answer{sent: time.Now()}
						response, err := client.Do(r)
						if err != nil {
							continue // cut while it was running
						}
						io.Copy(io.Discard, response.Body)
						response.Body.Close()
						a.status = response.StatusCode
						mu.Lock()
						answers = append(answers, a)
						mu.Unlock()
					}
				})
			}
		}
		enough := func(n int) func() bool {
			return func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(answers) >= n
			}
		}
		gate.Until(t, "a hundred responses before the revoke", enough(100))
		w.Revoke(t, k.ID)
		revoked := time.Now()
		mu.Lock()
		n := len(answers)
		mu.Unlock()
		gate.Until(t, "a hundred responses after the revoke", enough(n+100))
		close(stop)
		senders.Wait()
		seen := map[string]int{}
		for _, a := range answers {
			seen[fmt.Sprintf("%d, sent after the revoke: %v", a.status, a.sent.After(revoked))]++
		}
		if seen["200, sent after the revoke: true"] != 0 ||
			seen["200, sent after the revoke: false"] == 0 ||
			seen["401, sent after the revoke: true"] == 0 {
			t.Errorf("answers: %v", seen)
		}
	}
}
