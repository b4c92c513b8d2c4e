package node_test

import (
	"context"
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

// watched counts calls after Close.
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

func (w *watched) Renew(
	ctx context.Context, incarnation string, at keystore.Position,
) (keystore.Head, error) {
	if w.closed.Load() {
		w.late.Add(1)
	}
	return w.Database.Renew(ctx, incarnation, at)
}

func (w *watched) Close() error {
	w.closed.Store(true)
	return w.Database.Close()
}

// TestCloseEndsPropagations checks that callers that wait for a propagation get an answer, and that
// nothing uses the database after it is closed.
func TestCloseEndsPropagations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		_, fb := d.Node(node.Settings{})
		db, err := sqldb.OpenSQLite(ctx, d.Path)
		if err != nil {
			t.Fatal(err)
		}
		w := &watched{Database: db}
		k, err := fleet.Open(ctx, w, node.Settings{}, fleet.Observer{})
		if err != nil {
			t.Fatal(err)
		}
		waited, _ := fleet.Mint(t, k, manage.KeySpec{})
		measured, _ := fleet.Mint(t, k, manage.KeySpec{})
		fb.Mute.Store(true) // acknowledges nothing
		if p := fleet.Revoke(t, k, measured.ID, time.Second); p.Complete {
			t.Fatalf("%+v", p)
		}
		answered := make(chan node.Propagation, 1)
		go func() {
			_, p, err := k.RevokeKey(ctx, fleet.Root, waited.ID, "", false,
				manage.ChangeOptions{Wait: time.Hour})
			if err != nil {
				t.Error(err)
			}
			answered <- p
		}()
		time.Sleep(time.Second) // it has committed and waits
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
			t.Error("the revoke has not returned when Close has")
		}
		if h := k.Health(ctx); h.Problem == "" {
			t.Error("the closed node is healthy")
		}
		time.Sleep(time.Minute)
		if n := w.late.Load(); n > 0 {
			t.Errorf("%d calls of the closed database", n)
		}
		fb.Mute.Store(false)
	})
}

// slowUsage accepts no usage until the caller gives up.
type slowUsage struct{ keystore.Database }

func (slowUsage) AddUsage(ctx context.Context, _ keystore.UsageBatch) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestCloseLeavesBeforeUsage checks that a revoke does not wait for a node that writes its usage
// while it shuts down.
func TestCloseLeavesBeforeUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		db, err := sqldb.OpenSQLite(ctx, d.Path)
		if err != nil {
			t.Fatal(err)
		}
		a, err := fleet.Open(ctx, slowUsage{db}, node.Settings{}, fleet.Observer{})
		if err != nil {
			t.Fatal(err)
		}
		b, _ := d.Node(node.Settings{})
		key, token := fleet.Mint(t, b, manage.KeySpec{})
		a.CountUse(lookUp(t, a, token), node.Use{Ended: time.Now()})
		closed := make(chan struct{})
		go func() { _ = a.Close(); close(closed) }()
		time.Sleep(time.Second)
		select {
		case <-closed:
			t.Fatal("the node does not write usage")
		default:
		}
		if p := fleet.Revoke(t, b, key.ID, 500*time.Millisecond); !p.Complete {
			t.Errorf("%+v", p)
		}
		<-closed
	})
}
