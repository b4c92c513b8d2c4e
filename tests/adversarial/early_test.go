package adversarial

import (
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestEarlyData checks that early data, which an attacker could replay, is refused for writes and
// for keys that are restricted to addresses (RFC 8470).
func TestEarlyData(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations, HTTP3: true})
	w.mint(t, "Loop", gate.JSON{"permissions": []string{"items:read"},
		"allowed_ips": []string{"127.0.0.0/8"}})
	w.mint(t, "Put", gate.JSON{"permissions": []string{"items:*"}})
	early := func(method, key string) gate.Response {
		return w.Early(t, gate.Request{Method: method, Target: "/v1/items/1",
			Header: w.expandAll(t, []string{"X-API-Key: {" + key + "}"})})
	}
	w.judge(t, row{want: "200"}, "/v1/items/1", early("GET", "R"))
	w.judge(t, row{want: "401 key_revoked"}, "", early("PUT", "X"))
	for _, c := range []struct{ what, method, key string }{
		{"a write", "PUT", "Put"}, {"a key with addresses", "GET", "Loop"},
		{"a write that is forbidden", "PUT", "R"},
	} {
		refused := false
		for range 20 { // until Caddy handles the request before the handshake is complete
			got := early(c.method, c.key)
			if refused = got.Status == 425; refused {
				w.judge(t, row{want: "425 too_early"}, "", got)
				break
			}
		}
		if !refused {
			t.Errorf("%s: none of 20 requests in early data got 425", c.what)
		}
	}
}
