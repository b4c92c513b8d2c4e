package keystore_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// adversarial.md 94: a node that is cut off right after it renewed counts its lease on a slow clock, and who revokes waits on a fast one.
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

// revokeCutOff cuts a node off right after it renewed, revokes at the other one, and tells when the key was accepted last and when the revoke returned,
// which must be later.
func revokeCutOff(t *testing.T, revoker, cut *keystore.Keystore, f *faulty, id, token string) (accepted, returned time.Time) {
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

func TestAClockThatRunsFarWrongGetsNoLease(t *testing.T) {
	for rate, ok := range map[float64]bool{1: true, 0.997: true, 1.003: true, 0.95: true, 1.05: true, 0.85: false, 1.15: false} {
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

// A clock outside the margin that all count on is made up for, once it has been noticed: the database's rate is the measure.
func TestClocksThatDriftBeyondTheMarginAreMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		fast, _ := d.nodeAt(1.05, keystore.Settings{})
		slow, f := d.nodeAt(0.95, keystore.Settings{})
		key, token := mint(t, fast, keystore.KeySpec{})
		time.Sleep(2 * time.Minute)
		revokeCutOff(t, fast, slow, f, key.ID, token)
	})
}

// What sets a computer's clock may slew it for minutes: the database's, and so all nodes would be without a lease.
func TestADatabaseClockThatIsSlewedCostsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := newDeployment(t).node(keystore.Settings{})
		_, token := mint(t, a, keystore.KeySpec{})
		time.Sleep(40 * time.Second)
		for range 120 {
			f.ahead.Add(int64(50 * time.Millisecond))
			time.Sleep(time.Second)
			want(t, "a live key", ask(a, token), keystore.OK)
		}
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
