package node

import (
	"context"
	"maps"
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// derivingQueue is the maximum number of tokens that wait for the computation of their deriving
	// key. A token that does not fit is queued at its next use.
	derivingQueue = 256
	// maxPendingDeriving is how many computed keys wait for the database. Those of other tokens are
	// computed at a later use, because a key that is not stored would be known to this node only.
	maxPendingDeriving = 1 << 16
)

// A derivingBook holds deriving keys that this node has computed and not yet stored. The database
// has no deriving key for a token that was imported as a digest or created by an earlier release,
// and an outdated one for a token of another system after a change of the accepted prefixes. The
// node that sees such a token computes its deriving key in the background.
type derivingBook struct {
	queue chan seenToken

	mu      sync.Mutex
	keys    map[keystore.Digest]keystore.DerivingKey // to be written
	writing map[keystore.Digest]keystore.DerivingKey // being written
}

// A seenToken is a token that a request has brought.
type seenToken struct {
	record *keystore.Record
	token  string
}

func newDerivingBook() *derivingBook {
	return &derivingBook{queue: make(chan seenToken, derivingQueue),
		keys: make(map[keystore.Digest]keystore.DerivingKey)}
}

// learnDeriving queues a record's token, so that its deriving key is computed in the background. It
// never waits: if the queue is full, the next use of the token queues it.
func (n *Node) learnDeriving(r *keystore.Record, token string) {
	if r.RotatedOut() || len(n.deriving.queue) == derivingQueue {
		return
	}
	select {
	case n.deriving.queue <- seenToken{record: r, token: token}:
	default:
	}
}

// computeDeriving computes the deriving keys of the tokens that were seen, one after the other.
func (n *Node) computeDeriving(ctx context.Context) {
	b := n.deriving
	for {
		select {
		case <-ctx.Done():
			return
		case seen := <-b.queue:
			if _, known := n.knownDeriving(seen.record); known || b.full() {
				continue
			}
			k := n.NewDerivingKey(seen.token)
			if k == (keystore.DerivingKey{}) {
				continue
			}
			b.mu.Lock()
			b.keys[seen.record.Digest] = k
			b.mu.Unlock()
			seen.record.SetDeriving(k)
		}
	}
}

func (b *derivingBook) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.keys)+len(b.writing) >= maxPendingDeriving
}

// find returns the deriving key of a token that the database may not have yet, or the zero value.
func (b *derivingBook) find(d keystore.Digest) keystore.DerivingKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k, ok := b.keys[d]; ok {
		return k
	}
	return b.writing[d]
}

// flushDeriving writes the deriving keys that were computed since the last flush. After a failure,
// it keeps those that it has not written for the next flush.
func (n *Node) flushDeriving(ctx context.Context) {
	b := n.deriving
	b.mu.Lock()
	keys := b.keys
	if len(keys) == 0 {
		b.mu.Unlock()
		return
	}
	b.keys, b.writing = make(map[keystore.Digest]keystore.DerivingKey), keys
	b.mu.Unlock()
	left := maps.Clone(keys) // because RecordDeriving deletes those that it has stored
	ctx, cancel := context.WithTimeout(ctx, flushInterval)
	defer cancel()
	if err := n.db.RecordDeriving(ctx, left); err != nil {
		_ = n.StoreFailed("recording deriving keys", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writing = nil
	for d, k := range left {
		if _, newer := b.keys[d]; !newer {
			b.keys[d] = k
		}
	}
}
