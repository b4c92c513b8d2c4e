package node

import (
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	cacheShards = 256

	// negativeEntries is how many unknown credentials the process remembers.
	negativeEntries = 1 << 16
	// negativeTTL is short, because an unknown credential may be imported. The change log announces
	// that too.
	negativeTTL = 2 * time.Second
	// recordTTL limits the effect of bugs. The lease is what keeps records valid.
	recordTTL = 10 * time.Minute

	// derivedEntries and derivedBytes limit the verified derived tokens that the process remembers.
	derivedEntries = 100_000
	derivedBytes   = 64 << 20
)

// localCache holds the records of recently used credentials. Unknown credentials are remembered
// separately, so that a flood of them cannot evict records, and so are derived tokens (derived.go).
// Lookups take no lock. Everything else about one credential happens in its shard, under the shard's
// lock: insertion, invalidation, loads (load.go) and running requests (running.go).
type localCache struct {
	shards [cacheShards]shard
}

type shard struct {
	// generation counts the invalidations in this shard. A load reads it first, and inserts a
	// record only if it is still the same, under the lock (docs/protocol.md, rule 5). A lookup
	// reads it first too, but without the lock. So invalidations remove records before they
	// increment generation: a request that has found a removed record cannot enter (running.go).
	generation atomic.Uint64
	records    table
	negatives  table
	derived    table // by the digest of the signature; never invalidated, see verified

	mu       sync.Mutex
	changes  recentChanges
	loads    map[keystore.Digest]*pendingLoad
	running  Running                     // head of a ring
	expiring int                         // how many of the running requests have a key that expires
	used     map[string]keystore.LastUse // by key id, since the last flush; nil if there are none
	uses     map[keystore.Digest]*useCell
	closed   bool

	hits, negativeHits, misses atomic.Uint64

	_ [64]byte // requests with keys of different shards share no cache line
}

// newLocalCache returns a cache of about this many records and bytes.
func newLocalCache(capacity int, bytes int64) *localCache {
	c := &localCache{}
	for i := range c.shards {
		s := &c.shards[i]
		s.records.limit.Store(perShard(capacity))
		s.records.maxBytes.Store(bytes / cacheShards)
		s.negatives.limit.Store(perShard(negativeEntries))
		s.derived.limit.Store(perShard(derivedEntries))
		s.derived.maxBytes.Store(derivedBytes / cacheShards)
		s.loads = make(map[keystore.Digest]*pendingLoad)
		s.running.next, s.running.prev = &s.running, &s.running
	}
	return c
}

// perShard returns how many entries of a capacity one shard may hold, at least one.
func perShard(capacity int) int64 {
	return int64(max(1, (capacity+cacheShards-1)/cacheShards))
}

// resize changes the limits of the records, and evicts those that exceed them.
func (c *localCache) resize(capacity int, bytes int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.records.limit.Store(perShard(capacity))
		s.records.maxBytes.Store(bytes / cacheShards)
		s.records.shrink()
		s.mu.Unlock()
	}
}

func (c *localCache) shard(d *keystore.Digest) *shard { return &c.shards[d[0]] }

// purge empties the cache, because anything in it may have changed at or before revision r.
func (c *localCache) purge(r keystore.Revision) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.records.clear()
		s.negatives.clear()
		s.changes.reset(r)
		s.generation.Add(1)
		s.mu.Unlock()
	}
}

// forgetNegatives forgets the unknown credentials, because some may have been added. It keeps the
// records.
func (c *localCache) forgetNegatives() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation.Add(1)
		s.negatives.clear()
		s.mu.Unlock()
	}
}

// close prevents further loads and cuts all running requests.
func (c *localCache) close() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	c.cutAll()
}

func (c *localCache) len() (n int) {
	for i := range c.shards {
		n += int(c.shards[i].records.count.Load())
	}
	return n
}

// bytes returns the approximate memory of the records.
func (c *localCache) bytes() (n int64) {
	for i := range c.shards {
		n += c.shards[i].records.bytes.Load()
	}
	return n
}

// find looks up a credential without a lock. r is nil or rotated out if the credential is known to
// be invalid.
func (s *shard) find(d *keystore.Digest, now int64) (r *keystore.Record, known bool) {
	if e := s.findEntry(d, now); e != nil {
		return e.record, true
	}
	return nil, false
}

func (s *shard) findEntry(d *keystore.Digest, now int64) *entry {
	if e := s.records.find(d); e != nil && now < e.until {
		return e
	}
	if e := s.negatives.find(d); e != nil && now < e.until {
		return e
	}
	return nil
}

// insert caches the result of a load. The caller holds the lock and has compared the generation.
func (s *shard) insert(d *keystore.Digest, r *keystore.Record, now int64) {
	if r == nil || r.RotatedOut() {
		s.negatives.insert(&entry{digest: *d, record: r, until: now + int64(negativeTTL)})
	} else {
		s.records.insert(&entry{digest: *d, record: r, until: now + int64(recordTTL),
			size: int32(min(r.Size(), math.MaxInt32))})
	}
}

// invalidate removes a credential that has changed at revision r, and prevents running loads in the
// shard from caching what they have read. The caller holds the lock.
func (s *shard) invalidate(d *keystore.Digest, r keystore.Revision) {
	//fault: if ablated("bump-after-unlock") { s.bumpAfterUnlock(d); return }
	s.changes.add(d, r)
	s.records.remove(d)
	s.negatives.remove(d)
	s.generation.Add(1)
}

// An entry is immutable except for its atomic fields.
type entry struct {
	digest  keystore.Digest
	record  *keystore.Record
	until   int64 // see sinceStart
	size    int32 // bytes, without the record's grants, which other records may share
	marked  atomic.Bool
	buckets atomic.Pointer[buckets] // of the record's limits; nil until the first charge
	uses    atomic.Pointer[useCell] // of the credential; nil until the first use

	verified *verified // for a derived token, which has no record
}

// table is an open-addressed hash table. Readers take no lock, and writers hold their shard's lock.
// A digest is its own hash. A full table evicts in CLOCK order: an entry that was found since the
// hand last passed it stays for another round. A reader may miss an entry that a removal moves
// meanwhile, and then looks again under the lock. It never finds an entry that was removed before
// it began.
type table struct {
	slots      atomic.Pointer[[]atomic.Pointer[entry]] // length a power of two, at most half full
	count      atomic.Int64
	limit      atomic.Int64 // of count
	bytes      atomic.Int64
	maxBytes   atomic.Int64                     // 0 for no limit
	grantUsers map[*keystore.CompiledGrants]int // how many entries have these grants
	hand       uint64
}

const minSlots = 8

func homeSlot(d *keystore.Digest, slots []atomic.Pointer[entry]) uint64 {
	return binary.LittleEndian.Uint64(d[1:]) & uint64(len(slots)-1) // d[0] chose the shard
}

func (t *table) find(d *keystore.Digest) *entry {
	p := t.slots.Load()
	if p == nil {
		return nil
	}
	slots := *p
	for i := homeSlot(d, slots); ; i = (i + 1) & uint64(len(slots)-1) {
		e := slots[i].Load()
		if e == nil {
			return nil
		}
		if e.digest == *d {
			if !e.marked.Load() {
				e.marked.Store(true)
			}
			return e
		}
	}
}

func (t *table) insert(e *entry) {
	t.remove(&e.digest)
	limit := t.maxBytes.Load()
	if limit > 0 && int64(e.size)+e.grants().Size() > limit {
		return // does not fit
	}
	for t.count.Load() >= t.limit.Load() || limit > 0 && t.bytes.Load()+t.cost(e) > limit {
		t.evict()
	}
	if p := t.slots.Load(); p == nil {
		t.rebuild(minSlots)
	} else if int(t.count.Load()+1)*2 > len(*p) {
		t.rebuild(2 * len(*p))
	}
	place(*t.slots.Load(), e)
	t.count.Add(1)
	t.bytes.Add(t.cost(e))
	if g := e.grants(); g != nil {
		if t.grantUsers == nil {
			t.grantUsers = make(map[*keystore.CompiledGrants]int)
		}
		t.grantUsers[g]++
	}
}

// cost returns how many bytes an entry adds. Grants that another entry shares add nothing.
func (t *table) cost(e *entry) int64 {
	if g := e.grants(); t.grantUsers[g] == 0 {
		return int64(e.size) + g.Size()
	}
	return int64(e.size)
}

func (e *entry) grants() *keystore.CompiledGrants {
	if e.record == nil {
		return nil
	}
	return e.record.Grants()
}

func place(slots []atomic.Pointer[entry], e *entry) {
	i := homeSlot(&e.digest, slots)
	for slots[i].Load() != nil {
		i = (i + 1) & uint64(len(slots)-1)
	}
	slots[i].Store(e)
}

func (t *table) remove(d *keystore.Digest) {
	p := t.slots.Load()
	if p == nil {
		return
	}
	slots := *p
	for i := homeSlot(d, slots); ; i = (i + 1) & uint64(len(slots)-1) {
		e := slots[i].Load()
		if e == nil {
			return
		}
		if e.digest == *d {
			t.removeAt(slots, i)
			return
		}
	}
}

// removeAt empties a slot and moves back entries that were displaced past it, so that no probe
// stops too early (Knuth, The Art of Computer Programming, 6.4, algorithm R).
func (t *table) removeAt(slots []atomic.Pointer[entry], hole uint64) {
	e := slots[hole].Load()
	if g := e.grants(); g != nil {
		if t.grantUsers[g]--; t.grantUsers[g] == 0 {
			delete(t.grantUsers, g)
		}
	}
	t.bytes.Add(-t.cost(e))
	mask := uint64(len(slots) - 1)
	for i := (hole + 1) & mask; ; i = (i + 1) & mask {
		e := slots[i].Load()
		if e == nil {
			break
		}
		if h := homeSlot(&e.digest, slots); (i-h)&mask >= (i-hole)&mask {
			slots[hole].Store(e)
			hole = i
		}
	}
	slots[hole].Store(nil)
	t.count.Add(-1)
}

// evict removes one entry. The table must not be empty.
func (t *table) evict() {
	slots := *t.slots.Load()
	for {
		i := t.hand & uint64(len(slots)-1)
		t.hand++
		if e := slots[i].Load(); e != nil && !e.marked.Swap(false) {
			t.removeAt(slots, i)
			return
		}
	}
}

// shrink evicts entries that exceed the limits, and frees slots.
func (t *table) shrink() {
	limit := t.maxBytes.Load()
	for t.count.Load() > t.limit.Load() || limit > 0 && t.bytes.Load() > limit {
		t.evict()
	}
	if p := t.slots.Load(); p != nil {
		size := minSlots
		for size < 2*int(t.count.Load()) {
			size *= 2
		}
		if size < len(*p) {
			t.rebuild(size)
		}
	}
}

func (t *table) rebuild(size int) {
	slots := make([]atomic.Pointer[entry], size)
	if p := t.slots.Load(); p != nil {
		for i := range *p {
			if e := (*p)[i].Load(); e != nil {
				place(slots, e)
			}
		}
	}
	t.slots.Store(&slots)
}

func (t *table) clear() {
	t.slots.Store(nil)
	t.count.Store(0)
	t.bytes.Store(0)
	t.grantUsers = nil
}
