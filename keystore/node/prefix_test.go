package node_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestPrefixNoLongerAccepted checks that a change of the accepted prefixes affects all keys at
// once, cached or not, with and without imported keys. The former prefix may begin with the new one.
func TestPrefixNoLongerAccepted(t *testing.T) {
	for old, imports := range map[string]bool{"old": false, "older": true, "new_old": false} {
		k, _ := fleet.New(t).Node(node.Settings{TokenPrefixes: []string{old}})
		_, cached := fleet.Mint(t, k, manage.KeySpec{})
		_, cold := fleet.Mint(t, k, manage.KeySpec{})
		foreign := "sk_live_0123456789abcdef"
		if imports {
			_, _, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
				KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
				Token:   foreign,
			}}, false, nil)
			if err != nil {
				t.Fatal(err)
			}
		}
		outcome := func(credential string) keystore.Outcome {
			t.Helper()
			a, err := k.Lookup(ctx, credential, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return a.Outcome
		}
		fleet.Want(t, "before", outcome(cached), keystore.OK)

		k.Configure(node.Settings{TokenPrefixes: []string{"new"}})
		loads := k.Stats().Lookups[node.TierDatabase]
		fleet.Want(t, "cached", outcome(cached), keystore.Malformed)
		fleet.Want(t, "not cached", outcome(cold), keystore.Malformed)
		if now := k.Stats().Lookups[node.TierDatabase]; now != loads {
			t.Error("the database was queried")
		}
		if k.Foreign(cached) || !k.Foreign(foreign) || k.Foreign("new_x") {
			t.Error("Foreign is true for a token of this deployment, or false for a foreign one")
		}
		if !k.Abandoned(cached) || k.Abandoned(foreign) {
			t.Error("Abandoned is false for a token of this deployment, or true for a foreign one")
		}
		if imports {
			fleet.Want(t, "imported", outcome(foreign), keystore.OK)
		}

		k.Configure(node.Settings{TokenPrefixes: []string{"new", old}})
		fleet.Want(t, "cached, accepted again", outcome(cached), keystore.OK)
		fleet.Want(t, "not cached, accepted again", outcome(cold), keystore.OK)
	}
}

// TestImportedTokenOfAnotherDeployment imports a token that another deployment has created, with a
// prefix that is not accepted here.
func TestImportedTokenOfAnotherDeployment(t *testing.T) {
	other, _ := fleet.New(t).Node(node.Settings{TokenPrefixes: []string{"theirs"}})
	_, token := fleet.Mint(t, other, manage.KeySpec{})
	k, _ := fleet.New(t).Node(node.Settings{})
	if !k.Foreign(token) {
		t.Error("the token is not foreign")
	}
	if _, refused, err := k.ImportKeys(ctx, fleet.Root,
		[]manage.ImportSpec{readImport(token)}, false, nil); err != nil || len(refused) != 0 {
		t.Fatal(refused, err)
	}
	fleet.Want(t, "imported", fleet.Ask(k, token), keystore.OK)
}

// TestImportedTokenOfThisDeployment imports the digest of a token that this deployment has
// created, so the key has another id than the token.
func TestImportedTokenOfThisDeployment(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{TokenPrefixes: []string{"old"}})
	token := k.TokenKey().Generate("old", keystore.NewID()).Reveal() // as in a lost database
	spec := readImport("")
	spec.Digest = keystore.DigestOf(token)
	if _, refused, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{spec}, false,
		nil); err != nil || len(refused) != 0 {
		t.Fatal(refused, err)
	}
	for range 2 { // the second time it is cached
		fleet.Want(t, "imported", fleet.Ask(k, token), keystore.OK)
	}
	k.Configure(node.Settings{TokenPrefixes: []string{"new"}})
	fleet.Want(t, "no longer accepted", fleet.Ask(k, token), keystore.Malformed)
}

// TestImportOfAbandonedPrefix imports a token that requests could not use.
func TestImportOfAbandonedPrefix(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{TokenPrefixes: []string{"old"}})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	k.Configure(node.Settings{TokenPrefixes: []string{"new"}})
	_, refused, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}, Token: token,
	}}, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(refused) != 1 || !strings.Contains(refused[0].Detail, "old") {
		t.Errorf("refused: %v", refused)
	}
}

// TestOtherPrefixes counts live keys by prefixes that settings do not accept.
func TestOtherPrefixes(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{TokenPrefixes: []string{"b"}})
	settings := func(prefixes ...string) node.Settings {
		return node.Settings{TokenPrefixes: prefixes}
	}
	counted := func(s node.Settings) map[string]int64 {
		t.Helper()
		list, err := k.OtherPrefixes(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		counts := make(map[string]int64)
		for _, p := range list {
			counts[p.Prefix] = p.Keys
		}
		return counts
	}
	wantCounts := func(name string, got map[string]int64, want map[string]int64) {
		t.Helper()
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		for p, n := range want {
			if got[p] != n {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	}
	revoked, _ := fleet.Mint(t, k, manage.KeySpec{})
	fleet.Mint(t, k, manage.KeySpec{})
	fleet.Mint(t, k, manage.KeySpec{ExpiresAt: k.Now().Add(time.Hour)})
	if _, _, err := k.RevokeKey(ctx, fleet.Root, revoked.ID, "", false,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	_, _, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		Token:   "sk_live_0123456789abcdef",
	}}, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	k.Configure(settings("d"))
	rotated, _ := fleet.Mint(t, k, manage.KeySpec{})
	fleet.Mint(t, k, manage.KeySpec{Inactive: true})
	wantCounts("b accepted", counted(settings("b")), map[string]int64{"d": 2})
	wantCounts("both accepted", counted(settings("d", "b")), nil)
	wantCounts("a prefix in between", counted(settings("c")), map[string]int64{"b": 2, "d": 2})
	wantCounts("earlier prefixes", counted(settings("a", "b0")), map[string]int64{"b": 2, "d": 2})
	k.Configure(settings("b"))
	if _, _, _, err := k.RotateKey(ctx, fleet.Root, rotated.ID, 0,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	if n, err := k.CountRefused(ctx); n != 1 || err != nil {
		t.Errorf("%d keys are refused, %v", n, err)
	}
	wantCounts("rotated", counted(settings("b")), map[string]int64{"d": 1})
}

// TestPrefixesWhileReloading: a token of this deployment that neither the settings before a reload
// nor those after it accept is refused while they change, and no such token is foreign.
func TestPrefixesWhileReloading(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{TokenPrefixes: []string{"old_longer"}})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	fleet.Want(t, "before", fleet.Ask(k, token), keystore.OK)
	during := func(before, after string, check func()) {
		k.Configure(node.Settings{TokenPrefixes: []string{before}})
		var reloaded atomic.Bool
		go func() {
			for range 200 {
				k.Configure(node.Settings{TokenPrefixes: []string{after}})
				k.Configure(node.Settings{TokenPrefixes: []string{before}})
			}
			reloaded.Store(true)
		}()
		for !reloaded.Load() {
			check()
		}
	}
	during("old", "new", func() {
		if outcome := fleet.Ask(k, token); outcome != keystore.Malformed {
			t.Error(outcome)
		}
	})
	during("old_longer", "new", func() {
		if k.Foreign(token) {
			t.Error("the token is foreign")
		}
	})
}
