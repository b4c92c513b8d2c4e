package keystore_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestRotatedOut: a token that was replaced opens nothing, and is known as its key's on every node.
func TestRotatedOut(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			d, cache := newDeployment(t), new(hostile)
			a, fa := d.node(keystore.Settings{Cache: cache})
			b, fb := d.node(keystore.Settings{Cache: cache})
			key, token := mint(t, a, keystore.KeySpec{})
			want(t, "before, here", ask(a, token), keystore.OK)
			want(t, "before, there", ask(b, token), keystore.OK)
			if _, _, _,
				err := a.RotateKey(ctx, root, key.ID, grace, keystore.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(grace)
			cache.restore(nil)
			for _, k := range []*keystore.Keystore{a, b} {
				want(t, "rotated out", ask(k, token), keystore.Rotated)
				answer, err := k.Lookup(ctx, token, time.Now())
				if err != nil || answer.Record == nil || answer.Record.KeyID != key.ID {
					t.Errorf("whose token it was: %+v %v", answer, err)
				}
				v, err := k.Verify(ctx, root, token, keystore.Question{})
				if err != nil || v.Outcome != keystore.Rotated || v.Key == nil ||
					v.Key.ID != key.ID {
					t.Errorf("verify: %+v %v", v, err)
				}
			}

			// Asking again and again costs no more than with a credential that nobody has.
			loads := fa.loads.Load() + fb.loads.Load()
			for range 100 {
				want(t, "again", ask(a, token), keystore.Rotated)
				want(t, "again", ask(b, token), keystore.Rotated)
			}
			if n := fa.loads.Load() + fb.loads.Load() - loads; n > 0 {
				t.Errorf("%d queries", n)
			}
			// A shared entry says until when a token opens its key. This one never does.
			if grace == 0 && len(cache.snapshot()) != 0 {
				t.Error("the shared cache holds a record of a token that was rotated out")
			}
			if keystore.Rotated.Status() != keystore.Unknown.Status() ||
				keystore.Rotated.Code() != keystore.Unknown.Code() ||
				keystore.Rotated.Title() != keystore.Unknown.Title() {
				t.Error("callers are told more than of an unknown token")
			}

			if _, _,
				err := a.RevokeKey(ctx, root, key.ID, "", false,
				keystore.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := a.DeleteKey(ctx, root, key.ID, keystore.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(keystore.NegativeTTL)
			want(t, "of a key that was deleted", ask(a, token), keystore.Unknown)
		})
	}
}

// TestVerifyRotatedForOthers: who may not read the key learns nothing of its former token.
func TestVerifyRotatedForOthers(t *testing.T) {
	k := withNamespaces(t, "acme", "other")
	key, token := mint(t, k, keystore.KeySpec{Namespace: "acme"})
	who, _ := caller(t, k, keystore.KeySpec{Namespace: "other",
		Grants: grants(t, "other=admin.keys:read")})
	if _, _, _, err := k.RotateKey(ctx, root, key.ID, 0, keystore.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	v, err := k.Verify(ctx, who, token, keystore.Question{})
	if err != nil || v.Outcome != keystore.Unknown || v.Key != nil {
		t.Errorf("%+v %v", v, err)
	}
}
