package sqldb

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestUpgradeKnowsFormerNamespaces: ids of namespaces deleted before the upgrade remain reserved.
func TestUpgradeKnowsFormerNamespaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	former, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer former.Close()
	p, err := (&DB{dialect: sqliteDialect, writer: former}).migrator()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	_, err = former.Exec(`
		INSERT INTO namespaces VALUES ('acme', '', '', '', 'free', '[]', '[]', '', 0, 1);
		INSERT INTO audit (seq, at, actor, source, action, object, namespaces, before, after, hash)
		VALUES (1, 0, 'root', '', 'namespace.delete', 'w9', '["w9"]', '', '', x'00')`)
	if err != nil {
		t.Fatal(err)
	}
	if err := former.Close(); err != nil {
		t.Fatal(err)
	}

	d, err := OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = d.Update(t.Context(), func(tx keystore.Tx) error {
		for id, want := range map[string]bool{"w9": true, "acme": false} {
			if got, err := tx.FormerNamespace(id); err != nil || got != want {
				t.Errorf("FormerNamespace(%s): %v %v, want %v", id, got, err, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := d.Policy(t.Context(), keystore.Nowhere)
	if err != nil || len(policy.Namespaces) != 1 || policy.Namespaces[0].ChildPrefix != "" {
		t.Errorf("%+v %v", policy, err)
	}
}
