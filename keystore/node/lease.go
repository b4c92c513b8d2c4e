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
	// clockRate is how far the rate of any clock may be off from true time, as a fraction
	// (docs/protocol.md, rule 7).
	clockRate = 0.01
	// retryInterval is how soon a failed renewal is tried again.
	retryInterval = 500 * time.Millisecond
)

// A lease says until when what is cached may be trusted.
type lease struct {
	term atomic.Pointer[term] // nil: never held
}

// A term is what one renewal found out. What each request needs of it is kept in nanoseconds.
type term struct {
	databaseClock               // read at asked, by own clock, before the database was asked
	length        time.Duration // from asked on; zero: dropped
	ends          int64         // the same by the own clock as it can be set, in Unix nanoseconds
}

// at returns what the database's clock says at a reading of our own, in Unix nanoseconds, and
// whether the term covers it. The reading carries a monotonic one as time.Now returns it. It takes
// both clocks to say that it is covered: the monotonic one stops while a machine is suspended, and
// the other can be set.
func (t *term) at(own time.Time) (database int64, held bool) {
	passed := own.Sub(t.asked)
	return t.reads + int64(passed), passed < t.length && own.UnixNano() < t.ends
}

func (l *lease) holds(own time.Time) bool {
	t := l.term.Load()
	if t == nil {
		return false
	}
	_, held := t.at(own)
	return held
}

// extend begins the term of a renewal.
func (l *lease) extend(length time.Duration, r reading) {
	var before databaseClock
	if held := l.term.Load(); held != nil {
		before = held.databaseClock
	}
	l.term.Store(&term{before.follow(r), length, r.asked.Add(length).UnixNano()})
}

func (l *lease) drop() {
	if held := l.term.Load(); held != nil {
		l.term.Store(&term{databaseClock: held.databaseClock})
	}
}

// endsBy reports whether the lease holds at no time after t.
func (l *lease) endsBy(t time.Time) bool {
	held := l.term.Load()
	return held == nil || held.length == 0 || !held.asked.Add(held.length).After(t)
}

func (l *lease) remaining(now time.Time) time.Duration {
	if !l.holds(now) {
		return 0
	}
	held := l.term.Load()
	return max(0, held.length-now.Sub(held.asked))
}

// node is what this process is to the deployment (docs/protocol.md). What has no lock or atomic is
// the renewals' own, of which one runs at a time.
type membership struct {
	incarnation atomic.Pointer[string] // changes when the node has to join anew
	renewed     time.Time              // when the last renewal began
	epoch       string
	left        []string                          // epochs that were this node's before
	position    atomic.Pointer[keystore.Position] // up to which changes are applied
	// in a database that is not the one it was: it has to join anew
	stranger  bool
	lease     lease
	rate      rateCheck
	applied   atomic.Int64 // its revision; negative: nothing is cached yet
	commits   commitTimes
	histories atomic.Int64 // how often the database was found to be another one
	timeline  string       // of the database's server
	takeovers atomic.Int64 // how often that has changed
	// when, on the database's clock in Unix nanoseconds, it was last found to be another one
	lost      atomic.Int64
	directory atomic.Pointer[keystore.Directory]
	base      *baseDirectory // read whole, and not in use yet
	rereads   bool           // the directory has to be read whole
	imported  atomic.Bool
	standbys  atomic.Bool // commits wait for a standby
	replaced  atomic.Bool // ErrReplaced was logged, and no renewal has succeeded since

	acknowledged atomic.Pointer[time.Time] // the last Acknowledge
	// the others' rows, by incarnation, as this node has read them last
	peers       map[string]keystore.Node
	peersBefore map[string]keystore.Node // and before that
	others      janitor

	mu       sync.Mutex // of what follows
	row      ownRow
	renewing *renewal
	closed   bool

	failures atomic.Int32 // of renewals, in a row
}

// ownRow is what this node knows of its row. A write that was not acknowledged may have reached the
// row, and a failover may lose it again. So the node relies on neither: it uses the shortest lease
// that the row can show, and writes the row again.
type ownRow struct {
	former  string        // the incarnation before
	tried   bool          // to write one, of any incarnation
	joined  bool          // the database has acknowledged the row of this incarnation
	lease   time.Duration // the shortest that the row can show
	shows   time.Duration // the lease that the row shows for certain; zero: not certain
	setting bool          // a SetLease is on its way
}

// A history tells whether this node's writes are certain to be in the database still.
type history struct{ histories, takeovers int64 }

func (m *membership) history() history { return history{m.histories.Load(), m.takeovers.Load()} }

// patience is how long a renewal may take, after others have failed, until nobody waits for it any
// more.
const patience = 100 * time.Millisecond

// away reports whether the database does not answer at present, so that nobody need wait until its
// time is over: two renewals in a row have failed, and the one that runs gets no answer either. One
// failure says little: a process that was stopped has it when it goes on.
func (m *membership) away(now time.Time) bool {
	if m.failures.Load() < 2 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.renewing != nil && now.Sub(m.renewing.begun) > patience
}

// close ends trust in what is cached, and all renewals but one that runs.
func (m *membership) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
}

// A renewal is one run of renew, for all who want one while it runs.
type renewal struct {
	begun time.Time
	done  chan struct{}
	err   error
}

// renew asks for the head of the change log, applies what is new, and only then extends the lease,
// from a clock reading taken before it asked. Whoever calls while one is running shares it; should
// that one fail, it may have begun before this process was stopped or the database went away, and
// is tried once more.
func (n *Node) Renew(ctx context.Context) error {
	shared, err := n.joinRenewal(ctx)
	if shared && err != nil && ctx.Err() == nil {
		_, err = n.joinRenewal(ctx)
	}
	return err
}

// renewAnew is renew with a renewal that begins after the call. A shared renewal may have asked the
// database earlier.
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

// errAgain says that the renewal has to start again, because its reads are outdated or incomplete.
var errAgain = errors.New("the database changed while it was read")

func (n *Node) renewOnce() (err error) {
	for range 3 {
		if err = n.readDirectory(); err != nil {
			return err
		}
		if err = n.joined(); err != nil {
			return err
		}
		if err = n.renewFrom(); !errors.Is(err, errAgain) {
			return err
		}
	}
	return n.StoreFailed("renewing the lease", err)
}

// askTimeout bounds one renewal, which never waits for a standby.
func (n *Node) askTimeout() time.Duration {
	return min(n.settings.Load().Lease/3, QueryTimeout)
}

// renewFrom is one attempt at a renewal. Its lease counts from the clock reading that it begins
// with.
func (n *Node) renewFrom() error {
	m := n.membership
	ctx, cancel := context.WithTimeout(context.Background(), n.askTimeout())
	defer cancel()
	length := n.leaseLength()
	head, at, err := n.askHead(ctx)
	if err != nil {
		return err
	}
	if err := n.checkRate(at, length); err != nil {
		m.lease.drop()
		return n.StoreFailed("renewing the lease", err)
	}
	if head.Diverged || head.Epoch != m.epoch {
		if err := n.acceptAnother(head); err != nil {
			return err
		}
	}
	if m.stranger || head.Node != keystore.NodeActive {
		n.rejoin()
		return errAgain
	}
	//fault: head.Silent = head.Silent && !ablated("silence-without-write")
	if head.Silent {
		if err := n.confirm(); err != nil {
			return err
		}
		return errAgain
	}
	if err := n.followTimeline(head); err != nil {
		return err
	}
	//fault: if ablated("ack-before-purge") { n.acknowledge(ctx, head, length) }
	//fault: if ablated("lease-before-apply") { m.lease.extend(length, at) }
	if err := n.catchUp(ctx, head); err != nil {
		if !errors.Is(err, errAgain) {
			err = n.StoreFailed("reading the change log", err)
		}
		return err
	}
	m.imported.Store(head.Imported)
	m.standbys.Store(head.Standbys)
	//fault: if ablated("lease-from-reply") { at.asked = n.clock.now() }
	m.lease.extend(length, at)
	m.renewed = at.asked
	m.commits.seen(head.Revision, at.replied)
	//fault: hold("acknowledge")
	n.acknowledge(ctx, head, length)
	return nil
}

// askHead reads the head of the change log, and its time against our own.
func (n *Node) askHead(ctx context.Context) (keystore.Head, reading, error) {
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

// distrust drops the lease and the cache, and cuts running requests.
func (n *Node) distrust() {
	if t := n.membership.lease.term.Load(); t == nil || t.length == 0 {
		return // it did before
	}
	n.membership.lease.drop()
	n.cache.purge(keystore.Revision(max(0, n.membership.applied.Load())))
	n.cache.cutAll()
}

// rejoin makes this process a new node with an empty cache, unknown to the others until it joins.
func (n *Node) rejoin() {
	m := n.membership
	if applied := m.applied.Load(); applied >= 0 {
		n.logger.Warn("this node was given up by another one and joins anew; was it stopped, or " +
			"cut off from the database?")
		n.cache.purge(keystore.Revision(applied))
	}
	m.lease.drop()
	m.acknowledged.Store(nil) // it has told nobody anything
	m.mu.Lock()
	defer m.mu.Unlock()
	former := m.row.former
	if m.row.joined {
		former = *m.incarnation.Load()
	}
	m.reincarnate()
	m.row = ownRow{tried: true, former: former}
	m.stranger = false
}

// joined announces this node and the length of its leases to the others, before it holds a lease. A
// row whose write was not acknowledged does not count: a standby that takes over may not have it.
func (n *Node) joined() error {
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
		Address: hostAndProcess(),
		Lease:   length, Former: former})
	if err != nil {
		return n.StoreFailed("joining the deployment", err)
	}
	m.mu.Lock()
	m.row = ownRow{tried: true, joined: true, lease: length, shows: length}
	m.mu.Unlock()
	if former != "" {
		n.afterwards(func(ctx context.Context) { // nobody needs to wait for it
			if err := n.db.Remove(ctx, former); err != nil {
				_ = n.StoreFailed("removing this node's former row", err)
			}
		})
	}
	return nil
}

// confirm writes the node's row again, unchanged. If the database has not answered for a while, a
// standby may have taken over. A former primary that was stopped and does not know this yet still
// answers reads, but with synchronous standbys it cannot acknowledge a write.
func (n *Node) confirm() error {
	ctx, cancel := context.WithTimeout(n.running, QueryTimeout)
	defer cancel()
	if err := n.db.Confirm(ctx, *n.membership.incarnation.Load()); err != nil {
		return n.StoreFailed("confirming that this server is still the primary", err)
	}
	return nil
}

// leaseLength returns how long the next lease may be. The others, who read it from the node's row,
// must never take it for shorter than a lease that is held: a longer one is told before it is used,
// and a shorter one when none that is longer can be held any more.
func (n *Node) leaseLength() time.Duration {
	m, length := n.membership, n.settings.Load().Lease
	m.mu.Lock()
	defer m.mu.Unlock()
	row := &m.row
	if length != row.shows && !row.setting &&
		(length > row.lease || m.lease.endsBy(m.renewed.Add(length))) {
		row.setting, row.shows, row.lease = true, 0, min(row.lease, length)
		incarnation := *m.incarnation.Load()
		n.afterwardsLocked(func(ctx context.Context) {
			err := n.db.SetLease(ctx, incarnation, length)
			if err != nil {
				_ = n.StoreFailed("announcing the new lease to the other nodes", err)
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

// meet records the other nodes' rows. It keeps the previous rows until the next renewal, which
// tells whether the new ones are of this history.
func (m *membership) meet(nodes []keystore.Node) {
	m.peersBefore, m.peers = m.peers, make(map[string]keystore.Node, len(nodes))
	for _, other := range nodes {
		if other.Incarnation != *m.incarnation.Load() {
			m.peers[other.Incarnation] = other
		}
	}
}

// afterwardsTimeout bounds a background write, which may wait for a standby.
const WriteTimeout = 10 * time.Second

// afterwards runs f, which may wait for a standby, in the background for at most afterwardsTimeout,
// so that it delays no renewal. It reports whether it started f: a closed node starts nothing.
func (n *Node) afterwards(f func(context.Context)) bool {
	n.membership.mu.Lock()
	defer n.membership.mu.Unlock()
	return n.afterwardsLocked(f)
}

// afterwardsLocked is afterwards for a caller that holds node.mu.
func (n *Node) afterwardsLocked(f func(context.Context)) bool {
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

// acknowledge tells the other nodes, if there are any, what this one has applied, and that it
// lives.
func (n *Node) acknowledge(ctx context.Context, head keystore.Head, length time.Duration) {
	m := n.membership
	last := m.acknowledged.Load()
	if head.Nodes < 2 && len(m.peers) == 0 || last != nil && m.others.applied == head.Revision &&
		head.Nodes == len(m.peers)+1 && n.clock.now().Sub(*last) < length/6 {
		return
	}
	if err := n.db.Acknowledge(ctx, *m.incarnation.Load(), head.Position); err != nil {
		// a revoke elsewhere waits longer; the next renewal tries again
		_ = n.StoreFailed("acknowledging a change", err)
		return
	}
	now := n.clock.now()
	m.acknowledged.Store(&now)
	m.others.applied = head.Revision
	nodes, err := n.db.Nodes(ctx)
	if err != nil {
		_ = n.StoreFailed("reading the nodes", err)
		return
	}
	m.meet(nodes)
	m.others.tidy(n, nodes, head.Epoch, now)
}

// keepUp renews a few times a lease, and whenever the database says that something may have
// changed.
func (n *Node) keepUp(ctx context.Context) {
	wait := n.settings.Load().Lease / 5
	for {
		// nodes that started together drift apart
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

// cutLapsed cuts what runs when the lease has run out and nothing has renewed it, for its key may
// have died. A revoke elsewhere waits for this node for as long as the lease and a margin for
// clocks. Half of the margin is for a renewal: a process that was stopped begins one when it goes
// on.
func (n *Node) cutLapsed(ctx context.Context) {
	for {
		left := n.membership.lease.remaining(n.clock.now())
		lapsed := left == 0
		if lapsed {
			left = time.Duration(clockRate * float64(n.settings.Load().Lease))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(left):
		}
		if lapsed && !n.membership.lease.holds(n.clock.now()) {
			n.cache.cutAll()
		}
	}
}

// reincarnate gives the node an identity that no other start of any process has had.
func (m *membership) reincarnate() {
	id := keystore.RandomBase62(22) // 131 bits
	m.incarnation.Store(&id)
}

// hostAndProcess is a node's name for people.
func hostAndProcess() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}
