package docs

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestRestoreCommands backs up and restores PostgreSQL with the commands of docs/operations.md.
// Keys that were created after the backup are gone, and the others are accepted at once.
func TestRestoreCommands(t *testing.T) {
	page := pages(t)["docs/operations.md"]
	block := regexp.MustCompile("(?s)```sh\n(pg_dump [^\n]*\n)(psql [^\n]*\n" +
		"pg_restore [^\n]*\n)```.*?```sql\n(.*?)```").
		FindStringSubmatch(page)
	if block == nil {
		t.Fatal("docs/operations.md has no pg_dump, pg_restore and SQL")
	}
	backUp, restore, statements := block[1], block[2], block[3]

	server := postgrestest.StartFor(t)
	if err := server.Exec("", "CREATE DATABASE apikeys"); err != nil {
		t.Fatal(err)
	}
	url := strings.Replace(server.URL("gate"), "/postgres?", "/apikeys?", 1)
	binaries, err := postgrestest.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(command, input string) {
		t.Helper()
		cmd := exec.Command("sh", "-eu", "-c", command)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
		cmd.Env = append(os.Environ(),
			"PATH="+binaries+string(filepath.ListSeparator)+os.Getenv("PATH"),
			"PGHOST="+host, "PGPORT="+port, "PGUSER=postgres", "PGPASSWORD="+postgrestest.Password)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	psql := "psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 apikeys"
	run(psql, "CREATE SCHEMA gate;")

	g := gate.Start(t, gate.Config{APIKeys: "database postgres " + url})
	create := func() gate.Token {
		return g.Mint(t, gate.JSON{"name": "backup", "access": "read_only"}).Token
	}
	wantStatus := func(token gate.Token, status int) {
		t.Helper()
		if r := g.Get(t, "/", token); r.Status != status {
			t.Errorf("want %d, got %v", status, r)
		}
	}
	before := create()
	run(backUp, "")
	after := create()
	wantStatus(after, 200)
	g.Stop(t)
	run(restore, "")
	run(psql, statements)
	g.Start(t)
	wantStatus(before, 200)
	wantStatus(after, 401)
	wantStatus(create(), 200)
}
