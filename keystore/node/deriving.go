package node

import (
	"context"
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// derivingQueue is how many tokens wait for the computation of their deriving key. A token that
	// does not fit waits for its next use.
	derivingQueue = 256
	// maxPendingDeriving is how many computed keys are kept while the database is unavailable.
	maxPendingDeriving = 1 << 16
)

// A derivingBook has the deriving keys of tokens that were stored without one: as a digest, or by
// an earlier release. It also has those of tokens of other systems, once another prefix is accepted.
// The node that sees such a token computes its key in the background.
type derivingBook struct {
	queue chan seenToken

	mu   sync.Mutex
	keys map[keystore.Digest]keystore.DerivingKey // not in the database yet
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

// learnDeriving has the deriving key of a record's token computed in the background. It never
// waits.
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
			if _, known := n.knownDeriving(seen.record); known {
				continue
			}
			k := n.NewDerivingKey(seen.token)
			seen.record.SetDeriving(k)
			b.mu.Lock()
			b.add(seen.record.Digest, k)
			b.mu.Unlock()
		}
	}
}

// add adds a computed key if there is room. The caller holds b.mu.
func (b *derivingBook) add(d keystore.Digest, k keystore.DerivingKey) {
	if len(b.keys) < maxPendingDeriving {
		b.keys[d] = k
	}
}

// flushDeriving writes the deriving keys that were computed since the last flush. After a failure it
// keeps the others for the next flush.
func (n *Node) flushDeriving(ctx context.Context) {
	b := n.deriving
	b.mu.Lock()
	keys := b.keys
	if len(keys) > 0 {
		b.keys = make(map[keystore.Digest]keystore.DerivingKey)
	}
	b.mu.Unlock()
	if len(keys) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushInterval)
	defer cancel()
	err := n.db.RecordDeriving(ctx, keys)
	if err == nil {
		return
	}
	_ = n.StoreFailed("recording deriving keys", err)
	b.mu.Lock()
	defer b.mu.Unlock()
	for d, k := range keys {
		if _, newer := b.keys[d]; !newer {
			b.add(d, k)
		}
	}
}
