//go:build unix

package sqldb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

// server starts, with the first test that asks, the one that all tests share.
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
	keystoretest.TestDatabase(t, func(t *testing.T) keystoretest.Store { return newPostgresStore(t) })
}

// TestPostgresSchema: three processes start at once on an empty schema; nothing is made outside it, and two do not mix.
func TestPostgresSchema(t *testing.T) {
	ctx := context.Background()
	one, two := newPostgresStore(t), newPostgresStore(t)
	outside := func() string {
		t.Helper()
		out, err := one.Query("", `SELECT string_agg(oid::regclass::text, ' ' ORDER BY 1) FROM pg_class
			WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^(pg_|information_schema|test_)')`)
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
		t.Errorf("outside of the schemas there is %q, before it was %q", after, before)
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
	// Typed where the search_path is another, the triggers still find their own schema.
	if err := one.Server.Exec(two.schema, "UPDATE "+one.schema+".namespaces SET name = 'by hand'"); err != nil {
		t.Fatal(err)
	}
	// A transaction takes one revision in each, and what is rolled back takes none.
	both := fmt.Sprintf("BEGIN; UPDATE %[1]s.namespaces SET name = 'a'; SAVEPOINT s; UPDATE %[2]s.namespaces SET name = 'b'; ROLLBACK TO s; UPDATE %[2]s.namespaces SET name = 'c'; COMMIT", one.schema, two.schema)
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
	if err := s.Exec("INSERT INTO schema_version (version_id, is_applied) VALUES (99, true)"); err != nil {
		t.Fatal(err)
	}
	_, err := OpenPostgres(context.Background(), s.URL(s.schema))
	if !errors.Is(err, keystore.ErrNewerSchema) {
		t.Fatal(err)
	}
}

// TestPostgresListener: changes are told of at once, and so are those that a connection may have missed that was cut, or that listened for
// the schema before a restore made it anew.
func TestPostgresListener(t *testing.T) {
	s := newPostgresStore(t)
	deploy := func() {
		t.Helper()
		d := openOnce(t, s.URL(s.schema))
		if _, err := d.Deployment(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	deploy()
	p, err := newPostgres(s.URL(s.schema) + "&application_name=listener")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 1)
	ctx, stop := context.WithCancel(t.Context())
	var listener sync.WaitGroup
	listener.Go(func() {
		p.listen(ctx, func() {
			select {
			case told <- struct{}{}:
			case <-ctx.Done():
			}
		})
	})
	t.Cleanup(listener.Wait)
	t.Cleanup(stop)
	await := func(what string) {
		t.Helper()
		select {
		case <-told:
		case <-time.After(time.Minute):
			t.Fatal("not told of ", what)
		}
	}
	await("what was there before")
	for name, disturb := range map[string]func() error{
		"a cut": func() error {
			_, err := s.Query("", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'listener'")
			return err
		},
		"a restore": func() error {
			return s.Server.Exec("", fmt.Sprintf("BEGIN; DROP SCHEMA %[1]s CASCADE; CREATE SCHEMA %[1]s; COMMIT", s.schema))
		},
	} {
		if err := disturb(); err != nil {
			t.Fatal(name, ": ", err)
		}
		await("what was missed in " + name)
		if name == "a restore" {
			deploy()
			await("the restored tables")
		}
		if err := s.Exec("UPDATE namespaces SET name = 'after " + name + "'"); err != nil {
			t.Fatal(err)
		}
		await("a change after " + name)
	}
}

// TestPostgresStandby: what a standby knows may be old, so it answers nothing; of several servers the primary is found.
func TestPostgresStandby(t *testing.T) {
	ctx := context.Background()
	primary := postgrestest.StartFor(t)
	if d, err := OpenPostgres(ctx, primary.URL("")); err != nil {
		t.Fatal(err)
	} else if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	standby := primary.Standby(t)
	for _, options := range []string{"", "?target_session_attrs=any", "?target_session_attrs=read-write", "?target_session_attrs=standby"} {
		_, err := OpenPostgres(ctx, primary.URL("", standby.Address())+options)
		if err == nil || !strings.Contains(err.Error(), "standby or read-only") || strings.Contains(err.Error(), postgrestest.Password) {
			t.Errorf("%s: %v", options, err)
		}
		if Unreachable(err) {
			t.Errorf("a standby alone is no server that may come: %v", err)
		}
	}
	if _, err := OpenPostgres(ctx, primary.URL("", "127.0.0.1:1", standby.Address())); !Unreachable(err) {
		t.Errorf("a standby, and a server that is away and may be the primary: %v", err)
	}
	both := openOnce(t, primary.URL("", standby.Address(), primary.Address()))
	if _, err := both.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}

	// A pooler that sends reads to the standby: the connections were made elsewhere than where the questions go.
	config, _, err := parsePostgres(primary.URL("", standby.Address()))
	if err != nil {
		t.Fatal(err)
	}
	config.ValidateConnect = nil
	both.postgres.config.Store(config)
	both.readers.SetMaxIdleConns(0)
	both.lease.SetMaxIdleConns(0)
	for name, call := range map[string]func() error{
		"Renew":       func() error { _, err := both.Renew(ctx, "i", keystore.Position{}); return err },
		"Nodes":       func() error { _, err := both.Nodes(ctx); return err },
		"Changes":     func() error { _, err := both.Changes(ctx, 0, 0); return err },
		"KeyByDigest": func() error { _, _, err := both.KeyByDigest(ctx, keystore.Digest{}); return err },
		"Key":         func() error { _, err := both.Key(ctx, "k"); return err },
		"Keys":        func() error { _, _, err := both.Keys(ctx, keystore.KeyFilter{}, "", 1); return err },
		"CountKeys":   func() error { _, err := both.CountKeys(ctx); return err },
		"Policy":      func() error { _, err := both.Policy(ctx, 0); return err },
		"Audits":      func() error { _, _, err := both.Audits(ctx, keystore.AuditFilter{}, "", 1); return err },
		"AuditChain":  func() error { return both.AuditChain(ctx, 0, func(*keystore.AuditRow) error { return nil }) },
		"Acknowledge": func() error { return both.Acknowledge(ctx, "i", 1) },
		"RecordUse":   func() error { return both.RecordUse(ctx, map[string]time.Time{"k": time.Now()}) },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "standby or read-only") {
			t.Errorf("%s on a standby: %v", name, err)
		}
	}

	// The primary is lost, the standby takes its place: whoever names both goes on.
	named := openOnce(t, primary.URL("", primary.Address(), standby.Address()))
	at, err := named.Update(ctx, func(tx keystore.Tx) error { return tx.InsertNamespace(&keystore.Namespace{ID: "n"}) })
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // not synchronous here
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

// TestPostgresHeadIsHeld: an operator's transaction that holds the head's lock delays changes, not answers, and not for ever.
func TestPostgresHeadIsHeld(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := newPostgresStore(t)
	d := s.Open(t)
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	short := postgresDialect
	short.begin = "SELECT begin_change('100', '10000')"
	hasty := openOnce(t, s.URL(s.schema+"_none,"+s.schema)) // any that is there
	hasty.dialect = short
	holder := openOnce(t, s.URL(s.schema))
	operator, err := holder.writer.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Rollback()
	if _, err := operator.ExecContext(ctx, "SELECT * FROM head FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Renew(ctx, "nobody", keystore.Position{}); err != nil {
		t.Error(err)
	}
	if err := d.Join(ctx, keystore.Node{Incarnation: "i"}); err != nil {
		t.Error(err)
	}
	_, err = hasty.Update(ctx, func(keystore.Tx) error { t.Error("changed"); return nil })
	if err == nil || !strings.Contains(err.Error(), "another transaction holds the lock") {
		t.Error(err)
	}
	if err := operator.Rollback(); err != nil {
		t.Error(err)
	}

	// A process that stands still in the middle of a change loses the lock.
	short.begin = "SELECT begin_change('10000', '50')"
	hasty.dialect = short
	_, err = hasty.Update(ctx, func(tx keystore.Tx) error {
		late := tx.InsertNamespace(&keystore.Namespace{ID: "half"}) // on a slow machine it has lost the lock before
		_, err := d.Update(ctx, func(tx keystore.Tx) error { return tx.InsertNamespace(&keystore.Namespace{ID: "whole"}) })
		return errors.Join(late, err)
	})
	if err == nil {
		t.Error("the change was committed")
	}
	if p, err := d.Policy(ctx, 0); err != nil || len(p.Namespaces) != 2 {
		t.Errorf("policy %+v, %v", p, err)
	}
}

// TestPostgresImportHoldsUpNoNode: while a change has the head's lock, nodes come, live and go.
func TestPostgresImportHoldsUpNoNode(t *testing.T) {
	s := newPostgresStore(t)
	d, other := s.Open(t), openOnce(t, s.URL(s.schema))
	if _, err := d.Deployment(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	_, err := d.Update(context.Background(), func(tx keystore.Tx) error {
		var keys []*keystore.Key
		for n := range 1000 {
			keys = append(keys, benchKey(n, tx.Now()))
		}
		if _, err := tx.InsertKeys(keys); err != nil {
			return err
		}
		// Waiting for this transaction would end with the time that it may idle.
		ctx, cancel := context.WithTimeout(context.Background(), maxIdle)
		defer cancel()
		for _, call := range []func() error{
			func() error { return other.Join(ctx, keystore.Node{Incarnation: "i"}) },
			func() error { _, err := other.Renew(ctx, "i", keystore.Position{}); return err },
			func() error { return other.Acknowledge(ctx, "i", 1) },
			func() error { _, err := other.Nodes(ctx); return err },
			func() error { _, _, err := other.KeyByDigest(ctx, benchDigest(1)); return err },
			func() error { return other.RecordUse(ctx, map[string]time.Time{keys[0].ID: time.Now()}) },
			func() error { return other.Fence(ctx, "i") },
			func() error { return other.Remove(ctx, "i") },
		} {
			if err := call(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPostgresImportAfterMints: plans that were made for a few keys are not kept for many.
func TestPostgresImportAfterMints(t *testing.T) {
	s := newPostgresStore(t)
	d := s.Open(t)
	if _, err := d.Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	const mints, imports, batch = 20, 12_000, 1000
	insert := func(from, to int, more func(keystore.Tx) error) {
		t.Helper()
		_, err := d.Update(t.Context(), func(tx keystore.Tx) error {
			for ; from < to; from += batch {
				var keys []*keystore.Key
				for n := from; n < min(to, from+batch); n++ {
					keys = append(keys, benchKey(n, tx.Now()))
				}
				if refused, err := tx.InsertKeys(keys); err != nil || len(refused) > 0 {
					return fmt.Errorf("%v refused, %w", refused, err)
				}
			}
			return more(tx)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range mints {
		insert(n, n+1, func(keystore.Tx) error { return nil })
		if n == mints/2 { // that there are few is then known, and no guess any more
			if err := s.Exec("ANALYZE keys, secrets"); err != nil {
				t.Fatal(err)
			}
		}
	}
	var scanned int64
	insert(mints, mints+imports, func(in keystore.Tx) error {
		return in.(*tx).row("SELECT sum(seq_tup_read) FROM pg_stat_xact_user_tables WHERE schemaname = current_schema() AND relname IN ('keys', 'secrets')").Scan(&scanned)
	})
	if scanned > 30_000 { // as long as a table is small, reading it is best; 66,000 is one statement that goes on with it
		t.Errorf("%d keys were imported, and %d rows read one after the other", imports, scanned)
	}
	for _, table := range []string{"keys", "secrets"} {
		if known, err := s.Query(s.schema, "SELECT reltuples FROM pg_class WHERE oid = '"+table+"'::regclass"); err != nil || known != fmt.Sprint(mints+imports) {
			t.Errorf("PostgreSQL plans for %s rows in %s, %v", known, table, err)
		}
	}
}

// TestPostgresAcknowledgesUnforced: a node's acknowledgement waits for no standby, and a change does.
func TestPostgresAcknowledgesUnforced(t *testing.T) {
	ctx := t.Context()
	s := postgrestest.StartFor(t)
	d := openOnce(t, s.URL(s.Schema(t)))
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	awaitNobody(t, s, d)
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := d.Acknowledge(bounded, "i", 1); err != nil {
		t.Fatal(err)
	}
	nodes, err := d.Nodes(ctx)
	if err != nil || len(nodes) != 1 || nodes[0].Acknowledged != 1 {
		t.Errorf("%+v %v", nodes, err)
	}
}

// awaitNobody has a node i join, names a synchronous standby that is not there, and returns when commits wait for it. They no longer do after forget, at the latest at the test's end.
func awaitNobody(t *testing.T, s *postgrestest.Server, d keystore.Database) (forget func()) {
	t.Helper()
	if err := d.Join(t.Context(), keystore.Node{Incarnation: "i"}); err != nil {
		t.Fatal(err)
	}
	standbys := func(names string) {
		for _, statement := range []string{"ALTER SYSTEM SET synchronous_standby_names = '" + names + "'", "SELECT pg_reload_conf()"} {
			if err := s.Exec("", statement); err != nil {
				t.Error(err)
			}
		}
	}
	forget = func() { standbys("") }
	t.Cleanup(forget)
	standbys("nobody")
	for waits := false; !waits; { // as soon as the server has read it
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		waits = d.Fence(soon, "i") != nil
		cancel()
	}
	return forget
}

// TestPostgresWaitIsCancelled: PostgreSQL calls a commit made whose wait for a standby was cancelled by hand, and we do not.
func TestPostgresWaitIsCancelled(t *testing.T) {
	s := postgrestest.StartFor(t)
	d := openOnce(t, s.URL(s.Schema(t)))
	if _, err := d.Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	insert := func(id string) error {
		_, err := d.Update(t.Context(), func(kt keystore.Tx) error { return kt.InsertNamespace(&keystore.Namespace{ID: id}) })
		return err
	}
	forget := awaitNobody(t, s, d)
	updated := make(chan error)
	go func() { updated <- insert("n") }()
	cancel := func() error {
		return s.Exec("", "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	}
	for done := false; !done; {
		select {
		case err := <-updated:
			if err == nil || !strings.Contains(err.Error(), "a failover may lose it") {
				t.Errorf("a commit that no standby has: %v", err)
			}
			done = true
		default:
			if err := cancel(); err != nil {
				t.Fatal(err)
			}
		}
	}
	forget()
	if err := insert("m"); err != nil {
		t.Errorf("a commit that waits for none: %v", err)
	}
}

// TestPostgresRestart cuts all connections, as a crash of the server does: what was answered is there, and everything goes on.
func TestPostgresRestart(t *testing.T) {
	ctx := context.Background()
	s := postgrestest.StartFor(t)
	d := openOnce(t, s.URL(""))
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	at, err := d.Update(ctx, func(tx keystore.Tx) error { return tx.InsertNamespace(&keystore.Namespace{ID: "n"}) })
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Update(ctx, func(tx keystore.Tx) error {
		if err := tx.InsertNamespace(&keystore.Namespace{ID: "lost"}); err != nil {
			return err
		}
		return s.Halt()
	})
	if err == nil || strings.Contains(err.Error(), postgrestest.Password) {
		t.Fatal(err)
	}
	_, err = d.Renew(ctx, "nobody", keystore.Position{})
	if err == nil || strings.Contains(err.Error(), postgrestest.Password) {
		t.Fatal(err)
	}
	t.Log(err)
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		h, err := d.Renew(ctx, "nobody", keystore.Position{})
		if err == nil && h.Revision == at {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(h, err)
		}
	}
	if _, err := d.Update(ctx, func(tx keystore.Tx) error { return tx.DeleteNamespace("n") }); err != nil {
		t.Fatal(err)
	}
}

// TestPostgresCutConnections: those in the pool that have been cut are no one's trouble but ours.
func TestPostgresCutConnections(t *testing.T) {
	ctx := context.Background()
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema)+"&application_name=cut")
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Renew":       func() error { _, err := d.Renew(ctx, "i", keystore.Position{}); return err },
		"Nodes":       func() error { _, err := d.Nodes(ctx); return err },
		"Changes":     func() error { _, err := d.Changes(ctx, 0, 0); return err },
		"KeyByDigest": func() error { _, _, err := d.KeyByDigest(ctx, keystore.Digest{}); return err },
		"Keys":        func() error { _, _, err := d.Keys(ctx, keystore.KeyFilter{}, "", 1); return err },
		"Policy":      func() error { _, err := d.Policy(ctx, 0); return err },
		"Acknowledge": func() error { return d.Acknowledge(ctx, "i", 1) },
		"Update": func() error {
			_, err := d.Update(ctx, func(tx keystore.Tx) error { _, err := tx.Policy(0); return err })
			return err
		},
	} {
		var wg sync.WaitGroup
		for range 2 * readers { // fills the pools
			wg.Go(func() {
				if err := call(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if _, err := s.Query("", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cut'"); err != nil {
			t.Fatal(err)
		}
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPostgresUnknownCommit: a commit whose answer is lost is not called a failure.
func TestPostgresUnknownCommit(t *testing.T) {
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema))
	_, err := d.Update(context.Background(), func(kt keystore.Tx) error {
		if err := kt.InsertNamespace(&keystore.Namespace{ID: "n"}); err != nil {
			return err
		}
		// The commit meets a trigger that ends its own connection.
		_, err := kt.(*tx).exec("CREATE FUNCTION pg_temp.cut() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'")
		if err == nil {
			_, err = kt.(*tx).exec("CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON namespaces DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.cut()")
		}
		if err != nil {
			return err
		}
		return kt.InsertNamespace(&keystore.Namespace{ID: "m"})
	})
	if err == nil || !strings.Contains(err.Error(), "may have been made") {
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
		if _, _, err := d.Keys(ctx, keystore.KeyFilter{Text: odd, Owner: odd, Role: odd, Namespaces: []string{odd, "a"}, Visible: []string{odd}, OrOwner: odd}, "1_"+odd, 5); err != nil {
			t.Errorf("%q: %v", odd, err)
		}
		if _, _, err := d.Audits(ctx, keystore.AuditFilter{Actor: odd, Namespaces: []string{odd}}, "", 5); err != nil {
			t.Errorf("%q: %v", odd, err)
		}
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			if err := tx.DeleteNamespace(odd); !errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("%q: %v", odd, err)
			}
			if _, err := tx.KeysHolding(keystore.RoleID{Namespace: odd, Name: odd}, []string{odd}, 5); err != nil {
				t.Errorf("%q: %v", odd, err)
			}
			return tx.Remember("caller", odd, "made", time.Time{})
		})
		if err != nil {
			t.Errorf("%q: %v", odd, err)
		}
	}
}

func TestPostgresOpenErrors(t *testing.T) {
	s := postgresServer(t)
	const secret, away = "hunter2", "cannot be reached"
	hung, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, and nobody says anything
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	for _, row := range []struct{ url, want string }{
		{"", "this is not a PostgreSQL URL"},
		{"host=localhost password=" + secret, "this is not a PostgreSQL URL"},
		{"mysql://u:" + secret + "@h/db", "this is not a PostgreSQL URL"},
		{"postgres://u:" + secret + "/x@h:5432/db", "this is not a PostgreSQL URL"},
		{"postgres://u:a#" + secret + "@h/db", "this is not a PostgreSQL URL"},
		{"postgres://u:%zz" + secret + "@h/db", "this is not a PostgreSQL URL"},
		{"postgres://u:" + secret + "@h/db?sslmode=" + secret, "sslmode is invalid"},
		{"postgres://u:" + secret + "@h/db?sslmode=sometimes", "sslmode"},
		{"postgres://u:" + secret + "@h/db?target_session_attrs=best", "target_session_attrs"},
		{"postgres://u:" + secret + "@h/db?sslmode=verify-full&sslrootcert=/no/such/file", "/no/such/file"},
		{"postgres://u:" + secret + "@" + s.Address() + "/db", "refuses the user or its password"},
		{"postgres://postgres:" + secret + "@" + s.Address() + "/postgres", "refuses the user or its password"},
		{"postgres://u:" + secret + "@127.0.0.1:1/db", away},
		{"postgres://u:" + secret + "@127.0.0.1:1,127.0.0.1:2/db", away},
		{"postgres://u:" + secret + "@" + hung.Addr().String() + "/db?connect_timeout=1", away},
		{"postgres://u:" + secret + "@no-such-host.invalid/db", away},
		{"postgres:///db?host=/no/such/directory&user=u&password=" + secret, away},
		{"postgres://u:" + secret + "@127.0.0.1:1," + s.Address() + "/db", "refuses the user or its password"},
		{s.URL("") + "?sslmode=require", "server refused TLS connection"},
		{strings.Replace(s.URL(""), "/postgres?", "/none?", 1) + "?search_path=no_such_schema", "no schema that the search_path names is there"},
		{strings.TrimSuffix(s.URL(""), "postgres") + "none", "make the database first"},
	} {
		d, err := OpenPostgres(context.Background(), row.url)
		if err == nil {
			d.Close()
			t.Errorf("opened with %q wanted", row.want)
			continue
		}
		text := err.Error()
		if !strings.Contains(text, row.want) || strings.Contains(text, secret) || strings.Contains(text, "\n") || strings.Contains(text, "p%40ss") {
			t.Errorf("%s\nwant %q, on one line, without the password", text, row.want)
		}
		if Unreachable(err) != (row.want == away) {
			t.Errorf("unreachable is %v for %s", Unreachable(err), text)
		}
	}
}

// TestPostgresSettings: what breaks a promise is refused, as told by a function that stands before the one that knows.
func TestPostgresSettings(t *testing.T) {
	s := newPostgresStore(t)
	for _, row := range []struct{ commit, lies, want string }{
		{"on", "('server_version_num', '120022'), ('server_version', '12.22')", "this server is PostgreSQL 12.22, and 13 is the oldest that will do"},
		{"off", "('', '')", "synchronous_commit is off"},
		{"local", "('synchronous_standby_names', 'ANY 1 (a, b)')", "ALTER ROLE … SET synchronous_commit = on"},
		{"local", "('synchronous_standby_names', '')", ""},
		{"remote_write", "('synchronous_standby_names', 'ANY 1 (a, b)')", ""},
	} {
		if err := s.Exec(`CREATE OR REPLACE FUNCTION current_setting(text) RETURNS text LANGUAGE sql AS $$
			SELECT coalesce((SELECT value FROM (VALUES ` + row.lies + `) AS v (name, value) WHERE name = $1), pg_catalog.current_setting($1)) $$`); err != nil {
			t.Fatal(err)
		}
		d, err := OpenPostgres(t.Context(), s.URL(s.schema+",pg_catalog")+"&synchronous_commit="+row.commit)
		if err == nil {
			err = d.Close()
		}
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%+v: %v", row, err)
		}
	}
}

// TestPostgresChangesAreNotCut: a change takes its time, whatever the role's timeouts are.
func TestPostgresChangesAreNotCut(t *testing.T) {
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema)+"&statement_timeout=1h")
	_, err := d.Update(t.Context(), func(in keystore.Tx) error {
		var left string
		err := in.(*tx).row("SELECT coalesce(string_agg(name || ' = ' || setting, ', '), '') FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout') AND setting <> '0'").Scan(&left)
		if left != "" {
			t.Error(left)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.writer.ExecContext(t.Context(), "SET statement_timeout = '1ms'"); err != nil {
		t.Fatal(err)
	}
	if err := d.exec(t.Context(), d.writer, "a question", "SELECT pg_sleep(60)"); err == nil || !strings.Contains(err.Error(), "SET statement_timeout") {
		t.Errorf("what is no change and takes too long: %v", err)
	}
}

// TestPostgresPooler: what poolers that are set up otherwise than we need say, as PgBouncer 1.18 does.
func TestPostgresPooler(t *testing.T) {
	for want, e := range map[string]pgconn.PgError{
		"ALTER ROLE":           {Severity: "FATAL", Code: "08P01", Message: "unsupported startup parameter: search_path"},
		"pool_mode = session":  {Severity: "ERROR", Code: "42P05", Message: `prepared statement "stmtcache_1" already exists`},
		"pool_mode = session)": {Severity: "ERROR", Code: "26000", Message: `prepared statement "stmtcache_1" does not exist`},
	} {
		if err := explainPostgres(&e); !strings.Contains(err.Error(), want) || Unreachable(err) {
			t.Error(err)
		}
	}
	if err := explainPostgres(&pgconn.PgError{Severity: "FATAL", Code: "08P01", Message: "server login has been failing"}); !Unreachable(err) {
		t.Errorf("the server behind a pooler is away: %v", err)
	}
}

func TestPostgresIdentity(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://u:hunter2@Host:5432/db":                               "u@host:5432/db",
		"postgresql://u:other@host:5432/db?sslmode=disable":               "u@host:5432/db",
		"postgres://u@a:1,b:2/db?search_path=keys&password=hunter2":       "u@a:1,b:2/db search_path=keys",
		"postgres:///db?host=/run/postgresql&user=me&sslpassword=hunter2": "me@/run/postgresql/db",
	} {
		if got, err := PostgresIdentity(url); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

// TestPostgresReconnect: the password changes under a running process.
func TestPostgresReconnect(t *testing.T) {
	ctx := context.Background()
	s := newPostgresStore(t)
	if err := s.Exec("CREATE ROLE rotating LOGIN PASSWORD 'first'; GRANT CREATE, USAGE ON SCHEMA " + s.schema + " TO rotating"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Exec("DROP OWNED BY rotating; DROP ROLE rotating"); err != nil {
			t.Error(err)
		}
	})
	url := func(password string) string {
		return "postgres://rotating:" + password + "@" + s.Address() + "/postgres?search_path=" + s.schema
	}
	d := openOnce(t, url("first"))
	if err := s.Exec("ALTER ROLE rotating PASSWORD 'second'"); err != nil {
		t.Fatal(err)
	}
	d.lease.SetMaxIdleConns(0)
	if _, err := d.Nodes(ctx); err == nil || !strings.Contains(err.Error(), "refuses the user or its password") {
		t.Fatal(err)
	}
	if err := d.Reconnect(s.URL("")); err == nil {
		t.Fatal("another database was taken for the same")
	}
	if err := d.Reconnect(url("second")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Nodes(ctx); err != nil {
		t.Fatal(err)
	}
}
