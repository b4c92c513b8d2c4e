package node

import (
	"maps"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Running is a running request, which is cut when its key is no longer valid (docs/api_key.md,
// rule 14). It can be reused after [Node.Leave].
type Running struct {
	// Cut aborts the request. It is called at most once between Enter and Leave, under a lock. It
	// must not block, and must not call the Node.
	Cut func()

	next, prev *Running // in the ring of its shard; nil if it was cut or has not entered
	digest     keystore.Digest
	owner      string // of the key
	expires    int64  // Unix nanoseconds
	longest    int64  // Unix nanoseconds: when the derived token expires
}

// Unchanged reports whether the answer's record is certainly unchanged since its lookup. Changes of
// other records can make it return false too.
func (n *Node) Unchanged(a Answer) bool {
	return n.cache.shard(&a.Record.Digest).generation.Load() == a.generation
}

// Enter registers a running request with the answer's record. It returns false if the record may
// have changed since the lookup. Then the caller must look it up and decide again. The caller must
// call [Node.Leave] once after each Enter that returned true.
func (n *Node) Enter(a Answer, r *Running) bool {
	s := n.cache.shard(&a.Record.Digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation.Load() != a.generation || s.closed {
		return false
	}
	r.digest, r.owner, r.longest = a.Record.Digest, a.Record.Owner, a.Narrowing.Expiry()
	r.expires = min(a.Record.Expiry(), r.longest)
	if r.expires != keystore.Never {
		s.expiring++
	}
	r.prev, r.next = s.running.prev, &s.running
	r.prev.next, r.next.prev = r, r
	return true
}

// Leave removes a request, and reports whether it was cut. When it returns, Cut is not running and
// will not be called.
func (n *Node) Leave(r *Running) (cut bool) {
	s := n.cache.shard(&r.digest)
	s.mu.Lock()
	if cut = r.next == nil; !cut {
		s.unlink(r)
	}
	s.mu.Unlock()
	return cut
}

func (s *shard) unlink(r *Running) {
	r.prev.next, r.next.prev = r.next, r.prev
	r.next, r.prev = nil, nil
	if r.expires != keystore.Never {
		s.expiring--
	}
}

// update sets the owner and the expiry of the running requests with a credential, and cuts them if
// it has expired. A derived token may expire earlier. The caller holds the lock.
func (s *shard) update(d *keystore.Digest, owner string, keyExpires, now int64) {
	for r := s.running.next; r != &s.running; {
		this := r
		r = r.next
		if this.digest != *d {
			continue
		}
		expires := min(keyExpires, this.longest)
		if (this.expires != keystore.Never) != (expires != keystore.Never) {
			if expires != keystore.Never {
				s.expiring++
			} else {
				s.expiring--
			}
		}
		this.owner, this.expires = owner, expires
		s.cutIfExpired(this, now)
	}
}

func (s *shard) cutIfExpired(r *Running, now int64) {
	//fault: if ablated("no-cut") { return }
	if now >= r.expires {
		s.unlink(r)
		r.Cut()
	}
}

// cutInterval is how long a request can outlive the expiry of its key or derived token.
const cutInterval = time.Second

// cutExpired cuts the running requests whose key has expired.
func (c *localCache) cutExpired(now int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		if s.expiring > 0 {
			for r := s.running.next; r != &s.running; {
				this := r
				r = r.next
				s.cutIfExpired(this, now)
			}
		}
		s.mu.Unlock()
	}
}

// cutAll cuts all running requests.
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

// cutDisabled cuts the running requests of keys whose owner is disabled. Requests that have looked
// up their record and have not entered yet must decide again.
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

// runningDigests lists the credentials of all running requests.
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
