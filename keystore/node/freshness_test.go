package node_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func TestAReadThatARevokeOvertakesIsNeitherKeptNorJoined(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	key, token := fleet.Mint(t, a, manage.KeySpec{})

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
	for b.Stats().Lookups[node.TierLocal][node.Miss] < 2 { // the second request has come in
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if early != keystore.OK && early != keystore.Revoked { // it came before the revoke
		t.Errorf("the request under way: %v", early)
	}
	fleet.Want(t, "a request sent after the revoke returned", late, keystore.Revoked)
	fleet.Want(t, "the next one", fleet.Ask(b, token), keystore.Revoked)
}

// The same without a request that comes later and loads the record anew.
func TestAReadThatARevokeOvertakesIsNotKept(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, fb := d.Node(node.Settings{})
	key, token := fleet.Mint(t, a, manage.KeySpec{})
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

func TestRequestsForOneUnknownKeyShareOneQuery(t *testing.T) {
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

func TestOutagesNeverOpenAndNeverTurnGoodKeysInto401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := fleet.New(t).Node(node.Settings{Lease: 30 * time.Second})
		_, known := fleet.Mint(t, a, manage.KeySpec{})
		_, cold := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(a, known), keystore.OK)
		loads := f.Loads.Load()

		f.Cut.Store(true)
		time.Sleep(20 * time.Second)
		fleet.Want(t, "known key while the lease lasts", fleet.Ask(a, known), keystore.OK)
		fleet.Want(t, "unknown key at once", fleet.Ask(a, cold), keystore.Unavailable)
		fleet.Want(t, "forged key", fleet.Ask(a, cold[:len(cold)-1]+"!"), keystore.Malformed)
		time.Sleep(11 * time.Second)
		fleet.Want(t, "known key when the lease has run out", fleet.Ask(a, known),
			keystore.Unavailable)
		fleet.Want(t, "forged key", fleet.Ask(a, cold[:len(cold)-1]+"!"), keystore.Malformed)
		if h := a.Health(context.Background()); h.Problem == "" {
			t.Error("healthy")
		}

		f.Cut.Store(false)
		fleet.Want(t, "known key when the database is back", fleet.Ask(a, known), keystore.OK)
		if n := f.Loads.Load() - loads; n > 2 {
			t.Errorf("%d queries: the cache was to be kept", n)
		}
		if h := a.Health(context.Background()); h.Problem != "" {
			t.Error(h.Problem)
		}
	})
}

func TestForgedTokensReachNoStore(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{TokenPrefixes: []string{"ak", "ak_old"}})
	other, _ := fleet.New(t).Node(node.Settings{})
	_, foreign := fleet.Mint(t, other, manage.KeySpec{})
	for _, token := range []string{foreign, "ak_" + foreign, "ak_old_x", "x",
		"some-other-format-of-token", "akm_0123456789012345678901234567890123456789012345678901234567", "ak_é1234567890", ""} {
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
	spec := manage.ImportSpec{KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		Line: 1, Token: old}
	n, refused,
		err := a.ImportKeys(context.Background(), fleet.Root, []manage.ImportSpec{spec}, false,
		"")
	if err != nil || n != 1 || len(refused) != 0 {
		t.Fatal(n, refused, err)
	}
	fleet.Want(t, "here", fleet.Ask(a, old), keystore.OK)
	fleet.Want(t, "on the other node", fleet.Ask(b, old), keystore.OK)
	if _, refused,
		_ = a.ImportKeys(context.Background(), fleet.Root, []manage.ImportSpec{spec}, false,
		""); len(refused) != 1 || refused[0].Code != "already_used" {
		t.Errorf("a second time: %v", refused)
	}

	loads := fa.Loads.Load()
	for range 100 {
		fleet.Want(t, "unknown", fleet.Ask(a, "sk.live/never-heard-of"), keystore.Unknown)
	}
	if n := fa.Loads.Load() - loads; n > 2 {
		t.Errorf("%d queries for one unknown credential", n)
	}
	spec.Token = "sk.live/never-heard-of"
	if _, _, err := a.ImportKeys(context.Background(), fleet.Root, []manage.ImportSpec{spec}, false,
		""); err != nil {
		t.Fatal(err)
	}
	fleet.Want(t, "imported after it had been unknown", fleet.Ask(a, spec.Token), keystore.OK)
}

func TestLastUseIsWrittenWithinTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := fleet.New(t).Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		answer, err := a.Lookup(context.Background(), token, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var last time.Time
		for range 200 {
			last = time.Now()
			a.Used(answer.Record, last.UnixNano())
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(4 * time.Second)
		found, err := a.FindKey(context.Background(), fleet.Root, key.ID)
		if err != nil {
			t.Fatal(err)
		}
		if lost := last.Sub(found.LastUsedAt); lost > 10*time.Second {
			t.Errorf("%v are lost", lost)
		}
	})
}

// While one place is held by a load that hangs, requests that were given up hold none.
func TestGivenUpRequestsHoldNoPlaces(t *testing.T) {
	d := fleet.New(t)
	a, f := d.Node(node.Settings{})
	const imported = "sk.live/Old-Format:0123456789"
	spec := manage.ImportSpec{KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		Line: 1, Token: imported}
	if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{spec}, false,
		""); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	hold := func() { <-release }
	f.Holding.Store(&hold)
	before := runtime.NumGoroutine()
	given, cancel := context.WithCancel(ctx)
	cancel()
	for i := range 5000 {
		if _, err := a.Lookup(given, fmt.Sprintf("sk.live/junk-%d", i), time.Now()); err == nil {
			t.Fatal("answered")
		}
	}
	if n := runtime.NumGoroutine() - before; n > 70 {
		t.Errorf("%d goroutines", n)
	}
	f.Holding.Store(nil)
	close(release)
	fleet.Want(t, "a good key", fleet.Ask(a, imported), keystore.OK)
}
