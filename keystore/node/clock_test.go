package node_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// The revoking node waits on a fast clock for the lease of a node that is cut off right after a
// renewal and has a slow clock.
func TestRevokeWaitsForSlowClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		fast, _ := nodeAt(d, 1.01)
		slow, f := nodeAt(d, 0.99)
		key, token := fleet.Mint(t, fast, manage.KeySpec{})
		accepted, returned := revokeCutOff(t, fast, slow, f, key.ID, token)
		if gap := returned.Sub(accepted); gap > 2*time.Second {
			t.Errorf("the revoke waited %s too long", gap)
		}
	})
}

// revokeCutOff cuts off a node right after a renewal and revokes a key on the other one. It returns
// when the key was last accepted and when the revoke returned, which must be later.
func revokeCutOff(
	t *testing.T, revoker, cut *manage.Keystore, f *fleet.Faulty, id, token string,
) (accepted, returned time.Time) {
	t.Helper()
	if h := cut.Health(context.Background()); h.Problem != "" { // renews
		t.Fatal(h.Problem)
	}
	fleet.Want(t, "before", fleet.Ask(cut, token), keystore.OK)
	f.Cut.Store(true)
	go func() {
		for fleet.Ask(cut, token) == keystore.OK {
			accepted = time.Now()
			time.Sleep(time.Millisecond)
		}
	}()
	if p := fleet.Revoke(t, revoker, id, time.Minute); !p.Complete {
		t.Fatalf("%+v", p)
	}
	returned = time.Now()
	time.Sleep(time.Minute)
	f.Cut.Store(false)
	if accepted.After(returned) {
		t.Errorf("accepted %s after the revoke had returned", accepted.Sub(returned))
	}
	return accepted, returned
}

func TestWrongClockRateGetsNoLease(t *testing.T) {
	for rate, ok := range map[float64]bool{
		1: true, 0.997: true, 1.003: true, 0.993: false, 1.007: false, 0.95: false, 1.05: false,
		0.8: false, 2: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			a, _ := nodeAt(fleet.New(t), rate)
			_, token := fleet.Mint(t, a, manage.KeySpec{})
			time.Sleep(110 * time.Second) // three comparisons
			h := a.Health(context.Background())
			if ok {
				fleet.Want(t, "plausible rate", fleet.Ask(a, token), keystore.OK)
			} else {
				fleet.Want(t, "wrong rate", fleet.Ask(a, token), keystore.Unavailable)
			}
			if says := strings.Contains(h.Problem, "clock"); says == ok {
				t.Errorf("rate %v: health says %q", rate, h.Problem)
			}
		})
	}
}

// A step of the clock changes one comparison. Successive steps change several, which do not agree.
func TestDatabaseClockSetRepeatedly(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			a, f := fleet.New(t).Node(node.Settings{})
			_, token := fleet.Mint(t, a, manage.KeySpec{ExpiresAt: time.Now().Add(2 * time.Hour)})
			for range 10 {
				time.Sleep(time.Duration(random.Int64N(int64(stepsApart))))
				f.Ahead.Store(random.Int64N(int64(8*time.Hour)) - int64(4*time.Hour))
				fleet.Want(t, "a live key", fleet.Ask(a, token), keystore.OK)
				time.Sleep(time.Duration(random.Int64N(int64(stepsApart))))
				f.Ahead.Store(0)
				fleet.Want(t, "after the correction", fleet.Ask(a, token), keystore.OK)
			}
		})
	}
}

// stepsApart is shorter than the time after which a node follows a clock that stays ahead.
const stepsApart = 50 * time.Second

// Two steps of the database's clock can make the measured rate negative, which must not shorten a
// wait.
func TestRevokeIgnoresDatabaseClockSteps(t *testing.T) {
	for name, steps := range map[string][2]time.Duration{
		"an hour ahead and back": {time.Hour, 0},
		"ahead and behind":       {2 * time.Second, -30 * time.Second},
		"behind and back":        {-time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := fleet.New(t)
				a, fa := d.Node(node.Settings{Lease: 6 * time.Second})
				b, fb := d.Node(node.Settings{Lease: 30 * time.Second})
				key, token := fleet.Mint(t, a, manage.KeySpec{})
				time.Sleep(20 * time.Second)
				fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
				fb.Cut.Store(true)
				fa.Ahead.Store(int64(steps[0]))
				time.Sleep(7500 * time.Millisecond)
				fa.Ahead.Store(int64(steps[1]))
				time.Sleep(7500 * time.Millisecond)
				begun := time.Now()
				p := fleet.Revoke(t, a, key.ID, time.Minute)
				if took := time.Since(begun); !p.Complete || took < 5*time.Second {
					t.Errorf("complete after %v: %+v", took, p)
				}
				fleet.Want(t, "after the revoke", fleet.Ask(b, token), keystore.Unavailable)
				fb.Cut.Store(false)
			})
		})
	}
}

func TestProgressIgnoresDatabaseClockSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{Lease: 6 * time.Second})
		b, fb := d.Node(node.Settings{Lease: 30 * time.Second})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		fb.Cut.Store(true)
		answered := a.Now()
		p := fleet.Revoke(t, a, key.ID, -1)
		fa.Ahead.Store(int64(time.Hour))
		a.Health(ctx)
		time.Sleep(20 * time.Second)
		if p, err := a.Progress(ctx, fleet.Root, p.Revision, answered); err != nil || p.Complete {
			t.Errorf("before the lease has expired: %+v, %v", p, err)
		}
		wrong := answered.Add(-time.Hour)
		if p, err := a.Progress(ctx, fleet.Root, p.Revision, wrong); err != nil || p.Complete {
			t.Errorf("with a wrong time of the response: %+v, %v", p, err)
		}
		time.Sleep(13 * time.Second)
		if p, err := a.Progress(ctx, fleet.Root, p.Revision, answered); err != nil || !p.Complete ||
			p.Took < 33*time.Second || p.Took > 35*time.Second {
			t.Errorf("after the lease has expired: %+v, %v", p, err)
		}
		fleet.Want(t, "afterwards", fleet.Ask(b, token), keystore.Unavailable)
		fb.Cut.Store(false)
	})
}

// An expired key stays expired when the database's clock is set back, also on a node that starts
// afterwards.
func TestExpiredKeyStaysExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, f := d.Node(node.Settings{})
		_, token := fleet.Mint(t, a, manage.KeySpec{ExpiresAt: time.Now().Add(10 * time.Minute)})
		for i := range 20 {
			if i == 3 || i == 12 { // more steps would look like a wrong rate
				f.Ahead.Add(int64(-50 * time.Minute))
			}
			time.Sleep(30*time.Second - time.Millisecond)
			fleet.Want(t, "before it expires", fleet.Ask(a, token), keystore.OK)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * time.Second) // the node's time is at most 1 % slower
		fleet.Want(t, "after it has expired", fleet.Ask(a, token), keystore.Expired)
		time.Sleep(time.Minute)
		late, fl := d.NodeBehind(2 * time.Hour)
		fleet.Want(t, "on a node that starts later", fleet.Ask(late, token), keystore.Expired)
		key, _ := fleet.Mint(t, late, manage.KeySpec{ExpiresAt: late.Now().Add(time.Minute)})
		if !key.ExpiresAt.After(key.CreatedAt) {
			t.Errorf("a new key is valid from %s to %s", key.CreatedAt, key.ExpiresAt)
		}
		fl.Ahead.Store(0)
	})
}

// TestClockOfYoungDeployment checks that the time does not go back for a later node if the database's
// clock is set back soon after the first node has started: quotas would begin an earlier period again.
func TestClockOfYoungDeployment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		begun := time.Now()
		d.Node(node.Settings{})
		time.Sleep(10 * time.Second)
		late, f := d.NodeBehind(2 * time.Hour)
		if now := late.Now(); now.Before(begun.Truncate(time.Microsecond)) {
			t.Errorf("the time of a later node is %v earlier", begun.Sub(now))
		}
		f.Ahead.Store(0)
	})
}

func TestDatabaseClockStepCostsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(40 * time.Second)
		f.Ahead.Store(int64(10 * time.Second))
		for range 60 {
			fleet.Want(t, "a live key", fleet.Ask(a, token), keystore.OK)
			time.Sleep(3 * time.Second)
		}
	})
}

func TestExpiryFollowsDatabaseClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		right, _ := d.Node(node.Settings{})
		behind, f := d.Node(node.Settings{})
		f.Ahead.Store(int64(20 * time.Minute)) // this node's clock is behind the database's
		if h := behind.Health(context.Background()); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		_, token := fleet.Mint(t, right,
			manage.KeySpec{ExpiresAt: time.Now().Add(30 * time.Minute)})
		fleet.Want(t, "valid on both clocks", fleet.Ask(behind, token), keystore.OK)
		time.Sleep(10*time.Minute - time.Second)
		fleet.Want(t, "a second before it expires", fleet.Ask(behind, token), keystore.OK)
		time.Sleep(time.Second + time.Microsecond) // the database stores microseconds
		fleet.Want(t, "expired on the database's clock", fleet.Ask(behind, token),
			keystore.Expired)
		fleet.Want(t, "on a node with the right time", fleet.Ask(right, token), keystore.OK)
	})
}

// nodeAt opens a node whose clock runs at another rate than the machine's.
func nodeAt(d fleet.Fleet, rate float64) (*manage.Keystore, *fleet.Faulty) {
	d.Helper()
	open := func(
		ctx context.Context, db keystore.Database, s node.Settings, o node.Observer,
	) (*manage.Keystore, error) {
		n, err := node.OpenAt(ctx, rate, db, s, o)
		if err != nil {
			return nil, err
		}
		return manage.New(n), nil
	}
	return d.OpenWith(fleet.Observer{}, node.Settings{}, open, func(*fleet.Faulty) {})
}

// TestLookupsDuringRenewal: a lookup during the first renewal after a suspend uses the time of that
// renewal, so a key that has expired meanwhile is refused.
func TestLookupsDuringRenewal(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	fleet.Want(t, "before", fleet.Ask(k, token), keystore.OK)
	for i := range 1000 {
		renew := k.Suspend(3600)
		var running, renewed atomic.Bool
		go func() {
			running.Store(true)
			for range 20 * i { // so that it renews at any point of the lookup
				renewed.Load()
			}
			renew()
			renewed.Store(true)
		}()
		for !running.Load() {
			runtime.Gosched()
		}
		now := time.Now()
		a, err := k.Lookup(ctx, token, now)
		if err != nil {
			t.Fatal(err)
		}
		if behind := now.Sub(time.Unix(0, a.Now)); behind > time.Minute {
			t.Fatalf("lookup %d: %v behind", i, behind)
		}
		for !renewed.Load() {
			runtime.Gosched()
		}
	}
}
