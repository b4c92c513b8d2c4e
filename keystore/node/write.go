package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// withCurrent calls f, which uses current. If this node is too far behind for that, it catches up
// and calls f once more.
func (n *Node) WithCurrent(ctx context.Context, f func() error) error {
	err := f()
	if errors.Is(err, keystore.ErrTruncated) {
		if err = n.renewAnew(ctx); err == nil {
			err = f()
		}
	}
	return err
}

// current returns the node's directory with the changes since its position, which it gets from
// read. It fails with ErrTruncated if they are not known.
func (n *Node) CurrentPolicy(
	read func(since keystore.Position) (*keystore.Policy, error),
) (*keystore.Directory, error) {
	// the directory has all changes up to there, and may have more
	at := *n.membership.position.Load()
	held := n.membership.directory.Load()
	if at.Revision < 0 {
		return nil, keystore.ErrTruncated
	}
	p, err := read(at)
	if err != nil || p == nil {
		return held, err
	}
	return held.With(p, nil), nil
}

func (n *Node) Write(ctx context.Context, f func(keystore.Tx) error) (Commit, error) {
	var done Commit
	//fault: readNodes(ctx, n.db)
	err := n.WithCurrent(ctx, func() (err error) {
		done.history = n.membership.history()
		done.Revision, err = n.db.Update(ctx, f)
		return err
	})
	if err != nil {
		return done, n.confirmed(ctx, n.RefusalOr("writing a change", err))
	}
	done.since = n.clock.now()
	//fault: hold("committed")
	return done, nil
}

// confirmed returns a refusal that depends on another change, such as a key that no longer exists,
// once the database has acknowledged that change. That change may have been answered 503, and a
// failover could lose it.
func (n *Node) confirmed(ctx context.Context, refused error) error {
	refusal, ok := errors.AsType[*keystore.Error](refused)
	if !ok || refusal.Kind != keystore.KindNotFound && refusal.Kind != keystore.KindConflict ||
		!n.membership.standbys.Load() {
		return refused
	}
	if _, err := n.db.Update(ctx, func(keystore.Tx) error { return nil }); err != nil {
		return n.StoreFailed("confirming why a change is refused", err)
	}
	return refused
}

// refusalOr passes on what refuses, and counts the rest as the store's failure.
func (n *Node) RefusalOr(doing string, err error) error {
	var refusal *keystore.Error
	if errors.As(err, &refusal) {
		return refusal
	}
	return n.StoreFailed(doing, err)
}

// storeFailed counts a failure of the database and returns it with the operation. It logs failures
// at a limited rate, and [keystore.ErrReplaced] once.
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
