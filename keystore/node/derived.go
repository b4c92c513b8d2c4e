package node

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A verified is a derived token whose signature was verified, which is done only once. Its key is
// looked up for each request. The signature is not kept, so the process holds no usable token in
// memory.
type verified struct {
	parent    keystore.Digest
	prefix    string // of the parent's token: see keystore.DerivingKey
	signed    string // the text that the signature covers
	narrowing *keystore.Narrowing
}

// findVerified returns a derived token that was verified before, or nil. It is found by its
// signature, which is shorter than the token. The rest of the token is then compared byte by byte.
func (s *shard) findVerified(d *keystore.Digest, signed string) *verified {
	e := s.derived.find(d)
	if e == nil || e.verified.signed != signed {
		return nil
	}
	return e.verified
}

// lookupDerived is Lookup for derived tokens. derived is false for any other credential. If early
// is true, it also accepts a token that is not valid yet or expires later than the settings allow.
func (n *Node) lookupDerived(
	ctx context.Context, credential string, early bool, now time.Time,
) (a Answer, derived bool, err error) {
	signed, signature, ok := keystore.CutDerived(credential)
	if !ok {
		return a, false, nil
	}
	d := keystore.DigestOf(signature)
	s := n.cache.shard(&d)
	v := s.findVerified(&d, signed)
	// Read once: a mixture of the settings before and after a reload may accept what neither does.
	settings := n.settings.Load()
	if v == nil || settings.Derive.Off || !settings.acceptsDerived(v.prefix) {
		// The size, the header and the times are checked first: that costs little.
		token, err := keystore.ParseDerived(credential)
		if errors.Is(err, keystore.ErrNotDerived) {
			return a, false, nil
		}
		if err != nil {
			return Answer{Outcome: keystore.Malformed}, true, nil //nolint:nilerr // the outcome says it
		}
		// Without a lease, this node's time may be behind, as after a suspend. lookup renews it.
		at, covered := n.membership.lease.term.Load().at(n.clock.of(now))
		outcome := settings.Derive.outcome(&token.Validity, early, at)
		if settings.Derive.Off || outcome == keystore.Expired ||
			covered && outcome != keystore.OK {
			return Answer{Outcome: outcome, Untimely: true}, true, nil
		}
		a, err = n.lookup(ctx, token.Parent, named, "", now)
		if a = a.restrict(false); err != nil || a.Record == nil {
			// As with a wrong signature: a forged token must not show whether it names a key.
			return Answer{Outcome: keystore.Malformed}, true, err
		}
		if v, err = n.verify(ctx, settings, a.Record, token); err != nil {
			return Answer{}, true, err
		}
		if v == nil {
			return Answer{Outcome: keystore.Malformed}, true, nil
		}
		s.rememberVerified(&d, v)
		// verify may have waited for seconds. Meanwhile the token or the lease may have expired.
		now = time.Now()
	}
	if a, err = n.lookup(ctx, v.parent, named, "", now); err != nil || a.Record == nil {
		return a, true, err
	}
	outcome := settings.Derive.outcome(&v.narrowing.Validity, early, a.Now)
	if outcome != keystore.OK {
		return Answer{Outcome: outcome, Untimely: true}, true, nil
	}
	a.Narrowing = v.narrowing
	return a, true, nil
}

// outcome returns the outcome for a derived token at now, in Unix nanoseconds, as far as it depends
// on the times of the token and on the settings. If early is true, a token that is not valid yet or
// expires later than the settings allow is [keystore.OK].
func (s *DeriveSettings) outcome(v *keystore.Validity, early bool, now int64) keystore.Outcome {
	if s.Off {
		return keystore.Malformed
	}
	outcome := v.ValidAt(now, s.Max)
	if early && outcome == keystore.Malformed {
		return keystore.OK
	}
	return outcome
}

func (s *shard) rememberVerified(d *keystore.Digest, v *verified) {
	size := int64(200+len(v.signed)+len(v.prefix)) + v.narrowing.Size()
	size += size / 8 // Go rounds up the size of an allocation
	e := &entry{digest: *d, verified: v, size: int32(size)}
	s.mu.Lock()
	s.derived.insert(e)
	s.mu.Unlock()
}

// verify verifies a derived token of a record's credential. It returns nil if the signature or a claim
// is wrong, or the signature cannot be verified. An error means that the answer is
// [keystore.Unavailable].
func (n *Node) verify(
	ctx context.Context, s *Settings, r *keystore.Record, t *keystore.DerivedToken,
) (*verified, error) {
	k, err := n.derivingKey(ctx, r)
	if k == (keystore.DerivingKey{}) || err != nil || !s.acceptsDerived(k.Prefix) {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	var narrowing *keystore.Narrowing
	ok, err := n.forged.check(ctx, &t.Parent, func() bool {
		narrowing = t.Verify(&k.Public)
		return narrowing != nil
	})
	if err != nil || !ok {
		return nil, err
	}
	return &verified{t.Parent, k.Prefix, strings.Clone(t.Signed()), narrowing}, nil
}

func (s *Settings) acceptsDerived(prefix string) bool {
	return keystore.AcceptsDerived(prefix, s.TokenPrefixes)
}

// outdated reports whether a deriving key has a [keystore.ForeignPrefix] that lacks an accepted
// prefix. The token that another system created may have that prefix: a node finds out when it sees
// the token again.
func (n *Node) outdated(k keystore.DerivingKey) bool {
	return keystore.IsForeign(k.Prefix) && !n.settings.Load().acceptsDerived(k.Prefix)
}

// derivingSecret is part of the digests under which a node remembers unknown deriving keys. So no
// forged token can name one of these digests as its parent.
var derivingSecret = rand.Text()

// knownDeriving returns the deriving key that a record has. known is false if it has none, or one
// that is outdated.
func (n *Node) knownDeriving(r *keystore.Record) (k keystore.DerivingKey, known bool) {
	if k, known = r.Deriving(); !known || n.outdated(k) {
		return keystore.DerivingKey{}, false
	}
	return k, true
}

// adoptDeriving sets the deriving key of a record. It reports false, and does nothing, if the
// deriving key is the zero value or outdated.
func (n *Node) adoptDeriving(r *keystore.Record, k keystore.DerivingKey) bool {
	if k == (keystore.DerivingKey{}) || n.outdated(k) {
		return false
	}
	r.SetDeriving(k)
	return true
}

// derivingKey returns the deriving key of a record's credential, or the zero value if it is unknown
// or outdated. The record may have been read before another node learned the deriving key.
func (n *Node) derivingKey(
	ctx context.Context, r *keystore.Record,
) (k keystore.DerivingKey, err error) {
	k, known := n.knownDeriving(r)
	if known || r.RotatedOut() {
		return k, nil
	}
	// The key may have changed, and its record been read again, before this node has written the
	// deriving key.
	if unwritten := n.deriving.find(r.Digest); n.adoptDeriving(r, unwritten) {
		return unwritten, nil
	}
	// A deriving key that the database does not have is remembered like an unknown credential.
	d := keystore.DigestOf(derivingSecret + string(r.Digest[:]))
	s := n.cache.shard(&d)
	if _, known := s.find(&d, sinceStart(n.clock.now())); known {
		return k, nil
	}
	if n.membership.unavailable(n.clock.now()) {
		return k, errUnavailable
	}
	free, err := n.acquireSlot(ctx, false)
	if err != nil {
		return k, err
	}
	defer free()
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	if k, err = n.db.DerivingKey(ctx, r.Digest); err != nil {
		_ = n.StoreFailed("looking up a deriving key", err)
		return k, err
	}
	if n.adoptDeriving(r, k) {
		return k, nil
	}
	s.mu.Lock()
	s.insert(&d, nil, sinceStart(n.clock.now()))
	s.mu.Unlock()
	return keystore.DerivingKey{}, nil
}

const (
	// forgeryShare sets the pause after a wrong signature: this many times the duration of its
	// verification.
	forgeryShare = 9
	// longestForgery caps the duration that counts. A verification takes a small part of it, but on
	// a busy machine it may be interrupted for longer. With the cap, a token that waits behind
	// maxWaiting others is verified before it times out.
	longestForgery = time.Millisecond
	// maxWaiting is the maximum number of verifications of one parent that wait.
	maxWaiting = 64
	// maxForged is the maximum number of parents that are throttled at a time.
	maxForged = 1024
)

var errForgeries = errors.New("too many derived tokens of one key with wrong signatures")

// forgeries throttles the verification of signatures: the wrong signatures of one parent take at
// most a tenth of a core. Tokens that were verified before skip it.
//
// There is no limit for all parents together, because it would refuse new tokens of parents that
// nobody attacks. It would also save little: verifying a wrong signature costs about as much as the
// rest of the request. So does verifying a valid one, which the holder of any key can cause
// (docs/derived.md, "Floods").
type forgeries struct {
	mu      sync.Mutex
	parents map[keystore.Digest]*throttle
}

// A throttle delays the tokens of a parent after a wrong signature. They are verified one by one.
type throttle struct {
	turn    chan struct{} // capacity 1
	waiting int
	next    time.Time // of the next verification
}

// check calls verify and returns its result. If the parent is throttled, it waits first.
func (f *forgeries) check(
	ctx context.Context, d *keystore.Digest, verify func() bool,
) (ok bool, err error) {
	p, err := f.enter(d)
	if err != nil {
		return false, err
	}
	if p != nil {
		defer f.leave(d, p)
		select {
		case p.turn <- struct{}{}:
			defer func() { <-p.turn }()
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if err := f.pause(ctx, p); err != nil {
			return false, err
		}
	}
	begun := time.Now()
	if ok = verify(); !ok {
		f.failed(d, time.Since(begun))
	}
	return ok, nil
}

// enter returns the throttle of a parent, or nil if it has none.
func (f *forgeries) enter(d *keystore.Digest) (*throttle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.parents[*d]
	if p == nil {
		return nil, nil
	}
	if p.waiting >= maxWaiting {
		return nil, errForgeries
	}
	p.waiting++
	return p, nil
}

// pause waits until the next verification.
func (f *forgeries) pause(ctx context.Context, p *throttle) error {
	for {
		f.mu.Lock()
		wait := time.Until(p.next)
		f.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// failed throttles a parent after a wrong signature. took is the duration of its verification.
func (f *forgeries) failed(d *keystore.Digest, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	p := f.parents[*d]
	if p == nil {
		p = f.add(*d, now)
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(forgeryShare * min(took, longestForgery))
}

// add adds a throttle. If there are too many, it removes another one, if possible one whose pause
// is over.
func (f *forgeries) add(d keystore.Digest, now time.Time) *throttle {
	if f.parents == nil {
		f.parents = make(map[keystore.Digest]*throttle)
	}
	if len(f.parents) >= maxForged {
		var forgotten keystore.Digest
		for other, p := range f.parents {
			forgotten = other
			if p.waiting == 0 && now.After(p.next) {
				break
			}
		}
		delete(f.parents, forgotten)
	}
	p := &throttle{turn: make(chan struct{}, 1)}
	f.parents[d] = p
	return p
}

// leave ends a call of check. It removes a throttle whose pause is over.
func (f *forgeries) leave(d *keystore.Digest, p *throttle) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.waiting--
	if p.waiting == 0 && f.parents[*d] == p && time.Now().After(p.next) {
		delete(f.parents, *d)
	}
}
