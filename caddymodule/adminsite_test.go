package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// loadSite loads a config with a site, on the socket `site`, that has api_keys_admin, and other handlers before and after it.
func (g *gate) loadSite(before ...object) {
	handlers := append(before, object{"handler": "api_keys_admin"}, object{"handler": "static_response", "status_code": 418, "body": "next"})
	g.load(g.config(sqlite(g.path("keys.db"), nil), func(_, apps object) {
		apps["http"] = object{"servers": object{"site": object{
			"listen":               []string{"unix/" + g.path("site")},
			"trusted_proxies_unix": true,
			"routes":               []object{{"handle": handlers}},
		}}}
	}))
}

func (g *gate) mustDo(method, server, path, body string, headers ...string) string {
	g.t.Helper()
	status, answer := g.do(method, server, path, body, headers...)
	if status/100 != 2 {
		g.t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

func idOf(t *testing.T, token string) string {
	t.Helper()
	parsed, err := keystore.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.ID()
}

func withBearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

func TestAdminSite(t *testing.T) {
	g := newGate(t)
	g.loadSite()
	manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}})
	plain := g.mint(nil)
	office := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}, "allowed_ips": []string{"192.0.2.0/24"}})
	inactive := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}, "active": false})
	revoked := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}})
	g.mustDo("POST", "admin", "/apikeys/v1/keys/"+idOf(t, revoked)+"/revoke", `{"reason":"test"}`)
	unknown := g.mint(nil)
	g.mustDo("POST", "admin", "/apikeys/v1/keys/"+idOf(t, unknown)+"/revoke", `{"reason":"test"}`)
	g.mustDo("DELETE", "admin", "/apikeys/v1/keys/"+idOf(t, unknown), "")

	const keys = "/apikeys/v1/keys"
	for _, test := range []struct {
		name, method, path string
		headers            []string
		status             int
		answer             string
	}{
		{"another path", "GET", "/", nil, 418, "next"},
		{"a longer name", "GET", "/apikeysx", nil, 418, "next"},
		{"nothing there", "GET", "/apikeys/v1x", withBearer(plain), 404, "not_found"},
		{"nothing there, without a key", "GET", "/apikeys/v1x", nil, 401, "missing_key"},
		{"nothing there but the door", "GET", "/apikeys", withBearer(plain), 404, "not_found"},
		{"a manager", "GET", keys, withBearer(manager), 200, `"items"`},
		{"a manager by the other header", "GET", keys, []string{"X-API-Key", manager}, 200, `"items"`},
		{"a manager without this permission", "GET", "/apikeys/v1/namespaces", withBearer(manager), 403, "insufficient_permission"},
		{"no admin permission", "GET", keys, withBearer(plain), 403, `"needed":"admin.keys:read"`},
		{"no admin permission, self", "GET", "/apikeys/v1/self", withBearer(plain), 200, idOf(t, plain)},
		{"no admin permission, self, to change", "POST", "/apikeys/v1/self", withBearer(plain), 405, "method_not_allowed"},
		{"document", "GET", "/apikeys/v1/openapi.json", nil, 200, `"openapi"`},
		{"health", "GET", "/apikeys/v1/health", nil, 200, ""},
		{"dots", "GET", "/apikeys/v1/../v1/health", nil, 400, "non_canonical_target"},
		{"encoded slash", "GET", "/apikeys/v1%2Fhealth", nil, 400, "non_canonical_target"},
		{"method before all else", "PROPFIND", keys, nil, 405, "method_not_allowed"},
		{"method on an open path", "TRACE", "/apikeys/v1/health", nil, 405, "method_not_allowed"},
		{"none", "GET", keys, nil, 401, "missing_key"},
		{"two", "GET", keys, append(withBearer(manager), "X-API-Key", manager), 400, "ambiguous_credentials"},
		{"by the query", "GET", keys + "?api_key=" + manager, nil, 401, "missing_key"},
		{"malformed", "GET", keys, withBearer("ak_nonsense"), 401, "invalid_key"},
		{"of a member", "GET", keys, withBearer("akm" + strings.TrimPrefix(manager, "ak")), 401, "invalid_key"},
		{"deleted", "GET", keys, withBearer(unknown), 401, "invalid_key"},
		{"revoked", "GET", keys, withBearer(revoked), 401, "key_revoked"},
		{"revoked, self", "GET", "/apikeys/v1/self", withBearer(revoked), 401, "key_revoked"},
		{"inactive", "GET", keys, withBearer(inactive), 401, "key_inactive"},
		{"elsewhere", "GET", keys, append(withBearer(office), "X-Forwarded-For", "198.51.100.7"), 403, "address_not_allowed"},
		{"in the office", "GET", keys, append(withBearer(office), "X-Forwarded-For", "192.0.2.7"), 200, `"items"`},
		{"early data that reads", "GET", keys, append(withBearer(manager), "Early-Data", "1"), 200, `"items"`},
		{"early data that writes", "POST", keys, append(withBearer(manager), "Early-Data", "1"), 425, "too_early"},
		{"cross-origin", "POST", keys, append(withBearer(manager), "Sec-Fetch-Site", "cross-site"), 403, "cross_origin"},
	} {
		status, answer := g.do(test.method, "site", test.path, "", test.headers...)
		for _, token := range []string{manager, plain, office, inactive, revoked, unknown} {
			if strings.Contains(answer, token) {
				t.Fatalf("%s: the answer holds a token", test.name)
			}
		}
		if status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s: %d %s", test.name, status, answer)
		}
	}

	_, metrics := g.do("GET", "admin", "/metrics", "")
	for _, want := range []string{
		`requests_total{namespace="default",outcome="revoked"} 2`,
		`requests_total{namespace="default",outcome="inactive"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

func TestAdminSiteBehindAPIKey(t *testing.T) {
	g := newGate(t)
	g.loadSite(object{"handler": "api_key", "public": []string{"/apikeys/*"}})
	manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:read"}})
	if status, answer := g.do("GET", "site", "/apikeys/v1/keys", "", withBearer(manager)...); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer := g.do("GET", "site", "/apikeys/v1/keys", ""); status != 401 {
		t.Errorf("without a key: %d %s", status, answer)
	}
	for _, path := range []string{"/apikeys", "/apikeys/", "/apikeys/x", "/apikeys/v2/keys", "/%61pikeys/x"} {
		// The key is still in these, so nothing behind may see them.
		if status, answer := g.do("GET", "site", path, "", withBearer(manager)...); status != 404 {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	if status, answer := g.do("GET", "site", "/orders", ""); status != 401 {
		t.Errorf("without a key, elsewhere: %d %s", status, answer)
	}
}

func TestAdminSiteCutsWhatRuns(t *testing.T) {
	g := newGate(t)
	g.loadSite()
	manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:*"}})

	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", g.path("site"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "POST /apikeys/v1/keys/import HTTP/1.1\r\nHost: site\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/x-ndjson\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n", manager); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); !strings.Contains(line, " 100 ") {
		t.Fatalf("the import is not being read: %q, %v", line, err)
	}
	g.mustDo("POST", "admin", "/apikeys/v1/keys/"+idOf(t, manager)+"/revoke", `{"reason":"test"}`)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(answers); strings.TrimSpace(string(rest)) != "" || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the import goes on, or was answered: %q, %v", rest, err)
	}
}

func TestAdminSiteAnswersWhoRevokesItself(t *testing.T) {
	g := newGate(t)
	g.loadSite()
	for _, path := range []string{"/apikeys/v1/self/revoke", "/apikeys/v1/keys/{id}/revoke"} {
		manager := g.mint(object{"access": "custom", "permissions": []string{"admin.keys:*"}})
		path = strings.Replace(path, "{id}", idOf(t, manager), 1)
		if answer := g.mustDo("POST", "site", path, `{"reason":"test"}`, withBearer(manager)...); !strings.Contains(answer, `"revoked"`) {
			t.Errorf("%s: %s", path, answer)
		}
		if status, _ := g.do("GET", "site", "/apikeys/v1/self", "", withBearer(manager)...); status != 401 {
			t.Errorf("%s: afterwards the key gets %d", path, status)
		}
	}
}

func TestAdminSiteCaddyfile(t *testing.T) {
	for text, want := range map[string]string{
		"api_keys_admin /apikeys/*": "",
		"api_keys_admin":            "",
		"api_keys_admin x":          `api_keys_admin takes no arguments, this one has "x", at Caddyfile:2`,
		"api_keys_admin {\n\t\ttrust_user {http.auth.user.id}\n\t}": `unknown word "trust_user" in api_keys_admin: it knows none yet, at Caddyfile:3`,
	} {
		_, err := tryAdapt("http://keys.example.com {\n\t" + text + "\n}\n")
		if want == "" && err != nil || want != "" && !strings.Contains(errorText(err), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	config, err := tryAdapt("http://keys.example.com {\n\trespond next\n\tapi_keys_admin\n\tapi_key\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	order := []int{strings.Index(string(config), `"api_key"`), strings.Index(string(config), `"api_keys_admin"`), strings.Index(string(config), `"static_response"`)}
	if order[0] < 0 || order[0] > order[1] || order[1] > order[2] {
		t.Errorf("the handlers are not in order: %s", config)
	}
}
