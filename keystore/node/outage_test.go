package node_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A database that takes connections and answers nothing keeps nobody waiting for long.
func TestAHungDatabaseKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{Lease: 10 * time.Second})
		_, known := fleet.Mint(t, a, manage.KeySpec{})
		_, cold := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(a, known), keystore.OK)
		f.Hangs.Store(true)
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
				fleet.Want(t, "while it hangs", fleet.Ask(a, token), keystore.Unavailable)
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
		f.Hangs.Store(false)
		time.Sleep(3 * time.Second) // what hangs has to give up
		fleet.Want(t, "known, when it is back", fleet.Ask(a, known), keystore.OK)
		fleet.Want(t, "cold, when it is back", fleet.Ask(a, cold), keystore.OK)
	})
}

// An outage for all is nobody's silence: none gives another up when it is over, and what was cached
// is still good.
func TestNodesThatLostTheDatabaseTogetherGiveNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{Lease: 10 * time.Second})
		b, fb := d.Node(node.Settings{Lease: 10 * time.Second})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(20 * time.Second)
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		loads := fb.Loads.Load()
		fa.Cut.Store(true)
		fb.Cut.Store(true)
		time.Sleep(25 * time.Second)
		fa.Cut.Store(false) // the first that is back
		if h := a.Health(context.Background()); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		time.Sleep(3 * time.Second)
		fb.Cut.Store(false)
		time.Sleep(20 * time.Second)
		fleet.Want(t, "afterwards", fleet.Ask(b, token), keystore.OK)
		if n := fb.Loads.Load() - loads; n != 0 {
			t.Errorf("%d records were read anew: the node had been given up", n)
		}
	})
}

// propagations counts what is measured.
type propagations struct {
	fleet.Observer
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
		d := fleet.New(t)
		measured := new(propagations)
		a, _ := d.NodeWith(measured, node.Settings{Lease: 10 * time.Second})
		_, fb := d.Node(node.Settings{Lease: 10 * time.Second})
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		if n := len(measured.seen()); n != 0 {
			t.Errorf("a mint was measured")
		}
		time.Sleep(10 * time.Second)
		fb.Mute.Store(true)
		if p := fleet.Revoke(t, a, key.ID, 2*time.Second); p.Complete {
			t.Fatalf("%+v", p)
		}
		time.Sleep(15 * time.Second)
		if all := measured.seen(); len(all) != 1 || all[0] < 5*time.Second ||
			all[0] > 11*time.Second {
			t.Errorf("measured %v, with a lease of 10 s", all)
		}
		time.Sleep(time.Minute)
		if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete || p.Took > time.Second {
			t.Errorf("asked again: %+v", p)
		}
		if n := len(measured.seen()); n != 1 {
			t.Errorf("measured %d times", n)
		}
	})
}
