package keystore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// faulty is a node's way to the database, to be cut, slowed and counted.
type faulty struct {
	keystore.Database
	cut     atomic.Bool            // nothing gets through
	hangs   atomic.Bool            // nor does an error
	mute    atomic.Bool            // the node reads, but does not acknowledge, nor hear of changes
	ahead   atomic.Int64           // how far the database's clock is ahead of the truth, in nanoseconds
	loads   atomic.Int64           // KeyByDigest
	holding atomic.Pointer[func()] // called between the snapshot of KeyByDigest and its answer
}

var errCut = errors.New("cut off")

func (f *faulty) Renew(ctx context.Context, inc string, at keystore.Position) (keystore.Head, error) {
	if f.hangs.Load() {
		<-ctx.Done()
	}
	if f.cut.Load() || f.mute.Load() || ctx.Err() != nil {
		return keystore.Head{}, errCut
	}
	h, err := f.Database.Renew(ctx, inc, at)
	h.Now = h.Now.Add(time.Duration(f.ahead.Load()))
	return h, err
}

func (f *faulty) Join(ctx context.Context, n keystore.Node) error {
	if f.cut.Load() {
		return errCut
	}
	return f.Database.Join(ctx, n)
}

func (f *faulty) SetLease(ctx context.Context, incarnation string, lease time.Duration) error {
	if f.cut.Load() {
		return errCut
	}
	return f.Database.SetLease(ctx, incarnation, lease)
}

func (f *faulty) KeyByDigest(ctx context.Context, d keystore.Digest) (*keystore.Key, keystore.Revision, error) {
	f.loads.Add(1)
	if f.cut.Load() {
		return nil, 0, errCut
	}
	if f.hangs.Load() {
		<-ctx.Done()
		return nil, 0, ctx.Err()
	}
	k, r, err := f.Database.KeyByDigest(ctx, d)
	if hold := f.holding.Load(); hold != nil {
		(*hold)()
	}
	return k, r, err
}

// holdOne holds the next load between its snapshot and its answer. It closes read when it is there, and goes on when release is closed.
func (f *faulty) holdOne() (read, release chan struct{}) {
	read, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := func() { once.Do(func() { close(read); <-release }) }
	f.holding.Store(&hold)
	return read, release
}

type observer struct{}

func (observer) LookedUp(keystore.Tier, time.Duration) {}
func (observer) Propagated(time.Duration)              {}

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
	return d.nodeAt(1, s)
}

// nodeAt is a node whose clock runs at another rate.
func (d deployment) nodeAt(rate float64, s keystore.Settings) (*keystore.Keystore, *faulty) {
	d.Helper()
	return d.nodeWith(observer{}, rate, s)
}

func (d deployment) nodeWith(o keystore.Observer, rate float64, s keystore.Settings) (*keystore.Keystore, *faulty) {
	d.Helper()
	db, err := sqldb.OpenSQLite(context.Background(), d.path)
	if err != nil {
		d.Fatal(err)
	}
	f := &faulty{Database: db}
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

var (
	root = keystore.Root("test")
	read = []keystore.Permission{{Action: "read"}}
)

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
	return keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: k.Policy(), Namespace: k.Policy().Namespace("default")})
}

func want(t testing.TB, what string, got, want keystore.Outcome) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func revoke(t testing.TB, k *keystore.Keystore, id string, wait time.Duration) keystore.Propagation {
	t.Helper()
	_, p, err := k.RevokeKey(context.Background(), root, id, "", false, keystore.ChangeOptions{Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRevokeIsInForceOnEveryNodeWhenItReturns(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, _ := d.node(keystore.Settings{})
	for range 20 {
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "minted, on the same node", ask(a, token), keystore.OK)
		want(t, "minted, on the other node", ask(b, token), keystore.OK)
		if p := revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 2 || p.Acknowledged != 2 {
			t.Fatalf("%+v", p)
		}
		want(t, "revoked, on the same node", ask(a, token), keystore.Revoked)
		want(t, "revoked, on the other node", ask(b, token), keystore.Revoked)
	}
}

func TestEveryChangeIsInForceWhenItReturns(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, _ := d.node(keystore.Settings{})
	ctx := context.Background()
	key, token := mint(t, a, keystore.KeySpec{})
	off, on := false, true
	for _, step := range []struct {
		name string
		do   func() error
		want keystore.Outcome
	}{
		{"minted", func() error { return nil }, keystore.OK},
		{"inactive", func() error {
			_, _, err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: &off}, keystore.ChangeOptions{})
			return err
		}, keystore.Inactive},
		{"active", func() error {
			_, _, err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Active: &on}, keystore.ChangeOptions{})
			return err
		}, keystore.OK},
		{"narrowed", func() error {
			_, _, err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Permissions: &[]keystore.Permission{{Action: "write"}}}, keystore.ChangeOptions{})
			return err
		}, keystore.Forbidden},
		{"widened", func() error {
			_, _, err := a.EditKey(ctx, root, key.ID, keystore.KeyPatch{Permissions: &[]keystore.Permission{{Action: "*"}}}, keystore.ChangeOptions{})
			return err
		}, keystore.OK},
		{"rotated at once", func() error { _, _, _, err := a.RotateKey(ctx, root, key.ID, 0, keystore.ChangeOptions{}); return err }, keystore.Unknown},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		want(t, step.name+", here", ask(a, token), step.want)
		want(t, step.name+", there", ask(b, token), step.want)
	}
}

// adversarial.md 87 and 88; protocol.md section 7.
func TestAReadThatARevokeOvertakesIsNeitherKeptNorJoined(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, fb := d.node(keystore.Settings{})
	key, token := mint(t, a, keystore.KeySpec{})

	read, release := fb.holdOne()
	var early keystore.Outcome
	var wg sync.WaitGroup
	wg.Go(func() { early = ask(b, token) })
	<-read
	if p := revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	var late keystore.Outcome
	wg.Go(func() { late = ask(b, token) })
	for b.Stats().Lookups[keystore.TierLocal][keystore.Miss] < 2 { // the second request has come in
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if early != keystore.OK && early != keystore.Revoked { // it came before the revoke
		t.Errorf("the request under way: %v", early)
	}
	want(t, "a request sent after the revoke returned", late, keystore.Revoked)
	want(t, "the next one", ask(b, token), keystore.Revoked)
}

// The same without a request that comes later and loads the record anew.
func TestAReadThatARevokeOvertakesIsNotKept(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, fb := d.node(keystore.Settings{})
	key, token := mint(t, a, keystore.KeySpec{})
	read, release := fb.holdOne()
	var wg sync.WaitGroup
	wg.Go(func() { ask(b, token) })
	<-read
	if p := revoke(t, a, key.ID, 0); !p.Complete {
		t.Fatalf("%+v", p)
	}
	close(release)
	wg.Wait()
	want(t, "after the revoke", ask(b, token), keystore.Revoked)
}

func TestRequestsForOneUnknownKeyShareOneQuery(t *testing.T) {
	d := newDeployment(t)
	a, f := d.node(keystore.Settings{})
	_, token := mint(t, a, keystore.KeySpec{})
	began, release := make(chan struct{}, 100), make(chan struct{})
	hold := func() { began <- struct{}{}; <-release }
	f.holding.Store(&hold)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { want(t, "a joined request", ask(a, token), keystore.OK) })
	}
	<-began
	for a.Stats().Lookups[keystore.TierLocal][keystore.Miss] < 50 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := f.loads.Load(); n > 2 {
		t.Errorf("%d queries", n)
	}
	want(t, "cached", ask(a, token), keystore.OK)
	if n := f.loads.Load(); n > 2 {
		t.Errorf("%d queries after a hit", n)
	}
}

func TestOutagesNeverOpenAndNeverTurnGoodKeysInto401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := newDeployment(t).node(keystore.Settings{Lease: 30 * time.Second})
		_, known := mint(t, a, keystore.KeySpec{})
		_, cold := mint(t, a, keystore.KeySpec{})
		want(t, "before", ask(a, known), keystore.OK)
		loads := f.loads.Load()

		f.cut.Store(true)
		time.Sleep(20 * time.Second)
		want(t, "known key while the lease lasts", ask(a, known), keystore.OK)
		want(t, "unknown key at once", ask(a, cold), keystore.Unavailable)
		want(t, "forged key", ask(a, cold[:len(cold)-1]+"!"), keystore.Malformed)
		time.Sleep(11 * time.Second)
		want(t, "known key when the lease has run out", ask(a, known), keystore.Unavailable)
		want(t, "forged key", ask(a, cold[:len(cold)-1]+"!"), keystore.Malformed)
		if h := a.Health(context.Background()); h.Problem == "" {
			t.Error("healthy")
		}

		f.cut.Store(false)
		want(t, "known key when the database is back", ask(a, known), keystore.OK)
		if n := f.loads.Load() - loads; n > 2 {
			t.Errorf("%d queries: the cache was to be kept", n)
		}
		if h := a.Health(context.Background()); h.Problem != "" {
			t.Error(h.Problem)
		}
	})
}

func TestARevokeWaitsForASilentNodeUntilItsLeaseHasSurelyRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{Lease: 5 * time.Second})
		b, fb := d.node(keystore.Settings{Lease: 20 * time.Second}) // what counts is the other node's lease
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "there", ask(b, token), keystore.OK)

		fb.mute.Store(true)
		begun := time.Now()
		p := revoke(t, a, key.ID, time.Second)
		if p.Complete || len(p.Pending) != 1 || p.Nodes != 2 || p.Acknowledged != 1 {
			t.Fatalf("%+v", p)
		}
		if until := p.Pending[0].Until.Sub(begun); until < 20*time.Second || until > 22*time.Second {
			t.Errorf("pending for %v", until)
		}
		want(t, "here, revoked", ask(a, token), keystore.Revoked)
		if p = revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Fatalf("%+v", p)
		}
		if took := time.Since(begun); took > 23*time.Second {
			t.Errorf("took %v", took)
		}
		want(t, "on the silent node", ask(b, token), keystore.Unavailable)
		fb.mute.Store(false)
		want(t, "on the node that is back", ask(b, token), keystore.Revoked)
	})
}

func TestALongSilentNodeCostsTheNextRevokeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{Lease: 5 * time.Second})
		b, fb := d.node(keystore.Settings{Lease: 5 * time.Second})
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "there", ask(b, token), keystore.OK)
		fb.mute.Store(true)
		time.Sleep(30 * time.Second)
		begun := time.Now()
		if p := revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 1 || time.Since(begun) > time.Second {
			t.Errorf("took %v: %+v", time.Since(begun), p)
		}
		want(t, "on the silent node", ask(b, token), keystore.Unavailable)
		fb.mute.Store(false)
		want(t, "on the node that is back", ask(b, token), keystore.Revoked)
		if p := revoke(t, a, key.ID, 0); p.Nodes != 2 {
			t.Errorf("the node has not joined again: %+v", p)
		}
	})
}

func TestARevokeWaitsNoLongerForAGivenUpNodeThanUntilItsLastLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{Lease: 10 * time.Second})
		_, fb := d.node(keystore.Settings{Lease: 10 * time.Second})
		key, _ := mint(t, a, keystore.KeySpec{})
		time.Sleep(10 * time.Second)
		fb.mute.Store(true)
		time.Sleep(15 * time.Second) // given up after about 10
		begun := time.Now()
		if p := revoke(t, a, key.ID, time.Minute); !p.Complete || p.Nodes != 2 {
			t.Fatalf("%+v", p)
		}
		if took := time.Since(begun); took < time.Second || took > 8*time.Second {
			t.Errorf("took %v, with a lease of 10 s", took)
		}
	})
}

// A node that was given up and removed while its lease was reconfigured joins anew like any other: nobody must take it for the one it was.
func TestAGivenUpNodeWithAnotherLeaseIsWaitedFor(t *testing.T) {
	for name, lease := range map[string]time.Duration{"longer": 40 * time.Second, "shorter": 20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeployment(t)
				b, _ := d.node(keystore.Settings{})
				a, fa := d.node(keystore.Settings{})
				key, token := mint(t, b, keystore.KeySpec{})
				want(t, "before", ask(a, token), keystore.OK)
				time.Sleep(20 * time.Second)
				if lease < keystore.DefaultLease { // a shorter one is declared a renewal later
					a.Configure(keystore.Settings{Lease: lease})
					a.Health(ctx)
				}
				fa.cut.Store(true)
				time.Sleep(3 * time.Minute)
				a.Configure(keystore.Settings{Lease: lease})
				fa.cut.Store(false)
				if h := a.Health(ctx); h.Problem != "" {
					t.Fatal(h.Problem)
				}
				want(t, "when it is back", ask(a, token), keystore.OK)
				fa.cut.Store(true)
				if p := revoke(t, b, key.ID, time.Minute); !p.Complete {
					t.Fatalf("%+v", p)
				}
				want(t, "after the revoke", ask(a, token), keystore.Unavailable)
				fa.cut.Store(false)
			})
		})
	}
}

func TestForgedTokensReachNoStore(t *testing.T) {
	d := newDeployment(t)
	a, f := d.node(keystore.Settings{TokenPrefixes: []string{"ak", "ak_old"}})
	other, _ := newDeployment(t).node(keystore.Settings{})
	_, foreign := mint(t, other, keystore.KeySpec{})
	for _, token := range []string{foreign, "ak_" + foreign, "ak_old_x", "x", "some-other-format-of-token", "akm_0123456789012345678901234567890123456789012345678901234567", "ak_é1234567890", ""} {
		want(t, "forged", ask(a, token), keystore.Malformed)
	}
	if n := f.loads.Load(); n != 0 {
		t.Errorf("%d queries", n)
	}
}

// The first import ever, while a node is cut off that has never heard of imported credentials: it may not know them, but must not say that.
func TestTheFirstImportWaitsForWhoIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{})
		fb.cut.Store(true)
		const token = "legacy-token-0123456789"
		if n, refused, err := a.ImportKeys(ctx, root, []keystore.ImportSpec{{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}}, Line: 1, Token: token}}, false, ""); n != 1 || err != nil {
			t.Fatal(n, refused, err)
		}
		want(t, "when the import has returned", ask(b, token), keystore.Unavailable)
		fb.cut.Store(false)
		want(t, "when the database is back", ask(b, token), keystore.OK)
	})
}

func TestImportedCredentials(t *testing.T) {
	d := newDeployment(t)
	a, fa := d.node(keystore.Settings{})
	b, _ := d.node(keystore.Settings{})
	const old = "sk.live/Old-Format:0123456789"
	want(t, "before any import", ask(b, old), keystore.Malformed)
	spec := keystore.ImportSpec{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}}, Line: 1, Token: old}
	n, refused, err := a.ImportKeys(context.Background(), root, []keystore.ImportSpec{spec}, false, "")
	if err != nil || n != 1 || len(refused) != 0 {
		t.Fatal(n, refused, err)
	}
	want(t, "here", ask(a, old), keystore.OK)
	want(t, "on the other node", ask(b, old), keystore.OK)
	if _, refused, _ = a.ImportKeys(context.Background(), root, []keystore.ImportSpec{spec}, false, ""); len(refused) != 1 || refused[0].Code != "already_used" {
		t.Errorf("a second time: %v", refused)
	}

	loads := fa.loads.Load()
	for range 100 {
		want(t, "unknown", ask(a, "sk.live/never-heard-of"), keystore.Unknown)
	}
	if n := fa.loads.Load() - loads; n > 2 {
		t.Errorf("%d queries for one unknown credential", n)
	}
	spec.Token = "sk.live/never-heard-of"
	if _, _, err := a.ImportKeys(context.Background(), root, []keystore.ImportSpec{spec}, false, ""); err != nil {
		t.Fatal(err)
	}
	want(t, "imported after it had been unknown", ask(a, spec.Token), keystore.OK)
}

func TestWhatRunsIsCutWhenItsKeyDies(t *testing.T) {
	ctx := context.Background()
	off := false
	name := "another"
	for _, c := range []struct {
		name string
		do   func(k *keystore.Keystore, id string) error
		cut  bool
	}{
		{"revoke", func(k *keystore.Keystore, id string) error {
			_, _, err := k.RevokeKey(ctx, root, id, "", false, keystore.ChangeOptions{})
			return err
		}, true},
		{"inactivate", func(k *keystore.Keystore, id string) error {
			_, _, err := k.EditKey(ctx, root, id, keystore.KeyPatch{Active: &off}, keystore.ChangeOptions{})
			return err
		}, true},
		{"rotate at once", func(k *keystore.Keystore, id string) error {
			_, _, _, err := k.RotateKey(ctx, root, id, 0, keystore.ChangeOptions{})
			return err
		}, true},
		{"rotate with grace", func(k *keystore.Keystore, id string) error {
			_, _, _, err := k.RotateKey(ctx, root, id, time.Hour, keystore.ChangeOptions{})
			return err
		}, false},
		{"rename", func(k *keystore.Keystore, id string) error {
			_, _, err := k.EditKey(ctx, root, id, keystore.KeyPatch{Name: &name}, keystore.ChangeOptions{})
			return err
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeployment(t)
			a, _ := d.node(keystore.Settings{})
			b, _ := d.node(keystore.Settings{})
			key, token := mint(t, a, keystore.KeySpec{})
			_, other := mint(t, a, keystore.KeySpec{})
			var cuts [3]atomic.Int32
			running := []*keystore.Running{run(t, a, token, &cuts[0]), run(t, b, token, &cuts[1])}
			unhurt := run(t, b, other, &cuts[2])
			if err := c.do(a, key.ID); err != nil {
				t.Fatal(err)
			}
			for i, want := range []bool{c.cut, c.cut, false} {
				if got := cuts[i].Load() == 1; got != want {
					t.Errorf("request %d: cut is %v", i, got)
				}
			}
			a.Leave(running[0])
			b.Leave(running[1])
			b.Leave(unhurt)
		})
	}
}

func run(t testing.TB, k *keystore.Keystore, token string, cuts *atomic.Int32) *keystore.Running {
	t.Helper()
	for range 100 {
		a, err := k.Lookup(context.Background(), token, time.Now())
		if err != nil || a.Outcome != keystore.OK {
			t.Fatal(a.Outcome, err)
		}
		r := &keystore.Running{Cut: func() { cuts.Add(1) }}
		if k.Enter(a, r) {
			return r
		}
	}
	t.Fatal("Enter never succeeds")
	return nil
}

func TestWhatRunsIsCutWhenItsKeyExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newDeployment(t).node(keystore.Settings{})
		_, token := mint(t, a, keystore.KeySpec{ExpiresAt: time.Now().Add(time.Minute)})
		var cuts atomic.Int32
		r := run(t, a, token, &cuts)
		time.Sleep(59 * time.Second)
		if cuts.Load() != 0 {
			t.Error("cut before its time")
		}
		time.Sleep(3 * time.Second)
		if cuts.Load() != 1 {
			t.Error("runs on")
		}
		a.Leave(r)
		want(t, "afterwards", ask(a, token), keystore.Expired)
	})
}

func TestWhatRunsIsCutWhenTheLeaseHasRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := newDeployment(t).node(keystore.Settings{Lease: 30 * time.Second})
		_, token := mint(t, a, keystore.KeySpec{})
		var cuts atomic.Int32
		r := run(t, a, token, &cuts)
		f.cut.Store(true)
		time.Sleep(23 * time.Second)
		if cuts.Load() != 0 {
			t.Error("cut although the lease lasts")
		}
		time.Sleep(8 * time.Second)
		if cuts.Load() != 1 {
			t.Error("runs on although nobody knows whether its key lives")
		}
		a.Leave(r)
	})
}

// TestWhatRunsOnANodeThatIsCutOffIsCutBeforeTheRevokeAnswers: the node's last renewal was just before, and each that follows hangs.
func TestWhatRunsOnANodeThatIsCutOffIsCutBeforeTheRevokeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{})
		key, token := mint(t, a, keystore.KeySpec{})
		var cuts atomic.Int32
		r := run(t, b, token, &cuts)
		b.Health(t.Context()) // renews
		fb.hangs.Store(true)
		if p := revoke(t, a, key.ID, time.Minute); !p.Complete {
			t.Fatalf("%+v", p)
		}
		if cuts.Load() != 1 {
			t.Error("runs on")
		}
		b.Leave(r)
		fb.hangs.Store(false)
	})
}

func TestLastUseIsWrittenWithinTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newDeployment(t).node(keystore.Settings{})
		key, token := mint(t, a, keystore.KeySpec{})
		answer, err := a.Lookup(context.Background(), token, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var last time.Time
		for range 200 {
			last = time.Now()
			a.Used(answer.Record, last)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(4 * time.Second)
		found, err := a.FindKey(context.Background(), root, key.ID)
		if err != nil {
			t.Fatal(err)
		}
		if lost := last.Sub(found.LastUsedAt); lost > 10*time.Second {
			t.Errorf("%v are lost", lost)
		}
	})
}

func TestASecondStartFindsEverything(t *testing.T) {
	d := newDeployment(t)
	db, err := sqldb.OpenSQLite(context.Background(), d.path)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keystore.Open(context.Background(), db, nil, keystore.Settings{}, observer{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, token := mint(t, k, keystore.KeySpec{})
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Lookup(context.Background(), token, time.Now()); err == nil {
		t.Error("a closed store answers")
	}
	again, _ := d.node(keystore.Settings{})
	want(t, "after a restart", ask(again, token), keystore.OK)
}

func ExampleDecide() {
	key := &keystore.Key{ID: "k", Namespace: "acme", Owner: keystore.RootMember, Active: true, Secrets: []keystore.Secret{{Digest: keystore.DigestOf("a credential")}},
		Grants: []keystore.Grant{{Namespace: "acme", Permissions: []keystore.Permission{{Resource: "orders", Action: "read"}}}}}
	record := keystore.NewRecord(key, keystore.DigestOf("a credential"))
	policy := keystore.NewDirectory(&keystore.Policy{Namespaces: []keystore.Namespace{{ID: "acme"}}})
	for _, class := range []keystore.Class{keystore.Read, keystore.Write} {
		fmt.Println(keystore.Decide(record, &keystore.Request{Now: time.Now(), Policy: policy, Namespace: policy.Namespace("acme"), Need: keystore.Need{Class: class, Resource: "orders"}}))
	}
	// Output:
	// ok
	// forbidden
}

// A node whose Open gave up while it was joining leaves no row that a revoke would wait for.
func TestAnOpenThatGivesUpLeavesNoRow(t *testing.T) {
	d := newDeployment(t)
	db, err := sqldb.OpenSQLite(ctx, d.path)
	if err != nil {
		t.Fatal(err)
	}
	joining := make(chan struct{})
	over, cancel := context.WithCancel(ctx)
	go func() { <-joining; cancel() }()
	if _, err := keystore.OpenAt(over, 1, slowJoin{db, joining, over}, keystore.Settings{}, observer{}); err == nil {
		t.Fatal("it opened")
	}
	k, _ := d.node(keystore.Settings{})
	if counts, err := k.CountNodes(ctx); err != nil || counts[keystore.NodeActive] != 1 {
		t.Errorf("%v, %v", counts, err)
	}
}

// slowJoin lets a node join after all, when nobody waits for it any more.
type slowJoin struct {
	keystore.Database
	joining chan struct{}
	over    context.Context
}

func (s slowJoin) Join(ctx context.Context, n keystore.Node) error {
	close(s.joining)
	<-s.over.Done()
	return s.Database.Join(ctx, n)
}

func TestAClosedStoreTrustsNothing(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	db, err := sqldb.OpenSQLite(context.Background(), d.path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := keystore.Open(context.Background(), db, nil, keystore.Settings{}, observer{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	key, token := mint(t, a, keystore.KeySpec{})
	answer, err := b.Lookup(ctx, token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if p := revoke(t, a, key.ID, 0); !p.Complete || p.Nodes != 1 {
		t.Errorf("%+v", p)
	}
	want(t, "on the closed node", ask(b, token), keystore.Unavailable)
	if b.Enter(answer, &keystore.Running{Cut: func() {}}) {
		t.Error("a request got on its way that no revoke can cut")
	}
}

func TestAnotherLeaseLosesNoWarmKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		a, _ := d.node(keystore.Settings{})
		b, fb := d.node(keystore.Settings{Lease: 20 * time.Second})
		key, token := mint(t, a, keystore.KeySpec{})
		want(t, "warm", ask(b, token), keystore.OK)
		for _, lease := range []time.Duration{40 * time.Second, 10 * time.Second} {
			b.Configure(keystore.Settings{Lease: lease})
			for range 60 {
				want(t, "warm", ask(b, token), keystore.OK)
				time.Sleep(time.Second)
			}
		}
		b.Configure(keystore.Settings{Lease: 5 * time.Second}) // just before it falls silent, with a longer lease in hand
		fb.mute.Store(true)
		p := revoke(t, a, key.ID, time.Minute)
		if !p.Complete {
			t.Fatalf("%+v", p)
		}
		want(t, "after the revoke", ask(b, token), keystore.Unavailable)
	})
}

// While one place is held by a load that hangs, requests that were given up hold none.
func TestGivenUpRequestsHoldNoPlaces(t *testing.T) {
	d := newDeployment(t)
	a, f := d.node(keystore.Settings{})
	const imported = "sk.live/Old-Format:0123456789"
	spec := keystore.ImportSpec{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}}, Line: 1, Token: imported}
	if _, _, err := a.ImportKeys(ctx, root, []keystore.ImportSpec{spec}, false, ""); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	hold := func() { <-release }
	f.holding.Store(&hold)
	before := runtime.NumGoroutine()
	given, cancel := context.WithCancel(ctx)
	cancel()
	for i := range 5000 {
		if _, err := a.Lookup(given, fmt.Sprintf("sk.live/junk-%d", i), time.Now()); err == nil {
			t.Fatal("answered")
		}
	}
	if n := runtime.NumGoroutine() - before; n > 70 {
		t.Errorf("%d goroutines", n)
	}
	f.holding.Store(nil)
	close(release)
	want(t, "a good key", ask(a, imported), keystore.OK)
}
