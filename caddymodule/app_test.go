package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/metrics"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// An instance is the Caddy of this process, with the admin endpoint on a Unix socket. There is one
// at a time.
type instance struct {
	t      *testing.T
	dir    string
	client *http.Client
	loads  int
	sites  int // number of configs with a site

	trustsNoProxy bool // whether sites trust no peer
}

func newInstance(t *testing.T) *instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate") // t.TempDir is too long for a socket path
	if err != nil {
		t.Fatal(err)
	}
	g := &instance{t: t, dir: dir}
	transport := &http.Transport{
		DisableKeepAlives: true, // each config has another server
		DialContext: func(ctx context.Context, _, host string) (net.Conn, error) {
			name, _, _ := strings.Cut(host, ":")
			switch name {
			case "admin":
				name = g.adminSocket()
			case "site":
				name = g.siteSocket()
			}
			return new(net.Dialer).DialContext(ctx, "unix", g.path(name))
		},
	}
	g.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *instance) path(name string) string { return filepath.Join(g.dir, name) }

// adminSocket returns the admin socket of the last config, even if it failed. Each config has its
// own, because the previous admin server may still accept connections and drop them.
func (g *instance) adminSocket() string { return fmt.Sprintf("admin%d", g.loads) }

// siteSocket returns the site socket of the last config with a site. Each has its own, too.
func (g *instance) siteSocket() string { return fmt.Sprintf("site%d", g.sites) }

type object = map[string]any

// config returns a complete config with that of the app. The change functions may modify it.
func (g *instance) config(app object, change ...func(config, apps object)) object {
	apps := object{}
	if app != nil {
		apps[appName] = app
	}
	config := object{
		"admin":   object{"config": object{"persist": false}},
		"logging": object{"logs": object{"default": object{"writer": object{"output": "discard"}}}},
		"apps":    apps,
	}
	for _, f := range change {
		f(config, apps)
	}
	return config
}

func (g *instance) tryLoad(config object) error {
	g.t.Helper()
	g.loads++
	config["admin"].(object)["listen"] = "unix/" + g.path(g.adminSocket())
	encoded, err := json.Marshal(config)
	if err != nil {
		g.t.Fatal(err)
	}
	return caddy.Load(encoded, true)
}

func (g *instance) load(config object) {
	g.t.Helper()
	if err := g.tryLoad(config); err != nil {
		g.t.Fatal(err)
	}
}

// do sends a request to the server with this socket.
func (g *instance) do(method, server, path, body string, headers ...string) (int, string) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+server+path,
		strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := g.client.Do(r)
	// After a reload, the server of the former configuration may accept a connection of the socket
	// and close it.
	for tries := 0; errors.Is(err, io.EOF) && method == "GET" && tries < 10; tries++ {
		response, err = g.client.Do(r)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var text strings.Builder
	if _, err := io.Copy(&text, response.Body); err != nil {
		g.t.Fatal(err)
	}
	return response.StatusCode, text.String()
}

// mint creates a key through the admin endpoint and returns its token. On a busy machine it waits
// for the database, without which Caddy has started after startWait.
func (g *instance) mint(fields object) string {
	g.t.Helper()
	for end := time.Now().Add(time.Minute); runningApp().store.Load() == nil; {
		if time.Now().After(end) {
			g.t.Fatal("the database is not open")
		}
		time.Sleep(10 * time.Millisecond)
	}
	spec := object{"name": "test", "namespace": "default", "access": "read_only"}
	for name, value := range fields {
		spec[name] = value
	}
	body, err := json.Marshal(spec)
	if err != nil {
		g.t.Fatal(err)
	}
	status, answer := g.do("POST", "admin", "/apikeys/v1/keys", string(body))
	var minted struct{ Token string }
	if err := json.Unmarshal([]byte(answer), &minted); err != nil || status != http.StatusCreated {
		g.t.Fatalf("mint: %d (no token is shown here)", status)
	}
	return minted.Token
}

func lookup(t *testing.T, keys *manage.Keystore, token string) keystore.Outcome {
	t.Helper()
	answer, err := keys.Lookup(t.Context(), token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return answer.Outcome
}

func sqlite(path string, more object) object {
	app := object{"database": object{"type": "sqlite", "path": path}}
	for name, value := range more {
		app[name] = value
	}
	return app
}

func TestReloadsKeepTheStore(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("keys.db"), nil)))
	before := runningApp()
	token := g.mint(nil)
	hits := func() uint64 {
		return before.Keystore().Stats().Lookups[node.TierLocal][node.Hit]
	}
	for hits() == 0 { // no key is cached while a change is applied
		if got := lookup(t, before.Keystore(), token); got != keystore.OK {
			t.Fatal(got)
		}
	}
	before.Keystore().Count(before.Keystore().Policy().Namespace("default"), nil,
		keystore.OK)

	for i, reload := range []struct {
		settings      object
		requestMemory string // in the metrics
	}{
		{object{"lease": "10s"}, "2.68435456e+08"},
		{object{"token_prefix": []string{"ak_new", "ak"}, "request_memory_bytes": 32 << 20},
			"3.3554432e+07"},
	} {
		log := g.path(fmt.Sprint("log", i))
		g.load(g.config(sqlite(g.path("keys.db"), reload.settings), func(config, _ object) {
			config["logging"] = object{"logs": object{"default": object{
				"writer": object{"output": "file", "filename": log}}}}
		}))
		now := runningApp()
		if now == before || now.Keystore() != before.Keystore() {
			t.Fatalf("reload %d: another app with the same store is expected to run", i)
		}
		slog.New(now.store.Load().log).Info("logged by the store")
		if text, err := os.ReadFile(log); err != nil ||
			!strings.Contains(string(text), "logged by the store") {
			t.Errorf("reload %d: the log of the config contains %q, %v", i, text, err)
		}
		had := hits()
		if got := lookup(t, now.Keystore(), token); got != keystore.OK || hits() != had+1 {
			t.Errorf("reload %d: the key was looked up with outcome %s and %d local hits", i, got,
				hits()-had)
		}
		_, metrics := g.do("GET", "admin", "/metrics", "")
		for _, want := range []string{
			`caddy_apikeys_requests_total{namespace="default",outcome="ok"} 1`,
			`caddy_apikeys_request_memory_limit_bytes ` + reload.requestMemory,
		} {
			if !strings.Contains(metrics, want) {
				t.Errorf("reload %d: the metrics have no %s", i, want)
			}
		}
	}
	if token := g.mint(nil); !keystore.HasTokenPrefix(token, "ak_new") {
		t.Error("the prefix of the last config is not in force")
	}
}

// failingApp fails to start. late counts how often it started after the api_keys app.
type failingApp struct{ ctx caddy.Context }

var late atomic.Int32

func (failingApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "failing", New: func() caddy.Module { return new(failingApp) }}
}

func (f *failingApp) Provision(ctx caddy.Context) error { f.ctx = ctx; return nil }

func (f *failingApp) Start() error {
	app, err := f.ctx.App(appName)
	if err != nil {
		return err
	}
	if app.(*App).Keystore() != nil {
		late.Add(1)
	}
	return errors.New("this app fails on purpose")
}

func (failingApp) Stop() error { return nil }

func init() { caddy.RegisterModule(failingApp{}) }

func TestFailedReloadRestoresTheSettings(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(config, apps object)
	}{
		// Caddy stops the started apps and cleans up.
		{"a later app does not start", func(_, apps object) { apps["failing"] = object{} }},
		// Caddy cleans up without stopping any app.
		{"remote admin without identity",
			func(config, _ object) { config["admin"].(object)["remote"] = object{} }},
	} {
		for _, database := range []string{"keys.db", "other.db"} {
			t.Run(test.name+", "+database, func(t *testing.T) {
				g := newInstance(t)
				g.load(g.config(sqlite(g.path("keys.db"), nil)))
				before := runningApp()
				token := g.mint(nil)

				bad := g.config(sqlite(g.path(database),
					object{"token_prefix": []string{"bad"}, "abandon_prefix": []string{"ak"}}),
					test.fault)
				late.Store(0)
				for range 64 { // because apps start in any order
					if err := g.tryLoad(bad); err == nil {
						t.Fatal("the config was loaded")
					}
					if _,
						needsLuck := bad["apps"].(object)["failing"]; !needsLuck ||
						late.Load() > 0 {
						break
					}
				}

				if runningApp() != before {
					t.Fatal("another app is running")
				}
				if got := lookup(t, before.Keystore(), token); got != keystore.OK {
					t.Error(got)
				}
				if again := g.mint(nil); !keystore.HasTokenPrefix(again, "ak") ||
					lookup(t, before.Keystore(), again) != keystore.OK {
					t.Error("the settings before the failed reload are not in force")
				}
				if _,
					metrics := g.do("GET", "admin", "/metrics", ""); !strings.Contains(metrics,
					`caddy_apikeys_keys{status="active"} 2`) {
					t.Error("the metrics are not those of the running store")
				}
				if n, _ := stores.References(g.path("keys.db")); n != 1 {
					t.Errorf("the store is held %d times", n)
				}
			})
		}
	}
}

func TestReloadWithAnotherDatabase(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("first.db"), nil)))
	token := g.mint(nil)
	first := runningApp().Keystore()

	g.load(g.config(sqlite(g.path("second.db"), nil)))
	second := runningApp().Keystore()
	if got := lookup(t, second, token); second == first || got != keystore.Malformed {
		t.Errorf("a token of the first deployment is %s in the second", got)
	}
	if _, err := first.Lookup(t.Context(), token, time.Now()); err == nil {
		t.Error("the first store is still open")
	}
	lookup(t, second, g.mint(nil))

	g.load(g.config(sqlite(g.path("first.db"), nil)))
	if got := lookup(t, runningApp().Keystore(), token); got != keystore.OK {
		t.Errorf("back on the first database, the key is %s", got)
	}
}

// TestReloadWithAnotherPrefix checks that a configuration which refuses live keys is rejected
// unless it abandons their prefix. Then it takes effect immediately, for cached keys too.
func TestReloadWithAnotherPrefix(t *testing.T) {
	g := newInstance(t)
	config := func(more object) object { return g.config(sqlite(g.path("keys.db"), more)) }
	g.load(config(nil))
	token := g.mint(nil)
	before := runningApp()
	if got := lookup(t, before.Keystore(), token); got != keystore.OK {
		t.Fatal(got)
	}

	startWith(t, "{\n\tapi_keys {\n\t\ttoken_prefix shop\n\t\tabandon_prefix ak\n\t}\n}\n")
	if at := lineOf("abandoned"); at != "Caddyfile:4" {
		t.Errorf("abandon_prefix is in %q", at)
	}
	other := object{"token_prefix": []string{"shop"}}
	refused := func(name string) {
		t.Helper()
		text := errorText(g.tryLoad(config(other)))
		for _, part := range []string{"ak (1)", "token_prefix shop ak", "abandon_prefix ak",
			" See Caddyfile:3."} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %q does not name %q", name, text, part)
			}
		}
	}
	refused("reload")
	if runningApp() != before || lookup(t, before.Keystore(), token) != keystore.OK {
		t.Error("the refused configuration is in force")
	}
	if n, _ := stores.References(g.path("keys.db")); n != 1 {
		t.Errorf("the store is held %d times", n)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	refused("start")
	if n, _ := stores.References(g.path("keys.db")); n != 0 {
		t.Errorf("the store is held %d times after a start that was refused", n)
	}

	g.load(config(nil))
	if got := lookup(t, runningApp().Keystore(), token); got != keystore.OK {
		t.Fatal(got)
	}
	other["abandon_prefix"] = []string{"ak"}
	g.load(config(other))
	keys := runningApp().Keystore()
	if got := lookup(t, keys, token); got != keystore.Malformed {
		t.Errorf("a cached key of an abandoned prefix is %s", got)
	}
	if got := lookup(t, keys, g.mint(nil)); got != keystore.OK {
		t.Errorf("a new key is %s", got)
	}
	if _, metrics := g.do("GET", "admin", "/metrics", ""); !strings.Contains(metrics,
		"caddy_apikeys_unaccepted_prefix_keys 1") {
		t.Error("no metric counts the key")
	}
	if status, text := g.do("GET", "admin", "/apikeys/v1/prefixes", ""); status != 200 ||
		text != `{"accepted":["shop"],"others":[{"prefix":"ak","keys":1,"abandoned":true}]}`+"\n" {
		t.Errorf("%d %s", status, text)
	}

	text := errorText(g.tryLoad(config(object{"token_prefix": []string{"new"},
		"abandon_prefix": []string{"ak"}})))
	if !strings.Contains(text, "live keys: shop (1).") {
		t.Errorf("with one of two prefixes abandoned: %s", text)
	}
	g.load(config(object{"token_prefix": []string{"shop", "ak"}}))
	if got := lookup(t, runningApp().Keystore(), token); got != keystore.OK {
		t.Errorf("a key whose prefix is accepted again is %s", got)
	}
}

func TestTokenKeyCannotChange(t *testing.T) {
	g := newInstance(t)
	good, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	g.load(g.config(sqlite(g.path("keys.db"), object{"token_key": good})))
	before := runningApp()
	g.mint(nil)
	for _, more := range []object{{"token_key": other}, nil} {
		err := g.tryLoad(g.config(sqlite(g.path("keys.db"), more)))
		if err == nil || !strings.Contains(err.Error(), "token_key differs from the one") {
			t.Fatalf("reload: %v", err)
		}
		if strings.Contains(err.Error(), good) || strings.Contains(err.Error(), other) {
			t.Error("the error shows a token key")
		}
		if runningApp() != before {
			t.Error("another app is running")
		}
	}
	g.load(g.config(sqlite(g.path("keys.db"), object{"token_key": strings.ToUpper(good)})))
	if runningApp().Keystore() != before.Keystore() {
		t.Error("the same key in capitals opened another store")
	}

	// After a restart, the database refuses the key.
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	err := g.tryLoad(g.config(sqlite(g.path("keys.db"), object{"token_key": other})))
	if !strings.Contains(errorText(err), "token_key") || strings.Contains(errorText(err), other) {
		t.Errorf("restart: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

func TestValidateTouchesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	t.Setenv("XDG_DATA_HOME", dir)
	var config caddy.Config
	if err := json.Unmarshal([]byte(`{"admin":{"disabled":true},"apps":{"api_keys":{}}}`),
		&config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&config); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is something in the data directory: %v", err)
	}
}

func TestDefaultDatabase(t *testing.T) {
	g := newInstance(t)
	t.Setenv("XDG_DATA_HOME", g.path("data"))
	g.load(g.config(object{}))
	g.mint(nil)
	if _, err := os.Stat(g.path("data/caddy/apikeys.db")); err != nil {
		t.Error(err)
	}
}

func TestProvisionErrors(t *testing.T) {
	t.Setenv("APIKEYS_TEST_EMPTY", "")
	t.Setenv("APIKEYS_TEST_SECRET", "hunter2")
	for config, want := range map[string]string{
		`{"database":{"type":"postgres"}}`:                                                   "database postgres: this is not a PostgreSQL URL",
		`{"database":{"type":"postgres","path":"x"}}`:                                        "requires a url and accepts no path",
		`{"database":{"url":"postgres://h/d"}}`:                                              "accepts a path and no url",
		`{"database":{"type":"postgres","url":"postgres://u:{hunter2}@h/d"}}`:                "a brace in a password as %7B",
		`{"database":{"type":"postgres","url":"postgres://u:{env.APIKEYS_TEST_EMPTY}@h/d"}}`: "database: evaluated placeholder {env.APIKEYS_TEST_EMPTY} is empty",
		`{"database":{"type":"postgres","url":"{env.APIKEYS_TEST_SECRET}"}}`:                 "this is not a PostgreSQL URL",
		`{"database":{"type":"mysql"}}`:                                                      `unknown database "mysql": must be sqlite or postgres`,
		`{"database":{"path":"{env.APIKEYS_TEST_EMPTY}"}}`:                                   "database: evaluated placeholder {env.APIKEYS_TEST_EMPTY} is empty",
		`{"database":{"path":"{no.such}"}}`:                                                  "database: unrecognized placeholder {no.such}",
		`{"local_cache":-1}`:                                                                 "local_cache is -1",
		`{"capacity":{"roles":-1}}`:                                                          "capacity: roles is -1: it must be above 0",
		`{"capacity":{"roles":5,"roles_per_namespace":6}}`:                                   "capacity: roles per namespace is 6",
		`{"local_cache_bytes":1000}`:                                                         "local_cache_bytes is 1000: it must be at least 16777216",
		`{"request_memory_bytes":-1}`:                                                        "request_memory is -1",
		`{"lease":"10ms"}`:                                                                   "lease is 10ms",
		`{"lease":"1000h"}`:                                                                  "lease is 1000h",
		`{"token_prefix":["Ak"]}`:                                                            `token_prefix "Ak"`,
		`{"token_prefix":["ak",""]}`:                                                         `token_prefix ""`,
		`{"token_prefix":["ak","akm"]}`:                                                      "token_prefix akm is reserved for member tokens",
		`{"token_prefix":["ak","akm_x"]}`:                                                    "token_prefix akm_x is reserved for member tokens",
		`{"abandon_prefix":["ak"]}`:                                                          "abandon_prefix ak: token_prefix accepts it",
		`{"token_prefix":["ak"],"abandon_prefix":["akm"]}`:                                   "abandon_prefix akm is reserved for member tokens",
		`{"token_prefix":["ak","ak"]}`:                                                       "token_prefix ak is given twice",
		`{"abandon_prefix":["old","old"]}`:                                                   "abandon_prefix old: token_prefix accepts it, or it is given twice",
		`{"lease":"999ms"}`:                                                                  "lease is 999ms",
		`{"lease":"24h1ns"}`:                                                                 "lease is 24h0m0.000000001s",
		`{"local_cache_bytes":16777215}`:                                                     "local_cache_bytes is 16777215",
		`{"request_memory_bytes":16777215}`:                                                  "request_memory is 16777215",
		`{"token_prefix":["{env.APIKEYS_TEST_EMPTY}"]}`:                                      "token_prefix: evaluated placeholder",
		`{"token_key":"{env.APIKEYS_TEST_EMPTY}"}`:                                           "token_key: evaluated placeholder {env.APIKEYS_TEST_EMPTY} is empty",
		`{"token_key":"{env.APIKEYS_TEST_SECRET}"}`:                                          "token_key: a token key must be 64 hex digits; this one has 7 characters",
		`{"derive":{"off":true,"max":"1h"}}`:                                                 "derive: off cannot be combined with max",
		`{"usage":{"off":true,"days":"400d"}}`:                                               "usage: off cannot be combined with other options",
		`{"usage":{"hours":"forever"}}`:                                                      "usage: days are kept for 400d: must be at least as long as hours, forever",
		`{"usage":{"minutes":"1h"}}`:                                                         "usage: minutes 1h: must be forever or a duration of at least 2h",
		`{"usage":{"minutes":"{env.APIKEYS_TEST_SECRET}"}}`:                                  "must be forever or a duration of at least 2h",
		`{"token_keys":"x"}`:                                                                 "token_keys",
		`{"cache":{"type":"redis"}}`:                                                         "cache redis: a Redis URL must begin with redis://",
		`{"cache":{"type":"memcached"}}`:                                                     `unknown cache "memcached": must be redis`,
		`{"cache":{"url":"redis://:{env.APIKEYS_TEST_SECRET}/@h"}}`:                          "cache redis: not a Redis URL",
		`{"cache":{"url":"redis://:{hunter2}@h"}}`:                                           "a brace in a password as %7B",
		`{"cache":{"url":"redis://:{env.APIKEYS_TEST_EMPTY}@localhost"}}`:                    "cache: evaluated placeholder {env.APIKEYS_TEST_EMPTY} is empty",
	} {
		var whole caddy.Config
		if err := json.Unmarshal([]byte(`{"admin":{"disabled":true},"apps":{"api_keys":`+config+
			`}}`), &whole); err != nil {
			t.Fatal(err)
		}
		err := caddy.Validate(&whole)
		if text := errorText(err); !strings.Contains(text, want) ||
			strings.Contains(text, "hunter2") {
			t.Errorf("%s: %s", config, text)
		}
	}
}

// TestProvisionSettings checks that the smallest and largest values are accepted and applied.
func TestProvisionSettings(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	t.Setenv("APIKEYS_TEST_KEPT", "forever")
	for config, want := range map[string]node.Settings{
		`{"lease":"1s"}`:  {Lease: time.Second},
		`{"lease":"24h"}`: {Lease: 24 * time.Hour},
		`{"local_cache":1,"local_cache_bytes":16777216}`: {LocalCache: 1, LocalCacheBytes: 16 << 20},
		`{"request_memory_bytes":16777216}`:              {},
		`{"usage":{}}`:                                   {Usage: node.UsageSettings{Kept: &keystore.DefaultUsageKept}},
		`{"usage":{"off":true}}`: {
			Usage: node.UsageSettings{Off: true, Kept: &keystore.DefaultUsageKept}},
		`{"usage":{"minutes":"2h","hours":"2d","days":"62d","months":"366d"}}`: {
			Usage: node.UsageSettings{Kept: &keystore.UsageKept{Minutes: 2 * time.Hour,
				Hours: 48 * time.Hour, Days: 62 * 24 * time.Hour, Months: 366 * 24 * time.Hour}}},
		`{"usage":{"minutes":"forever","hours":"forever","days":"{env.APIKEYS_TEST_KEPT}"}}`: {
			Usage: node.UsageSettings{Kept: new(keystore.UsageKept)}},
		`{"capacity":{"roles_per_namespace":6}}`: {
			Capacity: keystore.Capacity{Roles: keystore.Caps{PerNamespace: 6}}},
		`{"capacity":{"roles":6,"roles_per_namespace":6}}`: {
			Capacity: keystore.Capacity{Roles: keystore.Caps{Deployment: 6, PerNamespace: 6}}},
		`{"token_prefix":["a","b"],"abandon_prefix":["c","d"]}`: {TokenPrefixes: []string{"a", "b"},
			AbandonedPrefixes: []string{"c", "d"}},
		`{"capacity":{"namespaces":12,"namespaces_per_namespace":11,"roles":22,
			"roles_per_namespace":21,"plans":62,"plans_per_namespace":61,"members":32,
			"members_per_namespace":31,"directory_bytes":42,"directory_bytes_per_namespace":41,
			"keys_per_namespace":51,"keys_per_owner":52}}`: {
			Capacity: keystore.Capacity{
				Namespaces: keystore.Caps{Deployment: 12, PerNamespace: 11},
				Roles:      keystore.Caps{Deployment: 22, PerNamespace: 21},
				Plans:      keystore.Caps{Deployment: 62, PerNamespace: 61},
				Members:    keystore.Caps{Deployment: 32, PerNamespace: 31},
				Directory:  keystore.Caps{Deployment: 42, PerNamespace: 41}, KeysPerNamespace: 51,
				KeysPerOwner: 52}},
	} {
		a := new(App)
		if err := json.Unmarshal([]byte(config), a); err != nil {
			t.Fatal(err)
		}
		a.Database = &DatabaseConfig{Path: "relative/keys.db"}
		if err := a.Provision(ctx); err != nil {
			t.Errorf("%s: %v", config, err)
		}
		if !reflect.DeepEqual(a.settings, want) {
			t.Errorf("%s: %+v, want %+v", config, a.settings, want)
		}
		if !filepath.IsAbs(a.identity) || !strings.HasSuffix(a.identity, "/relative/keys.db") {
			t.Errorf("the database is %s", a.identity)
		}
	}
}

func TestParseCounts(t *testing.T) {
	for text, want := range map[string][2]int64{ // 0: refused
		"1": {1, 1}, "0": {0, 0}, "-1": {0, 0}, "": {0, 0}, "x": {0, 0}, "16MiB": {0, 16 << 20},
		"9223372036854775807": {9223372036854775807, 0}, "9223372036854775808": {0, 0},
		"4EiB": {0, 0}, "3EiB": {0, 3 << 60}, "0MiB": {0, 0},
	} {
		count, ok := parseCount(text)
		if ok != (want[0] > 0) || ok && count != want[0] {
			t.Errorf("count %q: %d, %v", text, count, ok)
		}
		size, ok := parseSize(text)
		if ok != (want[1] > 0) || ok && size != want[1] {
			t.Errorf("size %q: %d, %v", text, size, ok)
		}
	}
}

func TestNoAppRunsAfterStop(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("keys.db"), nil)))
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if runningApp() != nil {
		t.Error("the stopped app is still the running one")
	}
}

func TestAwait(t *testing.T) {
	newApp := func() *App {
		return &App{started: make(chan struct{}),
			cleanedUp: make(chan struct{})}
	}
	synctest.Test(t, func(t *testing.T) {
		app, opened := newApp(), &store{keys: new(manage.Keystore)}
		go func() {
			time.Sleep(startTimeout - 1)
			app.store.Store(opened)
			close(app.started)
		}()
		if keys, err := app.Await(t.Context()); err != nil || keys != opened.keys {
			t.Errorf("a request before Start gets %v, %v", keys, err)
		}
		if keys, err := app.Await(t.Context()); err != nil || keys != opened.keys {
			t.Errorf("a request after Start gets %v, %v", keys, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if keys,
			err := newApp().Await(t.Context()); err == nil || keys != nil ||
			time.Since(began) != startTimeout {
			t.Errorf("without Start: %v, %v after %s", keys, err, time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		app, began := newApp(), time.Now()
		go func() { _ = app.Cleanup() }()
		if _, err := app.Await(t.Context()); err == nil || time.Since(began) != 0 {
			t.Errorf("after Cleanup: %v after %s", err, time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := newApp().Await(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled context: %v", err)
		}
	})
}
