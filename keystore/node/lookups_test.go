package node_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestForgedTokensCountInNoTier checks that forged tokens are not looked up. Credentials that may
// have been imported are looked up after the first import.
func TestForgedTokensCountInNoTier(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	forged := strings.TrimSuffix(token, token[len(token)-1:]) + "0"
	if forged == token {
		forged = strings.TrimSuffix(token, "0") + "1"
	}
	outcome := func(credential string) keystore.Outcome {
		t.Helper()
		a, err := k.Lookup(ctx, credential, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return a.Outcome
	}
	before := k.Stats().Lookups
	impossible := []string{
		forged, "ak_", "ak_too-short-for-a-token", "akm_" + token[3:],
		strings.Repeat("é", 20), "with a space in it", "",
	}
	for _, credential := range append(impossible, "nobody-has-imported-anything") {
		if o := outcome(credential); o != keystore.Malformed {
			t.Errorf("%q is %v", credential, o)
		}
	}
	if now := k.Stats().Lookups; now != before {
		t.Errorf("forged tokens are counted: %v, before %v", now, before)
	}

	if _, _, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		Token:   "imported-0123456789",
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	before = k.Stats().Lookups
	for _, credential := range impossible {
		if o := outcome(credential); o != keystore.Malformed {
			t.Errorf("%q is %v", credential, o)
		}
	}
	if now := k.Stats().Lookups; now != before {
		t.Errorf("forged tokens are counted after an import: %v, before %v", now, before)
	}
	fleet.Want(t, "not imported", outcome("not-imported-0123456789"), keystore.Unknown)
	fleet.Want(t, "not imported, again", outcome("not-imported-0123456789"), keystore.Unknown)
	before[node.TierLocal][node.Miss]++
	before[node.TierNegative][node.Miss]++
	before[node.TierDatabase][node.Miss]++
	before[node.TierNegative][node.Hit]++
	if now := k.Stats().Lookups; now != before {
		t.Errorf("lookups of a credential that may have been imported: %v, want %v", now, before)
	}
}

// TestMemberLookups checks that a member's token and login are found by the lookups for members
// only, and that a lookup under no lease fails.
func TestMemberLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := fleet.New(t).Node(node.Settings{Lease: 10 * time.Second})
		m, err := k.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada", Login: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		_, issued, _, err := k.NewMemberToken(ctx, fleet.Root, m.ID, manage.TokenSpec{},
			manage.ChangeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		token := issued.Reveal()
		_, key := fleet.Mint(t, k, manage.KeySpec{})
		forged := token[:len(token)-1] + "0"
		if forged == token {
			forged = token[:len(token)-1] + "1"
		}
		digest := keystore.DigestOf
		stranger, _ := fleet.New(t).Node(node.Settings{})
		their, err := stranger.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Eve"})
		if err != nil {
			t.Fatal(err)
		}
		_, foreign, _, err := stranger.NewMemberToken(ctx, fleet.Root, their.ID,
			manage.TokenSpec{}, manage.ChangeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for what, c := range map[string]struct {
			lookup func() (node.Answer, error)
			want   keystore.Outcome
			owner  string
		}{
			"a member's token": {func() (node.Answer, error) {
				return k.LookupMember(ctx, token, time.Now())
			}, keystore.OK, m.ID},
			"its digest": {func() (node.Answer, error) {
				return k.LookupMemberDigest(ctx, digest(token), time.Now())
			}, keystore.OK, m.ID},
			"a forged one": {func() (node.Answer, error) {
				return k.LookupMember(ctx, forged, time.Now())
			}, keystore.Malformed, ""},
			"one of another deployment": {func() (node.Answer, error) {
				return k.LookupMember(ctx, foreign.Reveal(), time.Now())
			}, keystore.Malformed, ""},
			"a key's token": {func() (node.Answer, error) {
				return k.LookupMember(ctx, key, time.Now())
			}, keystore.Malformed, ""},
			"a key's digest": {func() (node.Answer, error) {
				return k.LookupMemberDigest(ctx, digest(key), time.Now())
			}, keystore.Malformed, ""},
			"a member's token in place of a key's": {func() (node.Answer, error) {
				return k.Lookup(ctx, token, time.Now())
			}, keystore.Malformed, ""},
		} {
			for range 2 { // loaded and cached
				a, err := c.lookup()
				if err != nil || a.Outcome != c.want || (a.Record != nil) != (c.owner != "") ||
					a.Record != nil && a.Record.Owner != c.owner {
					t.Errorf("%s: %+v, %v", what, a, err)
				}
			}
		}
		for login, want := range map[string]string{"ada": m.ID, "Ada": "", "": ""} {
			found, err := k.LookupLogin(ctx, login, nil, time.Now())
			if err != nil || (len(found) > 0) != (want != "") ||
				len(found) > 0 && found[0].ID != want {
				t.Errorf("login %q: %+v, %v", login, found, err)
			}
		}
		f.Cut.Store(true)
		time.Sleep(11 * time.Second)
		if found, err := k.LookupLogin(ctx, "ada", nil, time.Now()); err == nil {
			t.Errorf("without a lease: %+v", found)
		}
		if a, err := k.LookupMember(ctx, token, time.Now()); err == nil {
			t.Errorf("without a lease: %+v", a)
		}
		f.Cut.Store(false)
	})
}

// TestLookupLoginUnderLease checks that a login is found under a lease while the database hangs.
func TestLookupLoginUnderLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := fleet.New(t).Node(node.Settings{})
		m, err := k.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada", Login: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		f.Hangs.Store(true)
		for range 20 {
			time.Sleep(time.Second)
			found, err := k.LookupLogin(ctx, "ada", nil, time.Now())
			if err != nil || len(found) != 1 || found[0].ID != m.ID {
				t.Fatal(found, err)
			}
		}
		f.Hangs.Store(false)
	})
}

// TestLookupUsesTimeOfItsRenewal lets a lookup renew the lease, and so learn that a key expired
// while the node had no lease.
func TestLookupUsesTimeOfItsRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := fleet.New(t).Node(node.Settings{})
		_, token := fleet.Mint(t, k, manage.KeySpec{ExpiresAt: k.Now().Add(30 * time.Minute)})
		fleet.Want(t, "before", fleet.Ask(k, token), keystore.OK)
		f.Ahead.Store(int64(time.Hour))
		k.Health(ctx)
		fleet.Want(t, "when the clock was set", fleet.Ask(k, token), keystore.OK)
		f.Mute.Store(true)
		time.Sleep(2 * time.Minute)
		f.Mute.Store(false)
		fleet.Want(t, "when the clock has stayed ahead", fleet.Ask(k, token), keystore.Expired)
	})
}

// TestRequestEntersAfterRenewal checks that a request whose lookup has renewed the lease need not
// be looked up again.
func TestRequestEntersAfterRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		b, fb := d.Node(node.Settings{})
		_, token := fleet.Mint(t, a, manage.KeySpec{})
		fleet.Want(t, "before", fleet.Ask(b, token), keystore.OK)
		fb.Mute.Store(true)
		time.Sleep(20 * time.Second)
		member, err := a.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		fb.Mute.Store(false)
		answer, err := b.Lookup(ctx, token, time.Now())
		if err != nil || b.Policy().Member(member.ID) == nil {
			t.Fatal("the lookup has not renewed the lease", err)
		}
		r := &node.Running{Cut: func() {}}
		if !b.Enter(answer, r) {
			t.Fatal("the request does not enter")
		}
		b.Leave(r)
	})
}

// TestCacheAfterClockIsSetBack checks that a node forgets an unknown credential in time, even if its
// clock is set back.
func TestCacheAfterClockIsSetBack(t *testing.T) {
	k, f := fleet.New(t).Node(node.Settings{})
	if _, _, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		Token:   "imported-0123456789",
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	loads := f.Loads.Load()
	for _, c := range []struct {
		now  time.Time
		want int64 // queries so far
	}{
		{start, 1},
		{node.SetBack(start, 3600), 1},
		{node.SetBack(time.Now().Add(2*node.NegativeTTL), 3600), 2},
	} {
		if _, err := k.Lookup(ctx, "unknown-0123456789", c.now); err != nil {
			t.Fatal(err)
		}
		if n := f.Loads.Load() - loads; n != c.want {
			t.Errorf("at %v: %d queries, want %d", c.now, n, c.want)
		}
	}
}
