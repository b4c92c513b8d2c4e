package caddymodule

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// tryAdapt adapts a Caddyfile. A file that `caddy fmt` would change is an error.
func tryAdapt(text string) ([]byte, error) {
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text),
		map[string]any{"filename": "Caddyfile"})
	if err == nil && len(warnings) > 0 {
		return nil, errors.New(warnings[0].Message)
	}
	return config, err
}

// adaptApp returns the JSON of the app, or the error as text.
func adaptApp(options string) string {
	config, err := tryAdapt("{\n\tapi_keys {\n\t\t" + strings.ReplaceAll(options, "\n", "\n\t\t") +
		"\n\t}\n}\n")
	if err != nil {
		return err.Error()
	}
	var whole struct{ Apps map[string]json.RawMessage }
	if err := json.Unmarshal(config, &whole); err != nil {
		return err.Error()
	}
	return string(whole.Apps[appName])
}

func TestGlobalOption(t *testing.T) {
	for _, test := range []struct{ options, json string }{
		{"database sqlite", `{"database":{"type":"sqlite"}}`},
		{"database sqlite /var/lib/keys.db",
			`{"database":{"type":"sqlite","path":"/var/lib/keys.db"}}`},
		{"database sqlite {env.KEYS}/keys.db",
			`{"database":{"type":"sqlite","path":"{env.KEYS}/keys.db"}}`},
		{"database postgres postgres://keys:{env.PASSWORD}@a:5432,b:5432/keys?search_path=gate",
			`{"database":{"type":"postgres","url":"postgres://keys:{env.PASSWORD}@a:5432,b:5432/keys?search_path=gate"}}`},
		{"database postgres {file./run/secrets/url}",
			`{"database":{"type":"postgres","url":"{file./run/secrets/url}"}}`},
		{"database postgresql://keys@a/keys",
			`{"database":{"type":"postgres","url":"postgresql://keys@a/keys"}}`},
		{"database postgres postgresql://keys@a/keys",
			`{"database":{"type":"postgres","url":"postgresql://keys@a/keys"}}`},
		{"cache redis://cache/0", `{"cache":{"type":"redis","url":"redis://cache/0"}}`},
		{"cache rediss://u:{env.PASSWORD}@cache/0",
			`{"cache":{"type":"redis","url":"rediss://u:{env.PASSWORD}@cache/0"}}`},
		{"cache redis rediss://u:{env.PASSWORD}@cache/0?timeout=20ms",
			`{"cache":{"type":"redis","url":"rediss://u:{env.PASSWORD}@cache/0?timeout=20ms"}}`},
		{"cache redis redis-sentinel://a,b,c/main",
			`{"cache":{"type":"redis","url":"redis-sentinel://a,b,c/main"}}`},
		{"local_cache 1000", `{"local_cache":1000}`},
		{"local_cache 1000 64MiB\nrequest_memory 100MB",
			`{"local_cache":1000,"local_cache_bytes":67108864,"request_memory_bytes":100000000}`},
		{"lease 1m30s", `{"lease":90000000000}`},
		{"lease 1d", `{"lease":86400000000000}`},
		{"token_prefix ak_live ak", `{"token_prefix":["ak_live","ak"]}`},
		{"token_prefix ak_live\nabandon_prefix ak",
			`{"token_prefix":["ak_live"],"abandon_prefix":["ak"]}`},
		{"token_key {env.APIKEYS_TOKEN_KEY}", `{"token_key":"{env.APIKEYS_TOKEN_KEY}"}`},
		{"capacity {\n\tnamespaces 100\n\troles 50 10\n\tdirectory 8MiB 1MB\n\tkeys_per_owner 3\n}",
			`{"capacity":{"namespaces":100,"roles":50,"roles_per_namespace":10,"directory_bytes":8388608,"directory_bytes_per_namespace":1000000,"keys_per_owner":3}}`},
		{"lease 10s\nlocal_cache 5\ntoken_prefix k",
			`{"local_cache":5,"lease":10000000000,"token_prefix":["k"]}`},
	} {
		if got := adaptApp(test.options); got != test.json {
			t.Errorf("%s\n%s\nwant\n%s", test.options, got, test.json)
		}
	}
}

func TestGlobalOptionErrors(t *testing.T) {
	const secret = "hunter2"
	for options, want := range map[string]string{
		"lease 1s\nabuse 20/1m": `unknown option "abuse" in the global option api_keys: must be one of database, cache, local_cache, lease, token_prefix, abandon_prefix, token_key, capacity, request_memory, at Caddyfile:4`,
		"Lease 1s":              `unknown option "Lease"`,
		"database": "database requires a kind: sqlite [PATH], or postgres URL, at " +
			"Caddyfile:3",
		"database postgres": "database postgres requires one URL",
		"database postgres postgres://keys:" + secret + "@db/keys " +
			secret: "database postgres requires one URL",
		"database postgres mysql://keys:" + secret +
			"@db/keys": "this is not a PostgreSQL URL: it must be postgres://",
		"database postgres postgres://keys:" + secret +
			"/x@db/keys": "this is not a PostgreSQL URL",
		"database mysql":              `unknown database "mysql": must be sqlite or postgres`,
		"database sqlite a b":         "at most one path",
		`database sqlite ""`:          "must not be empty",
		"database sqlite {\n\twal\n}": "database accepts no block",
		"cache redis redis://:" + secret +
			"@localhost:port": "cache redis: an address is missing or is not HOST or HOST:PORT",
		"cache redis http://:" + secret +
			"@localhost": "cache redis: a Redis URL must begin with redis://, rediss://",
		"cache redis redis://:/" + secret + "@localhost":  "percent-encoded",
		"cache redis redis://:" + secret + "@h " + secret: "cache requires redis and one URL",
		"cache redis":     "cache requires redis and one URL",
		"cache":           "cache requires redis and one URL",
		"cache memcached": `unknown cache "memcached": must be redis, at Caddyfile:3`,
		"local_cache":     "a number of keys above 0",
		"local_cache 0": "local_cache 0: must be a number of keys above " +
			"0, optionally with a size",
		"local_cache -1":    "above 0",
		"local_cache 1 2 3": "above 0",
		"local_cache 1 1KiB": "optionally with a size of at least 16MiB, at " +
			"Caddyfile:3",
		"request_memory": "request_memory : must be one size of at least " +
			"16MiB",
		"request_memory 0":     "at least 16MiB, at Caddyfile:3",
		"request_memory 1 GiB": "one size",
		"local_cache 1 2":      "above 0",
		"local_cache 1e6":      "above 0",
		"lease":                "one duration between 1s and 24h0m0s, such as 30s",
		"lease 999ms":          "between 1s",
		"lease 25h":            "between 1s",
		"lease 30":             "between 1s",
		"lease 1s 2s":          "between 1s",
		"lease 1s\nlease 2s": "lease is given twice in the global option " +
			"api_keys, at Caddyfile:4",
		"token_prefix":    "one or more prefixes",
		"token_prefix Ak": `token_prefix "Ak"`,
		"token_prefix ak akm": "token_prefix akm is reserved for member tokens: " +
			"choose another prefix, at Caddyfile:3",
		"abandon_prefix": "one or more prefixes that " +
			"token_prefix no longer accepts, at Caddyfile:3",
		"abandon_prefix Ak": `abandon_prefix "Ak"`,
		"token_prefix a__b": "single underscores",
		"token_key":         "64 hex digits",
		`token_key ""`:      "64 hex digits",
		"capacity 5": "capacity accepts no arguments, " +
			"only a block, at Caddyfile:3",
		"capacity {\n\tkeys 5\n}": `unknown option "keys" in capacity: must be one of namespaces, roles, members, directory, keys_per_namespace, keys_per_owner, at Caddyfile:4`,
		"capacity {\n\troles 5\n\troles 6\n}": "roles is given twice in " +
			"capacity, at Caddyfile:5",
		"capacity {\n\troles 0\n}": "roles 0: must be one number " +
			"above 0, optionally with one per namespace, at Caddyfile:4",
		"capacity {\n\troles\n}": "must be one number above 0",
		"capacity {\n\troles 5 6\n}": "capacity: roles per namespace " +
			"is 6: it must be at most that of the deployment, 5, at Caddyfile:4",
		"capacity {\n\tdirectory 5 parsecs\n}": "directory 5 parsecs: must be one size above 0",
		"capacity {\n\tkeys_per_owner 5 5\n}": "keys_per_owner 5 5: must be one number above 0, " +
			"at Caddyfile:4",
		"token_key a " + secret: "token_key requires one argument",
		"database mysql://keys:" + secret +
			"@db/keys": "this is not a PostgreSQL URL: it must be postgres://",
		"database {env.URL}": "database requires a kind before a placeholder: `database postgres " +
			"{env.NAME}`",
		"database sqlite postgres://keys:" + secret +
			"@db/keys": "for PostgreSQL use `database postgres URL`, at Caddyfile:3",
		"cache http://:" + secret + "@h": "cache redis: a Redis URL must begin with redis://",
		"cache {env.URL}": "cache requires redis before a placeholder: `cache redis " +
			"{env.NAME}`",
	} {
		got := adaptApp(options)
		if !strings.Contains(got, want) || strings.Contains(got, secret) {
			t.Errorf("%s\n%s\nwant\n%s", options, got, want)
		}
	}
	if _, err := tryAdapt("{\n\tapi_keys\n\tapi_keys {\n\t\tlease 1s\n\t}\n}\n"); !strings.Contains(errorText(err), "given twice") {
		t.Error(err)
	}
	if _, err := tryAdapt("{\n\tapi_keys sqlite\n}\n"); !strings.Contains(errorText(err),
		"accepts no arguments") {
		t.Error(err)
	}
}

func TestExampleIsValid(t *testing.T) {
	caddyfile, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	// Caddy warns about a file that `caddy fmt` would change.
	encoded, err := tryAdapt(string(caddyfile))
	if err != nil {
		t.Fatal(err)
	}
	var config caddy.Config
	if err := json.Unmarshal(encoded, &config); err != nil {
		t.Fatal(err)
	}
	config.Admin.Disabled = true
	if err := caddy.Validate(&config); err != nil {
		t.Error(err)
	}
}
