package manage

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"

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
	audited atomic.Pointer[func([]*keystore.AuditRow)] // see OnAudit
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
	n.Every(thresholdInterval, k.noteThresholds)
	return k
}

// OnAudit sets the function that is called after each commit of a change of this process, with its
// rows of the audit log. It is not called for revokes that are repeated because the database has
// lost them. It must return at once and must not change the rows. nil stands for none.
func (k *Keystore) OnAudit(f func([]*keystore.AuditRow)) {
	if f == nil {
		k.audited.Store(nil)
		return
	}
	k.audited.Store(&f)
}

// write commits a change and reports its rows of the audit log: see OnAudit.
func (k *Keystore) write(ctx context.Context, f func(keystore.Tx) error) (node.Commit, error) {
	var rows []*keystore.AuditRow
	done, err := k.Write(ctx, func(tx keystore.Tx) error {
		rows = nil // the second call of f repeats the first
		return f(auditingTx{tx, &rows})
	})
	if report := k.audited.Load(); err == nil && len(rows) > 0 && report != nil {
		(*report)(rows)
	}
	return done, err
}

// An auditingTx collects the rows that a transaction appends to the audit log.
type auditingTx struct {
	keystore.Tx
	rows *[]*keystore.AuditRow
}

func (t auditingTx) AppendAudit(rows []*keystore.AuditRow) error {
	*t.rows = append(*t.rows, rows...)
	return t.Tx.AppendAudit(rows)
}

// revokeLost repeats revokes that the database has lost. reasons maps the ids of the keys to the
// reasons.
func revokeLost(tx keystore.Tx, reasons map[string]string) error {
	_, err := revokeAll(tx, internalAuthority("a node that repeats a lost revoke"),
		slices.Collect(maps.Keys(reasons)), func(id string) string { return reasons[id] })
	return err
}
