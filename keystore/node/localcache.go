package node

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	cacheShards = 256

	// negativeEntries bounds how many credentials are remembered to open nothing, in the whole
	// process.
	negativeEntries = 1 << 16
	// negativeTTL is short: what opens nothing now may be imported by the next second (the change
	// log also says so).
	negativeTTL = 2 * time.Second
	// recordTTL is a second line behind the lease, against bugs of ours.
	recordTTL = 10 * time.Minute
)

// localCache holds the records of credentials seen lately, and apart from them, so that a flood
// cannot push them out, credentials that open nothing. Reading takes no lock. Everything that
// concerns one credential happens in one shard, under its lock: insertion, invalidation, the loads
// that run for it (flight.go) and the requests on their way (running.go).
type localCache struct {
	shards [cacheShards]shard
}

type shard struct {
	// generation counts invalidations in this shard. Whoever reads a store notes it before, and
	// inserts only if it is still the same, under the lock (docs/protocol.md, rule 5).
	generation atomic.Uint64
	records    table
	negatives  table

	mu      sync.Mutex
	changes recentChanges
	flights map[keystore.Digest]*flight
	running Running // head of a ring
	ending  int     // how many of them end by themselves
	used    []use   // since the last flush
	closed  bool

	hits, negativeHits, misses atomic.Uint64
}

// newLocalCache returns a cache of at most so many records and about so many bytes.
func newLocalCache(capacity int, bytes int64) *localCache {
	c := &localCache{}
	for i := range c.shards {
		s := &c.shards[i]
		s.records.limit.Store(perShard(capacity))
		s.records.most.Store(bytes / cacheShards)
		s.negatives.limit.Store(perShard(negativeEntries))
		s.flights = make(map[keystore.Digest]*flight)
		s.running.next, s.running.prev = &s.running, &s.running
	}
	return c
}

// perShard spreads a capacity; a shard holds one entry at least.
func perShard(capacity int) int64 {
	return int64(max(1, (capacity+cacheShards-1)/cacheShards))
}

// resize takes effect as entries are inserted.
func (c *localCache) resize(capacity int, bytes int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.records.limit.Store(perShard(capacity))
		s.records.most.Store(bytes / cacheShards)
		s.records.shrink()
		s.mu.Unlock()
	}
}

func (c *localCache) shard(d *keystore.Digest) *shard { return &c.shards[d[0]] }

// purge forgets everything, as of revision r.
func (c *localCache) purge(r keystore.Revision) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation.Add(1)
		s.records.clear()
		s.negatives.clear()
		s.changes.reset(r)
		s.mu.Unlock()
	}
}

// forgetNegatives is for credentials that were added, whichever they are: they can be known only as
// what opens nothing, or be being read as such. Nobody has to load a record anew.
func (c *localCache) forgetNegatives() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation.Add(1)
		s.negatives.clear()
		s.mu.Unlock()
	}
}

// close cuts what runs; no load begins any more.
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

// bytes returns about how much memory the records take.
func (c *localCache) bytes() (n int64) {
	for i := range c.shards {
		n += c.shards[i].records.bytes.Load()
	}
	return n
}

// find looks a credential up without a lock. A credential that is known to open nothing has a nil
// record, or one that was rotated out.
func (s *shard) find(d *keystore.Digest, now int64) (r *keystore.Record, known bool) {
	if e := s.records.find(d); e != nil && now < e.until {
		return e.record, true
	}
	if e := s.negatives.find(d); e != nil && now < e.until {
		return e.record, true
	}
	return nil, false
}

// insert keeps what a store said of a credential. The caller holds the lock and has compared the
// generation.
func (s *shard) insert(d *keystore.Digest, r *keystore.Record, now int64) {
	if r == nil || r.RotatedOut() {
		s.negatives.insert(&entry{digest: *d, record: r, until: now + int64(negativeTTL)})
	} else {
		s.records.insert(&entry{digest: *d, record: r, until: now + int64(recordTTL),
			size: r.Size()})
	}
}

// invalidate forgets a credential that was changed at revision r, and everything that is being read
// for it. The caller holds the lock.
func (s *shard) invalidate(d *keystore.Digest, r keystore.Revision) {
	//fault: if ablated("delete-before-bump") { s.deleteBeforeBump(d); return }
	s.generation.Add(1)
	s.changes.add(d, r)
	s.records.remove(d)
	s.negatives.remove(d)
}

// An entry does not change but for its mark.
type entry struct {
	digest keystore.Digest
	record *keystore.Record
	until  int64 // Unix nanoseconds
	size   int64 // bytes, without the record's holding, which it may share
	marked atomic.Bool
}

// table is an open-addressed hash table that is read without a lock and written under its shard's.
// A digest is its own hash. Past its limit it evicts in CLOCK order: an entry that was found since
// the hand last came by gets another round. A reader may miss an entry while the table is rebuilt
// around it; it then asks again under the lock. It never finds one that was removed before it
// began.
type table struct {
	slots atomic.Pointer[[]atomic.Pointer[entry]] // length a power of two, at most half full
	count atomic.Int64
	limit atomic.Int64
	bytes atomic.Int64                     // of all entries
	most  atomic.Int64                     // that these may be; 0: any number
	users map[*keystore.CompiledGrants]int // how many entries have it
	hand  uint64
}

const minSlots = 8

func home(d *keystore.Digest, slots []atomic.Pointer[entry]) uint64 {
	return binary.LittleEndian.Uint64(d[1:]) & uint64(len(slots)-1) // d[0] chose the shard
}

func (t *table) find(d *keystore.Digest) *entry {
	p := t.slots.Load()
	if p == nil {
		return nil
	}
	slots := *p
	for i := home(d, slots); ; i = (i + 1) & uint64(len(slots)-1) {
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
	most := t.most.Load()
	if most > 0 && e.size+e.holding().Size() > most {
		return // it would leave no room for others
	}
	for t.count.Load() >= t.limit.Load() || most > 0 && t.bytes.Load()+t.cost(e) > most {
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
	if h := e.holding(); h != nil {
		if t.users == nil {
			t.users = make(map[*keystore.CompiledGrants]int)
		}
		t.users[h]++
	}
}

// cost returns how many bytes an entry adds: a holding that another entry has is there already.
func (t *table) cost(e *entry) int64 {
	if h := e.holding(); t.users[h] == 0 {
		return e.size + h.Size()
	}
	return e.size
}

func (e *entry) holding() *keystore.CompiledGrants {
	if e.record == nil {
		return nil
	}
	return e.record.Grants()
}

func place(slots []atomic.Pointer[entry], e *entry) {
	i := home(&e.digest, slots)
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
	for i := home(d, slots); ; i = (i + 1) & uint64(len(slots)-1) {
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

// removeAt empties a slot and moves back what had been displaced past it, so that no probe ends too
// early (Knuth, TAOCP 6.4, algorithm R).
func (t *table) removeAt(slots []atomic.Pointer[entry], hole uint64) {
	e := slots[hole].Load()
	if h := e.holding(); h != nil {
		if t.users[h]--; t.users[h] == 0 {
			delete(t.users, h)
		}
	}
	t.bytes.Add(-t.cost(e))
	mask := uint64(len(slots) - 1)
	for i := (hole + 1) & mask; ; i = (i + 1) & mask {
		e := slots[i].Load()
		if e == nil {
			break
		}
		if h := home(&e.digest, slots); (i-h)&mask >= (i-hole)&mask {
			slots[hole].Store(e)
			hole = i
		}
	}
	slots[hole].Store(nil)
	t.count.Add(-1)
}

// evict removes one entry; there is one.
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

func (t *table) shrink() {
	for t.count.Load() > t.limit.Load() || t.most.Load() > 0 && t.bytes.Load() > t.most.Load() {
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
	t.users = nil
}
