package node_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
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

// TestFilesReplaced checks that a node whose database files were replaced drops its lease at once,
// logs one message and makes no changes. When the same files are back, it continues.
func TestFilesReplaced(t *testing.T) {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		t.Run("apikeys.db"+suffix, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				d := fleet.New(t)
				var log bytes.Buffer
				db, err := sqldb.OpenSQLite(ctx, d.Path)
				if err != nil {
					t.Fatal(err)
				}
				a, err := manage.Open(ctx, db, nil, node.Settings{Lease: time.Hour},
					fleet.Observer{}, slog.New(slog.NewTextHandler(&log, nil)))
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := a.Close(); err != nil {
						t.Error(err)
					}
				}()
				b, _ := d.Node(node.Settings{Lease: time.Hour})
				key, token := fleet.Mint(t, a, manage.KeySpec{})
				for _, k := range []*manage.Keystore{a, b} {
					fleet.Want(t, "before", fleet.Ask(k, token), keystore.OK)
				}
				var cut atomic.Int32
				running := run(t, a, token, &cut)
				defer a.Leave(running)

				file := d.Path + suffix
				if err := os.Rename(file, file+".away"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				for _, k := range []*manage.Keystore{a, b} {
					fleet.Want(t, "afterwards", fleet.Ask(k, token), keystore.Unavailable)
					h := k.Health(ctx)
					if h.LeaseRemaining != 0 || h.CachedRecords != 0 ||
						!strings.Contains(h.Problem, "restart") {
						t.Errorf("health: %+v", h)
					}
				}
				if cut.Load() != 1 {
					t.Error("a running request was not cut")
				}
				_, p, err := a.RevokeKey(ctx, fleet.Root, key.ID, "", false, manage.ChangeOptions{})
				if !errors.Is(err, keystore.ErrReplaced) {
					t.Errorf("a revoke: %+v, %v", p, err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := strings.Count(log.String(), "\n"); n != 1 ||
					!strings.Contains(log.String(), file+" was removed; stop every Caddy") {
					t.Errorf("%d lines, want one that names the file: %s", n, log.String())
				}

				if err := os.Rename(file+".away", file); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				for _, k := range []*manage.Keystore{a, b} {
					fleet.Want(t, "when it is back", fleet.Ask(k, token), keystore.OK)
				}
				if p := fleet.Revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 2 {
					t.Errorf("%+v", p)
				}
			})
		})
	}
}
