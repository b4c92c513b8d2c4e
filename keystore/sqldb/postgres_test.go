//go:build unix

package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

// server starts the server that all tests share, at the first call.
var server = sync.OnceValues(func() (*postgrestest.Server, error) { return postgrestest.Start() })

var serverStarted bool

func postgresServer(t testing.TB) *postgrestest.Server {
	t.Helper()
	s, err := server()
	if err != nil {
		t.Fatal(err)
	}
	serverStarted = true
	return s
}

func stopServer() {
	if !serverStarted {
		return
	}
	if s, err := server(); err == nil {
		if err := s.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping PostgreSQL:", err)
		}
	}
}

// postgresStore is a schema for the conformance suite.
type postgresStore struct {
	*postgrestest.Server
	schema string
}

func newPostgresStore(t *testing.T) postgresStore {
	t.Helper()
	s := postgresServer(t)
	return postgresStore{s, s.Schema(t)}
}

func (s postgresStore) Open(t *testing.T) keystore.Database {
	t.Helper()
	return openOnce(t, s.URL(s.schema))
}

func openOnce(t *testing.T, url string) *closeOnce {
	t.Helper()
	d, err := OpenPostgres(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	once := &closeOnce{DB: d}
	t.Cleanup(func() { once.Close() })
	return once
}

func (s postgresStore) Exec(statement string) error { return s.Server.Exec(s.schema, statement) }

func TestPostgres(t *testing.T) {
	t.Parallel()
	keystoretest.TestDatabase(t, func(t *testing.T) keystoretest.Store {
		return upgradedStore{newPostgresStore(t), postgresDialect, new(bool)}
	})
}

// TestPostgresSchema: several processes start at the same time on two empty schemas. They create
// nothing outside, and the deployments do not mix.
func TestPostgresSchema(t *testing.T) {
	ctx := context.Background()
	one, two := newPostgresStore(t), newPostgresStore(t)
	outside := func() string {
		t.Helper()
		out, err := one.Query("", `SELECT string_agg(oid::regclass::text, ' ' ORDER BY 1)
			FROM pg_class WHERE relnamespace NOT IN (
				SELECT oid FROM pg_namespace WHERE nspname ~ '^(pg_|information_schema|test_)')`)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := outside()
	var wg sync.WaitGroup
	for i := range 6 {
		store := []postgresStore{one, two}[i%2]
		wg.Go(func() {
			d, err := OpenPostgres(ctx, store.URL(store.schema))
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			if _, err := d.Deployment(ctx, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if after := outside(); after != before {
		t.Errorf("relations outside of the schemas: %q, before: %q", after, before)
	}
	first, second := openOnce(t, one.URL(one.schema)), openOnce(t, two.URL(two.schema))
	a, err := first.Deployment(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := second.Deployment(ctx, nil)
	if err != nil || a == b {
		t.Fatalf("two schemas hold the same deployment: %v", err)
	}
	// The triggers find their own schema, whatever the search_path is.
	if err := one.Server.Exec(two.schema,
		"UPDATE "+one.schema+".namespaces SET name = 'by hand'"); err != nil {
		t.Fatal(err)
	}
	// A transaction takes one revision in each schema. A rolled back change takes none.
	both := fmt.Sprintf("BEGIN; UPDATE %[1]s.namespaces SET name = 'a'; SAVEPOINT s; UPDATE "+
		"%[2]s.namespaces SET name = 'b'; ROLLBACK TO s; UPDATE %[2]s.namespaces SET name = 'c'; "+
		"COMMIT", one.schema, two.schema)
	if err := one.Server.Exec("", both); err != nil {
		t.Fatal(err)
	}
	for d, want := range map[*closeOnce]keystore.Revision{first: 3, second: 2} {
		if h, err := d.Renew(ctx, "nobody", keystore.Position{}); err != nil || h.Revision != want {
			t.Errorf("the head is %d (%v), want %d", h.Revision, err, want)
		}
	}
}

func TestPostgresNewerSchema(t *testing.T) {
	s := newPostgresStore(t)
	s.Open(t)
	const newer = "INSERT INTO schema_version (version_id, is_applied) VALUES (99, true)"
	if err := s.Exec(newer); err != nil {
		t.Fatal(err)
	}
	_, err := OpenPostgres(context.Background(), s.URL(s.schema))
	if !errors.Is(err, keystore.ErrNewerSchema) {
		t.Fatal(err)
	}
}

// TestPostgresStandby: no call reads from a standby, whose data may be outdated. Of several servers
// the primary is used.
func TestPostgresStandby(t *testing.T) {
	ctx := context.Background()
	primary := postgrestest.StartFor(t)
	if d, err := OpenPostgres(ctx, primary.URL("")); err != nil {
		t.Fatal(err)
	} else if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	standby := primary.Standby(t)
	for _, options := range []string{"", "?target_session_attrs=any",
		"?target_session_attrs=read-write", "?target_session_attrs=standby"} {
		_, err := OpenPostgres(ctx, primary.URL("", standby.Address())+options)
		if err == nil || !strings.Contains(err.Error(), "standby or read-only") ||
			strings.Contains(err.Error(), postgrestest.Password) {
			t.Errorf("%s: %v", options, err)
		}
		if Unreachable(err) {
			t.Errorf("a standby alone counts as unreachable: %v", err)
		}
	}
	if _, err := OpenPostgres(ctx,
		primary.URL("", "127.0.0.1:1", standby.Address())); !Unreachable(err) {
		t.Errorf("a standby, and an unreachable server that may be the primary: %v", err)
	}
	both := openOnce(t, primary.URL("", standby.Address(), primary.Address()))
	if _, err := both.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}

	// A pooler may send reads to a standby although the connection is to the primary.
	config, _, err := parsePostgres(primary.URL("", standby.Address()))
	if err != nil {
		t.Fatal(err)
	}
	config.ValidateConnect = nil
	both.postgres.config.Store(config)
	for _, pool := range []*sql.DB{both.readers, both.bulk, both.lease, both.uses} {
		pool.SetMaxIdleConns(0)
	}
	for name, call := range map[string]func() error{
		"Renew": func() error {
			_, err := both.Renew(ctx, "i", keystore.Position{})
			return err
		},
		"Nodes":   func() error { _, err := both.Nodes(ctx); return err },
		"Changes": func() error { _, err := both.Changes(ctx, 0, 0); return err },
		"KeyByDigest": func() error {
			_, _, err := both.KeyByDigest(ctx, keystore.Digest{})
			return err
		},
		"Key": func() error { _, err := both.Key(ctx, "k"); return err },
		"Keys": func() error {
			_, _, err := both.Keys(ctx, keystore.KeyFilter{}, "", 1)
			return err
		},
		"CountMatching": func() error {
			_, _, err := both.CountMatching(ctx, keystore.KeyFilter{}, 1)
			return err
		},
		"CountKeys": func() error { _, err := both.CountKeys(ctx); return err },
		"Policy":    func() error { _, err := both.Policy(ctx, keystore.Nowhere); return err },
		"RenewPolicy": func() error {
			_, err := both.RenewPolicy(ctx, keystore.Nowhere)
			return err
		},
		"Audits": func() error {
			_, _, err := both.Audits(ctx, keystore.AuditFilter{}, "", 1)
			return err
		},
		"AuditChain": func() error { _, err := both.AuditChain(ctx, 0, 1); return err },
		"DerivingKey": func() error {
			_, err := both.DerivingKey(ctx, keystore.Digest{})
			return err
		},
		"MemberTokens": func() error {
			_, err := both.MemberTokens(ctx, []string{"m"})
			return err
		},
		"OwnedHomes":    func() error { _, err := both.OwnedHomes(ctx, "m"); return err },
		"CountPrefixes": func() error { _, err := both.CountPrefixes(ctx, nil); return err },
		"MostKeys":      func() error { _, _, err := both.MostKeys(ctx); return err },
		"RefusedKeys": func() error {
			_, err := both.RefusedKeys(ctx, []*keystore.Key{{ID: "k"}})
			return err
		},
		"ReminderPositions": func() error { _, err := both.ReminderPositions(ctx); return err },
		"ExpiringKeys": func() error {
			_, err := both.ExpiringKeys(ctx, keystore.ExpiryPosition{}, time.Now(), 1)
			return err
		},
		"UnusedKeys": func() error {
			_, _, err := both.UnusedKeys(ctx, keystore.UnusedFilter{}, "")
			return err
		},
		"Session":    func() error { _, err := both.Session(ctx, keystore.Digest{}); return err },
		"SessionsOf": func() error { _, err := both.SessionsOf(ctx, keystore.Digest{}); return err },
		"Webhooks":   func() error { _, err := both.Webhooks(ctx, ""); return err },
		"AuditAt":    func() error { _, err := both.AuditAt(ctx, time.Now()); return err },
		"NearQuotas": func() error { _, err := both.NearQuotas(ctx, 1, 1); return err },
		"UsedOperations": func() error {
			_, err := both.UsedOperations(ctx, []string{"k"})
			return err
		},
		"Acknowledge": func() error {
			return both.Acknowledge(ctx, "i", keystore.Position{Revision: 1})
		},
		"RecordUse": func() error {
			return both.RecordUse(ctx, map[string]keystore.LastUse{"k": {At: time.Now()}})
		},
		"Reserve": func() error {
			_, err := both.Reserve(ctx, []keystore.Reservation{{Quota: "q", End: time.Now()}})
			return err
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "standby or read-only") {
			t.Errorf("%s on a standby: %v", name, err)
		}
	}

	// After a failover, a URL that names both servers works.
	named := openOnce(t, primary.URL("", primary.Address(), standby.Address()))
	at, err := named.Update(ctx,
		func(tx keystore.Tx) error { return tx.InsertNamespace(&keystore.Namespace{ID: "n"}) })
	if err != nil {
		t.Fatal(err)
	}
	// The standby is not synchronous here.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out, err := standby.Query("", "SELECT revision FROM head")
		if err == nil && out == fmt.Sprint(at) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the standby does not follow: ", out, err)
		}
	}
	if err := primary.Halt(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		h, err := named.Renew(ctx, "nobody", keystore.Position{})
		if err == nil && h.Revision == at {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(h, err)
		}
	}
}

// TestPostgresWebhooksTogether: two nodes that save the same webhooks in different orders do not
// deadlock: one waits for the other.
func TestPostgresWebhooksTogether(t *testing.T) {
	ctx := t.Context()
	s := newPostgresStore(t)
	first, second := openOnce(t, s.URL(s.schema)), openOnce(t, s.URL(s.schema))
	if _, err := first.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	a, b, c := keystore.Webhook{ID: "a"}, keystore.Webhook{ID: "b"}, keystore.Webhook{ID: "c"}
	if _, err := first.SaveWebhooks(ctx, []keystore.Webhook{a, b, c}); err != nil {
		t.Fatal(err)
	}
	a.Beat, b.Beat, c.Beat = 1, 1, 1
	locked, err := first.writer.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer locked.Rollback()
	if _, err := locked.Exec("SELECT id FROM webhooks WHERE id = 'c' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	var saves sync.WaitGroup
	defer saves.Wait()
	for i, list := range [][]keystore.Webhook{{a, c, b}, {b, a}} {
		saves.Go(func() {
			if _, err := []*closeOnce{first, second}[i].SaveWebhooks(ctx, list); err != nil {
				t.Error(err)
			}
		})
		deadline := time.Now().Add(time.Minute)
		for waiting := ""; waiting != fmt.Sprint(i+1); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s of %d saves wait", waiting, i+1)
			}
			if waiting, err = s.Query("", "SELECT count(*) FROM pg_stat_activity WHERE "+
				"wait_event_type = 'Lock' AND query LIKE 'INSERT INTO webhooks%'"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := locked.Commit(); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresOddTexts(t *testing.T) {
	ctx := context.Background()
	d := newPostgresStore(t).Open(t)
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for _, odd := range []string{"nul\x00", "\xff", "\xed\xa0\x80"} {
		if _, err := d.Key(ctx, odd); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("%q: %v", odd, err)
		}
		if _, _, err := d.Keys(ctx, keystore.KeyFilter{Text: odd,
			Metadata: map[string]string{odd: odd}, Owner: odd, Role: odd,
			Namespaces: []string{odd, "a"}, Visible: []string{odd}, OrOwners: []string{odd}}, "1_"+odd,
			5); err != nil {
			t.Errorf("%q: %v", odd, err)
		}
		if _, _, err := d.Audits(ctx, keystore.AuditFilter{Actor: odd, Namespaces: []string{odd}},
			"", 5); err != nil {
			t.Errorf("%q: %v", odd, err)
		}
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			if err := tx.DeleteNamespace(odd); !errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("%q: %v", odd, err)
			}
			if err := tx.KeysHolding(keystore.RoleID{Namespace: odd, Name: odd}, []string{odd},
				func(*keystore.Key) bool { return true }); err != nil {
				t.Errorf("%q: %v", odd, err)
			}
			return tx.Remember("caller", odd, "made", time.Time{})
		})
		if err != nil {
			t.Errorf("%q: %v", odd, err)
		}
	}
}
