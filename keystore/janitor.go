package keystore

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// janitor finds out which other nodes have gone silent, so that a node that died an hour ago costs the next revoke nothing.
type janitor struct {
	applied Revision // as acknowledged last
	looked  time.Time
	seen    map[string]silence
	fenced  sync.Map // incarnation → when, on our own clock, it was told to take no lease any more
}

// silence is how long, on our own clock, a node has said nothing.
type silence struct {
	beats  int64
	since  time.Time
	fenced time.Time // zero: not by us
}

// tidy fences nodes that were silent for a lease, and removes those whose lease has surely run out since.
func (j *janitor) tidy(ctx context.Context, k *Keystore, nodes []Node, now time.Time) {
	seen := make(map[string]silence, len(nodes))
	blind := now.Sub(j.looked) > k.settings.Load().Lease/2 // stopped, or without the database: others may have had nobody to tell
	j.looked = now
	for _, other := range nodes {
		if other.Incarnation == *k.node.incarnation.Load() {
			continue
		}
		s, known := j.seen[other.Incarnation]
		switch {
		case !known || s.beats != other.Beats:
			s = silence{beats: other.Beats, since: now}
		case blind:
			s.since = now
		}
		var err error
		switch {
		case s.fenced.IsZero() && now.Sub(s.since) >= other.Lease:
			if err = k.db.Fence(ctx, other.Incarnation); err == nil {
				s.fenced = k.clock.now()
				j.fenced.Store(other.Incarnation, s.fenced)
				k.logger.Warn("a node has gone silent and is given up", slog.String("node", other.Address))
			}
		case !s.fenced.IsZero() && (now.Sub(s.fenced) >= k.node.rate.wait(surelyOver(other.Lease)) || ablated("remove-without-wait")):
			err = k.db.Remove(ctx, other.Incarnation)
		}
		if err != nil {
			_ = k.storeFailed("giving up a silent node", err)
		}
		seen[other.Incarnation] = s
	}
	for incarnation := range j.seen {
		if _, still := seen[incarnation]; !still {
			j.fenced.Delete(incarnation)
		}
	}
	j.seen = seen
}

// lastLease returns the time after which a node has begun no lease that does not know of a change committed at since: that time itself, or earlier,
// when the node had been told before to take none, and still is, after since.
func (j *janitor) lastLease(n *Node, since time.Time) time.Time {
	if fenced, ok := j.fenced.Load(n.Incarnation); ok && n.State == NodeFencing && fenced.(time.Time).Before(since) {
		return fenced.(time.Time)
	}
	return since
}

// forget is for another database, which knows of nothing that this one was told.
func (j *janitor) forget() {
	j.seen = nil
	j.fenced.Clear()
}
