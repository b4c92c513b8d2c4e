//go:build unix

package sqldb

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestPostgresImportBlocksNoNode: while a change holds the lock of the head, nodes can join, renew
// and leave.
func TestPostgresImportBlocksNoNode(t *testing.T) {
	s := newPostgresStore(t)
	d, other := s.Open(t), openOnce(t, s.URL(s.schema))
	if _, err := d.Deployment(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	_, err := d.Update(context.Background(), func(tx keystore.Tx) error {
		var keys []*keystore.Key
		for n := range 1000 {
			keys = append(keys, benchKey(n, tx.Now()))
		}
		if _, err := tx.InsertKeys(keys); err != nil {
			return err
		}
		// A call that waited for this transaction would end it by its idle timeout.
		ctx, cancel := context.WithTimeout(context.Background(), maxIdle)
		defer cancel()
		for _, call := range []func() error{
			func() error { return other.Join(ctx, keystore.Node{Incarnation: "i"}) },
			func() error { _, err := other.Renew(ctx, "i", keystore.Position{}); return err },
			func() error { return other.Acknowledge(ctx, "i", keystore.Position{Revision: 1}) },
			func() error { _, err := other.Nodes(ctx); return err },
			func() error { _, _, err := other.KeyByDigest(ctx, benchDigest(1)); return err },
			func() error {
				return other.RecordUse(ctx, map[string]keystore.LastUse{keys[0].ID: {At: time.Now()}})
			},
			func() error { return other.Fence(ctx, "i") },
			func() error { return other.Remove(ctx, "i") },
		} {
			if err := call(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPostgresImportAfterMints: query plans for few keys are not used for many.
func TestPostgresImportAfterMints(t *testing.T) {
	s := newPostgresStore(t)
	d := s.Open(t)
	if _, err := d.Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	const mints, imports, batch = 20, 12_000, 1000
	insert := func(from, to int, more func(keystore.Tx) error) {
		t.Helper()
		_, err := d.Update(t.Context(), func(tx keystore.Tx) error {
			for ; from < to; from += batch {
				var keys []*keystore.Key
				for n := from; n < min(to, from+batch); n++ {
					keys = append(keys, benchKey(n, tx.Now()))
				}
				if refused, err := tx.InsertKeys(keys); err != nil || len(refused) > 0 {
					return fmt.Errorf("%v refused, %w", refused, err)
				}
			}
			return more(tx)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range mints {
		insert(n, n+1, func(keystore.Tx) error { return nil })
		if n == mints/2 { // then the statistics say that there are few keys
			if err := s.Exec("ANALYZE keys, secrets"); err != nil {
				t.Fatal(err)
			}
		}
	}
	var scanned int64
	insert(mints, mints+imports, func(in keystore.Tx) error {
		return in.(*tx).row("SELECT sum(seq_tup_read) FROM pg_stat_xact_user_tables WHERE " +
			"schemaname = current_schema() AND relname IN ('keys', 'secrets')").Scan(&scanned)
	})
	// Scanning a small table is fine. One statement that kept doing so would read 66,000 rows.
	if scanned > 30_000 {
		t.Errorf("importing %d keys read %d rows in sequential scans", imports, scanned)
	}
	for _, table := range []string{"keys", "secrets"} {
		if known, err := s.Query(s.schema,
			"SELECT reltuples FROM pg_class WHERE oid = '"+table+"'::regclass"); err != nil ||
			known != fmt.Sprint(mints+imports) {
			t.Errorf("PostgreSQL plans for %s rows in %s, %v", known, table, err)
		}
	}
}
