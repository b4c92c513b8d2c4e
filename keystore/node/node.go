package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Settings are what may change while the store is open. Zero values are replaced by the defaults
// below.
type Settings struct {
	// TokenPrefixes are accepted; the first is for new keys. [keystore.MemberPrefix] cannot be one.
	TokenPrefixes []string
	// AbandonedPrefixes are known to be no longer accepted: see [manage.Keystore.OtherPrefixes].
	AbandonedPrefixes []string
	// LocalCache is how many records the process keeps at most.
	LocalCache int
	// LocalCacheBytes is about how much memory the records may take. A record that needs more than
	// a 256th of it is not cached.
	LocalCacheBytes int64
	// Lease is how long a node that is cut off may go on trusting what it has cached.
	Lease time.Duration
	// Capacity is how much the deployment may hold.
	Capacity keystore.Capacity
	// Cache is shared with the other nodes; nil: none. It stays its owner's to close, once it is in
	// no Settings any more.
	Cache keystore.SharedCache
}

// Defaults of [Settings].
const (
	DefaultLocalCache = 1_000_000
	DefaultLease      = 30 * time.Second
	// DefaultLocalCacheBytes has room for DefaultLocalCache keys as they usually are.
	DefaultLocalCacheBytes = 1 << 30
)

func (s Settings) withDefaults() Settings {
	if len(s.TokenPrefixes) == 0 {
		s.TokenPrefixes = []string{keystore.DefaultPrefix}
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
	s.Capacity = s.Capacity.WithDefaults()
	return s
}

// A Keystore is one node: its caches, its lease, and the way to the database. It is safe for
// concurrent use.
type Node struct {
	db         keystore.Database
	configured *[32]byte
	logger     *slog.Logger
	observer   Observer

	settings   atomic.Pointer[Settings]
	tokenKey   atomic.Pointer[keystore.TokenKey]
	seal       atomic.Pointer[sharedSeal]
	cache      *localCache
	membership *membership
	clock      clock
	revokes    revokes
	counters   counters
	requests   requestCounts

	loggedFailure atomic.Int64 // when, in Unix nanoseconds
	lookupsFail   atomic.Bool  // as the last one in the database did
	trial         sync.Mutex   // held by the one look-up for the health

	untagged chan struct{} // a place for each miss in flight of a credential without a tag
	uses     unflushed
	watched  atomic.Int64 // changes that nobody waits for

	running context.Context // until Close
	stop    context.CancelFunc
	work    sync.WaitGroup // what runs in the background
}

// Open joins the deployment in db as a new node. configured is the token key of the configuration,
// nil for none. db is the Keystore's from now on, and is closed when Open fails.
func Open(
	ctx context.Context, db keystore.Database, configured *[32]byte, s Settings, o Observer,
	logger *slog.Logger,
) (*Node, error) {
	var c clock
	//fault: c = faultyClock()
	return open(ctx, db, configured, s, o, logger, c)
}

func open(
	ctx context.Context, db keystore.Database, configured *[32]byte, s Settings, o Observer,
	logger *slog.Logger, c clock,
) (*Node, error) {
	s = s.withDefaults()
	n := &Node{
		db: db, configured: configured, logger: logger, observer: o, clock: c,
		cache:      newLocalCache(s.LocalCache, s.LocalCacheBytes),
		membership: new(membership),
		untagged:   make(chan struct{}, untaggedLoads),
	}
	n.settings.Store(&s)
	n.membership.reincarnate()
	n.running, n.stop = context.WithCancel(context.Background())
	if err := n.join(ctx); err != nil {
		n.stop()
		n.membership.close()
		n.work.Wait() // the renewal may go on although nobody waits for it any more
		return nil, errors.Join(err, n.leave(), db.Close())
	}
	n.work.Go(func() { n.keepUp(n.running) })
	n.work.Go(func() { n.cutLapsed(n.running) })
	n.work.Go(func() {
		every(n.running, sweepInterval,
			func() { n.cache.sweep(n.Now().UnixNano()) })
	})
	n.work.Go(func() { every(n.running, flushInterval, func() { n.flushUses(n.running) }) })
	n.work.Go(func() { every(n.running, noteInterval, func() { n.noteTime(n.running) }) })
	return n, nil
}

func (n *Node) join(ctx context.Context) error {
	if err := n.adopt(ctx); err != nil {
		return err
	}
	return n.Renew(ctx)
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
func (n *Node) Configure(s Settings) {
	s = s.withDefaults()
	n.settings.Store(&s)
	n.cache.resize(s.LocalCache, s.LocalCacheBytes)
	//fault: if ablated("reload-resets") { n.cache.resetGenerations() }
}

// Now is the time on the database's clock, as far as this node knows it, in UTC.
func (n *Node) Now() time.Time { return n.databaseTime(n.clock.now()) }

// noteInterval is how often a node stores the time by which keys expire. If all nodes stop and the
// clock is set back, expiry goes back by at most this much.
const noteInterval = time.Minute

// noteTime stores the time in the database, for nodes that start after its clock was set back.
func (n *Node) noteTime(ctx context.Context) {
	if !n.membership.lease.holds(n.clock.now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	if err := n.db.NoteTime(ctx, n.Now()); err != nil {
		_ = n.StoreFailed("noting the time", err)
	}
}

// databaseTime is what the database's clock says at a reading of our own.
func (n *Node) databaseTime(own time.Time) time.Time {
	now, _ := n.membership.lease.term.Load().at(own)
	return time.Unix(0, now).UTC()
}

// busy registers work that Close waits for, unless Close has begun.
func (n *Node) busy() bool {
	n.membership.mu.Lock()
	defer n.membership.mu.Unlock()
	if !n.membership.closed {
		n.work.Add(1)
	}
	return !n.membership.closed
}

// Close leaves the deployment. It drops the lease and the cache, cuts running requests, answers
// callers that wait for a change to spread, writes last uses, removes the node's row, and closes
// the database.
func (n *Node) Close() error {
	n.stop()
	n.cache.close()
	n.membership.close()
	n.work.Wait()
	n.membership.lease.drop() // before other nodes stop waiting for this one
	ctx, cancel := context.WithTimeout(context.Background(), QueryTimeout)
	defer cancel()
	n.flushUses(ctx)
	n.noteTime(ctx)
	return errors.Join(n.leave(), n.db.Close())
}

// leave removes the node's row if the node may have written one.
func (n *Node) leave() error {
	if !n.membership.row.tried {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), QueryTimeout)
	defer cancel()
	return n.db.Remove(ctx, *n.membership.incarnation.Load())
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
	// [keystore.Malformed] or [keystore.Unknown].
	Record *keystore.Record
	// Outcome is [keystore.OK] when there is a record, whatever its state: [keystore.Decide] judges
	// that.
	Outcome keystore.Outcome
	// Now is the time of the request on the database's clock, in Unix nanoseconds, for
	// [keystore.Decide]: so a wrong clock of this machine extends no key's life.
	Now int64

	generation uint64 // of its shard, read before the record was
}

// Lookup returns what is known of a credential; now was read after the request arrived. A
// credential that cannot be one of ours is [keystore.Malformed] without asking any store, and so
// are members' tokens. An error means that it cannot be known: [keystore.Unavailable].
func (n *Node) Lookup(ctx context.Context, credential string, now time.Time) (Answer, error) {
	// not worth a hash; the rest is inspected when it is not found
	if len(credential) < keystore.MinCredentialLen || len(credential) > keystore.MaxCredentialLen {
		return Answer{Outcome: keystore.Malformed}, nil
	}
	if n.Abandoned(credential) { // the cache may hold its record
		return Answer{Outcome: keystore.Malformed}, nil
	}
	a, err := n.lookUp(ctx, keystore.DigestOf(credential), credential, now)
	return a.forDoor(false), err
}

// LookupMember is Lookup for the doors of those who manage, where a member's own token is good, and
// for it alone.
func (n *Node) LookupMember(ctx context.Context, token string, now time.Time) (Answer, error) {
	if !n.IsMemberToken(token) {
		return Answer{Outcome: keystore.Malformed}, nil
	}
	a, err := n.lookUp(ctx, keystore.DigestOf(token), "", now)
	return a.forDoor(true), err
}

// IsMemberToken reports whether the token's tag proves, without any store, that this deployment
// made it for a member: nobody can guess one.
func (n *Node) IsMemberToken(token string) bool {
	t, err := keystore.ParseToken(token)
	return err == nil && t.Prefix() == keystore.MemberPrefix && n.tokenKey.Load().Verify(t)
}

// forDoor takes what one kind of door must not know for malformed: members' tokens, or all others.
func (a Answer) forDoor(personal bool) Answer {
	if a.Record != nil && a.Record.Personal() != personal {
		return Answer{Outcome: keystore.Malformed}
	}
	return a
}

// Again is Lookup for the credential that has opened a record, which nobody need have kept.
func (n *Node) LookupAgain(ctx context.Context, r *keystore.Record, now time.Time) (Answer, error) {
	return n.lookUp(ctx, r.Digest, "", now)
}

// lookUp answers for a digest; credential is empty when it has been inspected before.
func (n *Node) lookUp(
	ctx context.Context, d keystore.Digest, credential string, now time.Time,
) (Answer, error) {
	now = n.clock.of(now)
	//fault: now = cachedClock(now)
	s := n.cache.shard(&d)
	a := Answer{generation: s.generation.Load()}
	var held bool
	if a.Now, held = n.membership.lease.term.Load().at(now); held {
		if r, known := s.find(&d, now.UnixNano()); known {
			return a.with(s, r), nil
		}
	}
	tagged, ok := true, true
	if credential != "" {
		tagged, ok = n.Inspect(credential)
	}
	if !ok {
		return Answer{Outcome: keystore.Malformed}, nil
	}
	if !n.membership.lease.holds(now) {
		if err := n.underLease(ctx, now); err != nil {
			return Answer{}, err
		}
		a.generation = s.generation.Load()
		a.Now, _ = n.membership.lease.term.Load().at(now)
	}
	if !tagged && !n.membership.imported.Load() { // the lease holds: there is none that it could be
		return Answer{Outcome: keystore.Malformed}, nil
	}
	s.misses.Add(1) // not before: a forged token is looked up nowhere
	n.counters.lookups[TierNegative][Miss].Add(1)
	r, err := n.load(ctx, d, tagged, now)
	if err != nil {
		return Answer{}, err
	}
	a.Record = r
	if r == nil {
		a.Outcome = keystore.Unknown
	}
	return a, nil
}

// underLease renews the lease until it holds at now: this node then knows what was in force.
func (n *Node) underLease(ctx context.Context, now time.Time) error {
	if !n.membership.lease.holds(now) && n.membership.away(n.clock.now()) {
		return errAway
	}
	// a renewal that is shared may have begun before this process was stopped
	for tries := 0; !n.membership.lease.holds(now); tries++ {
		if tries == 3 {
			return errors.New("the lease lapsed while it was being renewed")
		}
		if err := n.Renew(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a Answer) with(s *shard, r *keystore.Record) Answer {
	a.Record = r
	if r == nil {
		a.Outcome = keystore.Unknown
	}
	if r == nil || r.RotatedOut() {
		s.negativeHits.Add(1)
	} else {
		s.hits.Add(1)
	}
	return a
}

// inspect tells without any store whether a credential can be one of ours, and whether its tag
// proves that this deployment made it. One that bears our prefix needs the right tag. Another can
// only have been imported, if any was.
func (n *Node) Inspect(credential string) (tagged, ok bool) {
	if !keystore.PossibleCredential(credential) {
		return false, false
	}
	if t, err := keystore.ParseToken(credential); err == nil &&
		slices.Contains(n.settings.Load().TokenPrefixes, t.Prefix()) {
		return true, n.tokenKey.Load().Verify(t)
	}
	return false, !n.HasPrefix(credential)
}

// Foreign reports whether a credential has none of the accepted prefixes and was not created by
// this deployment.
func (n *Node) Foreign(credential string) bool {
	return !n.HasPrefix(credential) && !n.Abandoned(credential)
}

// HasPrefix reports whether a credential bears one of our prefixes, members' included.
func (n *Node) HasPrefix(credential string) bool {
	return keystore.HasTokenPrefix(credential, keystore.MemberPrefix) ||
		slices.ContainsFunc(n.settings.Load().TokenPrefixes,
			func(p string) bool { return keystore.HasTokenPrefix(credential, p) })
}

// Abandoned reports whether a credential is a token that this deployment created with a prefix that
// it no longer accepts.
func (n *Node) Abandoned(credential string) bool {
	if n.HasPrefix(credential) {
		return false
	}
	t, err := keystore.ParseToken(credential)
	return err == nil && n.tokenKey.Load().Verify(t)
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
func (n *Node) OtherPrefixes(ctx context.Context, s Settings) ([]OtherPrefix, error) {
	counts, err := n.db.CountPrefixes(ctx, s.withDefaults().TokenPrefixes)
	if err != nil {
		return nil, n.StoreFailed("counting keys by prefix", err)
	}
	var list []OtherPrefix
	for _, prefix := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, OtherPrefix{prefix, counts[prefix],
			slices.Contains(s.AbandonedPrefixes, prefix)})
	}
	return list, nil
}

// Policy returns the namespaces, roles and members as this node knows them, for [keystore.Decide].
// It needs no store. Read it after the time of a request was.
func (n *Node) Policy() *keystore.Directory { return n.membership.directory.Load() }

// A Health is how the node stands.
type Health struct {
	Problem        string // for people; empty: healthy
	Revision       keystore.Revision
	LeaseRemaining time.Duration // zero: lapsed
	CachedRecords  int
	CachedBytes    int64 // that they take, about
}

// Health asks the database.
func (n *Node) Health(ctx context.Context) Health {
	err := n.renewAnew(ctx) // one that began before may not have met the database as it is now
	if err == nil {
		n.tryLookup(ctx)
	}
	h := n.Gauges()
	switch {
	case err == nil && n.lookupsFail.Load():
		h.Problem = "key lookups in the database fail; cached keys still work, " +
			"requests with other keys get 503"
	case err != nil && h.LeaseRemaining > 0:
		h.Problem = "the database cannot be asked; keys that are cached go on working until the " +
			"lease has run out"
	case errors.Is(err, errClockRate):
		h.Problem = err.Error()
	case errors.Is(err, keystore.ErrReplaced):
		h.Problem = keystore.ErrReplaced.Error() + "; every request that needs a key gets 503; " +
			"a restart is required: see the log for what to check first"
	case h.LeaseRemaining == 0:
		h.Problem = "the lease has lapsed and the database cannot be asked; every request is " +
			"answered 503"
	}
	return h
}

// tryLookup checks whether failing lookups still fail, unless another call is checking.
func (n *Node) tryLookup(ctx context.Context) {
	if !n.lookupsFail.Load() || !n.trial.TryLock() {
		return
	}
	defer n.trial.Unlock()
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	// it notes whether it failed
	_, _, _ = n.keyByDigest(ctx, keystore.Digest{}, *n.membership.position.Load())
}

// Gauges is the same without asking, for the metrics; Problem is left empty.
func (n *Node) Gauges() Health {
	return Health{
		Revision:       keystore.Revision(max(0, n.membership.applied.Load())),
		LeaseRemaining: n.membership.lease.remaining(n.clock.now()),
		CachedRecords:  n.cache.len(),
		CachedBytes:    n.cache.bytes(),
	}
}

// CountKeys counts keys by status, from the database.
func (n *Node) CountKeys(ctx context.Context) (map[keystore.Status]int64, error) {
	return n.db.CountKeys(ctx)
}

// CountRefused counts the live keys that are refused because their token has a prefix that is not
// accepted, from the database.
func (n *Node) CountRefused(ctx context.Context) (refused int64, err error) {
	others, err := n.OtherPrefixes(ctx, *n.settings.Load())
	for _, p := range others {
		refused += p.Keys
	}
	return refused, err
}

// CountNodes counts nodes by state, from the database.
func (n *Node) CountNodes(ctx context.Context) (map[keystore.NodeState]int, error) {
	nodes, err := n.db.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[keystore.NodeState]int{keystore.NodeActive: 0, keystore.NodeFencing: 0}
	for _, n := range nodes {
		counts[n.State]++
	}
	return counts, nil
}

// LookupLogin returns the enabled member with a login that Caddy has verified, or nil. now was read
// after the request arrived. An error means that the member cannot be known.
func (n *Node) LookupLogin(
	ctx context.Context, login string, now time.Time,
) (*keystore.Member, error) {
	now = n.clock.of(now)
	//fault: now = cachedClock(now)
	if err := n.underLease(ctx, now); err != nil {
		return nil, err
	}
	return n.Policy().MemberByLogin(login), nil
}

// LookupMemberDigest is LookupMember for the digest of a token that was inspected before.
func (n *Node) LookupMemberDigest(
	ctx context.Context, d keystore.Digest, now time.Time,
) (Answer, error) {
	a, err := n.lookUp(ctx, d, "", now)
	return a.forDoor(true), err
}

// Database returns the database of the deployment.
func (n *Node) Database() keystore.Database { return n.db }

// Settings returns the present settings, with their defaults.
func (n *Node) Settings() *Settings { return n.settings.Load() }

// TokenKey returns the key that signs the deployment's tokens.
func (n *Node) TokenKey() *keystore.TokenKey { return n.tokenKey.Load() }

// Incarnation returns the id of the node's row.
func (n *Node) Incarnation() string { return *n.membership.incarnation.Load() }

// Applied returns the revision up to which the node has applied the change log.
func (n *Node) Applied() keystore.Revision {
	return keystore.Revision(max(0, n.membership.applied.Load()))
}

// Standbys reports whether commits wait for a standby.
func (n *Node) Standbys() bool { return n.membership.standbys.Load() }

// Go runs f in the background until it returns. Close cancels its context and waits for it.
func (n *Node) Go(f func(ctx context.Context)) {
	if n.busy() {
		go func() {
			defer n.work.Done()
			f(n.running)
		}()
	}
}

// Every runs f in the background at an interval until Close.
func (n *Node) Every(d time.Duration, f func(ctx context.Context)) {
	n.Go(func(ctx context.Context) { every(ctx, d, func() { f(ctx) }) })
}

// Running is done when the node is closed.
func (n *Node) Running() context.Context { return n.running }
