package node

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// QueryTimeout limits one load, and any other query that a caller waits for.
	QueryTimeout = 2 * time.Second
	// untaggedLoads is how many loads of credentials without a tag run at a time. Anyone can invent
	// such credentials. It is less than the number of connections for lookups (keystore/sqldb), so
	// that credentials with a tag need not wait for them.
	untaggedLoads = 6
)

// A pendingLoad is one load of one credential. At most one load of a credential runs, and one more
// is queued.
type pendingLoad struct {
	generation uint64            // of the shard, before the load
	applied    keystore.Position // of this node, before the load
	done       chan struct{}
	next       *pendingLoad // starts when this one is done

	// These are set before done is closed.
	record *keystore.Record
	newer  bool // record was read at a revision after applied
	err    error
}

// load returns the record of a credential that is not in the cache. A request joins a running load
// only if the lease holds for it and nothing was invalidated since the load began. Then the result
// is one that the cache could have returned, or from a snapshot that was taken after the request
// arrived (docs/protocol.md, rule 5). Otherwise the request waits for the next load. A load
// continues when a waiting request is cancelled.
func (n *Node) load(
	ctx context.Context, d keystore.Digest, tagged bool, now time.Time,
) (*keystore.Record, error) {
	s := n.cache.shard(&d)
	for tries := 0; ; tries++ {
		free, err := n.acquireSlot(ctx, tagged)
		if err != nil {
			return nil, err
		}
		r, l, joined, err := n.joinOrStart(s, d, now, free)
		if l == nil {
			return r, err
		}
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// A second load has begun after the request arrived.
		if l.err != nil || !joined || !l.newer || tries > 0 {
			return l.record, l.err
		}
	}
}

// acquireSlot waits until a load of a credential without a tag may run. The caller must call free.
func (n *Node) acquireSlot(ctx context.Context, tagged bool) (free func(), err error) {
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

// joinOrStart returns the load to wait for, or a record that has been cached since. joined says
// that the load had begun before. A request that arrived after a load began must not use a record
// from it that is newer than what this node has applied: a failover may have lost the record since.
// A load that starts calls free when it is done. Otherwise joinOrStart calls free.
func (n *Node) joinOrStart(
	s *shard, d keystore.Digest, now time.Time, free func(),
) (r *keystore.Record, l *pendingLoad, joined bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		free()
		return nil, nil, false, errClosed
	}
	if r, known := s.find(&d, sinceStart(now)); known { // inserted or moved meanwhile
		free()
		return r, nil, false, nil
	}
	if l = s.loads[d]; l == nil {
		l = &pendingLoad{done: make(chan struct{})}
		n.recordState(l, s)
		s.loads[d] = l
		n.work.Go(func() {
			defer free()
			n.runLoads(s, d, l)
		})
		return nil, l, false, nil
	}
	free()
	overtaken := l.generation != s.generation.Load()
	//fault: overtaken = overtaken && !ablated("join-any-flight")
	if overtaken || !n.membership.lease.holds(now) {
		if l.next == nil {
			l.next = &pendingLoad{done: make(chan struct{})}
		}
		return nil, l.next, false, nil
	}
	return nil, l, true, nil
}

// recordState records the state at the beginning of a load. The caller holds the shard's lock.
func (n *Node) recordState(l *pendingLoad, s *shard) {
	l.generation, l.applied = s.generation.Load(), *n.membership.position.Load()
}

// runLoads runs a load and those that are queued after it. It caches a record only if nothing was
// invalidated since the load began, and only if the record is not newer than what this node had
// applied then. A failover may lose a newer record, and this node would not notice.
func (n *Node) runLoads(s *shard, d keystore.Digest, l *pendingLoad) {
	for l != nil {
		l.record, l.newer, l.err = n.read(s, d, l.applied)
		//fault: hold("load.read")
		now := sinceStart(n.clock.now())
		s.mu.Lock()
		overtaken := l.generation != s.generation.Load()
		//fault: overtaken = overtaken && !ablated("no-fill-token")
		if l.err == nil && !l.newer && !overtaken {
			//fault: if ablated("check-then-insert") { s.holdUnlocked("load.insert") }
			s.insert(&d, l.record, now)
		}
		next := l.next
		if next != nil {
			n.recordState(next, s)
			s.loads[d] = next
		} else {
			delete(s.loads, d)
		}
		s.mu.Unlock()
		close(l.done)
		l = next
	}
}

// read reads a record from the shared cache or the database. It reports whether the record is newer
// than what this node had applied before. An older answer of the database is an error: it comes
// from a former primary, or from a history that this node has not noticed yet.
func (n *Node) read(
	s *shard, d keystore.Digest, applied keystore.Position,
) (r *keystore.Record, newer bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), QueryTimeout)
	defer cancel()
	seal := n.seal.Load()
	if r := n.findShared(ctx, s, seal, &d); r != nil {
		return r, false, nil
	}
	if n.membership.unavailable(n.clock.now()) {
		return nil, false, errUnavailable
	}
	begun := time.Now()
	key, asOf, err := n.keyByDigest(ctx, d, applied)
	n.observer.LookedUp(TierDatabase, time.Since(begun))
	newer = asOf.Revision > applied.Revision
	//fault: newer = newer && !ablated("newer-than-applied")
	switch {
	case err != nil:
		n.counters.lookups[TierDatabase][LookupFail].Add(1)
		_ = n.StoreFailed("looking up a key", err)
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

// keyByDigest reads a key from the database. The result is not older than what this node had
// applied before.
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
