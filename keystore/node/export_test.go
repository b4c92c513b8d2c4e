package node

import (
	"context"
	"log/slog"
	"strings"
	"time"
	"unsafe"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// OpenAt opens a node whose clock runs at rate times the speed of the machine's. A rate of 0 stands
// for the machine's clock.
func OpenAt(
	ctx context.Context, rate float64, db keystore.Database, s Settings, o Observer,
) (*Node, error) {
	return open(ctx, db, nil, s, o, slog.New(slog.DiscardHandler), newClock(rate))
}

// FillCache returns a cache with the records of n keys, to measure its size.
func FillCache(n int, key func(i int) *keystore.Key) any {
	c := newLocalCache(n*2, 1<<40)
	for i := range n {
		k := key(i)
		d := keystore.DigestOf(k.ID)
		k.Secrets = []keystore.Secret{{Digest: d,
			Deriving: keystore.DerivingKey{Public: keystore.PublicKey{1}, Prefix: "ak"}}}
		s := c.shard(&d)
		s.mu.Lock()
		s.insert(&d, keystore.NewRecord(k, d), 0)
		s.mu.Unlock()
	}
	return c
}

// A VerifiedCache is one of cacheSample equal parts of a cache of derived tokens.
type VerifiedCache struct{ cache *localCache }

const cacheSample = 64

// NewVerifiedCache returns an empty cache, and how many tokens fit in it at most.
func NewVerifiedCache() (c VerifiedCache, capacity int) {
	return VerifiedCache{newLocalCache(0, 0)}, derivedEntries / cacheSample
}

// Parts is how many parts a whole cache has.
func (VerifiedCache) Parts() int { return cacheSample }

// Remember verifies a token and adds it.
func (c VerifiedCache) Remember(token string, k keystore.DerivingKey) {
	t, err := keystore.ParseDerived(token)
	if err != nil {
		panic(err)
	}
	_, signature, _ := keystore.CutDerived(token)
	d := keystore.DigestOf(signature)
	d[0] %= cacheShards / cacheSample
	c.cache.shard(&d).rememberVerified(&d,
		&verified{t.Parent, k.Prefix, strings.Clone(t.Signed()), t.Verify(&k.Public)})
}

// NegativeTTL is how long a node remembers an unknown credential.
const NegativeTTL = negativeTTL

// Cached reports whether an answer came from the local cache.
func (a Answer) Cached() bool { return a.entry != nil }

// FlushUsage flushes usage at once.
func (n *Node) FlushUsage(ctx context.Context) { n.flushUsage(ctx) }

// PauseDerived makes new tokens that are derived from a token wait, as after wrong signatures.
func (n *Node) PauseDerived(token string, pause time.Duration) {
	n.forged.mu.Lock()
	defer n.forged.mu.Unlock()
	now := time.Now()
	n.forged.add(keystore.DigestOf(token), now).next = now.Add(pause)
}

// SetBack returns a reading of the clock as if the wall clock had been set back. The monotonic clock
// stays. It panics in a synctest bubble, whose readings have none.
func SetBack(now time.Time, seconds uint64) time.Time {
	back := now
	// Package time has no function for it. The lower 30 bits are nanoseconds.
	*(*uint64)(unsafe.Pointer(&back)) -= seconds << 30
	if back.Sub(now) != 0 ||
		now.Round(0).Sub(back.Round(0)) != time.Duration(seconds)*time.Second {
		panic("time.Time is not what SetBack expects")
	}
	return back
}

// Suspend changes the lease as if the machine had been suspended for some seconds after the last
// renewal. renew does what the next renewal does to the lease.
func (n *Node) Suspend(seconds uint64) (renew func()) {
	l := &n.membership.lease
	now := l.term.Load()
	before := *now
	before.asked = SetBack(before.asked, seconds)
	before.reads -= int64(seconds) * int64(time.Second)
	before.expires -= int64(seconds) * int64(time.Second)
	l.term.Store(&before)
	return func() { l.term.Store(now) }
}
