package node_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func TestRevokeIsInForceOnEveryNodeWhenItReturns(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	for range 20 {
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "minted, on the same node", fleet.Ask(a, token), keystore.OK)
		fleet.Want(t, "minted, on the other node", fleet.Ask(b, token), keystore.OK)
		if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 2 || p.Acknowledged != 2 {
			t.Fatalf("%+v", p)
		}
		fleet.Want(t, "revoked, on the same node", fleet.Ask(a, token), keystore.Revoked)
		fleet.Want(t, "revoked, on the other node", fleet.Ask(b, token), keystore.Revoked)
	}
}

func TestEveryChangeIsInForceWhenItReturns(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	ctx := context.Background()
	key, token := fleet.Mint(t, a, manage.KeySpec{})
	off, on := false, true
	for _, step := range []struct {
		name string
		do   func() error
		want keystore.Outcome
	}{
		{"minted", func() error { return nil }, keystore.OK},
		{"inactive", func() error {
			_, _, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &off},
				manage.ChangeOptions{})
			return err
		}, keystore.Inactive},
		{"active", func() error {
			_, _, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &on},
				manage.ChangeOptions{})
			return err
		}, keystore.OK},
		{"narrowed", func() error {
			_, _, err := a.EditKey(ctx, fleet.Root, key.ID,
				manage.KeyPatch{Permissions: &[]keystore.Permission{{Action: "write"}}},
				manage.ChangeOptions{})
			return err
		}, keystore.Forbidden},
		{"widened", func() error {
			_, _, err := a.EditKey(ctx, fleet.Root, key.ID,
				manage.KeyPatch{Permissions: &[]keystore.Permission{{Action: "*"}}},
				manage.ChangeOptions{})
			return err
		}, keystore.OK},
		{"rotated at once", func() error {
			_, _, _, err := a.RotateKey(ctx, fleet.Root, key.ID, 0, manage.ChangeOptions{})
			return err
		}, keystore.Rotated},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		fleet.Want(t, step.name+", here", fleet.Ask(a, token), step.want)
		fleet.Want(t, step.name+", there", fleet.Ask(b, token), step.want)
	}
}

func TestRevokeWaitsForLeaseOfSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{Lease: 5 * time.Second})
		// The other node's lease counts.
		b, fb := d.Node(node.Settings{Lease: 20 * time.Second})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "there", fleet.Ask(b, token), keystore.OK)

		fb.Mute.Store(true)
		begun := time.Now()
		p := fleet.Revoke(t, a, key.ID, time.Second)
		if p.Complete || len(p.Pending) != 1 || p.Nodes != 2 || p.Acknowledged != 1 {
			t.Fatalf("%+v", p)
		}
		if until := p.Pending[0].Until.Sub(begun); until < 20*time.Second ||
			until > 22*time.Second {
			t.Errorf("pending for %v", until)
		}
		fleet.Want(t, "here, revoked", fleet.Ask(a, token), keystore.Revoked)
		if p = fleet.Revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Fatalf("%+v", p)
		}
		if took := time.Since(begun); took > 23*time.Second {
			t.Errorf("took %v", took)
		}
		fleet.Want(t, "on the silent node", fleet.Ask(b, token), keystore.Unavailable)
		fb.Mute.Store(false)
		fleet.Want(t, "on the silent node, when it is back", fleet.Ask(b, token), keystore.Revoked)
	})
}

// TestRepeatedRevoke checks that a repeated revoke waits for a silent node no longer than the first
// one, but for the whole lease if another node made the first one.
func TestRepeatedRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		settings := node.Settings{Lease: 20 * time.Second}
		a, _ := d.Node(settings)
		other, _ := d.Node(settings)
		silent, f := d.Node(settings)
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(10 * time.Second)
		fleet.Want(t, "before", fleet.Ask(silent, token), keystore.OK)
		f.Mute.Store(true)
		begun := time.Now()
		fleet.Revoke(t, a, key.ID, -1)
		time.Sleep(10 * time.Second)
		if p := fleet.Revoke(t, other, key.ID, -1); p.Complete || p.Revision == 0 {
			t.Errorf("on another node: %+v; outcome: %v", p, fleet.Ask(silent, token))
		}
		for range 2 {
			p := fleet.Revoke(t, a, key.ID, time.Minute)
			if took := time.Since(begun); !p.Complete || took > 22*time.Second {
				t.Errorf("complete after %v: %+v", took, p)
			}
		}
		f.Mute.Store(false)
	})
}

func TestRevokeDoesNotWaitForRemovedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{Lease: 5 * time.Second})
		b, fb := d.Node(node.Settings{Lease: 5 * time.Second})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "there", fleet.Ask(b, token), keystore.OK)
		fb.Mute.Store(true)
		time.Sleep(30 * time.Second)
		begun := time.Now()
		if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 1 ||
			time.Since(begun) > time.Second {
			t.Errorf("took %v: %+v", time.Since(begun), p)
		}
		fleet.Want(t, "on the silent node", fleet.Ask(b, token), keystore.Unavailable)
		fb.Mute.Store(false)
		fleet.Want(t, "on the silent node, when it is back", fleet.Ask(b, token), keystore.Revoked)
		if p := fleet.Revoke(t, a, key.ID, 0); p.Nodes != 2 {
			t.Errorf("the node has not joined again: %+v", p)
		}
	})
}

func TestRevokeWaitsForRestOfFencedLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{Lease: 10 * time.Second})
		_, fb := d.Node(node.Settings{Lease: 10 * time.Second})
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(10 * time.Second)
		fb.Mute.Store(true)
		time.Sleep(15 * time.Second) // fenced after about 10 s
		begun := time.Now()
		if p := fleet.Revoke(t, a, key.ID, time.Minute); !p.Complete || p.Nodes != 2 {
			t.Fatalf("%+v", p)
		}
		if took := time.Since(begun); took < time.Second || took > 9700*time.Millisecond {
			t.Errorf("took %v with a lease of 10 s", took)
		}
	})
}

// A node that was fenced and removed, and got another lease meanwhile, joins again as a new node.
func TestRevokeWaitsForRejoinedNodeWithAnotherLease(t *testing.T) {
	for name, lease := range map[string]time.Duration{
		"longer": 40 * time.Second, "shorter": 20 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := fleet.New(t)
				b, _ := d.Node(node.Settings{})
				a, fa := d.Node(node.Settings{})
				key, token := fleet.Mint(t, b, manage.KeySpec{})
				fleet.Want(t, "before", fleet.Ask(a, token), keystore.OK)
				time.Sleep(20 * time.Second)
				if lease < node.DefaultLease { // a shorter one is written a renewal later
					a.Configure(node.Settings{Lease: lease})
					a.Health(ctx)
				}
				fa.Cut.Store(true)
				time.Sleep(3 * time.Minute)
				a.Configure(node.Settings{Lease: lease})
				fa.Cut.Store(false)
				if h := a.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
				fleet.Want(t, "when it is back", fleet.Ask(a, token), keystore.OK)
				fa.Cut.Store(true)
				if p := fleet.Revoke(t, b, key.ID, time.Minute); !p.Complete {
					t.Fatalf("%+v", p)
				}
				fleet.Want(t, "after the revoke", fleet.Ask(a, token), keystore.Unavailable)
				fa.Cut.Store(false)
			})
		})
	}
}

// A node that has seen no import is cut off during the first one. When the import returns, it
// must not answer that the credential is malformed.
func TestFirstImportWaitsForUnreachableNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		fb.Cut.Store(true)
		const token = "legacy-token-0123456789"
		n, refused, err := a.ImportKeys(ctx, fleet.Root,
			[]manage.ImportSpec{readImport(token)}, false, nil)
		if n != 1 || err != nil {
			t.Fatal(n, refused, err)
		}
		fleet.Want(t, "after the import returned", fleet.Ask(b, token), keystore.Unavailable)
		fb.Cut.Store(false)
		fleet.Want(t, "when the database is reachable again", fleet.Ask(b, token), keystore.OK)
	})
}
