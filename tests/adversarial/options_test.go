package adversarial

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestOptions checks for each subdirective of `api_key` which requests it accepts and refuses.
func TestOptions(t *testing.T) {
	t.Parallel()
	bearer := func(key string) []string { return []string{"Authorization: Bearer {" + key + "}"} }
	preflight := func(origin string) []string {
		return []string{"Origin: " + origin, "Access-Control-Request-Method: PUT",
			"Access-Control-Request-Headers: authorization,x-a"}
	}
	trusted := "trusted_proxies static 127.0.0.1/32"
	asked := func(key, method, uri string) []string {
		return append(bearer(key), "X-Forwarded-Method: "+method, "X-Forwarded-Uri: "+uri)
	}
	options := []struct {
		what   string
		config gate.Config
		rows   []row
	}{
		{"namespace_path",
			gate.Config{APIKey: "namespace_path /v1/workspaces/{namespace}/**\nnamespace_path " +
				"/t/*/{namespace}\nnamespace acme"}, []row{
				{what: "own", send: "GET /v1/workspaces/acme/x", header: bearer("Acme"),
					want: "200", as: "Acme", kept: []string{"X-Apikey-Namespace: acme"}},
				{what: "own, no further segment", send: "GET /v1/workspaces/acme",
					header: bearer("Acme"), want: "200", as: "Acme"},
				{what: "own, encoded", send: "GET /v1/workspaces/%61cme/x", header: bearer("Acme"),
					want: "200", as: "Acme", kept: []string{"X-Apikey-Namespace: acme"}},
				{what: "own, literals in another case", send: "GET /V1/Workspaces/acme/x",
					header: bearer("Acme"), want: "200", as: "Acme"},
				{what: "own, second pattern", send: "GET /t/anything/beta", header: bearer("Beta"),
					want: "200", as: "Beta"},
				{what: "another's", send: "GET /v1/workspaces/beta/x", header: bearer("Acme"),
					want: "403 insufficient_permission"},
				{what: "another's, encoded", send: "GET /v1/workspaces/%62eta/x",
					header: bearer("Acme"), want: "403 insufficient_permission"},
				{what: "another's, literals in another case", send: "GET /V1/WORKSPACES/beta/x",
					header: bearer("Acme"), want: "403 insufficient_permission"},
				{what: "another's, own in the query",
					send: "GET /v1/workspaces/beta/x?namespace=acme", header: bearer("Acme"),
					want: "403 insufficient_permission"},
				{what: "own id in another case", send: "GET /v1/workspaces/ACME/x",
					header: bearer("Acme"), want: "403 insufficient_permission"},
				{what: "unknown namespace", send: "GET /v1/workspaces/none/x",
					header: bearer("Acme"), want: "403 insufficient_permission"},
				{what: "unknown namespace, all permissions", send: "GET /v1/workspaces/none/x",
					header: bearer("Everywhere"), want: "403 insufficient_permission"},
				{what: "beta, all permissions", send: "GET /v1/workspaces/beta/x",
					header: bearer("Everywhere"), want: "200", as: "Everywhere"},
				{what: "no match: the default, its key", send: "GET /other", header: bearer("Acme"),
					want: "200", as: "Acme"},
				{what: "no match: the default, another's key", send: "GET /other",
					header: bearer("Beta"), want: "403 insufficient_permission"},
				{what: "one segment missing", send: "GET /v1/workspaces", header: bearer("Beta"),
					want: "403 insufficient_permission"},
			}},
		{"Destination of MOVE and COPY",
			gate.Config{APIKey: "namespace_path /dav/{namespace}/**\nmethods write MOVE COPY"},
			[]row{
				{what: "own to own", send: "MOVE /dav/acme/f",
					header: append(bearer("Acme"), "Destination: /dav/acme/g"), want: "200",
					as: "Acme", kept: []string{"Destination: /dav/acme/g"}},
				{what: "move to another's", send: "MOVE /dav/acme/f",
					header: append(bearer("Acme"), "Destination: /dav/beta/f"),
					want:   "403 insufficient_permission"},
				{what: "copy to another's", send: "COPY /dav/acme/f",
					header: append(bearer("Acme"), "Destination: /dav/%62eta/f"),
					want:   "403 insufficient_permission"},
				{what: "to another host", send: "MOVE /dav/acme/f",
					header: append(bearer("Acme"), "Destination: http://x.example/dav/acme/g"),
					want:   "403 insufficient_permission"},
				{what: "not canonical", send: "MOVE /dav/acme/f",
					header: append(bearer("Acme"), "Destination: /dav/acme/../beta/f"),
					want:   "400 non_canonical_target"},
				{what: "twice", send: "MOVE /dav/acme/f",
					header: append(bearer("Acme"), "Destination: /dav/acme/g",
						"Destination: /dav/beta/g"), want: "400 non_canonical_target"},
				{what: "from another's", send: "MOVE /dav/beta/f",
					header: append(bearer("Acme"), "Destination: /dav/acme/f"),
					want:   "403 insufficient_permission"},
			}},
		{"also_judge",
			gate.Config{APIKey: "namespace_path /{namespace}/**\nalso_judge X-Amz-Copy-Source"},
			[]row{
				{what: "own", send: "PUT /acme/k",
					header: append(bearer("Acme"), "X-Amz-Copy-Source: acme/l"), want: "200",
					as: "Acme"},
				{what: "another's", send: "PUT /acme/k",
					header: append(bearer("Acme"), "X-Amz-Copy-Source: /beta/l"),
					want:   "403 insufficient_permission"},
				{what: "another's, relative", send: "PUT /acme/k",
					header: append(bearer("Acme"), "X-Amz-Copy-Source: beta/l"),
					want:   "403 insufficient_permission"},
			}},
		{"namespace from a placeholder",
			gate.Config{APIKey: "namespace {http.request.header.X-Tenant}"}, []row{
				{what: "own", send: "GET /x", header: append(bearer("Acme"), "X-Tenant: acme"),
					want: "200", as: "Acme"},
				{what: "another's", send: "GET /x",
					header: append(bearer("Acme"), "X-Tenant: beta"),
					want:   "403 insufficient_permission"},
				{what: "empty", send: "GET /x", header: append(bearer("Acme"), "X-Tenant:"),
					want: "403 insufficient_permission"},
				{what: "absent", send: "GET /x", header: bearer("Acme"),
					want: "403 insufficient_permission"},
				{what: "absent, all permissions", send: "GET /x",
					header: bearer("Everywhere"), want: "403 insufficient_permission"},
				{what: "home is not a namespace id", send: "GET /x",
					header: append(bearer("Acme"), "X-Tenant: home"),
					want:   "403 insufficient_permission"},
				{what: "star", send: "GET /x", header: append(bearer("Everywhere"), "X-Tenant: *"),
					want: "403 insufficient_permission"},
				{what: "a placeholder in a placeholder", send: "GET /x",
					header: append(bearer("Acme"), "X-Tenant: {http.request.uri.query.a}"),
					want:   "403 insufficient_permission"},
			}},
		{"namespace home", gate.Config{APIKey: "namespace home"}, []row{
			{what: "acme", send: "GET /x", header: bearer("Acme"), want: "200", as: "Acme",
				kept: []string{"X-Apikey-Namespace: acme"}},
			{what: "beta", send: "GET /x", header: bearer("Beta"), want: "200", as: "Beta",
				kept: []string{"X-Apikey-Namespace: beta"}},
		}},
		{"default namespace", gate.Config{}, []row{
			{what: "another's key", send: "GET /x", header: bearer("Acme"),
				want: "403 insufficient_permission"},
			{what: "its own", send: "GET /x", header: bearer("Read"), want: "200", as: "Read",
				kept: []string{"X-Apikey-Namespace: default"}},
		}},
		{"resource", gate.Config{APIKey: "resource orders"}, []row{
			{what: "its permission", send: "GET /x", header: bearer("Orders"), want: "200",
				as: "Orders"},
			{what: "a permission on another resource", send: "GET /x", header: bearer("R"),
				want: "403 insufficient_permission"},
			{what: "the class on all resources", send: "GET /x", header: bearer("Read"),
				want: "200", as: "Read"},
			{what: "the other class", send: "POST /x", header: bearer("Orders"),
				want: "403 insufficient_permission"},
			{what: "all permissions on it", send: "POST /x", header: bearer("AllOrders"),
				want: "200", as: "AllOrders"},
			{what: "everything", send: "POST /x", header: bearer("Star"), want: "200", as: "Star"},
		}},
		{"operation",
			gate.Config{APIKey: "operation orders:search read POST /v1/orders/search\noperation " +
				"orders:get read GET /v1/orders/{id}\noperation orders:new read GET /v1/orders/new"},
			[]row{
				{what: "a POST that reads", send: "POST /v1/orders/search", header: bearer("Read"),
					want: "200", as: "Read"},
				{what: "a POST that reads, in another case", send: "POST /V1/Orders/SEARCH",
					header: bearer("Search"), want: "403 insufficient_permission"},
				{what: "a POST that reads, in another case, is a write",
					send: "POST /V1/Orders/SEARCH", header: bearer("Write"), want: "200",
					as: "Write"},
				{what: "a POST that reads, trailing slash", send: "POST /v1/orders/search/",
					header: bearer("Search"), want: "200", as: "Search"},
				{what: "by its permission", send: "POST /v1/orders/search",
					header: bearer("Search"), want: "200", as: "Search"},
				{what: "by the class on the resource", send: "POST /v1/orders/search",
					header: bearer("Orders"), want: "200", as: "Orders"},
				{what: "not by write on all resources", send: "POST /v1/orders/search",
					header: bearer("Write"), want: "403 insufficient_permission"},
				{what: "another operation", send: "GET /v1/orders/1", header: bearer("Search"),
					want: "403 insufficient_permission"},
				{what: "another method", send: "POST /v1/orders/1", header: bearer("Read"),
					want: "403 insufficient_permission"},
				{what: "the more literal pattern", send: "GET /v1/orders/new",
					header: bearer("New"), want: "200", as: "New"},
				{what: "only the more literal pattern", send: "GET /v1/orders/1",
					header: bearer("New"), want: "403 insufficient_permission"},
				{what: "no pattern matches", send: "GET /v1/orders/1/2",
					header: bearer("Orders"), want: "403 insufficient_permission"},
			}},
		{"operation beside a resource",
			gate.Config{APIKey: "resource items\noperation secret:get read GET /v1/secret"}, []row{
				{what: "the resource", send: "GET /x", header: bearer("R"), want: "200"},
				{what: "not the operation", send: "GET /v1/secret", header: bearer("R"),
					want: "403 insufficient_permission"},
				{what: "not the operation by HEAD", send: "HEAD /v1/secret", header: bearer("R"),
					want: "403"},
			}},
		{"optional", gate.Config{APIKey: "optional"}, []row{
			{what: "none", send: "GET /x", want: "200", as: "-"},
			{what: "none, write", send: "POST /x", want: "200", as: "-"},
			{what: "empty", send: "GET /x", header: []string{"X-API-Key:"}, want: "200", as: "-"},
			{what: "valid", send: "GET /x", header: bearer("Read"), want: "200", as: "Read"},
			{what: "forged", send: "GET /x", header: bearer("J"), want: "401 invalid_key"},
			{what: "revoked", send: "GET /x", header: bearer("X"), want: "401 key_revoked"},
			{what: "two", send: "GET /x", header: []string{"X-API-Key: {R}", "X-API-Key: {R}"},
				want: "400 ambiguous_credentials"},
			{what: "not allowed", send: "POST /x", header: bearer("Read"),
				want: "403 insufficient_permission"},
			{what: "method", send: "PURGE /x", want: "405 method_not_allowed"},
			{what: "target", send: "GET //x", want: "400 non_canonical_target"},
		}},
		{"preflight", gate.Config{APIKey: "preflight https://app.example.com\nmethods none PATCH"},
			[]row{
				{what: "answered here", send: "OPTIONS /x",
					header: preflight("https://app.example.com"), want: "204",
					also: []string{"Access-Control-Allow-Origin: https://app.example.com",
						"Access-Control-Allow-Headers: authorization,x-a",
						"Access-Control-Max-Age: 600"}},
				{what: "with a body", send: "OPTIONS /x",
					header: preflight("https://app.example.com"), body: "x", want: "204"},
				{what: "a credential is not read", send: "OPTIONS /x",
					header: append(preflight("https://app.example.com"), "X-API-Key: {X}"),
					want:   "204"},
				{what: "target comes first", send: "OPTIONS /x//y",
					header: preflight("https://app.example.com"), want: "400 non_canonical_target"},
				{what: "no Origin", send: "OPTIONS /x",
					header: []string{"Access-Control-Request-Method: PUT"},
					want:   "401 missing_key"},
				{what: "no requested method", send: "OPTIONS /x",
					header: []string{"Origin: https://app.example.com"}, want: "401 missing_key"},
				{what: "not OPTIONS", send: "GET /x", header: preflight("https://app.example.com"),
					want: "401 missing_key",
					also: []string{"Access-Control-Allow-Origin: https://app.example.com"}},
				{what: "CORS headers on a refusal", send: "PATCH /x",
					header: []string{"Origin: https://app.example.com"},
					want:   "405 method_not_allowed",
					also:   []string{"Access-Control-Allow-Origin: https://app.example.com"}},
			}},
		{"preflight from any origin", gate.Config{APIKey: "preflight"}, []row{
			{what: "answered here", send: "OPTIONS /x", header: preflight("https://a.example"),
				want: "204"},
			{what: "OPTIONS without CORS headers", send: "OPTIONS /x", want: "401 missing_key"},
		}},
		{"foreign pass", gate.Config{APIKey: "foreign pass"}, []row{
			{what: "a foreign token", send: "GET /x",
				header: []string{"Authorization: Bearer eyJhbGciOi.e30.x"}, want: "200", as: "-",
				kept: []string{"Authorization: Bearer eyJhbGciOi.e30.x"}},
			{what: "a foreign token, write", send: "DELETE /x",
				header: []string{"Authorization: bearer x"}, want: "200", as: "-",
				kept: []string{"Authorization: bearer x"}},
			{what: "our token", send: "GET /x", header: bearer("Read"), want: "200", as: "Read",
				gone: []string{"Authorization"}},
			{what: "our token, forged", send: "GET /x", header: bearer("J"),
				want: "401 invalid_key"},
			{what: "our prefix, too short", send: "GET /x",
				header: []string{"Authorization: Bearer ak_x"}, want: "401 invalid_key"},
			{what: "a member token", send: "GET /x",
				header: []string{"Authorization: Bearer akm_x"},
				want:   "401 invalid_key"},
			{what: "our token after secret-token:", send: "GET /x",
				header: []string{"Authorization: Bearer secret-token:{J}"},
				want:   "401 invalid_key"},
			{what: "not bearer", send: "GET /x", header: []string{"X-API-Key: eyJhbGciOi.e30.x"},
				want: "401 invalid_key"},
			{what: "beside our token", send: "GET /x",
				header: []string{"Authorization: Bearer eyJhbGciOi.e30.x", "X-API-Key: {Read}"},
				want:   "400 ambiguous_credentials"},
			{what: "none", send: "GET /x", want: "401 missing_key"},
			{what: "empty", send: "GET /x", header: []string{"Authorization: Bearer "},
				want: "401 missing_key"},
			{what: "method", send: "PURGE /x",
				header: []string{"Authorization: Bearer eyJhbGciOi.e30.x"},
				want:   "405 method_not_allowed"},
		}},
		{"pass_credential",
			gate.Config{APIKey: "pass_credential\nfrom bearer\nfrom query api_key\nfrom cookie " +
				"apikey"}, []row{
				{what: "bearer", send: "GET /x", header: bearer("Read"), want: "200", as: "Read",
					kept: []string{"Authorization: Bearer {Read}"}, passes: true},
				{what: "query", send: "GET /x?a=1&api_key={Read}", want: "200", as: "Read",
					passes: true},
				{what: "cookie", send: "GET /x", header: []string{"Cookie: a=1; apikey={Read}"},
					want: "200", as: "Read", kept: []string{"Cookie: a=1; apikey={Read}"},
					passes: true},
				{what: "spoofed headers are removed", send: "GET /x",
					header: append(bearer("Read"), "X_Apikey_Id: admin", "X-Apikey-Owner: admin"),
					want:   "200", as: "Read", passes: true},
			}},
		{"pass_metadata", gate.Config{APIKey: "pass_metadata team\npublic /public/*"}, []row{
			{what: "sent", send: "GET /x", header: bearer("Read"), want: "200", as: "Read",
				kept: []string{"X-Apikey-Meta-Team: erp"}},
			{what: "spoofed", send: "GET /x",
				header: append(bearer("Read"), "X-Apikey-Meta-Team: admin",
					"X_Apikey_Meta_Team: admin"), want: "200", as: "Read",
				kept: []string{"X-Apikey-Meta-Team: erp"}},
			{what: "spoofed, the key has none", send: "GET /x",
				header: append(bearer("Star"), "X-Apikey-Meta-Team: admin"), want: "200",
				as: "Star", gone: []string{"X-Apikey-Meta-Team"}},
			{what: "spoofed on public", send: "GET /public/x",
				header: []string{"X-Apikey-Meta-Team: admin"}, want: "200", as: "-",
				gone: []string{"X-Apikey-Meta-Team"}},
			{what: "only the named metadata", send: "GET /x", header: bearer("Read"), want: "200",
				as: "Read", kept: []string{"X-Apikey-Meta-Team: erp"},
				gone: []string{"X-Apikey-Meta-Secret"}},
		}},
		{"values", gate.Config{}, []row{
			{what: "non-ASCII and placeholders", send: "GET /x", header: bearer("Odd"),
				want: "200", as: "Odd",
				kept: []string{"X-Apikey-Name: %C3%9C%25{http.request.host}{env.HOME}"}},
		}},
		{"errors caddy",
			gate.Config{Site: "api_key {\nerrors caddy\nmethods none PATCH\n}\nreverse_proxy " +
				"{$GATE_UPSTREAM}\nhandle_errors {\nrespond \"page {err.status_code}\" " +
				"{err.status_code}\n}"}, []row{
				{what: "missing", send: "GET /x", want: "401"},
				{what: "target", send: "GET //x", want: "400"},
				{what: "method", send: "PATCH /x", want: "405"},
				{what: "forbidden", send: "POST /x", header: bearer("Read"), want: "403"},
				{what: "valid", send: "GET /x", header: bearer("Read"), want: "200", as: "Read"},
			}},
		{"nested",
			gate.Config{Site: "api_key {\nresource orders\n}\nhandle /v1/ops/* {\napi_key " +
				"{\nresource ops\n}\nreverse_proxy {$GATE_UPSTREAM}\n}\nreverse_proxy " +
				"{$GATE_UPSTREAM}"}, []row{
				{what: "outer alone", send: "GET /x", header: bearer("Orders"), want: "200",
					as: "Orders"},
				{what: "inner refuses", send: "GET /v1/ops/x", header: bearer("Orders"),
					want: "403 insufficient_permission"},
				{what: "outer refuses", send: "GET /v1/ops/x", header: bearer("A"),
					want: "403 insufficient_permission"},
				{what: "both allow", send: "GET /v1/ops/x", header: bearer("Read"), want: "200",
					as: "Read"},
				{what: "both allow, spoofed", send: "GET /v1/ops/x",
					header: append(bearer("Read"), "X_Apikey_Id: admin", "Connection: X-Apikey-Id"),
					on:     "1", want: "200", as: "Read"},
				{what: "no key", send: "GET /v1/ops/x", want: "401 missing_key"},
			}},
		{"forwarded", gate.Config{APIKey: "forwarded\npublic /public/*", Servers: trusted}, []row{
			{what: "allowed", send: "GET /auth", header: asked("Read", "GET", "/v1/items/1?a=b"),
				want: "204"},
			{what: "the forwarded method decides", send: "GET /auth",
				header: asked("Read", "POST", "/v1/items/1"), want: "403 insufficient_permission"},
			{what: "the path of the proxy request is ignored", send: "GET /public/auth",
				header: []string{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /v1/items/1"},
				want:   "401 missing_key"},
			{what: "public", send: "GET /auth",
				header: []string{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /public/1"},
				want:   "204"},
			{what: "public in the query", send: "GET /auth",
				header: []string{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /x?/public/1"},
				want:   "401 missing_key"},
			{what: "bad target", send: "GET /auth",
				header: asked("Read", "GET", "/public/../v1/admin"),
				want:   "400 non_canonical_target"},
			{what: "bad target, encoded", send: "GET /auth",
				header: asked("Read", "GET", "/public/%2e%2e/v1/admin"),
				want:   "400 non_canonical_target"},
			{what: "no leading slash", send: "GET /auth", header: asked("Read", "GET", "v1/items"),
				want: "400 non_canonical_target"},
			{what: "method in lower case", send: "GET /auth", header: asked("Read", "get", "/x"),
				want: "405 method_not_allowed"},
			{what: "no method", send: "GET /auth",
				header: append(bearer("Read"), "X-Forwarded-Uri: /x"), want: "400"},
			{what: "no URI", send: "GET /auth",
				header: append(bearer("Read"), "X-Forwarded-Method: GET"), want: "400"},
			{what: "empty URI", send: "GET /auth", header: asked("Read", "GET", ""), want: "400"},
			{what: "method twice", send: "GET /auth",
				header: append(asked("Read", "GET", "/x"), "X-Forwarded-Method: GET"), want: "400"},
			{what: "URI twice", send: "GET /auth",
				header: append(asked("Read", "GET", "/x"), "X-Forwarded-Uri: /public/1"),
				want:   "400"},
			{what: "no key", send: "GET /auth",
				header: []string{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /x"},
				want:   "401 missing_key"},
			{what: "revoked", send: "GET /auth", header: asked("X", "GET", "/x"),
				want: "401 key_revoked"},
		}},
		{"forwarded nginx", gate.Config{APIKey: "forwarded nginx", Servers: trusted}, []row{
			{what: "allowed", send: "GET /auth", header: asked("Read", "GET", "/x"), want: "204"},
			{what: "401 stays", send: "GET /auth", header: asked("X", "GET", "/x"),
				want: "401 key_revoked"},
			{what: "403 stays", send: "GET /auth", header: asked("Read", "POST", "/x"), want: "403",
				also: []string{"X-Apikey-Code: insufficient_permission"}},
			{what: "400 becomes 403", send: "GET /auth", header: asked("Read", "GET", "//x"),
				want: "403", also: []string{"X-Apikey-Code: non_canonical_target"}},
			{what: "405 becomes 403", send: "GET /auth", header: asked("Read", "PURGE", "/x"),
				want: "403", also: []string{"X-Apikey-Code: method_not_allowed"}},
			{what: "an ambiguous credential becomes 403", send: "GET /auth",
				header: append(asked("Read", "GET", "/x"), "X-API-Key: {R}"), want: "403",
				also: []string{"X-Apikey-Code: ambiguous_credentials"}},
		}},
		{"forwarded by an untrusted peer", gate.Config{APIKey: "forwarded"}, []row{
			{what: "with a key", send: "GET /auth", header: asked("Read", "GET", "/x"),
				want: "403 untrusted_proxy"},
			{what: "without", send: "GET /auth",
				header: []string{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /x",
					"X-Forwarded-For: 127.0.0.1"}, want: "403 untrusted_proxy"},
		}},
	}
	// Cases with the same server settings share a Caddy, in which each has a site of its own.
	for _, servers := range []string{"", trusted} {
		config := gate.Config{Servers: servers, Sites: map[string]gate.Config{}}
		host := func(i int) string { return fmt.Sprintf("option%d.example.com", i) }
		for i, option := range options {
			if option.config.Servers == servers {
				config.Sites[host(i)] = option.config
			}
		}
		w := startWithKeysForOptions(t, config)
		for i, option := range options {
			if option.config.Servers == servers {
				w.host = host(i)
				t.Run(option.what, func(t *testing.T) { w.run(t, option.rows) })
			}
		}
	}
}

func startWithKeysForOptions(t *testing.T, config gate.Config) world {
	t.Helper()
	w := start(t, config)
	w.Namespace(t, "acme", nil)
	w.Namespace(t, "beta", nil)
	w.mint(t, "Acme", gate.JSON{"namespace": "acme", "access": "read_write"})
	w.mint(t, "Beta", gate.JSON{"namespace": "beta", "access": "read_write"})
	w.mint(t, "Everywhere", gate.JSON{"grants": []gate.JSON{{"namespace": "*",
		"permissions": []string{"*"}}}})
	w.mint(t, "Read", gate.JSON{"access": "read_only",
		"metadata": gate.JSON{"team": "erp", "secret": "s"}})
	w.mint(t, "Write", gate.JSON{"permissions": []string{"write"}})
	w.mint(t, "Star", gate.JSON{"permissions": []string{"*"}})
	w.mint(t, "Orders", gate.JSON{"permissions": []string{"orders:read"}})
	w.mint(t, "AllOrders", gate.JSON{"permissions": []string{"orders:*"}})
	w.mint(t, "Search", gate.JSON{"permissions": []string{"orders:search"}})
	w.mint(t, "New", gate.JSON{"permissions": []string{"orders:new"}})
	w.mint(t, "Odd", gate.JSON{"access": "read_only",
		"name": "Ü%{http.request.host}{env.HOME}"})
	return w
}

// TestNamespacesAreNotDisclosed checks that the response does not disclose which namespaces exist.
func TestNamespacesAreNotDisclosed(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: "namespace_path /t/{namespace}/**"})
	w.Namespace(t, "acme", nil)
	there, nowhere := w.Get(t, "/t/acme/x", gate.Token(w.tokens["R"])), w.Get(t, "/t/acmf/x",
		gate.Token(w.tokens["R"]))
	if there.Status != 403 || nowhere.Status != 403 ||
		!bytes.Equal(bytes.ReplaceAll(there.Body, []byte("acme"), []byte("acmf")), nowhere.Body) {
		t.Errorf("an existing namespace %v\nan unknown one %v", there, nowhere)
	}
}

// TestForwardedIdentity checks the identity headers of the response to another proxy, which copies
// them into its own request.
func TestForwardedIdentity(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: "forwarded", Servers: "trusted_proxies static 127.0.0.1/32"})
	for _, protocol := range gate.Protocols {
		got := w.Do(t, gate.Request{Protocol: protocol, Target: "/auth",
			Header: w.expandAll(t, []string{"X-API-Key: {R}", "X-Forwarded-Method: GET",
				"X-Forwarded-Uri: /x", "X-Apikey-Id: admin"})})
		w.judge(t, row{want: "403 insufficient_permission"}, "", got)
		w.mint(t, "Read", gate.JSON{"access": "read_only"})
		got = w.Do(t, gate.Request{Protocol: protocol, Target: "/auth",
			Header: w.expandAll(t, []string{"X-API-Key: {Read}", "X-Forwarded-Method: GET",
				"X-Forwarded-Uri: /x", "X-Apikey-Id: admin"})})
		w.judge(t, row{want: "204", also: []string{"X-Apikey-Id: " + w.ids["Read"],
			"X-Apikey-Name: Read", "X-Apikey-Namespace: default", "X-Apikey-Permissions: read"}},
			"", got)
	}
}
