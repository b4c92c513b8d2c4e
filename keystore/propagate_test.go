package keystore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func TestRevokeIsInForceOnEveryNodeWhenItReturns(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, _ := d.node(keystore.Settings{})
	for range 20 {
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "minted, on the same node", ask(a, token), keystore.OK)
		want(t, "minted, on the other node", ask(b, token), keystore.OK)
		if p := revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 2 || p.Acknowledged != 2 {
			t.Fatalf("%+v", p)
		}
		want(t, "revoked, on the same node", ask(a, token), keystore.Revoked)
		want(t, "revoked, on the other node", ask(b, token), keystore.Revoked)
	}
}

func TestEveryChangeIsInForceWhenItReturns(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, _ := d.node(keystore.Settings{})
	ctx := context.Background()
	key, token := mint(t, a, keystore.KeySpec{})
	off, on := false, true
	for _, step := range []struct {
		name string
		do   func() error
		want keystore.Outcome
	}{
		{"minted", func() error { return nil }, keystore.OK},
		{"inactive", func() error {
			_, _, err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: &off},
				keystore.ChangeOptions{})
			return err
		}, keystore.Inactive},
		{"active", func() error {
			_, _, err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: &on},
				keystore.ChangeOptions{})
			return err
		}, keystore.OK},
		{"narrowed", func() error {
			_, _, err := a.EditKey(ctx, root, key.ID,
				keystore.KeyPatch{Permissions: &[]keystore.Permission{{Action: "write"}}},
				keystore.ChangeOptions{})
			return err
		}, keystore.Forbidden},
		{"widened", func() error {
			_, _, err := a.EditKey(ctx, root, key.ID,
				keystore.KeyPatch{Permissions: &[]keystore.Permission{{Action: "*"}}},
				keystore.ChangeOptions{})
			return err
		}, keystore.OK},
		{"rotated at once", func() error {
			_, _, _,
				err := a.RotateKey(ctx, root, key.ID, 0, keystore.ChangeOptions{})
			return err
		}, keystore.Rotated},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		want(t, step.name+", here", ask(a, token), step.want)
		want(t, step.name+", there", ask(b, token), step.want)
	}
}

func TestARevokeWaitsForASilentNodeUntilItsLeaseHasSurelyRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{Lease: 5 * time.Second})
		// what counts is the other node's lease
		b, fb := d.node(keystore.Settings{Lease: 20 * time.Second})
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "there", ask(b, token), keystore.OK)

		fb.mute.Store(true)
		begun := time.Now()
		p := revoke(t, a, key.ID, time.Second)
		if p.Complete || len(p.Pending) != 1 || p.Nodes != 2 || p.Acknowledged != 1 {
			t.Fatalf("%+v", p)
		}
		if until := p.Pending[0].Until.Sub(begun); until < 20*time.Second ||
			until > 22*time.Second {
			t.Errorf("pending for %v", until)
		}
		want(t, "here, revoked", ask(a, token), keystore.Revoked)
		if p = revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Fatalf("%+v", p)
		}
		if took := time.Since(begun); took > 23*time.Second {
			t.Errorf("took %v", took)
		}
		want(t, "on the silent node", ask(b, token), keystore.Unavailable)
		fb.mute.Store(false)
		want(t, "on the node that is back", ask(b, token), keystore.Revoked)
	})
}

func TestALongSilentNodeCostsTheNextRevokeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{Lease: 5 * time.Second})
		b, fb := d.node(keystore.Settings{Lease: 5 * time.Second})
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "there", ask(b, token), keystore.OK)
		fb.mute.Store(true)
		time.Sleep(30 * time.Second)
		begun := time.Now()
		if p := revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 1 ||
			time.Since(begun) > time.Second {
			t.Errorf("took %v: %+v", time.Since(begun), p)
		}
		want(t, "on the silent node", ask(b, token), keystore.Unavailable)
		fb.mute.Store(false)
		want(t, "on the node that is back", ask(b, token), keystore.Revoked)
		if p := revoke(t, a, key.ID, 0); p.Nodes != 2 {
			t.Errorf("the node has not joined again: %+v", p)
		}
	})
}

func TestARevokeWaitsNoLongerForAGivenUpNodeThanUntilItsLastLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{Lease: 10 * time.Second})
		_, fb := d.node(keystore.Settings{Lease: 10 * time.Second})
		key, _ := mint(t, a, keystore.KeySpec{})
		time.Sleep(10 * time.Second)
		fb.mute.Store(true)
		time.Sleep(15 * time.Second) // given up after about 10
		begun := time.Now()
		if p := revoke(t, a, key.ID, time.Minute); !p.Complete || p.Nodes != 2 {
			t.Fatalf("%+v", p)
		}
		if took := time.Since(begun); took < time.Second || took > 9700*time.Millisecond {
			t.Errorf("took %v, with a lease of 10 s", took)
		}
	})
}

// A node that was given up and removed while its lease was reconfigured joins anew like any other:
// nobody must take it for the one it was.
func TestAGivenUpNodeWithAnotherLeaseIsWaitedFor(t *testing.T) {
	for name, lease := range map[string]time.Duration{"longer": 40 * time.Second,
		"shorter": 20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeployment(t)
				b, _ := d.node(keystore.Settings{})
				a, fa := d.node(keystore.Settings{})
				key, token := mint(t, b, keystore.KeySpec{})
				want(t, "before", ask(a, token), keystore.OK)
				time.Sleep(20 * time.Second)
				if lease < keystore.DefaultLease { // a shorter one is declared a renewal later
					a.Configure(keystore.Settings{Lease: lease})
					a.Health(ctx)
				}
				fa.cut.Store(true)
				time.Sleep(3 * time.Minute)
				a.Configure(keystore.Settings{Lease: lease})
				fa.cut.Store(false)
				if h := a.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
				want(t, "when it is back", ask(a, token), keystore.OK)
				fa.cut.Store(true)
				if p := revoke(t, b, key.ID, time.Minute); !p.Complete {
					t.Fatalf("%+v", p)
				}
				want(t, "after the revoke", ask(a, token), keystore.Unavailable)
				fa.cut.Store(false)
			})
		})
	}
}

// The first import ever, while a node is cut off that has never heard of imported credentials: it
// may not know them, but must not say that.
func TestTheFirstImportWaitsForWhoIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{})
		fb.cut.Store(true)
		const token = "legacy-token-0123456789"
		if n, refused,
			err := a.ImportKeys(ctx, root,
			[]keystore.ImportSpec{{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}}, Line: 1, Token: token}}, false, ""); n != 1 || err != nil {
			t.Fatal(n, refused, err)
		}
		want(t, "when the import has returned", ask(b, token), keystore.Unavailable)
		fb.cut.Store(false)
		want(t, "when the database is back", ask(b, token), keystore.OK)
	})
}
