//go:build unix

package sqldb

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

// TestPostgresUnconfirmed: a write that the synchronous standby has not confirmed is an error. So
// is its repetition, although the primary already has the rows of the first attempt.
func TestPostgresUnconfirmed(t *testing.T) {
	ctx := t.Context()
	primary := postgrestest.StartFor(t)
	d := openOnce(t, primary.URL(""))
	deployment, err := d.Deployment(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, incarnation := range []string{"lease", "fence", "remove"} {
		if err := d.Join(ctx, keystore.Node{Incarnation: incarnation}); err != nil {
			t.Fatal(err)
		}
	}
	standby := primary.SynchronousStandby(t)
	if err := standby.Detach(); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(context.Context) error{
		"Join": func(ctx context.Context) error {
			return d.Join(ctx, keystore.Node{Incarnation: "join"})
		},
		"SetLease": func(ctx context.Context) error {
			return d.SetLease(ctx, "lease", time.Hour)
		},
		"Fence": func(ctx context.Context) error { return d.Fence(ctx, "fence") },
		"NewEpoch": func(ctx context.Context) error {
			return d.NewEpoch(ctx, deployment.Epoch, nil)
		},
		"Deployment": func(ctx context.Context) error {
			_, err := d.Deployment(ctx, nil)
			return err
		},
		"InsertSession": func(ctx context.Context) error {
			return d.InsertSession(ctx, keystore.Session{})
		},
		"DeleteSession": func(ctx context.Context) error {
			return d.DeleteSession(ctx, keystore.Digest{})
		},
		"Reserve": func(ctx context.Context) error {
			_, err := d.Reserve(ctx, []keystore.Reservation{{Quota: "q", End: time.Now(), Limit: 1,
				Want: 1}})
			return err
		},
		"Update that changes nothing": func(ctx context.Context) error {
			_, err := d.Update(ctx, func(tx keystore.Tx) error {
				_, err := tx.Policy(keystore.Nowhere)
				return err
			})
			return err
		},
	}
	for name, call := range calls {
		for range 2 {
			if err := cancelWait(t, primary, call); err == nil {
				t.Errorf("%s succeeded without a standby", name)
			}
		}
	}
	remove := func(ctx context.Context) error { return d.Remove(ctx, "remove") }
	if err := cancelWait(t, primary, remove); err == nil {
		t.Error("Remove succeeded without a standby")
	}
	if err := standby.Attach(); err != nil {
		t.Fatal(err)
	}
	delete(calls, "InsertSession") // it cannot be repeated
	for name, call := range calls {
		if err := call(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := standby.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	got, err := standby.Query("",
		"SELECT string_agg(concat_ws(' ', incarnation, state, lease), ', ' ORDER BY incarnation) "+
			"FROM nodes")
	if want := "fence fencing 0, join active 0, lease active 3600000000"; got != want ||
		err != nil {
		t.Errorf("the standby has the nodes %q (%v), want %q", got, err, want)
	}
}

// cancelWait runs a call and cancels the wait of its commit for the synchronous standby, like an
// operator.
func cancelWait(t *testing.T, s *postgrestest.Server, call func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	for {
		cancelled, err := s.Query("",
			"SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = "+
				"'SyncRep'")
		if err != nil {
			t.Fatal(err)
		}
		if cancelled != "0" {
			return <-done
		}
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
