package caddymodule

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

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
