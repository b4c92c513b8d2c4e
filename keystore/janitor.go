package keystore

import (
	"context"
	"log/slog"
	"time"
)

// janitor finds out which other nodes have gone silent, so that a node that died an hour ago costs the next revoke nothing.
type janitor struct {
	applied Revision // as acknowledged last
	seen    map[string]silence
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
	for _, other := range nodes {
		if other.Incarnation == *k.node.incarnation.Load() {
			continue
		}
		s, known := j.seen[other.Incarnation]
		if !known || s.beats != other.Beats {
			s = silence{beats: other.Beats, since: now}
		}
		var err error
		switch {
		case s.fenced.IsZero() && now.Sub(s.since) >= other.Lease:
			if err = k.db.Fence(ctx, other.Incarnation); err == nil {
				s.fenced = k.clock.now()
				k.logger.Warn("a node has gone silent and is given up", slog.String("node", other.Address))
			}
		case !s.fenced.IsZero() && (now.Sub(s.fenced) >= surelyOver(other.Lease) || ablated("remove-without-wait")):
			err = k.db.Remove(ctx, other.Incarnation)
		}
		if err != nil {
			_ = k.storeFailed("giving up a silent node", err)
		}
		seen[other.Incarnation] = s
	}
	j.seen = seen
}
