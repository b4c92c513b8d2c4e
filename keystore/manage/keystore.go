package manage

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A Keystore changes what a node serves, and reads it for those who manage. It is safe for
// concurrent use. Decisions about requests need its [node.Node] alone.
type Keystore struct {
	*node.Node

	reads   readLimiter   // of callers, to read
	writes  *writeQueue   // of changes, on this node
	imports chan struct{} // a place for each import
}

// Open opens a node and the Keystore that manages it. The parameters are those of [node.Open].
func Open(
	ctx context.Context, db keystore.Database, configured *[32]byte, s node.Settings,
	o node.Observer,
	logger *slog.Logger,
) (*Keystore, error) {
	n, err := node.Open(ctx, db, configured, s, o, logger)
	if err != nil {
		return nil, err
	}
	return New(n), nil
}

// New returns the Keystore of a node, of which there is one. Its background work ends with the
// node.
func New(n *node.Node) *Keystore {
	k := &Keystore{Node: n, writes: newWriteQueue(), imports: make(chan struct{}, maxImports)}
	n.ReassertWith(revokeLost)
	n.Go(func(ctx context.Context) { k.abandonImports(ctx, 0) })
	n.Every(importIdle, func(ctx context.Context) { k.abandonImports(ctx, 0) })
	n.Every(sessionUseInterval, k.deleteExpiredSessions)
	return k
}

// revokeLost revokes again keys whose revokes the database has lost: ids to reasons.
func revokeLost(tx keystore.Tx, reasons map[string]string) error {
	auth := authority{root: true, actor: keystore.RootMember, from: "a node that remembers",
		policy: keystore.NewDirectory(new(keystore.Policy))}
	_, err := revokeAll(tx, auth, slices.Collect(maps.Keys(reasons)),
		func(id string) string { return reasons[id] })
	return err
}
