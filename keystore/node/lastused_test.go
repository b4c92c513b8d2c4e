package node_test

import (
	"context"
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
			a.Used(answer.Record, last.UnixNano(), client)
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
			a.Used(answer.Record, last.UnixNano(), client)
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
