package keystore_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A node that is cut off right after it renewed counts its lease on a slow clock, and who revokes
// waits on a fast one.
func TestClocksThatDriftWithinTheMargin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		fast, _ := d.nodeAt(1.01, keystore.Settings{})
		slow, f := d.nodeAt(0.99, keystore.Settings{})
		key, token := mint(t, fast, keystore.KeySpec{})
		accepted, returned := revokeCutOff(t, fast, slow, f, key.ID, token)
		if gap := returned.Sub(accepted); gap > 2*time.Second {
			t.Errorf("the revoke waited %s longer than it needed to", gap)
		}
	})
}

// revokeCutOff cuts a node off right after it renewed, revokes at the other one, and tells when the
// key was accepted last and when the revoke returned, which must be later.
func revokeCutOff(
	t *testing.T, revoker, cut *keystore.Keystore, f *faulty, id, token string,
) (accepted, returned time.Time) {
	t.Helper()
	if h := cut.Health(context.Background()); h.Problem != "" { // renews
		t.Fatal(h.Problem)
	}
	want(t, "before", ask(cut, token), keystore.OK)
	f.cut.Store(true)
	go func() {
		for ask(cut, token) == keystore.OK {
			accepted = time.Now()
			time.Sleep(time.Millisecond)
		}
	}()
	if p := revoke(t, revoker, id, time.Minute); !p.Complete {
		t.Fatalf("%+v", p)
	}
	returned = time.Now()
	time.Sleep(time.Minute)
	f.cut.Store(false)
	if accepted.After(returned) {
		t.Errorf("accepted %s after the revoke had returned", accepted.Sub(returned))
	}
	return accepted, returned
}

func TestAClockThatRunsWrongGetsNoLease(t *testing.T) {
	for rate, ok := range map[float64]bool{
		1: true, 0.997: true, 1.003: true, 0.993: false, 1.007: false, 0.95: false, 1.05: false,
		0.8: false, 2: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			a, _ := newDeployment(t).nodeAt(rate, keystore.Settings{})
			_, token := mint(t, a, keystore.KeySpec{})
			time.Sleep(110 * time.Second) // three comparisons
			h := a.Health(context.Background())
			if ok {
				want(t, "a clock that may be right", ask(a, token), keystore.OK)
			} else {
				want(t, "a clock that cannot be", ask(a, token), keystore.Unavailable)
			}
			if says := strings.Contains(h.Problem, "clock"); says == ok {
				t.Errorf("rate %v: health says %q", rate, h.Problem)
			}
		})
	}
}

// A step shows in one comparison, and steps that follow each other in several that do not agree.
func TestADatabaseClockThatIsSetAgainAndAgainCostsNothing(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			a, f := newDeployment(t).node(keystore.Settings{})
			_, token := mint(t, a, keystore.KeySpec{ExpiresAt: time.Now().Add(2 * time.Hour)})
			for range 30 {
				time.Sleep(time.Duration(random.Int64N(int64(stepsApart))))
				f.ahead.Store(random.Int64N(int64(8*time.Hour)) - int64(4*time.Hour))
				want(t, "a live key", ask(a, token), keystore.OK)
				time.Sleep(time.Duration(random.Int64N(int64(stepsApart))))
				f.ahead.Store(0)
				want(t, "a live key, the clock set right", ask(a, token), keystore.OK)
			}
		})
	}
}

// stepsApart is shorter than the time after which a node follows a clock that stays ahead.
const stepsApart = 50 * time.Second

// Two steps of the database's clock made the measured rate negative, and the wait with it.
func TestARevokeWaitsByNoWallClock(t *testing.T) {
	for name, steps := range map[string][2]time.Duration{
		"an hour ahead and back": {time.Hour, 0},
		"ahead and behind":       {2 * time.Second, -30 * time.Second},
		"behind and back":        {-time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeployment(t)
				a, fa := d.node(keystore.Settings{Lease: 6 * time.Second})
				b, fb := d.node(keystore.Settings{Lease: 30 * time.Second})
				key, token := mint(t, a, keystore.KeySpec{})
				time.Sleep(20 * time.Second)
				want(t, "before", ask(b, token), keystore.OK)
				fb.cut.Store(true)
				fa.ahead.Store(int64(steps[0]))
				time.Sleep(7500 * time.Millisecond)
				fa.ahead.Store(int64(steps[1]))
				time.Sleep(7500 * time.Millisecond)
				begun := time.Now()
				p := revoke(t, a, key.ID, time.Minute)
				if took := time.Since(begun); !p.Complete || took < 5*time.Second {
					t.Errorf("complete after %v: %+v", took, p)
				}
				want(t, "after the revoke", ask(b, token), keystore.Unavailable)
				fb.cut.Store(false)
			})
		})
	}
}

// Nor does who asks later how far the change has come.
func TestProgressGoesByNoWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, fa := d.node(keystore.Settings{Lease: 6 * time.Second})
		b, fb := d.node(keystore.Settings{Lease: 30 * time.Second})
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(b, token), keystore.OK)
		fb.cut.Store(true)
		answered := a.Now()
		p := revoke(t, a, key.ID, -1)
		fa.ahead.Store(int64(time.Hour))
		a.Health(ctx)
		time.Sleep(20 * time.Second)
		if p, err := a.Progress(ctx, root, p.Revision, answered); err != nil || p.Complete {
			t.Errorf("before the lease is over: %+v, %v", p, err)
		}
		if p,
			err := a.Progress(ctx, root, p.Revision, answered.Add(-time.Hour)); err != nil ||
			p.Complete {
			t.Errorf("of a time that somebody has typed: %+v, %v", p, err)
		}
		time.Sleep(13 * time.Second)
		if p, err := a.Progress(ctx, root, p.Revision, answered); err != nil || !p.Complete {
			t.Errorf("after the lease is over: %+v, %v", p, err)
		}
		want(t, "then", ask(b, token), keystore.Unavailable)
		fb.cut.Store(false)
	})
}

// What has expired stays expired when the database's clock is set back, also for a process that
// starts then.
func TestAKeyThatHasExpiredStaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, f := d.node(keystore.Settings{})
		_, token := mint(t, a, keystore.KeySpec{ExpiresAt: time.Now().Add(10 * time.Minute)})
		for i := range 20 {
			if i == 3 || i == 12 { // more often would look like a clock at a wrong rate
				f.ahead.Add(int64(-50 * time.Minute))
			}
			time.Sleep(30*time.Second - time.Millisecond)
			want(t, "before it expires", ask(a, token), keystore.OK)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * time.Second) // a hundredth slower at most
		want(t, "once it has expired", ask(a, token), keystore.Expired)
		time.Sleep(time.Minute)
		late, fl := d.nodeBehind(2 * time.Hour)
		want(t, "on a node that starts later", ask(late, token), keystore.Expired)
		if key,
			_ := mint(t, late,
			keystore.KeySpec{ExpiresAt: late.Now().Add(time.Minute)}); !key.ExpiresAt.After(key.CreatedAt) {
			t.Errorf("a new key lives from %s to %s", key.CreatedAt, key.ExpiresAt)
		}
		fl.ahead.Store(0)
	})
}

func TestADatabaseClockThatIsSetCostsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := newDeployment(t).node(keystore.Settings{})
		_, token := mint(t, a, keystore.KeySpec{})
		time.Sleep(40 * time.Second)
		f.ahead.Store(int64(10 * time.Second))
		for range 60 {
			want(t, "a live key", ask(a, token), keystore.OK)
			time.Sleep(3 * time.Second)
		}
	})
}

func TestExpiryIsJudgedByTheDatabasesClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		right, _ := d.node(keystore.Settings{})
		behind, f := d.node(keystore.Settings{})
		f.ahead.Store(int64(20 * time.Minute)) // this node's clock is behind the database's
		if h := behind.Health(context.Background()); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		_, token := mint(t, right, keystore.KeySpec{ExpiresAt: time.Now().Add(30 * time.Minute)})
		want(t, "alive by both clocks", ask(behind, token), keystore.OK)
		time.Sleep(10*time.Minute - time.Second)
		want(t, "a second before", ask(behind, token), keystore.OK)
		time.Sleep(time.Second + time.Microsecond) // the database tells microseconds
		want(t, "at the end by the database's clock", ask(behind, token), keystore.Expired)
		want(t, "on a node that is told the right time", ask(right, token), keystore.OK)
	})
}
