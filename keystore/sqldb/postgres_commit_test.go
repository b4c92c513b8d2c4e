//go:build unix

package sqldb

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

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
	short.begin = beginChange(100*time.Millisecond, 10*time.Second)
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
	short.begin = beginChange(10*time.Second, 50*time.Millisecond)
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
