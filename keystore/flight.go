package keystore

import (
	"context"
	"time"
)

const (
	// loadTimeout bounds one question to the stores.
	loadTimeout = 2 * time.Second
	// untaggedLoads caps the misses in flight of credentials that anybody can make up: those
	// without a tag.
	untaggedLoads = 64
)

// A flight is one load of one credential, and who waits for it. At most one runs and one is queued
// for a credential.
type flight struct {
	generation uint64   // of the shard, before the store is read
	applied    Position // by this node, before the store is read
	done       chan struct{}
	next       *flight // begins when this one ends

	// set before done is closed
	record *Record
	// the record was read at a revision that this node had not applied when the flight began
	newer bool
	err   error
}

// load answers from the database a credential that was not found in the cache. A request joins a
// running load only if nothing was invalidated since that began, for a load may serve whoever
// arrived before its snapshot was taken and nobody else (protocol.md section 4); else it waits for
// the next one. The load goes on when one waiter's context ends.
func (k *Keystore) load(
	ctx context.Context, d Digest, tagged bool, now time.Time,
) (*Record, error) {
	s := k.cache.shard(&d)
	for tries := 0; ; tries++ {
		free, err := k.place(ctx, tagged)
		if err != nil {
			return nil, err
		}
		r, f, joins, err := k.board(s, d, now, free)
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
func (k *Keystore) place(ctx context.Context, tagged bool) (free func(), err error) {
	if tagged {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	select {
	case k.untagged <- struct{}{}:
		return func() { <-k.untagged }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// board returns the flight to wait for, or what is known without, and whether the flight had begun
// before. If that flight finds a record newer than this node has applied, only callers that came
// before it began may use it: a failover may have lost the record since. free gives back the place
// of a credential without a tag: a flight that begins keeps it, for it goes on when nobody waits
// any more.
func (k *Keystore) board(
	s *shard, d Digest, now time.Time, free func(),
) (r *Record, f *flight, joins bool, err error) {
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
		k.begins(f, s)
		s.flights[d] = f
		k.work.Go(func() {
			defer free()
			k.fly(s, d, f)
		})
		return nil, f, false, nil
	}
	free()
	if f.generation != s.generation.Load() && !ablated("join-any-flight") ||
		!k.node.lease.holds(now) {
		if f.next == nil {
			f.next = &flight{done: make(chan struct{})}
		}
		return nil, f.next, false, nil
	}
	return nil, f, true, nil
}

// begins records the state that a flight's answer is compared with before it is cached. The caller
// holds the lock.
func (k *Keystore) begins(f *flight, s *shard) {
	f.generation, f.applied = s.generation.Load(), *k.node.position.Load()
}

// fly keeps an answer only if nothing was invalidated since the flight began, and only if the
// answer is no newer than what this node had applied then. A newer answer belongs to a change that
// a failover may lose without this node noticing.
func (k *Keystore) fly(s *shard, d Digest, f *flight) {
	for f != nil {
		f.record, f.newer, f.err = k.ask(s, d, f.applied)
		hold("load.read")
		now := k.clock.now().UnixNano()
		s.mu.Lock()
		if f.err == nil && (!f.newer || ablated("newer-than-applied")) &&
			(f.generation == s.generation.Load() || ablated("no-fill-token")) {
			if ablated("check-then-insert") {
				s.mu.Unlock()
				hold("load.insert")
				s.mu.Lock()
			}
			s.insert(&d, f.record, now)
		}
		next := f.next
		if next != nil {
			k.begins(next, s)
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
func (k *Keystore) ask(s *shard, d Digest, applied Position) (r *Record, newer bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	seal := k.seal.Load()
	if r := k.askShared(ctx, s, seal, &d); r != nil {
		return r, false, nil
	}
	if k.node.away(k.clock.now()) {
		return nil, false, errAway
	}
	begun := time.Now()
	key, asOf, err := k.keyByDigest(ctx, d, applied)
	k.observer.LookedUp(TierDatabase, time.Since(begun))
	newer = asOf.Revision > applied.Revision
	switch {
	case err != nil:
		k.counters.lookups[TierDatabase][LookupFail].Add(1)
		k.storeFailed("looking up a key", err)
		return nil, false, err
	case key == nil:
		k.counters.lookups[TierDatabase][Miss].Add(1)
		return nil, newer, nil
	}
	k.counters.lookups[TierDatabase][Hit].Add(1)
	r = NewRecord(key, d)
	if !r.opensNothing() && (!newer || ablated("newer-than-applied")) {
		k.share(seal, key, &d, asOf.Revision)
	}
	return r, newer, nil
}

// keyByDigest asks the database, whose answer is no older than what this node had applied before.
func (k *Keystore) keyByDigest(
	ctx context.Context, d Digest, applied Position,
) (*Key, Position, error) {
	key, asOf, err := k.db.KeyByDigest(ctx, d)
	if err == nil && (asOf.Revision < applied.Revision || asOf.Revision == applied.Revision &&
		asOf.Mark != applied.Mark) {
		err = errStale
	}
	k.lookupsFail.Store(err != nil)
	return key, asOf, err
}
