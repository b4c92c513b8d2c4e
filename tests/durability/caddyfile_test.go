package durability

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestBadCaddyfiles checks that each error names the line, the problem and the alternatives.
func TestBadCaddyfiles(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	const secret = "0123456789abcdef"
	type row struct {
		site, global string // one line is wrong, marked with #!
		says         []string
	}
	rows := []row{
		{site: "api_key {\n form bearer #!\n}",
			says: []string{`unknown option \"form\"`, "from, namespace_path, namespace"}},
		{site: "api_key {\n from telepathy #!\n}",
			says: []string{"telepathy", "bearer", "header", "cookie"}},
		{site: "api_key {\n from header #!\n}", says: []string{"from header", "name"}},
		{site: "api_key {\n from header X-A B C D #!\n}",
			says: []string{"from header: unexpected"}},
		{site: "api_key {\n from bearer\n from bearer #!\n}",
			says: []string{"another source reads the same"}},
		{site: "api_key {\n namespace home acme #!\n}", says: []string{"one argument"}},
		{site: "api_key {\n namespace home\n namespace acme #!\n}", says: []string{"twice"}},
		{site: "api_key {\n namespace \"a b\" #!\n}", says: []string{"a b"}},
		{site: "api_key {\n namespace_path /v1/** #!\n}", says: []string{"{namespace}"}},
		{site: "api_key {\n namespace_path v1/{namespace} #!\n}", says: []string{"/"}},
		{site: "api_key {\n resource Admin.keys #!\n}", says: []string{"Admin.keys"}},
		{site: "api_key {\n resource admin.keys #!\n}", says: []string{"admin"}},
		{site: "api_key {\n methods perhaps GET #!\n}",
			says: []string{"perhaps", "read, write or none"}},
		{site: "api_key {\n methods none #!\n}", says: []string{"methods"}},
		{site: "api_key {\n methods read CONNECT #!\n}", says: []string{"CONNECT"}},
		{site: "api_key {\n operation orders:search read POST #!\n}",
			says: []string{"operation orders:search read POST /v1/orders/search", "not 3 arguments"}},
		{site: "api_key {\n operation orders:read read POST /x #!\n}",
			says: []string{"orders:read"}},
		{site: "api_key {\n operation admin.keys:create read POST /x #!\n}",
			says: []string{"admin"}},
		{site: "api_key {\n operation a:x read POST /x\n operation a:y read POST /x #!\n}",
			says: []string{"/x"}},
		{site: "api_key {\n operation a:x read PURGE /x #!\n}", says: []string{"PURGE"}},
		{site: "api_key {\n public docs #!\n}", says: []string{"docs", "/"}},
		{site: "api_key {\n public /a/**/b #!\n}", says: []string{"/a/**/b"}},
		{site: "api_key {\n public #!\n}", says: []string{"public"}},
		{site: "api_key {\n optional yes #!\n}", says: []string{"optional accepts no argument"}},
		{site: "api_key {\n preflight app.example.com #!\n}",
			says: []string{"app.example.com", "https://"}},
		{site: "api_key {\n foreign keep #!\n}", says: []string{"keep", "pass"}},
		{site: "api_key {\n encoded_slash yes #!\n}", says: []string{"yes", "allow"}},
		{site: "api_key {\n errors json #!\n}", says: []string{"json", "caddy"}},
		{site: "api_key {\n forwarded apache #!\n}", says: []string{"apache", "nginx"}},
		{site: "api_key {\n pass_metadata \"a b\" #!\n}", says: []string{"a b"}},
		{site: "api_key {\n optional {\n x #!\n }\n}", says: []string{"no block"}},
		{site: "api_keys_admin {\n trust me #!\n}", says: []string{"trust"}},
		{site: "log {\n format api_keys {\n  warp json #!\n }\n}", says: []string{"warp", "wrap"}},
		{site: "log {\n format api_keys {\n  wrap nothing #!\n }\n}", says: []string{"nothing"}},
		{global: "api_keys {\n databse sqlite #!\n}",
			says: []string{"databse", "database, cache, local_cache"}},
		{global: "api_keys {\n database oracle #!\n}", says: []string{"oracle", "sqlite"}},
		{global: "api_keys {\n database postgres postgres://u:" + secret + "/x@h/d #!\n}",
			says: []string{"not a PostgreSQL URL", "%XX"}},
		{global: "api_keys {\n cache redis redis://u:" + secret + "@h/x #!\n}",
			says: []string{"cache redis", "must be a number"}},
		{global: "api_keys {\n local_cache -1 #!\n}", says: []string{"-1", "above 0"}},
		{global: "api_keys {\n lease forever #!\n}", says: []string{"forever", "30s"}},
		{global: "api_keys {\n lease 1ms #!\n}", says: []string{"1ms", "1s"}},
		{global: "api_keys {\n token_prefix AK #!\n}", says: []string{"AK"}},
		{global: "api_keys {\n token_prefix akm #!\n}", says: []string{"akm"}},
		{global: "api_keys {\n token_key " + secret + " x #!\n}", says: []string{"64 hex digits"}},
		{global: "api_keys\n api_keys #!", says: []string{"twice"}},
		{global: "api_keys now #!", says: []string{"no arguments"}},
	}
	for _, r := range rows {
		text := strings.TrimSpace("{\n" + r.global + "\n}\nhttp://localhost:80 {\n" + r.site +
			"\n}\n")
		line := 0
		for i, l := range strings.Split(text, "\n") {
			if strings.Contains(l, "#!") {
				line = i + 1
			}
		}
		got := g.AdaptRunning(t, strings.ReplaceAll(text, "#!", ""))
		wrong := strings.TrimSpace(strings.Split(text, "\n")[line-1])
		if got.Status == 200 {
			t.Errorf("%s\nwas accepted", wrong)
			continue
		}
		for _, want := range append(r.says, fmt.Sprintf("Caddyfile:%d", line)) {
			if !strings.Contains(string(got.Body), want) {
				t.Errorf("%s\nwants an error that says %q, got: %s", wrong, want, got.Body)
			}
		}
		if strings.Contains(string(got.Body), secret) {
			t.Errorf("%s\nits error shows the secret", strings.ReplaceAll(wrong, secret, "…"))
		}
	}
}

// TestBadValues checks that `caddy validate` finds errors in values that only the expanded
// configuration has, writes nothing to the disk and shows no secret.
func TestBadValues(t *testing.T) {
	t.Parallel()
	const (
		short = "0123456789abcdef"
		long  = "zz23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	)
	g := gate.Start(t, gate.Config{Env: []string{"SHORT=" + short, "LONG=" + long, "EMPTY=",
		"PREFIX=Not-One"}})
	for option, says := range map[string]string{
		"token_key " + short:                             "64 hex digits",
		"token_key {env.SHORT}":                          "64 hex digits",
		"token_key {env.LONG}":                           "hex",
		"token_key {env.EMPTY}":                          "token_key",
		"token_key {env.NOT_SET}":                        "token_key",
		"token_prefix {env.PREFIX}":                      "Not-One",
		"database sqlite {env.NOT_SET}":                  "database",
		"database postgres {env.LONG}":                   "not a PostgreSQL URL",
		"database sqlite {$GATE_DIR}/new/{no.such}/a.db": "no.such",
	} {
		r := g.Validate(t, gate.Config{APIKeys: option})
		if r.Exit == 0 || !strings.Contains(r.Stderr, says) ||
			!strings.Contains(r.Stderr, "api_keys") {
			t.Errorf("%s: want an error of api_keys that says %q, got %v",
				strings.ReplaceAll(option, short, "…"), says, r)
		}
		if strings.Contains(r.Stderr, short) || strings.Contains(r.Stderr, long) {
			t.Errorf("%s: the error shows the secret", strings.ReplaceAll(option, short, "…"))
		}
	}
	if r := g.Validate(t,
		gate.Config{APIKeys: "database sqlite {$GATE_DIR}/new/a.db"}); r.Exit != 0 {
		t.Error(r)
	}
	if _, err := os.Stat(filepath.Join(g.Dir, "new")); !os.IsNotExist(err) {
		t.Errorf("`caddy validate` created a directory: %v", err)
	}
}
