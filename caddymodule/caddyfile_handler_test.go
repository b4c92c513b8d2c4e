package caddymodule

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

func siteWith(options string) string {
	return ":8080\nbasic_auth {\n\tada " +
		"$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\nrespond ok\napi_key {\n" +
		options + "\n}\n"
}

// adaptHandler returns the JSON of the api_key handler with these Caddyfile options, without the
// handler's name.
func adaptHandler(t *testing.T, options string) string {
	t.Helper()
	config, err := tryAdaptSite(options)
	if err != nil {
		t.Fatal(err)
	}
	var tree struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct{ Handle []json.RawMessage }
				}
			}
		}
	}
	if err := json.Unmarshal(config, &tree); err != nil {
		t.Fatal(err)
	}
	var names []string
	var ours string
	for _, server := range tree.Apps.HTTP.Servers {
		for _, route := range server.Routes {
			for _, handle := range route.Handle {
				var named struct{ Handler string }
				if err := json.Unmarshal(handle, &named); err != nil {
					t.Fatal(err)
				}
				names = append(names, named.Handler)
				if named.Handler == "api_key" {
					ours = string(handle)
				}
			}
		}
	}
	if got := strings.Join(names, " "); got != "authentication api_key static_response" {
		t.Errorf("the order is %s", got)
	}
	return ours
}

func tryAdaptSite(options string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(siteWith(options)),
		map[string]any{"filename": "Caddyfile"})
	return config, err
}

func TestHandlerCaddyfile(t *testing.T) {
	for options, want := range map[string]string{
		"": `{}`,
		"from bearer\nfrom header X-Auth\nfrom header X-Other Token\nfrom basic\nfrom query key\nfrom cookie session": `{"from":[{"type":"bearer"},{"type":"header","name":"X-Auth"},
			{"type":"header","name":"X-Other","scheme":"Token"},{"type":"basic"},{"type":"query","name":"key"},{"type":"cookie","name":"session"}]}`,
		"namespace_path /v1/workspaces/{namespace}/**\nnamespace_path /v2/{namespace} " +
			"/v3/{id}/{namespace}\nnamespace acme": `{"namespace_path":["/v1/workspaces/{namespace}/**","/v2/{namespace}","/v3/{id}/{namespace}"],"namespace":"acme"}`,
		"namespace home":              `{"namespace":"home"}`,
		"namespace {header.X-Tenant}": `{"namespace":"{http.request.header.X-Tenant}"}`,
		"resource orders":             `{"resource":"orders"}`,
		"methods write MKCOL COPY\nmethods none PUT\nmethods read REPORT": `{"methods":{"MKCOL":"write","COPY":"write","PUT":"none","REPORT":"read"}}`,
		"operation orders:search read POST /v1/orders/search":             `{"operation":[{"permission":"orders:search","class":"read","method":"POST","path":"/v1/orders/search"}]}`,
		"also_judge X-Copy-From\nalso_judge write Destination X-Move-To\nalso_judge read x-amz-copy-source": `{"also_judge":[{"header":"X-Copy-From"},
			{"header":"Destination","class":"write"},{"header":"X-Move-To","class":"write"},{"header":"x-amz-copy-source","class":"read"}]}`,
		"strict\noperation a:b read GET /x":                       `{"strict":true,"operation":[{"permission":"a:b","class":"read","method":"GET","path":"/x"}]}`,
		"operation dav:list read REPORT /**\nmethods read REPORT": `{"operation":[{"permission":"dav:list","class":"read","method":"REPORT","path":"/**"}],"methods":{"REPORT":"read"}}`,
		"list GET /v1/workspaces workspace {\nitems data\nid id\n}\nlist SEARCH /v1/apps app\nmethods read SEARCH": `{"list":[{"method":"GET","path":"/v1/workspaces","kind":"workspace","items":"data","id":"id"},
			{"method":"SEARCH","path":"/v1/apps","kind":"app"}],"methods":{"SEARCH":"read"}}`,
		"public /health /docs/*\npublic /x": `{"public":["/health","/docs/*","/x"]}`,
		"optional":                          `{"optional":true}`,
		"preflight":                         `{"preflight":{}}`,
		"preflight https://a.example http://localhost:3000": `{"preflight":{"origins":["https://a.example","http://localhost:3000"]}}`,
		"pass_metadata team cost_center":                    `{"pass_metadata":["team","cost_center"]}`,
		"foreign pass":                                      `{"foreign":"pass"}`,
		"encoded_slash allow":                               `{"encoded_slash":"allow"}`,
		"pass_credential":                                   `{"pass_credential":true}`,
		"errors caddy":                                      `{"errors":"caddy"}`,
		"realm \"Acme Inc.\"":                               `{"realm":"Acme Inc."}`,
		"forwarded":                                         `{"forwarded":"plain"}`,
		"forwarded nginx":                                   `{"forwarded":"nginx"}`,
	} {
		var got, wanted map[string]any
		if err := json.Unmarshal([]byte(adaptHandler(t, options)), &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		delete(got, "handler")
		if !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s\ngot  %v\nwant %v", options, got, wanted)
		}
	}
}

func TestHandlerCaddyfileErrors(t *testing.T) {
	for options, want := range map[string]string{
		"allow":                               `7| unknown option "allow" in api_key: must be one of from, namespace_path, namespace, resource`,
		"strict":                              `7| strict without any operation would forbid every call`,
		"strict\noperation a:b read FOO /x":   `8| operation: a:b: the method "FOO" is refused everywhere`,
		"strict yes":                          `strict accepts no argument`,
		"openapi":                             `openapi requires a file`,
		"openapi a b c":                       `openapi requires a file`,
		"openapi a \"\"":                      `the base path must not be empty`,
		"optional\nopenapi x.yaml {\nskip\n}": `9| unknown option "skip" in openapi: must be skip_unsupported`,
		"openapi x.yaml {\nskip_unsupported yes\n}":               `skip_unsupported accepts no argument, not "yes"`,
		"openapi x.yaml {\nskip_unsupported\nskip_unsupported\n}": `skip_unsupported is given twice`,
		"openapi {env.DOC}/a.yaml":                                `use {$DOC}/a.yaml`,
		"optional\nopenapi x.yaml":                                `8| openapi: stat `,
		"list": "list requires METHOD, PATH and " +
			"the KIND of the namespaces that the response lists, such as `list GET /v1/workspaces " +
			"workspace`, not 0 arguments",
		"list GET /x":      `not 2 arguments`,
		"list GET /x \"\"": `the kind of the namespaces is missing`,
		"list GET x app":   `does not begin with /`,
		"list get /x app": "list: /x: the method \"get\" is " +
			"refused everywhere: add `methods read get`, or correct it (case matters)",
		"list GET /x app {\nitem data\n}":          `unknown option "item" in list: must be items or id`,
		"list GET /x app {\nitems\n}":              `items requires one argument, not 0`,
		"list GET /x app {\nitems a b\n}":          `items requires one argument, not 2`,
		"list GET /x app {\nid a\nid b\n}":         `id is given twice, as "a" and "b"`,
		"list GET /x app {\nitems a\n\nitems b\n}": `10| items is given twice`,
		"list GET /x app {\nitems data..x\n}":      `items: "data..x" has an empty name: it takes names joined with dots, such as data.items`,
		"list GET /x app {\nid .\n}":               `id: "." has an empty name`,
		"list GET /x/{id} app\nlist GET /X/{y}/ group": "8| list: GET /X/{y}/ " +
			"lists app already (/x/{id}): remove one of them",
		"forwarded\nlist GET /x app":       `8| list cannot be combined with forwarded`,
		"list GET /x app\nforwarded nginx": `8| list cannot be combined with forwarded`,
		"optional\n\nfrom":                 `9| from requires a source: bearer, header NAME [SCHEME], basic, query NAME, cookie NAME`,
		"from body":                        `from: unknown source "body": must be one of bearer, header NAME`,
		"from header":                      `from header requires a name`,
		"from bearer X":                    `from bearer: unexpected argument "X"`,
		"from bearer header X-API-Key":     `each on its own line`,
		"from header X-Apikey-Token":       `removed from every request`,
		"from header Cookie":               `cannot carry a key`,
		"optional\nfrom header api_key": "8| from header api_key: Caddy drops " +
			"headers with an underscore: add `servers { expected_underscore_headers api_key }` to " +
			"the global options",
		"from header api.key": "from header api.key: Caddy drops " +
			"headers with a dot: add `servers { expected_dot_headers api.key }` to the global " +
			"options",
		"from header \"X Y\"":                    `is not a valid header name`,
		"from header A B:C":                      `the scheme must be a token`,
		"from query":                             `from query requires a name`,
		"from bearer\nfrom header authorization": `8| from header authorization: another source reads the same header`,
		"from cookie a\nfrom cookie a":           `another source reads the same cookie`,
		"namespace_path": "namespace_path requires path patterns " +
			"with a segment {namespace}, such as `namespace_path /v1/{namespace}/**`",
		"namespace_path /v1/**":                `must contain {namespace} as a whole segment`,
		"namespace_path /v1/ws-{namespace}/**": `as a whole segment, between two slashes`,
		"namespace_path v1/{namespace}":        `does not begin with /`,
		"also_judge": "also_judge requires header names, optionally after read or write, such as " +
			"`also_judge read X-Amz-Copy-Source`",
		"also_judge read":                     `also_judge requires header names`,
		"also_judge \"X Y\"":                  `also_judge: "X Y" is not a valid header name`,
		"optional\nalso_judge X-Original-URL": `8| also_judge: X-Original-URL is removed from every request`,
		"also_judge X-Apikey-Id":              `is removed from every request`,
		"also_judge Cookie":                   `the value of Cookie is not a path`,
		"also_judge Destination": "MOVE and COPY write to Destination: " +
			"use `also_judge write Destination`",
		"methods write MOVE\nnamespace {path.1}": "namespace: {http.request.uri.path.1} may " +
			"contain " +
			"the request's own path",
		"also_judge X-Copy-From\nnamespace {re.tenant.1}": "could not be checked: " +
			"use namespace_path",
		"also_judge X-A write x_a":                                      `also_judge: x_a is given twice`,
		"namespace_path /{namespace}/x\nnamespace_path /{namespace}/X/": `8| namespace_path: path pattern "/{namespace}/X/" matches the same as "/{namespace}/x"`,
		"namespace":                                         `namespace requires one argument, not 0`,
		"namespace a b":                                     `namespace requires one argument, not 2`,
		"namespace a\nnamespace b":                          `8| namespace is given twice, as "a" and "b"`,
		"namespace -x":                                      `is not a namespace id`,
		"namespace acme/x":                                  `is not a namespace id`,
		"resource Orders":                                   `"Orders" is no resource`,
		"resource admin":                                    `is for managing keys`,
		"resource admin.keys":                               `is for managing keys`,
		"methods write":                                     `methods requires read, write or none, and one or more methods`,
		"methods maybe PUT":                                 `methods: unknown value "maybe": must be read, write or none`,
		"methods read TRACE":                                `TRACE is always refused`,
		"methods write CONNECT":                             `CONNECT is always refused`,
		"methods read \"A B\"":                              `is not a valid method`,
		"methods read A\nmethods write A":                   `8| methods: A is read already`,
		"operation orders:search read POST":                 `operation requires RESOURCE:OPERATION`,
		"operation search read POST /x":                     `"search" is no RESOURCE:OPERATION`,
		"operation orders:read read GET /x":                 `"orders:read" is no RESOURCE:OPERATION`,
		"operation orders:* read GET /x":                    `"orders:*" is no RESOURCE:OPERATION`,
		"operation admin.keys:mint write POST /x":           `is for managing keys`,
		"operation orders:a maybe GET /x":                   `orders:a: unknown value "maybe": must be read or write`,
		"operation orders:a read FOO /x\noptional":          `7| operation: orders:a: the method "FOO" is refused everywhere: add ` + "`methods read FOO`",
		"methods none PUT\noperation orders:a write PUT /x": `8| operation: orders:a: the method "PUT" is refused`,
		"operation orders:a read GET x":                     `does not begin with /`,
		"operation orders:a read GET /{id}\noperation orders:b read GET /*x\noperation orders:c " +
			"read GET /{name}/": `9| operation: orders:c: GET /{name}/ is orders:a already (/{id})`,
		"public": "public requires path patterns, such as `public /health " +
			"/docs/*`",
		"public health":                    `does not begin with /`,
		"public /a /a/":                    `matches the same as "/a"`,
		"public /../a":                     `no request can have`,
		"optional\npublic /caf%C3%A9":      `8| public: path pattern "/caf%C3%A9" has the segment "caf%C3%A9", which no request can have: patterns are compared with the decoded path, so write "café"`,
		"public /a%2Fb":                    `has the segment "a%2Fb", which no request can have`,
		"public /a. ":                      `has the segment "a.", which no request can have`,
		"public \"/a /b\"":                 `has the segment "a ", which no request can have`,
		"public /a;b":                      `has the segment "a;b", which no request can have`,
		"operation a:b write POST /a%20b":  `so write "a b"`,
		"operation a:b read POST /A%42":    `so write "AB"`,
		"namespace_path /%41/{namespace}":  `so write "A"`,
		"list GET /%41 app":                `so write "A"`,
		"optional yes":                     `optional accepts no argument, not "yes"`,
		"optional\noptional":               `optional is given twice`,
		"preflight *":                      `"*" is not an origin: must be SCHEME://HOST`,
		"preflight https://*.example.com":  `"https://…" has a wildcard: list each origin, or none to allow any`,
		"preflight https://a.example:443":  `"https://…" has the default port: leave it out`,
		"preflight http://a.example:80":    `leave it out`,
		"preflight https://bücher.example": `"https://…" is not an origin`,
		"preflight https://a_b.example/":   `is not an origin`,
		"preflight https://a.example/":     `is not an origin`,
		"preflight\npreflight":             `preflight is given twice`,
		"pass_metadata": "pass_metadata requires names of metadata, such as " +
			"`pass_metadata team`",
		"pass_metadata \"a b\"":  `must be valid in a header name`,
		"pass_metadata a_b a-b":  `would be the same header X-Apikey-Meta-A-B`,
		"foreign keep":           `foreign: unknown value "keep": must be pass`,
		"encoded_slash":          `encoded_slash requires one argument`,
		"encoded_slash deny":     `must be allow`,
		"pass_credential please": `accepts no argument`,
		"realm":                  `realm requires one argument, not 0`,
		"realm a b":              `realm requires one argument, not 2`,
		"realm `a\\b`":           `realm: must be at most 100 ASCII characters without quotes and backslashes, this is "a\\b"`,
		"realm é":                `realm: must be at most 100 ASCII characters`,
		"errors json":            `errors: unknown value "json": must be caddy`,
		"forwarded apache":       `forwarded: unknown value "apache": must be nginx or left out`,
		"forwarded plain":        `must be nginx or left out`,
		"optional {\nx\n}":       `optional accepts no block`,
		"preflight\nforwarded": "8| preflight cannot be combined with forwarded: the other " +
			"proxy would take the 204 for a permission and pass on the OPTIONS request",
		"forwarded nginx\npreflight": `8| preflight cannot be combined with forwarded`,
	} {
		line := ", at Caddyfile:"
		if number, rest, ok := strings.Cut(want, "| "); ok {
			line, want = line+number, rest
		}
		_, err := tryAdaptSite(options)
		if err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error()+"\n", line) {
			t.Errorf("%s\ngot  %v\nwant %s%s", options, err, want, line)
		}
	}
	if _, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(":8080\napi_key yes\n"),
		nil); err == nil || !strings.Contains(err.Error(), "unexpected argument") {
		t.Error(err)
	}
}

func TestHandlerMatcher(t *testing.T) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(":8080\n@api path /v1/*\napi_key @api {\nnamespace acme\n}\nrespond ok\n"), nil)
	if err != nil || !strings.Contains(string(config), `"match":[{"path":["/v1/*"]}]`) {
		t.Errorf("%s %v", config, err)
	}
}

// TestHandlerJSONErrors checks that JSON is validated like the Caddyfile.
func TestHandlerJSONErrors(t *testing.T) {
	for config, want := range map[string]string{
		`{"foreign":"x"}`:                                      "foreign",
		`{"from":[{"type":"basic","name":"x"}]}`:               "accepts no name",
		`{"from":[{"type":"cookie","name":"x","scheme":"y"}]}`: "accepts no scheme",
		`{"from":[{}]}`:                                        "unknown source",
		`{"methods":{"A":""}}`:                                 "unknown value",
		`{"namespace":"ä"}`:                                    "not a namespace id",
		`{"forwarded":"yes"}`:                                  "forwarded",
		`{"also_judge":[{}]}`:                                  "not a valid header name",
		`{"also_judge":[{"header":"X-A","class":"none"}]}`: "also_judge: unknown value " +
			"\"none\": must be read or write",
		`{"operation":[{}]}`:                     "RESOURCE:OPERATION",
		`{"openapi":[{}]}`:                       "openapi: the file is missing",
		`{"openapi":[{"file":"/nothing.yaml"}]}`: "openapi: stat /nothing.yaml",
		`{"strict":true}`:                        "strict without any operation",
		`{"list":[{"path":"/x"}]}`:               "refused everywhere",
	} {
		h := new(Handler)
		if err := json.Unmarshal([]byte(config), h); err != nil {
			t.Fatal(err)
		}
		if _, err := h.compile(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}

func FuzzHandlerCaddyfile(f *testing.F) {
	f.Add("from header X Y\nnamespace_path /{namespace}\nmethods none PUT\noperation a:b read GET " +
		"/x")
	f.Add("list GET /x app {\nitems a.b\nid c\n}\nlist LIST /x app\nmethods read LIST")
	f.Add("public /a /b/**\npreflight https://a.example\npass_metadata x\nforwarded nginx")
	f.Fuzz(func(t *testing.T, options string) {
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser("api_key {\n" + options +
			"\n}")); err != nil {
			return
		}
		if _, err := h.compile(); err != nil {
			t.Errorf("JSON of an accepted Caddyfile is refused: %v", err)
		}
	})
}

// TestHeadersThatCaddyDrops checks that a source which Caddy drops is an error: of the Caddyfile if
// all servers drop it, otherwise of the server that does.
func TestHeadersThatCaddyDrops(t *testing.T) {
	for _, test := range []struct{ servers, header, want string }{
		{"", "api-key", ""},
		{"", "api_key",
			"Caddy drops headers with an underscore: add `servers { expected_underscore_headers " +
				"api_key }` to the global options, at Caddyfile:"},
		{"expected_dot_headers a.b", "api_key", "Caddy drops headers with an underscore"},
		{"expected_underscore_headers api_key", "api_key", ""},
		{"expected_underscore_headers API_*", "api_key", ""},
		{"expected_underscore_headers ap_*", "api_key", "Caddy drops headers with an underscore"},
		{"expected_dot_headers api.key", "api.key", ""},
		{"expected_dot_headers api.*", "api.my_key",
			"Caddy drops headers with an underscore and a dot: add `servers { " +
				"expected_underscore_headers api.my_key }`"},
		{"expected_dot_headers api.my_key", "api.my_key", ""},
		{"expected_underscore_headers api_key", "api-key",
			"from header api-key: Caddy drops it, because the server expects api_key: use that " +
				"header, or remove it from the server"},
		{"expected_dot_headers api.*", "api-key", "because the server expects api.*"},
	} {
		servers := ""
		if test.servers != "" {
			servers = "\tservers :8080 {\n\t\t" + test.servers + "\n\t}\n"
		}
		err := adaptAndValidate("{\n\tadmin off\n" + servers +
			"}\n:8080 {\n\tapi_key {\n\t\tfrom header " + test.header + "\n\t}\n}\n")
		if test.want == "" && err != nil || test.want != "" &&
			!strings.Contains(errorText(err), test.want) {
			t.Errorf("%s, %s: %v", test.servers, test.header, err)
		}
	}
	err := adaptAndValidate("{\n\tadmin off\n\tservers :8081 {\n\t\texpected_underscore_headers " +
		"api_key\n\t}\n}\n:8080 {\n\tapi_key {\n\t\tfrom header api_key\n\t}\n}\n")
	if !strings.Contains(errorText(err), "Caddy drops headers with an underscore") {
		t.Errorf("header expected only by another server: %v", err)
	}
}
