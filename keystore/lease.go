package keystore

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
type node struct {
	incarnation atomic.Pointer[string] // changes when the node has to join anew
	renewed     time.Time              // when the last renewal began
	epoch       string
	left        []string                 // epochs that were this node's before
	position    atomic.Pointer[Position] // up to which changes are applied
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
	directory atomic.Pointer[Directory]
	base      *baseDirectory // read whole, and not in use yet
	rereads   bool           // the directory has to be read whole
	imported  atomic.Bool
	standbys  atomic.Bool // commits wait for a standby
	replaced  atomic.Bool // ErrReplaced was logged, and no renewal has succeeded since

	acknowledged atomic.Pointer[time.Time] // the last Acknowledge
	// the others' rows, by incarnation, as this node has read them last
	peers       map[string]Node
	peersBefore map[string]Node // and before that
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

func (n *node) history() history { return history{n.histories.Load(), n.takeovers.Load()} }

// patience is how long a renewal may take, after others have failed, until nobody waits for it any
// more.
const patience = 100 * time.Millisecond

// away reports whether the database does not answer at present, so that nobody need wait until its
// time is over: two renewals in a row have failed, and the one that runs gets no answer either. One
// failure says little: a process that was stopped has it when it goes on.
func (n *node) away(now time.Time) bool {
	if n.failures.Load() < 2 {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.renewing != nil && now.Sub(n.renewing.begun) > patience
}

// close ends trust in what is cached, and all renewals but one that runs.
func (n *node) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
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
func (k *Keystore) renew(ctx context.Context) error {
	shared, err := k.joinRenewal(ctx)
	if shared && err != nil && ctx.Err() == nil {
		_, err = k.joinRenewal(ctx)
	}
	return err
}

// renewAnew is renew with a renewal that begins after the call. A shared renewal may have asked the
// database earlier.
func (k *Keystore) renewAnew(ctx context.Context) error {
	shared, err := k.joinRenewal(ctx)
	if shared && ctx.Err() == nil {
		_, err = k.joinRenewal(ctx)
	}
	return err
}

func (k *Keystore) joinRenewal(ctx context.Context) (shared bool, err error) {
	n := k.node
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return false, errClosed
	}
	r := n.renewing
	if shared = r != nil; !shared {
		r = &renewal{begun: k.clock.now(), done: make(chan struct{})}
		n.renewing = r
		k.work.Go(func() {
			r.err = k.renewOnce()
			if n.failures.Add(1); r.err == nil {
				n.failures.Store(0)
			}
			n.mu.Lock()
			n.renewing = nil
			n.mu.Unlock()
			close(r.done)
		})
	}
	n.mu.Unlock()
	select {
	case <-r.done:
		return shared, r.err
	case <-ctx.Done():
		return shared, ctx.Err()
	}
}

// errAgain says that the renewal has to start again, because its reads are outdated or incomplete.
var errAgain = errors.New("the database changed while it was read")

func (k *Keystore) renewOnce() (err error) {
	for range 3 {
		if err = k.readDirectory(); err != nil {
			return err
		}
		if err = k.joined(); err != nil {
			return err
		}
		if err = k.renewFrom(); !errors.Is(err, errAgain) {
			return err
		}
	}
	return k.storeFailed("renewing the lease", err)
}

// askTimeout bounds one renewal, which never waits for a standby.
func (k *Keystore) askTimeout() time.Duration {
	return min(k.settings.Load().Lease/3, loadTimeout)
}

// renewFrom is one attempt at a renewal. Its lease counts from the clock reading that it begins
// with.
func (k *Keystore) renewFrom() error {
	n := k.node
	ctx, cancel := context.WithTimeout(context.Background(), k.askTimeout())
	defer cancel()
	length := k.leaseLength()
	head, at, err := k.askHead(ctx)
	if err != nil {
		return err
	}
	if err := k.checkRate(at, length); err != nil {
		n.lease.drop()
		return k.storeFailed("renewing the lease", err)
	}
	if head.Diverged || head.Epoch != n.epoch {
		if err := k.acceptAnother(head); err != nil {
			return err
		}
	}
	if n.stranger || head.Node != NodeActive {
		k.rejoin()
		return errAgain
	}
	if head.Silent && !ablated("silence-without-write") {
		if err := k.confirm(); err != nil {
			return err
		}
		return errAgain
	}
	if err := k.followTimeline(head); err != nil {
		return err
	}
	if ablated("ack-before-purge") {
		k.acknowledge(ctx, head, length)
	}
	if ablated("lease-before-apply") {
		n.lease.extend(length, at)
	}
	if err := k.catchUp(ctx, head); err != nil {
		if !errors.Is(err, errAgain) {
			err = k.storeFailed("reading the change log", err)
		}
		return err
	}
	n.imported.Store(head.Imported)
	n.standbys.Store(head.Standbys)
	if ablated("lease-from-reply") {
		at.asked = k.clock.now()
	}
	n.lease.extend(length, at)
	n.renewed = at.asked
	n.commits.seen(head.Revision, at.replied)
	hold("acknowledge")
	k.acknowledge(ctx, head, length)
	return nil
}

// askHead reads the head of the change log, and its time against our own.
func (k *Keystore) askHead(ctx context.Context) (Head, reading, error) {
	n := k.node
	at := reading{asked: k.clock.now()}
	var position Position
	if applied := *n.position.Load(); applied.Revision >= 0 {
		position = applied
	}
	head, err := k.db.Renew(ctx, *n.incarnation.Load(), position)
	if err != nil {
		if errors.Is(err, ErrReplaced) {
			k.distrust()
		}
		return head, at, k.storeFailed("renewing the lease", err)
	}
	n.replaced.Store(false)
	at.replied, at.database = k.clock.now(), head.Now
	if behind := head.Noted.Sub(head.Now); n.lease.term.Load() == nil && behind > 0 {
		at.database = head.Noted
		if behind > time.Second {
			k.logger.Warn("database clock was set back; keys expire by the later time until it "+
				"catches up", slog.Duration("behind", behind))
		}
	}
	hold("renew.reply")
	return head, at, nil
}

// distrust drops the lease and the cache, and cuts running requests.
func (k *Keystore) distrust() {
	if t := k.node.lease.term.Load(); t == nil || t.length == 0 {
		return // it did before
	}
	k.node.lease.drop()
	k.cache.purge(Revision(max(0, k.node.applied.Load())))
	k.cache.cutAll()
}

// rejoin makes this process a new node with an empty cache, unknown to the others until it joins.
func (k *Keystore) rejoin() {
	n := k.node
	if applied := n.applied.Load(); applied >= 0 {
		k.logger.Warn("this node was given up by another one and joins anew; was it stopped, or " +
			"cut off from the database?")
		k.cache.purge(Revision(applied))
	}
	n.lease.drop()
	n.acknowledged.Store(nil) // it has told nobody anything
	n.mu.Lock()
	defer n.mu.Unlock()
	former := n.row.former
	if n.row.joined {
		former = *n.incarnation.Load()
	}
	n.reincarnate()
	n.row = ownRow{tried: true, former: former}
	n.stranger = false
}

// joined announces this node and the length of its leases to the others, before it holds a lease. A
// row whose write was not acknowledged does not count: a standby that takes over may not have it.
func (k *Keystore) joined() error {
	n := k.node
	n.mu.Lock()
	done, former := n.row.joined, n.row.former
	n.row.tried = true
	n.mu.Unlock()
	if done {
		return nil
	}
	ctx, cancel := context.WithTimeout(k.running, loadTimeout)
	defer cancel()
	length := k.settings.Load().Lease
	err := k.db.Join(ctx, Node{Incarnation: *n.incarnation.Load(), Address: hostAndProcess(),
		Lease: length, Former: former})
	if err != nil {
		return k.storeFailed("joining the deployment", err)
	}
	n.mu.Lock()
	n.row = ownRow{tried: true, joined: true, lease: length, shows: length}
	n.mu.Unlock()
	if former != "" {
		k.afterwards(func(ctx context.Context) { // nobody needs to wait for it
			if err := k.db.Remove(ctx, former); err != nil {
				_ = k.storeFailed("removing this node's former row", err)
			}
		})
	}
	return nil
}

// confirm writes the node's row again, unchanged. If the database has not answered for a while, a
// standby may have taken over. A former primary that was stopped and does not know this yet still
// answers reads, but with synchronous standbys it cannot acknowledge a write.
func (k *Keystore) confirm() error {
	ctx, cancel := context.WithTimeout(k.running, loadTimeout)
	defer cancel()
	if err := k.db.Confirm(ctx, *k.node.incarnation.Load()); err != nil {
		return k.storeFailed("confirming that this server is still the primary", err)
	}
	return nil
}

// leaseLength returns how long the next lease may be. The others, who read it from the node's row,
// must never take it for shorter than a lease that is held: a longer one is told before it is used,
// and a shorter one when none that is longer can be held any more.
func (k *Keystore) leaseLength() time.Duration {
	n, length := k.node, k.settings.Load().Lease
	n.mu.Lock()
	defer n.mu.Unlock()
	row := &n.row
	if length != row.shows && !row.setting &&
		(length > row.lease || n.lease.endsBy(n.renewed.Add(length))) {
		row.setting, row.shows, row.lease = true, 0, min(row.lease, length)
		incarnation := *n.incarnation.Load()
		k.afterwardsLocked(func(ctx context.Context) {
			err := k.db.SetLease(ctx, incarnation, length)
			if err != nil {
				_ = k.storeFailed("announcing the new lease to the other nodes", err)
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			if incarnation != *n.incarnation.Load() {
				return
			}
			if n.row.setting = false; err == nil {
				n.row.shows, n.row.lease = length, length
			}
		})
	}
	return min(length, row.lease)
}

// meet records the other nodes' rows. It keeps the previous rows until the next renewal, which
// tells whether the new ones are of this history.
func (n *node) meet(nodes []Node) {
	n.peersBefore, n.peers = n.peers, make(map[string]Node, len(nodes))
	for _, other := range nodes {
		if other.Incarnation != *n.incarnation.Load() {
			n.peers[other.Incarnation] = other
		}
	}
}

// afterwardsTimeout bounds a background write, which may wait for a standby.
const afterwardsTimeout = 10 * time.Second

// afterwards runs f, which may wait for a standby, in the background for at most afterwardsTimeout,
// so that it delays no renewal. It reports whether it started f: a closed node starts nothing.
func (k *Keystore) afterwards(f func(context.Context)) bool {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	return k.afterwardsLocked(f)
}

// afterwardsLocked is afterwards for a caller that holds node.mu.
func (k *Keystore) afterwardsLocked(f func(context.Context)) bool {
	if k.node.closed {
		return false
	}
	k.work.Go(func() {
		ctx, cancel := context.WithTimeout(k.running, afterwardsTimeout)
		defer cancel()
		f(ctx)
	})
	return true
}

// acknowledge tells the other nodes, if there are any, what this one has applied, and that it
// lives.
func (k *Keystore) acknowledge(ctx context.Context, head Head, length time.Duration) {
	n := k.node
	last := n.acknowledged.Load()
	if head.Nodes < 2 && len(n.peers) == 0 || last != nil && n.others.applied == head.Revision &&
		head.Nodes == len(n.peers)+1 && k.clock.now().Sub(*last) < length/6 {
		return
	}
	if err := k.db.Acknowledge(ctx, *n.incarnation.Load(), head.Position); err != nil {
		// a revoke elsewhere waits longer; the next renewal tries again
		_ = k.storeFailed("acknowledging a change", err)
		return
	}
	now := k.clock.now()
	n.acknowledged.Store(&now)
	n.others.applied = head.Revision
	nodes, err := k.db.Nodes(ctx)
	if err != nil {
		_ = k.storeFailed("reading the nodes", err)
		return
	}
	n.meet(nodes)
	n.others.tidy(k, nodes, head.Epoch, now)
}

// keepUp renews a few times a lease, and whenever the database says that something may have
// changed.
func (k *Keystore) keepUp(ctx context.Context) {
	wait := k.settings.Load().Lease / 5
	for {
		// nodes that started together drift apart
		timer := time.NewTimer(time.Duration(float64(wait) * (0.9 + 0.2*rand.Float64())))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-k.db.Changed():
		case <-timer.C:
		}
		timer.Stop()
		wait = k.settings.Load().Lease / 5
		if err := k.renew(ctx); err != nil {
			wait = min(wait, retryInterval)
		}
	}
}

// cutLapsed cuts what runs when the lease has run out and nothing has renewed it, for its key may
// have died. A revoke elsewhere waits for this node for as long as the lease and a margin for
// clocks. Half of the margin is for a renewal: a process that was stopped begins one when it goes
// on.
func (k *Keystore) cutLapsed(ctx context.Context) {
	for {
		left := k.node.lease.remaining(k.clock.now())
		lapsed := left == 0
		if lapsed {
			left = time.Duration(clockRate * float64(k.settings.Load().Lease))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(left):
		}
		if lapsed && !k.node.lease.holds(k.clock.now()) {
			k.cache.cutAll()
		}
	}
}

// storeFailed counts a failure of the database and returns it with the operation. It logs failures
// at a limited rate, and [ErrReplaced] once.
func (k *Keystore) storeFailed(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	k.counters.storeErrors.Add(1)
	now, last := time.Now().UnixNano(), k.loggedFailure.Load()
	log := now-last >= int64(time.Second) && k.loggedFailure.CompareAndSwap(last, now)
	if errors.Is(err, ErrReplaced) {
		log = !k.node.replaced.Swap(true)
	}
	if log {
		k.logger.Error("the key database failed", slog.String("while", doing),
			slog.Any("error", err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// reincarnate gives the node an identity that no other start of any process has had.
func (n *node) reincarnate() {
	id := randomBase62(22) // 131 bits
	n.incarnation.Store(&id)
}

// hostAndProcess is a node's name for people.
func hostAndProcess() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}
