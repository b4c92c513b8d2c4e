package node

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func numbered(i int) keystore.Digest { return keystore.DigestOf(strconv.Itoa(i)) }

// TestTableAgreesWithMap compares the table with a map over random operations. Few home slots make
// entries displace one another.
func TestTableAgreesWithMap(t *testing.T) {
	for seed := range uint64(50 / fewer) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var tab table
		tab.limit.Store(1 << 20)
		want := make(map[keystore.Digest]*entry)
		random := func() keystore.Digest {
			var d keystore.Digest
			d[1], d[2] = byte(rng.IntN(4)), byte(rng.IntN(2))*255
			d[20] = byte(rng.IntN(16))
			return d
		}
		for range 2000 {
			d := random()
			switch rng.IntN(3) {
			case 0:
				tab.remove(&d)
				delete(want, d)
			default:
				e := &entry{digest: d}
				tab.insert(e)
				want[d] = e
			}
			if probe := random(); tab.find(&probe) != want[probe] {
				t.Fatalf("seed %d: the table and the map disagree", seed)
			}
		}
		if int(tab.count.Load()) != len(want) {
			t.Fatalf("seed %d: %d entries, want %d", seed, tab.count.Load(), len(want))
		}
	}
}

func TestTableEvictsUnusedEntries(t *testing.T) {
	var tab table
	tab.limit.Store(1000)
	hot := numbered(-1)
	tab.insert(&entry{digest: hot})
	for i := range 100_000 {
		d := numbered(i)
		tab.insert(&entry{digest: d})
		if tab.find(&hot) == nil {
			t.Fatalf("the used entry was evicted after %d others", i)
		}
		if tab.count.Load() > 1000 {
			t.Fatalf("%d entries", tab.count.Load())
		}
	}
	if slots := len(*tab.slots.Load()); slots > 4096 {
		t.Errorf("%d slots for 1000 entries", slots)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newLocalCache(10_000, 1<<40)
	for i := range negativeEntries + 30_000 {
		d := numbered(i)
		s := c.shard(&d)
		s.mu.Lock()
		s.insert(&d, &keystore.Record{Digest: d}, 0)
		s.insert(&d, nil, 0)
		s.mu.Unlock()
	}
	negatives := int64(0)
	for i := range c.shards {
		negatives += c.shards[i].negatives.count.Load()
	}
	if n := c.len(); n > 10_240 || negatives > negativeEntries {
		t.Errorf("%d records and %d negatives", n, negatives)
	}
	c.resize(100, 1<<40)
	if n := c.len(); n > cacheShards {
		t.Errorf("%d records after the capacity was reduced", n)
	}
	if n := len(*c.shards[0].records.slots.Load()); n != minSlots {
		t.Errorf("%d slots for one record", n)
	}
}

func TestUnknownCredentialsDoNotEvictRecords(t *testing.T) {
	c := newLocalCache(1000, 1<<40)
	known := numbered(7)
	s := c.shard(&known)
	s.mu.Lock()
	s.insert(&known, &keystore.Record{Digest: known}, 0)
	for i := range 10_000 { // a shard has room for 256
		d := numbered(1000 + i)
		s.insert(&d, nil, 0)
	}
	s.mu.Unlock()
	if r, ok := s.find(&known, 1); !ok || r == nil {
		t.Error("unknown credentials evicted a record")
	}
}

func TestEntriesExpire(t *testing.T) {
	c := newLocalCache(1000, 1<<40)
	a, b := numbered(1), numbered(2)
	s := &c.shards[0]
	s.insert(&a, &keystore.Record{}, 0)
	s.insert(&b, nil, 0)
	for _, c := range []struct {
		d    keystore.Digest
		at   time.Duration
		want bool
	}{
		{a, recordTTL - 1, true}, {a, recordTTL, false},
		{b, negativeTTL - 1, true}, {b, negativeTTL, false},
	} {
		if _, known := s.find(&c.d, int64(c.at)); known != c.want {
			t.Errorf("after %v: known is %v", c.at, known)
		}
	}
}

// TestReadersNeverFindRemovedEntries reads the table while it is written. A reader may miss an
// entry, because it looks again under the lock. It must never find one that was removed before it
// began.
func TestReadersNeverFindRemovedEntries(t *testing.T) {
	c := newLocalCache(1<<20, 1<<40)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	s := &c.shards[0]
	const keys = 64
	var removed [keys]sync.Mutex
	for w := range 2 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 9))
			for range 20_000 {
				i := rng.IntN(keys)
				d := numbered(i)
				if !removed[i].TryLock() {
					continue
				}
				s.mu.Lock()
				s.insert(&d, &keystore.Record{Digest: d}, 0)
				s.mu.Unlock()
				if r, _ := s.find(&d, 0); r != nil && r.Digest != d {
					t.Error("found the record of another key")
				}
				s.mu.Lock()
				s.invalidate(&d, 1)
				s.mu.Unlock()
				if r, _ := s.find(&d, 0); r != nil {
					t.Error("found a removed record")
				}
				removed[i].Unlock()
			}
		})
	}
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				d := numbered(i % keys)
				if r, _ := s.find(&d, 0); r != nil && r.Digest != d {
					t.Error("found the record of another key")
				}
			}
		}
	})
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	time.AfterFunc(300*time.Millisecond, func() { close(stop) })
	<-done
}

// TestRemovedRecordsAreOfAnOlderGeneration reads the cache while changes remove a record. A request
// that has found the record and read the new generation would enter after the change has cut the
// running requests.
func TestRemovedRecordsAreOfAnOlderGeneration(t *testing.T) {
	c := newLocalCache(1<<20, 1<<40)
	d := numbered(1)
	s := c.shard(&d)
	var finished atomic.Bool
	read := func() {
		for before := uint64(0); !finished.Load(); {
			generation := s.generation.Load()
			e := s.findEntry(&d, 0)
			if generation == before || e == nil {
				continue
			}
			before = generation
			s.mu.Lock()
			removed := s.generation.Load() == generation && s.records.find(&d) == nil
			s.mu.Unlock()
			if removed {
				t.Error("found a removed record after its generation")
				return
			}
		}
	}
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(read)
	}
	for i := range 100_000 {
		s.mu.Lock()
		s.insert(&d, &keystore.Record{Digest: d}, 0)
		s.mu.Unlock()
		if i%100 == 0 {
			c.purge(1)
		} else {
			s.mu.Lock()
			s.invalidate(&d, 1)
			s.mu.Unlock()
		}
	}
	finished.Store(true)
	readers.Wait()
}

// TestRecentChangesNeverAcceptStaleRecords compares the remembered changes with all changes.
// recentChanges may forget changes, but must never accept a stale record.
func TestRecentChangesNeverAcceptStaleRecords(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	var c recentChanges
	newest := make(map[keystore.Digest]keystore.Revision)
	accepted := 0
	for r := keystore.Revision(1); r < 20_000; r++ {
		d := numbered(rng.IntN(400))
		c.add(&d, r)
		newest[d] = r
		probe, asOf := numbered(rng.IntN(500)), r-keystore.Revision(rng.IntN(600))
		if c.unchangedSince(&probe, asOf) {
			accepted++
			if newest[probe] > asOf {
				t.Fatalf("revision %d: accepts a record of revision %d that changed at %d", r, asOf,
					newest[probe])
			}
		}
		if !c.unchangedSince(&d, r) {
			t.Fatalf("revision %d: the newest record is refused", r)
		}
	}
	if accepted < 1000 {
		t.Errorf("accepted only %d times", accepted)
	}
	if len(c.last) > changesPerShard || len(c.ring) > changesPerShard {
		t.Errorf("%d changes are remembered", len(c.last))
	}
}

// largeRecord returns the record of a key with n permissions that no other key has.
func largeRecord(i, n int) *keystore.Record {
	k := &keystore.Key{ID: strconv.Itoa(i), Owner: keystore.RootMember,
		Secrets: []keystore.Secret{{Digest: numbered(i)}}}
	var list []keystore.Permission
	for j := range n {
		resource := fmt.Sprint(strings.Repeat("x", 170), i, "_", j)
		list = append(list, keystore.Permission{Resource: resource, Action: "orders"})
	}
	k.Grants = []keystore.Grant{{Namespace: "default", Permissions: list}}
	return keystore.NewRecord(k, numbered(i))
}

func TestCacheIsBoundedInBytes(t *testing.T) {
	const limit = 64 << 20
	c := newLocalCache(1_000_000, limit)
	insert := func(i int, r *keystore.Record) *shard {
		d := numbered(i)
		s := c.shard(&d)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.insert(&d, r, 0)
		return s
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const big = 1000
	for i := range big {
		insert(i, largeRecord(i, 100))
	}
	runtime.GC()
	runtime.GC() // once more for evicted grants, which are interned weakly
	runtime.ReadMemStats(&after)
	took := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	counted := c.bytes()
	if counted > limit || c.len() == 0 || c.len() == big {
		t.Fatalf("%d entries of %d bytes", c.len(), counted)
	}
	if took > 2*counted || took < counted/3 {
		t.Errorf("%d bytes are counted and %d allocated", counted, took)
	}

	// A record that does not fit in its shard is not cached, and evicts nothing.
	n := c.len()
	if s := insert(big, largeRecord(big, 500)); s.records.find(new(numbered(big))) != nil ||
		c.len() != n {
		t.Error("a record larger than its shard is cached")
	}
	grants := func() (n int) {
		for i := range c.shards {
			n += len(c.shards[i].records.grantUsers)
		}
		return n
	}
	if grants() != c.len() {
		t.Errorf("grants of %d entries are kept, want %d", grants(), c.len())
	}
	// Equal grants count once per shard.
	c.purge(0)
	if c.len() != 0 || c.bytes() != 0 || grants() != 0 {
		t.Fatalf("after purge: %d entries of %d bytes", c.len(), c.bytes())
	}
	shared := largeRecord(0, 100)
	for i := range 10_000 {
		insert(i, shared)
	}
	if c.len() != 10_000 {
		t.Errorf("%d entries with the same permissions", c.len())
	}
	c.resize(1_000_000, 1<<20)
	if c.bytes() > 1<<20 {
		t.Errorf("%d bytes after the capacity was reduced", c.bytes())
	}
	for i := range 10_000 {
		d := numbered(i)
		s := c.shard(&d)
		s.mu.Lock()
		s.records.remove(&d)
		s.mu.Unlock()
	}
	if c.bytes() != 0 {
		t.Errorf("%d bytes without entries", c.bytes())
	}
}
