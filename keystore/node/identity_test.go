package node_test

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
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

func TestLostRevokeIsRepeated(t *testing.T) {
	for name, afterwards := range map[string][]string{
		"at the revision of the backup": nil,
		"with later changes": {"UPDATE namespaces SET name = 'a'",
			"UPDATE namespaces SET name = 'b'", "UPDATE namespaces SET name = 'c'"},
		"with another epoch": {"UPDATE head SET epoch = 'restored'"},
	} {
		t.Run(name, func(t *testing.T) {
			d := fleet.New(t)
			a, _ := d.Node(node.Settings{})
			b, fb := d.Node(node.Settings{})
			ctx := context.Background()
			key, token := fleet.Mint(t, a, manage.KeySpec{})
			_, live := fleet.Mint(t, a, manage.KeySpec{})
			for _, k := range []*manage.Keystore{a, b} {
				fleet.Want(t, "before", fleet.Ask(k, token), keystore.OK)
				fleet.Want(t, "another, before", fleet.Ask(k, live), keystore.OK)
			}
			epoch := epochOf(d)
			before := fmt.Sprint(a.Gauges().Revision)
			if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete {
				t.Fatalf("%+v", p)
			}

			fb.Mute.Store(true) // a notices first
			d.Tamper(append([]string{
				"DROP TRIGGER keys_one_way", // restores the state before the revoke
				"UPDATE keys SET revoked_at = NULL, revoked_by = '', revoke_reason = '', " +
					"version = 1",
				"DELETE FROM change_log WHERE revision > " + before,
				"DELETE FROM marks WHERE revision >= " + before,
				"UPDATE head SET revision = " + before,
			}, afterwards...)...)
			if h := a.Health(ctx); h.Problem != "" {
				t.Fatal(h.Problem)
			}
			fleet.Want(t, "revoked before, on the revoking node", fleet.Ask(a, token),
				keystore.Revoked)
			fleet.Want(t, "another", fleet.Ask(a, live), keystore.OK)
			fb.Mute.Store(false)
			if h := b.Health(ctx); h.Problem != "" {
				t.Fatal(h.Problem)
			}
			fleet.Want(t, "revoked before, on the other node", fleet.Ask(b, token),
				keystore.Revoked)
			fleet.Want(t, "another", fleet.Ask(b, live), keystore.OK)
			if epochOf(d) == epoch {
				t.Error("the epoch is the same, so earlier entries of the shared cache are valid")
			}
			p := fleet.Revoke(t, b, key.ID, 0)
			for p.Nodes > 2 { // former rows are removed in the background
				time.Sleep(time.Millisecond)
				p = fleet.Revoke(t, b, key.ID, 0)
			}
			if !p.Complete || p.Nodes != 2 {
				t.Errorf("afterwards: %+v", p)
			}
		})
	}
}

func epochOf(d fleet.Fleet) (epoch string) {
	d.Helper()
	db, err := sql.Open("sqlite", "file:"+d.Path+"?mode=ro")
	if err != nil {
		d.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT epoch FROM head").Scan(&epoch); err != nil {
		d.Fatal(err)
	}
	return epoch
}

// SQLite's REPLACE fires no delete trigger for the row that it replaces.
func TestReplacedRowsAreNoticed(t *testing.T) {
	const replace = "REPLACE INTO keys (id, prefix, name, namespace, grants, owner, created_by, " +
		"active, created_at, revoked_at, revoked_by, revoke_reason, allowed_ips, metadata, " +
		"version) " +
		"SELECT id, prefix, name, namespace, grants, owner, created_by, active, created_at, %s, " +
		"'me', '', allowed_ips, metadata, version + 1 FROM keys"
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	_, token := fleet.Mint(t, a, manage.KeySpec{})
	fleet.Want(t, "before", fleet.Ask(a, token), keystore.OK)
	d.Tamper(fmt.Sprintf(replace, "5"))
	if h := a.Health(ctx); h.Problem != "" {
		t.Fatal(h.Problem)
	}
	fleet.Want(t, "revoked with SQL", fleet.Ask(a, token), keystore.Revoked)
	for _, statement := range []string{fmt.Sprintf(replace, "NULL"),
		"REPLACE INTO secrets SELECT * FROM secrets"} {
		if err := d.Try(statement); err == nil {
			t.Errorf("%s: succeeds", statement)
		}
	}
}

// The database loses a change while its caller waits for the other nodes.
func TestLostChangeIsReported(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	key, token := fleet.Mint(t, a, manage.KeySpec{})
	fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
	before := a.Gauges().Revision
	for b.Gauges().Revision != before {
		b.Health(ctx)
	}
	fb.Mute.Store(true)
	off := false
	answer := make(chan error)
	go func() {
		_, _, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &off},
			manage.ChangeOptions{Wait: 20 * time.Second})
		answer <- err
	}()
	for a.Gauges().Revision == before { // not committed yet
		time.Sleep(time.Millisecond)
	}
	d.Tamper(
		"UPDATE keys SET active = 1, version = 1",
		fmt.Sprint("DELETE FROM change_log WHERE revision > ", before),
		fmt.Sprint("DELETE FROM marks WHERE revision >= ", before),
		fmt.Sprint("UPDATE head SET revision = ", before),
		// Another change gets the revision, and the other node has applied it.
		"UPDATE namespaces SET name = 'b'",
		"UPDATE nodes SET acked = (SELECT revision FROM head)",
	)
	if err := <-answer; err == nil {
		t.Error("the lost change is reported as committed")
	}
	fb.Mute.Store(false)
	fleet.Want(t, "afterwards", fleet.Ask(a, token), keystore.OK)
}

// TestManyLostRevokesAreRepeated loses one operation that revoked many keys. One of them is no
// longer in the database.
func TestManyLostRevokesAreRepeated(t *testing.T) {
	const many = 1500
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	creator, key := fleet.Caller(t, a,
		manage.KeySpec{Grants: fleet.Grants(t, "default=admin.keys:create,read")})
	var specs []manage.ImportSpec
	for i := range many {
		spec := readImport(fmt.Sprintf("legacy/%d", i))
		spec.Line = i + 1
		specs = append(specs, spec)
	}
	if n, refused, err := a.ImportKeys(ctx, creator, specs, true, nil); n != many {
		t.Fatal(n, refused, err)
	}
	gone := keystore.DigestOf(specs[0].Token)
	before := fmt.Sprint(a.Gauges().Revision)
	if _, p, err := a.RevokeKey(ctx, fleet.Root, key.ID, "leaked", true,
		manage.ChangeOptions{}); err != nil || !p.Complete {
		t.Fatalf("%+v, %v", p, err)
	}
	d.Tamper(
		"DROP TRIGGER keys_one_way", // restores the state before the revoke
		"UPDATE keys SET revoked_at = NULL, revoked_by = '', revoke_reason = '', version = 1",
		"DELETE FROM keys WHERE id = (SELECT key_id FROM secrets WHERE digest = unhex('"+
			hex.EncodeToString(gone[:])+"'))",
		"DELETE FROM change_log WHERE revision > "+before,
		"DELETE FROM marks WHERE revision >= "+before,
		"UPDATE head SET revision = "+before,
	)
	for a.Health(ctx).Problem != "" { // may take longer than one renewal
		time.Sleep(10 * time.Millisecond)
	}
	fleet.Want(t, "a deleted key", fleet.Ask(a, specs[0].Token), keystore.Unknown)
	for _, s := range specs[1:] {
		fleet.Want(t, s.Token, fleet.Ask(a, s.Token), keystore.Revoked)
	}
}

// A node with many revokes to repeat continues where it stopped when the database is slow.
func TestRevokesAreRepeatedOnSlowDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		db, err := sqldb.OpenSQLite(ctx, d.Path)
		if err != nil {
			t.Fatal(err)
		}
		slow := new(atomic.Bool)
		a, err := fleet.Open(ctx, slowDatabase{db, slow}, node.Settings{}, fleet.Observer{})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		_, live := fleet.Mint(t, a, manage.KeySpec{})
		for range 200 {
			key, _ := fleet.Mint(t, a, manage.KeySpec{})
			fleet.Revoke(t, a, key.ID, 0)
		}
		fleet.Want(t, "before", fleet.Ask(a, live), keystore.OK)
		slow.Store(true)
		d.Tamper("UPDATE head SET epoch = 'restored'")
		time.Sleep(5 * time.Minute)
		fleet.Want(t, "minutes later", fleet.Ask(a, live), keystore.OK)
	})
}

// slowDatabase takes 100 ms for 64 keys while slow is true.
type slowDatabase struct {
	keystore.Database
	slow *atomic.Bool
}

func (db slowDatabase) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	return db.Database.Update(ctx, func(tx keystore.Tx) error {
		if db.slow.Load() {
			tx = slowTx{tx, ctx}
		}
		return change(tx)
	})
}

type slowTx struct {
	keystore.Tx
	ctx context.Context
}

func (t slowTx) Keys(ids []string) ([]keystore.Key, error) {
	select {
	case <-time.After(time.Duration(len(ids)) * 100 * time.Millisecond / 64):
		return t.Tx.Keys(ids)
	case <-t.ctx.Done():
		return nil, t.ctx.Err()
	}
}
