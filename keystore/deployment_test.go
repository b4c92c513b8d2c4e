package keystore_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

var (
	root = keystore.Root("test")
	read = []keystore.Permission{{Action: "read"}}
)

var errCut = errors.New("cut off")

// faulty is a node's way to the database, to be cut, slowed and counted.
type faulty struct {
	keystore.Database
	cut   atomic.Bool // nothing gets through
	hangs atomic.Bool // nor does an error
	mute  atomic.Bool // the node reads, but does not acknowledge, nor hear of changes
	// how far the database's clock is ahead of the truth, in nanoseconds
	ahead          atomic.Int64
	loads          atomic.Int64 // KeyByDigest and Session
	unacknowledged atomic.Bool  // Join writes its row, and fails; Confirm fails too
	silent         atomic.Bool  // the database has not answered for a while, until Confirm
	setLeaseHangs  atomic.Bool
	timeline       atomic.Value // string: the server's, unless nil
	stale          atomic.Pointer[staleAnswer]
	policyRows     atomic.Int64           // namespaces, roles and members that were read
	wholePolicies  atomic.Int64           // how often all of them were read
	slowPolicy     atomic.Int64           // how long that takes, in nanoseconds
	beforePolicy   atomic.Pointer[func()] // called once
	beforeUpdate   atomic.Pointer[func()] // called once
	// called between the snapshot of KeyByDigest and its answer
	holding atomic.Pointer[func()]
}

// A staleAnswer is what KeyByDigest says.
type staleAnswer struct {
	key *keystore.Key
	at  keystore.Position
}

func (f *faulty) Renew(
	ctx context.Context, inc string, at keystore.Position,
) (keystore.Head, error) {
	if f.hangs.Load() {
		<-ctx.Done()
	}
	if f.cut.Load() || f.mute.Load() || ctx.Err() != nil {
		return keystore.Head{}, errCut
	}
	h, err := f.Database.Renew(ctx, inc, at)
	h.Silent = f.silent.Load()
	if timeline, ok := f.timeline.Load().(string); ok {
		h.Timeline = timeline
	}
	h.Now = h.Now.Add(time.Duration(f.ahead.Load()))
	return h, err
}

func (f *faulty) Join(ctx context.Context, n keystore.Node) error {
	if f.cut.Load() {
		return errCut
	}
	err := f.Database.Join(ctx, n)
	if f.unacknowledged.Load() {
		return errCut
	}
	return err
}

func (f *faulty) Confirm(ctx context.Context, incarnation string) error {
	if f.unacknowledged.Load() {
		return errCut
	}
	f.silent.Store(false)
	return f.Database.Confirm(ctx, incarnation)
}

func (f *faulty) RenewPolicy(
	ctx context.Context, since keystore.Position,
) (*keystore.Policy, error) {
	if before := f.beforePolicy.Swap(nil); before != nil {
		(*before)()
	}
	return f.read(f.Database.RenewPolicy(ctx, since))
}

func (f *faulty) Policy(ctx context.Context, since keystore.Position) (*keystore.Policy, error) {
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

func (f *faulty) read(p *keystore.Policy, err error) (*keystore.Policy, error) {
	if p != nil {
		f.policyRows.Add(int64(len(p.Namespaces) + len(p.Roles) + len(p.Members)))
		if p.Whole {
			f.wholePolicies.Add(1)
		}
	}
	return p, err
}

func (f *faulty) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	if before := f.beforeUpdate.Swap(nil); before != nil {
		(*before)()
	}
	return f.Database.Update(ctx, func(tx keystore.Tx) error { return change(countedTx{tx, f}) })
}

// countedTx counts what a transaction reads of the policy.
type countedTx struct {
	keystore.Tx
	f *faulty
}

func (t countedTx) Policy(since keystore.Position) (*keystore.Policy, error) {
	return t.f.read(t.Tx.Policy(since))
}

func (f *faulty) SetLease(ctx context.Context, incarnation string, lease time.Duration) error {
	if f.setLeaseHangs.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.cut.Load() {
		return errCut
	}
	return f.Database.SetLease(ctx, incarnation, lease)
}

func (f *faulty) KeyByDigest(
	ctx context.Context, d keystore.Digest,
) (*keystore.Key, keystore.Position, error) {
	f.loads.Add(1)
	if f.cut.Load() {
		return nil, keystore.Position{}, errCut
	}
	if f.hangs.Load() {
		<-ctx.Done()
		return nil, keystore.Position{}, ctx.Err()
	}
	k, r, err := f.Database.KeyByDigest(ctx, d)
	if stale := f.stale.Load(); stale != nil {
		k, r = stale.key, stale.at
	}
	if hold := f.holding.Load(); hold != nil {
		(*hold)()
	}
	return k, r, err
}

func (f *faulty) Session(ctx context.Context, id keystore.Digest) (*keystore.Session, error) {
	f.loads.Add(1)
	return f.Database.Session(ctx, id)
}

// holdOne holds the next load between its snapshot and its answer. It closes read when it is there,
// and goes on when release is closed.
func (f *faulty) holdOne() (read, release chan struct{}) {
	read, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := func() { once.Do(func() { close(read); <-release }) }
	f.holding.Store(&hold)
	return read, release
}

type observer struct{}

func (observer) LookedUp(keystore.Tier, time.Duration) {}

func (observer) Propagated(time.Duration) {}

// A deployment is some nodes on one SQLite file, as separate processes are.
type deployment struct {
	testing.TB
	path string
}

func newDeployment(t testing.TB) deployment {
	return deployment{t, filepath.Join(t.TempDir(), "apikeys.db")}
}

func (d deployment) node(s keystore.Settings) (*keystore.Keystore, *faulty) {
	d.Helper()
	return d.nodeAt(0, s)
}

// nodeAt is a node whose clock runs at another rate than the machine's; 0: it is the machine's.
func (d deployment) nodeAt(rate float64, s keystore.Settings) (*keystore.Keystore, *faulty) {
	d.Helper()
	return d.nodeWith(observer{}, rate, s)
}

// nodeSlow is a node for which reading the whole policy takes some time.
func (d deployment) nodeSlow(
	policy time.Duration, s keystore.Settings,
) (*keystore.Keystore, *faulty) {
	d.Helper()
	return d.openWith(observer{}, 0, s, func(f *faulty) { f.slowPolicy.Store(int64(policy)) })
}

// nodeBehind is a node that starts when the database's clock is behind the truth.
func (d deployment) nodeBehind(behind time.Duration) (*keystore.Keystore, *faulty) {
	d.Helper()
	return d.openWith(observer{}, 0, keystore.Settings{},
		func(f *faulty) { f.ahead.Store(-int64(behind)) })
}

func (d deployment) nodeWith(
	o keystore.Observer, rate float64, s keystore.Settings,
) (*keystore.Keystore, *faulty) {
	d.Helper()
	return d.openWith(o, rate, s, func(*faulty) {})
}

func (d deployment) openWith(
	o keystore.Observer, rate float64, s keystore.Settings, ready func(*faulty),
) (*keystore.Keystore, *faulty) {
	d.Helper()
	db, err := sqldb.OpenSQLite(context.Background(), d.path)
	if err != nil {
		d.Fatal(err)
	}
	f := &faulty{Database: db}
	ready(f)
	k, err := keystore.OpenAt(context.Background(), rate, f, s, o)
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

func mint(t testing.TB, k *keystore.Keystore, spec keystore.KeySpec) (*keystore.Key, string) {
	t.Helper()
	if spec.Home == nil && spec.Grants == nil {
		spec.Home = &keystore.Grant{Permissions: read}
	}
	key, token, err := k.MintKey(context.Background(), root, spec, "")
	if err != nil {
		t.Fatal(err)
	}
	return key, token.Reveal()
}

// ask decides about a read in the namespace `default`, as the handler does.
func ask(k *keystore.Keystore, token string) keystore.Outcome {
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

func want(t testing.TB, what string, got, want keystore.Outcome) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func revoke(
	t testing.TB, k *keystore.Keystore, id string, wait time.Duration,
) keystore.Propagation {
	t.Helper()
	_, p, err := k.RevokeKey(context.Background(), root, id, "", false,
		keystore.ChangeOptions{Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
