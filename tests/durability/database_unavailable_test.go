package durability

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// otherSite serves /other without a key, like the other sites of a Caddy.
const otherSite = "handle /other {\n\trespond 200\n}\nhandle /apikeys/* " +
	"{\n\tapi_keys_admin\n}\nhandle {\n\tapi_key {\n\t\tpublic /open\n\t}\n\treverse_proxy " +
	"{$GATE_UPSTREAM}\n}"

// TestDatabaseUnavailableAtStart starts Caddy while it cannot reach PostgreSQL. Caddy serves
// requests that need no key, reports the problem, and becomes healthy as soon as the database is
// reachable.
func TestDatabaseUnavailableAtStart(t *testing.T) {
	t.Parallel()
	f := gate.StartFleet(t, gate.FleetConfig{NoCache: true, Config: gate.Config{Site: otherSite}})
	g, edge := f.Nodes[0], f.Edge(0, gate.Database)
	k := g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	g.Stop(t)
	edge.Cut()

	waits := func(when string) {
		t.Helper()
		wantWaiting(t, when, g, k)
		for endpoint, r := range map[string]gate.Response{"admin endpoint": g.Call(t, "GET",
			"/health", nil), "site": g.Get(t, "/apikeys/v1/health", "")} {
			if problem, _ := r.JSON()["problem"].(string); r.Status != 503 ||
				r.JSON()["healthy"] != false || !strings.Contains(problem, "has not been reached") {
				t.Errorf("%s: health at the %s: %v", when, endpoint, r)
			}
		}
		if r := g.Call(t, "GET", "/openapi.json", nil); r.Status != 200 {
			t.Errorf("%s: %v", when, r)
		}
		if n := g.Metric(t, "caddy_apikeys_store_errors_total", "store=database"); n == 0 {
			t.Errorf("%s: the metrics show no failure of the database", when)
		}
	}
	g.Start(t)
	waits("after the start")
	if r := g.APIKeys(t, "", "doctor"); r.Exit != 1 ||
		!strings.Contains(r.Stdout, "✗ it is not healthy: the database has not been reached") {
		t.Errorf("doctor: %v", r)
	}
	for _, said := range []string{"cannot open the key database",
		"PostgreSQL cannot be reached"} {
		if !strings.Contains(g.Output(), said) {
			t.Errorf("the log does not say %q", said)
		}
	}

	// Caddy stops cleanly while it waits, even for a database that hangs. A reload does not end the
	// wait.
	edge.Hang()
	g.Restart(t)
	waits("after a restart")
	edge.Cut()
	if r := g.Reload(t, g.Config()); r.Exit != 0 {
		t.Fatalf("a reload with the same database: %v", r)
	}
	waits("after a reload")

	edge.Heal()
	wantRecovered(t, g, k)
}

// wantWaiting checks that a Caddy which waits for its database serves what needs no key, and
// answers everything else with 503.
func wantWaiting(t *testing.T, when string, g *gate.Gate, k gate.Key) {
	t.Helper()
	for target, want := range map[string]int{"/other": 200, "/open": 200, "/": 503,
		"/apikeys/v1/self": 503} {
		r := g.Get(t, target, k.Token)
		if r.Status != want || want == 503 &&
			(r.Code() != "unavailable" || r.Header.Get("Retry-After") == "" ||
				len(r.Reached) > 0) {
			t.Errorf("%s: %s: want %d, got %v", when, target, want, r)
		}
	}
	wantUnavailable(t, when+": a mint",
		g.Call(t, "POST", "/keys", gate.JSON{"name": "n", "access": "read_only"}))
}

// wantRecovered waits until a Caddy whose database is available again accepts a key, and revokes
// the key.
func wantRecovered(t *testing.T, g *gate.Gate, k gate.Key) {
	t.Helper()
	gate.Until(t, "the key is accepted",
		func() bool { return g.Get(t, "/", k.Token).Status == 200 })
	if r := g.Call(t, "GET", "/health", nil); r.Status != 200 {
		t.Errorf("health: %v", r)
	}
	g.Revoke(t, k.ID)
	if r := g.Get(t, "/", k.Token); r.Code() != "key_revoked" {
		t.Error(r)
	}
}

// TestReloadToUnavailableDatabase checks that Caddy keeps a working configuration if the database
// of the new one is unreachable.
func TestReloadToUnavailableDatabase(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	k := g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	r := g.Reload(t, gate.Config{APIKeys: "database postgres postgres://u:hunter2@127.0.0.1:1/db"})
	if r.Exit == 0 || !strings.Contains(r.Stderr, "PostgreSQL cannot be reached") ||
		strings.Contains(r.Stderr, "hunter2") {
		t.Errorf("a reload to an unreachable database: %v", r)
	}
	if r := g.Get(t, "/", k.Token); r.Status != 200 {
		t.Errorf("after the reload was refused: %v", r)
	}
}

// TestStartFails checks that Caddy refuses to start with an error that waiting cannot fix.
func TestStartFails(t *testing.T) {
	t.Parallel()
	f := gate.StartFleet(t, gate.FleetConfig{NoCache: true, Direct: true})
	g := f.Nodes[0]
	g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	g.Stop(t)
	standby := f.Postgres.Standby(t)
	if err := f.Postgres.Exec("",
		"CREATE SCHEMA newer; CREATE TABLE newer.schema_version (version_id int, is_applied "+
			"bool); INSERT INTO newer.schema_version VALUES (4711, true)"); err != nil {
		t.Fatal(err)
	}
	url := f.Postgres.URL(f.Schema)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("This is no database."), 0o600); err != nil {
		t.Fatal(err)
	}
	for options, want := range map[string]string{
		"database postgres " + url + "\ntoken_key " +
			strings.Repeat("ab", 32): "token key mismatch",
		"database postgres " + f.Postgres.URL("newer"):   "newer version",
		"database postgres " + f.Postgres.URL("nowhere"): "no schema",
		"database postgres " + f.Postgres.URL(f.Schema,
			standby.Address()): "standby or read-only",
		"database postgres " + strings.Replace(url, "//postgres:", "//nobody:",
			1): "refuses the user or its password",
		"database postgres mysql://127.0.0.1/db":        "not a PostgreSQL URL",
		"database postgres " + url + "&sslmode=require": "TLS",
		"database sqlite " + file + "/keys.db":          "not a directory",
		"database sqlite " + file:                       "not an SQLite database",
	} {
		config := gate.Config{APIKeys: options}
		if err := os.WriteFile(filepath.Join(g.Dir, "Caddyfile"), []byte(config.Text()),
			0o600); err != nil {
			t.Fatal(err)
		}
		if r := g.StartFails(t); !strings.Contains(r.Stderr, want) ||
			strings.Contains(r.Stderr, postgrestest.Password) {
			t.Errorf("%s: want a failed start that says %q, got %v", options, want, r)
		}
	}
}

// TestHealthWithoutDatabase checks that health distinguishes an unreachable database from an
// expired lease.
func TestHealthWithoutDatabase(t *testing.T) {
	t.Parallel()
	f := gate.StartFleet(t, gate.FleetConfig{NoCache: true, Direct: true, Lease: 8 * time.Second})
	g := f.Nodes[0]
	k := g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	if r := g.Get(t, "/", k.Token); r.Status != 200 {
		t.Fatal(r)
	}
	if r := g.Call(t, "GET", "/health", nil); r.Status != 200 || r.JSON()["healthy"] != true {
		t.Fatal(r)
	}
	if err := f.Postgres.Halt(); err != nil {
		t.Fatal(err)
	}
	problem := func() string {
		r := g.Call(t, "GET", "/health", nil)
		text, _ := r.JSON()["problem"].(string)
		if r.Status != 503 || r.JSON()["healthy"] != false ||
			!strings.Contains(text, "the database is unreachable") {
			t.Fatalf("PostgreSQL is stopped: %v", r)
		}
		return text
	}
	first := problem()
	gate.Until(t, "the lease has expired",
		func() bool { return strings.Contains(problem(), "the lease has expired") })
	if first == problem() {
		t.Logf("the first problem was: %s", first) // a very slow machine shows nothing
	}
	if r := g.Get(t, "/", k.Token); r.Status != 503 || r.Header.Get("Retry-After") == "" {
		t.Errorf("without lease and database: %v", r)
	}
	if r := g.APIKeys(t, "", "doctor"); r.Exit != 1 ||
		!strings.Contains(r.Stdout, "✗ it is not healthy: the lease has expired") {
		t.Errorf("doctor: %v", r)
	}
	if n := g.Metric(t, "caddy_apikeys_lease_remaining_seconds"); n != 0 {
		t.Errorf("the metrics show a lease of %v s", n)
	}
	if err := f.Postgres.Run(); err != nil {
		t.Fatal(err)
	}
	gate.Until(t, "the node is healthy again",
		func() bool { return g.Call(t, "GET", "/health", nil).Status == 200 })
	gate.Until(t, "the key is accepted again",
		func() bool { return g.Get(t, "/", k.Token).Status == 200 })
}
