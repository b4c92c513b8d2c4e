//go:build unix

package sqldb

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

// TestPostgresHeadIsHeld: a manual transaction that holds the lock of the head delays changes, for
// a limited time, and nothing else.
func TestPostgresHeadIsHeld(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := newPostgresStore(t)
	d := s.Open(t)
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	short := postgresDialect
	short.begin = beginChange(100*time.Millisecond, 10*time.Second)
	hasty := openOnce(t, s.URL(s.schema+"_none,"+s.schema)) // uses the first existing schema
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
	if _, err := d.Reserve(ctx, []keystore.Reservation{{Quota: "q", End: time.Now()}}); err != nil {
		t.Error(err)
	}
	_, err = hasty.Update(ctx, func(keystore.Tx) error { t.Error("changed"); return nil })
	if err == nil || !strings.Contains(err.Error(), "another transaction holds the lock") {
		t.Error(err)
	}
	if err := operator.Rollback(); err != nil {
		t.Error(err)
	}

	// A process that hangs in the middle of a change loses the lock.
	short.begin = beginChange(10*time.Second, 50*time.Millisecond)
	hasty.dialect = short
	_, err = hasty.Update(ctx, func(tx keystore.Tx) error {
		// On a slow machine it may have lost the lock already.
		late := tx.InsertNamespace(&keystore.Namespace{ID: "half"})
		_, err := d.Update(ctx,
			func(tx keystore.Tx) error {
				return tx.InsertNamespace(&keystore.Namespace{ID: "whole"})
			})
		return errors.Join(late, err)
	})
	if err == nil {
		t.Error("the change was committed")
	}
	if p, err := d.Policy(ctx, keystore.Nowhere); err != nil || len(p.Namespaces) != 2 {
		t.Errorf("policy %+v, %v", p, err)
	}
}

// TestPostgresAcknowledgesUnforced: a node's acknowledgement waits for no standby.
func TestPostgresAcknowledgesUnforced(t *testing.T) {
	ctx := t.Context()
	s := postgrestest.StartFor(t)
	d := openOnce(t, s.URL(s.Schema(t)))
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	awaitMissingStandby(t, s, d)
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	head, err := d.Renew(bounded, "i", keystore.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Acknowledge(bounded, "i", head.Position); err != nil {
		t.Fatal(err)
	}
	nodes, err := d.Nodes(ctx)
	if err != nil || len(nodes) != 1 || nodes[0].Acknowledged != head.Revision {
		t.Errorf("%+v %v", nodes, err)
	}
}

// TestPostgresUsesUnforced: uses of keys and sessions are recorded without waiting for a standby.
func TestPostgresUsesUnforced(t *testing.T) {
	s := postgrestest.StartFor(t)
	d := openOnce(t, s.URL(s.Schema(t)))
	if _, err := d.Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	id := keystore.DigestOf("a session")
	if err := d.InsertSession(t.Context(),
		keystore.Session{ID: id, CreatedAt: now, UsedAt: now}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Update(t.Context(), func(tx keystore.Tx) error {
		_, err := tx.InsertKeys([]*keystore.Key{{ID: "k", CreatedAt: now}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	awaitMissingStandby(t, s, d)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	later := now.Add(time.Minute)
	if err := d.RecordUse(ctx, map[string]keystore.LastUse{"k": {At: later}}); err != nil {
		t.Error(err)
	}
	if err := d.UseSession(ctx, id, later); err != nil {
		t.Error(err)
	}
	if err := d.DeleteSessions(ctx, now, now); err != nil {
		t.Error(err)
	}
	if k, err := d.Key(ctx, "k"); err != nil || !k.LastUsedAt.Equal(later) {
		t.Errorf("%+v, %v", k, err)
	}
	if s, err := d.Session(ctx, id); err != nil || !s.UsedAt.Equal(later) {
		t.Errorf("%+v, %v", s, err)
	}
}

// awaitMissingStandby joins a node i and makes commits wait for a synchronous standby that does not
// exist, until the test calls remove or ends.
func awaitMissingStandby(
	t *testing.T, s *postgrestest.Server, d keystore.Membership,
) (remove func()) {
	t.Helper()
	if err := d.Join(t.Context(), keystore.Node{Incarnation: "i"}); err != nil {
		t.Fatal(err)
	}
	standbys := func(names string) {
		if err := s.Set("synchronous_standby_names", names); err != nil {
			t.Error(err)
		}
	}
	remove = func() { standbys("") }
	t.Cleanup(remove)
	standbys("nobody")
	return remove
}

// TestPostgresWaitIsCancelled: a commit whose wait for a standby was cancelled is an error,
// although PostgreSQL reports success.
func TestPostgresWaitIsCancelled(t *testing.T) {
	s := postgrestest.StartFor(t)
	d := openOnce(t, s.URL(s.Schema(t)))
	if _, err := d.Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	insert := func(id string) error {
		_, err := d.Update(t.Context(),
			func(kt keystore.Tx) error { return kt.InsertNamespace(&keystore.Namespace{ID: id}) })
		return err
	}
	remove := awaitMissingStandby(t, s, d)
	err := cancelWait(t, s, func(context.Context) error { return insert("n") })
	if err == nil || !strings.Contains(err.Error(), "a failover may lose it") {
		t.Errorf("a commit without a standby: %v", err)
	}
	err = cancelWait(t, s, func(ctx context.Context) error {
		_, err := d.Reserve(ctx, []keystore.Reservation{{Quota: "q", End: time.Now(), Limit: 1,
			Want: 1}})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "a failover may lose it") {
		t.Errorf("units granted without a standby: %v", err)
	}
	remove()
	if err := insert("m"); err != nil {
		t.Errorf("a commit that waits for no standby: %v", err)
	}
}

// TestPostgresUnknownCommit: the error of a commit whose answer is lost says that the result is
// unknown.
func TestPostgresUnknownCommit(t *testing.T) {
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema))
	_, err := d.Update(context.Background(), func(kt keystore.Tx) error {
		if err := kt.InsertNamespace(&keystore.Namespace{ID: "n"}); err != nil {
			return err
		}
		// A trigger cuts the connection during the commit.
		_, err := kt.(*tx).exec("CREATE FUNCTION pg_temp.cut() RETURNS trigger LANGUAGE plpgsql " +
			"AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'")
		if err == nil {
			_, err = kt.(*tx).exec("CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON namespaces " +
				"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.cut()")
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

// TestPostgresReserveSettings: a process that hangs while it reserves units of quotas releases them
// soon, and the rows are found by their index.
func TestPostgresReserveSettings(t *testing.T) {
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema))
	if err := d.transact(t.Context(), d.quotas, d.beginApart, func(reserving *tx) error {
		var idle, plans string
		err := reserving.row("SELECT current_setting('idle_in_transaction_session_timeout'), "+
			"current_setting('enable_seqscan') || current_setting('enable_hashjoin') || "+
			"current_setting('enable_mergejoin')").Scan(&idle, &plans)
		if idle != "2s" || plans != "offoffoff" {
			t.Errorf("idle timeout %s, plans %s", idle, plans)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestPostgresChangesHaveNoTimeout: the timeouts of the role do not apply to changes.
func TestPostgresChangesHaveNoTimeout(t *testing.T) {
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema)+"&statement_timeout=1h")
	_, err := d.Update(t.Context(), func(in keystore.Tx) error {
		var left string
		err := in.(*tx).row("SELECT coalesce(string_agg(name || ' = ' || setting, ', '), '') FROM " +
			"pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout') AND setting " +
			"<> '0'").Scan(&left)
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
	if err := d.exec(t.Context(), d.writer, "sleeping", "SELECT pg_sleep(60)"); err == nil ||
		!strings.Contains(err.Error(), "SET statement_timeout") {
		t.Errorf("a slow statement outside of a change: %v", err)
	}
}

// TestPostgresCommitSetting: committed changes survive a crash of the server, even if
// synchronous_commit was turned off after the start of the process.
func TestPostgresCommitSetting(t *testing.T) {
	ctx := t.Context()
	// Without the delay, the server might write unforced commits in time.
	s := postgrestest.StartFor(t, "wal_writer_delay=10s")
	d := openOnce(t, s.URL(""))
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Join(ctx, keystore.Node{Incarnation: "i"}); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		statement string
		off       func() error
	}{
		{"ALTER ROLE", func() error {
			return s.Exec("", "ALTER ROLE postgres SET synchronous_commit = off")
		}},
		{"ALTER DATABASE", func() error {
			return s.Exec("", "ALTER ROLE postgres RESET ALL; "+
				"ALTER DATABASE postgres SET synchronous_commit = off")
		}},
		{"ALTER SYSTEM", func() error {
			return errors.Join(s.Exec("", "ALTER DATABASE postgres RESET ALL"),
				s.Set("synchronous_commit", "off"))
		}},
	} {
		// ALTER SYSTEM applies to open connections, the others to new ones.
		for _, connections := range []string{"open", "new"} {
			if err := row.off(); err != nil {
				t.Fatal(err)
			}
			if connections == "new" {
				const cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity " +
					"WHERE application_name = 'caddy-apikeys'"
				if err := s.Exec("", cut); err != nil {
					t.Fatal(err)
				}
			}
			name := row.statement + " " + connections
			_, err := d.Update(ctx, func(tx keystore.Tx) error {
				return tx.InsertNamespace(&keystore.Namespace{ID: name})
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Join(ctx, keystore.Node{Incarnation: name}); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.Halt(), s.Run()); err != nil {
				t.Fatal(err)
			}
			got, err := s.Query("", "SELECT "+
				"(SELECT count(*) FROM namespaces WHERE id = '"+name+"'), "+
				"(SELECT count(*) FROM nodes WHERE incarnation = '"+name+"')")
			if got != "1|1" || err != nil {
				t.Errorf("%s: after the crash there are %s (%v), want 1|1", name, got, err)
			}
		}
	}
	if again, err := OpenPostgres(ctx, s.URL("")); err == nil {
		again.Close()
		t.Error("opened with synchronous_commit off")
	} else if !strings.Contains(err.Error(), "synchronous_commit is off") {
		t.Error(err)
	}
}

// TestPostgresIsolation: changes and reservations do not conflict, even if the role has a stricter
// default isolation.
func TestPostgresIsolation(t *testing.T) {
	s := newPostgresStore(t)
	url := s.URL(s.schema) + "&default_transaction_isolation=serializable"
	handles := []keystore.Database{openOnce(t, url), openOnce(t, url)}
	if _, err := handles[0].Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	const workers, each = 4, 10
	end := time.Now().Add(time.Hour)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			db := handles[w%2]
			for range each {
				if _, err := db.Update(t.Context(), func(tx keystore.Tx) error {
					p, err := tx.Policy(keystore.Nowhere)
					if err != nil {
						return err
					}
					p.Namespaces[0].Version++
					return tx.UpdateNamespace(&p.Namespaces[0])
				}); err != nil {
					t.Error(err)
				}
				if _, err := db.Reserve(t.Context(), []keystore.Reservation{{Quota: "q",
					Begin: end, End: end, Limit: 1000, Want: 1}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	p, err := handles[0].Policy(t.Context(), keystore.Nowhere)
	if err != nil || p.Namespaces[0].Version != 1+workers*each {
		t.Errorf("%+v, %v", p, err)
	}
	grants, err := handles[0].Reserve(t.Context(),
		[]keystore.Reservation{{Quota: "q", Begin: end, End: end}})
	if err != nil || grants[0].Total != workers*each {
		t.Errorf("%+v, %v", grants, err)
	}
}
