package node

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// useInterval is the minimum time between two uses of a record, or of a derived token, that are
	// noted. A process that is killed loses at most useInterval and flushInterval, less than 10 s
	// together (docs/api_keys_admin.md, "Objects").
	useInterval   = 5 * time.Second
	flushInterval = 4 * time.Second
	// maxPendingUses is how many keys' last uses are kept while the database is unavailable.
	maxPendingUses = 1 << 20
	// maxPendingNotes is how many bytes of their notes are kept. Further derived uses are kept
	// without their notes.
	maxPendingNotes = 16 << 20
)

// Used notes that a request was accepted at now, in Unix nanoseconds. It had this record, and a
// derived token if narrowing is not nil. Usually it costs one comparison, or two for a derived
// token. The argument from returns the address of the client, or the zero Addr if it is unknown. It
// is called only if the use is noted and usage is on.
func (n *Node) Used(
	r *keystore.Record, narrowing *keystore.Narrowing, now int64, from func() netip.Addr,
) {
	// A record may be used all the time, and its derived token only now and then.
	noted, derived := r.NoteUse(now, useInterval), narrowing.NoteUse(now, useInterval)
	if !noted && !derived {
		return
	}
	last := keystore.LastUse{At: time.Unix(0, now).UTC()}
	if derived {
		last.Derived.At = last.At
	}
	if !n.settings.Load().Usage.Off {
		last.From = from().Unmap().WithZone("")
		if derived {
			last.Derived.Note = narrowing.Note
		}
	}
	s := n.cache.shard(&r.Digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = make(map[string]keystore.LastUse)
	}
	// One entry for each key: each request may have a new derived token.
	merged := s.used[r.KeyID]
	merged.Merge(last)
	s.used[r.KeyID] = merged
}

// pendingUses are the last uses that are not in the database yet.
type pendingUses struct {
	mu    sync.Mutex
	at    map[string]keystore.LastUse // by key id
	notes int                         // the bytes of their notes
}

// add adds the last use of a key, unless too many are kept.
func (u *pendingUses) add(keyID string, use keystore.LastUse) {
	last, known := u.at[keyID]
	if !known && len(u.at) >= maxPendingUses {
		return
	}
	if u.notes+len(use.Derived.Note) > maxPendingNotes {
		use.Derived.Note = ""
	}
	u.notes -= len(last.Derived.Note)
	last.Merge(use)
	u.notes += len(last.Derived.Note)
	u.at[keyID] = last
}

// count counts the bytes of the notes again.
func (u *pendingUses) count() {
	u.notes = 0
	for _, use := range u.at {
		u.notes += len(use.Derived.Note)
	}
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
		for keyID, use := range noted {
			u.add(keyID, use)
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
	u.count()
}
