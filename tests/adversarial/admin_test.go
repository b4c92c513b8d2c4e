package adversarial

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const adminSite = `
	api_key {
		public /apikeys/* /public/*
	}
	api_keys_admin
	reverse_proxy {$GATE_UPSTREAM}
`

// TestAdminSite checks that only keys with admin permissions can use the management API of a site,
// however the path is written.
func TestAdminSite(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{Site: adminSite})
	w.mint(t, "Manager", gate.JSON{"permissions": []string{"admin.keys:*"}})
	w.mint(t, "All", gate.JSON{"permissions": []string{"*"}})
	for _, protocol := range gate.Protocols {
		ask := func(target string, header ...string) gate.Response {
			return w.Do(t, gate.Request{Protocol: protocol, Target: target,
				Header: w.expandAll(t, header)})
		}
		if r := ask("/apikeys/v1/keys", "Authorization: Bearer {Manager}"); r.Status != 200 ||
			r.JSON()["items"] == nil {
			t.Errorf("%v: a key with admin.keys:* lists keys: %v", protocol, r)
		}
		for what, header := range map[string][]string{
			"no token":       nil,
			"a plain key":    {"Authorization: Bearer {R}"},
			"* is not admin": {"Authorization: Bearer {All}"},
			"revoked":        {"Authorization: Bearer {X}"},
			"forged":         {"Authorization: Bearer {J}"},
			"identity headers": {"X-Apikey-Id: root", "X-Apikey-Owner: root",
				"X-Apikey-Permissions: admin:*"},
			"a trusted user": {"Remote-User: root", "X-Forwarded-User: root",
				"X-Webauth-User: root"},
			"two tokens": {"Authorization: Bearer {Manager}", "Authorization: Bearer {R}"},
		} {
			if r := ask("/apikeys/v1/keys", header...); r.Status < 400 || r.Status >= 500 ||
				r.JSON()["items"] != nil {
				t.Errorf("%v, %s: want a refusal, got %v", protocol, what, r)
			}
		}
		for target, status := range map[string]int{
			"/apikeys": 303, "/apikeys/": 303, // to the console's first page
			"/apikeys/x": 404, "/apikeys/v2/keys": 404, "/apikeys/v1": 404, "/%61pikeys/x": 404,
		} {
			if r := ask(target, "Authorization: Bearer {Manager}"); r.Status != status ||
				len(r.Reached) != 0 {
				t.Errorf("%v, %s: want %d and no request at the upstream, got %v", protocol, target,
					status, r)
			}
		}
		for _, target := range []string{
			"/apikeys//v1/keys", "//apikeys/v1/keys", "/apikeys/./v1/keys", "/x/../apikeys/v1/keys",
			"/public/../apikeys/v1/keys", "/apikeys/%2e%2e/apikeys/v1/keys", "/apikeys%2fv1/keys",
			"/apikeys/v1%2fkeys",
			"/%61pikeys/v1/keys", "/APIKEYS/v1/keys", "/apikeys/V1/keys", "/apikeys/v1/keys/",
			"/apikeys/v1/keys;x", "/public/%2e%2e/apikeys/v1/keys",
			"/apikeys/v1/keys?public=/public/", "/apikeys/v1/health/../keys",
		} {
			if r := ask(target); r.JSON()["items"] != nil ||
				strings.Contains(string(r.Body), w.ids["R"]) {
				t.Errorf("%v %s without a token shows keys: %v", protocol, target, r)
			}
		}
	}
}

// TestPublicAdminPathsHideTokens checks that the API gets no token for the public paths of the
// console when api_keys_admin does not handle them.
func TestPublicAdminPathsHideTokens(t *testing.T) {
	t.Parallel()
	for what, site := range map[string]string{
		"no api_keys_admin": "api_key {\nfrom bearer\nfrom header X-Own\nfrom query " +
			"key\npublic /apikeys/*\n}\nreverse_proxy {$GATE_UPSTREAM}",
		"all public": "api_key {\nfrom bearer\nfrom header X-Own\nfrom query " +
			"key\npublic /**\n}\nreverse_proxy {$GATE_UPSTREAM}",
		"api_keys_admin elsewhere": "api_key {\nfrom bearer\nfrom header X-Own\nfrom query " +
			"key\npublic /apikeys/*\n}\n@admin header X-Admin *\nhandle @admin " +
			"{\napi_keys_admin\n}\nreverse_proxy {$GATE_UPSTREAM}",
	} {
		t.Run(what, func(t *testing.T) {
			w := start(t, gate.Config{Site: site})
			w.run(t, []row{
				{what: "bearer", send: "GET /apikeys/v1/keys",
					header: []string{"Authorization: Bearer {R}", "Referer: https://a.example/{R}"},
					want:   "200", as: "-", gone: []string{"Authorization"}},
				{what: "X-API-Key", send: "GET /apikeys/", header: []string{"X-API-Key: {R}"},
					want: "200", as: "-", gone: []string{"X-Api-Key"}},
				{what: "a source of api_key", send: "POST /apikeys/x",
					header: []string{"X-Own: {R}"}, want: "200", as: "-", gone: []string{"X-Own"}},
				{what: "several", send: "GET /apikeys/x?key={R}&a=1",
					header: []string{"X-Own: {A}", "Authorization: Bearer {X}", "X-Copy: {X}"},
					want:   "200", as: "-", at: "/apikeys/x?a=1"},
				{what: "another scheme", send: "GET /apikeys/x",
					header: []string{"Authorization: Basic eDp5"}, want: "200", as: "-",
					kept: []string{"Authorization: Basic eDp5"}},
			})
		})
	}
}

// TestWarningForMissingPublicLine checks that Caddy warns at the start if an `api_key` without
// `public /apikeys/*` refuses the requests for api_keys_admin.
func TestWarningForMissingPublicLine(t *testing.T) {
	t.Parallel()
	const line = "public /apikeys/*"
	for what, c := range map[string]struct {
		site string
		warn bool
	}{
		"side by side": {"api_key\napi_keys_admin\nreverse_proxy {$GATE_UPSTREAM}",
			true},
		"within routes": {"route {\nroute {\napi_key {\npublic /health\n}\n}\nroute " +
			"/apikeys/* {\napi_keys_admin\n}\nreverse_proxy {$GATE_UPSTREAM}\n}", true},
		"with the line": {"api_key {\npublic /apikeys/*\n}\napi_keys_admin\nreverse_proxy " +
			"{$GATE_UPSTREAM}", false},
		"all public": {"api_key {\npublic /**\n}\napi_keys_admin\nreverse_proxy " +
			"{$GATE_UPSTREAM}", false},
		"api_key has a matcher": {"api_key /v1/*\napi_keys_admin\nreverse_proxy " +
			"{$GATE_UPSTREAM}", false},
		"api_key in another handle": {"handle /v1/* {\napi_key\nreverse_proxy " +
			"{$GATE_UPSTREAM}\n}\nhandle {\napi_keys_admin\n}", false},
		"api_keys_admin comes first": {"route {\napi_keys_admin\napi_key\nreverse_proxy " +
			"{$GATE_UPSTREAM}\n}", false},
	} {
		t.Run(what, func(t *testing.T) {
			g := gate.Start(t, gate.Config{Site: c.site})
			if warned := strings.Contains(g.Output(), line); warned != c.warn {
				t.Errorf("the log names the missing line: %t, want %t", warned, c.warn)
			}
		})
	}
}

// TestOtherNamespacesAreHidden checks that a manager of one namespace cannot distinguish a key of
// another namespace from one that does not exist.
func TestOtherNamespacesAreHidden(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{Site: adminSite})
	w.Namespace(t, "acme", nil)
	w.Namespace(t, "umbrella", nil)
	manager := w.mint(t, "Manager",
		gate.JSON{"namespace": "acme", "permissions": []string{"admin.keys:*"}})
	own := w.mint(t, "Own", gate.JSON{"namespace": "acme", "access": "read_only"})
	other := w.mint(t, "Other", gate.JSON{"namespace": "umbrella", "access": "read_only"})
	none := "000000000000"
	ask := func(method, target, body string) gate.Response {
		header := []string{"Authorization: Bearer " + string(manager.Token)}
		if body != "" {
			header = append(header, "Content-Type: application/json")
		}
		return w.Do(t, gate.Request{Method: method, Target: "/apikeys/v1" + target, Header: header,
			Body: body})
	}
	if r := ask("GET", "/keys/"+own.ID, ""); r.Status != 200 {
		t.Errorf("a key of the manager's namespace: %v", r)
	}
	for _, c := range []struct{ method, below, body string }{
		{"GET", "", ""}, {"PATCH", "", `{"name":"x"}`}, {"POST", "/revoke", `{"reason":"x"}`},
		{"POST", "/rotate", `{}`}, {"POST", "/grants", `{"remove_namespaces":["default"]}`},
		{"DELETE", "", ""}, {"GET", "/usage", ""},
	} {
		foreign, missing := ask(c.method, "/keys/"+other.ID+c.below, c.body), ask(c.method,
			"/keys/"+none+c.below, c.body)
		if foreign.Status != 404 || foreign.Status != missing.Status ||
			strings.ReplaceAll(string(foreign.Body), other.ID, none) != string(missing.Body) {
			t.Errorf("%s %s: a key of another namespace %v, an unknown key %v", c.method, c.below,
				foreign, missing)
		}
	}
	list := ask("GET", "/keys?limit=1000", "")
	if body := string(list.Body); list.Status != 200 || !strings.Contains(body, own.ID) ||
		strings.Contains(body, other.ID) || strings.Contains(body, w.ids["R"]) {
		t.Errorf("the list: %v", list)
	}
	if r := w.Get(t, "/v1/items/1", other.Token); r.Status == 200 {
		t.Errorf("a key of umbrella is accepted in default: %v", r)
	}
	if w.Show(t, other.ID)["status"] != "active" {
		t.Error("the key of another namespace was changed")
	}
}
