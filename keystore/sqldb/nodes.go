package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// renewQuery returns the query of Renew. It cannot tell whether a position belongs to this history
// if the mark of the position was deleted with the old part of the change log. A node that is that
// far behind drops its cache anyway.
func (d *DB) renewQuery() string {
	return `SELECT h.epoch, h.revision,
	coalesce((SELECT mark FROM marks WHERE revision = h.revision), ''),
	h.revision < ? OR EXISTS (SELECT 1 FROM marks WHERE revision = ? AND mark <> ?),
	coalesce((SELECT state FROM nodes WHERE incarnation = ?), ''),
	(SELECT count(*) FROM nodes),
	EXISTS (SELECT 1 FROM secrets WHERE imported = 1),
	` + d.clock + `, (SELECT noted FROM clock), ` + d.standbys + `, ` + d.timeline + `
	FROM head h WHERE ` + d.current
}

// Join implements [keystore.Database]. It takes the lock first: a process that sees the row can
// rely on the lock. It may run twice: the row then keeps its state and the longer lease.
func (d *DB) Join(ctx context.Context, n keystore.Node) error {
	const operation = "registering this node"
	silences := d.feed.silences.Load()
	fresh, err := d.locks.acquire(n.Incarnation)
	if err != nil {
		return d.fail(ctx, operation, fileError{err})
	}
	// The statement may run twice, and the second run has to write too: only then does it wait for
	// a standby that may lack the first write.
	err = d.exec(ctx, d.nodeRows, operation, `
		INSERT INTO nodes (incarnation, address, lease, state, former, epoch, joined_at, heard_at)
		SELECT ?, ?, ?, ?, ?, h.epoch, now, now
		FROM head h, (SELECT `+d.clock+` AS now) AS clock WHERE true
		ON CONFLICT (incarnation) DO UPDATE SET lease =
			CASE WHEN excluded.lease > nodes.lease THEN excluded.lease ELSE nodes.lease END`,
		n.Incarnation, n.Address, n.Lease.Microseconds(), keystore.NodeActive, n.Former,
		d.clockArg())
	switch {
	case err == nil:
		d.feed.confirmed.Store(silences)
	case fresh && ctx.Err() == nil:
		// If the context has ended, the row may exist, and the lock must stay.
		d.locks.release(n.Incarnation)
	}
	return err
}

// SetLease implements [keystore.Database].
func (d *DB) SetLease(ctx context.Context, incarnation string, lease time.Duration) error {
	return d.exec(ctx, d.nodeRows, "changing this node's lease",
		"UPDATE nodes SET lease = ? WHERE incarnation = ?", lease.Microseconds(), incarnation)
}

// Confirm implements [keystore.Database].
func (d *DB) Confirm(ctx context.Context, incarnation string) error {
	silences := d.feed.silences.Load()
	err := d.exec(ctx, d.nodeRows, "writing this node's row",
		"UPDATE nodes SET address = address WHERE incarnation = ?", incarnation)
	if err == nil {
		d.feed.confirmed.Store(silences)
	}
	return err
}

// Renew implements [keystore.Database].
func (d *DB) Renew(
	ctx context.Context, incarnation string, at keystore.Position,
) (keystore.Head, error) {
	var h keystore.Head
	err := d.retryLost(ctx, func() error {
		return d.renew.QueryRowContext(ctx, at.Revision, at.Revision, at.Mark, incarnation,
			d.clockArg()).
			Scan(&h.Epoch, &h.Revision, &h.Mark, &h.Diverged, &h.Node, &h.Nodes, &h.Imported,
				timeTo{&h.Now}, timeTo{&h.Noted}, &h.Standbys, textTo{&h.Timeline})
	})
	if d.postgres != nil { // a file has no standby
		// A call that the caller has cancelled says nothing about the database.
		if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			d.feed.silences.Add(1)
		}
		if err == nil {
			err = d.timelines.newest(h.Timeline)
		}
		h.Silent = d.feed.silences.Load() != d.feed.confirmed.Load()
	}
	if replaced := d.intact(); replaced != nil { // the answer comes from the former files
		err = replaced
	}
	return h, d.fail(ctx, "reading the head of the change log", err)
}

// timelines holds the newest timeline that this process has seen.
type timelines struct{ seen atomic.Pointer[string] }

// newest returns an error if another server has taken over from the server of this timeline.
// Timelines are hexadecimal and of a fixed length.
func (t *timelines) newest(timeline string) error {
	for {
		seen := t.seen.Load()
		if seen != nil && timeline < *seen {
			return fmt.Errorf("this PostgreSQL server is a former primary: its timeline is %s and "+
				"another server had %s; if it was restored from an older backup, restart Caddy",
				timeline, *seen)
		}
		if t.seen.CompareAndSwap(seen, &timeline) {
			return nil
		}
	}
}

// Acknowledge implements [keystore.Database]. On PostgreSQL, it waits for neither the disk nor a
// standby, because a revoke waits for it. If a crash loses an acknowledgement, revokes wait until
// the node's next one.
func (d *DB) Acknowledge(ctx context.Context, incarnation string, at keystore.Position) error {
	return d.exec(ctx, d.nodeRows, "acknowledging", `
		UPDATE nodes SET beats = beats + 1, heard_at = `+d.clock+`,
		acked = CASE WHEN acked < ? THEN ? ELSE acked END WHERE incarnation = ?
		AND NOT EXISTS (SELECT 1 FROM marks WHERE revision = ? AND mark <> ?)
		AND EXISTS (SELECT 1 FROM head WHERE revision >= ?)`+d.unforced,
		d.clockArg(), at.Revision, at.Revision, incarnation, at.Revision, at.Mark, at.Revision)
}

// Nodes implements [keystore.Database]. It deletes nodes whose process has ended, which a free lock
// shows on the same machine.
func (d *DB) Nodes(ctx context.Context) ([]keystore.Node, error) {
	const operation = "reading the nodes"
	rows, err := d.query(ctx, d.lease,
		"SELECT incarnation, address, lease, state, acked, beats, epoch, joined_at, heard_at FROM "+
			"nodes WHERE "+d.current+" ORDER BY joined_at, incarnation")
	if err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	defer rows.Close()
	var out []keystore.Node
	for rows.Next() {
		var n keystore.Node
		var lease int64
		if err := rows.Scan(&n.Incarnation, &n.Address, &lease, &n.State, &n.Acknowledged, &n.Beats,
			&n.Epoch, timeTo{&n.Joined}, timeTo{&n.Heard}); err != nil {
			return nil, d.fail(ctx, operation, err)
		}
		n.Lease = time.Duration(lease) * time.Microsecond
		out = append(out, n)
	}
	if err := rows.Err(); err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	living := out[:0]
	for _, n := range out {
		if ended := d.locks.takeOver(n.Incarnation); ended == nil {
			living = append(living, n)
		} else {
			// If the deletion fails, the next call tries again.
			if d.deleteNode(ctx, n.Incarnation) == nil {
				ended.remove()
			}
			ended.close()
		}
	}
	return living, nil
}

// NoteTime implements [keystore.Database].
func (d *DB) NoteTime(ctx context.Context, t time.Time) error {
	return d.exec(ctx, d.nodeRows, "recording the time",
		"UPDATE clock SET noted = ? WHERE (noted IS NULL OR noted < ?)"+d.unforced,
		t.UnixMicro(), t.UnixMicro())
}

// Fence implements [keystore.Database].
func (d *DB) Fence(ctx context.Context, incarnation string) error {
	return d.exec(ctx, d.nodeRows, "fencing a node",
		"UPDATE nodes SET state = ? WHERE incarnation = ?", keystore.NodeFencing, incarnation)
}

// Remove implements [keystore.Database].
func (d *DB) Remove(ctx context.Context, incarnation string) error {
	if err := d.deleteNode(ctx, incarnation); err != nil {
		return err
	}
	d.locks.release(incarnation)
	if ended := d.locks.takeOver(incarnation); ended != nil {
		ended.remove()
		ended.close()
	}
	return nil
}

// RemoveFenced implements [keystore.Database].
func (d *DB) RemoveFenced(ctx context.Context, incarnation string) error {
	return d.exec(ctx, d.nodeRows, "removing a fenced node",
		"DELETE FROM nodes WHERE incarnation = ? AND state = ?", incarnation, keystore.NodeFencing)
}

func (d *DB) deleteNode(ctx context.Context, incarnation string) error {
	return d.exec(ctx, d.nodeRows, "removing a node", "DELETE FROM nodes WHERE incarnation = ?",
		incarnation)
}
