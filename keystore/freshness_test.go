package keystore_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func TestAReadThatARevokeOvertakesIsNeitherKeptNorJoined(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, fb := d.node(keystore.Settings{})
	key, token := mint(t, a, keystore.KeySpec{})

	read, release := fb.holdOne()
	var early keystore.Outcome
	var wg sync.WaitGroup
	wg.Go(func() { early = ask(b, token) })
	<-read
	if p := revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	var late keystore.Outcome
	wg.Go(func() { late = ask(b, token) })
	for b.Stats().Lookups[keystore.TierLocal][keystore.Miss] < 2 { // the second request has come in
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if early != keystore.OK && early != keystore.Revoked { // it came before the revoke
		t.Errorf("the request under way: %v", early)
	}
	want(t, "a request sent after the revoke returned", late, keystore.Revoked)
	want(t, "the next one", ask(b, token), keystore.Revoked)
}

// The same without a request that comes later and loads the record anew.
func TestAReadThatARevokeOvertakesIsNotKept(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, fb := d.node(keystore.Settings{})
	key, token := mint(t, a, keystore.KeySpec{})
	read, release := fb.holdOne()
	var wg sync.WaitGroup
	wg.Go(func() { ask(b, token) })
	<-read
	if p := revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	close(release)
	wg.Wait()
	want(t, "after the revoke", ask(b, token), keystore.Revoked)
}

func TestRequestsForOneUnknownKeyShareOneQuery(t *testing.T) {
	d := newDeployment(t)
	a, f := d.node(keystore.Settings{})
	_, token := mint(t, a, keystore.KeySpec{})
	began, release := make(chan struct{}, 100), make(chan struct{})
	hold := func() { began <- struct{}{}; <-release }
	f.holding.Store(&hold)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { want(t, "a joined request", ask(a, token), keystore.OK) })
	}
	<-began
	for a.Stats().Lookups[keystore.TierLocal][keystore.Miss] < 50 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := f.loads.Load(); n > 2 {
		t.Errorf("%d queries", n)
	}
	want(t, "cached", ask(a, token), keystore.OK)
	if n := f.loads.Load(); n > 2 {
		t.Errorf("%d queries after a hit", n)
	}
}

func TestOutagesNeverOpenAndNeverTurnGoodKeysInto401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := newDeployment(t).node(keystore.Settings{Lease: 30 * time.Second})
		_, known := mint(t, a, keystore.KeySpec{})
		_, cold := mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(a, known), keystore.OK)
		loads := f.loads.Load()

		f.cut.Store(true)
		time.Sleep(20 * time.Second)
		want(t, "known key while the lease lasts", ask(a, known), keystore.OK)
		want(t, "unknown key at once", ask(a, cold), keystore.Unavailable)
		want(t, "forged key", ask(a, cold[:len(cold)-1]+"!"), keystore.Malformed)
		time.Sleep(11 * time.Second)
		want(t, "known key when the lease has run out", ask(a, known), keystore.Unavailable)
		want(t, "forged key", ask(a, cold[:len(cold)-1]+"!"), keystore.Malformed)
		if h := a.Health(context.Background()); h.Problem == "" {
			t.Error("healthy")
		}

		f.cut.Store(false)
		want(t, "known key when the database is back", ask(a, known), keystore.OK)
		if n := f.loads.Load() - loads; n > 2 {
			t.Errorf("%d queries: the cache was to be kept", n)
		}
		if h := a.Health(context.Background()); h.Problem != "" {
			t.Error(h.Problem)
		}
	})
}

func TestForgedTokensReachNoStore(t *testing.T) {
	d := newDeployment(t)
	a, f := d.node(keystore.Settings{TokenPrefixes: []string{"ak", "ak_old"}})
	other, _ := newDeployment(t).node(keystore.Settings{})
	_, foreign := mint(t, other, keystore.KeySpec{})
	for _, token := range []string{foreign, "ak_" + foreign, "ak_old_x", "x",
		"some-other-format-of-token", "akm_0123456789012345678901234567890123456789012345678901234567", "ak_é1234567890", ""} {
		want(t, "forged", ask(a, token), keystore.Malformed)
	}
	if n := f.loads.Load(); n != 0 {
		t.Errorf("%d queries", n)
	}
}

func TestImportedCredentials(t *testing.T) {
	d := newDeployment(t)
	a, fa := d.node(keystore.Settings{})
	b, _ := d.node(keystore.Settings{})
	const old = "sk.live/Old-Format:0123456789"
	want(t, "before any import", ask(b, old), keystore.Malformed)
	spec := keystore.ImportSpec{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}},
		Line: 1, Token: old}
	n, refused, err := a.ImportKeys(context.Background(), root, []keystore.ImportSpec{spec}, false,
		"")
	if err != nil || n != 1 || len(refused) != 0 {
		t.Fatal(n, refused, err)
	}
	want(t, "here", ask(a, old), keystore.OK)
	want(t, "on the other node", ask(b, old), keystore.OK)
	if _, refused, _ = a.ImportKeys(context.Background(), root, []keystore.ImportSpec{spec}, false,
		""); len(refused) != 1 || refused[0].Code != "already_used" {
		t.Errorf("a second time: %v", refused)
	}

	loads := fa.loads.Load()
	for range 100 {
		want(t, "unknown", ask(a, "sk.live/never-heard-of"), keystore.Unknown)
	}
	if n := fa.loads.Load() - loads; n > 2 {
		t.Errorf("%d queries for one unknown credential", n)
	}
	spec.Token = "sk.live/never-heard-of"
	if _, _, err := a.ImportKeys(context.Background(), root, []keystore.ImportSpec{spec}, false,
		""); err != nil {
		t.Fatal(err)
	}
	want(t, "imported after it had been unknown", ask(a, spec.Token), keystore.OK)
}

func TestLastUseIsWrittenWithinTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newDeployment(t).node(keystore.Settings{})
		key, token := mint(t, a, keystore.KeySpec{})
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
		found, err := a.FindKey(context.Background(), root, key.ID)
		if err != nil {
			t.Fatal(err)
		}
		if lost := last.Sub(found.LastUsedAt); lost > 10*time.Second {
			t.Errorf("%v are lost", lost)
		}
	})
}

func ExampleDecide() {
	key := &keystore.Key{ID: "k", Namespace: "acme", Owner: keystore.RootMember, Active: true,
		Secrets: []keystore.Secret{{Digest: keystore.DigestOf("a credential")}},
		Grants: []keystore.Grant{{Namespace: "acme",
			Permissions: []keystore.Permission{{Resource: "orders", Action: "read"}}}}}
	record := keystore.NewRecord(key, keystore.DigestOf("a credential"))
	policy := keystore.NewDirectory(&keystore.Policy{Namespaces: []keystore.Namespace{{ID: "acme"}}})
	for _, class := range []keystore.Class{keystore.Read, keystore.Write} {
		fmt.Println(keystore.Decide(record,
			&keystore.Request{Now: time.Now().UnixNano(), Policy: policy,
				Namespace: policy.Namespace("acme"),
				Need:      keystore.Need{Class: class, Resource: "orders"}}))
	}
	// Output:
	// ok
	// forbidden
}

// While one place is held by a load that hangs, requests that were given up hold none.
func TestGivenUpRequestsHoldNoPlaces(t *testing.T) {
	d := newDeployment(t)
	a, f := d.node(keystore.Settings{})
	const imported = "sk.live/Old-Format:0123456789"
	spec := keystore.ImportSpec{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}},
		Line: 1, Token: imported}
	if _, _, err := a.ImportKeys(ctx, root, []keystore.ImportSpec{spec}, false, ""); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	hold := func() { <-release }
	f.holding.Store(&hold)
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
	f.holding.Store(nil)
	close(release)
	want(t, "a good key", ask(a, imported), keystore.OK)
}
