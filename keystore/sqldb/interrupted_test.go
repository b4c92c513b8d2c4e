package sqldb

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestKeyRevokedDuringAFailedImport: a key that is revoked while its import fails stays revoked when
// the import is repeated.
func TestKeyRevokedDuringAFailedImport(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		a, steps := node()
		b, _ := node()
		specs := legacy("back", bulk)
		var id string
		steps.stepIn(func(n int) error {
			switch n {
			case 3: // the first slice is stored
				keys, _, err := b.ListKeys(context.Background(), importer,
					keystore.KeyFilter{Text: "key number 0"}, "", 10)
				if err != nil {
					return err
				}
				for _, k := range keys {
					if k.Name == "key number 0" {
						id = k.ID
					}
				}
				revokeAt(t, b, id, false)
			case 4:
				return errors.New("the database is unavailable")
			}
			return nil
		})
		n, _, err := a.ImportKeys(stepped, importer, specs, false, nil)
		steps.before.Store(nil)
		if n != 0 || err == nil {
			t.Fatal(n, err)
		}
		wantOutcome(t, b, specs[0].Token, keystore.Revoked)
		n, refused, err := a.ImportKeys(context.Background(), importer, specs, false, nil)
		if n != 0 || len(refused) != 1 || err != nil {
			t.Errorf("imported again: %d, %v, %v", n, refused, err)
		}
		wantOutcome(t, b, specs[0].Token, keystore.Revoked)
	})
}

// TestCancelledRenewalIsNoSilence: a renewal that its caller has cancelled does not count as silence
// of the database.
func TestCancelledRenewalIsNoSilence(t *testing.T) {
	s := postgresServer(t)
	d, err := OpenPostgres(context.Background(), s.URL(s.Schema(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Join(context.Background(),
		keystore.Node{Incarnation: "x", Lease: time.Second}); err != nil {
		t.Fatal(err)
	}
	if h, err := d.Renew(context.Background(), "x", keystore.Position{}); err != nil || h.Silent {
		t.Fatal(h, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Renew(ctx, "x", keystore.Position{}); err == nil {
		t.Error("a cancelled renewal succeeded")
	}
	if h, err := d.Renew(context.Background(), "x", keystore.Position{}); err != nil || h.Silent {
		t.Error("the database counts as silent", err)
	}
}
