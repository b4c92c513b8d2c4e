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
	return k.commitAs(ctx, k.authorised(c, f))
}

// commitAs is commit for a change that is already authorized.
func (k *Keystore) commitAs(ctx context.Context, f func(keystore.Tx) error) (node.Commit, error) {
	defer k.changes.enter()()
	return k.Write(ctx, f)
}

// inTurn is commit for one of many transactions of a bulk change. On each node these run one at a
// time, after all other changes that are waiting.
func (k *Keystore) inTurn(
	ctx context.Context, c Caller, f func(keystore.Tx, authority) error,
) (node.Commit, error) {
	if err := k.changes.turn(ctx); err != nil {
		return node.Commit{}, k.StoreFailed("waiting for other changes", err)
	}
	defer k.changes.over()
	ctx, cancel := context.WithTimeout(ctx, revokeWait) // one connection writes
	defer cancel()
	return k.Write(ctx, k.authorised(c, f))
}

func (k *Keystore) authorised(
	c Caller, f func(keystore.Tx, authority) error,
) func(keystore.Tx) error {
	return func(tx keystore.Tx) error {
		by, err := k.changing(c, tx)
		if err != nil {
			return err
		}
		return f(tx, by)
	}
}

func isNotFound(err error) bool { return errors.Is(err, keystore.ErrNotFound) }

// remembered refuses a repeat of a request that made something. An empty key remembers nothing.
func remembered(tx keystore.Tx, by authority, key string) error {
	if key == "" {
		return nil
	}
	var p problems
	if p.secret("Idempotency-Key", key); len(p) > 0 {
		return p.err()
	}
	made, err := tx.Remembered(by.actor, key, tx.Now().Add(-rememberFor))
	if err != nil || made == "" {
		return err
	}
	return &keystore.Error{Kind: keystore.KindConflict, Code: "already_made",
		Detail: "a request with this Idempotency-Key has been carried out; a token is shown only " +
			"once", ID: made}
}

func remember(tx keystore.Tx, by authority, key, made string) error {
	if key == "" {
		return nil
	}
	return tx.Remember(by.actor, key, made, tx.Now().Add(-rememberFor))
}

// rememberFor is how long an Idempotency-Key is known.
const rememberFor = 24 * time.Hour

// A queue keeps bulk changes of many transactions (slices) from delaying changes of one
// transaction. Waiting holds no mutex.
type queue struct {
	slice   chan struct{} // has room while no slice is being written
	mu      sync.Mutex
	changes map[chan struct{}]bool // that are not slices, each closed at its end
}

func newQueue() *queue {
	return &queue{slice: make(chan struct{}, 1), changes: make(map[chan struct{}]bool)}
}

// enter announces a change that is not a slice. The returned function ends it.
func (q *queue) enter() (leave func()) {
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
func (q *queue) turn(ctx context.Context) error {
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
			q.over()
			return ctx.Err()
		}
	}
	return nil
}

func (q *queue) over() { <-q.slice }
