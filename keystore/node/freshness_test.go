package node_test

import (
	"context"
	"fmt"
	"runtime"
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

func TestOvertakenLoadIsNeitherCachedNorJoined(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	key, token := fleet.Mint(t, a, manage.KeySpec{})
	b.Health(ctx) // applies the mint: it could not cache a newer record

	read, release := fb.HoldOne()
	var early keystore.Outcome
	var wg sync.WaitGroup
	wg.Go(func() { early = fleet.Ask(b, token) })
	<-read
	if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	var late keystore.Outcome
	wg.Go(func() { late = fleet.Ask(b, token) })
	for b.Stats().Lookups[node.TierLocal][node.Miss] < 2 { // the second request has arrived
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if early != keystore.OK && early != keystore.Revoked { // it arrived before the revoke
		t.Errorf("the early request: %v", early)
	}
	fleet.Want(t, "a request sent after the revoke returned", late, keystore.Revoked)
	fleet.Want(t, "the next one", fleet.Ask(b, token), keystore.Revoked)
}

// TestOvertakenLoadIsNotCached has no later request that loads the record again.
func TestOvertakenLoadIsNotCached(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	key, token := fleet.Mint(t, a, manage.KeySpec{})
	b.Health(ctx) // applies the mint: it could not cache a newer record

	read, release := fb.HoldOne()
	var wg sync.WaitGroup
	wg.Go(func() { fleet.Ask(b, token) })
	<-read
	if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	close(release)
	wg.Wait()
	fleet.Want(t, "after the revoke", fleet.Ask(b, token), keystore.Revoked)
}

// TestOvertakenQueuedLoadIsNotJoined checks that a request which arrives while the second load runs
// does not get a record from before a change.
func TestOvertakenQueuedLoadIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		b.Health(ctx)
		turn := make(chan struct{})
		hold := func() { <-turn }
		fb.Holding.Store(&hold)
		var wg sync.WaitGroup
		var outcomes [3]keystore.Outcome
		ask := func(i int) {
			wg.Go(func() { outcomes[i] = fleet.Ask(b, token) })
			synctest.Wait() // it has read its record, or waits for another load
		}
		name := "renamed"
		ask(0)
		if _, p, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: &name},
			manage.ChangeOptions{}); err != nil || !p.Complete {
			t.Fatal(p, err)
		}
		ask(1)
		turn <- struct{}{}
		synctest.Wait() // the second load has read
		if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete {
			t.Fatalf("%+v", p)
		}
		ask(2)
		close(turn)
		wg.Wait()
		fleet.Want(t, "a request sent after the revoke returned", outcomes[2], keystore.Revoked)
		fleet.Want(t, "the next one", fleet.Ask(b, token), keystore.Revoked)
	})
}

// TestSlotsAreReturned checks that credentials without a tag can still be loaded after many
// requests have waited for a few loads.
func TestSlotsAreReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{})
		imported := []manage.ImportSpec{readImport("legacy/first"), readImport("legacy/second")}
		if _, _, err := a.ImportKeys(ctx, fleet.Root, imported, false, nil); err != nil {
			t.Fatal(err)
		}
		a.Health(ctx)
		release := make(chan struct{})
		hold := func() { <-release }
		f.Holding.Store(&hold)
		var wg sync.WaitGroup
		ask := func(n int, credential func(i int) string, want keystore.Outcome) {
			for i := range n {
				wg.Go(func() { fleet.Want(t, "held", fleet.Ask(a, credential(i)), want) })
			}
			synctest.Wait()
		}
		// They join one load.
		ask(200, func(int) string { return imported[0].Token }, keystore.OK)
		// These occupy all slots, so that the last ones wait for a slot.
		ask(100, func(i int) string { return fmt.Sprint("legacy/junk-", i) }, keystore.Unknown)
		ask(200, func(int) string { return imported[1].Token }, keystore.OK)
		close(release)
		wg.Wait()
		// As many loads as before run at a time.
		release = make(chan struct{})
		loads := f.Loads.Load()
		ask(100, func(i int) string { return fmt.Sprint("legacy/more-", i) }, keystore.Unknown)
		if n := f.Loads.Load() - loads; n != 6 {
			t.Errorf("%d loads at a time", n)
		}
		close(release)
		wg.Wait()
	})
}

// TestJoinedLoadOfLostRecord checks that a request does not get a record that was lost before the
// request arrived, although it joins a load that has read the record.
func TestJoinedLoadOfLostRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, f := d.Node(node.Settings{})
		_, token := fleet.Mint(t, a, manage.KeySpec{Inactive: true})
		applied := a.Health(ctx).Revision
		f.Mute.Store(true) // it does not notice
		d.Tamper("UPDATE keys SET active = 1, version = version + 1")
		read, release := f.HoldOne()
		var early, late keystore.Outcome
		var wg sync.WaitGroup
		wg.Go(func() { early = fleet.Ask(a, token) })
		<-read
		d.Lose(applied, "UPDATE keys SET active = 0")
		wg.Go(func() { late = fleet.Ask(a, token) })
		synctest.Wait()
		close(release)
		wg.Wait()
		fleet.Want(t, "a request that arrived while it was active", early, keystore.OK)
		fleet.Want(t, "a request that arrived afterwards", late, keystore.Inactive)
		f.Mute.Store(false)
	})
}

// TestFailedLoadIsNotCached checks that a credential is not taken for unknown after a failure.
func TestFailedLoadIsNotCached(t *testing.T) {
	a, f := fleet.New(t).Node(node.Settings{})
	_, token := fleet.Mint(t, a, manage.KeySpec{})
	f.Stale.Store(new(fleet.StaleAnswer)) // of a former primary
	for range 3 {
		fleet.Want(t, "while loads fail", fleet.Ask(a, token), keystore.Unavailable)
	}
	f.Stale.Store(nil)
	fleet.Want(t, "afterwards", fleet.Ask(a, token), keystore.OK)
}

func TestRequestsForOneKeyShareOneQuery(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{})
	_, token := fleet.Mint(t, a, manage.KeySpec{})
	began, release := make(chan struct{}, 100), make(chan struct{})
	hold := func() { began <- struct{}{}; <-release }
	f.Holding.Store(&hold)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { fleet.Want(t, "a joined request", fleet.Ask(a, token), keystore.OK) })
	}
	<-began
	for a.Stats().Lookups[node.TierLocal][node.Miss] < 50 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := f.Loads.Load(); n > 2 {
		t.Errorf("%d queries", n)
	}
	fleet.Want(t, "cached", fleet.Ask(a, token), keystore.OK)
	if n := f.Loads.Load(); n > 2 {
		t.Errorf("%d queries after a hit", n)
	}
}

func TestOutageAnswersUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{Lease: 30 * time.Second})
		_, known := fleet.Mint(t, a, manage.KeySpec{})
		_, cold := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(a, known), keystore.OK)
		loads := f.Loads.Load()

		f.Cut.Store(true)
		time.Sleep(20 * time.Second)
		fleet.Want(t, "cached key during the lease", fleet.Ask(a, known), keystore.OK)
		fleet.Want(t, "other key during the lease", fleet.Ask(a, cold), keystore.Unavailable)
		fleet.Want(t, "forged key", fleet.Ask(a, cold[:len(cold)-1]+"!"), keystore.Malformed)
		time.Sleep(11 * time.Second)
		fleet.Want(t, "cached key after the lease", fleet.Ask(a, known),
			keystore.Unavailable)
		fleet.Want(t, "forged key", fleet.Ask(a, cold[:len(cold)-1]+"!"), keystore.Malformed)
		if h := a.Health(context.Background()); h.Problem == "" {
			t.Error("healthy")
		}

		f.Cut.Store(false)
		fleet.Want(t, "cached key after the outage", fleet.Ask(a, known), keystore.OK)
		if n := f.Loads.Load() - loads; n > 2 {
			t.Errorf("%d queries: the cache was dropped", n)
		}
		if h := a.Health(context.Background()); h.Problem != "" {
			t.Error(h.Problem)
		}
	})
}

func TestForgedTokensCauseNoQuery(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{TokenPrefixes: []string{"ak", "ak_old"}})
	other, _ := fleet.New(t).Node(node.Settings{})
	_, foreign := fleet.Mint(t, other, manage.KeySpec{})
	for _, token := range []string{
		foreign, "ak_" + foreign, "ak_old_x", "x", "some-other-format-of-token",
		"akm_" + strings.Repeat("0123456789", 5) + "01234567", "ak_é1234567890", "",
	} {
		fleet.Want(t, "forged", fleet.Ask(a, token), keystore.Malformed)
	}
	if n := f.Loads.Load(); n != 0 {
		t.Errorf("%d queries", n)
	}
}

func TestImportedCredentials(t *testing.T) {
	d := fleet.New(t)
	a, fa := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	const old = "sk.live/Old-Format:0123456789"
	fleet.Want(t, "before any import", fleet.Ask(b, old), keystore.Malformed)
	spec := readImport(old)
	n, refused, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{spec}, false, nil)
	if err != nil || n != 1 || len(refused) != 0 {
		t.Fatal(n, refused, err)
	}
	fleet.Want(t, "here", fleet.Ask(a, old), keystore.OK)
	fleet.Want(t, "on the other node", fleet.Ask(b, old), keystore.OK)
	_, refused, _ = a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{spec}, false, nil)
	if len(refused) != 1 || refused[0].Code != "already_used" {
		t.Errorf("a second time: %v", refused)
	}

	loads := fa.Loads.Load()
	for range 100 {
		fleet.Want(t, "unknown", fleet.Ask(a, "sk.live/never-seen"), keystore.Unknown)
	}
	if n := fa.Loads.Load() - loads; n > 2 {
		t.Errorf("%d queries for one unknown credential", n)
	}
	spec.Token = "sk.live/never-seen"
	if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{spec}, false,
		nil); err != nil {
		t.Fatal(err)
	}
	fleet.Want(t, "imported after a lookup", fleet.Ask(a, spec.Token), keystore.OK)
}

// TestImportOvertakesLoad imports many keys while another node has looked up one of them and not
// found it. When the import returns, that key is valid there.
func TestImportOvertakesLoad(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	first := readImport("legacy/first")
	if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{first}, false,
		nil); err != nil {
		t.Fatal(err)
	}
	var specs []manage.ImportSpec
	for i := range 300 { // the change log does not list so many keys
		specs = append(specs, readImport(fmt.Sprint("legacy/", i)))
	}
	b.Health(ctx)
	read, release := fb.HoldOne()
	answered := make(chan keystore.Outcome)
	go func() { answered <- fleet.Ask(b, specs[7].Token) }()
	<-read
	if _, _, err := a.ImportKeys(ctx, fleet.Root, specs, false, nil); err != nil {
		t.Fatal(err)
	}
	close(release)
	<-answered
	fleet.Want(t, "when the import has returned", fleet.Ask(b, specs[7].Token), keystore.OK)
}

// readImport returns an import of a credential that may read.
func readImport(credential string) manage.ImportSpec {
	return manage.ImportSpec{
		KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		Line:    1, Token: credential,
	}
}

// TestCancelledRequestsOccupyNoSlots cancels requests while a hanging load occupies one slot.
func TestCancelledRequestsOccupyNoSlots(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{})
	const imported = "sk.live/Old-Format:0123456789"
	spec := readImport(imported)
	if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{spec}, false,
		nil); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	hold := func() { <-release }
	f.Holding.Store(&hold)
	before := runtime.NumGoroutine()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for i := range 5000 {
		credential := fmt.Sprintf("sk.live/junk-%d", i)
		if _, err := a.Lookup(cancelled, credential, time.Now()); err == nil {
			t.Fatal("a cancelled lookup succeeds")
		}
	}
	// as many as there are slots, and those of other tests and of the node
	if n := runtime.NumGoroutine() - before; n > 500 {
		t.Errorf("%d goroutines", n)
	}
	f.Holding.Store(nil)
	close(release)
	fleet.Want(t, "a valid key", fleet.Ask(a, imported), keystore.OK)
}
