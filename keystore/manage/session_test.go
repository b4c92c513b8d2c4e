package manage_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestSessions checks that a session is valid on every node as long as the token it was opened
// with, until it is closed.
func TestSessions(t *testing.T) {
	d := fleet.New(t)
	here, hereDB := d.Node(node.Settings{})
	there, _ := d.Node(node.Settings{})
	m, err := here.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	newToken := func() *keystore.Record {
		t.Helper()
		_, token, _, err := here.NewMemberToken(ctx, fleet.Root, m.ID, manage.TokenSpec{},
			manage.ChangeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := here.LookupMember(ctx, token.Reveal(), time.Now())
		if err != nil || a.Record == nil {
			t.Fatal(a.Outcome, err)
		}
		return a.Record
	}
	token := newToken()
	open := func() string {
		t.Helper()
		session, err := here.OpenSession(ctx, token)
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	check := func(session string, want keystore.Outcome) {
		t.Helper()
		for _, k := range []*manage.Keystore{there, here} {
			a, err := k.LookupSession(ctx, session, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			got := a.Outcome
			if a.Record != nil {
				got = keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: k.Policy()})
				if got == keystore.Forbidden { // the token itself has no grants
					got = keystore.OK
				}
			}
			if got != want {
				t.Errorf("%v, want %v", got, want)
			}
		}
	}
	first, second := open(), open()
	if first == second {
		t.Error("two sessions have the same secret")
	}
	check(first, keystore.OK)
	check(second, keystore.OK)
	if err := there.CloseSession(ctx, first); err != nil {
		t.Fatal(err)
	}
	check(first, keystore.Unknown)
	check(second, keystore.OK)

	active := false
	if _, _, err := here.EditMember(ctx, fleet.Root, m.ID, manage.MemberPatch{Active: &active},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	check(second, keystore.OwnerDisabled)
	active = true
	if _, _, err := here.EditMember(ctx, fleet.Root, m.ID, manage.MemberPatch{Active: &active},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	check(second, keystore.OK)
	token = newToken()
	check(second, keystore.Revoked)
	check(open(), keystore.OK)

	// A secret that no node has created for a session is refused without a database query.
	session := open()
	stranger, _ := fleet.New(t).Node(node.Settings{})
	foreign, err := stranger.OpenSession(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	_, key := fleet.Mint(t, here, manage.KeySpec{Name: "k"})
	loads := hereDB.Loads.Load()
	for _, wrong := range []string{"", session[1:], session[:len(session)-1],
		session + "0", foreign, key} {
		if a, err := here.LookupSession(ctx, wrong, time.Now()); err != nil ||
			a.Outcome != keystore.Malformed {
			t.Errorf("%v %v", a.Outcome, err)
		}
	}
	if hereDB.Loads.Load() != loads {
		t.Error("a forged secret was looked up in the database")
	}
}

// TestExpiredSessions checks that an expired session is refused and that its row is deleted.
func TestExpiredSessions(t *testing.T) {
	k, db := fleet.New(t).Node(node.Settings{})
	m, err := k.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	_, token, _, err := k.NewMemberToken(ctx, fleet.Root, m.ID, manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := k.Now()
	const margin = 2 * time.Minute
	for i, row := range []struct {
		created, used time.Duration // ago
		want          keystore.Outcome
	}{
		{0, 0, keystore.OK},
		{keystore.SessionLife - margin, keystore.SessionIdle - margin, keystore.OK},
		{keystore.SessionIdle, keystore.SessionIdle, keystore.Unknown},
		{keystore.SessionLife, 0, keystore.Unknown},
	} {
		secret, err := k.OpenSession(ctx, &keystore.Record{Digest: token.Digest()})
		if err != nil {
			t.Fatal(err)
		}
		s := keystore.Session{ID: keystore.DigestOf(secret), Token: token.Digest(),
			CreatedAt: now.Add(-row.created), UsedAt: now.Add(-row.used)}
		if err := errors.Join(db.DeleteSession(ctx, s.ID), db.InsertSession(ctx, s)); err != nil {
			t.Fatal(err)
		}
		a, err := k.LookupSession(ctx, secret, time.Now())
		if err != nil || a.Outcome != row.want {
			t.Errorf("row %d: %v %v", i, a.Outcome, err)
		}
		k.DeleteExpiredSessions()
		if _, err := db.Session(ctx, s.ID); (err == nil) != (row.want == keystore.OK) {
			t.Errorf("row %d: reading the session: %v", i, err)
		}
	}
}

// TestUseOfSessions checks that using a session keeps it from expiring, and that not every use is
// stored.
func TestUseOfSessions(t *testing.T) {
	k, db := fleet.New(t).Node(node.Settings{})
	m, err := k.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	_, token, _, err := k.NewMemberToken(ctx, fleet.Root, m.ID, manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		unused time.Duration
		stored bool
	}{{time.Minute, false}, {6 * time.Minute, true}, {keystore.SessionIdle - time.Minute, true}} {
		secret, err := k.OpenSession(ctx, &keystore.Record{Digest: token.Digest()})
		if err != nil {
			t.Fatal(err)
		}
		used := k.Now().Add(-c.unused)
		s := keystore.Session{ID: keystore.DigestOf(secret), Token: token.Digest(), CreatedAt: used,
			UsedAt: used}
		if err := errors.Join(db.DeleteSession(ctx, s.ID), db.InsertSession(ctx, s)); err != nil {
			t.Fatal(err)
		}
		if a, err := k.LookupSession(ctx, secret, time.Now()); err != nil ||
			a.Outcome != keystore.OK {
			t.Errorf("unused for %v: %v, %v", c.unused, a.Outcome, err)
		}
		found, err := db.Session(ctx, s.ID)
		if err != nil || found.UsedAt.After(used.Add(time.Second)) != c.stored {
			t.Errorf("unused for %v: last use %v, %v", c.unused, found, err)
		}
	}
	if err := k.CloseSession(ctx, k.TokenKey().Generate("session",
		keystore.NewID()).Reveal()); err != nil {
		t.Errorf("closing a session that does not exist: %v", err)
	}
}

// TestExpiredSessionsAreDeleted checks that a node deletes expired sessions on its own.
func TestExpiredSessionsAreDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, db := fleet.New(t).Node(node.Settings{})
		used := time.Now().Add(-keystore.SessionIdle)
		s := keystore.Session{ID: keystore.DigestOf("session"), CreatedAt: used, UsedAt: used}
		if err := db.InsertSession(ctx, s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if _, err := db.Session(ctx, s.ID); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("reading the session: %v", err)
		}
	})
}
