package node_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// The database accepts connections and does not respond.
func TestHungDatabaseDelaysFewRequests(t *testing.T) {
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
		time.Sleep(3 * time.Second) // hanging queries time out
		fleet.Want(t, "cached key, when it responds again", fleet.Ask(a, known), keystore.OK)
		fleet.Want(t, "other key, when it responds again", fleet.Ask(a, cold), keystore.OK)
	})
}

// When an outage that affected all nodes is over, no node fences another, and caches are still
// valid.
func TestCommonOutageFencesNoNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, fa := d.Node(node.Settings{Lease: 10 * time.Second})
		b, fb := d.Node(node.Settings{Lease: 10 * time.Second})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		time.Sleep(20 * time.Second)
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		loads := fb.Loads.Load()
		fb.Cut.Store(true)
		time.Sleep(3 * time.Second) // the other node sees its last sign of life
		fa.Cut.Store(true)
		time.Sleep(25 * time.Second)
		fa.Cut.Store(false)
		if h := a.Health(context.Background()); h.Problem != "" {
			t.Fatal(h.Problem)
		}
		time.Sleep(3 * time.Second)
		fb.Cut.Store(false)
		time.Sleep(20 * time.Second)
		fleet.Want(t, "afterwards", fleet.Ask(b, token), keystore.OK)
		if n := fb.Loads.Load() - loads; n != 0 {
			t.Errorf("%d records were loaded again: the node was fenced", n)
		}
	})
}

// propagations records what Propagated reports.
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

// A change that removes access is observed once, when it is in force, however long its caller has
// waited.
func TestPropagationIsObservedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		observed := new(propagations)
		a, _ := d.NodeWith(observed, node.Settings{Lease: 10 * time.Second})
		_, fb := d.Node(node.Settings{Lease: 10 * time.Second})
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		if n := len(observed.seen()); n != 0 {
			t.Error("a mint was observed")
		}
		time.Sleep(10 * time.Second)
		fb.Mute.Store(true)
		if p := fleet.Revoke(t, a, key.ID, 2*time.Second); p.Complete {
			t.Fatalf("%+v", p)
		}
		time.Sleep(15 * time.Second)
		if all := observed.seen(); len(all) != 1 || all[0] < 5*time.Second ||
			all[0] > 11*time.Second {
			t.Errorf("observed %v with a lease of 10 s", all)
		}
		time.Sleep(time.Minute)
		if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete || p.Took > time.Second {
			t.Errorf("repeated: %+v", p)
		}
		if n := len(observed.seen()); n != 1 {
			t.Errorf("observed %d times", n)
		}
	})
}

// TestManyPropagationsAreObserved revokes more keys than a node watches without a caller. When
// those are complete, it can watch others.
func TestManyPropagationsAreObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		observed := new(propagations)
		a, _ := d.NodeWith(observed, node.Settings{Lease: 10 * time.Second})
		_, fb := d.Node(node.Settings{Lease: 10 * time.Second})
		for round := range 2 {
			time.Sleep(10 * time.Second)
			fb.Mute.Store(true)
			for range 20 {
				key, _ := fleet.Mint(t, a, manage.KeySpec{})
				if p := fleet.Revoke(t, a, key.ID, -1); p.Complete {
					t.Fatalf("%+v", p)
				}
			}
			fb.Mute.Store(false)
			time.Sleep(time.Minute)
			if n, want := len(observed.seen()), 16*(round+1); n != want {
				t.Errorf("%d changes were observed, want %d", n, want)
			}
		}
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete || len(observed.seen()) != 33 {
			t.Errorf("%d changes were observed after one with a caller", len(observed.seen()))
		}
	})
}

// TestHealthNamesProblem checks that Health tells failing lookups, an outage and an expired lease
// apart, and notices when each is over.
func TestHealthNamesProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{})
		_, cold := fleet.Mint(t, a, manage.KeySpec{})
		want := func(problem string) {
			t.Helper()
			if h := a.Health(ctx); (h.Problem == "") != (problem == "") ||
				!strings.Contains(h.Problem, problem) {
				t.Errorf("health: %q, want %q", h.Problem, problem)
			}
		}
		want("")
		if n := f.Loads.Load(); n != 0 {
			t.Errorf("%d lookups on a healthy node", n)
		}
		f.Stale.Store(new(fleet.StaleAnswer)) // of a former primary
		fleet.Want(t, "while lookups fail", fleet.Ask(a, cold), keystore.Unavailable)
		for range 3 {
			want("key lookups in the database fail")
		}
		f.Cut.Store(true)
		want("until the lease expires")
		time.Sleep(node.DefaultLease)
		want("the lease has expired")
		f.Cut.Store(false)
		want("key lookups in the database fail")
		f.Stale.Store(nil)
		want("")
	})
}
