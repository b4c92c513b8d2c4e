package node

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// fencer fences and removes nodes that have stopped, so that later revokes do not wait for them
// (docs/protocol.md, rule 8).
type fencer struct {
	lastRun time.Time
	seen    map[string]heartbeat // by incarnation
	// fenced is the time on our own clock, by incarnation, when the database acknowledged that the
	// node must not take another lease.
	fenced sync.Map
	busy   atomic.Bool // a background write is in progress
}

// heartbeat is the last change of a node's counter that this node has seen.
type heartbeat struct {
	beats int64
	since time.Time // on our own clock
}

// fenceSilent fences nodes that were silent for a lease, and removes nodes whose lease must have
// expired since they were fenced. It fences two kinds of rows at once: a row of another epoch,
// because its node has to join again, and a row that another node fenced, because that write may
// not have been acknowledged. The writes run in the background, because they may wait for a
// standby. Until they are done, fenceSilent does nothing.
func (f *fencer) fenceSilent(n *Node, nodes []keystore.Node, epoch string, now time.Time) {
	if !f.busy.CompareAndSwap(false, true) {
		return
	}
	seen := make(map[string]heartbeat, len(nodes))
	var fence, remove []keystore.Node
	// This process may have been stopped, or the database unavailable to all nodes. Then a node
	// that seems silent may be healthy.
	blind := now.Sub(f.lastRun) > n.settings.Load().Lease/2
	f.lastRun = now
	for _, other := range nodes {
		if other.Incarnation == *n.membership.incarnation.Load() {
			continue
		}
		s, known := f.seen[other.Incarnation]
		switch {
		case !known || s.beats != other.Beats:
			s = heartbeat{beats: other.Beats, since: now}
		case blind:
			s.since = now
		}
		if other.State == keystore.NodeActive { // a failover may have lost the fencing
			f.fenced.Delete(other.Incarnation)
		}
		fenced, ours := f.fenced.Load(other.Incarnation)
		switch {
		case ours && other.State == keystore.NodeFencing:
			over := now.Sub(fenced.(time.Time)) >= leaseWait(other.Lease)
			//fault: over = over || ablated("remove-without-wait")
			if over {
				remove = append(remove, other)
			}
		case now.Sub(s.since) >= other.Lease, other.State == keystore.NodeFencing,
			other.Epoch != "" && other.Epoch != epoch:
			fence = append(fence, other)
		}
		seen[other.Incarnation] = s
	}
	f.fenced.Range(func(incarnation, _ any) bool {
		if _, still := seen[incarnation.(string)]; !still {
			f.fenced.Delete(incarnation)
		}
		return true
	})
	f.seen = seen
	if len(fence)+len(remove) == 0 {
		f.busy.Store(false)
		return
	}
	was := n.membership.history()
	started := n.inBackground(func(ctx context.Context) {
		defer f.busy.Store(false)
		for _, other := range fence {
			if err := n.db.Fence(ctx, other.Incarnation); err != nil {
				_ = n.StoreFailed("fencing a silent node", err)
				return
			}
			acknowledged := func() { f.fenced.Store(other.Incarnation, n.clock.now()) }
			if !n.membership.inHistory(was, acknowledged) {
				return
			}
			switch {
			case other.State == keystore.NodeFencing: // another node logged it
			case other.Epoch != "" && other.Epoch != epoch:
				n.logger.Info("node of a former history must join again",
					slog.String("node", other.Address))
			default:
				n.logger.Warn("fencing a silent node", slog.String("node", other.Address))
			}
		}
		for _, other := range remove {
			if n.membership.history() != was {
				return
			}
			if err := n.db.RemoveFenced(ctx, other.Incarnation); err != nil {
				_ = n.StoreFailed("removing a fenced node", err)
				return
			}
		}
	})
	if !started {
		f.busy.Store(false)
	}
}

// lastLease returns the last time at which a node can have begun a lease without the change that
// was committed at since. If the node was fenced before the commit and its row shows that it still
// is, that is the time at which it was fenced. Otherwise it is the time of the commit.
func (f *fencer) lastLease(n *keystore.Node, since time.Time) time.Time {
	if fenced, ok := f.fenced.Load(n.Incarnation); ok && n.State == keystore.NodeFencing &&
		fenced.(time.Time).Before(since) {
		return fenced.(time.Time)
	}
	return since
}

// forget drops everything. It is called after a change of history or of the server, which may have
// lost writes of this node.
func (f *fencer) forget() {
	f.seen = nil
	f.fenced.Clear()
}
