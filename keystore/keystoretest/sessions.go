package keystoretest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testSessions(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	a := keystore.Session{ID: digest("a"), Token: digest("token"), CreatedAt: start, UsedAt: start}
	b := keystore.Session{ID: digest("b"), Token: digest("token"),
		CreatedAt: start.Add(time.Minute), UsedAt: start.Add(time.Minute)}
	must(t, db.InsertSession(ctx, a))
	must(t, other.InsertSession(ctx, b))
	if db.InsertSession(ctx, a) == nil {
		t.Error("a session was added twice")
	}
	check := func(want ...keystore.Session) {
		t.Helper()
		have := make(map[keystore.Digest]keystore.Session)
		for _, w := range want {
			have[w.ID] = w
		}
		for _, name := range []string{"a", "b", "nobody"} {
			got, err := other.Session(ctx, digest(name))
			w, there := have[digest(name)]
			switch {
			case !there:
				wantErr(t, err, keystore.ErrNotFound)
			case err != nil || !reflect.DeepEqual(*got, w):
				t.Fatalf("session %s: %+v %v, want %+v", name, got, err, w)
			}
		}
	}
	check(a, b)
	of := func(token string, want ...keystore.Session) {
		t.Helper()
		if got, err := other.SessionsOf(ctx, digest(token)); err != nil ||
			!slices.Equal(got, want) {
			t.Errorf("sessions of %s: %+v, %v, want %+v", token, got, err, want)
		}
	}
	of("token", b, a)
	of("nothing")

	must(t, db.UseSession(ctx, a.ID, start.Add(time.Hour)))
	must(t, other.UseSession(ctx, a.ID, start.Add(time.Minute)))
	must(t, db.UseSession(ctx, digest("nobody"), start))
	a.UsedAt = start.Add(time.Hour)
	check(a, b)
	of("token", a, b)

	must(t, db.DeleteSessions(ctx, start.Add(time.Minute), start)) // no session is older
	check(a, b)
	must(t, db.DeleteSessions(ctx, start.Add(2*time.Minute), start))
	check(a)
	must(t, db.InsertSession(ctx, b))
	must(t, db.DeleteSessions(ctx, start, start.Add(time.Second)))
	check(b)
	must(t, db.DeleteSession(ctx, b.ID))
	must(t, db.DeleteSession(ctx, b.ID))
	check()

	// A token keeps the most recently used sessions.
	must(t, db.InsertSession(ctx, a))
	must(t, db.InsertSession(ctx, b))
	c := keystore.Session{ID: digest("nobody"), Token: digest("another token"), CreatedAt: start,
		UsedAt: start}
	must(t, db.InsertSession(ctx, c))
	for i := range keystore.MaxSessions - 1 {
		at := start.Add(2 * time.Minute)
		must(t, db.InsertSession(ctx, keystore.Session{ID: digest(fmt.Sprint(i)), Token: a.Token,
			CreatedAt: at, UsedAt: at}))
	}
	check(a, c) // a was used after b
	must(t, db.DeleteSessionsOf(ctx, a.Token))
	must(t, db.DeleteSessionsOf(ctx, digest("nothing")))
	check(c)
	of("token")
}
