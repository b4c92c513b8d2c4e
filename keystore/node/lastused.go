package node

import (
	"context"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// useGrain is how close together two uses may lie to be noted as one. With flushInterval it
	// makes the 10 s that a kill may lose (spec section 9).
	useGrain      = 5 * time.Second
	flushInterval = 4 * time.Second
	// unflushedUses bounds what waits while the database is away.
	unflushedUses = 1 << 20
)

// A use is the last use of one key.
type use struct {
	keyID string
	at    time.Time
}

// Used notes that a request of this record was let through at now, in Unix nanoseconds. Mostly that
// is one comparison.
func (n *Node) Used(r *keystore.Record, now int64) {
	if !r.NoteUse(now, useGrain) {
		return
	}
	s := n.cache.shard(&r.Digest)
	s.mu.Lock()
	s.used = append(s.used, use{r.KeyID, time.Unix(0, now).UTC()})
	s.mu.Unlock()
}

// unflushed are last uses that the database has not taken yet.
type unflushed struct {
	mu sync.Mutex
	at map[string]time.Time
}

// flushUses writes what was noted since the last flush. What the database does not take is kept for
// the next one.
func (n *Node) flushUses(ctx context.Context) {
	u := &n.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at == nil {
		u.at = make(map[string]time.Time)
	}
	for i := range n.cache.shards {
		s := &n.cache.shards[i]
		s.mu.Lock()
		noted := s.used
		s.used = nil
		s.mu.Unlock()
		for _, n := range noted {
			if len(u.at) < unflushedUses {
				u.at[n.keyID] = n.at
			}
		}
	}
	if len(u.at) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushInterval)
	defer cancel()
	if err := n.db.RecordUse(ctx, u.at); err != nil {
		_ = n.StoreFailed("writing last uses", err)
		return
	}
	clear(u.at)
}
