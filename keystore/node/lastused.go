package node

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// useInterval is the minimum time between two uses of a record that are noted. A process that
	// is killed loses at most useInterval and flushInterval, less than 10 s together
	// (docs/api_keys_admin.md, "Objects").
	useInterval   = 5 * time.Second
	flushInterval = 4 * time.Second
	// maxPendingUses is how many keys' last uses are kept while the database is unavailable.
	maxPendingUses = 1 << 20
)

// A use is the last use of one key.
type use struct {
	keyID string
	keystore.LastUse
}

// Used notes that a request with this record was accepted at now, in Unix nanoseconds. Usually it
// costs one comparison. The argument from returns the address of the client, or the zero Addr if it
// is unknown. It is called only if the use is noted and usage is on.
func (n *Node) Used(r *keystore.Record, now int64, from func() netip.Addr) {
	if !r.NoteUse(now, useInterval) {
		return
	}
	last := keystore.LastUse{At: time.Unix(0, now).UTC()}
	if !n.settings.Load().Usage.Off {
		last.From = from().Unmap().WithZone("")
	}
	s := n.cache.shard(&r.Digest)
	s.mu.Lock()
	s.used = append(s.used, use{r.KeyID, last})
	s.mu.Unlock()
}

// pendingUses are the last uses that are not in the database yet.
type pendingUses struct {
	mu sync.Mutex
	at map[string]keystore.LastUse
}

// flushUses writes the last uses that were noted since the last flush. After a failure, it keeps
// those that it has not written for the next flush.
func (n *Node) flushUses(ctx context.Context) {
	u := &n.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at == nil {
		u.at = make(map[string]keystore.LastUse)
	}
	for i := range n.cache.shards {
		s := &n.cache.shards[i]
		s.mu.Lock()
		noted := s.used
		s.used = nil
		s.mu.Unlock()
		for _, use := range noted {
			if len(u.at) < maxPendingUses {
				u.at[use.keyID] = use.LastUse
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
	}
}
