package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestRotatedOut checks that a replaced token is refused, and that every node knows its key.
func TestRotatedOut(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			d, cache := fleet.New(t), new(fleet.Hostile)
			a, fa := d.Node(node.Settings{Cache: cache})
			b, fb := d.Node(node.Settings{Cache: cache})
			key, token := fleet.Mint(t, a, manage.KeySpec{})
			fleet.Want(t, "before, here", fleet.Ask(a, token), keystore.OK)
			fleet.Want(t, "before, there", fleet.Ask(b, token), keystore.OK)
			if _, _, _, err := a.RotateKey(ctx, fleet.Root, key.ID, grace,
				manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(grace)
			cache.Restore(nil)
			for _, k := range []*manage.Keystore{a, b} {
				fleet.Want(t, "rotated out", fleet.Ask(k, token), keystore.Rotated)
				answer, err := k.Lookup(ctx, token, time.Now())
				if err != nil || answer.Record == nil || answer.Record.KeyID != key.ID {
					t.Errorf("lookup: %+v %v", answer, err)
				}
				v, err := k.Verify(ctx, fleet.Root, token, manage.VerifyRequest{})
				if err != nil || v.Outcome != keystore.Rotated || v.Key == nil ||
					v.Key.ID != key.ID {
					t.Errorf("verify: %+v %v", v, err)
				}
			}

			// Repeated requests cost no more than with an unknown credential.
			loads := fa.Loads.Load() + fb.Loads.Load()
			for range 100 {
				fleet.Want(t, "again", fleet.Ask(a, token), keystore.Rotated)
				fleet.Want(t, "again", fleet.Ask(b, token), keystore.Rotated)
			}
			if n := fa.Loads.Load() + fb.Loads.Load() - loads; n > 0 {
				t.Errorf("%d queries", n)
			}
			// An entry of the shared cache would be useless for a token that is never valid again.
			if grace == 0 && len(cache.Snapshot()) != 0 {
				t.Error("the shared cache has a record of a token that was rotated out")
			}
			if keystore.Rotated.Status() != keystore.Unknown.Status() ||
				keystore.Rotated.Code() != keystore.Unknown.Code() ||
				keystore.Rotated.Title() != keystore.Unknown.Title() {
				t.Error("clients see more than for an unknown token")
			}

			if _, _, err := a.RevokeKey(ctx, fleet.Root, key.ID, "", false,
				manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := a.DeleteKey(ctx, fleet.Root, key.ID,
				manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(node.NegativeTTL)
			fleet.Want(t, "of a deleted key", fleet.Ask(a, token), keystore.Unknown)
		})
	}
}

// TestVerifyRotatedForOthers verifies a former token as a caller that may not read its key.
func TestVerifyRotatedForOthers(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme", "other")
	key, token := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme"})
	who, _ := fleet.Caller(t, k, manage.KeySpec{Namespace: "other",
		Grants: fleet.Grants(t, "other=admin.keys:read")})
	if _, _, _, err := k.RotateKey(ctx, fleet.Root, key.ID, 0, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	v, err := k.Verify(ctx, who, token, manage.VerifyRequest{})
	if err != nil || v.Outcome != keystore.Unknown || v.Key != nil {
		t.Errorf("%+v %v", v, err)
	}
}
