package node_test

import (
	"context"
	"log/slog"
	"slices"
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

func TestRestart(t *testing.T) {
	d := fleet.New(t)
	db, err := sqldb.OpenSQLite(context.Background(), d.Path)
	if err != nil {
		t.Fatal(err)
	}
	k, err := manage.Open(context.Background(), db, nil, node.Settings{}, fleet.Observer{},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Lookup(context.Background(), token, time.Now()); err == nil {
		t.Error("a closed node answers")
	}
	again, _ := d.Node(node.Settings{})
	fleet.Want(t, "after a restart", fleet.Ask(again, token), keystore.OK)
}

// A revoke must not wait for a node whose Open was cancelled while it joined.
func TestCancelledOpenLeavesNoRow(t *testing.T) {
	d := fleet.New(t)
	db, err := sqldb.OpenSQLite(ctx, d.Path)
	if err != nil {
		t.Fatal(err)
	}
	joining := make(chan struct{})
	over, cancel := context.WithCancel(ctx)
	go func() { <-joining; cancel() }()
	if _, err := fleet.Open(over, slowJoin{db, joining, over}, node.Settings{},
		fleet.Observer{}); err == nil {
		t.Fatal("Open succeeds")
	}
	k, _ := d.Node(node.Settings{})
	if counts, err := k.CountNodes(ctx); err != nil || counts[keystore.NodeActive] != 1 {
		t.Errorf("%v, %v", counts, err)
	}
}

// TestFailedOpenLeavesNoRow opens a node whose row is written, but not acknowledged.
func TestFailedOpenLeavesNoRow(t *testing.T) {
	d := fleet.New(t)
	k, _ := d.Node(node.Settings{})
	db, err := sqldb.OpenSQLite(ctx, d.Path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet.Faulty{Database: db}
	f.Unacknowledged.Store(true)
	if _, err := fleet.Open(ctx, f, node.Settings{}, fleet.Observer{}); err == nil {
		t.Fatal("Open succeeds")
	}
	if counts, err := k.CountNodes(ctx); err != nil || counts[keystore.NodeActive] != 1 {
		t.Errorf("%v, %v", counts, err)
	}
}

// slowJoin completes Join after its caller is cancelled.
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

func TestClosedNodeAnswersUnavailable(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	db, err := sqldb.OpenSQLite(context.Background(), d.Path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := manage.Open(context.Background(), db, nil, node.Settings{}, fleet.Observer{},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	key, token := fleet.Mint(t, a, manage.KeySpec{})
	answer, err := b.Lookup(ctx, token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var cuts atomic.Int32
	r := run(t, b, token, &cuts)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if cuts.Load() != 1 {
		t.Error("a running request was not cut")
	}
	b.Leave(r)
	if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 1 {
		t.Errorf("%+v", p)
	}
	fleet.Want(t, "on the closed node", fleet.Ask(b, token), keystore.Unavailable)
	if b.Enter(answer, &node.Running{Cut: func() {}}) {
		t.Error("a request enters that no revoke can cut")
	}
}

func TestChangedLeaseKeepsCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{Lease: 20 * time.Second})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "warm", fleet.Ask(b, token), keystore.OK)
		for _, lease := range []time.Duration{40 * time.Second, 10 * time.Second} {
			b.Configure(node.Settings{Lease: lease})
			for range 60 {
				fleet.Want(t, "warm", fleet.Ask(b, token), keystore.OK)
				time.Sleep(time.Second)
			}
		}
		// It falls silent with the longer lease in use.
		b.Configure(node.Settings{Lease: 5 * time.Second})
		fb.Mute.Store(true)
		p := fleet.Revoke(t, a, key.ID, time.Minute)
		if !p.Complete {
			t.Fatalf("%+v", p)
		}
		fleet.Want(t, "after the revoke", fleet.Ask(b, token), keystore.Unavailable)
	})
}

// TestSettings checks the defaults of settings, and that changed settings apply at once.
func TestSettings(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	if s := k.Settings(); s.LocalCache != node.DefaultLocalCache || s.Lease != node.DefaultLease ||
		s.LocalCacheBytes != node.DefaultLocalCacheBytes ||
		!slices.Equal(s.TokenPrefixes, []string{keystore.DefaultPrefix}) {
		t.Errorf("defaults: %+v", s)
	}
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	k.Health(ctx) // applies the mint: it could not cache a newer record
	fleet.Want(t, "before", fleet.Ask(k, token), keystore.OK)
	if n := k.Gauges().CachedRecords; n != 1 {
		t.Fatalf("%d records are cached", n)
	}
	k.Configure(node.Settings{LocalCache: 1, LocalCacheBytes: 1000, Lease: time.Minute})
	if s := k.Settings(); s.LocalCache != 1 || s.LocalCacheBytes != 1000 || s.Lease != time.Minute {
		t.Errorf("other settings: %+v", s)
	}
	if n := k.Gauges().CachedRecords; n != 0 {
		t.Errorf("%d records are cached in less memory than one needs", n)
	}
	fleet.Want(t, "afterwards", fleet.Ask(k, token), keystore.OK)
}

var ctx = context.Background()
