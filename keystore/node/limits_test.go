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
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// perMinute is a rate limit without a refill that matters within a test.
func perMinute(n int64) keystore.RateLimit {
	return keystore.RateLimit{Requests: n, Per: time.Minute, Burst: n}
}

// charge looks up a token and charges a request of one unit.
func charge(t *testing.T, k *manage.Keystore, token string) node.Charge {
	t.Helper()
	a, err := k.Lookup(context.Background(), token, time.Now())
	if err != nil || a.Record == nil {
		t.Fatalf("looking up a token: %v, %v", a.Outcome, err)
	}
	c, err := k.Charge(context.Background(), a, k.Policy(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// admits fails the test unless a node admits exactly n requests with a token now.
func admits(t *testing.T, k *manage.Keystore, token string, n int) {
	t.Helper()
	for i := range n + 1 {
		if c := charge(t, k, token); (c.Outcome == keystore.OK) != (i < n) {
			t.Fatalf("request %d of %d: %v", i+1, n, c.Outcome)
		}
	}
}

// unlimited fails the test if a request with a token is limited.
func unlimited(t *testing.T, k *manage.Keystore, token string) {
	t.Helper()
	if c := charge(t, k, token); c.Terms != nil {
		t.Fatalf("limits %+v", c.Terms)
	}
}

// TestLimitsFollowChanges checks that a limit of a key, a plan or a namespace takes effect with the
// next request, cached or not, and that a change does not refill it.
func TestLimitsFollowChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, _ := d.Node(node.Settings{})
		_, err := a.CreatePlan(t.Context(), fleet.Root, keystore.Plan{Namespace: "*", Name: "gold",
			Limits: keystore.Limits{Rate: perMinute(10)}})
		if err != nil {
			t.Fatal(err)
		}
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		edit := func(p manage.KeyPatch) {
			t.Helper()
			if _, _, err := a.EditKey(t.Context(), fleet.Root, key.ID, p,
				manage.ChangeOptions{Wait: time.Minute}); err != nil {
				t.Fatal(err)
			}
		}
		gold, rate := "gold", perMinute(20)
		unlimited(t, b, token)
		edit(manage.KeyPatch{Plan: &gold})
		admits(t, b, token, 5) // its share of 10

		rate20 := manage.LimitsPatch{Rate: &rate}
		if _, _, err := a.EditPlan(t.Context(), fleet.Root, keystore.PlanID{Namespace: "*",
			Name: "gold"}, manage.PlanPatch{Limits: rate20},
			manage.ChangeOptions{Wait: time.Minute}); err != nil {
			t.Fatal(err)
		}
		admits(t, b, token, 5) // its share of 20 is 10, of which 5 are used

		edit(manage.KeyPatch{Limits: manage.LimitsPatch{
			Rate: &keystore.RateLimit{Unlimited: true}}})
		unlimited(t, b, token)
		edit(manage.KeyPatch{Limits: manage.LimitsPatch{Rate: &keystore.RateLimit{}}})
		if c := charge(t, b, token); c.Outcome != keystore.Limited {
			t.Errorf("%v with the plan again, whose burst was used up", c.Outcome)
		}
	})
}

// TestNamespaceSharesItsLimits checks that the keys of a namespace share its limits, and that those
// of its descendants do not.
func TestNamespaceSharesItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := fleet.New(t).Node(node.Settings{})
		for _, ns := range []keystore.Namespace{
			{ID: "acme", Limits: keystore.Limits{Rate: perMinute(4)}}, {ID: "sub", Parent: "acme"},
		} {
			if _, err := a.CreateNamespace(t.Context(), fleet.Root, ns); err != nil {
				t.Fatal(err)
			}
		}
		_, one := fleet.Mint(t, a, manage.KeySpec{Namespace: "acme"})
		_, two := fleet.Mint(t, a, manage.KeySpec{Namespace: "acme",
			Limits: keystore.KeyLimits{Limits: keystore.Limits{Rate: perMinute(3)}}})
		_, below := fleet.Mint(t, a, manage.KeySpec{Namespace: "sub"})
		admits(t, a, two, 3)
		admits(t, a, one, 1)
		unlimited(t, a, below)
	})
}

// TestRotatedTokensShareLimits checks that a key has its limits once while two tokens are valid,
// and that a new token does not begin with a new burst.
func TestRotatedTokensShareLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := fleet.New(t).Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{
			Limits: keystore.KeyLimits{Limits: keystore.Limits{Rate: perMinute(10)}}})
		for range 4 {
			charge(t, a, token)
		}
		_, second, _, err := a.RotateKey(t.Context(), fleet.Root, key.ID, time.Hour,
			manage.ChangeOptions{Wait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			charge(t, a, second.Reveal())
		}
		admits(t, a, token, 3)
	})
}

// TestQuotaSurvivesRestarts checks that a node returns its unspent units when it exits, and that
// spent units stay spent.
func TestQuotaSurvivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		db, err := sqldb.OpenSQLite(t.Context(), d.Path)
		if err != nil {
			t.Fatal(err)
		}
		a, err := fleet.Open(t.Context(), db, node.Settings{}, fleet.Observer{})
		if err != nil {
			t.Fatal(err)
		}
		_, token := fleet.Mint(t, a, manage.KeySpec{Limits: keystore.KeyLimits{
			Limits: keystore.Limits{Quota: keystore.Quota{Units: 50, Per: keystore.Month}}}})
		for range 7 {
			charge(t, a, token)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		b, _ := d.Node(node.Settings{})
		admits(t, b, token, 43)
	})
}

// TestLimitsOfForgottenBuckets checks that a limit still holds after its idle bucket was removed.
func TestLimitsOfForgottenBuckets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := fleet.New(t).Node(node.Settings{})
		_, token := fleet.Mint(t, a, manage.KeySpec{Limits: keystore.KeyLimits{Limits: keystore.Limits{
			Rate:  keystore.RateLimit{Requests: 5, Per: time.Second, Burst: 5},
			Quota: keystore.Quota{Units: 12, Per: keystore.Month},
		}}})
		admits(t, a, token, 5)
		time.Sleep(2 * time.Minute) // the record stays in the cache
		admits(t, a, token, 5)
		time.Sleep(time.Second)
		admits(t, a, token, 2)
	})
}

// TestLimitsFromSharedCache checks that a record from the shared cache has its limits.
func TestLimitsFromSharedCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, cache := fleet.New(t), new(fleet.Hostile)
		a, _ := d.Node(node.Settings{Cache: cache})
		b, _ := d.Node(node.Settings{Cache: cache})
		_, token := fleet.Mint(t, a, manage.KeySpec{
			Limits: keystore.KeyLimits{Limits: keystore.Limits{Rate: perMinute(10)}}})
		time.Sleep(time.Second) // until both have applied the change
		charge(t, a, token)
		admits(t, b, token, 5)
		if hits := b.Stats().Lookups[node.TierRedis][node.Hit]; hits != 1 {
			t.Errorf("%d hits in the shared cache", hits)
		}
	})
}

// TestOldRecordKeepsNewLimits checks that a request does not restore former limits if its record
// was read before a change of its key and it is charged after the change.
func TestOldRecordKeepsNewLimits(t *testing.T) {
	for name, cached := range map[string]bool{"a slow load": false, "a cached record": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := fleet.New(t).Node(node.Settings{})
				key, token := fleet.Mint(t, a, manage.KeySpec{
					Limits: keystore.KeyLimits{Limits: keystore.Limits{Rate: perMinute(100),
						Quota: keystore.Quota{Units: 100, Per: keystore.Month}}}})
				lookUp := func() node.Answer {
					t.Helper()
					answer, err := a.Lookup(t.Context(), token, time.Now())
					if err != nil {
						t.Fatal(err)
					}
					return answer
				}
				old := lookUp()
				if cached {
					old = lookUp()
				}
				rate, quota := perMinute(10), keystore.Quota{Units: 5, Per: keystore.Month}
				if _, _, err := a.EditKey(t.Context(), fleet.Root, key.ID, manage.KeyPatch{
					Limits: manage.LimitsPatch{Rate: &rate, Quota: &quota}},
					manage.ChangeOptions{Wait: time.Minute}); err != nil {
					t.Fatal(err)
				}
				charge(t, a, token)
				charge(t, a, token) // from the cache
				if _, err := a.Charge(t.Context(), old, a.Policy(), 1); err != nil {
					t.Fatal(err)
				}
				admits(t, a, token, 2)
			})
		})
	}
}
