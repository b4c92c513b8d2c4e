package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// clockRate is the largest relative error in the rate of any clock (docs/protocol.md, rule 7).
	clockRate = 0.01
	// retryInterval is the time until a failed renewal is repeated.
	retryInterval = 500 * time.Millisecond
)

// A lease limits how long the cache may be used (docs/protocol.md, rules 2 and 4).
type lease struct {
	term     atomic.Pointer[term] // nil before the first renewal
	extended chan struct{}        // with a capacity of one; receives a value with each new term
}

// A term is the result of one renewal.
type term struct {
	databaseClock               // asked is the time before the database was asked
	length        time.Duration // from asked; 0 if the lease was dropped
	expires       int64         // the end on our wall clock, in Unix nanoseconds
}

// at converts a reading of our own clock to the database's clock, in Unix nanoseconds, and reports
// whether the term covers it. The reading must include the monotonic clock, as time.Now returns it.
// Both the monotonic and the wall clock must be within the term, because the monotonic clock stops
// while a machine is suspended and the wall clock can be set.
func (t *term) at(own time.Time) (database int64, covered bool) {
	passed := own.Sub(t.asked)
	return t.reads + int64(passed), passed < t.length && own.UnixNano() < t.expires
}

// holds reports whether the lease covers a reading of our own clock.
func (l *lease) holds(own time.Time) bool {
	t := l.term.Load()
	if t == nil {
		return false
	}
	_, covered := t.at(own)
	return covered
}

// extend begins a new term, which counts from the clock reading before the database was asked.
func (l *lease) extend(length time.Duration, r reading) {
	var before databaseClock
	if t := l.term.Load(); t != nil {
		before = t.databaseClock
	}
	l.term.Store(&term{before.follow(r), length, r.asked.Add(length).UnixNano()})
	select {
	case l.extended <- struct{}{}:
	default:
	}
}

// drop ends the lease. The database's clock stays known.
func (l *lease) drop() {
	if t := l.term.Load(); t != nil {
		l.term.Store(&term{databaseClock: t.databaseClock})
	}
}

// length returns the length of the present term, 0 if there is none.
func (l *lease) length() time.Duration {
	if t := l.term.Load(); t != nil {
		return t.length
	}
	return 0
}

func (l *lease) remaining(now time.Time) time.Duration {
	if !l.holds(now) {
		return 0
	}
	t := l.term.Load()
	return max(0, t.length-now.Sub(t.asked))
}

// membership is the state of this process in the deployment (docs/protocol.md). mu guards the
// fields below it. lease, commits and the atomic fields are safe for concurrent use, and so is the
// part of fencer that revokes use. Only renewals use the others, and one renewal runs at a time.
type membership struct {
	incarnation  atomic.Pointer[string] // changes when the node has to join again
	epoch        string
	formerEpochs []string // earlier epochs of this node
	mustRejoin   bool     // the database has another history, so the node has to join again

	lease    lease
	rate     rateCheck
	failures atomic.Int32 // successive failed renewals

	position atomic.Pointer[keystore.Position] // up to which changes are applied
	applied  atomic.Int64                      // the revision of position; negative if none
	commits  commitTimes

	histories atomic.Int64 // how often the node has found another history
	lostAt    atomic.Int64 // when it last did, on the database's clock in Unix nanoseconds
	timeline  string       // of the database server
	takeovers atomic.Int64 // how often timeline has changed

	directory    atomic.Pointer[keystore.Directory]
	base         *baseDirectory // a complete directory that is not in use yet
	rereadPolicy bool           // the complete directory has to be read again

	imported atomic.Bool  // a credential has been imported
	standbys atomic.Bool  // commits wait for a standby
	nodes    atomic.Int64 // registered nodes, in any state
	// aloneSince is the time, in Unix nanoseconds on the database's clock, since which this node
	// knows that no other is registered. It means nothing unless nodes is 1.
	aloneSince atomic.Int64
	replaced   atomic.Bool // ErrReplaced was logged, and no renewal has succeeded since

	acknowledged         atomic.Pointer[time.Time] // when the last Acknowledge succeeded
	acknowledgedRevision keystore.Revision
	peers                map[string]keystore.Node // the other nodes' rows, by incarnation
	peersBefore          map[string]keystore.Node // the same at the previous reading
	fencer               fencer

	mu       sync.Mutex // guards the fields below
	row      ownRow
	renewing *renewal
	closed   bool
}

// ownRow is what this node knows about its own row. A write that was not acknowledged may have
// reached the row, and a failover may lose it again. The node relies on neither: it uses the
// shortest lease that the row may show, and repeats the write.
type ownRow struct {
	former  string        // the previous incarnation
	tried   bool          // a write was attempted, for any incarnation
	joined  bool          // the database has acknowledged the row of this incarnation
	lease   time.Duration // the shortest lease that the row may show
	shows   time.Duration // the lease that the row shows; 0 if that is uncertain
	setting bool          // a SetLease is in progress
}

// A history identifies the history of the database and its server. While it stays the same, the
// database still has everything that this node has written.
type history struct{ histories, takeovers int64 }

func (m *membership) history() history { return history{m.histories.Load(), m.takeovers.Load()} }

// stallTimeout is how long callers wait for a renewal after others have failed.
const stallTimeout = 100 * time.Millisecond

// unavailable reports whether the database seems unresponsive, so that callers need not wait for
// their timeout: the last two renewals have failed, and the present one has had no response yet
// either. One failure is not enough, because a renewal often fails when its process was stopped and
// continues.
func (m *membership) unavailable(now time.Time) bool {
	if m.failures.Load() < 2 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.renewing != nil && now.Sub(m.renewing.begun) > stallTimeout
}

// close prevents further renewals and background work.
func (m *membership) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
}

// A renewal is one execution of renewOnce, which all callers share while it runs.
type renewal struct {
	begun time.Time
	done  chan struct{}
	err   error
}

// Renew reads the head of the change log, applies new changes, and then extends the lease, counted
// from a clock reading before the read (docs/protocol.md, rule 2). Concurrent calls share a
// renewal. If a shared renewal fails, Renew tries once more: it may have begun before the database
// became available again.
func (n *Node) Renew(ctx context.Context) error {
	shared, err := n.joinRenewal(ctx)
	if shared && err != nil && ctx.Err() == nil {
		_, err = n.joinRenewal(ctx)
	}
	return err
}

// renewAnew is Renew with a renewal that begins after the call. A shared renewal may have asked the
// database before it.
func (n *Node) renewAnew(ctx context.Context) error {
	shared, err := n.joinRenewal(ctx)
	if shared && ctx.Err() == nil {
		_, err = n.joinRenewal(ctx)
	}
	return err
}

func (n *Node) joinRenewal(ctx context.Context) (shared bool, err error) {
	m := n.membership
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return false, errClosed
	}
	r := m.renewing
	if shared = r != nil; !shared {
		r = &renewal{begun: n.clock.now(), done: make(chan struct{})}
		m.renewing = r
		n.work.Go(func() {
			r.err = n.renewOnce()
			if m.failures.Add(1); r.err == nil {
				m.failures.Store(0)
			}
			m.mu.Lock()
			m.renewing = nil
			m.mu.Unlock()
			close(r.done)
		})
	}
	m.mu.Unlock()
	select {
	case <-r.done:
		return shared, r.err
	case <-ctx.Done():
		return shared, ctx.Err()
	}
}

// errRetry means that the renewal has to start again, because its reads are outdated or incomplete.
var errRetry = errors.New("the database changed while it was read")

func (n *Node) renewOnce() (err error) {
	for range 3 {
		if err = n.readDirectory(); err != nil {
			return err
		}
		if err = n.ensureJoined(); err != nil {
			return err
		}
		if err = n.tryRenew(); !errors.Is(err, errRetry) {
			return err
		}
	}
	return n.StoreFailed("renewing the lease", err)
}

// renewTimeout limits, in one attempt at a renewal, the reads of the head, of the change log and of
// the nodes, and the acknowledgement. None of these waits for a standby. All other calls have their
// own timeouts.
func (n *Node) renewTimeout() time.Duration {
	return min(n.settings.Load().Lease/3, QueryTimeout)
}

// tryRenew is one attempt at a renewal. The lease counts from the clock reading at its beginning.
func (n *Node) tryRenew() error {
	m := n.membership
	ctx, cancel := context.WithTimeout(context.Background(), n.renewTimeout())
	defer cancel()
	length := n.leaseLength()
	head, at, err := n.readHead(ctx)
	if err != nil {
		return err
	}
	if err := n.checkRate(at, length); err != nil {
		m.lease.drop()
		return n.StoreFailed("renewing the lease", err)
	}
	if head.Diverged || head.Epoch != m.epoch {
		if err := n.acceptNewHistory(head); err != nil {
			return err
		}
	}
	if m.mustRejoin || head.Node != keystore.NodeActive {
		n.rejoin()
		return errRetry
	}
	//fault: head.Silent = head.Silent && !ablated("silence-without-write")
	if head.Silent {
		if err := n.confirm(); err != nil {
			return err
		}
		return errRetry
	}
	if err := n.followTimeline(head); err != nil {
		return err
	}
	//fault: if ablated("ack-before-purge") { n.acknowledge(ctx, head, length) }
	//fault: if ablated("lease-before-apply") { m.lease.extend(length, at) }
	if err := n.catchUp(ctx, head); err != nil {
		if !errors.Is(err, errRetry) {
			err = n.StoreFailed("reading the change log", err)
		}
		return err
	}
	m.imported.Store(head.Imported)
	m.standbys.Store(head.Standbys)
	//fault: if ablated("lease-from-reply") { at.asked = n.clock.now() }
	m.lease.extend(length, at)
	m.countNodes(int64(head.Nodes), n.Now().UnixNano())
	m.commits.seen(head.Revision, at.replied)
	//fault: hold("acknowledge")
	n.acknowledge(ctx, head, length)
	return nil
}

// countNodes notes the number of registered nodes.
func (m *membership) countNodes(nodes, now int64) {
	if nodes == 1 && m.nodes.Load() != 1 {
		m.aloneSince.Store(now)
	}
	m.nodes.Store(nodes)
}

// readHead reads the head of the change log, and compares the database's clock with our own.
func (n *Node) readHead(ctx context.Context) (keystore.Head, reading, error) {
	m := n.membership
	at := reading{asked: n.clock.now()}
	var position keystore.Position
	if applied := *m.position.Load(); applied.Revision >= 0 {
		position = applied
	}
	head, err := n.db.Renew(ctx, *m.incarnation.Load(), position)
	if err != nil {
		if errors.Is(err, keystore.ErrReplaced) {
			n.distrust()
		}
		return head, at, n.StoreFailed("renewing the lease", err)
	}
	m.replaced.Store(false)
	at.replied, at.database = n.clock.now(), head.Now
	if behind := head.Noted.Sub(head.Now); m.lease.term.Load() == nil && behind > 0 {
		at.database = head.Noted
		if behind > time.Second {
			n.logger.Warn("database clock was set back; keys expire by the later time until it "+
				"catches up", slog.Duration("behind", behind))
		}
	}
	//fault: hold("renew.reply")
	return head, at, nil
}

// distrust drops the lease and the cache, and cuts all running requests.
func (n *Node) distrust() {
	if n.membership.lease.length() == 0 {
		return // already done
	}
	n.membership.lease.drop()
	n.cache.purge(keystore.Revision(max(0, n.membership.applied.Load())))
	n.cache.cutAll()
}

// rejoin turns this process into a new node with an empty cache, which the others do not know until
// it joins.
func (n *Node) rejoin() {
	m := n.membership
	if applied := m.applied.Load(); applied >= 0 {
		n.logger.Warn("another node has fenced this one; joining again; was this process stopped " +
			"or cut off from the database?")
		n.cache.purge(keystore.Revision(applied))
	}
	m.lease.drop()
	m.acknowledged.Store(nil) // the new node has acknowledged nothing
	m.mu.Lock()
	defer m.mu.Unlock()
	former := m.row.former
	if m.row.joined {
		former = *m.incarnation.Load()
	}
	m.newIncarnation()
	m.row = ownRow{tried: true, former: former}
	m.mustRejoin = false
}

// ensureJoined writes this node's row, with the length of its leases, before the node takes a lease
// (docs/protocol.md, rule 1). A row whose write was not acknowledged does not count: a standby that
// takes over may not have it.
func (n *Node) ensureJoined() error {
	m := n.membership
	m.mu.Lock()
	done, former := m.row.joined, m.row.former
	m.row.tried = true
	m.mu.Unlock()
	if done {
		return nil
	}
	ctx, cancel := context.WithTimeout(n.running, QueryTimeout)
	defer cancel()
	length := n.settings.Load().Lease
	err := n.db.Join(ctx, keystore.Node{Incarnation: *m.incarnation.Load(),
		Address: hostAndProcess(), Lease: length, Former: former})
	if err != nil {
		return n.StoreFailed("joining the deployment", err)
	}
	m.mu.Lock()
	m.row = ownRow{tried: true, joined: true, lease: length, shows: length}
	m.mu.Unlock()
	if former != "" {
		n.inBackground(func(ctx context.Context) {
			if err := n.db.Remove(ctx, former); err != nil {
				_ = n.StoreFailed("removing this node's former row", err)
			}
		})
	}
	return nil
}

// confirm writes the node's row again, unchanged. If the database has been silent for a while, a
// standby may have taken over. A former primary that was stopped and has not noticed still answers
// reads, but with synchronous standbys it cannot acknowledge a write.
func (n *Node) confirm() error {
	ctx, cancel := context.WithTimeout(n.running, QueryTimeout)
	defer cancel()
	if err := n.db.Confirm(ctx, *n.membership.incarnation.Load()); err != nil {
		return n.StoreFailed("confirming that this server is still the primary", err)
	}
	return nil
}

// leaseLength returns the length of the next lease. The row, from which the other nodes read the
// length, must never show less than a lease that is in use. So a longer lease is written to the row
// before it is used, and a shorter one only after it has replaced the longer one.
func (n *Node) leaseLength() time.Duration {
	m, length := n.membership, n.settings.Load().Lease
	m.mu.Lock()
	defer m.mu.Unlock()
	row := &m.row
	if length != row.shows && !row.setting && length >= m.lease.length() {
		row.setting, row.shows, row.lease = true, 0, min(row.lease, length)
		incarnation := *m.incarnation.Load()
		n.inBackgroundLocked(func(ctx context.Context) {
			err := n.db.SetLease(ctx, incarnation, length)
			if err != nil {
				_ = n.StoreFailed("writing the new lease to this node's row", err)
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			if incarnation != *m.incarnation.Load() {
				return
			}
			if m.row.setting = false; err == nil {
				m.row.shows, m.row.lease = length, length
			}
		})
	}
	return min(length, row.lease)
}

// recordPeers records the other nodes' rows. It keeps the previous rows until the next renewal,
// which shows whether the new ones are from this history.
func (m *membership) recordPeers(nodes []keystore.Node) {
	m.peersBefore, m.peers = m.peers, make(map[string]keystore.Node, len(nodes))
	for _, other := range nodes {
		if other.Incarnation != *m.incarnation.Load() {
			m.peers[other.Incarnation] = other
		}
	}
}

// WriteTimeout limits a background write, which may wait for a standby.
const WriteTimeout = 10 * time.Second

// inBackground runs f in the background with [WriteTimeout], so that it does not delay renewals. It
// reports whether it started f: a closed node starts nothing.
func (n *Node) inBackground(f func(context.Context)) bool {
	n.membership.mu.Lock()
	defer n.membership.mu.Unlock()
	return n.inBackgroundLocked(f)
}

// inBackgroundLocked is inBackground for a caller that holds membership.mu.
func (n *Node) inBackgroundLocked(f func(context.Context)) bool {
	if n.membership.closed {
		return false
	}
	n.work.Go(func() {
		ctx, cancel := context.WithTimeout(n.running, WriteTimeout)
		defer cancel()
		f(ctx)
	})
	return true
}

// acknowledge tells the other nodes which revision this one has applied, and that it is running. It
// writes only if there are other nodes, and something is new or the last write is a sixth of a
// lease old.
func (n *Node) acknowledge(ctx context.Context, head keystore.Head, length time.Duration) {
	m := n.membership
	last := m.acknowledged.Load()
	alone := head.Nodes < 2 && len(m.peers) == 0
	if alone || last != nil && m.acknowledgedRevision == head.Revision &&
		head.Nodes == len(m.peers)+1 && n.clock.now().Sub(*last) < length/6 {
		return
	}
	if err := n.db.Acknowledge(ctx, *m.incarnation.Load(), head.Position); err != nil {
		// Revokes on other nodes wait longer. The next renewal tries again.
		_ = n.StoreFailed("acknowledging a change", err)
		return
	}
	now := n.clock.now()
	m.acknowledged.Store(&now)
	m.acknowledgedRevision = head.Revision
	nodes, err := n.db.Nodes(ctx)
	if err != nil {
		_ = n.StoreFailed("reading the nodes", err)
		return
	}
	m.recordPeers(nodes)
	m.fencer.fenceSilent(n, nodes, head.Epoch, now)
}

// keepRenewing renews several times per lease, and whenever the database reports that something may
// have changed.
func (n *Node) keepRenewing(ctx context.Context) {
	wait := n.settings.Load().Lease / 5
	for {
		// The jitter spreads nodes that started together.
		timer := time.NewTimer(time.Duration(float64(wait) * (0.9 + 0.2*rand.Float64())))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-n.db.Changed():
		case <-timer.C:
		}
		timer.Stop()
		wait = n.settings.Load().Lease / 5
		if err := n.Renew(ctx); err != nil {
			wait = min(wait, retryInterval)
		}
	}
}

// cutAfterLapse cuts running requests when the lease has expired without a renewal, because their
// keys may have been revoked. A revoke on another node waits for this lease plus a margin for
// clocks. cutAfterLapse waits for half of that margin first, so that a process that was stopped and
// continues can renew the lease instead.
func (n *Node) cutAfterLapse(ctx context.Context) {
	for {
		wait := n.membership.lease.remaining(n.clock.now())
		lapsed := wait == 0
		if lapsed {
			wait = time.Duration(clockRate * float64(n.settings.Load().Lease))
		}
		select {
		case <-ctx.Done():
			return
		case <-n.membership.lease.extended: // perhaps with an earlier end
			continue
		case <-time.After(wait):
		}
		if lapsed && !n.membership.lease.holds(n.clock.now()) {
			n.cache.cutAll()
		}
	}
}

// newIncarnation gives the node a new, globally unique identity.
func (m *membership) newIncarnation() {
	id := keystore.RandomBase62(22) // 131 bits
	m.incarnation.Store(&id)
}

// hostAndProcess returns the node's name for people.
func hostAndProcess() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}
