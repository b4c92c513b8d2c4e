//go:build unix

package sqldb

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
)

// An upgradedStore is a store whose schema a later release upgrades while this one has it open:
// most tables have an additional column. During an upgrade, nodes of this release must continue to
// work. What works here works with the schema of this release too, which all other tests use.
type upgradedStore struct {
	keystoretest.Store
	dialect dialect
	done    *bool
}

var tableNames = regexp.MustCompile(`CREATE TABLE (\w+)`)

func (s upgradedStore) Open(t *testing.T) keystore.Database {
	t.Helper()
	db := s.Store.Open(t)
	if *s.done {
		return db
	}
	*s.done = true
	var tables [][][]byte
	for _, name := range []string{"00001_init.sql", "00007_limits.sql", "00008_usage.sql",
		"00009_derived.sql", "00010_webhooks.sql", "00011_lifetimes.sql",
		"00013_derived_use.sql"} {
		text, err := migrations.ReadFile("migrations/" + s.dialect.migrations + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		tables = append(tables, tableNames.FindAllSubmatch(text, -1)...)
	}
	if len(tables) < 29 {
		t.Fatalf("%d tables", len(tables))
	}
	statements := "BEGIN;"
	for _, table := range tables {
		statements += fmt.Sprintf("ALTER TABLE %s ADD COLUMN of_a_later_release TEXT;", table[1])
	}
	if err := s.Exec(statements + "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec(fmt.Sprintf("SELECT of_a_later_release FROM %s",
		tables[len(tables)-1][1])); err != nil {
		t.Fatal(err)
	}
	return db
}
