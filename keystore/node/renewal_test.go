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
		synctest.Wait() // for renewals that the node has begun by itself
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

// TestRequestsWaitForRenewalAfterOutage checks that requests wait for the first renewal after an
// outage, however long the outage was.
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

// leases is a database whose SetLease fails while fails is true. If written is true too, it writes
// the lease before it fails.
type leases struct {
	keystore.Database
	fails, written atomic.Bool
}

func (db *leases) SetLease(ctx context.Context, incarnation string, lease time.Duration) error {
	if !db.fails.Load() {
		return db.Database.SetLease(ctx, incarnation, lease)
	}
	if db.written.Load() {
		_ = db.Database.SetLease(ctx, incarnation, lease)
	}
	return fleet.ErrCut
}

// TestUncertainLease checks that a node uses the shortest lease that its row may show. A shorter
// one was written and not acknowledged, so revokes on other nodes may wait for no more than that.
func TestUncertainLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		db := new(leases)
		b, fb := d.OpenWith(fleet.Observer{}, node.Settings{Lease: 30 * time.Second}, fleet.Open,
			func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(10 * time.Second)
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		db.fails.Store(true)
		db.written.Store(true)
		b.Configure(node.Settings{Lease: 10 * time.Second})
		time.Sleep(time.Minute)
		db.written.Store(false)
		b.Configure(node.Settings{Lease: 30 * time.Second})
		time.Sleep(time.Minute)
		fleet.Want(t, "with an uncertain lease", fleet.Ask(b, token), keystore.OK)
		fb.Cut.Store(true)
		begun := time.Now()
		if p := fleet.Revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Fatalf("%+v", p)
		}
		if took := time.Since(begun); took > 11*time.Second {
			t.Errorf("took %v, although the row shows a lease of 10 s", took)
		}
		fleet.Want(t, "after the revoke", fleet.Ask(b, token), keystore.Unavailable)
		fb.Cut.Store(false)
	})
}

// TestShorterLeaseShortensRevokes checks that revokes wait for a silent node no longer than the
// lease that it had last.
func TestShorterLeaseShortensRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{Lease: time.Minute})
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		b.Configure(node.Settings{Lease: 10 * time.Second})
		time.Sleep(2 * time.Minute)
		fb.Mute.Store(true)
		begun := time.Now()
		if p := fleet.Revoke(t, a, key.ID, 2*time.Minute); !p.Complete ||
			time.Since(begun) > 11*time.Second {
			t.Errorf("took %v: %+v", time.Since(begun), p)
		}
		fb.Mute.Store(false)
	})
}

// standbys is a database whose commits wait for a standby. Its second and later updates fail while
// fails is true.
type standbys struct {
	keystore.Database
	fails   atomic.Bool
	updates atomic.Int64
}

func (db *standbys) Renew(
	ctx context.Context, incarnation string, at keystore.Position,
) (keystore.Head, error) {
	h, err := db.Database.Renew(ctx, incarnation, at)
	h.Standbys = true
	return h, err
}

func (db *standbys) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	if db.updates.Add(1) > 1 && db.fails.Load() {
		return 0, fleet.ErrCut
	}
	return db.Database.Update(ctx, change)
}

// TestRefusalWaitsForStandby checks that a refusal which another change may have caused is answered
// only after the standby has that change.
func TestRefusalWaitsForStandby(t *testing.T) { synctest.Test(t, testRefusalWaitsForStandby) }

func testRefusalWaitsForStandby(t *testing.T) {
	db := new(standbys)
	a, _ := fleet.New(t).OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
		func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
	time.Sleep(time.Second) // lets the background work of the start finish
	if a.Health(ctx); !a.Standbys() {
		t.Fatal("the node does not know that there is a standby")
	}
	refused := func(kind keystore.Kind) error {
		db.updates.Store(0)
		_, err := a.Write(ctx, func(keystore.Tx) error {
			return &keystore.Error{Kind: kind, Code: "refused"}
		})
		return err
	}
	for kind, confirmed := range map[keystore.Kind]bool{
		keystore.KindNotFound: true, keystore.KindConflict: true, keystore.KindInvalid: false,
	} {
		db.fails.Store(false)
		if err := refused(kind); fleet.Code(err) != "refused" {
			t.Errorf("%v: %v", kind, err)
		}
		if n := db.updates.Load(); (n == 2) != confirmed {
			t.Errorf("%v: %d transactions", kind, n)
		}
		db.fails.Store(true)
		if err := refused(kind); (fleet.Code(err) == "refused") == confirmed {
			t.Errorf("%v, without the standby: %v", kind, err)
		}
	}
}

// acknowledgements is a database that counts the calls of Acknowledge.
type acknowledgements struct {
	keystore.Database
	count  atomic.Int64
	before atomic.Pointer[func()] // called before the next one
}

func (db *acknowledgements) Acknowledge(
	ctx context.Context, incarnation string, at keystore.Position,
) error {
	db.count.Add(1)
	if before := db.before.Swap(nil); before != nil {
		(*before)()
	}
	return db.Database.Acknowledge(ctx, incarnation, at)
}

// TestAcknowledgements checks that a node writes to its row only if there are other nodes, and only
// as often as they need.
func TestAcknowledgements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		db := new(acknowledgements)
		a, _ := d.OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
			func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
		fleet.Mint(t, a, manage.KeySpec{})
		renewals := func(n int) int64 {
			before := db.count.Load()
			for range n {
				if h := a.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
			}
			return db.count.Load() - before
		}
		time.Sleep(time.Minute)
		if n := renewals(10); n != 0 || db.count.Load() != 0 {
			t.Errorf("%d acknowledgements without other nodes", db.count.Load())
		}
		b, _ := d.Node(node.Settings{})
		time.Sleep(time.Minute)
		renewals(1)
		if n := renewals(10); n != 0 {
			t.Errorf("%d acknowledgements at once", n)
		}
		fleet.Mint(t, b, manage.KeySpec{})
		if n := renewals(10); n != 1 {
			t.Errorf("%d acknowledgements of one change", n)
		}
		before := db.count.Load()
		time.Sleep(time.Minute)
		// Two per lease would be too few: the other node fences this one after a lease of silence.
		if n := db.count.Load() - before; n < 6 || n > 12 {
			t.Errorf("%d acknowledgements in two leases", n)
		}
	})
}

// TestNewNodeIsNotFencedAtOnce registers a node that acknowledges nothing. It is fenced when its
// lease may have expired, and not before.
func TestNewNodeIsNotFencedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, f := d.Node(node.Settings{})
		_, _ = d.Node(node.Settings{})
		time.Sleep(time.Minute)
		if err := f.Database.Join(ctx, keystore.Node{Incarnation: "new", Address: "host/1",
			Lease: node.DefaultLease}); err != nil {
			t.Fatal(err)
		}
		for range 28 {
			time.Sleep(time.Second)
			if counts, err := a.CountNodes(ctx); err != nil || counts[keystore.NodeFencing] != 0 {
				t.Fatal(counts, err)
			}
		}
		time.Sleep(20 * time.Second)
		if counts, err := a.CountNodes(ctx); err != nil || counts[keystore.NodeFencing] != 1 {
			t.Fatal(counts, err)
		}
	})
}

// TestChangeOnNodeThatIsBehind makes a change that needs another one, which the node has not
// applied yet, or cannot read from the change log any more.
func TestChangeOnNodeThatIsBehind(t *testing.T) {
	for name, statements := range map[string][]string{
		"behind": nil, "too far behind": {"DELETE FROM change_log"},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := fleet.New(t)
			a, _ := d.Node(node.Settings{})
			b, fb := d.Node(node.Settings{})
			b.Health(ctx)
			fb.Mute.Store(true)
			if _, err := a.CreateRole(ctx, fleet.Root, keystore.Role{Namespace: "default",
				Name: "clerk", Permissions: fleet.Read}); err != nil {
				t.Fatal(err)
			}
			d.Tamper(statements...)
			fb.Mute.Store(len(statements) == 0)
			_, token, err := b.MintKey(ctx, fleet.Root,
				manage.KeySpec{Home: &keystore.Grant{Roles: []string{"clerk"}}}, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			fleet.Want(t, name, fleet.Ask(a, token.Reveal()), keystore.OK)
		})
	}
}
