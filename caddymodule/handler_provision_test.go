package caddymodule

import (
	"os"
	"strings"
	"testing"
)

// TestProvisionedHandler checks what a handler adds to the logs, and what it warns of when the
// configuration is loaded.
func TestProvisionedHandler(t *testing.T) {
	g := newInstance(t)
	if err := os.WriteFile(g.path("api.yaml"),
		[]byte("openapi: 3.1.0\npaths:\n /a-b: {get: {}}\n /a/b: {get: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(accessLog, defaultLog, public, options string) (configLog string) {
		t.Helper()
		g.loadCaddyfile(`{
	api_keys {
		database sqlite DIR/keys.db
	}
	log {
		output file DIR/caddy.log
		` + defaultLog + `
	}
}
http://site {
	bind unix/DIR/` + g.siteSocket() + `
	` + accessLog + `
	api_key {
		namespace default
		from header X-Secret
		` + options + `
	}
	respond ok
}
http://admin.test {
	bind unix/DIR/` + g.siteSocket() + `
	api_key {
		` + public + `
	}
	api_keys_admin
}
`)
		return readFile(t, g.path("caddy.log"))
	}
	warnings := []string{"operations of OpenAPI documents left out", "path pattern has a literal",
		"API keys may be written into the logs", "refuses requests for api_keys_admin"}
	quiet := load("", "format api_keys", "public /apikeys/*", "public /docs/*")
	for _, warning := range warnings {
		if strings.Contains(quiet, warning) {
			t.Errorf("warning %q of a good configuration", warning)
		}
	}
	token := g.mint(nil)
	g.mustDo("GET", "site", "/", "", "X-Secret", token)

	loud := load("log {\n\t\toutput file DIR/access.log\n\t\tformat api_keys\n\t}", "", "optional",
		"public /docs*\n\t\topenapi DIR/api.yaml {\n\t\t\tskip_unsupported\n\t\t}")
	for _, warning := range warnings {
		if !strings.Contains(loud, warning) {
			t.Errorf("no warning %q: %s", warning, loud)
		}
	}
	g.mustDo("GET", "site", "/", "", "X-Secret", token)
	access := readFile(t, g.path("access.log"))
	if strings.Contains(access, token) || !strings.Contains(access, `"X-Secret":["REDACTED"]`) {
		t.Error("the access log has the credential")
	}
	if !strings.Contains(access, `"api_key_id":"`+idOf(t, token)+`"`) {
		t.Errorf("the access log does not have the key's id: %s", access)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
