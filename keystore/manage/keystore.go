package manage

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A Keystore manages the keys of a deployment through one of its nodes. It is safe for concurrent
// use. Decisions about requests need only its [node.Node].
type Keystore struct {
	*node.Node

	reads   readLimiter
	writes  *writeQueue
	imports chan struct{} // holds an element for each running import
	leaks   leakReports
}

// Open opens a node and returns the Keystore that manages it. The parameters are those of
// [node.Open].
func Open(
	ctx context.Context, db keystore.Database, configured *[32]byte, s node.Settings,
	o node.Observer, logger *slog.Logger,
) (*Keystore, error) {
	n, err := node.Open(ctx, db, configured, s, o, logger)
	if err != nil {
		return nil, err
	}
	return New(n), nil
}

// New returns the Keystore of a node. A node has at most one. The Keystore's background work stops
// when the node is closed.
func New(n *node.Node) *Keystore {
	k := &Keystore{Node: n, writes: newWriteQueue(), imports: make(chan struct{}, maxImports)}
	n.ReassertWith(revokeLost)
	n.Go(func(ctx context.Context) { k.abandonImports(ctx, 0) })
	n.Every(importIdle, func(ctx context.Context) { k.abandonImports(ctx, 0) })
	n.Every(sessionUseInterval, k.deleteExpiredSessions)
	n.Go(k.remind)
	return k
}

// revokeLost repeats revokes that the database has lost. reasons maps the ids of the keys to the
// reasons.
func revokeLost(tx keystore.Tx, reasons map[string]string) error {
	_, err := revokeAll(tx, internalAuthority("a node that repeats a lost revoke"),
		slices.Collect(maps.Keys(reasons)), func(id string) string { return reasons[id] })
	return err
}
