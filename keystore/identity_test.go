package keystore_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// tamper runs SQL on the deployment's file, in one transaction.
func (d deployment) tamper(statements ...string) {
	d.Helper()
	db, err := sql.Open("sqlite", "file:"+d.path+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		d.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		d.Fatal(err)
	}
	defer tx.Rollback()
	for _, s := range statements {
		if _, err := tx.Exec(s); err != nil {
			d.Fatalf("%s: %v", s, err)
		}
	}
	if err := tx.Commit(); err != nil {
		d.Fatal(err)
	}
}

// protocol.md section 8, rows 12 and 13.
func TestADatabaseThatLostARevokeRevivesNothing(t *testing.T) {
	for name, afterwards := range map[string][]string{
		"and stands where it stood before": nil,
		"and went on":                      {"UPDATE namespaces SET name = 'a'", "UPDATE namespaces SET name = 'b'", "UPDATE namespaces SET name = 'c'"},
		"and is said to be another":        {"UPDATE head SET epoch = 'restored'"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDeployment(t)
			a, _ := d.node(keystore.Settings{})
			b, fb := d.node(keystore.Settings{})
			ctx := context.Background()
			key, token := mint(t, a, keystore.KeySpec{})
			_, live := mint(t, a, keystore.KeySpec{})
			for _, k := range []*keystore.Keystore{a, b} {
				want(t, "before", ask(k, token), keystore.OK)
				want(t, "another, before", ask(k, live), keystore.OK)
			}
			epoch := d.epoch()
			before := fmt.Sprint(a.Gauges().Revision)
			if p := revoke(t, a, key.ID, 0); !p.Complete {
				t.Fatalf("%+v", p)
			}

			fb.mute.Store(true) // the one that revoked is the first to find out
			d.tamper(append([]string{
				"DROP TRIGGER keys_one_way", // as a backup from before the revoke would have it
				"UPDATE keys SET revoked_at = NULL, revoked_by = '', revoke_reason = '', version = 1",
				"DELETE FROM change_log WHERE revision > " + before,
				"DELETE FROM marks WHERE revision >= " + before,
				"UPDATE head SET revision = " + before,
			}, afterwards...)...)
			if h := a.Health(ctx); h.Problem != "" {
				t.Fatal(h.Problem)
			}
			want(t, "revoked before, on the node that did it", ask(a, token), keystore.Revoked)
			want(t, "another", ask(a, live), keystore.OK)
			fb.mute.Store(false)
			if h := b.Health(ctx); h.Problem != "" {
				t.Fatal(h.Problem)
			}
			want(t, "revoked before, on the other node", ask(b, token), keystore.Revoked)
			want(t, "another", ask(b, live), keystore.OK)
			if d.epoch() == epoch {
				t.Error("the epoch is the same, so the shared cache's entries from before still count")
			}
			if p := revoke(t, b, key.ID, 0); !p.Complete || p.Nodes != 2 {
				t.Errorf("afterwards: %+v", p)
			}
		})
	}
}

func (d deployment) epoch() (epoch string) {
	d.Helper()
	db, err := sql.Open("sqlite", "file:"+d.path+"?mode=ro")
	if err != nil {
		d.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT epoch FROM head").Scan(&epoch); err != nil {
		d.Fatal(err)
	}
	return epoch
}
