package keystore_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// watched notes calls of a database that is being closed, or was.
type watched struct {
	keystore.Database
	closed atomic.Bool
	late   atomic.Int64
}

func (w *watched) Nodes(ctx context.Context) ([]keystore.Node, error) {
	if w.closed.Load() {
		w.late.Add(1)
	}
	return w.Database.Nodes(ctx)
}

func (w *watched) Close() error {
	w.closed.Store(true)
	return w.Database.Close()
}

// TestCloseWaitsForPropagations: whoever waits for a change to spread is answered, and asks the
// database nothing any more when that is closed.
func TestCloseWaitsForPropagations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		_, fb := d.node(keystore.Settings{})
		db, err := sqldb.OpenSQLite(ctx, d.path)
		if err != nil {
			t.Fatal(err)
		}
		w := &watched{Database: db}
		k, err := keystore.OpenAt(ctx, 0, w, keystore.Settings{}, observer{})
		if err != nil {
			t.Fatal(err)
		}
		waited, _ := mint(t, k, keystore.KeySpec{})
		measured, _ := mint(t, k, keystore.KeySpec{})
		fb.mute.Store(true) // acknowledges nothing
		if p := revoke(t, k, measured.ID, time.Second); p.Complete {
			t.Fatalf("%+v", p)
		}
		answered := make(chan keystore.Propagation, 1)
		go func() {
			_, p,
				err := k.RevokeKey(ctx, root, waited.ID, "", false,
				keystore.ChangeOptions{Wait: time.Hour})
			if err != nil {
				t.Error(err)
			}
			answered <- p
		}()
		time.Sleep(time.Second) // it has committed, and waits
		begun := time.Now()
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("Close took %v", took)
		}
		synctest.Wait()
		select {
		case p := <-answered:
			if p.Complete {
				t.Errorf("%+v", p)
			}
		default:
			t.Error("the revoke is not answered when Close has returned")
		}
		time.Sleep(time.Minute)
		if n := w.late.Load(); n > 0 {
			t.Errorf("the closed database was asked %d times", n)
		}
		fb.mute.Store(false)
	})
}
