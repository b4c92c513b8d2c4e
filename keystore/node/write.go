package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// WithCurrent calls f, which uses [Node.CurrentPolicy]. If f fails with [keystore.ErrTruncated],
// the node is too far behind, and WithCurrent renews the lease and calls f once more.
func (n *Node) WithCurrent(ctx context.Context, f func() error) error {
	err := f()
	if errors.Is(err, keystore.ErrTruncated) {
		if err = n.renewAnew(ctx); err == nil {
			err = f()
		}
	}
	return err
}

// CurrentPolicy returns the node's directory with the changes since its position. read returns
// those changes, or [keystore.ErrTruncated] if the database has not kept them.
func (n *Node) CurrentPolicy(
	read func(since keystore.Position) (*keystore.Policy, error),
) (*keystore.Directory, error) {
	// The position is read first, so that the directory has at least the changes up to it.
	at := *n.membership.position.Load()
	directory := n.membership.directory.Load()
	if at.Revision < 0 {
		return nil, keystore.ErrTruncated
	}
	p, err := read(at)
	if err != nil || p == nil {
		return directory, err
	}
	return directory.With(p, nil), nil
}

// Write commits a change, which f makes in a transaction. If f returns a [*keystore.Error], nothing
// is changed and Write returns that error. f may be called twice: see [Node.WithCurrent].
func (n *Node) Write(ctx context.Context, f func(keystore.Tx) error) (Commit, error) {
	var c Commit
	//fault: readNodes(ctx, n.db)
	err := n.WithCurrent(ctx, func() (err error) {
		c.history = n.membership.history()
		c.Revision, err = n.db.Update(ctx, f)
		return err
	})
	if err != nil {
		return c, n.confirmRefusal(ctx, n.RefusalOr("writing a change", err))
	}
	c.since = n.clock.now()
	//fault: hold("committed")
	return c, nil
}

// confirmRefusal returns an error of [Node.Write]. If it is a refusal that may depend on another
// change, such as a key that no longer exists, it first makes the database acknowledge all earlier
// changes. The other change may have been answered with 503, and a failover could lose it.
func (n *Node) confirmRefusal(ctx context.Context, refused error) error {
	refusal, ok := errors.AsType[*keystore.Error](refused)
	if !ok || refusal.Kind != keystore.KindNotFound && refusal.Kind != keystore.KindConflict ||
		!n.membership.standbys.Load() {
		return refused
	}
	if _, err := n.db.Update(ctx, func(keystore.Tx) error { return nil }); err != nil {
		return n.StoreFailed("confirming the reason of a refusal", err)
	}
	return refused
}

// RefusalOr returns err if it is a [*keystore.Error], and otherwise reports it with
// [Node.StoreFailed].
func (n *Node) RefusalOr(doing string, err error) error {
	var refusal *keystore.Error
	if errors.As(err, &refusal) {
		return refusal
	}
	return n.StoreFailed(doing, err)
}

// StoreFailed counts a failure of the database and returns it with the operation. It logs at most
// one failure per second, and [keystore.ErrReplaced] once. A cancelled context is not a failure.
func (n *Node) StoreFailed(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	n.counters.storeErrors.Add(1)
	now, last := time.Now().UnixNano(), n.loggedFailure.Load()
	log := now-last >= int64(time.Second) && n.loggedFailure.CompareAndSwap(last, now)
	if errors.Is(err, keystore.ErrReplaced) {
		log = !n.membership.replaced.Swap(true)
	}
	if log {
		n.logger.Error("the key database failed", slog.String("while", doing),
			slog.Any("error", err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}
