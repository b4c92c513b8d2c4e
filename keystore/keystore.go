package keystore

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Settings are what may change while the store is open. Zero values are replaced by the defaults
// below.
type Settings struct {
	// TokenPrefixes are accepted; the first is for new keys. [MemberPrefix] cannot be one.
	TokenPrefixes []string
	// AbandonedPrefixes are known to be no longer accepted: see [Keystore.OtherPrefixes].
	AbandonedPrefixes []string
	// LocalCache is how many records the process keeps at most.
	LocalCache int
	// LocalCacheBytes is about how much memory the records may take. A record that needs more than
	// a 256th of it is not cached.
	LocalCacheBytes int64
	// Lease is how long a node that is cut off may go on trusting what it has cached.
	Lease time.Duration
	// Capacity is how much the deployment may hold.
	Capacity Capacity
	// Cache is shared with the other nodes; nil: none. It stays its owner's to close, once it is in
	// no Settings any more.
	Cache SharedCache
}

// Defaults of [Settings].
const (
	DefaultPrefix     = "ak"
	DefaultLocalCache = 1_000_000
	DefaultLease      = 30 * time.Second
	// DefaultLocalCacheBytes has room for DefaultLocalCache keys as they usually are.
	DefaultLocalCacheBytes = 1 << 30
)

func (s Settings) withDefaults() Settings {
	if len(s.TokenPrefixes) == 0 {
		s.TokenPrefixes = []string{DefaultPrefix}
	}
	if s.LocalCache == 0 {
		s.LocalCache = DefaultLocalCache
	}
	if s.LocalCacheBytes == 0 {
		s.LocalCacheBytes = DefaultLocalCacheBytes
	}
	if s.Lease == 0 {
		s.Lease = DefaultLease
	}
	s.Capacity = s.Capacity.withDefaults()
	return s
}

// A Keystore is one node: its caches, its lease, and the way to the database. It is safe for
// concurrent use.
type Keystore struct {
	db         Database
	configured *[32]byte
	logger     *slog.Logger
	observer   Observer

	settings atomic.Pointer[Settings]
	tokenKey atomic.Pointer[TokenKey]
	seal     atomic.Pointer[sharedSeal]
	cache    *localCache
	node     *node
	clock    clock
	revokes  revokes
	counters counters
	requests requestCounts

	loggedFailure atomic.Int64 // when, in Unix nanoseconds
	lookupsFail   atomic.Bool  // as the last one in the database did
	trial         sync.Mutex   // held by the one look-up for the health

	untagged chan struct{} // a place for each miss in flight of a credential without a tag
	turns    turns         // of callers, to read
	uses     unflushed
	imports  chan struct{} // a place for each import
	watched  atomic.Int64  // changes that nobody waits for
	changes  *queue

	running context.Context // until Close
	stop    context.CancelFunc
	work    sync.WaitGroup // what runs in the background
}

// Open joins the deployment in db as a new node. configured is the token key of the configuration,
// nil for none. db is the Keystore's from now on, and is closed when Open fails.
func Open(
	ctx context.Context, db Database, configured *[32]byte, s Settings, o Observer,
	logger *slog.Logger,
) (*Keystore, error) {
	return open(ctx, db, configured, s, o, logger, faultyClock())
}

func open(
	ctx context.Context, db Database, configured *[32]byte, s Settings, o Observer,
	logger *slog.Logger, c clock,
) (*Keystore, error) {
	s = s.withDefaults()
	k := &Keystore{
		db: db, configured: configured, logger: logger, observer: o, clock: c,
		cache:    newLocalCache(s.LocalCache, s.LocalCacheBytes),
		node:     new(node),
		untagged: make(chan struct{}, untaggedLoads),
		imports:  make(chan struct{}, maxImports),
		changes:  newQueue(),
	}
	k.settings.Store(&s)
	k.node.reincarnate()
	k.running, k.stop = context.WithCancel(context.Background())
	if err := k.join(ctx); err != nil {
		k.stop()
		k.node.close()
		k.work.Wait() // the renewal may go on although nobody waits for it any more
		return nil, errors.Join(err, k.leave(), db.Close())
	}
	k.work.Go(func() { k.keepUp(k.running) })
	k.work.Go(func() { k.cutLapsed(k.running) })
	k.work.Go(func() {
		every(k.running, sweepInterval,
			func() { k.cache.sweep(k.Now().UnixNano()) })
	})
	k.work.Go(func() { every(k.running, flushInterval, func() { k.flushUses(k.running) }) })
	k.work.Go(func() { every(k.running, noteInterval, func() { k.noteTime(k.running) }) })
	k.work.Go(func() {
		k.abandonImports(0)
		every(k.running, importIdle, func() { k.abandonImports(0) })
	})
	k.work.Go(func() { every(k.running, sessionGrain, func() { k.forgetSessions(k.running) }) })
	return k, nil
}

func (k *Keystore) join(ctx context.Context) error {
	if err := k.adopt(ctx); err != nil {
		return err
	}
	return k.renew(ctx)
}

func every(ctx context.Context, d time.Duration, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f()
		}
	}
}

// Configure applies other settings from now on.
func (k *Keystore) Configure(s Settings) {
	s = s.withDefaults()
	k.settings.Store(&s)
	k.cache.resize(s.LocalCache, s.LocalCacheBytes)
	if ablated("reload-resets") {
		for i := range k.cache.shards {
			k.cache.shards[i].generation.Store(0)
		}
	}
}

// Now is the time on the database's clock, as far as this node knows it, in UTC.
func (k *Keystore) Now() time.Time { return k.databaseTime(k.clock.now()) }

// noteInterval is how often a node stores the time by which keys expire. If all nodes stop and the
// clock is set back, expiry goes back by at most this much.
const noteInterval = time.Minute

// noteTime stores the time in the database, for nodes that start after its clock was set back.
func (k *Keystore) noteTime(ctx context.Context) {
	if !k.node.lease.holds(k.clock.now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if err := k.db.NoteTime(ctx, k.Now()); err != nil {
		_ = k.storeFailed("noting the time", err)
	}
}

// databaseTime is what the database's clock says at a reading of our own.
func (k *Keystore) databaseTime(own time.Time) time.Time {
	now, _ := k.node.lease.term.Load().at(own)
	return time.Unix(0, now).UTC()
}

// busy registers work that Close waits for, unless Close has begun.
func (k *Keystore) busy() bool {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	if !k.node.closed {
		k.work.Add(1)
	}
	return !k.node.closed
}

// Close leaves the deployment. It drops the lease and the cache, cuts running requests, answers
// callers that wait for a change to spread, writes last uses, removes the node's row, and closes
// the database.
func (k *Keystore) Close() error {
	k.stop()
	k.cache.close()
	k.node.close()
	k.work.Wait()
	k.node.lease.drop() // before other nodes stop waiting for this one
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	k.flushUses(ctx)
	k.noteTime(ctx)
	return errors.Join(k.leave(), k.db.Close())
}

// leave removes the node's row if the node may have written one.
func (k *Keystore) leave() error {
	if !k.node.row.tried {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	return k.db.Remove(ctx, *k.node.incarnation.Load())
}

var (
	errClosed = errors.New("the key store is closed")
	errAway   = errors.New("the database has not answered for some time, and is being asked")
	errStale  = errors.New("the database answered with an older state than before: is it a " +
		"former primary?")
	errClockRate = errors.New("no lease is taken")
)

// An Answer is what is known of a credential.
type Answer struct {
	// Record is what the credential opens, or opened before it was rotated out; nil when Outcome is
	// [Malformed] or [Unknown].
	Record *Record
	// Outcome is [OK] when there is a record, whatever its state: [Decide] judges that.
	Outcome Outcome
	// Now is the time of the request on the database's clock, in Unix nanoseconds, for [Decide]: so
	// a wrong clock of this machine extends no key's life.
	Now int64

	generation uint64 // of its shard, read before the record was
}

// Lookup returns what is known of a credential; now was read after the request arrived. A
// credential that cannot be one of ours is [Malformed] without asking any store, and so are
// members' tokens. An error means that it cannot be known: [Unavailable].
func (k *Keystore) Lookup(ctx context.Context, credential string, now time.Time) (Answer, error) {
	// not worth a hash; the rest is inspected when it is not found
	if len(credential) < minCredentialLen || len(credential) > maxCredentialLen {
		return Answer{Outcome: Malformed}, nil
	}
	if k.Abandoned(credential) { // the cache may hold its record
		return Answer{Outcome: Malformed}, nil
	}
	a, err := k.lookUp(ctx, DigestOf(credential), credential, now)
	return a.forDoor(false), err
}

// LookupMember is Lookup for the doors of those who manage, where a member's own token is good, and
// for it alone.
func (k *Keystore) LookupMember(ctx context.Context, token string, now time.Time) (Answer, error) {
	if !k.MadeForMember(token) {
		return Answer{Outcome: Malformed}, nil
	}
	a, err := k.lookUp(ctx, DigestOf(token), "", now)
	return a.forDoor(true), err
}

// MadeForMember reports whether the token's tag proves, without any store, that this deployment
// made it for a member: nobody can guess one.
func (k *Keystore) MadeForMember(token string) bool {
	t, err := ParseToken(token)
	return err == nil && t.Prefix() == MemberPrefix && k.tokenKey.Load().Verify(t)
}

// forDoor takes what one kind of door must not know for malformed: members' tokens, or all others.
func (a Answer) forDoor(personal bool) Answer {
	if a.Record != nil && a.Record.personal != personal {
		return Answer{Outcome: Malformed}
	}
	return a
}

// Again is Lookup for the credential that has opened a record, which nobody need have kept.
func (k *Keystore) Again(ctx context.Context, r *Record, now time.Time) (Answer, error) {
	return k.lookUp(ctx, r.Digest, "", now)
}

// lookUp answers for a digest; credential is empty when it has been inspected before.
func (k *Keystore) lookUp(
	ctx context.Context, d Digest, credential string, now time.Time,
) (Answer, error) {
	now = cachedClock(k.clock.of(now))
	s := k.cache.shard(&d)
	a := Answer{generation: s.generation.Load()}
	var held bool
	if a.Now, held = k.node.lease.term.Load().at(now); held {
		if r, known := s.find(&d, now.UnixNano()); known {
			return a.with(s, r), nil
		}
	}
	tagged, ok := true, true
	if credential != "" {
		tagged, ok = k.inspect(credential)
	}
	if !ok {
		return Answer{Outcome: Malformed}, nil
	}
	if !k.node.lease.holds(now) {
		if err := k.underLease(ctx, now); err != nil {
			return Answer{}, err
		}
		a.generation = s.generation.Load()
		a.Now, _ = k.node.lease.term.Load().at(now)
	}
	if !tagged && !k.node.imported.Load() { // the lease holds: there is none that it could be
		return Answer{Outcome: Malformed}, nil
	}
	s.misses.Add(1) // not before: a forged token is looked up nowhere
	k.counters.lookups[TierNegative][Miss].Add(1)
	r, err := k.load(ctx, d, tagged, now)
	if err != nil {
		return Answer{}, err
	}
	a.Record = r
	if r == nil {
		a.Outcome = Unknown
	}
	return a, nil
}

// underLease renews the lease until it holds at now: this node then knows what was in force.
func (k *Keystore) underLease(ctx context.Context, now time.Time) error {
	if !k.node.lease.holds(now) && k.node.away(k.clock.now()) {
		return errAway
	}
	// a renewal that is shared may have begun before this process was stopped
	for tries := 0; !k.node.lease.holds(now); tries++ {
		if tries == 3 {
			return errors.New("the lease lapsed while it was being renewed")
		}
		if err := k.renew(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a Answer) with(s *shard, r *Record) Answer {
	a.Record = r
	if r == nil {
		a.Outcome = Unknown
	}
	if r == nil || r.opensNothing() {
		s.negativeHits.Add(1)
	} else {
		s.hits.Add(1)
	}
	return a
}

// inspect tells without any store whether a credential can be one of ours, and whether its tag
// proves that this deployment made it. One that bears our prefix needs the right tag. Another can
// only have been imported, if any was.
func (k *Keystore) inspect(credential string) (tagged, ok bool) {
	if !possible(credential) {
		return false, false
	}
	if t, err := ParseToken(credential); err == nil &&
		slices.Contains(k.settings.Load().TokenPrefixes, t.Prefix()) {
		return true, k.tokenKey.Load().Verify(t)
	}
	return false, !k.HasPrefix(credential)
}

// possible reports whether s can be a credential at all, ours or imported: 8 to 512 visible ASCII
// characters (spec section 2).
func possible(s string) bool {
	if len(s) < minCredentialLen || len(s) > maxCredentialLen {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// TrimSecretToken drops the URI scheme of RFC 8959, `secret-token:`, from before a credential; the
// case of a scheme does not matter (RFC 3986 §3.1).
func TrimSecretToken(credential string) string {
	const scheme = "secret-token:"
	if len(credential) >= len(scheme) && strings.EqualFold(credential[:len(scheme)], scheme) {
		return credential[len(scheme):]
	}
	return credential
}

// Foreign reports whether a credential has none of the accepted prefixes and was not created by
// this deployment.
func (k *Keystore) Foreign(credential string) bool {
	return !k.HasPrefix(credential) && !k.Abandoned(credential)
}

// HasPrefix reports whether a credential bears one of our prefixes, members' included.
func (k *Keystore) HasPrefix(credential string) bool {
	return HasTokenPrefix(credential, MemberPrefix) ||
		slices.ContainsFunc(k.settings.Load().TokenPrefixes,
			func(p string) bool { return HasTokenPrefix(credential, p) })
}

// Abandoned reports whether a credential is a token that this deployment created with a prefix that
// it no longer accepts.
func (k *Keystore) Abandoned(credential string) bool {
	if k.HasPrefix(credential) {
		return false
	}
	t, err := ParseToken(credential)
	return err == nil && k.tokenKey.Load().Verify(t)
}

// An OtherPrefix is a prefix that settings do not accept and live keys have.
type OtherPrefix struct {
	Prefix    string
	Keys      int64 // neither revoked nor expired
	Abandoned bool  // the settings say so
}

// OtherPrefixes returns the prefixes that s does not accept and that live keys have: requests with
// their tokens are refused under s. Of a key that was rotated, only the newest token counts, not
// one in its grace.
func (k *Keystore) OtherPrefixes(ctx context.Context, s Settings) ([]OtherPrefix, error) {
	counts, err := k.db.CountPrefixes(ctx, s.withDefaults().TokenPrefixes)
	if err != nil {
		return nil, k.storeFailed("counting keys by prefix", err)
	}
	var list []OtherPrefix
	for _, prefix := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, OtherPrefix{prefix, counts[prefix],
			slices.Contains(s.AbandonedPrefixes, prefix)})
	}
	return list, nil
}

// ListPrefixes returns the accepted prefixes, the one for new keys first, and the others that live
// keys have. It requires `admin.keys:read` in all namespaces.
func (k *Keystore) ListPrefixes(
	ctx context.Context, c Caller,
) (accepted []string, others []OtherPrefix, err error) {
	by, done, err := k.fresh(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	if !by.may(adminKeys, "read", AnyNamespace) {
		refusal := lacks(adminKeys, "read")
		refusal.Detail += " in namespace " + AnyNamespace
		return nil, nil, refusal
	}
	s := *k.settings.Load()
	others, err = k.OtherPrefixes(ctx, s)
	return slices.Clone(s.TokenPrefixes), others, err
}

// Policy returns the namespaces, roles and members as this node knows them, for [Decide]. It needs
// no store. Read it after the time of a request was.
func (k *Keystore) Policy() *Directory { return k.node.directory.Load() }

// A Health is how the node stands.
type Health struct {
	Problem        string // for people; empty: healthy
	Revision       Revision
	LeaseRemaining time.Duration // zero: lapsed
	CachedRecords  int
	CachedBytes    int64 // that they take, about
}

// Health asks the database.
func (k *Keystore) Health(ctx context.Context) Health {
	err := k.renewAnew(ctx) // one that began before may not have met the database as it is now
	if err == nil {
		k.tryLookup(ctx)
	}
	h := k.Gauges()
	switch {
	case err == nil && k.lookupsFail.Load():
		h.Problem = "key lookups in the database fail; cached keys still work, " +
			"requests with other keys get 503"
	case err != nil && h.LeaseRemaining > 0:
		h.Problem = "the database cannot be asked; keys that are cached go on working until the " +
			"lease has run out"
	case errors.Is(err, errClockRate):
		h.Problem = err.Error()
	case errors.Is(err, ErrReplaced):
		h.Problem = ErrReplaced.Error() + "; every request that needs a key gets 503; " +
			"a restart is required: see the log for what to check first"
	case h.LeaseRemaining == 0:
		h.Problem = "the lease has lapsed and the database cannot be asked; every request is " +
			"answered 503"
	}
	return h
}

// tryLookup checks whether failing lookups still fail, unless another call is checking.
func (k *Keystore) tryLookup(ctx context.Context) {
	if !k.lookupsFail.Load() || !k.trial.TryLock() {
		return
	}
	defer k.trial.Unlock()
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	_, _, _ = k.keyByDigest(ctx, Digest{}, *k.node.position.Load()) // it notes whether it failed
}

// Gauges is the same without asking, for the metrics; Problem is left empty.
func (k *Keystore) Gauges() Health {
	return Health{
		Revision:       Revision(max(0, k.node.applied.Load())),
		LeaseRemaining: k.node.lease.remaining(k.clock.now()),
		CachedRecords:  k.cache.len(),
		CachedBytes:    k.cache.bytes(),
	}
}

// CountKeys counts keys by status, from the database.
func (k *Keystore) CountKeys(ctx context.Context) (map[Status]int64, error) {
	return k.db.CountKeys(ctx)
}

// CountRefused counts the live keys that are refused because their token has a prefix that is not
// accepted, from the database.
func (k *Keystore) CountRefused(ctx context.Context) (n int64, err error) {
	others, err := k.OtherPrefixes(ctx, *k.settings.Load())
	for _, p := range others {
		n += p.Keys
	}
	return n, err
}

// CountNodes counts nodes by state, from the database.
func (k *Keystore) CountNodes(ctx context.Context) (map[NodeState]int, error) {
	nodes, err := k.db.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[NodeState]int{NodeActive: 0, NodeFencing: 0}
	for _, n := range nodes {
		counts[n.State]++
	}
	return counts, nil
}
