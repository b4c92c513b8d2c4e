package node

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestForgeriesTakeATenth: however many requests bring wrong signatures of one parent, their
// verification takes a tenth of the time, and other tokens of the parent are verified in between.
func TestForgeriesTakeATenth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = 50 * time.Microsecond
		var f forgeries
		var spent, refused atomic.Int64
		forge := func() bool {
			time.Sleep(took)
			spent.Add(int64(took))
			return false
		}
		parent := keystore.Digest{1}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		var work sync.WaitGroup
		for range 100 {
			work.Go(func() {
				for ctx.Err() == nil {
					if _, err := f.check(ctx, &parent, forge); err != nil {
						refused.Add(1)
					}
					time.Sleep(time.Duration(rand.Int64N(int64(2 * took))))
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		begun := time.Now()
		for tries := 0; ; tries++ {
			ok, err := f.check(ctx, &parent, func() bool { return true })
			if ok {
				break
			}
			if tries == 10_000 {
				t.Error("no genuine token was verified", err)
				break
			}
			time.Sleep(time.Duration(rand.Int64N(int64(2 * took))))
		}
		if waited := time.Since(begun); waited > 200*time.Millisecond {
			t.Errorf("a genuine token waited for %s", waited)
		}
		other := keystore.Digest{2}
		begun = time.Now()
		if ok, err := f.check(ctx, &other, func() bool { return true }); !ok || err != nil {
			t.Error("a token of another parent was refused", err)
		}
		if waited := time.Since(begun); waited > 0 {
			t.Errorf("a token of another parent waited for %s", waited)
		}
		work.Wait()
		if part := float64(spent.Load()) / float64(time.Second); part > 0.11 || part < 0.05 {
			t.Errorf("verifying took %.3f of the time", part)
		}
		if refused.Load() == 0 {
			t.Error("any number of requests waited")
		}
	})
}

// TestForgeriesAreBounded: parents with wrong signatures take bounded memory. However many there
// are, they neither delay nor refuse the tokens of other parents.
func TestForgeriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f forgeries
		var work sync.WaitGroup
		forge := func() bool { time.Sleep(time.Millisecond); return false }
		for i := range 3 * maxForged {
			d := keystore.Digest{1, byte(i), byte(i >> 8)}
			work.Go(func() { _, _ = f.check(t.Context(), &d, forge) })
		}
		work.Wait()
		if n := len(f.parents); n != maxForged {
			t.Errorf("%d throttles", n)
		}
		begun := time.Now()
		for i := range 2 * maxWaiting {
			work.Go(func() {
				ok, err := f.check(t.Context(), &keystore.Digest{2, byte(i)}, func() bool {
					time.Sleep(time.Second)
					return true
				})
				if !ok || err != nil {
					t.Error("a token of another parent was refused", err)
				}
			})
		}
		work.Wait()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the tokens of other parents took %s", took)
		}
		// A throttle whose pause is over makes room before one that still pauses.
		var slow keystore.Digest
		for d := range f.parents {
			slow = d
		}
		time.Sleep(time.Minute)
		_, _ = f.check(t.Context(), &slow, forge)
		for i := range maxForged / 2 {
			d := keystore.Digest{3, byte(i), byte(i >> 8)}
			work.Go(func() { _, _ = f.check(t.Context(), &d, forge) })
		}
		work.Wait()
		if f.parents[slow] == nil {
			t.Error("a throttle was removed while the pauses of others were over")
		}
	})
}

// TestInterruptedForgery: a process that was stopped while it verified a wrong signature does not
// make other tokens of the parent wait for long.
func TestInterruptedForgery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f forgeries
		parent := keystore.Digest{1}
		_, _ = f.check(t.Context(), &parent, func() bool { time.Sleep(time.Hour); return false })
		begun := time.Now()
		ok, err := f.check(t.Context(), &parent, func() bool { return true })
		if waited := time.Since(begun); !ok || err != nil || waited > time.Second {
			t.Errorf("a genuine token: %v, %v after %s", ok, err, waited)
		}
	})
}

// TestBusyForgeries: a busy machine interrupts verifications. Even then, a genuine token that waits
// behind as many forged ones as may wait is verified before it times out.
func TestBusyForgeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f forgeries
		parent := keystore.Digest{1}
		forge := func() bool { time.Sleep(10 * time.Millisecond); return false }
		_, _ = f.check(t.Context(), &parent, forge)
		var work sync.WaitGroup
		for range maxWaiting - 1 {
			work.Go(func() { _, _ = f.check(t.Context(), &parent, forge) })
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), QueryTimeout)
		defer cancel()
		ok, err := f.check(ctx, &parent, func() bool { return true })
		if !ok || err != nil {
			t.Errorf("a genuine token: %v, %v", ok, err)
		}
		work.Wait()
	})
}

// TestFullDerivingQueue checks that the node learns no deriving keys while too many wait for the
// database, because other nodes would never know them. It learns them at a later use.
func TestFullDerivingQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{deriving: newDerivingBook()}
		n.settings.Store(&Settings{TokenPrefixes: []string{"ak"}})
		b := n.deriving
		for i := range maxPendingDeriving - 1 {
			b.keys[keystore.Digest{byte(i), byte(i >> 8)}] = keystore.DerivingKey{}
		}
		b.writing = map[keystore.Digest]keystore.DerivingKey{{1, 2, 3}: {}}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go n.computeDeriving(ctx)
		const token = "imported-0123456789-as-a-digest"
		d := keystore.DigestOf(token)
		r := keystore.NewRecord(&keystore.Key{Secrets: []keystore.Secret{{Digest: d}}}, d)
		learn := func() (known bool) {
			n.learnDeriving(r, token)
			synctest.Wait()
			_, stored := b.keys[d]
			if _, known = r.Deriving(); known != stored {
				t.Errorf("known: %v, to be stored: %v", known, stored)
			}
			return known
		}
		if learn() {
			t.Error("known although it does not fit")
		}
		b.writing = nil
		if !learn() {
			t.Error("unknown although it fits")
		}
	})
}

// TestVerifiedAreBounded: verified tokens take bounded memory and evict no records.
func TestVerifiedAreBounded(t *testing.T) {
	c := newLocalCache(256, 1<<30)
	s := &c.shards[0]
	r := keystore.NewRecord(&keystore.Key{ID: "k", Active: true,
		Secrets: []keystore.Secret{{}}}, keystore.Digest{})
	s.insert(&r.Digest, r, 0)
	insert := func(i, size int) keystore.Digest {
		d := keystore.Digest{0, byte(i), byte(i >> 8), 1}
		s.rememberVerified(&d, &verified{signed: string(make([]byte, size)),
			narrowing: new(keystore.Narrowing)})
		return d
	}
	for i := range 1000 {
		insert(i, 100)
	}
	if n := s.derived.count.Load(); n != perShard(derivedEntries) {
		t.Errorf("%d small tokens", n)
	}
	for i := range 1000 {
		insert(1000+i, keystore.MaxDerivedLen)
	}
	if n := s.derived.bytes.Load(); n > derivedBytes/cacheShards {
		t.Errorf("%d bytes", n)
	}
	if r, known := s.find(&keystore.Digest{}, 1); r == nil || !known {
		t.Error("the record was evicted")
	}
	d := insert(7, 100)
	if s.findVerified(&d, string(make([]byte, 100))) == nil {
		t.Error("a verified token is not found")
	}
	if s.findVerified(&d, string(make([]byte, 99))+"x") != nil {
		t.Error("another token with the same signature is found")
	}
}
