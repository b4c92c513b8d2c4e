//go:build unix

package caddymodule

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

func TestPostgresDatabase(t *testing.T) {
	server := postgrestest.StartFor(t)
	if err := server.Exec("", "CREATE SCHEMA gate; CREATE ROLE gate LOGIN PASSWORD 'first%2Fhunter2'; GRANT ALL ON SCHEMA gate TO gate"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("APIKEYS_TEST_PASSWORD", "first%252Fhunter2")
	postgres := func(password string) object {
		return object{"database": object{"type": "postgres", "url": "postgres://gate:" + password + "@" + server.Address() + "/postgres?search_path=gate"}}
	}
	g := newGate(t)
	err := g.tryLoad(g.config(postgres("wrong-hunter2")))
	if text := errorText(err); !strings.Contains(text, "refuses the user or its password") || strings.Contains(text, "hunter2") {
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

	// With another password it is the same database, and the store stays.
	if err := server.Exec("", "ALTER ROLE gate PASSWORD 'second'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gate'"); err != nil {
		t.Fatal(err)
	}
	g.load(g.config(postgres("second")))
	if runningApp() == before || runningApp().Keystore() != before.Keystore() {
		t.Fatal("another app with the same store is expected to run")
	}
	if got := lookup(t, runningApp().Keystore(), g.mint(nil)); got != keystore.OK {
		t.Fatal(got)
	}
}
