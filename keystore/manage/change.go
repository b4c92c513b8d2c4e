package manage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// ChangeOptions go with every change of an existing object.
type ChangeOptions struct {
	// IfVersion is the version the object must have, else the change is refused with
	// KindPrecondition. 0: any.
	IfVersion int64
	// OrVersions are further versions that it may have, beside IfVersion.
	OrVersions []int64
	// Wait is how long to wait for the change to be in force on every node. Zero:
	// [node.DefaultWait]. Less: not at all.
	Wait time.Duration
}

func (o ChangeOptions) check(version int64) error {
	if o.IfVersion != 0 && o.IfVersion != version && !slices.Contains(o.OrVersions, version) {
		return &keystore.Error{Kind: keystore.KindPrecondition, Code: "version_mismatch",
			Detail: fmt.Sprintf("the object has version %d by now; read it again", version)}
	}
	return nil
}

// change is the one way to write what may take access away: it waits for every node to know.
func (k *Keystore) change(
	ctx context.Context, c Caller, wait time.Duration, f func(keystore.Tx, authority) error,
) (node.Propagation, error) {
	done, err := k.commit(ctx, c, f)
	if err != nil {
		return node.Propagation{}, err
	}
	return k.PropagateObserved(done, wait)
}

// add is the one way to write what only adds something: it waits for every node to know, so that
// what is new can be used there.
func (k *Keystore) add(
	ctx context.Context, c Caller, wait time.Duration, f func(keystore.Tx, authority) error,
) error {
	done, err := k.commit(ctx, c, f)
	if err != nil {
		return err
	}
	_, err = k.Propagate(ctx, done, wait)
	return err
}

// commit authorises a change by what holds inside its transaction, and writes it.
func (k *Keystore) commit(
	ctx context.Context, c Caller, f func(keystore.Tx, authority) error,
) (node.Commit, error) {
	return k.commitAs(ctx, k.withAuthority(c, f))
}

// commitAs is commit for a change that is already authorized.
func (k *Keystore) commitAs(ctx context.Context, f func(keystore.Tx) error) (node.Commit, error) {
	defer k.writes.enter()()
	return k.Write(ctx, f)
}

// inTurn is commit for one of many transactions of a bulk change. On each node these run one at a
// time, after all other changes that are waiting.
func (k *Keystore) commitBulk(
	ctx context.Context, c Caller, f func(keystore.Tx, authority) error,
) (node.Commit, error) {
	if err := k.writes.enterBulk(ctx); err != nil {
		return node.Commit{}, k.StoreFailed("waiting for other changes", err)
	}
	defer k.writes.leaveBulk()
	ctx, cancel := context.WithTimeout(ctx, revokeWait) // one connection writes
	defer cancel()
	return k.Write(ctx, k.withAuthority(c, f))
}

func (k *Keystore) withAuthority(
	c Caller, f func(keystore.Tx, authority) error,
) func(keystore.Tx) error {
	return func(tx keystore.Tx) error {
		auth, err := k.authorityIn(c, tx)
		if err != nil {
			return err
		}
		return f(tx, auth)
	}
}

func isNotFound(err error) bool { return errors.Is(err, keystore.ErrNotFound) }

// Once makes a change happen at most once: it recognises a request that repeats an earlier one. Its
// methods run in the transactions of the change, so a check and its record cannot be separated. A
// nil Once checks nothing.
type Once interface {
	// Before runs in each transaction of the change, before the first write and after a check that
	// the caller may do such a change at all. Its error refuses the change. actor is
	// [Caller.Actor].
	Before(tx keystore.Tx, actor string) error
	// After runs at the end of the last transaction. created is the id of the last key that the
	// change created, empty if it created none.
	After(tx keystore.Tx, actor, created string) error
}

func refuseRepeat(once Once, tx keystore.Tx, auth authority) error {
	if once == nil {
		return nil
	}
	return once.Before(tx, auth.actor)
}

func noteCreated(once Once, tx keystore.Tx, auth authority, created string) error {
	if once == nil {
		return nil
	}
	return once.After(tx, auth.actor, created)
}

// A queue keeps bulk changes of many transactions (slices) from delaying changes of one
// transaction. Waiting holds no mutex.
type writeQueue struct {
	slice   chan struct{} // has room while no slice is being written
	mu      sync.Mutex
	changes map[chan struct{}]bool // that are not slices, each closed at its end
}

func newWriteQueue() *writeQueue {
	return &writeQueue{slice: make(chan struct{}, 1), changes: make(map[chan struct{}]bool)}
}

// enter announces a change that is not a slice. The returned function ends it.
func (q *writeQueue) enter() (leave func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	done := make(chan struct{})
	q.changes[done] = true
	return func() {
		close(done)
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.changes, done)
	}
}

// turn waits until a slice may be written: no other slice is running, and all earlier changes have
// ended. Call over when the slice is done.
func (q *writeQueue) enterBulk(ctx context.Context) error {
	select {
	case q.slice <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	q.mu.Lock()
	before := slices.Collect(maps.Keys(q.changes))
	q.mu.Unlock()
	for _, done := range before {
		select {
		case <-done:
		case <-ctx.Done():
			q.leaveBulk()
			return ctx.Err()
		}
	}
	return nil
}

func (q *writeQueue) leaveBulk() { <-q.slice }
