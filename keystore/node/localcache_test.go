package node

import (
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func numbered(i int) keystore.Digest { return keystore.DigestOf(strconv.Itoa(i)) }

// The table against a map, over random histories, with homes crowded together so that entries
// displace one another.
func TestTableDoesWhatAMapDoes(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var tab table
		tab.limit.Store(1 << 20)
		want := make(map[keystore.Digest]*entry)
		crowd := func() keystore.Digest {
			var d keystore.Digest
			d[1], d[2] = byte(rng.IntN(4)), byte(rng.IntN(2))*255
			d[20] = byte(rng.IntN(16))
			return d
		}
		for range 2000 {
			d := crowd()
			switch rng.IntN(3) {
			case 0:
				tab.remove(&d)
				delete(want, d)
			default:
				e := &entry{digest: d}
				tab.insert(e)
				want[d] = e
			}
			if probe := crowd(); tab.find(&probe) != want[probe] {
				t.Fatalf("seed %d: the table and the map disagree", seed)
			}
		}
		if int(tab.count.Load()) != len(want) {
			t.Fatalf("seed %d: %d entries, want %d", seed, tab.count.Load(), len(want))
		}
	}
}

func TestTableKeepsWhatIsUsedWhenItEvicts(t *testing.T) {
	var tab table
	tab.limit.Store(1000)
	hot := numbered(-1)
	tab.insert(&entry{digest: hot})
	for i := range 100_000 {
		d := numbered(i)
		tab.insert(&entry{digest: d})
		if tab.find(&hot) == nil {
			t.Fatalf("the entry in use was evicted after %d others", i)
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
	for i := range 200_000 {
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
		t.Errorf("%d records after the cache was made smaller", n)
	}
}

func TestUnknownCredentialsDoNotPushOutRecords(t *testing.T) {
	c := newLocalCache(1000, 1<<40)
	known := numbered(7)
	s := c.shard(&known)
	s.mu.Lock()
	s.insert(&known, &keystore.Record{Digest: known}, 0)
	for i := range 100_000 {
		d := numbered(1000 + i)
		s.insert(&d, nil, 0)
	}
	s.mu.Unlock()
	if r, ok := s.find(&known, 1); !ok || r == nil {
		t.Error("a good record was evicted by unknown credentials")
	}
}

func TestEntriesAge(t *testing.T) {
	c := newLocalCache(1000, 1<<40)
	a, b := numbered(1), numbered(2)
	s := &c.shards[0]
	s.insert(&a, &keystore.Record{}, 0)
	s.insert(&b, nil, 0)
	for _, c := range []struct {
		d    keystore.Digest
		at   time.Duration
		want bool
	}{{a, recordTTL - 1, true}, {a, recordTTL, false}, {b, negativeTTL - 1, true}, {b, negativeTTL,
		false}} {
		if _, known := s.find(&c.d, int64(c.at)); known != c.want {
			t.Errorf("after %v: known is %v", c.at, known)
		}
	}
}

// Readers run through the table while it is written. One may miss an entry that stays, for it asks
// again under the lock; what was removed before it began it must never find.
func TestReadersNeverFindWhatWasRemovedBefore(t *testing.T) {
	c := newLocalCache(1<<20, 1<<40)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	s := &c.shards[0]
	const keys = 64
	var removed [keys]sync.RWMutex // held for reading while the entry is out
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
					t.Error("found another's record")
				}
				s.mu.Lock()
				s.invalidate(&d, 1)
				s.mu.Unlock()
				if r, _ := s.find(&d, 0); r != nil {
					t.Error("found what was removed")
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
					t.Error("found another's record")
				}
			}
		}
	})
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	time.AfterFunc(300*time.Millisecond, func() { close(stop) })
	<-done
}

// What a shard still knows of changes, against all there were: it may forget, but never say that a
// record is good which is not.
func TestRecentChangesNeverVouchForWhatIsStale(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	var c recentChanges
	newest := make(map[keystore.Digest]keystore.Revision)
	vouched := 0
	for r := keystore.Revision(1); r < 20_000; r++ {
		d := numbered(rng.IntN(400))
		c.add(&d, r)
		newest[d] = r
		probe, asOf := numbered(rng.IntN(500)), r-keystore.Revision(rng.IntN(600))
		if c.unchangedSince(&probe, asOf) {
			vouched++
			if newest[probe] > asOf {
				t.Fatalf("revision %d: vouches for a record of %d that was changed at %d", r, asOf,
					newest[probe])
			}
		}
		if !c.unchangedSince(&d, r) {
			t.Fatalf("revision %d: the newest record is refused", r)
		}
	}
	if vouched < 1000 {
		t.Errorf("vouched %d times only", vouched)
	}
	if len(c.last) > changesPerShard || len(c.ring) > changesPerShard {
		t.Errorf("%d changes are kept", len(c.last))
	}
}

// heavy is a record of a key with n permissions that no other key has.
func heavy(i, n int) *keystore.Record {
	k := &keystore.Key{ID: strconv.Itoa(i), Owner: keystore.RootMember,
		Secrets: []keystore.Secret{{Digest: numbered(i)}}}
	var list []keystore.Permission
	for j := range n {
		list = append(list, keystore.Permission{Resource: strings.Repeat("x",
			170) + strconv.Itoa(i) + "_" +
			strconv.Itoa(j), Action: "orders"})
	}
	k.Grants = []keystore.Grant{{Namespace: "default", Permissions: list}}
	return keystore.NewRecord(k, numbered(i))
}

func TestCacheIsBoundedInBytes(t *testing.T) {
	const most = 64 << 20
	c := newLocalCache(1_000_000, most)
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
		insert(i, heavy(i, 100))
	}
	runtime.GC()
	runtime.GC() // what was evicted is interned weakly
	runtime.ReadMemStats(&after)
	took := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	counted := c.bytes()
	if counted > most || c.len() == 0 || c.len() == big {
		t.Fatalf("%d entries of %d bytes", c.len(), counted)
	}
	if took > 2*counted || took < counted/3 {
		t.Errorf("%d bytes were counted, and %d allocated", counted, took)
	}

	// One that would fill its shard is not kept, and pushes nothing out.
	n := c.len()
	if s := insert(big, heavy(big, 500)); s.records.find(new(numbered(big))) != nil ||
		c.len() != n {
		t.Error("an entry larger than its shard is kept")
	}
	// Equal holdings count once in each shard.
	c.purge(0)
	if c.len() != 0 || c.bytes() != 0 {
		t.Fatalf("after purge: %d entries of %d bytes", c.len(), c.bytes())
	}
	shared := heavy(0, 100)
	for i := range 10_000 {
		insert(i, shared)
	}
	if c.len() != 10_000 {
		t.Errorf("%d entries with the same permissions", c.len())
	}
	c.resize(1_000_000, 1<<20)
	if c.bytes() > 1<<20 {
		t.Errorf("%d bytes after it was made smaller", c.bytes())
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
