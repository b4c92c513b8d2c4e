package caddymodule

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestForwarded(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	const options = "namespace_path /v1/{namespace}/**\nnamespace acme\npublic /health\noptional\n"
	const get = "\nX-Forwarded-Method: GET\nX-Forwarded-Uri: "
	for _, test := range []struct {
		name, more, wire, outcome string
		status, nginx             int
	}{
		{"allowed", "", "GET /auth" + get + "/v1/acme/x?y" + keyLine(token), "ok", 204, 204},
		{"the method of the proxy's request is ignored", "",
			"POST /auth" + get + "/v1/acme/x" + keyLine(token), "ok", 204, 204},
		{"by the forwarded method", "",
			"GET /auth\nX-Forwarded-Method: POST\nX-Forwarded-Uri: /v1/acme" + keyLine(token),
			"forbidden", 403, 403},
		{"by the forwarded path", "", "GET /v1/acme" + get + "/v1/globex" + keyLine(token),
			"forbidden", 403, 403},
		{"key in the forwarded query", "from query key",
			"GET /auth" + get + "/v1/acme?key=" + token, "ok", 204,
			204},
		{"key in the query of the proxy's request", "from query key\n",
			"GET /auth?key=" + token + get + "/v1/acme",
			"anonymous", 204, 204},
		{"public", "", "GET /auth" + get + "/health", "public", 204, 204},
		{"anonymous", "", "GET /auth" + get + "/v1/acme", "anonymous", 204, 204},
		{"a comma in the path", "", "GET /auth" + get + "/v1/acme/1,2" + keyLine(token), "ok", 204,
			204},
		{"a comma in the query", "", "GET /auth" + get + "/v1/acme?fields=a,b" + keyLine(token),
			"ok", 204, 204},
		{"joined targets", "", "GET /auth" + get + "/health, /v1/acme" + keyLine(token),
			"bad_target", 400, 403},
		{"joined targets without a space", "", "GET /auth" + get + "/health,/v1/acme", "bad_target",
			400, 403},
		{"joined targets, a query before", "", "GET /auth" + get + "/health?a,/v1/acme",
			"bad_target", 400, 403},
		{"joined targets, a URI", "", "GET /auth" + get + "/health,https://x/v1/acme", "bad_target",
			400, 403},
		{"a space", "", "GET /auth" + get + "/health /v1/acme", "bad_target", 400, 403},
		{"a space in the query", "", "GET /auth" + get + "/health? /v1/acme", "bad_target", 400,
			403},
		{"a tab", "", "GET /auth" + get + "/health?\t/v1/acme", "bad_target", 400, 403},
		{"malformed", "", "GET /auth" + get + "/v1/acme" + keyLine(junk), "malformed", 401, 401},
		{"ambiguous", "", "GET /auth" + get + "/v1/acme\nX-API-Key: a" + keyLine(junk), "ambiguous",
			400, 403},
		{"method", "", "GET /auth\nX-Forwarded-Method: PURGE\nX-Forwarded-Uri: /v1/acme" +
			keyLine(token), "method", 405, 403},
		{"target", "", "GET /auth" + get + "/v1/../acme" + keyLine(token), "bad_target", 400, 403},
		{"no leading slash", "", "GET /auth" + get + "http://x/v1/acme" + keyLine(token),
			"bad_target", 400, 403},
		{"no method", "", "GET /auth\nX-Forwarded-Uri: /v1/acme" + keyLine(token), "bad_target",
			400, 403},
		{"no target", "", "GET /auth\nX-Forwarded-Method: GET" + keyLine(token), "bad_target", 400,
			403},
		{"two methods", "", "GET /auth\nX-Forwarded-Method: GET" + get + "/v1/acme" +
			keyLine(token), "bad_target", 400, 403},
		{"two targets", "", "GET /auth\nX-Forwarded-Uri: /health" + get + "/v1/acme" +
			keyLine(token), "bad_target", 400, 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			for style, status := range map[string]int{"forwarded": test.status, "forwarded nginx": test.nginx} {
				a := h.send(h.handler(options+test.more+"\n"+style), test.wire, trustedPeer)
				if a.seen != nil {
					t.Fatal("the next handler was called")
				}
				if a.outcome() != test.outcome || a.StatusCode != status {
					t.Fatalf("%s: %s %d, want %s %d", style, a.outcome(), a.StatusCode,
						test.outcome, status)
				}
				if identified := a.Header.Get("X-Apikey-Id") == key.ID; identified != (test.outcome == "ok") {
					t.Errorf("%s: %v", style, a.Header)
				}
				if a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: the decision may be cached", style)
				}
				if status >= 400 {
					checkProblem(t, a, test.wire)
					if code := a.Header.Get("X-Apikey-Code"); (style == "forwarded nginx") != (code != "") || !strings.Contains(a.body, `"code":"`+code) {
						t.Errorf("%s: code %q, %s", style, code, a.body)
					}
				}
			}
		})
	}
	a := h.send(h.handler(options+"forwarded"), "GET /auth"+get+"/health")
	if a.StatusCode != http.StatusForbidden || a.outcome() != "untrusted_proxy" ||
		!strings.Contains(a.body, "untrusted_proxy") {
		t.Errorf("untrusted peer: %d %s", a.StatusCode, a.body)
	}
}

// TestRevokeKeepsTheProxysConnection checks that a revoke does not close a connection on which a
// proxy has asked about the key, because it asks about others too.
func TestRevokeKeepsTheProxysConnection(t *testing.T) {
	h := newFixture(t)
	key, token := h.key("read")
	client, conn := net.Pipe()
	defer client.Close()
	r := wireRequest(t, "GET /auth\nX-Forwarded-Method: GET\nX-Forwarded-Uri: /"+keyLine(token))
	a := h.serve(h.handler("namespace acme\nforwarded"),
		r.WithContext(context.WithValue(r.Context(), connKey{}, conn)), trustedPeer)
	if a.outcome() != "ok" {
		t.Fatal(a.outcome())
	}
	revoke(t, h.keys, key.ID)
	go func() { _, _ = conn.Write([]byte("more")) }()
	if err := client.SetDeadline(time.Now().Add(atOnce)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, len("more"))); err != nil {
		t.Error(err)
	}
}
