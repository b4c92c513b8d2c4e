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
)

func TestRunningRequestsAreCutByChanges(t *testing.T) {
	ctx := context.Background()
	off := false
	name := "another"
	write := []keystore.Permission{{Action: "write"}}
	for _, c := range []struct {
		name string
		do   func(k *manage.Keystore, id string) error
		cut  bool
	}{
		{"revoke", func(k *manage.Keystore, id string) error {
			_, _, err := k.RevokeKey(ctx, fleet.Root, id, "", false, manage.ChangeOptions{})
			return err
		}, true},
		{"inactivate", func(k *manage.Keystore, id string) error {
			_, _, err := k.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Active: &off},
				manage.ChangeOptions{})
			return err
		}, true},
		{"rotate at once", func(k *manage.Keystore, id string) error {
			_, _, _, err := k.RotateKey(ctx, fleet.Root, id, 0, manage.ChangeOptions{})
			return err
		}, true},
		{"rotate with grace", func(k *manage.Keystore, id string) error {
			_, _, _, err := k.RotateKey(ctx, fleet.Root, id, time.Hour, manage.ChangeOptions{})
			return err
		}, false},
		// These decide about later requests only.
		{"narrow", func(k *manage.Keystore, id string) error {
			_, _, err := k.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Permissions: &write},
				manage.ChangeOptions{})
			return err
		}, false},
		{"rename", func(k *manage.Keystore, id string) error {
			_, _, err := k.EditKey(ctx, fleet.Root, id, manage.KeyPatch{Name: &name},
				manage.ChangeOptions{})
			return err
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := fleet.New(t)
			a, _ := d.Node(node.Settings{})
			b, _ := d.Node(node.Settings{})
			key, token := fleet.Mint(t, a, manage.KeySpec{})
			_, other := fleet.Mint(t, a, manage.KeySpec{})
			var cuts [3]atomic.Int32
			running := []*node.Running{run(t, a, token, &cuts[0]), run(t, b, token, &cuts[1])}
			unaffected := run(t, b, other, &cuts[2])
			if err := c.do(a, key.ID); err != nil {
				t.Fatal(err)
			}
			for i, want := range []bool{c.cut, c.cut, false} {
				if got := cuts[i].Load() == 1; got != want {
					t.Errorf("request %d: cut is %v, want %v", i, got, want)
				}
			}
			a.Leave(running[0])
			b.Leave(running[1])
			b.Leave(unaffected)
		})
	}
}

func run(t testing.TB, k *manage.Keystore, token string, cuts *atomic.Int32) *node.Running {
	t.Helper()
	for range 100 {
		a, err := k.Lookup(context.Background(), token, time.Now())
		if err != nil || a.Outcome != keystore.OK {
			t.Fatal(a.Outcome, err)
		}
		r := &node.Running{Cut: func() { cuts.Add(1) }}
		if k.Enter(a, r) {
			return r
		}
	}
	t.Fatal("Enter never succeeds")
	return nil
}

func TestRunningRequestsAreCutOnExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := fleet.New(t).Node(node.Settings{})
		_, token := fleet.Mint(t, a, manage.KeySpec{ExpiresAt: time.Now().Add(time.Minute)})
		var cuts atomic.Int32
		r := run(t, a, token, &cuts)
		time.Sleep(59 * time.Second)
		if cuts.Load() != 0 {
			t.Error("cut before the key expires")
		}
		time.Sleep(3 * time.Second)
		if cuts.Load() != 1 {
			t.Error("not cut")
		}
		a.Leave(r)
		fleet.Want(t, "afterwards", fleet.Ask(a, token), keystore.Expired)
	})
}

func TestRunningRequestsAreCutWhenLeaseExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{Lease: 30 * time.Second})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		var cuts atomic.Int32
		r := run(t, a, token, &cuts)
		f.Cut.Store(true)
		time.Sleep(23 * time.Second)
		if cuts.Load() != 0 {
			t.Error("cut during the lease")
		}
		time.Sleep(8 * time.Second)
		if cuts.Load() != 1 {
			t.Error("not cut after the lease")
		}
		a.Leave(r)
	})
}

// TestRunningRequestsAreCutBeforeRevokeReturns revokes a key while another node, which has just
// renewed its lease, is cut off.
func TestRunningRequestsAreCutBeforeRevokeReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		var cuts atomic.Int32
		r := run(t, b, token, &cuts)
		b.Health(t.Context()) // renews
		fb.Hangs.Store(true)
		if p := fleet.Revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Fatalf("%+v", p)
		}
		if cuts.Load() != 1 {
			t.Error("not cut")
		}
		b.Leave(r)
		fb.Hangs.Store(false)
	})
}

func TestRequestDecidedBeforeItsOwnerWasDisabledDoesNotEnter(t *testing.T) {
	a, _ := fleet.New(t).Node(node.Settings{})
	owner, err := a.CreateMember(t.Context(), fleet.Root,
		keystore.Member{Name: "Ada", Kind: keystore.Person})
	if err != nil {
		t.Fatal(err)
	}
	_, token := fleet.Mint(t, a, manage.KeySpec{Owner: owner.ID})
	if _, err := a.Lookup(t.Context(), token, time.Now()); err != nil { // caches the record
		t.Fatal(err)
	}
	answer, err := a.Lookup(t.Context(), token, time.Now())
	if err != nil || answer.Outcome != keystore.OK {
		t.Fatal(answer.Outcome, err)
	}
	_, other := fleet.Mint(t, a, manage.KeySpec{})
	var cuts [2]atomic.Int32
	for i, token := range []string{token, other} {
		defer a.Leave(run(t, a, token, &cuts[i]))
	}
	answer, err = a.Lookup(t.Context(), token, time.Now())
	if err != nil || answer.Outcome != keystore.OK {
		t.Fatal(answer.Outcome, err)
	}
	disabled := false
	if _, _, err := a.EditMember(t.Context(), fleet.Root, owner.ID,
		manage.MemberPatch{Active: &disabled}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	r := &node.Running{Cut: func() {}}
	if a.Enter(answer, r) {
		a.Leave(r)
		t.Error("the request enters")
	}
	if cuts[0].Load() != 1 || cuts[1].Load() != 0 {
		t.Errorf("a request for the owner was cut %d times, another %d times", cuts[0].Load(),
			cuts[1].Load())
	}
}

// TestRunningRequestsFollowTransfers transfers a key while requests run, and then disables the
// former and the new owner.
func TestRunningRequestsFollowTransfers(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	owners := make([]string, 2)
	for i := range owners {
		m, err := a.CreateMember(t.Context(), fleet.Root,
			keystore.Member{Name: "Ada", Kind: keystore.Person})
		if err != nil {
			t.Fatal(err)
		}
		owners[i] = m.ID
	}
	_, token := fleet.Mint(t, a, manage.KeySpec{Owner: owners[0]})
	var cuts [2]atomic.Int32
	defer a.Leave(run(t, a, token, &cuts[0]))
	defer b.Leave(run(t, b, token, &cuts[1]))
	if _, _, _, err := a.TransferKeys(t.Context(), fleet.Root, owners[0], owners[1],
		manage.ChangeOptions{Wait: time.Minute}); err != nil {
		t.Fatal(err)
	}
	disabled := false
	for i, owner := range owners {
		if _, _, err := a.EditMember(t.Context(), fleet.Root, owner,
			manage.MemberPatch{Active: &disabled}, manage.ChangeOptions{Wait: time.Minute}); err != nil {
			t.Fatal(err)
		}
		for n := range cuts {
			if got := int(cuts[n].Load()); got != i {
				t.Errorf("node %d: cut %d times after owner %d was disabled", n, got, i)
			}
		}
	}
}

// TestFinishedRequestsAreNotCut checks that Cut is not called after Leave, and that a Running can
// be used for another request then.
func TestFinishedRequestsAreNotCut(t *testing.T) {
	a, _ := fleet.New(t).Node(node.Settings{})
	first, token := fleet.Mint(t, a, manage.KeySpec{})
	second, another := fleet.Mint(t, a, manage.KeySpec{ExpiresAt: a.Now().Add(time.Hour)})
	var cuts atomic.Int32
	r := run(t, a, token, &cuts)
	a.Leave(r)
	answer, err := a.Lookup(t.Context(), another, time.Now())
	if err != nil || !a.Enter(answer, r) {
		t.Fatal("the next request does not enter", err)
	}
	fleet.Revoke(t, a, first.ID, 0)
	if n := cuts.Load(); n != 0 {
		t.Errorf("cut %d times by a change of the former key", n)
	}
	fleet.Revoke(t, a, second.ID, 0)
	if n := cuts.Load(); n != 1 {
		t.Errorf("cut %d times by the revoke", n)
	}
	a.Leave(r)
}

// TestRunningRequestsAreCutWhenGraceEnds checks that a request with a rotated token is cut at the
// end of the grace period, although its key does not expire.
func TestRunningRequestsAreCutWhenGraceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := fleet.New(t).Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		var cuts atomic.Int32
		r := run(t, a, token, &cuts)
		if _, _, _, err := a.RotateKey(t.Context(), fleet.Root, key.ID, time.Minute,
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Second)
		if cuts.Load() != 0 {
			t.Error("cut during the grace period")
		}
		time.Sleep(4 * time.Second)
		if cuts.Load() != 1 {
			t.Error("not cut when the grace period ended")
		}
		a.Leave(r)
	})
}

// TestRunningRequestsAreCutUnderShorterLease cuts a node off whose lease has become much shorter. A
// revoke on another node waits for the shorter lease.
func TestRunningRequestsAreCutUnderShorterLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{Lease: 10 * time.Minute})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		var cuts atomic.Int32
		r := run(t, b, token, &cuts)
		b.Configure(node.Settings{Lease: 5 * time.Second})
		time.Sleep(3 * time.Minute) // the other node knows the shorter lease
		fb.Hangs.Store(true)
		begun := time.Now()
		if p := fleet.Revoke(t, a, key.ID, 20*time.Minute); !p.Complete ||
			time.Since(begun) > 10*time.Second {
			t.Errorf("after %v: %+v", time.Since(begun), p)
		}
		if cuts.Load() != 1 {
			t.Error("not cut")
		}
		b.Leave(r)
		fb.Hangs.Store(false)
	})
}
