package keystore_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A database that takes connections and answers nothing keeps nobody waiting for long.
func TestAHungDatabaseKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := newDeployment(t).node(keystore.Settings{Lease: 10 * time.Second})
		_, known := mint(t, a, keystore.KeySpec{})
		_, cold := mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(a, known), keystore.OK)
		f.hangs.Store(true)
		time.Sleep(30 * time.Second)
		var slow sync.Map
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				begun := time.Now()
				token := known
				if i%2 == 0 {
					token = cold
				}
				want(t, "while it hangs", ask(a, token), keystore.Unavailable)
				if time.Since(begun) > time.Second {
					slow.Store(i, time.Since(begun))
				}
			})
		}
		wg.Wait()
		n := 0
		slow.Range(func(any, any) bool { n++; return true })
		if n > 20 {
			t.Errorf("%d of 100 requests waited for more than a second", n)
		}
		f.hangs.Store(false)
		time.Sleep(3 * time.Second) // what hangs has to give up
		want(t, "known, when it is back", ask(a, known), keystore.OK)
		want(t, "cold, when it is back", ask(a, cold), keystore.OK)
	})
}

// An outage for all is nobody's silence: none gives another up when it is over, and what was cached
// is still good.
func TestNodesThatLostTheDatabaseTogetherGiveNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, fa := d.node(keystore.Settings{Lease: 10 * time.Second})
		b, fb := d.node(keystore.Settings{Lease: 10 * time.Second})
		_, token := mint(t, a, keystore.KeySpec{})
		time.Sleep(20 * time.Second)
		want(t, "before", ask(b, token), keystore.OK)
		loads := fb.loads.Load()
		fa.cut.Store(true)
		fb.cut.Store(true)
		time.Sleep(25 * time.Second)
		fa.cut.Store(false) // the first that is back
		if h := a.Health(context.Background()); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		time.Sleep(3 * time.Second)
		fb.cut.Store(false)
		time.Sleep(20 * time.Second)
		want(t, "afterwards", ask(b, token), keystore.OK)
		if n := fb.loads.Load() - loads; n != 0 {
			t.Errorf("%d records were read anew: the node had been given up", n)
		}
	})
}

// propagations counts what is measured.
type propagations struct {
	observer
	mu  sync.Mutex
	all []time.Duration
}

func (p *propagations) Propagated(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, took)
}

func (p *propagations) seen() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Duration{}, p.all...)
}

// What takes access away is measured once, until it is in force, however long whoever asked has
// waited.
func TestEveryTakingIsMeasuredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		measured := new(propagations)
		a, _ := d.nodeWith(measured, 0, keystore.Settings{Lease: 10 * time.Second})
		_, fb := d.node(keystore.Settings{Lease: 10 * time.Second})
		key, _ := mint(t, a, keystore.KeySpec{})
		if n := len(measured.seen()); n != 0 {
			t.Errorf("a mint was measured")
		}
		time.Sleep(10 * time.Second)
		fb.mute.Store(true)
		if p := revoke(t, a, key.ID, 2*time.Second); p.Complete {
			t.Fatalf("%+v", p)
		}
		time.Sleep(15 * time.Second)
		if all := measured.seen(); len(all) != 1 || all[0] < 5*time.Second ||
			all[0] > 11*time.Second {
			t.Errorf("measured %v, with a lease of 10 s", all)
		}
		time.Sleep(time.Minute)
		if p := revoke(t, a, key.ID, 0); !p.Complete || p.Took > time.Second {
			t.Errorf("asked again: %+v", p)
		}
		if n := len(measured.seen()); n != 1 {
			t.Errorf("measured %d times", n)
		}
	})
}
