package node

import (
	"maps"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Running is a request on its way, so that it can be cut when its key stops being alive (spec
// section 5). It may be used again after Leave.
type Running struct {
	// Cut ends the request. It is called at most once between Enter and Leave, under a lock: it
	// must not block, nor call the Keystore.
	Cut func()

	next, prev *Running // in the ring of its shard; nil: cut, or not entered
	digest     keystore.Digest
	owner      string // of the key
	ends       int64  // Unix nanoseconds
}

// Enter notes that a request of the answer's record is on its way. False: the record may have
// changed since it was looked up; look it up and decide again. Every Enter that returned true is
// followed by one Leave.
func (n *Node) Enter(a Answer, r *Running) bool {
	s := n.cache.shard(&a.Record.Digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation.Load() != a.generation || s.closed {
		return false
	}
	r.digest, r.owner, r.ends = a.Record.Digest, a.Record.Owner, a.Record.Expiry()
	if r.ends != keystore.Never {
		s.ending++
	}
	r.prev, r.next = s.running.prev, &s.running
	r.prev.next, r.next.prev = r, r
	return true
}

// Leave takes the request out. When it returns, Cut is not running and will not be called.
func (n *Node) Leave(r *Running) {
	s := n.cache.shard(&r.digest)
	s.mu.Lock()
	if r.next != nil {
		s.unlink(r)
	}
	s.mu.Unlock()
}

func (s *shard) unlink(r *Running) {
	r.prev.next, r.next.prev = r.next, r.prev
	r.next, r.prev = nil, nil
	if r.ends != keystore.Never {
		s.ending--
	}
}

// endAt gives the requests that a credential opened their new end, and cuts them if it has come.
// The caller holds the lock.
func (s *shard) endAt(d *keystore.Digest, ends, now int64) {
	for r := s.running.next; r != &s.running; {
		this := r
		r = r.next
		if this.digest != *d {
			continue
		}
		if (this.ends != keystore.Never) != (ends != keystore.Never) {
			if ends != keystore.Never {
				s.ending++
			} else {
				s.ending--
			}
		}
		this.ends = ends
		s.cutIfEnded(this, now)
	}
}

func (s *shard) cutIfEnded(r *Running, now int64) {
	//fault: if ablated("no-cut") { return }
	if now >= r.ends {
		s.unlink(r)
		r.Cut()
	}
}

// sweepInterval is how late a request may be cut that outlives its key's expiry.
const sweepInterval = time.Second

// sweep cuts what runs on although its key has expired by itself.
func (c *localCache) sweep(now int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		if s.ending > 0 {
			for r := s.running.next; r != &s.running; {
				this := r
				r = r.next
				s.cutIfEnded(this, now)
			}
		}
		s.mu.Unlock()
	}
}

// cutAll cuts every request.
func (c *localCache) cutAll() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for r := s.running.next; r != &s.running; {
			this := r
			r = r.next
			s.unlink(this)
			this.Cut()
		}
		s.mu.Unlock()
	}
}

// cutDisabled cuts the requests of keys whose owner is disabled. Those that were decided on before
// and have not yet entered have to decide again.
func (c *localCache) cutDisabled(d *keystore.Directory) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation.Add(1)
		for r := s.running.next; r != &s.running; {
			this := r
			r = r.next
			if !d.OwnerActive(this.owner) {
				s.unlink(this)
				this.Cut()
			}
		}
		s.mu.Unlock()
	}
}

// runningDigests lists the credentials that opened what runs.
func (c *localCache) runningDigests() []keystore.Digest {
	found := make(map[keystore.Digest]bool)
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for r := s.running.next; r != &s.running; r = r.next {
			found[r.digest] = true
		}
		s.mu.Unlock()
	}
	return slices.Collect(maps.Keys(found))
}
