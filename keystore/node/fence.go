package node

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// janitor finds out which other nodes have gone silent, so that a node that died an hour ago costs
// the next revoke nothing.
type janitor struct {
	applied keystore.Revision // as acknowledged last
	looked  time.Time
	seen    map[string]silence
	// incarnation → when, on our own clock, it had been told to take no lease any more
	fenced sync.Map
	busy   atomic.Bool
}

// silence is how long, on our own clock, a node has said nothing.
type silence struct {
	beats int64
	since time.Time
}

// tidy fences nodes that were silent for a lease, and removes nodes whose lease must have expired
// since they were fenced. It fences two kinds of rows at once: a row of another epoch, because its
// node has to join again, and a row that another node fenced, because that write may not have been
// acknowledged. The writes may wait for a standby and delay nothing else; tidy does not look again
// before they are done.
func (j *janitor) tidy(n *Node, nodes []keystore.Node, epoch string, now time.Time) {
	if !j.busy.CompareAndSwap(false, true) {
		return
	}
	seen := make(map[string]silence, len(nodes))
	var fence, remove []keystore.Node
	// stopped, or without the database: others may have had nobody to tell
	blind := now.Sub(j.looked) > n.settings.Load().Lease/2
	j.looked = now
	for _, other := range nodes {
		if other.Incarnation == *n.membership.incarnation.Load() {
			continue
		}
		s, known := j.seen[other.Incarnation]
		switch {
		case !known || s.beats != other.Beats:
			s = silence{beats: other.Beats, since: now}
		case blind:
			s.since = now
		}
		if other.State == keystore.NodeActive { // a failover may have lost that it was fenced
			j.fenced.Delete(other.Incarnation)
		}
		fenced, ours := j.fenced.Load(other.Incarnation)
		switch {
		case ours && other.State == keystore.NodeFencing:
			over := now.Sub(fenced.(time.Time)) >= surelyOver(other.Lease)
			//fault: over = over || ablated("remove-without-wait")
			if over {
				remove = append(remove, other)
			}
		case now.Sub(s.since) >= other.Lease, other.State == keystore.NodeFencing, other.Epoch != "" &&
			other.Epoch != epoch:
			fence = append(fence, other)
		}
		seen[other.Incarnation] = s
	}
	j.fenced.Range(func(incarnation, _ any) bool {
		if _, still := seen[incarnation.(string)]; !still {
			j.fenced.Delete(incarnation)
		}
		return true
	})
	j.seen = seen
	if len(fence)+len(remove) == 0 {
		j.busy.Store(false)
		return
	}
	was := n.membership.history()
	started := n.afterwards(func(ctx context.Context) {
		defer j.busy.Store(false)
		for _, other := range fence {
			if err := n.db.Fence(ctx, other.Incarnation); err != nil {
				_ = n.StoreFailed("fencing a silent node", err)
				return
			}
			if !n.membership.in(was, func() { j.fenced.Store(other.Incarnation, n.clock.now()) }) {
				return
			}
			switch {
			case other.State == keystore.NodeFencing: // somebody else said so
			case other.Epoch != "" && other.Epoch != epoch:
				n.logger.Info("node of a former history has to join again",
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
		j.busy.Store(false)
	}
}

// lastLease returns the time after which a node has begun no lease that does not know of a change
// committed at since: that time itself, or earlier, when the node had been told before to take
// none, and still is, after since.
func (j *janitor) lastLease(n *keystore.Node, since time.Time) time.Time {
	if fenced, ok := j.fenced.Load(n.Incarnation); ok && n.State == keystore.NodeFencing &&
		fenced.(time.Time).Before(since) {
		return fenced.(time.Time)
	}
	return since
}

// forget is for another database or another server of it: what this node has told the former one
// may be lost.
func (j *janitor) forget() {
	j.seen = nil
	j.fenced.Clear()
}
