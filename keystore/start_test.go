package keystore_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

func TestASecondStartFindsEverything(t *testing.T) {
	d := newDeployment(t)
	db, err := sqldb.OpenSQLite(context.Background(), d.path)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keystore.Open(context.Background(), db, nil, keystore.Settings{}, observer{},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, token := mint(t, k, keystore.KeySpec{})
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Lookup(context.Background(), token, time.Now()); err == nil {
		t.Error("a closed store answers")
	}
	again, _ := d.node(keystore.Settings{})
	want(t, "after a restart", ask(again, token), keystore.OK)
}

// A node whose Open gave up while it was joining leaves no row that a revoke would wait for.
func TestAnOpenThatGivesUpLeavesNoRow(t *testing.T) {
	d := newDeployment(t)
	db, err := sqldb.OpenSQLite(ctx, d.path)
	if err != nil {
		t.Fatal(err)
	}
	joining := make(chan struct{})
	over, cancel := context.WithCancel(ctx)
	go func() { <-joining; cancel() }()
	if _, err := keystore.OpenAt(over, 1, slowJoin{db, joining, over}, keystore.Settings{},
		observer{}); err == nil {
		t.Fatal("it opened")
	}
	k, _ := d.node(keystore.Settings{})
	if counts, err := k.CountNodes(ctx); err != nil || counts[keystore.NodeActive] != 1 {
		t.Errorf("%v, %v", counts, err)
	}
}

// slowJoin lets a node join after all, when nobody waits for it any more.
type slowJoin struct {
	keystore.Database
	joining chan struct{}
	over    context.Context
}

func (s slowJoin) Join(ctx context.Context, n keystore.Node) error {
	close(s.joining)
	<-s.over.Done()
	return s.Database.Join(ctx, n)
}

func TestAClosedStoreTrustsNothing(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	db, err := sqldb.OpenSQLite(context.Background(), d.path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := keystore.Open(context.Background(), db, nil, keystore.Settings{}, observer{},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	key, token := mint(t, a, keystore.KeySpec{})
	answer, err := b.Lookup(ctx, token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if p := revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 1 {
		t.Errorf("%+v", p)
	}
	want(t, "on the closed node", ask(b, token), keystore.Unavailable)
	if b.Enter(answer, &keystore.Running{Cut: func() {}}) {
		t.Error("a request got on its way that no revoke can cut")
	}
}

func TestAnotherLeaseLosesNoWarmKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{Lease: 20 * time.Second})
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "warm", ask(b, token), keystore.OK)
		for _, lease := range []time.Duration{40 * time.Second, 10 * time.Second} {
			b.Configure(keystore.Settings{Lease: lease})
			for range 60 {
				want(t, "warm", ask(b, token), keystore.OK)
				time.Sleep(time.Second)
			}
		}
		// just before it falls silent, with a longer lease in hand
		b.Configure(keystore.Settings{Lease: 5 * time.Second})
		fb.mute.Store(true)
		p := revoke(t, a, key.ID, time.Minute)
		if !p.Complete {
			t.Fatalf("%+v", p)
		}
		want(t, "after the revoke", ask(b, token), keystore.Unavailable)
	})
}
