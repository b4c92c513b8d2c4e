package adversarial

import (
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestPrecedence checks which refusal a request with several faults gets.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	elsewhere := []string{"10.0.0.0/8"}
	soon := time.Now().Add(4 * time.Second) // minting may take long on a busy machine
	expires := soon.UTC().Format(time.RFC3339Nano)
	nothing := []string{"nothing:here"}
	w.mint(t, "Expired", gate.JSON{"permissions": nothing, "allowed_ips": elsewhere,
		"expires_at": expires})
	w.mint(t, "ExpiredInactive", gate.JSON{"permissions": nothing, "allowed_ips": elsewhere,
		"expires_at": expires, "active": false})
	revoked := w.mint(t, "RevokedExpiredInactive",
		gate.JSON{"permissions": nothing, "allowed_ips": elsewhere, "expires_at": expires,
			"active": false})
	w.mint(t, "Inactive", gate.JSON{"permissions": nothing, "allowed_ips": elsewhere,
		"active": false})
	w.mint(t, "Address", gate.JSON{"permissions": nothing, "allowed_ips": elsewhere})
	w.mint(t, "Forbidden", gate.JSON{"permissions": nothing})
	w.Revoke(t, revoked.ID)
	time.Sleep(time.Until(soon)) // nothing signals the expiry

	key := func(name string) []string { return []string{"X-API-Key: {" + name + "}"} }
	item := " /v1/items/1"
	w.run(t, []row{
		{what: "target before method", send: "TRACE /v1//items", want: "400 non_canonical_target"},
		{what: "target before method on public", send: "TRACE /public//1",
			want: "400 non_canonical_target"},
		{what: "target before ambiguous", send: "GET /v1//items",
			header: []string{"X-API-Key: a", "X-API-Key: b"}, want: "400 non_canonical_target"},
		{what: "target before revoked", send: "GET /v1//items",
			header: key("RevokedExpiredInactive"), want: "400 non_canonical_target"},
		{what: "method before public", send: "TRACE /public/1", want: "405 method_not_allowed"},
		{what: "method before ambiguous", send: "TRACE" + item,
			header: []string{"X-API-Key: a", "X-API-Key: b"}, want: "405 method_not_allowed"},
		{what: "method before missing", send: "PURGE" + item, want: "405 method_not_allowed"},
		{what: "public before ambiguous", send: "GET /public/1",
			header: []string{"X-API-Key: a", "X-API-Key: b"}, want: "200", as: "-"},
		{what: "public before revoked", send: "GET /public/1", header: key("X"), want: "200",
			as: "-", passes: true},
		{what: "ambiguous before missing", send: "GET" + item,
			header: []string{"X-API-Key:", "X-API-Key:"}, want: "400 ambiguous_credentials"},
		{what: "ambiguous before malformed", send: "GET" + item,
			header: []string{"X-API-Key: a", "Authorization: Bearer b"},
			want:   "400 ambiguous_credentials"},
		{what: "ambiguous before revoked", send: "GET" + item,
			header: []string{"X-API-Key: {X}", "Authorization: Bearer {X}"},
			want:   "400 ambiguous_credentials"},
		{what: "revoked before expired", send: "GET" + item, header: key("RevokedExpiredInactive"),
			want: "401 key_revoked"},
		{what: "expired before inactive", send: "GET" + item, header: key("ExpiredInactive"),
			want: "401 key_expired"},
		{what: "expired before address", send: "GET" + item, header: key("Expired"),
			want: "401 key_expired"},
		{what: "inactive before address", send: "GET" + item, header: key("Inactive"),
			want: "401 key_inactive"},
		{what: "address before forbidden", send: "GET" + item, header: key("Address"),
			want: "403 address_not_allowed"},
		{what: "forbidden last", send: "GET" + item, header: key("Forbidden"),
			want: "403 insufficient_permission"},
	})
}

// TestExpiryBoundary checks that a key is valid until just before expires_at.
func TestExpiryBoundary(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	for range 3 {
		expires := time.Now().Add(1200 * time.Millisecond).Truncate(time.Millisecond)
		k := w.mint(t, "E", gate.JSON{"permissions": []string{"items:read"},
			"expires_at": expires.UTC().Format(time.RFC3339Nano)})
		accepted := 0
		for {
			sent := time.Now()
			got := w.Get(t, "/v1/items/1", k.Token)
			answered := time.Now()
			if got.Status == 200 {
				accepted++
				if !sent.Before(expires) {
					t.Fatalf("accepted, though sent %v after expires_at", sent.Sub(expires))
				}
				continue
			}
			if got.Code() != "key_expired" {
				t.Fatalf("want key_expired, got %v", got)
			}
			if answered.Before(expires) {
				t.Fatalf("refused %v before expires_at", expires.Sub(answered))
			}
			break
		}
		if accepted == 0 {
			t.Error("never accepted before expires_at")
		}
	}
}
