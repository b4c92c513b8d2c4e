package manage_test

import (
	"context"
	"errors"
	"log/slog"
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
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// withReads is a database that calls functions before some reads.
type withReads struct {
	keystore.Database
	keyByDigest, keys, auditChain, policy, usage func(context.Context) error
}

func (w *withReads) Policy(
	ctx context.Context, since keystore.Position,
) (*keystore.Policy, error) {
	if err := w.policy(ctx); err != nil {
		return nil, err
	}
	return w.Database.Policy(ctx, since)
}

func (w *withReads) KeyByDigest(
	ctx context.Context, d keystore.Digest,
) (*keystore.Key, keystore.Position, error) {
	if err := w.keyByDigest(ctx); err != nil {
		return nil, keystore.Position{}, err
	}
	return w.Database.KeyByDigest(ctx, d)
}

func (w *withReads) Keys(
	ctx context.Context, f keystore.KeyFilter, cursor string, limit int,
) ([]keystore.Key, string, error) {
	if err := w.keys(ctx); err != nil {
		return nil, "", err
	}
	return w.Database.Keys(ctx, f, cursor, limit)
}

func (w *withReads) AuditChain(
	ctx context.Context, after int64, limit int,
) ([]keystore.AuditRow, error) {
	if err := w.auditChain(ctx); err != nil {
		return nil, err
	}
	return w.Database.AuditChain(ctx, after, limit)
}

func (w *withReads) Usage(
	ctx context.Context, q keystore.UsageQuery,
) ([]keystore.UsageSum, error) {
	if err := w.usage(ctx); err != nil {
		return nil, err
	}
	return w.Database.Usage(ctx, q)
}

func nodeWithReads(d fleet.Fleet) (*manage.Keystore, *withReads) {
	d.Helper()
	db, err := sqldb.OpenSQLite(ctx, d.Path)
	if err != nil {
		d.Fatal(err)
	}
	nothing := func(context.Context) error { return nil }
	w := &withReads{db, nothing, nothing, nothing, nothing, nothing}
	k, err := manage.Open(ctx, w, nil, node.Settings{}, fleet.Observer{},
		slog.New(slog.DiscardHandler))
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() { _ = k.Close() })
	return k, w
}

// TestReadsOfOneCaller checks that a caller's reads wait for each other but not for those of other
// callers, and that a read that waits for too long is refused.
func TestReadsOfOneCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db := nodeWithReads(fleet.New(t))
		_, token := fleet.Mint(t, k,
			manage.KeySpec{Home: &keystore.Grant{Permissions: []keystore.Permission{
				{Resource: "admin.keys", Action: "read"}}}})
		a, err := k.Lookup(ctx, token, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var running atomic.Int64
		db.keys = func(ctx context.Context) error {
			running.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}
		var reads sync.WaitGroup
		var busy, failed atomic.Int64
		list := func(c manage.Caller) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			_, _, err := k.ListKeys(ctx, c, keystore.KeyFilter{}, "", 10)
			refused, is := errors.AsType[*keystore.Error](err)
			switch {
			case is && refused.Kind == keystore.KindBusy:
				busy.Add(1)
			case errors.Is(err, context.DeadlineExceeded):
				failed.Add(1)
			default:
				t.Errorf("a list: %v", err)
			}
		}
		for range 64 {
			reads.Go(func() { list(fleet.Root) })
		}
		synctest.Wait()
		if n := running.Load(); n != 2 {
			t.Errorf("%d reads of one caller at the same time", n)
		}
		reads.Go(func() { list(manage.KeyCaller(a.Record, "test")) })
		synctest.Wait()
		if n := running.Load(); n != 3 {
			t.Errorf("%d reads of two callers at the same time", n)
		}
		fleet.Want(t, "a key that is not cached", fleet.Ask(k, token), keystore.Forbidden)
		reads.Wait()
		if busy.Load()+failed.Load() != 65 || busy.Load() < 32 {
			t.Errorf("%d were refused, %d failed", busy.Load(), failed.Load())
		}
		db.keys = func(context.Context) error { return nil }
		if keys, _, err := k.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 10); err != nil ||
			len(keys) != 1 {
			t.Errorf("afterwards: %v, %v", keys, err)
		}
	})
}

// TestReadsEnd checks that each read, also one that fails, lets later reads of the caller start.
func TestReadsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db := nodeWithReads(fleet.New(t))
		key, token := fleet.Mint(t, k, manage.KeySpec{})
		repeat := func(what string, want error, read func(context.Context) error) {
			t.Helper()
			for range 3 { // one more than may run at the same time
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				if err := read(ctx); !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", what, err, want)
				}
				cancel()
			}
		}
		find := func(ctx context.Context) error { return second(k.FindKey(ctx, fleet.Root, key.ID)) }
		for what, read := range map[string]func(context.Context) error{
			"a key": find,
			"keys": func(ctx context.Context) error {
				_, _, err := k.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 1)
				return err
			},
			"usage": func(ctx context.Context) error {
				return second(k.Usage(ctx, fleet.Root, manage.UsageFilter{}))
			},
			"the usage of a key": func(ctx context.Context) error {
				return second(k.KeyUsage(ctx, fleet.Root, key.ID, manage.UsageSpan{}))
			},
			"the usage of some keys": func(ctx context.Context) error {
				return second(k.KeysUsage(ctx, fleet.Root, nil, manage.UsageSpan{}))
			},
			"quotas": func(ctx context.Context) error {
				return second(k.NearQuotas(ctx, fleet.Root, "", 0.9, 1))
			},
			"hygiene": func(ctx context.Context) error {
				_, _, err := k.Hygiene(ctx, fleet.Root, manage.HygieneFilter{}, "", 1)
				return err
			},
			"a member": func(ctx context.Context) error {
				_, err := k.ListMembers(ctx, fleet.Root)
				return err
			},
			"roles": func(ctx context.Context) error {
				return second(k.ListRoles(ctx, fleet.Root))
			},
			"namespaces": func(ctx context.Context) error {
				return second(k.ListNamespaces(ctx, fleet.Root))
			},
			"nodes": func(ctx context.Context) error { return second(k.ListNodes(ctx, fleet.Root)) },
			"prefixes": func(ctx context.Context) error {
				_, _, err := k.ListPrefixes(ctx, fleet.Root)
				return err
			},
			"the audit log": func(ctx context.Context) error {
				_, _, err := k.ListAudit(ctx, fleet.Root, keystore.AuditFilter{}, "", 1)
				return err
			},
			"its hashes": func(ctx context.Context) error {
				return second(k.VerifyAudit(ctx, fleet.Root))
			},
			"a credential": func(ctx context.Context) error {
				return second(k.Verify(ctx, fleet.Root, token, manage.VerifyRequest{}))
			},
			"the progress of a change": func(ctx context.Context) error {
				return second(k.Progress(ctx, fleet.Root, 1, time.Now()))
			},
		} {
			repeat(what, nil, read)
		}
		nothing := db.policy
		db.policy = func(context.Context) error { return fleet.ErrCut }
		repeat("without a database", fleet.ErrCut, find)
		db.policy = nothing
		repeat("afterwards", nil, find)
	})
}

// TestReplayIsNoRead checks that a caller's reads can start while its replays of webhooks wait for
// another change.
func TestReplayIsNoRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := nodeWithReads(fleet.New(t))
		proceed := make(chan struct{})
		var changes sync.WaitGroup
		changes.Go(func() {
			_, err := k.Database().Update(ctx, func(keystore.Tx) error { <-proceed; return nil })
			if err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		for range 2 { // as many as may read at the same time
			changes.Go(func() {
				if _, err := k.ReplayWebhook(ctx, fleet.Root, "missing",
					manage.ReplayFrom{}); err == nil {
					t.Error("a webhook that does not exist was replayed")
				}
			})
		}
		synctest.Wait()
		reading, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, _, err := k.ListKeys(reading, fleet.Root, keystore.KeyFilter{}, "", 1); err != nil {
			t.Error(err)
		}
		close(proceed)
		changes.Wait()
	})
}

// TestHealthOfLookups checks that a node is unhealthy while lookups fail.
func TestHealthOfLookups(t *testing.T) {
	k, db := nodeWithReads(fleet.New(t))
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	var fails atomic.Bool
	fails.Store(true)
	db.keyByDigest = func(context.Context) error {
		if fails.Load() {
			return fleet.ErrCut
		}
		return nil
	}
	fleet.Want(t, "while lookups fail", fleet.Ask(k, token), keystore.Unavailable)
	if h := k.Health(ctx); !strings.Contains(h.Problem, "key lookups") || h.LeaseRemaining == 0 {
		t.Errorf("while lookups fail: %+v", h)
	}
	fails.Store(false)
	if h := k.Health(ctx); h.Problem != "" {
		t.Errorf("afterwards: %+v", h)
	}
	fleet.Want(t, "afterwards", fleet.Ask(k, token), keystore.OK)
}

// TestAuditChangesWhileItIsRead checks reads of an audit log that changes meanwhile: a
// verification finds changed and missing rows, an export reports missing ones at the end, and both
// leave out new rows.
func TestAuditChangesWhileItIsRead(t *testing.T) {
	remove := func(d fleet.Fleet, where string) {
		d.Tamper("DROP TRIGGER audit_delete", "DROP TRIGGER touched_delete",
			"DELETE FROM touched WHERE "+where, "DELETE FROM audit WHERE "+where)
	}
	for _, row := range []struct {
		name           string
		change         func(t *testing.T, d fleet.Fleet, k *manage.Keystore)
		wrong          int64
		verdict, error string
	}{
		{"longer", func(t *testing.T, _ fleet.Fleet, k *manage.Keystore) {
			fleet.Mint(t, k, manage.KeySpec{})
		}, 0, "", ""},
		{"shorter", func(_ *testing.T, d fleet.Fleet, _ *manage.Keystore) { remove(d, "seq = 3") },
			3, "row 3 is missing", "rows after 2 are missing"},
		{"empty", func(_ *testing.T, d fleet.Fleet, _ *manage.Keystore) { remove(d, "true") },
			1, "row 1 is missing", "rows after 0 are missing"},
		{"another end", func(t *testing.T, d fleet.Fleet, k *manage.Keystore) {
			remove(d, "seq = 3")
			fleet.Mint(t, k, manage.KeySpec{})
		}, 3, "row 3 has changed", ""},
		{"a gap", func(t *testing.T, d fleet.Fleet, k *manage.Keystore) { remove(d, "seq = 2") },
			2, "row 2 is missing", ""},
		{"a gap at the end", func(t *testing.T, d fleet.Fleet, k *manage.Keystore) {
			fleet.Mint(t, k, manage.KeySpec{})
			remove(d, "seq = 3")
		}, 3, "row 3 is missing", "rows after 2 are missing"},
		{"a changed row", func(_ *testing.T, d fleet.Fleet, _ *manage.Keystore) {
			d.Tamper("DROP TRIGGER audit_update", "UPDATE audit SET actor = 'x' WHERE seq = 2")
		}, 2, "row 2 or the row before it has been changed", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			read := func(read func(k *manage.Keystore) error) error {
				d := fleet.New(t)
				k, db := nodeWithReads(d)
				for range 3 {
					fleet.Mint(t, k, manage.KeySpec{})
				}
				var once sync.Once
				db.auditChain = func(context.Context) error {
					once.Do(func() { row.change(t, d, k) })
					return nil
				}
				return read(k)
			}
			err := read(func(k *manage.Keystore) error {
				v, err := k.VerifyAudit(ctx, fleet.Root)
				if v.Wrong != row.wrong || row.wrong == 0 && v.Rows != 3 ||
					!strings.HasPrefix(v.Cause, row.verdict) {
					t.Errorf("%+v, want %q", v, row.verdict)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			err = read(func(k *manage.Keystore) error {
				return k.ExportAudit(ctx, fleet.Root, func(rows []keystore.AuditRow) error {
					if last := rows[len(rows)-1].Seq; last > 3 {
						t.Errorf("a row from after the beginning: %d", last)
					}
					return nil
				})
			})
			if (err == nil) != (row.error == "") || err != nil &&
				!strings.Contains(err.Error(), row.error) {
				t.Errorf("the export: %v, want %q", err, row.error)
			}
		})
	}
	k, db := nodeWithReads(fleet.New(t))
	if v, err := k.VerifyAudit(ctx, fleet.Root); err != nil || v != (manage.AuditVerdict{}) {
		t.Errorf("an empty log: %+v, %v", v, err)
	}
	fleet.Mint(t, k, manage.KeySpec{})
	stop := errors.New("enough")
	if err := k.ExportAudit(ctx, fleet.Root,
		func([]keystore.AuditRow) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a stopped export: %v", err)
	}
	db.auditChain = func(context.Context) error { return fleet.ErrCut }
	if err := k.ExportAudit(ctx, fleet.Root,
		func([]keystore.AuditRow) error { return nil }); !errors.Is(err, fleet.ErrCut) {
		t.Errorf("an export without a database: %v", err)
	}
}
