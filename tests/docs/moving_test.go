package docs

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestMovingFromForwardAuth runs the Caddyfile of docs/moving.md, in which programs have keys and
// people a login. Neither may forge the headers of the other.
func TestMovingFromForwardAuth(t *testing.T) {
	t.Parallel()
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "session=ada" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Remote-User", "ada")
	}))
	t.Cleanup(login.Close)
	site := replace(t, block(t, "docs/moving.md", "## From `forward_auth`", "caddyfile"),
		"localhost:9091", strings.TrimPrefix(login.URL, "http://"),
		"localhost:9000", "{$GATE_UPSTREAM}")
	_, site, _ = strings.Cut(site, "api.example.com {\n")
	g := gate.Start(t, gate.Config{Site: strings.TrimSuffix(strings.TrimSpace(site), "}")})
	key := g.Mint(t, gate.JSON{"name": "ERP", "access": "read_only"})
	revoked := g.Mint(t, gate.JSON{"name": "old", "access": "read_only"})
	g.Revoke(t, revoked.ID)

	for _, test := range []struct {
		name      string
		header    []string
		status    int
		user, key string // what the API is told about a person and about a key
	}{
		{"nothing", nil, 401, "", ""},
		{"a key", []string{"Authorization: Bearer " + string(key.Token)}, 200, "", "ERP"},
		{"a key in X-API-Key", []string{"X-API-Key: " + string(key.Token)}, 200, "", "ERP"},
		{"a session", []string{"Cookie: session=ada"}, 200, "ada", ""},
		{"a revoked key", []string{"Authorization: Bearer " + string(revoked.Token)}, 401, "", ""},
		{"a revoked key and a session", []string{"Cookie: session=ada",
			"X-API-Key: " + string(revoked.Token)}, 401, "", ""},
		{"a key that names a person", []string{"Remote-User: root", "Remote-Groups: admins",
			"X-API-Key: " + string(key.Token)}, 200, "", "ERP"},
		{"a session that names a key", []string{"Cookie: session=ada", "X-Apikey-Name: ERP",
			"Remote-User: root", "Remote-Groups: admins"}, 200, "ada", ""},
		{"no session but headers", []string{"Remote-User: root", "X-Apikey-Name: ERP"}, 401, "",
			""},
	} {
		r := g.Do(t, gate.Request{Header: test.header})
		if r.Status != test.status {
			t.Errorf("%s: %v", test.name, r)
			continue
		}
		for _, reached := range r.Reached {
			if user, name, groups := reached.Header.Get("Remote-User"),
				reached.Header.Get("X-Apikey-Name"),
				reached.Header.Get("Remote-Groups"); user != test.user || name != test.key ||
				groups != "" {
				t.Errorf("%s: the API is told that %q, groups %q, or the key %q calls", test.name,
					user, groups, name)
			}
		}
	}
}
