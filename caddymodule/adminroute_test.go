package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestAdminRouteWithoutStore(t *testing.T) {
	for _, path := range []string{"/apikeys/v1/keys", "/apikeys/v1/health"} {
		w := httptest.NewRecorder()
		if err := serveAdminRoute(w, httptest.NewRequestWithContext(t.Context(), "GET", path,
			nil)); err != nil {
			t.Error(err)
		}
		var problem struct {
			Code   string
			Status int
			Detail string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil {
			t.Error(err)
		}
		if w.Code != http.StatusServiceUnavailable || problem.Status != w.Code ||
			problem.Code != "unavailable" ||
			!strings.Contains(problem.Detail,
				"still starting, or its configuration does not use api_keys") ||
			w.Header().Get("Content-Type") != "application/problem+json" ||
			w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
		}
	}
}

func TestAdminRoute(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("keys.db"), nil)))
	for _, test := range []struct {
		method, path, body string
		headers            []string
		status             int
		answer             string
	}{
		{"GET", "/apikeys/v1/health", "", nil, 200, ""},
		{"GET", "/apikeys/v1/keys", "", nil, 200, `"items":`},
		{"GET", "/apikeys/v1/nothing", "", nil, 404, "not_found"},
		// Caddy redirects to the canonical path, which has no such method.
		{"POST", "/apikeys/v1/keys//rotate", `{}`, nil, 405, "method_not_allowed"},
		{"POST", "/apikeys/v1/keys//revoke", `{}`, nil, 405, "method_not_allowed"},
		{"DELETE", "/apikeys/v1/keys//", "", nil, 405, "method_not_allowed"},
		{"POST", "/apikeys/v1/namespaces", `{"id":"one","kind":"account"}`, nil, 201, `"one"`},
		// A request as `caddy reload` sends it, and as a browser sends it for another origin.
		{"POST", "/apikeys/v1/namespaces", `{"id":"two","kind":"account"}`,
			[]string{"Sec-Fetch-Site", "same-origin"}, 201, `"two"`},
		{"POST", "/apikeys/v1/namespaces", `{"id":"three","kind":"account"}`,
			[]string{"Sec-Fetch-Site", "cross-site"}, 403, "cross_origin"},
		{"GET", "/apikeys/v1/namespaces/three", "", nil, 404, ""},
	} {
		status, answer := g.do(test.method, "admin", test.path, test.body, test.headers...)
		if status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s %s %s: %d %s", test.method, test.path, test.headers, status, answer)
		}
	}
}

// TestAdminRouteClearsTheReadDeadline checks that an import may take longer than the 10 s after
// which Caddy's admin server stops reading.
func TestAdminRouteClearsTheReadDeadline(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("keys.db"), nil)))
	w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	if err := serveAdminRoute(w, httptest.NewRequestWithContext(t.Context(), "GET",
		"/apikeys/v1/health", nil)); err != nil {
		t.Error(err)
	}
	if !w.cleared {
		t.Error("the read deadline of the admin server is still set")
	}
}

func TestPeerAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:1234":     "192.0.2.1",
		"[2001:db8::1]:1234": "2001:db8::1",
		"@":                  "unix socket",
		"":                   "unix socket",
	} {
		if got := peerAddress(&http.Request{RemoteAddr: remote}); got != want {
			t.Errorf("%q: %q", remote, got)
		}
	}
}

type deadlineRecorder struct {
	*httptest.ResponseRecorder
	cleared bool
}

func (d *deadlineRecorder) SetReadDeadline(at time.Time) error {
	d.cleared = at.IsZero()
	return nil
}

// TestPermissionsWhileStarting requests the permission table while the first config starts. The
// status is 503 until the table is complete.
func TestPermissionsWhileStarting(t *testing.T) {
	for range 5 {
		g := newInstance(t)
		g.sites++
		config := g.config(sqlite(g.path("keys.db"), nil), func(_, apps object) {
			apps["http"] = object{"servers": object{"site": object{
				"listen": []string{"unix/" + g.path(g.siteSocket())},
				"routes": []object{{"handle": []object{{"handler": "api_key", "operation": []object{
					{"permission": "orders:search", "class": "read", "method": "POST",
						"path": "/orders/search"},
				}}}}},
			}}}
		})
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			for code := 503; code == 503; time.Sleep(time.Millisecond) {
				w := httptest.NewRecorder()
				_ = serveAdminRoute(w, httptest.NewRequestWithContext(t.Context(), "GET",
					"/apikeys/v1/permissions", nil))
				code = w.Code
				if code != 503 && (code != 200 ||
					!strings.Contains(w.Body.String(), "orders:search")) {
					t.Errorf("%d %s", code, w.Body)
				}
			}
		}()
		g.load(config)
		<-asked
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
