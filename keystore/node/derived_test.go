package node_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// derive derives a token that is valid for the duration life, unless the caveats say otherwise.
func derive(t testing.TB, token string, life time.Duration, c keystore.Caveats) string {
	t.Helper()
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = time.Now().Add(life)
	}
	derived, err := keystore.Derive(token, c)
	if err != nil {
		t.Fatal(err)
	}
	return derived
}

// ask decides about a request with a derived token that reads in the namespace `default`.
func ask(t testing.TB, k *manage.Keystore, token string) (keystore.Outcome, *keystore.Narrowing) {
	t.Helper()
	a, err := k.Lookup(ctx, token, time.Now())
	switch {
	case err != nil:
		return keystore.Unavailable, nil
	case a.Record == nil:
		return a.Outcome, nil
	}
	return keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: k.Policy(),
		Namespace: k.Policy().Namespace("default"), Narrowing: a.Narrowing}), a.Narrowing
}

func wantDerived(
	t testing.TB, what string, k *manage.Keystore, token string, want keystore.Outcome,
) {
	t.Helper()
	got, n := ask(t, k, token)
	fleet.Want(t, what, got, want)
	if want == keystore.OK && n == nil {
		t.Errorf("%s: not narrowed", what)
	}
}

// TestDerivedDiesWithItsKey: a derived token is refused as its key is, on every node when the change
// returns, whether the node has verified it before or not.
func TestDerivedDiesWithItsKey(t *testing.T) {
	no := false
	for name, c := range map[string]struct {
		change      func(k *manage.Keystore, key *keystore.Key) error
		want, fresh keystore.Outcome
	}{
		"revoked": {func(k *manage.Keystore, key *keystore.Key) error {
			_, _, err := k.RevokeKey(ctx, fleet.Root, key.ID, "", false,
				manage.ChangeOptions{Wait: time.Minute})
			return err
		}, keystore.Revoked, keystore.Revoked},
		"inactivated": {func(k *manage.Keystore, key *keystore.Key) error {
			_, _, err := k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &no},
				manage.ChangeOptions{Wait: time.Minute})
			return err
		}, keystore.Inactive, keystore.Inactive},
		"rotated": {func(k *manage.Keystore, key *keystore.Key) error {
			_, _, _, err := k.RotateKey(ctx, fleet.Root, key.ID, 0,
				manage.ChangeOptions{Wait: time.Minute})
			return err
		}, keystore.Rotated, keystore.Malformed}, // its deriving key is gone
		"deleted": {func(k *manage.Keystore, key *keystore.Key) error {
			_, _, err := k.RevokeKey(ctx, fleet.Root, key.ID, "", false, manage.ChangeOptions{})
			if err != nil {
				return err
			}
			_, _, err = k.DeleteKey(ctx, fleet.Root, key.ID,
				manage.ChangeOptions{Wait: time.Minute})
			return err
		}, keystore.Unknown, keystore.Malformed}, // as for any other key that does not exist
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fleet.New(t)
			a, _ := f.Node(node.Settings{})
			b, _ := f.Node(node.Settings{})
			key, token := fleet.Mint(t, a, manage.KeySpec{})
			used := derive(t, token, time.Hour, keystore.Caveats{Note: "used"})
			fresh := derive(t, token, time.Hour, keystore.Caveats{Note: "fresh"})
			for _, k := range []*manage.Keystore{a, b} {
				wantDerived(t, "before", k, used, keystore.OK)
			}
			if err := c.change(a, key); err != nil {
				t.Fatal(err)
			}
			for _, k := range []*manage.Keystore{a, b} {
				wantDerived(t, "verified before", k, used, c.want)
				wantDerived(t, "not verified before", k, fresh, c.fresh)
			}
		})
	}
}

// TestDerivedDuringGrace: tokens derived from a rotated token are accepted until the grace of the
// rotation is over, and those derived from the new token at once.
func TestDerivedDuringGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fleet.New(t)
		a, _ := f.Node(node.Settings{})
		b, _ := f.Node(node.Settings{})
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		used := derive(t, token, time.Hour, keystore.Caveats{Note: "used"})
		wantDerived(t, "before", b, used, keystore.OK)
		_, rotated, _, err := a.RotateKey(ctx, fleet.Root, key.ID, 10*time.Minute,
			manage.ChangeOptions{Wait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		fresh := derive(t, token, time.Hour, keystore.Caveats{Note: "fresh"})
		next := derive(t, rotated.Reveal(), time.Hour, keystore.Caveats{})
		for _, k := range []*manage.Keystore{a, b} {
			wantDerived(t, "verified before", k, used, keystore.OK)
			wantDerived(t, "not verified before", k, fresh, keystore.OK)
			wantDerived(t, "from the new token", k, next, keystore.OK)
		}
		var cuts atomic.Int32
		defer b.Leave(run(t, b, used, &cuts))
		time.Sleep(10*time.Minute - time.Second)
		if wantDerived(t, "before the end", b, used, keystore.OK); cuts.Load() != 0 {
			t.Error("cut before the end of the grace")
		}
		time.Sleep(3 * time.Second)
		for _, k := range []*manage.Keystore{a, b} {
			wantDerived(t, "after the grace", k, used, keystore.Rotated)
			wantDerived(t, "from the new token", k, next, keystore.OK)
			if got, _ := ask(t, k, fresh); got == keystore.OK {
				t.Error("accepted after the grace")
			}
		}
		if n := cuts.Load(); n != 1 {
			t.Errorf("cut %d times at the end of the grace", n)
		}
	})
}

// TestDerivedNamespaces: a derived token is valid only in the namespaces that it names, although the
// grant of its key also applies in children.
func TestDerivedNamespaces(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	for _, ns := range []keystore.Namespace{{ID: "acme"}, {ID: "acme-uk", Parent: "acme"}} {
		if _, err := k.CreateNamespace(ctx, fleet.Root, ns); err != nil {
			t.Fatal(err)
		}
	}
	_, token := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme",
		Home: &keystore.Grant{Permissions: fleet.Read, Connected: true}})
	for _, c := range []struct {
		namespaces    []string
		parent, child keystore.Outcome
	}{
		{nil, keystore.OK, keystore.OK},
		{[]string{"acme"}, keystore.OK, keystore.Forbidden},
		{[]string{"acme-uk"}, keystore.Forbidden, keystore.OK},
		{[]string{"acme", "acme-uk"}, keystore.OK, keystore.OK},
		{[]string{"default"}, keystore.Forbidden, keystore.Forbidden},
	} {
		a, err := k.Lookup(ctx, derive(t, token, time.Hour,
			keystore.Caveats{Namespaces: c.namespaces}), time.Now())
		if err != nil || a.Record == nil {
			t.Fatal(a.Outcome, err)
		}
		for id, want := range map[string]keystore.Outcome{"acme": c.parent, "acme-uk": c.child} {
			fleet.Want(t, fmt.Sprint(c.namespaces, " in ", id), keystore.Decide(a.Record,
				&keystore.Request{Now: a.Now, Policy: k.Policy(),
					Namespace: k.Policy().Namespace(id), Narrowing: a.Narrowing}), want)
		}
	}
}

// TestDerivedTimes: tokens are valid from nbf, with a leeway, until exp, and not longer than the
// setting allows. Settings apply to tokens that were verified before.
func TestDerivedTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := fleet.New(t).Node(node.Settings{})
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		at := func(d time.Duration) time.Time { return time.Now().Add(d).Truncate(time.Second) }
		day := derive(t, token, 0, keystore.Caveats{ExpiresAt: at(24 * time.Hour)})
		long := derive(t, token, 0, keystore.Caveats{ExpiresAt: at(24*time.Hour + 2*time.Second)})
		early := derive(t, token, 0, keystore.Caveats{ExpiresAt: at(time.Hour),
			NotBefore: at(62 * time.Second)})
		wantDerived(t, "the longest life", k, day, keystore.OK)
		wantDerived(t, "longer than that", k, long, keystore.Malformed)
		wantDerived(t, "before nbf", k, early, keystore.Malformed)
		time.Sleep(3 * time.Second)
		wantDerived(t, "within the leeway", k, early, keystore.OK)

		k.Configure(node.Settings{Derive: node.DeriveSettings{Max: time.Hour}})
		wantDerived(t, "longer than the new setting", k, day, keystore.Malformed)
		k.Configure(node.Settings{Derive: node.DeriveSettings{Off: true}})
		wantDerived(t, "off", k, early, keystore.Malformed)
		fleet.Want(t, "the key itself", fleet.Ask(k, token), keystore.OK)
		k.Configure(node.Settings{})
		wantDerived(t, "on again", k, day, keystore.OK)

		soon := derive(t, token, 0, keystore.Caveats{ExpiresAt: at(time.Minute)})
		wantDerived(t, "before its expiry", k, soon, keystore.OK)
		time.Sleep(62 * time.Second)
		wantDerived(t, "expired", k, soon, keystore.Expired)
		wantDerived(t, "expired before it was seen", k,
			derive(t, token, 0, keystore.Caveats{ExpiresAt: at(-time.Second)}), keystore.Expired)
		fleet.Want(t, "the key itself, later", fleet.Ask(k, token), keystore.OK)
	})
}

// TestDerivedAfterLapse: a new token that arrives while the node has no lease is judged by the time
// that the node learns when it renews the lease.
func TestDerivedAfterLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := fleet.New(t).Node(node.Settings{})
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		f.Ahead.Store(int64(time.Hour))
		k.Health(ctx)
		fresh := derive(t, token, 2*time.Hour,
			keystore.Caveats{NotBefore: time.Now().Add(time.Hour)})
		wantDerived(t, "when the clock was set", k, fresh, keystore.Malformed)
		f.Mute.Store(true)
		time.Sleep(2 * time.Minute)
		f.Mute.Store(false)
		wantDerived(t, "when the clock has stayed ahead", k, fresh, keystore.OK)
	})
}

// TestDerivedAfterPause: a new token that had to wait for its verification is judged by the time
// after the wait.
func TestDerivedAfterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db := fleet.New(t).Node(node.Settings{Lease: 10 * time.Second})
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		fleet.Want(t, "the key", fleet.Ask(k, token), keystore.OK)
		k.PauseDerived(token, time.Second)
		at := time.Now().Truncate(time.Second).Add(time.Second)
		wantDerived(t, "it expired", k,
			derive(t, token, 0, keystore.Caveats{ExpiresAt: at}), keystore.Expired)

		db.Cut.Store(true)
		for life := time.Hour; ; life += time.Second {
			fresh := derive(t, token, life, keystore.Caveats{})
			k.PauseDerived(token, 700*time.Millisecond)
			got, _ := ask(t, k, fresh)
			if want := fleet.Ask(k, token); got != want {
				t.Fatalf("%s for the derived token, %s for its key", got, want)
			}
			if got != keystore.OK {
				break
			}
		}
	})
}

// TestDerivedFromOlderTokens: every node accepts the tokens derived from a token that was imported
// as a digest, once one node has seen the token and the database has been available since.
func TestDerivedFromOlderTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fleet.New(t)
		uses := new(withoutUses)
		a, _ := f.OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
			func(f *fleet.Faulty) { uses.Database, f.Database = f.Database, uses })
		b, db := f.Node(node.Settings{})
		const token = "imported-0123456789-as-a-digest"
		if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
			KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
			Digest:  keystore.DigestOf(token),
		}}, false, nil); err != nil {
			t.Fatal(err)
		}
		derived := derive(t, token, time.Hour, keystore.Caveats{})
		for range 3 {
			wantDerived(t, "nobody has seen the token", b, derived, keystore.Malformed)
		}
		if n := db.DerivingLoads.Load(); n != 1 {
			t.Errorf("%d queries for the deriving key", n)
		}
		fleet.Want(t, "the token", fleet.Ask(a, token), keystore.OK)
		synctest.Wait() // the key is computed
		wantDerived(t, "on the node that has seen it", a, derived, keystore.OK)
		uses.fails.Store(true)
		time.Sleep(5 * time.Second)
		wantDerived(t, "it is not written", b, derived, keystore.Malformed)
		uses.fails.Store(false)
		time.Sleep(5 * time.Second) // until it is written, and b asks again
		wantDerived(t, "on the other node", b, derived, keystore.OK)
		wantDerived(t, "another one", b,
			derive(t, token, time.Minute, keystore.Caveats{}), keystore.OK)
		if n := db.DerivingLoads.Load(); n != 3 {
			t.Errorf("%d queries for the deriving key", n)
		}
	})
}

// TestDerivedPrefix: the prefix of the parent's token must be accepted, also for a token that was
// verified before.
func TestDerivedPrefix(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{TokenPrefixes: []string{"old"}})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	used := derive(t, token, time.Hour, keystore.Caveats{})
	wantDerived(t, "before", k, used, keystore.OK)
	k.Configure(node.Settings{TokenPrefixes: []string{"new"}})
	wantDerived(t, "verified before", k, used, keystore.Malformed)
	wantDerived(t, "not verified before", k,
		derive(t, token, time.Minute, keystore.Caveats{}), keystore.Malformed)
	k.Configure(node.Settings{TokenPrefixes: []string{"new", "old"}})
	wantDerived(t, "accepted again", k, used, keystore.OK)
}

// TestDerivedFromTokenWithNewPrefix: a token of another system has a prefix that becomes accepted.
// From then on, neither the token nor the tokens derived from it are accepted, whatever is cached.
// Tokens derived from other systems' tokens without the prefix are accepted again after the next
// use of those tokens.
func TestDerivedFromTokenWithNewPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fleet.New(t)
		a, _ := f.Node(node.Settings{TokenPrefixes: []string{"old"}})
		b, db := f.Node(node.Settings{TokenPrefixes: []string{"old"}})
		nodes := []*manage.Keystore{a, b}
		const prefixed, other = "sk_live_0123456789abcdef", "other_0123456789abcdef"
		for _, token := range []string{prefixed, other} {
			if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
				KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}, Token: token,
			}}, false, nil); err != nil {
				t.Fatal(err)
			}
		}
		used := derive(t, prefixed, time.Hour, keystore.Caveats{Note: "used"})
		usedOther := derive(t, other, time.Hour, keystore.Caveats{Note: "used"})
		wantAll := func(what, token string, want keystore.Outcome) {
			t.Helper()
			for _, k := range nodes {
				wantDerived(t, what, k, token, want)
			}
		}
		wantAll("before", used, keystore.OK)
		wantAll("before, other", usedOther, keystore.OK)
		fleet.Want(t, "before, the token", fleet.Ask(a, prefixed), keystore.OK)
		for _, k := range nodes {
			k.Configure(node.Settings{TokenPrefixes: []string{"sk_live", "old"}})
		}
		loads := db.DerivingLoads.Load()
		for range 5 {
			fleet.Want(t, "cached by its use", fleet.Ask(a, prefixed), keystore.Malformed)
			fleet.Want(t, "cached by a derived token", fleet.Ask(b, prefixed), keystore.Malformed)
			wantAll("verified before", used, keystore.Malformed)
			wantAll("fresh", derive(t, prefixed, time.Minute, keystore.Caveats{}), keystore.Malformed)
			wantAll("unknown whether it has the prefix", usedOther, keystore.Malformed)
		}
		if n := db.DerivingLoads.Load() - loads; n > 2 {
			t.Errorf("%d queries for two deriving keys", n)
		}
		fleet.Want(t, "the other token", fleet.Ask(a, other), keystore.OK)
		synctest.Wait() // its deriving key is computed
		wantDerived(t, "on the node that has seen it", a, usedOther, keystore.OK)
		time.Sleep(15 * time.Second) // until it is written, and b asks again
		wantAll("on every node", usedOther, keystore.OK)
		wantAll("still", used, keystore.Malformed)
		a.Configure(node.Settings{TokenPrefixes: []string{"old"}})
		wantDerived(t, "no longer accepted", a, used, keystore.OK)
		fleet.Want(t, "no longer accepted, the token", fleet.Ask(a, prefixed), keystore.OK)
	})
}

// TestDerivedAfterNewPrefix: once a prefix is accepted, one use of another system's token on one
// node is enough for the other nodes to accept tokens derived from it, although that node knew the
// deriving key before.
func TestDerivedAfterNewPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fleet.New(t)
		a, _ := f.Node(node.Settings{TokenPrefixes: []string{"old"}})
		b, _ := f.Node(node.Settings{TokenPrefixes: []string{"old"}})
		const token = "other_0123456789abcdef"
		if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
			KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}, Token: token,
		}}, false, nil); err != nil {
			t.Fatal(err)
		}
		derived := derive(t, token, time.Hour, keystore.Caveats{})
		fleet.Want(t, "the token, before", fleet.Ask(a, token), keystore.OK)
		wantDerived(t, "before", b, derived, keystore.OK)
		for _, k := range []*manage.Keystore{a, b} {
			k.Configure(node.Settings{TokenPrefixes: []string{"new", "old"}})
		}
		wantDerived(t, "unknown whether it has the prefix", b, derived, keystore.Malformed)
		fleet.Want(t, "the token", fleet.Ask(a, token), keystore.OK)
		time.Sleep(15 * time.Second) // until its deriving key is written, and b asks again
		wantDerived(t, "on the other node", b, derived, keystore.OK)
	})
}

// TestDerivingKeyLearnedWhileWriting: a deriving key that could not be written does not replace a
// newer one.
func TestDerivingKeyLearnedWhileWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fleet.New(t)
		db := new(withoutUses)
		old, both := node.Settings{TokenPrefixes: []string{"old"}},
			node.Settings{TokenPrefixes: []string{"new", "old"}}
		a, _ := f.OpenWith(fleet.Observer{}, old, fleet.Open,
			func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
		b, _ := f.Node(both)
		const token = "other_0123456789abcdef"
		if _, _, err := a.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
			KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
			Digest:  keystore.DigestOf(token),
		}}, false, nil); err != nil {
			t.Fatal(err)
		}
		db.fails.Store(true)
		db.recording.Store(new(func() {
			a.Configure(both)
			fleet.Want(t, "while it is written", fleet.Ask(a, token), keystore.OK)
			time.Sleep(time.Second) // the newer key is computed
		}))
		fleet.Want(t, "before", fleet.Ask(a, token), keystore.OK)
		time.Sleep(7 * time.Second)
		if db.recording.Load() != nil {
			t.Fatal("no deriving key was written")
		}
		db.fails.Store(false)
		time.Sleep(5 * time.Second)
		wantDerived(t, "on the other node", b, derive(t, token, time.Hour, keystore.Caveats{}),
			keystore.OK)
	})
}

// TestDerivingKeyNotWrittenYet: a node uses a deriving key that it has computed and the database does
// not have yet, even if the token's key has changed since.
func TestDerivingKeyNotWrittenYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := new(withoutUses)
		k, _ := fleet.New(t).OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
			func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
		const token = "imported-0123456789-as-a-digest"
		keys := []manage.ImportSpec{{
			KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
			Digest:  keystore.DigestOf(token),
		}}
		if _, _, err := k.ImportKeys(ctx, fleet.Root, keys, false, nil); err != nil {
			t.Fatal(err)
		}
		changed := func(when string) {
			t.Helper()
			if _, _, err := k.EditKey(ctx, fleet.Root, keys[0].ID, manage.KeyPatch{Name: &when},
				manage.ChangeOptions{Wait: time.Minute}); err != nil {
				t.Fatal(err)
			}
			wantDerived(t, when, k, derive(t, token, time.Hour, keystore.Caveats{Note: when}),
				keystore.OK)
		}
		fleet.Want(t, "the token", fleet.Ask(k, token), keystore.OK)
		synctest.Wait() // its deriving key is computed
		db.fails.Store(true)
		changed("before it is written")
		db.recording.Store(new(func() { changed("while it is written") }))
		time.Sleep(5 * time.Second)
		if db.recording.Load() != nil {
			t.Fatal("no deriving key was written")
		}
		changed("after it could not be written")
		db.fails.Store(false)
		time.Sleep(5 * time.Second)
		changed("after it was written")
	})
}

// TestDerivedFromMembers: a derived token whose parent is a member's token is refused.
func TestDerivedFromMembers(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	m, err := k.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	_, token, _, err := k.NewMemberToken(ctx, fleet.Root, m.ID, manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Derive refuses such a token, so the header of another derived token names it.
	_, key := fleet.Mint(t, k, manage.KeySpec{})
	derived := derive(t, key, time.Hour, keystore.Caveats{})
	d := keystore.DigestOf(token.Reveal())
	forged := withParent(derived, d)
	if parent, ok := keystore.DerivedParent(forged); !ok || parent != d {
		t.Fatal("the test forges no token of the member")
	}
	wantDerived(t, "a member's token", k, forged, keystore.Malformed)
}

// TestForgedFloods: forged tokens cost few queries, and verified tokens work meanwhile.
func TestForgedFloods(t *testing.T) {
	k, db := fleet.New(t).Node(node.Settings{})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	good := derive(t, token, time.Hour, keystore.Caveats{})
	wantDerived(t, "before", k, good, keystore.OK)
	loads := db.Loads.Load()

	unknown := withParent(good, keystore.DigestOf("nobody"))
	for range 20 {
		wantDerived(t, "an unknown parent", k, unknown, keystore.Malformed)
	}
	if n := db.Loads.Load() - loads; n != 1 {
		t.Errorf("%d queries for an unknown parent", n)
	}
	parts := strings.Split(good, ".")
	forged := parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2]))
	for range 20 {
		wantDerived(t, "a wrong signature", k, forged, keystore.Malformed)
		wantDerived(t, "a verified token", k, good, keystore.OK)
	}
	wantDerived(t, "a fresh token", k, derive(t, token, time.Minute, keystore.Caveats{}), keystore.OK)
	loads = db.Loads.Load()
	for _, outcome := range []keystore.Outcome{keystore.Malformed, keystore.Expired} {
		exp := time.Now().Add(-time.Minute)
		if outcome == keystore.Malformed {
			exp = time.Now().Add(48 * time.Hour)
		}
		late := withParent(derive(t, token, 0, keystore.Caveats{ExpiresAt: exp}),
			keystore.DigestOf("nobody else"))
		wantDerived(t, "times come first", k, late, outcome)
	}
	if db.Loads.Load() != loads || db.DerivingLoads.Load() != 0 {
		t.Error("a token with wrong times was looked up")
	}
}

// TestInventedLoads: however many credentials someone makes up, their lookups leave some of the eight
// connections of sqldb to lookups of tokens that this deployment created.
func TestInventedLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db := fleet.New(t).Node(node.Settings{})
		derived := derive(t, "nobody-0123456789", time.Hour, keystore.Caveats{})
		var loads atomic.Int32
		release := make(chan struct{})
		hold := func() { loads.Add(1); <-release }
		db.Holding.Store(&hold)
		var lookups sync.WaitGroup
		for i := range 100 {
			forged := withParent(derived, keystore.DigestOf(fmt.Sprint("nobody ", i)))
			lookups.Go(func() { _, _ = k.Lookup(t.Context(), forged, time.Now()) })
		}
		synctest.Wait()
		if n := loads.Load(); n < 4 || n > 6 {
			t.Errorf("%d lookups at a time", n)
		}
		db.Holding.Store(nil)
		close(release)
		lookups.Wait()
	})
}

// withParent replaces the digest in the header of a derived token.
func withParent(derived string, d keystore.Digest) string {
	_, rest, _ := strings.Cut(derived, ".")
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"EdDSA","typ":"ak+jwt","kid":"`+encode(d[:])+`"}`)) + "." + rest
}

// TestDerivedRunningRequests: a request is cut when its derived token expires, and when its key is
// revoked, but not when the key's expiry changes to a later time.
func TestDerivedRunningRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := fleet.New(t).Node(node.Settings{})
		key, token := fleet.Mint(t, k, manage.KeySpec{})
		enter := func(life time.Duration) *atomic.Bool {
			t.Helper()
			cut := new(atomic.Bool)
			a, err := k.Lookup(ctx, derive(t, token, life, keystore.Caveats{}), time.Now())
			r := &node.Running{Cut: func() { cut.Store(true) }}
			if err != nil || a.Record == nil || !k.Enter(a, r) {
				t.Fatal(a.Outcome, err)
			}
			t.Cleanup(func() { k.Leave(r) })
			return cut
		}
		short, long := enter(10*time.Second), enter(time.Hour)
		// A change of the key that leaves it valid tells the node its expiry: never.
		if _, _, err := k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: new("renamed")},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		later := enter(10 * time.Second)
		time.Sleep(9 * time.Second)
		if short.Load() || later.Load() {
			t.Error("cut before the token expired")
		}
		time.Sleep(3 * time.Second)
		if !short.Load() || !later.Load() || long.Load() {
			t.Errorf("short-lived %v and %v, long-lived %v", short.Load(), later.Load(), long.Load())
		}
		fleet.Revoke(t, k, key.ID, time.Second)
		if !long.Load() {
			t.Error("not cut by the revoke of the key")
		}
	})
}

// TestDerivedWithoutDatabase: while the database is unavailable, the tokens derived from a cached
// key work, verified before or not, until the lease ends.
func TestDerivedWithoutDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db := fleet.New(t).Node(node.Settings{Lease: 10 * time.Second})
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		used := derive(t, token, time.Hour, keystore.Caveats{Note: "used"})
		wantDerived(t, "before", k, used, keystore.OK)
		db.Cut.Store(true)
		time.Sleep(3 * time.Second)
		wantDerived(t, "verified before", k, used, keystore.OK)
		wantDerived(t, "fresh", k, derive(t, token, time.Minute, keystore.Caveats{}), keystore.OK)
		time.Sleep(20 * time.Second)
		wantDerived(t, "without a lease", k, used, keystore.Unavailable)
		wantDerived(t, "expired, without a lease", k,
			derive(t, token, -time.Second, keystore.Caveats{}), keystore.Expired)
		k.Configure(node.Settings{Lease: 10 * time.Second, Derive: node.DeriveSettings{Off: true}})
		wantDerived(t, "with derive off", k, used, keystore.Malformed)
		k.Configure(node.Settings{Lease: 10 * time.Second})
		db.Cut.Store(false)
		time.Sleep(5 * time.Second)
		wantDerived(t, "afterwards", k, used, keystore.OK)
	})
}

// TestDerivedWhileReloading: a derived token that neither the settings before a reload nor those
// after it accept is refused while the settings change.
func TestDerivedWhileReloading(t *testing.T) {
	k, db := fleet.New(t).Node(node.Settings{TokenPrefixes: []string{"old"}})
	key, token := fleet.Mint(t, k, manage.KeySpec{})
	derived := derive(t, token, 12*time.Hour, keystore.Caveats{})
	wantDerived(t, "before", k, derived, keystore.OK)
	k.Configure(node.Settings{TokenPrefixes: []string{"old"},
		Derive: node.DeriveSettings{Max: time.Hour}})
	wantDerived(t, "longer than allowed", k, derived, keystore.Malformed)
	// The next lookup waits for the database.
	if _, _, err := k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: new("renamed")},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	reload := func() { k.Configure(node.Settings{TokenPrefixes: []string{"new"}}) }
	db.Holding.Store(&reload)
	wantDerived(t, "meanwhile", k, derived, keystore.Malformed)
	db.Holding.Store(nil)
	wantDerived(t, "afterwards", k, derived, keystore.Malformed)
}

// TestLookupSuspectDerived: an address that has sent too many invalid credentials cannot make the
// node look up parents.
func TestLookupSuspectDerived(t *testing.T) {
	k, db := fleet.New(t).Node(node.Settings{})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	derived := derive(t, token, time.Hour, keystore.Caveats{})
	look := func() keystore.Outcome {
		a, err := k.LookupSuspect(context.Background(), derived, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return a.Outcome
	}
	fleet.Want(t, "not cached", look(), keystore.Limited)
	if n := db.Loads.Load(); n != 0 {
		t.Errorf("%d queries", n)
	}
	fleet.Want(t, "the key", fleet.Ask(k, token), keystore.OK)
	fleet.Want(t, "cached", look(), keystore.OK)

	// A derived token whose header has another form, which is not accepted, names a cached parent.
	// For Lookup it is no derived token.
	if _, _, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		Token:   "imported-0123456789",
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	fleet.Want(t, "the key again", fleet.Ask(k, token), keystore.OK)
	header, rest, _ := strings.Cut(derived, ".")
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	derived = base64.RawURLEncoding.EncodeToString([]byte("{\n"+string(text[1:]))) + "." + rest
	loads := db.Loads.Load()
	fleet.Want(t, "another form", look(), keystore.Limited)
	if n := db.Loads.Load() - loads; n != 0 {
		t.Errorf("%d queries for another form", n)
	}
}
