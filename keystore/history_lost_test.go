package keystore_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A node whose Join was not acknowledged holds no lease, although its row is there: with a
// synchronous standby that is away, the primary shows a row that a failover loses.
func TestARowCountsOnceItsWriterWasToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{Lease: 5 * time.Second})
		b, fb := d.node(keystore.Settings{Lease: 5 * time.Second})
		_, token := mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(b, token), keystore.OK)
		fb.cut.Store(true)
		time.Sleep(30 * time.Second) // given up and removed
		fb.unacknowledged.Store(true)
		fb.cut.Store(false)
		for range 20 {
			time.Sleep(time.Second)
			want(t, "while nobody has acknowledged its row", ask(b, token), keystore.Unavailable)
		}
		if h := b.Health(ctx); h.Problem == "" {
			t.Error("healthy without a row that counts")
		}
		fb.unacknowledged.Store(false)
		time.Sleep(time.Second)
		want(t, "when the row was acknowledged", ask(b, token), keystore.OK)
	})
}

// A database that was silent may be a former primary that does not know yet: it is trusted once it
// has acknowledged a write.
func TestADatabaseThatWasSilentHasToConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, f := d.node(keystore.Settings{Lease: 10 * time.Second})
		_, token := mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(a, token), keystore.OK)
		f.silent.Store(true)
		f.unacknowledged.Store(true)
		time.Sleep(9 * time.Second)
		want(t, "under the lease that it had", ask(a, token), keystore.OK)
		time.Sleep(2 * time.Second)
		want(t, "after that", ask(a, token), keystore.Unavailable)
		if h := a.Health(ctx); h.Problem == "" {
			t.Error("healthy")
		}
		f.unacknowledged.Store(false)
		time.Sleep(time.Second)
		want(t, "once it has confirmed", ask(a, token), keystore.OK)
	})
}

// What a former primary says of a key counts for nothing.
func TestAnAnswerOlderThanWhatIsAppliedIsNone(t *testing.T) {
	d := newDeployment(t)
	a, f := d.node(keystore.Settings{})
	key, token := mint(t, a, keystore.KeySpec{})
	want(t, "before", ask(a, token), keystore.OK)
	former, revision, err := f.Database.KeyByDigest(ctx, keystore.DigestOf(token))
	if err != nil {
		t.Fatal(err)
	}
	if p := revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	f.stale.Store(&staleAnswer{former, revision})
	want(t, "by a server that does not know of the revoke", ask(a, token), keystore.Unavailable)
	f.stale.Store(nil)
	want(t, "by the one that does", ask(a, token), keystore.Revoked)
}

// A longer lease that cannot be told to the others yet is not used, and costs nothing.
func TestALeaseThatIsNotAcknowledgedIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, fa := d.node(keystore.Settings{Lease: 6 * time.Second})
		_, token := mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(a, token), keystore.OK)
		fa.setLeaseHangs.Store(true)
		a.Configure(keystore.Settings{Lease: time.Minute})
		for range 60 {
			time.Sleep(time.Second)
			if h := a.Health(ctx); h.Problem != "" {
				t.Fatal(h.Problem)
			}
			want(t, "meanwhile", ask(a, token), keystore.OK)
		}
		fa.cut.Store(true)
		time.Sleep(7 * time.Second)
		want(t, "after the lease that the others know of", ask(a, token), keystore.Unavailable)
		fa.cut.Store(false)
		fa.setLeaseHangs.Store(false)
		time.Sleep(time.Minute)
		want(t, "with the longer lease", ask(a, token), keystore.OK)
		fa.cut.Store(true)
		time.Sleep(40 * time.Second)
		want(t, "within the longer lease", ask(a, token), keystore.OK)
		fa.cut.Store(false)
	})
}

// lose has the database go back to a revision, as a failover to a standby does that has not
// received what came after.
func (d deployment) lose(after keystore.Revision, statements ...string) {
	d.Helper()
	at := fmt.Sprint(after)
	d.tamper(append(statements,
		"DELETE FROM change_log WHERE revision > "+at,
		"CREATE TEMP TABLE kept AS SELECT mark FROM marks WHERE revision = "+at,
		"DELETE FROM marks WHERE revision >= "+at,
		"UPDATE head SET revision = "+at+", policy = min(policy, "+at+")",
		"UPDATE marks SET mark = (SELECT mark FROM kept) WHERE revision = "+at)...)
}

// What a node has read at a revision that it has not applied is not kept: should a failover lose
// the revision, nothing would tell the node.
func TestWhatIsNewerThanAppliedIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{})
		key, token := mint(t, a, keystore.KeySpec{})
		_, warm := mint(t, a, keystore.KeySpec{})
		off, on := false, true
		edit := func(active *bool, wait time.Duration) {
			t.Helper()
			if _, _,
				err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: active},
				keystore.ChangeOptions{Wait: wait}); err != nil {
				t.Fatal(err)
			}
		}
		edit(&off, 0)
		want(t, "inactive", ask(b, token), keystore.Inactive)
		want(t, "another", ask(b, warm), keystore.OK)
		applied := b.Gauges().Revision

		fb.mute.Store(true)          // its renewals are held up
		time.Sleep(10 * time.Minute) // nothing is cached any more
		fb.mute.Store(false)
		want(t, "another, loaded again", ask(b, warm), keystore.OK)
		fb.mute.Store(true)
		edit(&on, -1)
		want(t, "read while it was active", ask(b, token), keystore.OK)
		d.lose(applied, "UPDATE keys SET active = 0 WHERE id = '"+key.ID+"'")
		a.Health(ctx)
		fb.mute.Store(false)
		for range 30 {
			time.Sleep(time.Second)
			want(t, "once the activation was lost", ask(b, token), keystore.Inactive)
		}
	})
}

// Nor is the policy.
func TestAPolicyNewerThanTheHeadIsNotKept(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, fb := d.node(keystore.Settings{})
	ns := func(name string) {
		t.Helper()
		if _, _, err := a.EditNamespace(ctx, root, "default", keystore.NamespacePatch{Name: &name},
			keystore.ChangeOptions{Wait: -1}); err != nil {
			t.Fatal(err)
		}
	}
	overtake := func() { ns("second") }
	fb.beforePolicy.Store(&overtake)
	ns("first")
	if h := b.Health(ctx); h.Problem != "" {
		t.Fatal(h.Problem)
	}
	if p := b.Gauges().Revision; p != a.Gauges().Revision {
		t.Errorf("at revision %d, and the policy is of %d", p, a.Gauges().Revision)
	}
}

// Who finds another history has every revoke wait for the nodes of the one that is gone, whoever
// makes it.
func TestARevokeWaitsForNodesOfAHistoryThatIsGone(t *testing.T) {
	for name, revoker := range map[string]int{"by who found it": 0, "by who joins later": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeployment(t)
				a, _ := d.node(keystore.Settings{})
				alone := a.Gauges().Revision
				b, fb := d.node(keystore.Settings{})
				key, token := mint(t, a, keystore.KeySpec{})
				time.Sleep(20 * time.Second)
				if h := b.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
				want(t, "before", ask(b, token), keystore.OK)
				fb.cut.Store(true)
				d.lose(alone, "DELETE FROM nodes") // the key stays
				if h := a.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
				by := a
				if revoker == 1 {
					by, _ = d.node(keystore.Settings{})
				}
				begun := time.Now()
				if p := revoke(t, by, key.ID, -1); p.Complete || len(p.Pending) == 0 {
					t.Errorf("at once: %+v", p)
				}
				want(t, "meanwhile", ask(b, token), keystore.OK)
				if p := revoke(t, by, key.ID, 2*time.Minute); !p.Complete ||
					time.Since(begun) < 20*time.Second || time.Since(begun) > 70*time.Second {
					t.Errorf("after %v: %+v", time.Since(begun), p)
				}
				want(t, "afterwards", ask(b, token), keystore.Unavailable)
				fb.cut.Store(false)
			})
		})
	}
}

// A revoke right after the history was lost, by a node that does not know yet.
func TestARevokeLooksWhetherTheHistoryIsStillTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, fa := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{})
		key, token := mint(t, a, keystore.KeySpec{})
		mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(b, token), keystore.OK)
		applied := a.Gauges().Revision
		fb.cut.Store(true)
		restore := func() { d.lose(applied-1, "DELETE FROM nodes") }
		fa.beforeUpdate.Store(&restore)
		_, p, err := a.RevokeKey(ctx, root, key.ID, "", false, keystore.ChangeOptions{Wait: -1})
		if err == nil && p.Complete {
			t.Errorf("complete: %+v, and the other node says %v", p, ask(b, token))
		}
		fb.cut.Store(false)
	})
}

// Rows of another epoch are fenced at once.
func TestOldRowsInARestoredDatabaseAreFencedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{Lease: 10 * time.Second})
		key, _ := mint(t, a, keystore.KeySpec{})
		d.tamper("INSERT INTO nodes (incarnation, address, lease, state, epoch, joined_at, " +
			"heard_at) VALUES ('old', 'host/1', 10000000, 'active', 'of the backup', 1, 1)")
		time.Sleep(4500 * time.Millisecond) // two renewals
		begun := time.Now()
		if p := revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Errorf("%+v", p)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("took %v, with a lease of 10 s", took)
		}
		time.Sleep(time.Second)
		begun = time.Now()
		other, _ := mint(t, a, keystore.KeySpec{})
		if p := revoke(t, a, other.ID, time.Minute); !p.Complete ||
			time.Since(begun) > 5*time.Second {
			t.Errorf("the next took %v: %+v", time.Since(begun), p)
		}
	})
}

// Requests for one key, while the head is always a little ahead of what is applied, share their
// loads.
func TestRequestsThatJoinShareLoads(t *testing.T) {
	d := newDeployment(t)
	a, f := d.node(keystore.Settings{})
	_, token := mint(t, a, keystore.KeySpec{})
	k, at, err := f.Database.KeyByDigest(ctx, keystore.DigestOf(token))
	if err != nil {
		t.Fatal(err)
	}
	at.Revision++
	f.stale.Store(&staleAnswer{k, at})
	hold := func() { time.Sleep(10 * time.Millisecond) }
	f.holding.Store(&hold)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			want(t, "a joined request", ask(a, token), keystore.OK)
		})
	}
	wg.Wait()
	if n := f.loads.Load(); n > 10 {
		t.Errorf("%d queries for 100 requests that came together", n)
	}
}

// A fences B; an asynchronous failover loses that, not a revision; B goes on, and falls silent; C
// fences it.
func TestAFenceThatAFailoverLostCountsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, fa := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{})
		fa.timeline.Store("00000001")
		fb.timeline.Store("00000001")
		key, token := mint(t, a, keystore.KeySpec{})
		time.Sleep(10 * time.Second)
		want(t, "before", ask(b, token), keystore.OK)
		fb.cut.Store(true)
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
		// the standby has not got that
		d.tamper("UPDATE nodes SET state = 'active' WHERE incarnation = '" + inc + "'")
		fa.timeline.Store("00000002")
		fb.timeline.Store("00000002")
		fb.cut.Store(false)
		time.Sleep(45 * time.Second) // all is well for a while
		want(t, "after the failover", ask(b, token), keystore.OK)
		_, fc := d.node(keystore.Settings{})
		time.Sleep(time.Second)
		want(t, "still", ask(b, token), keystore.OK)
		b.Health(ctx) // renews
		fb.cut.Store(true)
		if err := fc.Database.Fence(ctx, inc); err != nil { // it has found it silent
			t.Fatal(err)
		}
		if p := revoke(t, a, key.ID, 2*time.Second); p.Complete {
			t.Errorf("complete: %+v, and the other node says %v", p, ask(b, token))
		}
		fb.cut.Store(false)
	})
}

// A change that the page has been told to watch is lost; another takes its revision.
func TestProgressOfALostChangeIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{})
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(b, token), keystore.OK)
		time.Sleep(20 * time.Second)
		kept := a.Gauges().Revision
		fb.cut.Store(true)
		off := false
		since := a.Now()
		_, p,
			err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: &off},
			keystore.ChangeOptions{Wait: -1})
		if err != nil || p.Complete {
			t.Fatal(p, err)
		}
		d.lose(kept, "UPDATE keys SET active = 1", "DELETE FROM change_log")
		fb.cut.Store(false)
		time.Sleep(time.Minute)
		mint(t, a, keystore.KeySpec{})
		mint(t, a, keystore.KeySpec{})
		time.Sleep(time.Minute)
		now, err := a.Progress(ctx, root, p.Revision, since)
		if err == nil && now.Complete {
			t.Errorf("%+v, and the key is %v", now, ask(b, token))
		}
	})
}

// One row that cannot be read is among what has to be revoked again.
func TestAnUnreadableKeyKeepsNoRevokeFromBeingMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, fa := d.node(keystore.Settings{})
		fa.timeline.Store("00000001")
		bad, _ := mint(t, a, keystore.KeySpec{})
		good, token := mint(t, a, keystore.KeySpec{})
		_, live := mint(t, a, keystore.KeySpec{})
		time.Sleep(20 * time.Second)
		kept := a.Gauges().Revision
		revoke(t, a, bad.ID, 0)
		revoke(t, a, good.ID, 0)
		want(t, "before", ask(a, live), keystore.OK)
		d.lose(kept, "DROP TRIGGER keys_one_way", "UPDATE keys SET revoked_at = NULL",
			`UPDATE keys SET grants = '[{"namespace":5}]' WHERE id = '`+bad.ID+`'`)
		time.Sleep(2 * time.Minute)
		want(t, "a live key, two minutes later", ask(a, live), keystore.OK)
		want(t, "the revoked one", ask(a, token), keystore.Revoked)
		nodes, err := fa.Database.Nodes(ctx)
		if err != nil || len(nodes) > 2 {
			t.Errorf("%d nodes, %v", len(nodes), err)
		}
	})
}
