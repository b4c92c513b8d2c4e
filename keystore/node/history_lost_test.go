package node_test

import (
	"context"
	"strings"
	"sync"
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

// A node whose Join was not acknowledged takes no lease, although its row exists. While a
// synchronous standby is unavailable, the primary shows rows that a failover would lose.
func TestUnacknowledgedJoinGivesNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{Lease: 5 * time.Second})
		b, fb := d.Node(node.Settings{Lease: 5 * time.Second})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		fb.Cut.Store(true)
		time.Sleep(30 * time.Second) // fenced and removed
		fb.Unacknowledged.Store(true)
		fb.Cut.Store(false)
		for range 20 {
			time.Sleep(time.Second)
			fleet.Want(t, "before its row is acknowledged", fleet.Ask(b, token),
				keystore.Unavailable)
		}
		if h := b.Health(ctx); h.Problem == "" {
			t.Error("healthy without an acknowledged row")
		}
		fb.Unacknowledged.Store(false)
		time.Sleep(time.Second)
		fleet.Want(t, "after its row was acknowledged", fleet.Ask(b, token), keystore.OK)
	})
}

// A database that was silent may be a former primary that has not noticed. The node trusts it after
// it has acknowledged a write.
func TestSilentDatabaseMustConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, f := d.Node(node.Settings{Lease: 10 * time.Second})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(a, token), keystore.OK)
		f.Silent.Store(true)
		f.Unacknowledged.Store(true)
		time.Sleep(9 * time.Second)
		fleet.Want(t, "under the present lease", fleet.Ask(a, token), keystore.OK)
		time.Sleep(2 * time.Second)
		fleet.Want(t, "after that", fleet.Ask(a, token), keystore.Unavailable)
		if h := a.Health(ctx); h.Problem == "" {
			t.Error("healthy")
		}
		f.Unacknowledged.Store(false)
		if h := a.Health(ctx); h.Problem != "" {
			t.Errorf("after it has confirmed: %s", h.Problem)
		}
		fleet.Want(t, "after it has confirmed", fleet.Ask(a, token), keystore.OK)
	})
}

// A former primary returns an old state of a key.
func TestOutdatedAnswerIsRefused(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{})
	key, token := fleet.Mint(t, a, manage.KeySpec{})
	fleet.Want(t, "before", fleet.Ask(a, token), keystore.OK)
	former, revision, err := f.Database.KeyByDigest(ctx, keystore.DigestOf(token))
	if err != nil {
		t.Fatal(err)
	}
	if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	f.Stale.Store(&fleet.StaleAnswer{Key: former, At: revision})
	fleet.Want(t, "from a server without the revoke", fleet.Ask(a, token),
		keystore.Unavailable)
	// Another change has taken the revision of the revoke there.
	f.Stale.Store(&fleet.StaleAnswer{Key: former,
		At: keystore.Position{Revision: a.Applied(), Mark: "another"}})
	fleet.Want(t, "from a server with another history", fleet.Ask(a, token),
		keystore.Unavailable)
	f.Stale.Store(nil)
	fleet.Want(t, "from a server with the revoke", fleet.Ask(a, token), keystore.Revoked)
}

// A longer lease is not used before the others can read it. The shorter one continues meanwhile.
func TestUnacknowledgedLeaseIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{Lease: 6 * time.Second})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(a, token), keystore.OK)
		fa.SetLeaseHangs.Store(true)
		a.Configure(node.Settings{Lease: time.Minute})
		for range 60 {
			time.Sleep(time.Second)
			if h := a.Health(ctx); h.Problem != "" {
				t.Fatal(h.Problem)
			}
			fleet.Want(t, "meanwhile", fleet.Ask(a, token), keystore.OK)
		}
		fa.Cut.Store(true)
		time.Sleep(7 * time.Second)
		fleet.Want(t, "after the lease that the others know", fleet.Ask(a, token),
			keystore.Unavailable)
		fa.Cut.Store(false)
		fa.SetLeaseHangs.Store(false)
		time.Sleep(time.Minute)
		fleet.Want(t, "with the longer lease", fleet.Ask(a, token), keystore.OK)
		fa.Cut.Store(true)
		time.Sleep(40 * time.Second)
		fleet.Want(t, "within the longer lease", fleet.Ask(a, token), keystore.OK)
		fa.Cut.Store(false)
	})
}

// A node does not cache a record of a revision that it has not applied, because it would not notice
// if a failover lost the revision.
func TestRecordNewerThanAppliedIsNotCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, cache := fleet.New(t), new(fleet.Hostile)
		a, f := d.Node(node.Settings{Cache: cache})
		_, token := fleet.Mint(t, a, manage.KeySpec{Inactive: true})
		applied := a.Health(ctx).Revision
		f.Mute.Store(true) // it does not notice
		d.Tamper("UPDATE keys SET active = 1, version = version + 1")
		fleet.Want(t, "read while it was active", fleet.Ask(a, token), keystore.OK)
		if len(cache.Snapshot()) != 0 {
			t.Error("the record is in the shared cache")
		}
		d.Lose(applied, "UPDATE keys SET active = 0")
		f.Mute.Store(false)
		for range 30 {
			time.Sleep(time.Second)
			fleet.Want(t, "after the activation was lost", fleet.Ask(a, token), keystore.Inactive)
		}
	})
}

// A change of the policy between the reads of the head and of the policy makes the node start the
// renewal again.
func TestPolicyNewerThanHeadIsRefused(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	ns := func(name string) {
		t.Helper()
		if _, _, err := a.EditNamespace(ctx, fleet.Root, "default",
			manage.NamespacePatch{Name: &name}, manage.ChangeOptions{Wait: -1}); err != nil {
			t.Fatal(err)
		}
	}
	overtake := func() { ns("second") }
	fb.BeforePolicy.Store(&overtake)
	ns("first")
	if h := b.Health(ctx); h.Problem != "" {
		t.Fatal(h.Problem)
	}
	if p := b.Gauges().Revision; p != a.Gauges().Revision {
		t.Errorf("at revision %d with a policy of revision %d", p, a.Gauges().Revision)
	}
}

// oldHead is a database whose Renew returns position, unless it is nil, as a former primary would.
type oldHead struct {
	keystore.Database
	position atomic.Pointer[keystore.Position]
}

func (db *oldHead) Renew(
	ctx context.Context, incarnation string, at keystore.Position,
) (keystore.Head, error) {
	h, err := db.Database.Renew(ctx, incarnation, at)
	if old := db.position.Load(); old != nil {
		h.Position = *old
	}
	return h, err
}

// TestDirectoryNewerThanHeadIsRefused starts a node that reads the directory from one server and an
// older head from another. A failover may lose the changes that only the directory includes.
func TestDirectoryNewerThanHeadIsRefused(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{})
	before, err := f.Database.Renew(ctx, a.Incarnation(), keystore.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	for _, old := range []*keystore.Position{&before.Position, nil} {
		sqlite, err := sqldb.OpenSQLite(ctx, d.Path)
		if err != nil {
			t.Fatal(err)
		}
		db := &oldHead{Database: sqlite}
		db.position.Store(old)
		k, err := fleet.Open(ctx, db, node.Settings{}, fleet.Observer{})
		if (err == nil) != (old == nil) {
			t.Errorf("with an old head (%v): %v", old, err)
		}
		if err == nil {
			_ = k.Close()
		}
	}
}

// After a node has found another history, revokes on every node wait for the nodes of the lost one.
func TestRevokeWaitsForNodesOfLostHistory(t *testing.T) {
	for name, revoker := range map[string]int{"on the node that found it": 0, "on a new node": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := fleet.New(t)
				a, _ := d.Node(node.Settings{})
				alone := a.Gauges().Revision
				b, fb := d.Node(node.Settings{})
				key, token := fleet.Mint(t, a, manage.KeySpec{})
				time.Sleep(20 * time.Second)
				if h := b.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
				fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
				fb.Cut.Store(true)
				d.Lose(alone, "DELETE FROM nodes") // the key stays
				if h := a.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
				by := a
				if revoker == 1 {
					by, _ = d.Node(node.Settings{})
				}
				begun := time.Now()
				if p := fleet.Revoke(t, by, key.ID, -1); p.Complete || len(p.Pending) == 0 {
					t.Errorf("at once: %+v", p)
				}
				fleet.Want(t, "meanwhile", fleet.Ask(b, token), keystore.OK)
				if p := fleet.Revoke(t, by, key.ID, 2*time.Minute); !p.Complete ||
					time.Since(begun) < 20*time.Second || time.Since(begun) > 70*time.Second {
					t.Errorf("after %v: %+v", time.Since(begun), p)
				}
				fleet.Want(t, "afterwards", fleet.Ask(b, token), keystore.Unavailable)
				fb.Cut.Store(false)
			})
		})
	}
}

// The history is lost just before a revoke, and the node has not noticed.
func TestRevokeDetectsLostHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		applied := a.Gauges().Revision
		fb.Cut.Store(true)
		restore := func() { d.Lose(applied-1, "DELETE FROM nodes") }
		fa.BeforeUpdate.Store(&restore)
		_, p, err := a.RevokeKey(ctx, fleet.Root, key.ID, "", false, manage.ChangeOptions{Wait: -1})
		if err == nil && p.Complete {
			t.Errorf("complete: %+v; outcome on the other node: %v", p, fleet.Ask(b, token))
		}
		fb.Cut.Store(false)
	})
}

// changedRows is a database whose next call of Nodes first calls the function before, if it is set.
type changedRows struct {
	keystore.Database
	before atomic.Pointer[func()]
}

func (db *changedRows) Nodes(ctx context.Context) ([]keystore.Node, error) {
	if before := db.before.Swap(nil); before != nil {
		(*before)()
	}
	return db.Database.Nodes(ctx)
}

// TestChangeLostBeforeRowsAreRead loses a change after its node has applied it and before the node
// reads which other nodes have applied it. The change must not be reported as complete.
func TestChangeLostBeforeRowsAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, db := fleet.New(t), new(changedRows)
		a, _ := d.OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
			func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(time.Second) // lets the background work of the start finish
		kept := a.Health(ctx).Revision
		restore := func() { d.Lose(kept, "UPDATE keys SET active = 1") }
		db.before.Store(&restore)
		off := false
		_, p, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &off},
			manage.ChangeOptions{})
		if err == nil || db.before.Load() != nil {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

func TestRowsOfAnotherEpochAreFencedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{Lease: 10 * time.Second})
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		d.Tamper("INSERT INTO nodes (incarnation, address, lease, state, epoch, joined_at, " +
			"heard_at) VALUES ('old', 'host/1', 10000000, 'active', 'of the backup', 1, 1)")
		time.Sleep(4500 * time.Millisecond) // two renewals
		begun := time.Now()
		if p := fleet.Revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Errorf("%+v", p)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("took %v, with a lease of 10 s", took)
		}
		time.Sleep(time.Second)
		begun = time.Now()
		other, _ := fleet.Mint(t, a, manage.KeySpec{})
		if p := fleet.Revoke(t, a, other.ID, time.Minute); !p.Complete ||
			time.Since(begun) > 5*time.Second {
			t.Errorf("the next took %v: %+v", time.Since(begun), p)
		}
	})
}

// Requests for one key share loads even while every record is newer than what is applied.
func TestJoinedRequestsShareLoads(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{})
	_, token := fleet.Mint(t, a, manage.KeySpec{})
	k, at, err := f.Database.KeyByDigest(ctx, keystore.DigestOf(token))
	if err != nil {
		t.Fatal(err)
	}
	at.Revision++
	f.Stale.Store(&fleet.StaleAnswer{Key: k, At: at})
	hold := func() { time.Sleep(10 * time.Millisecond) }
	f.Holding.Store(&hold)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			fleet.Want(t, "a joined request", fleet.Ask(a, token), keystore.OK)
		})
	}
	wg.Wait()
	if n := f.Loads.Load(); n > 10 {
		t.Errorf("%d queries for 100 concurrent requests", n)
	}
}

// A fences B. An asynchronous failover loses that write, but no revision. B continues and later
// falls silent. C fences it.
func TestFenceLostInFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		fa.Timeline.Store("00000001")
		fb.Timeline.Store("00000001")
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(10 * time.Second)
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		fb.Cut.Store(true)
		var inc string
		for inc == "" {
			time.Sleep(time.Second)
			nodes, err := fa.Database.Nodes(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes {
				if n.State == keystore.NodeFencing {
					inc = n.Incarnation
				}
			}
		}
		// The standby lacks the fencing.
		d.Tamper("UPDATE nodes SET state = 'active' WHERE incarnation = '" + inc + "'")
		fa.Timeline.Store("00000002")
		fb.Timeline.Store("00000002")
		fb.Cut.Store(false)
		time.Sleep(45 * time.Second)
		fleet.Want(t, "after the failover", fleet.Ask(b, token), keystore.OK)
		_, fc := d.Node(node.Settings{})
		time.Sleep(time.Second)
		fleet.Want(t, "still", fleet.Ask(b, token), keystore.OK)
		b.Health(ctx) // renews
		fb.Cut.Store(true)
		if err := fc.Database.Fence(ctx, inc); err != nil {
			t.Fatal(err)
		}
		if p := fleet.Revoke(t, a, key.ID, 2*time.Second); p.Complete {
			t.Errorf("complete: %+v; outcome on the other node: %v", p, fleet.Ask(b, token))
		}
		fb.Cut.Store(false)
	})
}

// A change whose progress a page shows is lost, and another one gets its revision.
func TestProgressOfLostChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		time.Sleep(20 * time.Second)
		kept := a.Gauges().Revision
		fb.Cut.Store(true)
		off := false
		since := a.Now()
		_, p, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &off},
			manage.ChangeOptions{Wait: -1})
		if err != nil || p.Complete {
			t.Fatal(p, err)
		}
		d.Lose(kept, "UPDATE keys SET active = 1", "DELETE FROM change_log")
		fb.Cut.Store(false)
		time.Sleep(time.Minute)
		fleet.Mint(t, a, manage.KeySpec{})
		fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(time.Minute)
		now, err := a.Progress(ctx, fleet.Root, p.Revision, since)
		if err == nil && now.Complete {
			t.Errorf("%+v; outcome: %v", now, fleet.Ask(b, token))
		}
	})
}

// One of the keys to revoke again has an unreadable row.
func TestUnreadableKeyDoesNotStopRepeatedRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{})
		fa.Timeline.Store("00000001")
		bad, _ := fleet.Mint(t, a, manage.KeySpec{})
		good, token := fleet.Mint(t, a, manage.KeySpec{})
		_, live := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(20 * time.Second)
		kept := a.Gauges().Revision
		fleet.Revoke(t, a, bad.ID, 0)
		fleet.Revoke(t, a, good.ID, 0)
		fleet.Want(t, "before", fleet.Ask(a, live), keystore.OK)
		d.Lose(kept, "DROP TRIGGER keys_one_way", "UPDATE keys SET revoked_at = NULL",
			`UPDATE keys SET grants = '[{"namespace":5}]' WHERE id = '`+bad.ID+`'`)
		time.Sleep(2 * time.Minute)
		fleet.Want(t, "a live key, two minutes later", fleet.Ask(a, live), keystore.OK)
		fleet.Want(t, "the revoked key", fleet.Ask(a, token), keystore.Revoked)
		nodes, err := fa.Database.Nodes(ctx)
		if err != nil || len(nodes) > 2 {
			t.Errorf("%d nodes, %v", len(nodes), err)
		}
	})
}

// TestTakeoverDuringRevoke lets a standby take over while a revoke waits for another node. The
// revoke must not be reported as complete, because the standby may lack it.
func TestTakeoverDuringRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{Lease: 10 * time.Second})
		_, fb := d.Node(node.Settings{Lease: time.Minute})
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		fa.Timeline.Store("1")
		time.Sleep(10 * time.Second)
		fb.Mute.Store(true)
		answered := make(chan error, 1)
		go func() {
			_, _, err := a.RevokeKey(ctx, fleet.Root, key.ID, "", false,
				manage.ChangeOptions{Wait: 30 * time.Second})
			answered <- err
		}()
		time.Sleep(time.Second)
		fa.Timeline.Store("2")
		time.Sleep(10 * time.Second)
		select {
		case err := <-answered:
			if err == nil {
				t.Error("the revoke is reported as committed")
			}
		default:
			t.Error("the revoke still waits")
		}

		// Revokes wait for a node that the former primary may have known, with the longest lease.
		other, _ := fleet.Mint(t, a, manage.KeySpec{})
		begun := a.Now()
		p := fleet.Revoke(t, a, other.ID, -1)
		longest := time.Duration(0)
		for _, pending := range p.Pending {
			if strings.Contains(pending.Node, "failover") {
				longest = pending.Until.Sub(begun)
			}
		}
		if p.Complete || longest < 45*time.Second || longest > 65*time.Second {
			t.Errorf("it waits %v for unknown nodes: %+v", longest, p)
		}
		fb.Mute.Store(false)
	})
}

// TestFormerEpochIsReplaced takes the database back to an epoch that the node has used before. The
// shared cache may have entries of that epoch, so it must not be used again.
func TestFormerEpochIsReplaced(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{})
	epoch := func() string {
		t.Helper()
		if h := a.Health(ctx); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		deployment, err := f.Deployment(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		return deployment.Epoch
	}
	first := epoch()
	kept := a.Applied()
	fleet.Mint(t, a, manage.KeySpec{})
	a.Health(ctx)
	d.Lose(kept, "DELETE FROM keys")
	second := epoch()
	fleet.Mint(t, a, manage.KeySpec{})
	a.Health(ctx)
	d.Lose(kept, "DELETE FROM keys", "UPDATE head SET epoch = '"+first+"'")
	third := epoch()
	if second == first || third == first || third == second {
		t.Errorf("epochs %q, %q, %q", first, second, third)
	}
}

// TestTakeoverWithinRevoke lets a standby take over between the two commits of an operation. The
// standby may lack the first, so the operation must not be reported as complete.
func TestTakeoverWithinRevoke(t *testing.T) { synctest.Test(t, testTakeoverWithinRevoke) }

func testTakeoverWithinRevoke(t *testing.T) {
	a, f := fleet.New(t).Node(node.Settings{})
	f.Timeline.Store("1")
	a.Health(ctx)
	creator, key := fleet.Caller(t, a,
		manage.KeySpec{Grants: fleet.Grants(t, "default=admin.keys:create,read")})
	if _, _, err := a.MintKey(ctx, creator,
		manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}, nil); err != nil {
		t.Fatal(err)
	}
	takeOver := func() {
		f.Timeline.Store("2")
		if err := a.Renew(ctx); err != nil {
			t.Error(err)
		}
	}
	f.BeforeUpdate.Store(&takeOver)
	revoke := func() (node.Propagation, error) {
		_, p, err := a.RevokeKey(ctx, fleet.Root, key.ID, "", true,
			manage.ChangeOptions{Wait: time.Minute})
		return p, err
	}
	if p, err := revoke(); err == nil {
		t.Errorf("the revoke is reported as committed: %+v", p)
	}
	if p, err := revoke(); err != nil || !p.Complete {
		t.Errorf("repeated: %+v, %v", p, err)
	}
}

// TestRepeatedRevokeAfterTakeover repeats a revoke that a former primary has committed.
func TestRepeatedRevokeAfterTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{})
		f.Timeline.Store("1")
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete {
			t.Fatalf("%+v", p)
		}
		f.Timeline.Store("2")
		a.Health(ctx)
		if p := fleet.Revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Errorf("%+v", p)
		}
	})
}

// TestProgressAfterLostHistory takes the database back, so that revisions are assigned again. The
// progress of a later change must not count from the time of the earlier one.
func TestProgressAfterLostHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		a.Health(ctx)
		kept := a.Applied()
		for range 20 {
			fleet.Mint(t, a, manage.KeySpec{})
			time.Sleep(2 * time.Second)
		}
		d.Lose(kept)
		time.Sleep(2 * time.Minute) // both nodes have joined the new history
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		fb.Cut.Store(true)
		answered := a.Now()
		p := fleet.Revoke(t, a, key.ID, -1)
		if p.Complete || p.Revision > kept+20 {
			t.Fatalf("%+v", p)
		}
		a.Health(ctx)
		if p, err := a.Progress(ctx, fleet.Root, p.Revision, answered); err != nil || p.Complete {
			t.Errorf("%+v, %v; outcome on the other node: %v", p, err, fleet.Ask(b, token))
		}
		fb.Cut.Store(false)
	})
}

// revokeWaits fails the test unless a revoke on a is not complete while b still accepts the key.
func revokeWaits(
	t *testing.T, a, b *manage.Keystore, id, token string, wait time.Duration,
) {
	t.Helper()
	if h := a.Health(ctx); h.Problem != "" {
		t.Fatal(h.Problem)
	}
	p := fleet.Revoke(t, a, id, wait)
	if o := fleet.Ask(b, token); p.Complete || o != keystore.OK {
		t.Errorf("%+v; outcome on the other node: %v", p, o)
	}
}

// TestFenceLostWithHistory takes the database back to before a node was fenced. The node renews its
// lease, and another one fences it again. A node that remembers the first fencing must wait for the
// renewed lease.
func TestFenceLostWithHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(10 * time.Second)
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		kept := b.Health(ctx).Revision
		fb.Cut.Store(true)
		time.Sleep(55 * time.Second) // fenced after about 30 s
		fleet.Mint(t, a, manage.KeySpec{})
		a.Health(ctx)
		fa.Mute.Store(true)
		d.Lose(kept, "UPDATE nodes SET state = 'active'")
		fb.Cut.Store(false)
		fleet.Want(t, "when its fencing was lost", fleet.Ask(b, token), keystore.OK)
		fb.Cut.Store(true)
		d.Tamper("UPDATE nodes SET state = 'fencing' WHERE incarnation = '" + b.Incarnation() + "'")
		fa.Mute.Store(false)
		revokeWaits(t, a, b, key.ID, token, 15*time.Second)
		fb.Cut.Store(false)
	})
}

// TestNodeOfLostHistoryJoinsAgain takes the database back to when a node had a shorter lease.
// Revokes on other nodes must wait for the lease that the node has now.
func TestNodeOfLostHistoryJoinsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{Lease: time.Minute})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		kept := b.Health(ctx).Revision
		fleet.Mint(t, a, manage.KeySpec{})
		b.Health(ctx)
		fa.Mute.Store(true)
		d.Lose(kept, "UPDATE nodes SET lease = 10000000 WHERE incarnation = '"+b.Incarnation()+"'")
		if h := b.Health(ctx); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		fb.Cut.Store(true)
		fa.Mute.Store(false)
		revokeWaits(t, a, b, key.ID, token, 30*time.Second)
		fb.Cut.Store(false)
	})
}

// TestNodeOfLostHistoryIsRemembered loses the row of a node after the other node has asked for the
// head and before it reads the rows. Revokes must wait for the lost node.
func TestNodeOfLostHistoryIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		db := new(acknowledgements)
		a, _ := d.OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
			func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
		b, fb := d.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		kept := a.Health(ctx).Revision
		fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(20 * time.Second)
		b.Health(ctx)
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		fb.Cut.Store(true)
		time.Sleep(6 * time.Second)
		restore := func() {
			d.Lose(kept, "DELETE FROM nodes WHERE incarnation = '"+b.Incarnation()+"'")
		}
		db.before.Store(&restore)
		for db.before.Load() != nil {
			time.Sleep(time.Second)
		}
		revokeWaits(t, a, b, key.ID, token, -1)
		fb.Cut.Store(false)
	})
}
