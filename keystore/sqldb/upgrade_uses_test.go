//go:build unix

package sqldb

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestFormerNodesRecordUses: a node of the release before derived uses continues to record last
// uses and to delete keys while another node upgrades the schema and records derived uses.
func TestFormerNodesRecordUses(t *testing.T) {
	const formerSchema = 12
	server := postgresServer(t)
	for name, openAll := range map[string]func(t *testing.T) (former *DB, open func() (*DB, error)){
		"SQLite": func(t *testing.T) (*DB, func() (*DB, error)) {
			path := filepath.Join(t.TempDir(), "keys.db")
			former := newDB(sqliteDialect)
			former.writer = former.openSQLite(path, 1, "busy_timeout(1000)", "journal_mode(WAL)")
			return former, func() (*DB, error) { return OpenSQLite(t.Context(), path) }
		},
		"PostgreSQL": func(t *testing.T) (*DB, func() (*DB, error)) {
			url := server.URL(server.Schema(t))
			p, err := newPostgres(url)
			if err != nil {
				t.Fatal(err)
			}
			former := newDB(postgresDialect)
			former.postgres, former.writer = p, openPostgres(p, 1)
			return former, func() (*DB, error) { return OpenPostgres(t.Context(), url) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			former, open := openAll(t)
			defer former.writer.Close()
			p, err := former.migrator()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.UpTo(t.Context(), formerSchema); err != nil {
				t.Fatal(err)
			}
			exec := func(statement string) {
				t.Helper()
				if _, err := former.writer.ExecContext(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			for _, id := range []string{"a", "b"} {
				exec("INSERT INTO keys (id, prefix, name, namespace, grants, owner, created_by, " +
					"active, created_at, revoked_by, revoke_reason, allowed_ips, metadata, version) " +
					"VALUES ('" + id + "', 'ak', '', 'default', '[]', 'root', 'root', 1, 0, '', '', " +
					"'[]', '{}', 1)")
				exec("INSERT INTO last_uses (key_id, used_at) VALUES ('" + id + "', 1000)")
			}

			d, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			derived := keystore.DerivedUse{At: time.UnixMicro(2000).UTC(), Note: "job"}
			uses := make(map[string]keystore.LastUse)
			for _, id := range []string{"a", "b"} {
				if k, err := d.Key(t.Context(), id); err != nil || k.LastUsedAt.UnixMicro() != 1000 ||
					k.LastDerived != (keystore.DerivedUse{}) {
					t.Fatalf("after the upgrade: %+v, %v", k, err)
				}
				uses[id] = keystore.LastUse{At: derived.At, Derived: derived}
			}
			if err := d.RecordUse(t.Context(), uses); err != nil {
				t.Fatal(err)
			}
			// As the former release records a use and deletes a key.
			exec("INSERT INTO last_uses (key_id, used_at) VALUES ('a', 3000) ON CONFLICT (key_id) " +
				"DO UPDATE SET used_at = excluded.used_at WHERE excluded.used_at > last_uses.used_at")
			exec("DELETE FROM keys WHERE id = 'b'")
			k, err := d.Key(t.Context(), "a")
			if err != nil || k.LastUsedAt.UnixMicro() != 3000 || k.LastDerived != derived {
				t.Errorf("%+v, %v", k, err)
			}
			var left int
			if err := d.readers.QueryRowContext(t.Context(), "SELECT count(*) FROM last_derived").
				Scan(&left); err != nil || left != 1 {
				t.Errorf("%d derived uses are stored, %v", left, err)
			}
		})
	}
}
