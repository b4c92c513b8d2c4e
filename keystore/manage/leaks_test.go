package manage_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// A counted database counts transactions that hold the write lock.
type counted struct {
	keystore.Database
	updates atomic.Int64
}

func (c *counted) Update(
	ctx context.Context, f func(keystore.Tx) error,
) (keystore.Revision, error) {
	c.updates.Add(1)
	return c.Database.Update(ctx, f)
}

// openCounted opens a node that counts its transactions.
func openCounted(t *testing.T, d fleet.Fleet) (*manage.Keystore, *counted) {
	t.Helper()
	db, err := sqldb.OpenSQLite(ctx, d.Path)
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{Database: db}
	k, err := fleet.Open(ctx, c, node.Settings{}, fleet.Observer{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k, c
}

func setOnLeak(t *testing.T, k *manage.Keystore, action keystore.LeakAction) {
	t.Helper()
	if _, _, err := k.EditNamespace(ctx, fleet.Root, keystore.DefaultNamespace,
		manage.NamespacePatch{OnLeak: &action}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestLeaksHoldNoLock reports the token of a live key again and again. Whoever has it must not keep
// other changes waiting.
func TestLeaksHoldNoLock(t *testing.T) {
	for _, c := range []struct {
		name           string
		action         keystore.LeakAction
		others, signed bool // reports with other URLs, signed reports
		most           int64
	}{
		{"other URLs", keystore.LeakNotify, true, false, 20},
		{"other URLs, signed", keystore.LeakNotify, true, true, 20},
		{"inactive", keystore.LeakInactivate, false, false, 1},
		{"inactive, other URLs", keystore.LeakInactivate, true, false, 20},
		{"revoked", keystore.LeakRevoke, true, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, db := openCounted(t, fleet.New(t))
				setOnLeak(t, k, c.action)
				_, token := fleet.Mint(t, k, manage.KeySpec{})
				before := db.updates.Load()
				for i := range 150 {
					url := "https://x/"
					if c.others {
						url += fmt.Sprint(i)
					}
					_, _, err := k.ReportLeaks(ctx, manage.Anonymous(fmt.Sprint("10.0.0.", i)),
						c.signed, []manage.LeakReport{{Token: token, URL: url}})
					if err != nil {
						t.Fatal(err)
					}
				}
				if n := db.updates.Load() - before; n > c.most {
					t.Errorf("%d transactions, want at most %d", n, c.most)
				}
			})
		})
	}
}

// TestRepeatedLeakWaits repeats a report while another node still accepts the key. Its answer says
// that no node does, so it must wait too.
func TestRepeatedLeakWaits(t *testing.T) {
	for _, action := range []keystore.LeakAction{keystore.LeakRevoke, keystore.LeakInactivate} {
		synctest.Test(t, func(t *testing.T) {
			d := fleet.New(t)
			a, _ := d.Node(node.Settings{})
			b, faulty := d.Node(node.Settings{})
			setOnLeak(t, a, action)
			_, token := fleet.Mint(t, a, manage.KeySpec{})
			time.Sleep(10 * time.Second)
			if got := fleet.Ask(b, token); got != keystore.OK {
				t.Fatal(got)
			}
			report := func() (complete bool) {
				known, p, err := a.ReportLeaks(ctx, manage.Anonymous("x"), false,
					[]manage.LeakReport{{Token: token}})
				if err != nil || !known[0] {
					t.Error(known, err)
				}
				if got := fleet.Ask(b, token); p.Complete && got == keystore.OK {
					t.Errorf("%s: complete, but another node accepts the key", action)
				}
				return p.Complete
			}
			faulty.Mute.Store(true)
			go report()
			time.Sleep(50 * time.Millisecond)
			for tries := 0; !report(); tries++ {
				if tries == 3 {
					t.Fatalf("%s: never complete", action)
				}
			}
		})
	}
}
