package node_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// client returns the address of a client, as an IPv4-mapped IPv6 address.
func client() netip.Addr { return netip.MustParseAddr("::ffff:192.0.2.7") }

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
			a.Used(answer.Record, nil, last.UnixNano(), client)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(4 * time.Second)
		found, err := a.FindKey(context.Background(), fleet.Root, key.ID)
		if err != nil {
			t.Fatal(err)
		}
		if lost := last.Sub(found.LastUsedAt); lost > 10*time.Second {
			t.Errorf("the last %v of use are lost", lost)
		}
	})
}

// TestDerivedUseIsWritten: the last use of a derived token is written within ten seconds, with the
// note of the token, however often the key itself and other tokens are used. It is not later than
// the last use of the key.
func TestDerivedUseIsWritten(t *testing.T) {
	for name, off := range map[string]bool{"usage": false, "usage off": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				settings := node.Settings{Usage: node.UsageSettings{Off: off}}
				a, _ := fleet.New(t).Node(settings)
				key, token := fleet.Mint(t, a, manage.KeySpec{})
				use := func(token string) (at time.Time) {
					t.Helper()
					at = time.Now()
					answer, err := a.Lookup(t.Context(), token, at)
					if err != nil || answer.Record == nil {
						t.Fatal(answer.Outcome, err)
					}
					a.Used(answer.Record, answer.Narrowing, at.UnixNano(), client)
					return at
				}
				// check checks that the last derived use is stored, but for some seconds.
				check := func(last time.Time, lost time.Duration, note string) {
					t.Helper()
					found, err := a.FindKey(t.Context(), fleet.Root, key.ID)
					if err != nil {
						t.Fatal(err)
					}
					if off {
						note = ""
					}
					d := found.LastDerived
					if last.Sub(d.At) > lost || d.At.After(last) || d.Note != note {
						t.Errorf("%+v, want a use at %v with the note %q", d, last, note)
					}
					if found.LastUsedAt.Before(d.At) {
						t.Errorf("last used at %v, and a derived token at %v", found.LastUsedAt, d.At)
					}
				}
				use(token)
				time.Sleep(10 * time.Second)
				check(time.Time{}, 0, "")
				rare := derive(t, token, time.Hour, keystore.Caveats{Note: "rare"})
				often := derive(t, token, time.Hour, keystore.Caveats{Note: "often"})
				var last time.Time
				for i := range 200 { // the key's own token is always the first after 5 s
					use(token)
					if i == 107 {
						last = use(rare)
					}
					time.Sleep(100 * time.Millisecond)
				}
				check(last, time.Microsecond, "rare")
				for range 100 {
					last = use(often)
					use(token)
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(4 * time.Second)
				check(last, 10*time.Second, "often")
				// Each request may have a token of its own.
				for i := range 60 {
					use(derive(t, token, time.Hour, keystore.Caveats{Note: fmt.Sprint(i)}))
					time.Sleep(100 * time.Millisecond)
				}
				last = use(derive(t, token, time.Hour, keystore.Caveats{}))
				time.Sleep(10 * time.Second)
				check(last, time.Microsecond, "")
			})
		})
	}
}

// withoutUses is a database in which last uses and deriving keys cannot be written while fails is
// true. It counts the calls that write uses, and calls recording before it next writes deriving keys.
type withoutUses struct {
	keystore.Database
	fails     atomic.Bool
	calls     atomic.Int64
	from      atomic.Value // a netip.Addr, of the last use
	recording atomic.Pointer[func()]
}

func (db *withoutUses) RecordUse(ctx context.Context, uses map[string]keystore.LastUse) error {
	db.calls.Add(1)
	for _, use := range uses {
		db.from.Store(use.From)
	}
	if db.fails.Load() {
		return fleet.ErrCut
	}
	return db.Database.RecordUse(ctx, uses)
}

func (db *withoutUses) RecordDeriving(
	ctx context.Context, keys map[keystore.Digest]keystore.DerivingKey,
) error {
	if f := db.recording.Swap(nil); f != nil {
		(*f)()
	}
	if db.fails.Load() {
		return fleet.ErrCut
	}
	return db.Database.RecordDeriving(ctx, keys)
}

func TestLatestUseIsWrittenAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := new(withoutUses)
		a, _ := fleet.New(t).OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
			func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
		key, token := fleet.Mint(t, a, manage.KeySpec{})
		answer, err := a.Lookup(t.Context(), token, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		db.fails.Store(true)
		var last time.Time
		for range 3 {
			time.Sleep(10 * time.Second)
			last = time.Now()
			a.Used(answer.Record, nil, last.UnixNano(), client)
		}
		time.Sleep(10 * time.Second)
		db.fails.Store(false)
		time.Sleep(10 * time.Second)
		found, err := a.FindKey(t.Context(), fleet.Root, key.ID)
		if err != nil {
			t.Fatal(err)
		}
		if want := last.Truncate(time.Microsecond); !found.LastUsedAt.Equal(want) {
			t.Errorf("last used at %v, want %v", found.LastUsedAt, want)
		}
		if from := db.from.Load(); from != client().Unmap() {
			t.Errorf("last used from %v", from)
		}
		calls := db.calls.Load()
		time.Sleep(time.Minute)
		if n := db.calls.Load() - calls; n != 0 {
			t.Errorf("uses were written %d times again", n)
		}
	})
}
