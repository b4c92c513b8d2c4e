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

// Settings can change while a node is running. Zero fields stand for the defaults below.
type Settings struct {
	// TokenPrefixes are the accepted prefixes of keys' tokens. New keys get the first one.
	// [keystore.MemberPrefix] must not be among them.
	TokenPrefixes []string
	// AbandonedPrefixes are prefixes that are no longer accepted on purpose: see [OtherPrefix].
	AbandonedPrefixes []string
	// LocalCache is the maximum number of cached records.
	LocalCache int
	// LocalCacheBytes is the approximate maximum memory of the cached records. A record that needs
	// more than 1/256 of it is not cached.
	LocalCacheBytes int64
	// Lease is how long a node without a connection to the database may use its cache.
	Lease time.Duration
	// Capacity limits how much the deployment can hold.
	Capacity keystore.Capacity
	// Cache is shared by all nodes; nil disables it. The caller closes it once no Settings refers
	// to it.
	Cache keystore.SharedCache
}

// Defaults of [Settings].
const (
	DefaultLocalCache = 1_000_000
	DefaultLease      = 30 * time.Second
	// DefaultLocalCacheBytes suffices for DefaultLocalCache typical keys.
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

// A Node is one running process of a deployment. It is safe for concurrent use.
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

	loggedFailure atomic.Int64 // time in Unix nanoseconds
	lookupsFail   atomic.Bool  // the last lookup in the database failed
	lookupTrial   sync.Mutex   // held while Health repeats a lookup

	untagged chan struct{} // slots for loads of credentials without a tag
	uses     pendingUses
	watched  atomic.Int64 // changes that propagateObserved watches without a caller

	running context.Context // done when Close begins
	stop    context.CancelFunc
	work    sync.WaitGroup // of background work
}

// Open joins the deployment in db as a new node. configured is the token key from the
// configuration, or nil. The node owns db from now on. If Open fails, it closes db.
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
	n.membership.newIncarnation()
	n.running, n.stop = context.WithCancel(context.Background())
	if err := n.join(ctx); err != nil {
		n.stop()
		n.membership.close()
		n.work.Wait() // a renewal continues when ctx is cancelled
		return nil, errors.Join(err, n.leave(), db.Close())
	}
	n.work.Go(func() { n.keepRenewing(n.running) })
	n.work.Go(func() { n.cutAfterLapse(n.running) })
	n.work.Go(func() {
		every(n.running, cutInterval, func() { n.cache.cutExpired(n.Now().UnixNano()) })
	})
	n.work.Go(func() { every(n.running, flushInterval, func() { n.flushUses(n.running) }) })
	n.work.Go(func() { every(n.running, noteInterval, func() { n.noteTime(n.running) }) })
	return n, nil
}

func (n *Node) join(ctx context.Context) error {
	if err := n.readDeployment(ctx); err != nil {
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

// Configure replaces the settings.
func (n *Node) Configure(s Settings) {
	s = s.withDefaults()
	n.settings.Store(&s)
	n.cache.resize(s.LocalCache, s.LocalCacheBytes)
	//fault: if ablated("reload-resets") { n.cache.resetGenerations() }
}

// Now returns the time on the database's clock, as far as this node knows it, in UTC.
func (n *Node) Now() time.Time { return n.databaseTime(n.clock.now()) }

// noteInterval is how often a node stores the time by which keys expire. If all nodes stop and the
// database's clock is set back, expiry goes back by at most this interval.
const noteInterval = time.Minute

// noteTime stores the time in the database, for nodes that start after the database's clock was set
// back.
func (n *Node) noteTime(ctx context.Context) {
	if !n.membership.lease.holds(n.clock.now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	if err := n.db.NoteTime(ctx, n.Now()); err != nil {
		_ = n.StoreFailed("storing the time", err)
	}
}

// databaseTime converts a reading of our own clock to the database's clock.
func (n *Node) databaseTime(own time.Time) time.Time {
	now, _ := n.membership.lease.term.Load().at(own)
	return time.Unix(0, now).UTC()
}

// beginWork registers work that Close waits for, and reports whether it may begin: it may not after
// Close has begun. The caller calls n.work.Done at the end.
func (n *Node) beginWork() bool {
	n.membership.mu.Lock()
	defer n.membership.mu.Unlock()
	if !n.membership.closed {
		n.work.Add(1)
	}
	return !n.membership.closed
}

// Close leaves the deployment. It drops the lease, cuts running requests, ends the wait of callers
// of [Node.Propagate], writes last uses, removes the node's row, and closes the database.
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
	errClosed      = errors.New("the node is closed")
	errUnavailable = errors.New("the database has not responded for some time")
	errStale       = errors.New("the database returned an older state than before; is this server a " +
		"former primary?")
	errClockRate = errors.New("no lease is taken")
)

// An Answer is the result of a lookup.
type Answer struct {
	// Record is the record of the credential, even if it was rotated out. It is nil if Outcome is
	// [keystore.Malformed] or [keystore.Unknown].
	Record *keystore.Record
	// Outcome is [keystore.OK] if there is a record, whatever its state. [keystore.Decide] decides
	// whether it allows the request.
	Outcome keystore.Outcome
	// Now is the time of the request on the database's clock, in Unix nanoseconds, for
	// [keystore.Decide]. A wrong clock of this machine does not delay the expiry of keys.
	Now int64

	generation uint64 // of the record's shard, before the lookup
}

// Lookup looks up the credential of a request; now was read after the request arrived. The outcome
// is [keystore.Malformed], without a query, for a member's token and for a credential that
// cannot be valid in this deployment. An error means that the answer is [keystore.Unavailable].
func (n *Node) Lookup(ctx context.Context, credential string, now time.Time) (Answer, error) {
	// Avoids a hash. Everything else is inspected only if the credential is not cached.
	if len(credential) < keystore.MinCredentialLen || len(credential) > keystore.MaxCredentialLen {
		return Answer{Outcome: keystore.Malformed}, nil
	}
	if n.Abandoned(credential) { // its record may be cached
		return Answer{Outcome: keystore.Malformed}, nil
	}
	a, err := n.lookup(ctx, keystore.DigestOf(credential), credential, now)
	return a.restrict(false), err
}

// LookupMember is [Node.Lookup] for members' tokens. The outcome for any other credential is
// [keystore.Malformed].
func (n *Node) LookupMember(ctx context.Context, token string, now time.Time) (Answer, error) {
	if !n.IsMemberToken(token) {
		return Answer{Outcome: keystore.Malformed}, nil
	}
	a, err := n.lookup(ctx, keystore.DigestOf(token), "", now)
	return a.restrict(true), err
}

// IsMemberToken reports whether this deployment created the token for a member. The tag proves that
// without a query.
func (n *Node) IsMemberToken(token string) bool {
	t, err := keystore.ParseToken(token)
	return err == nil && t.Prefix() == keystore.MemberPrefix && n.tokenKey.Load().Verify(t)
}

// restrict returns the answer if the record is personal, or is not, as wanted. Otherwise the
// credential is malformed.
func (a Answer) restrict(personal bool) Answer {
	if a.Record != nil && a.Record.Personal() != personal {
		return Answer{Outcome: keystore.Malformed}
	}
	return a
}

// LookupAgain is Lookup for a record that an earlier lookup returned, without its credential.
func (n *Node) LookupAgain(ctx context.Context, r *keystore.Record, now time.Time) (Answer, error) {
	return n.lookup(ctx, r.Digest, "", now)
}

// lookup looks up a digest. credential is empty if it was inspected before.
func (n *Node) lookup(
	ctx context.Context, d keystore.Digest, credential string, now time.Time,
) (Answer, error) {
	now = n.clock.of(now)
	//fault: now = cachedClock(now)
	s := n.cache.shard(&d)
	a := Answer{generation: s.generation.Load()}
	var covered bool
	if a.Now, covered = n.membership.lease.term.Load().at(now); covered {
		if r, known := s.find(&d, now.UnixNano()); known {
			return a.withRecord(s, r), nil
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
		if err := n.ensureLease(ctx, now); err != nil {
			return Answer{}, err
		}
		a.generation = s.generation.Load()
		a.Now, _ = n.membership.lease.term.Load().at(now)
	}
	if !tagged && !n.membership.imported.Load() { // under the lease, nothing was imported
		return Answer{Outcome: keystore.Malformed}, nil
	}
	s.misses.Add(1) // only now, because forged tokens do not count
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

// ensureLease renews the lease unless it covers now. Afterwards the node knows every change that
// was in force at now.
func (n *Node) ensureLease(ctx context.Context, now time.Time) error {
	if !n.membership.lease.holds(now) && n.membership.unavailable(n.clock.now()) {
		return errUnavailable
	}
	// A shared renewal may have begun before this process was stopped.
	for tries := 0; !n.membership.lease.holds(now); tries++ {
		if tries == 3 {
			return errors.New("the lease expired while it was renewed; is this machine overloaded?")
		}
		if err := n.Renew(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a Answer) withRecord(s *shard, r *keystore.Record) Answer {
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

// Inspect reports, without a query, whether a credential can be valid, and whether its tag proves
// that this deployment created it. A credential with one of our prefixes must have the right tag.
// Any other can only have been imported.
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

// HasPrefix reports whether a credential has one of the accepted prefixes or that of members'
// tokens.
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

// An OtherPrefix is a prefix of live keys that settings do not accept.
type OtherPrefix struct {
	Prefix    string
	Keys      int64 // those that are neither revoked nor expired
	Abandoned bool  // listed in Settings.AbandonedPrefixes
}

// OtherPrefixes returns the prefixes of live keys that s does not accept. Under s, requests with
// their tokens are refused. Of a rotated key, only the newest token counts, not one in its grace
// period.
func (n *Node) OtherPrefixes(ctx context.Context, s Settings) ([]OtherPrefix, error) {
	counts, err := n.db.CountPrefixes(ctx, s.withDefaults().TokenPrefixes)
	if err != nil {
		return nil, n.StoreFailed("counting keys by prefix", err)
	}
	var list []OtherPrefix
	for _, prefix := range slices.Sorted(maps.Keys(counts)) {
		abandoned := slices.Contains(s.AbandonedPrefixes, prefix)
		list = append(list, OtherPrefix{prefix, counts[prefix], abandoned})
	}
	return list, nil
}

// Policy returns the namespaces, roles and members for [keystore.Decide], without a query. Callers
// read the time of a request before.
func (n *Node) Policy() *keystore.Directory { return n.membership.directory.Load() }

// Health is the state of a node.
type Health struct {
	Problem        string // for people; empty if the node is healthy
	Revision       keystore.Revision
	LeaseRemaining time.Duration // 0 if the lease has lapsed
	CachedRecords  int
	CachedBytes    int64 // approximately
}

// Health returns the state of the node after a query to the database.
func (n *Node) Health(ctx context.Context) Health {
	err := n.renewAnew(ctx) // an earlier renewal would tell an earlier state of the database
	if err == nil {
		n.tryLookup(ctx)
	}
	h := n.Gauges()
	switch {
	case err == nil && n.lookupsFail.Load():
		h.Problem = "key lookups in the database fail; cached keys still work, " +
			"requests with other keys get 503"
	case err != nil && h.LeaseRemaining > 0:
		h.Problem = "the database is unreachable; cached keys work until the lease expires"
	case errors.Is(err, errClockRate):
		h.Problem = err.Error()
	case errors.Is(err, keystore.ErrReplaced):
		h.Problem = keystore.ErrReplaced.Error() + "; every request that needs a key gets 503; " +
			"a restart is required: see the log for what to check first"
	case h.LeaseRemaining == 0:
		h.Problem = "the lease has lapsed and the database is unreachable; every request that " +
			"needs a key gets 503"
	}
	return h
}

// tryLookup checks whether failing lookups still fail, unless another call is checking.
func (n *Node) tryLookup(ctx context.Context) {
	if !n.lookupsFail.Load() || !n.lookupTrial.TryLock() {
		return
	}
	defer n.lookupTrial.Unlock()
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	// keyByDigest records whether it failed.
	_, _, _ = n.keyByDigest(ctx, keystore.Digest{}, *n.membership.position.Load())
}

// Gauges is [Node.Health] without a query, for metrics. Problem is empty.
func (n *Node) Gauges() Health {
	return Health{
		Revision:       keystore.Revision(max(0, n.membership.applied.Load())),
		LeaseRemaining: n.membership.lease.remaining(n.clock.now()),
		CachedRecords:  n.cache.len(),
		CachedBytes:    n.cache.bytes(),
	}
}

// CountKeys returns the number of keys by status from the database.
func (n *Node) CountKeys(ctx context.Context) (map[keystore.Status]int64, error) {
	return n.db.CountKeys(ctx)
}

// CountRefused returns the number of live keys from the database that are refused because the
// prefix of their token is not accepted.
func (n *Node) CountRefused(ctx context.Context) (refused int64, err error) {
	others, err := n.OtherPrefixes(ctx, *n.settings.Load())
	for _, p := range others {
		refused += p.Keys
	}
	return refused, err
}

// CountNodes returns the number of nodes by state from the database.
func (n *Node) CountNodes(ctx context.Context) (map[keystore.NodeState]int, error) {
	nodes, err := n.db.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[keystore.NodeState]int{keystore.NodeActive: 0, keystore.NodeFencing: 0}
	for _, node := range nodes {
		counts[node.State]++
	}
	return counts, nil
}

// LookupLogin returns the enabled member with a login that Caddy has authenticated, or nil. now was
// read after the request arrived. An error means that the answer is [keystore.Unavailable].
func (n *Node) LookupLogin(
	ctx context.Context, login string, now time.Time,
) (*keystore.Member, error) {
	now = n.clock.of(now)
	//fault: now = cachedClock(now)
	if err := n.ensureLease(ctx, now); err != nil {
		return nil, err
	}
	return n.Policy().MemberByLogin(login), nil
}

// LookupMemberDigest is [Node.LookupMember] for the digest of a token that was inspected before.
func (n *Node) LookupMemberDigest(
	ctx context.Context, d keystore.Digest, now time.Time,
) (Answer, error) {
	a, err := n.lookup(ctx, d, "", now)
	return a.restrict(true), err
}

// Database returns the database of the deployment.
func (n *Node) Database() keystore.Database { return n.db }

// Settings returns the current settings with their defaults. The caller must not modify them.
func (n *Node) Settings() *Settings { return n.settings.Load() }

// TokenKey returns the key that signs tokens.
func (n *Node) TokenKey() *keystore.TokenKey { return n.tokenKey.Load() }

// Incarnation returns the id of the node's row, which changes when the node has to join again.
func (n *Node) Incarnation() string { return *n.membership.incarnation.Load() }

// Applied returns the revision up to which the node has applied the change log.
func (n *Node) Applied() keystore.Revision {
	return keystore.Revision(max(0, n.membership.applied.Load()))
}

// Standbys reports whether commits wait for a standby of the database.
func (n *Node) Standbys() bool { return n.membership.standbys.Load() }

// Go runs f in the background. Close cancels its context and waits for it. After Close, Go does
// nothing.
func (n *Node) Go(f func(ctx context.Context)) {
	if n.beginWork() {
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

// Running returns a context that is done when Close begins.
func (n *Node) Running() context.Context { return n.running }
