package keystore_test

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// tamper runs SQL on the deployment's file, in one transaction.
func (d deployment) tamper(statements ...string) {
	d.Helper()
	if err := d.try(statements...); err != nil {
		d.Fatal(err)
	}
}

func (d deployment) try(statements ...string) error {
	db, err := sql.Open("sqlite", "file:"+d.path+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, s := range statements {
		if _, err := tx.Exec(s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return tx.Commit()
}

func TestADatabaseThatLostARevokeRevivesNothing(t *testing.T) {
	for name, afterwards := range map[string][]string{
		"and stands where it stood before": nil,
		"and went on": {"UPDATE namespaces SET name = 'a'",
			"UPDATE namespaces SET name = 'b'", "UPDATE namespaces SET name = 'c'"},
		"and is said to be another": {"UPDATE head SET epoch = 'restored'"},
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
				"UPDATE keys SET revoked_at = NULL, revoked_by = '', revoke_reason = '', version " +
					"= 1",
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
				t.Error("the epoch is the same, so the shared cache's entries from before still " +
					"count")
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

// SQLite's REPLACE fires no trigger for the row that it takes the place of.
func TestReplacedRowsAreNoticed(t *testing.T) {
	const replace = "REPLACE INTO keys (id, prefix, name, namespace, grants, owner, created_by, " +
		"active, created_at, revoked_at, revoked_by, revoke_reason, allowed_ips, metadata, " +
		"version) " +
		"SELECT id, prefix, name, namespace, grants, owner, created_by, active, created_at, %s, " +
		"'me', '', allowed_ips, metadata, version + 1 FROM keys"
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	_, token := mint(t, a, keystore.KeySpec{})
	want(t, "before", ask(a, token), keystore.OK)
	d.tamper(fmt.Sprintf(replace, "5"))
	if h := a.Health(ctx); h.Problem != "" {
		t.Fatal(h.Problem)
	}
	want(t, "revoked by hand", ask(a, token), keystore.Revoked)
	for _, statement := range []string{fmt.Sprintf(replace, "NULL"),
		"REPLACE INTO secrets SELECT * FROM secrets"} {
		if err := d.try(statement); err == nil {
			t.Errorf("%s: was carried out", statement)
		}
	}
}

// A change that the database loses while its maker waits for the others is not reported as made.
func TestALostChangeIsNotReportedAsMade(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, fb := d.node(keystore.Settings{})
	key, token := mint(t, a, keystore.KeySpec{})
	want(t, "before", ask(b, token), keystore.OK)
	before := a.Gauges().Revision
	for b.Gauges().Revision != before {
		b.Health(ctx)
	}
	fb.mute.Store(true)
	off := false
	answer := make(chan error)
	go func() {
		_, _, err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: &off},
			keystore.ChangeOptions{Wait: 20 * time.Second})
		answer <- err
	}()
	for a.Gauges().Revision == before { // it has not committed and waits for b
		time.Sleep(time.Millisecond)
	}
	d.tamper(
		"UPDATE keys SET active = 1, version = 1",
		fmt.Sprint("DELETE FROM change_log WHERE revision > ", before),
		fmt.Sprint("DELETE FROM marks WHERE revision >= ", before),
		fmt.Sprint("UPDATE head SET revision = ", before),
		// another change takes the revision, and the other node has applied it
		"UPDATE namespaces SET name = 'b'",
		"UPDATE nodes SET acked = (SELECT revision FROM head)",
	)
	if err := <-answer; err == nil {
		t.Error("the change is reported as made")
	}
	fb.mute.Store(false)
	want(t, "afterwards", ask(a, token), keystore.OK)
}

// TestADatabaseThatLostManyRevokesRevivesNone: what was revoked in one go counts key by key; keys
// that are not in the database any more do not stop the others.
func TestADatabaseThatLostManyRevokesRevivesNone(t *testing.T) {
	const many = 1500
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	maker, key := caller(t, a, keystore.KeySpec{Grants: grants(t,
		"default=admin.keys:create,read")})
	var specs []keystore.ImportSpec
	for i := range many {
		specs = append(specs,
			keystore.ImportSpec{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}},
				Line: i + 1, Token: fmt.Sprintf("legacy/%d", i)})
	}
	if n, refused, err := a.ImportKeys(ctx, maker, specs, true, ""); n != many {
		t.Fatal(n, refused, err)
	}
	gone := keystore.DigestOf(specs[0].Token)
	before := fmt.Sprint(a.Gauges().Revision)
	if _, p, err := a.RevokeKey(ctx, root, key.ID, "leaked", true,
		keystore.ChangeOptions{}); err != nil || !p.Complete {
		t.Fatalf("%+v, %v", p, err)
	}
	d.tamper(
		"DROP TRIGGER keys_one_way", // as a backup from before the revoke would have it
		"UPDATE keys SET revoked_at = NULL, revoked_by = '', revoke_reason = '', version = 1",
		"DELETE FROM keys WHERE id = (SELECT key_id FROM secrets WHERE digest = unhex('"+
			hex.EncodeToString(gone[:])+"'))",
		"DELETE FROM change_log WHERE revision > "+before,
		"DELETE FROM marks WHERE revision >= "+before,
		"UPDATE head SET revision = "+before,
	)
	for a.Health(ctx).Problem != "" { // it may take longer than a renewal waits
		time.Sleep(10 * time.Millisecond)
	}
	want(t, "a key that was deleted", ask(a, specs[0].Token), keystore.Unknown)
	for _, s := range specs[1:] {
		want(t, s.Token, ask(a, s.Token), keystore.Revoked)
	}
}

// What a node has revoked lately may be much, and the database far away: it begins where it was.
func TestRevokingAgainComesToAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		db, err := sqldb.OpenSQLite(ctx, d.path)
		if err != nil {
			t.Fatal(err)
		}
		far := new(atomic.Bool)
		a, err := keystore.OpenAt(ctx, 1, farAway{db, far}, keystore.Settings{}, observer{})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		_, live := mint(t, a, keystore.KeySpec{})
		for range 200 {
			key, _ := mint(t, a, keystore.KeySpec{})
			revoke(t, a, key.ID, 0)
		}
		want(t, "before", ask(a, live), keystore.OK)
		far.Store(true)
		d.tamper("UPDATE head SET epoch = 'restored'")
		time.Sleep(5 * time.Minute)
		want(t, "some minutes later", ask(a, live), keystore.OK)
	})
}

// farAway is a database whose every answer about a key takes 100 ms.
type farAway struct {
	keystore.Database
	far *atomic.Bool
}

func (f farAway) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	return f.Database.Update(ctx, func(tx keystore.Tx) error {
		if f.far.Load() {
			tx = farTx{tx, ctx}
		}
		return change(tx)
	})
}

type farTx struct {
	keystore.Tx
	ctx context.Context
}

func (f farTx) Keys(ids []string) ([]keystore.Key, error) {
	select {
	case <-time.After(time.Duration(len(ids)) * 100 * time.Millisecond / 64):
		return f.Tx.Keys(ids)
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
}
