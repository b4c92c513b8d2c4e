package fleet

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// ErrCut is the error of a [Faulty] database that is cut off.
var ErrCut = errors.New("cut off")

// Faulty is the database of one node. Its fields make operations fail, hang or answer wrongly, and
// count them. They can change while the node runs. The zero values change nothing.
type Faulty struct {
	keystore.Database

	// Cut: Renew, Join, SetLease, KeyByDigest, DerivingKey and Reserve return ErrCut.
	Cut            atomic.Bool
	Hangs          atomic.Bool  // Renew, KeyByDigest and Reserve wait until their context is done
	Mute           atomic.Bool  // Renew fails: the node neither acknowledges nor learns of changes
	SetLeaseHangs  atomic.Bool  // SetLease waits until its context is done
	Unacknowledged atomic.Bool  // Join and Reserve write and return ErrCut; Confirm returns ErrCut
	Silent         atomic.Bool  // Renew reports a silent database, until Confirm
	Ahead          atomic.Int64 // how far the database's clock is ahead, in nanoseconds
	Timeline       atomic.Value // a string that Renew returns as the server's timeline
	Stale          atomic.Pointer[StaleAnswer]

	BeforePolicy atomic.Pointer[func()] // called before the next RenewPolicy
	BeforeUpdate atomic.Pointer[func()] // called before the next Update
	Holding      atomic.Pointer[func()] // called by KeyByDigest between its read and its answer
	slowPolicy   atomic.Int64           // how long Policy takes for a whole policy, in nanoseconds

	Loads         atomic.Int64 // calls of KeyByDigest and Session
	DerivingLoads atomic.Int64 // calls of DerivingKey
	PolicyRows    atomic.Int64 // namespaces, roles, plans and members that were read
	WholePolicies atomic.Int64 // whole policies that were read
	Reserves      atomic.Int64 // calls of Reserve
}

// A StaleAnswer is an answer of KeyByDigest that replaces the database's.
type StaleAnswer struct {
	Key *keystore.Key
	At  keystore.Position
}

// Renew fails, lies about the time or hangs, as the fields say.
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

// Join fails as the fields say.
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

// Confirm fails as the fields say.
func (f *Faulty) Confirm(ctx context.Context, incarnation string) error {
	if f.Unacknowledged.Load() {
		return ErrCut
	}
	f.Silent.Store(false)
	return f.Database.Confirm(ctx, incarnation)
}

// RenewPolicy calls BeforePolicy and counts rows.
func (f *Faulty) RenewPolicy(
	ctx context.Context, since keystore.Position,
) (*keystore.Policy, error) {
	if before := f.BeforePolicy.Swap(nil); before != nil {
		(*before)()
	}
	return f.read(f.Database.RenewPolicy(ctx, since))
}

// Policy counts rows, and is slow for a whole policy if the node was opened by NodeSlow.
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
		f.PolicyRows.Add(int64(len(p.Namespaces) + len(p.Roles) + len(p.Plans) + len(p.Members)))
		if p.Whole {
			f.WholePolicies.Add(1)
		}
	}
	return p, err
}

// Update calls BeforeUpdate and counts the policy rows that the transaction reads.
func (f *Faulty) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	if before := f.BeforeUpdate.Swap(nil); before != nil {
		(*before)()
	}
	return f.Database.Update(ctx, func(tx keystore.Tx) error { return change(countedTx{tx, f}) })
}

// countedTx counts the policy rows that a transaction reads.
type countedTx struct {
	keystore.Tx
	f *Faulty
}

func (t countedTx) Policy(since keystore.Position) (*keystore.Policy, error) {
	return t.f.read(t.Tx.Policy(since))
}

// SetLease fails or hangs as the fields say.
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

// KeyByDigest counts loads, and fails, hangs or answers wrongly as the fields say.
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

// DerivingKey counts loads, and fails as the fields say.
func (f *Faulty) DerivingKey(
	ctx context.Context, d keystore.Digest,
) (keystore.DerivingKey, error) {
	f.DerivingLoads.Add(1)
	if f.Cut.Load() {
		return keystore.DerivingKey{}, ErrCut
	}
	return f.Database.DerivingKey(ctx, d)
}

// Reserve counts calls, and fails or hangs as the fields say.
func (f *Faulty) Reserve(
	ctx context.Context, reservations []keystore.Reservation,
) ([]keystore.QuotaGrant, error) {
	f.Reserves.Add(1)
	if f.Hangs.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if f.Cut.Load() {
		return nil, ErrCut
	}
	grants, err := f.Database.Reserve(ctx, reservations)
	if f.Unacknowledged.Load() {
		return nil, ErrCut
	}
	return grants, err
}

// Session counts loads.
func (f *Faulty) Session(ctx context.Context, id keystore.Digest) (*keystore.Session, error) {
	f.Loads.Add(1)
	return f.Database.Session(ctx, id)
}

// HoldOne holds the next KeyByDigest between its read and its answer. KeyByDigest closes read when
// it has read, and answers when release is closed. Later calls are not held.
func (f *Faulty) HoldOne() (read, release chan struct{}) {
	read, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := func() { once.Do(func() { close(read); <-release }) }
	f.Holding.Store(&hold)
	return read, release
}
