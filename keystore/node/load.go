package node

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// loadTimeout bounds one question to the stores.
	QueryTimeout = 2 * time.Second
	// untaggedLoads caps the misses in flight of credentials that anybody can make up: those
	// without a tag.
	untaggedLoads = 64
)

// A flight is one load of one credential, and who waits for it. At most one runs and one is queued
// for a credential.
type flight struct {
	generation uint64            // of the shard, before the store is read
	applied    keystore.Position // by this node, before the store is read
	done       chan struct{}
	next       *flight // begins when this one ends

	// set before done is closed
	record *keystore.Record
	// the record was read at a revision that this node had not applied when the flight began
	newer bool
	err   error
}

// load answers from the database a credential that was not found in the cache. A request joins a
// running load only if nothing was invalidated since that began, for a load may serve whoever
// arrived before its snapshot was taken and nobody else (protocol.md section 4); else it waits for
// the next one. The load goes on when one waiter's context ends.
func (n *Node) load(
	ctx context.Context, d keystore.Digest, tagged bool, now time.Time,
) (*keystore.Record, error) {
	s := n.cache.shard(&d)
	for tries := 0; ; tries++ {
		free, err := n.place(ctx, tagged)
		if err != nil {
			return nil, err
		}
		r, f, joins, err := n.board(s, d, now, free)
		if f == nil {
			return r, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// the second flight began after the request came
		if f.err != nil || !joins || !f.newer || tries > 0 {
			return f.record, f.err
		}
	}
}

// place waits for a place for a load of a credential without a tag, and returns what gives it back.
func (n *Node) place(ctx context.Context, tagged bool) (free func(), err error) {
	if tagged {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	select {
	case n.untagged <- struct{}{}:
		return func() { <-n.untagged }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// board returns the flight to wait for, or what is known without, and whether the flight had begun
// before. If that flight finds a record newer than this node has applied, only callers that came
// before it began may use it: a failover may have lost the record since. free gives back the place
// of a credential without a tag: a flight that begins keeps it, for it goes on when nobody waits
// any more.
func (n *Node) board(
	s *shard, d keystore.Digest, now time.Time, free func(),
) (r *keystore.Record, f *flight, joins bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		free()
		return nil, nil, false, errClosed
	}
	if r, known := s.find(&d, now.UnixNano()); known { // filled, or moved in its table, in between
		free()
		return r, nil, false, nil
	}
	if f = s.flights[d]; f == nil {
		f = &flight{done: make(chan struct{})}
		n.begins(f, s)
		s.flights[d] = f
		n.work.Go(func() {
			defer free()
			n.fly(s, d, f)
		})
		return nil, f, false, nil
	}
	free()
	overtaken := f.generation != s.generation.Load()
	//fault: overtaken = overtaken && !ablated("join-any-flight")
	if overtaken || !n.membership.lease.holds(now) {
		if f.next == nil {
			f.next = &flight{done: make(chan struct{})}
		}
		return nil, f.next, false, nil
	}
	return nil, f, true, nil
}

// begins records the state that a flight's answer is compared with before it is cached. The caller
// holds the lock.
func (n *Node) begins(f *flight, s *shard) {
	f.generation, f.applied = s.generation.Load(), *n.membership.position.Load()
}

// fly keeps an answer only if nothing was invalidated since the flight began, and only if the
// answer is no newer than what this node had applied then. A newer answer belongs to a change that
// a failover may lose without this node noticing.
func (n *Node) fly(s *shard, d keystore.Digest, f *flight) {
	for f != nil {
		f.record, f.newer, f.err = n.ask(s, d, f.applied)
		//fault: hold("load.read")
		now := n.clock.now().UnixNano()
		s.mu.Lock()
		overtaken := f.generation != s.generation.Load()
		//fault: overtaken = overtaken && !ablated("no-fill-token")
		if f.err == nil && !f.newer && !overtaken {
			//fault: if ablated("check-then-insert") { s.holdUnlocked("load.insert") }
			s.insert(&d, f.record, now)
		}
		next := f.next
		if next != nil {
			n.begins(next, s)
			s.flights[d] = next
		} else {
			delete(s.flights, d)
		}
		s.mu.Unlock()
		close(f.done)
		f = next
	}
}

// ask puts one question to the stores, and reports whether the answer is newer than what this node
// had applied before. A database answer that is older is an error: it comes from a former primary,
// or from a history that this node has not noticed yet.
func (n *Node) ask(
	s *shard, d keystore.Digest, applied keystore.Position,
) (r *keystore.Record, newer bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), QueryTimeout)
	defer cancel()
	seal := n.seal.Load()
	if r := n.askShared(ctx, s, seal, &d); r != nil {
		return r, false, nil
	}
	if n.membership.away(n.clock.now()) {
		return nil, false, errAway
	}
	begun := time.Now()
	key, asOf, err := n.keyByDigest(ctx, d, applied)
	n.observer.LookedUp(TierDatabase, time.Since(begun))
	newer = asOf.Revision > applied.Revision
	//fault: newer = newer && !ablated("newer-than-applied")
	switch {
	case err != nil:
		n.counters.lookups[TierDatabase][LookupFail].Add(1)
		n.StoreFailed("looking up a key", err)
		return nil, false, err
	case key == nil:
		n.counters.lookups[TierDatabase][Miss].Add(1)
		return nil, newer, nil
	}
	n.counters.lookups[TierDatabase][Hit].Add(1)
	r = keystore.NewRecord(key, d)
	if !r.RotatedOut() && !newer {
		n.share(seal, key, &d, asOf.Revision)
	}
	return r, newer, nil
}

// keyByDigest asks the database, whose answer is no older than what this node had applied before.
func (n *Node) keyByDigest(
	ctx context.Context, d keystore.Digest, applied keystore.Position,
) (*keystore.Key, keystore.Position, error) {
	key, asOf, err := n.db.KeyByDigest(ctx, d)
	if err == nil && (asOf.Revision < applied.Revision || asOf.Revision == applied.Revision &&
		asOf.Mark != applied.Mark) {
		err = errStale
	}
	n.lookupsFail.Store(err != nil)
	return key, asOf, err
}
