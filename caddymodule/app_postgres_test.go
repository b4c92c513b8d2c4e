//go:build unix

package caddymodule

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

func TestPostgresDatabase(t *testing.T) {
	server := postgrestest.StartFor(t)
	if err := server.Exec("",
		"CREATE SCHEMA gate; CREATE ROLE gate LOGIN PASSWORD 'first%2Fhunter2'; GRANT ALL ON "+
			"SCHEMA gate TO gate"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("APIKEYS_TEST_PASSWORD", "first%252Fhunter2")
	postgres := func(password string) object {
		return object{"database": object{"type": "postgres",
			"url": "postgres://gate:" + password + "@" + server.Address() +
				"/postgres?search_path=gate"}}
	}
	g := newInstance(t)
	err := g.tryLoad(g.config(postgres("wrong-hunter2")))
	if text := errorText(err); !strings.Contains(text, "refuses the user or its password") ||
		strings.Contains(text, "hunter2") {
		t.Fatal(text)
	}
	g.load(g.config(postgres("{env.APIKEYS_TEST_PASSWORD}")))
	before := runningApp()
	token := g.mint(nil)
	if got := lookup(t, before.Keystore(), token); got != keystore.OK {
		t.Fatal(got)
	}
	if n, err := server.Query("gate", "SELECT count(*) FROM keys"); err != nil || n != "1" {
		t.Fatal(n, err)
	}

	// Another password does not change the identity of the database, so the store survives.
	if err := server.Exec("",
		"ALTER ROLE gate PASSWORD 'second'; SELECT pg_terminate_backend(pid) FROM "+
			"pg_stat_activity WHERE usename = 'gate'"); err != nil {
		t.Fatal(err)
	}
	g.load(g.config(postgres("second")))
	if runningApp() == before || runningApp().Keystore() != before.Keystore() {
		t.Fatal("another app with the same store is expected to run")
	}
	if got := lookup(t, runningApp().Keystore(), g.mint(nil)); got != keystore.OK {
		t.Fatal(got)
	}

	// The password of a config that fails is not kept, even if it is right at that time.
	become := func(password string) {
		t.Helper()
		if err := server.Exec("", "ALTER ROLE gate PASSWORD '"+password+"'; SELECT "+
			"pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gate'"); err != nil {
			t.Fatal(err)
		}
	}
	unknown := postgres("third")
	database := unknown["database"].(object)
	database["url"] = database["url"].(string) + "&sslmode=unknown"
	for name, bad := range map[string]object{
		"refused for its URL": g.config(unknown),
		"refused for its token_prefix": g.config(postgres("third"), func(_, apps object) {
			apps[appName].(object)["token_prefix"] = []string{"other"}
		}),
		"refused after it has started": g.config(postgres("third"), func(config, _ object) {
			config["admin"].(object)["remote"] = object{}
		}),
	} {
		become("third")
		if err := g.tryLoad(bad); err == nil {
			t.Fatal(name, ": the config was loaded")
		}
		become("second")
		if got := lookup(t, runningApp().Keystore(), g.mint(nil)); got != keystore.OK {
			t.Fatal(name, ": ", got)
		}
	}
}

// TestPostgresBlockedAtStart checks that Caddy starts while another session blocks writes, that
// health says why keys get 503, and that it recovers when the block ends.
func TestPostgresBlockedAtStart(t *testing.T) {
	const lock, unconfirmed = "another transaction", "synchronous standby"
	for name, row := range map[string]struct {
		why  string
		hold func(*testing.T, *postgrestest.Server) (release func() error)
		new  bool // whether the database is empty
	}{
		"the head's row is locked":                     {lock, lockHead, false},
		"the standby is detached":                      {unconfirmed, detachStandby, false},
		"the standby of an empty database is detached": {"its log says why", detachStandby, true},
		"the schema version is locked": {"its log says why", lockSchemaVersion,
			false},
	} {
		t.Run(name, func(t *testing.T) {
			server := postgrestest.StartFor(t)
			g := newInstance(t)
			database := object{"database": object{"type": "postgres", "url": server.URL("")}}
			postgres := g.config(database, func(_, apps object) {
				g.sites++
				apps["http"] = object{"servers": object{"site": object{
					"listen": []string{"unix/" + g.path(g.siteSocket())},
					"routes": []object{{"handle": []object{
						{"handler": "api_key", "public": []string{"/open"}},
						{"handler": "static_response", "status_code": 200},
					}}},
				}}}
			})
			var token string
			if !row.new {
				g.load(postgres)
				token = g.mint(nil)
				if err := caddy.Stop(); err != nil {
					t.Fatal(err)
				}
			}
			release := row.hold(t, server)

			if row.why == lock || row.why == unconfirmed {
				g.load(g.config(sqlite(g.path("keys.db"), nil)))
				before := runningApp()
				err := g.tryLoad(postgres)
				if !strings.Contains(errorText(err), row.why) || runningApp() != before {
					t.Errorf("a reload to an unreachable database: %v", err)
				}
				if err := caddy.Stop(); err != nil {
					t.Fatal(err)
				}
			}
			begun := time.Now()
			g.load(postgres)
			if took := time.Since(begun); took > startWait+10*time.Second {
				t.Errorf("the start took %s", took)
			}
			if status, _ := g.do("GET", "site", "/open", ""); status != 200 {
				t.Errorf("public path: %d", status)
			}
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://site/", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer ak_0000000000000000000000")
			response, err := g.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != 503 || response.Header.Get("Retry-After") == "" {
				t.Errorf("request with a key: %s, Retry-After %q", response.Status,
					response.Header.Get("Retry-After"))
			}
			status, health := g.do("GET", "admin", "/apikeys/v1/health", "")
			if status != 503 || !strings.Contains(health, row.why) ||
				strings.Contains(health, server.Address()) {
				t.Errorf("health: %d %s", status, health)
			}

			if err := release(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); status != 200; time.Sleep(10 * time.Millisecond) {
				status, health = g.do("GET", "admin", "/apikeys/v1/health", "")
				if status != 200 && time.Now().After(deadline) {
					t.Fatalf("health after recovery: %d %s", status, health)
				}
			}
			if token == "" {
				token = g.mint(nil)
			}
			if status, _ := g.do("GET", "site", "/", "", withBearer(token)...); status != 200 {
				t.Errorf("key after recovery: %d", status)
			}
		})
	}
}

// TestOpeningIsRetried checks that the pauses between attempts to open an unreachable database
// double, and that the same failure is logged once.
func TestOpeningIsRetried(t *testing.T) {
	g := newInstance(t)
	log := g.path("log")
	begun := time.Now()
	g.load(g.config(object{"database": object{"type": "postgres",
		"url": fmt.Sprintf("postgres://127.0.0.1:%d/keys", freeport.For(t))}},
		func(config, _ object) {
			config["logging"] = object{"logs": object{"default": object{
				"writer": object{"output": "file", "filename": log}}}}
		}))
	for failed := &runningApp().opening.failed; failed.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("%d attempts have failed within a minute", failed.Load())
		}
	}
	if took := time.Since(begun); took < (retryMin+2*retryMin)/2 {
		t.Errorf("three attempts took %s", took)
	}
	text, err := os.ReadFile(log)
	if n := strings.Count(string(text), "cannot open the key database"); n != 1 || err != nil {
		t.Errorf("%d log lines, %v", n, err)
	}
}

// TestReloadWhileUnreachable checks that a config whose database is unreachable is refused, unless
// the running one waits for the same database.
func TestReloadWhileUnreachable(t *testing.T) {
	g := newInstance(t)
	closed := func() object {
		return g.config(object{"database": object{"type": "postgres",
			"url": fmt.Sprintf("postgres://127.0.0.1:%d/keys", freeport.For(t))}})
	}
	first, other := closed(), closed()
	g.load(first)
	refused := func() {
		t.Helper()
		before := runningApp()
		if err := g.tryLoad(other); err == nil || runningApp() != before {
			t.Errorf("a reload to an unreachable database: %v", err)
		}
	}
	refused()
	g.load(first)
	g.load(g.config(sqlite(g.path("keys.db"), nil)))
	refused()
}

// TestPrefixesWhenOpenedLate checks that a database opened after the start no longer refuses the
// configuration. Keys with unaccepted prefixes are refused, all others are accepted.
func TestPrefixesWhenOpenedLate(t *testing.T) {
	server := postgrestest.StartFor(t)
	g := newInstance(t)
	app := object{"database": object{"type": "postgres", "url": server.URL("")}}
	g.load(g.config(app))
	old := g.mint(nil)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	release := lockHead(t, server)
	app["token_prefix"] = []string{"shop"}
	g.load(g.config(app))
	if err := release(); err != nil {
		t.Fatal(err)
	}
	status, deadline := 0, time.Now().Add(time.Minute)
	for ; status != 200; time.Sleep(10 * time.Millisecond) {
		if status, _ = g.do("GET", "admin", "/apikeys/v1/health", ""); time.Now().After(deadline) {
			t.Fatalf("health: %d", status)
		}
	}
	keys := runningApp().Keystore()
	if got := lookup(t, keys, old); got != keystore.Malformed {
		t.Errorf("a key of another prefix is %s", got)
	}
	if got := lookup(t, keys, g.mint(nil)); got != keystore.OK {
		t.Errorf("a new key is %s", got)
	}
	if _, text := g.do("GET", "admin", "/apikeys/v1/prefixes", ""); !strings.Contains(text,
		`{"prefix":"ak","keys":1,"abandoned":false}`) {
		t.Error(text)
	}
}

func lockHead(t *testing.T, s *postgrestest.Server) func() error {
	return inTransaction(t, s, "SELECT * FROM head FOR UPDATE")
}

func lockSchemaVersion(t *testing.T, s *postgrestest.Server) func() error {
	return inTransaction(t, s, "LOCK TABLE schema_version")
}

// inTransaction runs a statement in a transaction that lasts until release.
func inTransaction(t *testing.T, s *postgrestest.Server, statement string) (release func() error) {
	t.Helper()
	db, err := sql.Open("pgx", s.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	return tx.Rollback
}

func detachStandby(t *testing.T, s *postgrestest.Server) (release func() error) {
	t.Helper()
	standby := s.SynchronousStandby(t)
	if err := standby.Detach(); err != nil {
		t.Fatal(err)
	}
	return standby.Attach
}
