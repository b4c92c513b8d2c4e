// Package fleet gives tests several nodes on one SQLite file, as separate processes would have
// them. A [Fleet] opens the nodes, each with a [Faulty] database, and edits the file with SQL. The
// functions of the package do what most tests do with a node: create keys, decide, revoke.
package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

var (
	// Root is the caller with all permissions.
	Root = manage.Root("test")
	// Read is the list with the permission `read` only.
	Read = []keystore.Permission{{Action: "read"}}
)

// Observer is a [node.Observer] that ignores everything.
type Observer struct{}

// LookedUp implements node.Observer.
func (Observer) LookedUp(node.Tier, time.Duration) {}

// Propagated implements node.Observer.
func (Observer) Propagated(time.Duration) {}

// UsageFlushed implements node.Observer.
func (Observer) UsageFlushed(time.Duration) {}

// A Fleet is a deployment: nodes on one SQLite file.
type Fleet struct {
	testing.TB
	Path string // of the file
}

// New returns a fleet without nodes.
func New(t testing.TB) Fleet { return Fleet{t, File(t)} }

// Node opens a node. It is closed when the test ends.
func (d Fleet) Node(s node.Settings) (*manage.Keystore, *Faulty) {
	d.Helper()
	return d.NodeWith(Observer{}, s)
}

// NodeSlow opens a node that takes the duration policy for reading a whole policy.
func (d Fleet) NodeSlow(
	policy time.Duration, s node.Settings,
) (*manage.Keystore, *Faulty) {
	d.Helper()
	return d.OpenWith(Observer{}, s, Open, func(f *Faulty) { f.slowPolicy.Store(int64(policy)) })
}

// NodeBehind opens a node while the database's clock is behind by a duration.
func (d Fleet) NodeBehind(behind time.Duration) (*manage.Keystore, *Faulty) {
	d.Helper()
	return d.OpenWith(Observer{}, node.Settings{}, Open,
		func(f *Faulty) { f.Ahead.Store(-int64(behind)) })
}

// NodeWith opens a node with an observer.
func (d Fleet) NodeWith(
	o node.Observer, s node.Settings,
) (*manage.Keystore, *Faulty) {
	d.Helper()
	return d.OpenWith(o, s, Open, func(*Faulty) {})
}

// An OpenFunc opens a node and the Keystore that manages it.
type OpenFunc = func(
	context.Context, keystore.Database, node.Settings, node.Observer,
) (*manage.Keystore, error)

// Open opens a node that logs nothing.
func Open(
	ctx context.Context, db keystore.Database, s node.Settings, o node.Observer,
) (*manage.Keystore, error) {
	return manage.Open(ctx, db, nil, s, o, slog.New(slog.DiscardHandler))
}

// OpenWith opens a node with open, after it has called prepare with the node's database.
func (d Fleet) OpenWith(
	o node.Observer, s node.Settings, open OpenFunc, prepare func(*Faulty),
) (*manage.Keystore, *Faulty) {
	d.Helper()
	db, err := sqldb.OpenSQLite(context.Background(), d.Path)
	if err != nil {
		d.Fatal(err)
	}
	f := &Faulty{Database: db}
	prepare(f)
	k, err := open(context.Background(), f, s, o)
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() {
		if err := k.Close(); err != nil {
			d.Error(err)
		}
	})
	return k, f
}

// Mint creates a key, with the permission `read` in its home namespace unless spec has grants, and
// returns it with its token.
func Mint(t testing.TB, k *manage.Keystore, spec manage.KeySpec) (*keystore.Key, string) {
	t.Helper()
	if spec.Home == nil && spec.Grants == nil {
		spec.Home = &keystore.Grant{Permissions: Read}
	}
	key, token, err := k.MintKey(context.Background(), Root, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return key, token.Reveal()
}

// Ask decides about a request that reads in the namespace `default`, as the handler does.
func Ask(k *manage.Keystore, token string) keystore.Outcome {
	now := time.Now()
	a, err := k.Lookup(context.Background(), token, now)
	if err != nil {
		return keystore.Unavailable
	}
	if a.Outcome != keystore.OK {
		return a.Outcome
	}
	return keystore.Decide(a.Record,
		&keystore.Request{Now: a.Now, Policy: k.Policy(),
			Namespace: k.Policy().Namespace("default")})
}

// Want reports an outcome that is not the expected one. what says what was decided.
func Want(t testing.TB, what string, got, want keystore.Outcome) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Revoke revokes a key as root.
func Revoke(
	t testing.TB, k *manage.Keystore, id string, wait time.Duration,
) node.Propagation {
	t.Helper()
	_, p, err := k.RevokeKey(context.Background(), Root, id, "", false,
		manage.ChangeOptions{Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Grants parses grants, separated by spaces: "ns=perm,perm", or "ns+=perm" for a connected grant.
func Grants(t testing.TB, text string) (list []keystore.Grant) {
	t.Helper()
	for word := range strings.FieldsSeq(text) {
		ns, ps, _ := strings.Cut(word, "=")
		g := keystore.Grant{Namespace: strings.TrimSuffix(ns, "+"),
			Connected: strings.HasSuffix(ns, "+")}
		for p := range strings.SplitSeq(ps, ",") {
			permission, err := keystore.ParsePermission(p)
			if err != nil {
				t.Fatal(err)
			}
			g.Permissions = append(g.Permissions, permission)
		}
		list = append(list, g)
	}
	return list
}

// Caller creates a key and returns it as a caller.
func Caller(
	t testing.TB, k *manage.Keystore, spec manage.KeySpec,
) (manage.Caller, *keystore.Key) {
	t.Helper()
	key, token, err := k.MintKey(context.Background(), Root, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Lookup(context.Background(), token.Reveal(), time.Now())
	if err != nil || a.Outcome != keystore.OK {
		t.Fatal(a.Outcome, err)
	}
	return manage.KeyCaller(a.Record, "test"), key
}

// WithNamespaces opens a node of a new fleet that has these namespaces.
func WithNamespaces(t testing.TB, ids ...string) *manage.Keystore {
	t.Helper()
	k, _ := New(t).Node(node.Settings{})
	for _, id := range ids {
		if _, err := k.CreateNamespace(context.Background(), Root,
			keystore.Namespace{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// Code returns the code of a refusal, "ok" for nil, and the text of any other error.
func Code(err error) string {
	var e *keystore.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return e.Code
	}
	return err.Error()
}

// Tamper runs SQL on the fleet's file, in one transaction.
func (d Fleet) Tamper(statements ...string) {
	d.Helper()
	if err := d.Try(statements...); err != nil {
		d.Fatal(err)
	}
}

// Try is like Tamper, but returns the error.
func (d Fleet) Try(statements ...string) error {
	db, err := sql.Open("sqlite", "file:"+d.Path+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, s := range statements {
		if _, err := tx.Exec(s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return tx.Commit()
}

// Lose takes the database back to a revision, like a failover to a standby that has not received
// later changes. The statements must undo the changes of the objects.
func (d Fleet) Lose(after keystore.Revision, statements ...string) {
	d.Helper()
	at := fmt.Sprint(after)
	d.Tamper(append(statements,
		"DELETE FROM change_log WHERE revision > "+at,
		"CREATE TEMP TABLE kept AS SELECT mark FROM marks WHERE revision = "+at,
		"DELETE FROM marks WHERE revision >= "+at,
		"UPDATE head SET revision = "+at+", policy = min(policy, "+at+")",
		"UPDATE marks SET mark = (SELECT mark FROM kept) WHERE revision = "+at)...)
}
