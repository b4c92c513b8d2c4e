package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

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
	limiter    *limiter

	loggedFailure atomic.Int64 // time in Unix nanoseconds
	lookupsFail   atomic.Bool  // the last lookup in the database failed
	lookupTrial   sync.Mutex   // held while Health repeats a lookup

	untagged chan struct{} // slots for loads of credentials without a tag
	uses     pendingUses
	deriving *derivingBook
	forged   forgeries
	usage    *usageBook
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
		membership: &membership{lease: lease{extended: make(chan struct{}, 1)}},
		untagged:   make(chan struct{}, untaggedLoads),
		usage:      newUsageBook(),
		deriving:   newDerivingBook(),
	}
	n.settings.Store(&s)
	n.membership.newIncarnation()
	n.limiter = n.newLimiter()
	n.running, n.stop = context.WithCancel(context.Background())
	if err := n.join(ctx); err != nil {
		n.stop()
		n.membership.close()
		n.work.Wait() // a renewal continues when ctx is cancelled
		return nil, errors.Join(err, n.leave(), db.Close())
	}
	n.Go(n.keepRenewing)
	n.Go(n.cutAfterLapse)
	n.Every(cutInterval, func(context.Context) { n.cache.cutExpired(n.Now().UnixNano()) })
	n.Every(flushInterval, n.flushUses)
	n.Every(flushInterval, n.flushUsage)
	n.Go(n.computeDeriving)
	n.Every(flushInterval, n.flushDeriving)
	n.Go(n.maintainUsage)
	n.Go(n.noteTime)
	n.Every(noteInterval, n.noteTime)
	n.Go(n.limiter.rateBooks.run)
	n.Go(n.limiter.quotaBooks.run)
	n.Every(sweepInterval, func(context.Context) { n.limiter.sweep() })
	return n, nil
}

func (n *Node) join(ctx context.Context) error {
	if err := n.readDeployment(ctx); err != nil {
		return err
	}
	return n.Renew(ctx)
}

// Configure replaces the settings.
func (n *Node) Configure(s Settings) {
	s = s.withDefaults()
	n.settings.Store(&s)
	n.cache.resize(s.LocalCache, s.LocalCacheBytes)
	//fault: if ablated("reload-resets") { n.cache.resetGenerations() }
}

// Now returns this node's estimate of the time on the database's clock, in UTC.
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

// beginWork registers work that Close waits for. It returns false if Close has begun; then the work
// must not begin. Otherwise the caller calls n.work.Done at the end.
func (n *Node) beginWork() bool {
	n.membership.mu.Lock()
	defer n.membership.mu.Unlock()
	if !n.membership.closed {
		n.work.Add(1)
	}
	return !n.membership.closed
}

// Close leaves the deployment. It cuts running requests, stops waiting calls of [Node.Propagate],
// drops the lease, removes the node's row, writes last uses and usage, and closes the database.
func (n *Node) Close() error {
	n.stop()
	n.cache.close()
	n.membership.close()
	n.work.Wait()
	n.membership.lease.drop() // before other nodes stop waiting for this one
	left := n.leave()         // before the writes below: until then, revokes of other nodes wait
	ctx, cancel := context.WithTimeout(context.Background(), QueryTimeout)
	defer cancel()
	n.flushUses(ctx)
	n.flushDeriving(ctx)
	n.noteTime(ctx)
	n.limiter.returnAll(ctx)
	n.closeUsage()
	return errors.Join(left, n.db.Close())
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

var errClosed = errors.New("the node is closed")

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
	n.Go(func(ctx context.Context) {
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				f(ctx)
			}
		}
	})
}

// Running returns a context that is done when Close begins.
func (n *Node) Running() context.Context { return n.running }
