// Package fleet runs several nodes on one SQLite file within one process, for the tests of packages
// node and manage. Each node has a database that can fail. Start reading at [New].
package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

var (
	// Root is the caller of changes in tests.
	Root = manage.Root("test")
	// Read is the permission to read.
	Read = []keystore.Permission{{Action: "read"}}
)

// ErrCut is the error of calls of a cut connection.
var ErrCut = errors.New("cut off")

// Faulty is the database of one node. Its fields make calls fail or hang, falsify their answers and
// count them.
type Faulty struct {
	keystore.Database
	Cut   atomic.Bool // calls fail with ErrCut
	Hangs atomic.Bool // calls wait for the end of their context
	Mute  atomic.Bool // Renew fails, so the node neither acknowledges nor sees changes
	// Ahead is added to the time of the database, in nanoseconds.
	Ahead          atomic.Int64
	Loads          atomic.Int64 // calls of KeyByDigest and Session
	Unacknowledged atomic.Bool  // Join writes its row but fails; Confirm fails too
	Silent         atomic.Bool  // Renew reports silence, until Confirm
	SetLeaseHangs  atomic.Bool
	Timeline       atomic.Value                // string: replaces the server's timeline, unless nil
	Stale          atomic.Pointer[StaleAnswer] // replaces the answer of KeyByDigest, unless nil
	PolicyRows     atomic.Int64                // namespaces, roles and members that were read
	WholePolicies  atomic.Int64                // how often all of them were read
	slowPolicy     atomic.Int64                // how long that takes, in nanoseconds
	BeforePolicy   atomic.Pointer[func()]      // called before the next RenewPolicy, once
	BeforeUpdate   atomic.Pointer[func()]      // called before the next Update, once
	// Holding is called between the snapshot of KeyByDigest and its answer.
	Holding atomic.Pointer[func()]
}

// A StaleAnswer is an answer of KeyByDigest.
type StaleAnswer struct {
	Key *keystore.Key
	At  keystore.Position
}

func (f *Faulty) Renew(
	ctx context.Context, inc string, at keystore.Position,
) (keystore.Head, error) {
	if f.Hangs.Load() {
		<-ctx.Done()
	}
	if f.Cut.Load() || f.Mute.Load() || ctx.Err() != nil {
		return keystore.Head{}, ErrCut
	}
	h, err := f.Database.Renew(ctx, inc, at)
	h.Silent = f.Silent.Load()
	if timeline, ok := f.Timeline.Load().(string); ok {
		h.Timeline = timeline
	}
	h.Now = h.Now.Add(time.Duration(f.Ahead.Load()))
	return h, err
}

func (f *Faulty) Join(ctx context.Context, n keystore.Node) error {
	if f.Cut.Load() {
		return ErrCut
	}
	err := f.Database.Join(ctx, n)
	if f.Unacknowledged.Load() {
		return ErrCut
	}
	return err
}

func (f *Faulty) Confirm(ctx context.Context, incarnation string) error {
	if f.Unacknowledged.Load() {
		return ErrCut
	}
	f.Silent.Store(false)
	return f.Database.Confirm(ctx, incarnation)
}

func (f *Faulty) RenewPolicy(
	ctx context.Context, since keystore.Position,
) (*keystore.Policy, error) {
	if before := f.BeforePolicy.Swap(nil); before != nil {
		(*before)()
	}
	return f.read(f.Database.RenewPolicy(ctx, since))
}

func (f *Faulty) Policy(ctx context.Context, since keystore.Position) (*keystore.Policy, error) {
	p, err := f.read(f.Database.Policy(ctx, since))
	if p != nil && p.Whole {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(f.slowPolicy.Load())):
		}
	}
	return p, err
}

func (f *Faulty) read(p *keystore.Policy, err error) (*keystore.Policy, error) {
	if p != nil {
		f.PolicyRows.Add(int64(len(p.Namespaces) + len(p.Roles) + len(p.Members)))
		if p.Whole {
			f.WholePolicies.Add(1)
		}
	}
	return p, err
}

func (f *Faulty) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	if before := f.BeforeUpdate.Swap(nil); before != nil {
		(*before)()
	}
	return f.Database.Update(ctx, func(tx keystore.Tx) error { return change(countedTx{tx, f}) })
}

// A countedTx counts the rows of the policy that a transaction reads.
type countedTx struct {
	keystore.Tx
	f *Faulty
}

func (t countedTx) Policy(since keystore.Position) (*keystore.Policy, error) {
	return t.f.read(t.Tx.Policy(since))
}

func (f *Faulty) SetLease(ctx context.Context, incarnation string, lease time.Duration) error {
	if f.SetLeaseHangs.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.Cut.Load() {
		return ErrCut
	}
	return f.Database.SetLease(ctx, incarnation, lease)
}

func (f *Faulty) KeyByDigest(
	ctx context.Context, d keystore.Digest,
) (*keystore.Key, keystore.Position, error) {
	f.Loads.Add(1)
	if f.Cut.Load() {
		return nil, keystore.Position{}, ErrCut
	}
	if f.Hangs.Load() {
		<-ctx.Done()
		return nil, keystore.Position{}, ctx.Err()
	}
	k, r, err := f.Database.KeyByDigest(ctx, d)
	if stale := f.Stale.Load(); stale != nil {
		k, r = stale.Key, stale.At
	}
	if hold := f.Holding.Load(); hold != nil {
		(*hold)()
	}
	return k, r, err
}

func (f *Faulty) Session(ctx context.Context, id keystore.Digest) (*keystore.Session, error) {
	f.Loads.Add(1)
	return f.Database.Session(ctx, id)
}

// HoldOne holds the next KeyByDigest between its snapshot and its answer. The call closes read once
// it has its snapshot, and continues when the test closes release.
func (f *Faulty) HoldOne() (read, release chan struct{}) {
	read, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := func() { once.Do(func() { close(read); <-release }) }
	f.Holding.Store(&hold)
	return read, release
}

// Observer ignores all observations.
type Observer struct{}

// LookedUp implements node.Observer.
func (Observer) LookedUp(node.Tier, time.Duration) {}

// Propagated implements node.Observer.
func (Observer) Propagated(time.Duration) {}

// A Fleet is a deployment on one SQLite file. Its nodes behave like separate processes.
type Fleet struct {
	testing.TB
	Path string // of the file
}

// New returns a fleet without nodes.
func New(t testing.TB) Fleet {
	return Fleet{t, filepath.Join(t.TempDir(), "apikeys.db")}
}

// Node starts a node and returns it with its database. It is closed at the end of the test.
func (d Fleet) Node(s node.Settings) (*manage.Keystore, *Faulty) {
	d.Helper()
	return d.NodeWith(Observer{}, s)
}

// NodeSlow is like Node. Reading the whole policy takes the given time longer.
func (d Fleet) NodeSlow(
	policy time.Duration, s node.Settings,
) (*manage.Keystore, *Faulty) {
	d.Helper()
	return d.OpenWith(Observer{}, s, Open, func(f *Faulty) { f.slowPolicy.Store(int64(policy)) })
}

// NodeBehind is like Node. The database's clock is behind by the given time when the node starts.
func (d Fleet) NodeBehind(behind time.Duration) (*manage.Keystore, *Faulty) {
	d.Helper()
	return d.OpenWith(Observer{}, node.Settings{}, Open,
		func(f *Faulty) { f.Ahead.Store(-int64(behind)) })
}

// NodeWith is like Node, with an observer.
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

// OpenWith is like Node but opens the node with open, after ready has prepared its database.
func (d Fleet) OpenWith(
	o node.Observer, s node.Settings, open OpenFunc, ready func(*Faulty),
) (*manage.Keystore, *Faulty) {
	d.Helper()
	db, err := sqldb.OpenSQLite(context.Background(), d.Path)
	if err != nil {
		d.Fatal(err)
	}
	f := &Faulty{Database: db}
	ready(f)
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

// Mint creates a key and returns it with its token. Its default permission is Read.
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

// Ask decides about a read in the namespace `default`, like the handler.
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

// Want fails the test if an outcome is not the wanted one.
func Want(t testing.TB, request string, got, want keystore.Outcome) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", request, got, want)
	}
}

// Revoke revokes a key and waits at most the given time for the propagation.
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

// Grants parses grants such as "ns=perm,perm" and "ns+=perm" (connected), separated by spaces.
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

// Caller creates a key for management and returns it as a caller.
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

// WithNamespaces starts a node of a new fleet and creates namespaces.
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

// Code returns the code of a refusal, "ok" for nil and the text of any other error.
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

// Tamper runs SQL on the deployment's file in one transaction, like an operator.
func (d Fleet) Tamper(statements ...string) {
	d.Helper()
	if err := d.Try(statements...); err != nil {
		d.Fatal(err)
	}
}

// Try is like Tamper but returns the error.
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

// Lose resets the database to a revision, like a failover to a standby that has not received later
// changes. It runs the statements first, in the same transaction.
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
