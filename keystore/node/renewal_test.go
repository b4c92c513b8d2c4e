package node_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// heldRenewals is a database that calls hold, unless it is nil, between the read of a renewal and
// its answer.
type heldRenewals struct {
	keystore.Database
	hold atomic.Pointer[func()]
}

func (db *heldRenewals) Renew(
	ctx context.Context, incarnation string, at keystore.Position,
) (keystore.Head, error) {
	h, err := db.Database.Renew(ctx, incarnation, at)
	if hold := db.hold.Load(); hold != nil {
		(*hold)()
	}
	return h, err
}

func withHeldRenewals(d fleet.Fleet, s node.Settings) (
	*manage.Keystore, *fleet.Faulty, *heldRenewals,
) {
	d.Helper()
	db := new(heldRenewals)
	k, f := d.OpenWith(fleet.Observer{}, s, fleet.Open,
		func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
	return k, f, db
}

// TestHealthIgnoresEarlierRenewals checks that Health does not return the result of a renewal that
// read the database before the call.
func TestHealthIgnoresEarlierRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, _, db := withHeldRenewals(d, node.Settings{})
		var once sync.Once
		read, release := make(chan struct{}), make(chan struct{})
		hold := func() { once.Do(func() { close(read); <-release }) }
		db.hold.Store(&hold)
		go func() { _ = b.Renew(ctx) }()
		<-read
		fleet.Mint(t, a, manage.KeySpec{})
		health := make(chan node.Health)
		go func() { health <- b.Health(ctx) }()
		synctest.Wait()
		close(release)
		h := <-health
		if want := a.Health(ctx).Revision; h.Problem != "" || h.Revision != want {
			t.Errorf("%+v, want revision %d", h, want)
		}
	})
}

// TestSharedRenewalIsRepeated checks that a caller who has joined a failing renewal tries again:
// the renewal may have begun before the database became available.
func TestSharedRenewalIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{})
		f.Hangs.Store(true)
		began, joined := make(chan error, 1), make(chan error, 1)
		go func() { began <- a.Renew(ctx) }()
		synctest.Wait()
		go func() { joined <- a.Renew(ctx) }()
		synctest.Wait()
		f.Hangs.Store(false)
		if err := <-began; err == nil {
			t.Error("the renewal that hangs succeeds")
		}
		if err := <-joined; err != nil {
			t.Errorf("the caller who joined it: %v", err)
		}
	})
}

// TestRequestsWaitForRenewalAfterOutage checks that requests wait for a renewal that the database
// answers again, however long the outage was.
func TestRequestsWaitForRenewalAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f, db := withHeldRenewals(fleet.New(t), node.Settings{Lease: 10 * time.Second})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(a, token), keystore.OK)
		f.Cut.Store(true)
		time.Sleep(time.Minute)
		fleet.Want(t, "during the outage", fleet.Ask(a, token), keystore.Unavailable)
		slow := func() { time.Sleep(50 * time.Millisecond) }
		db.hold.Store(&slow)
		f.Cut.Store(false)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				fleet.Want(t, "when it is available again", fleet.Ask(a, token), keystore.OK)
			})
		}
		wg.Wait()
	})
}
