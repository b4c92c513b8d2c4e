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
	// clockRate is how far the rate of any clock may be off from true time, as a fraction (protocol.md A2).
	clockRate = 0.01
	// retryInterval is how soon a failed renewal is tried again.
	retryInterval = 500 * time.Millisecond
)

// surelyOver is how long to wait on one's own clock until a lease of length l, running on another, has run out.
func surelyOver(l time.Duration) time.Duration {
	if ablated("no-drift-margin") {
		return l
	}
	return time.Duration(float64(l)*(1+clockRate)/(1-clockRate)) + time.Millisecond
}

// A lease says until when what is cached may be trusted.
type lease struct {
	term atomic.Pointer[term] // nil: never held
}

// A term is what one renewal found out. What each request needs of it is kept in nanoseconds.
type term struct {
	asked    time.Time     // own clock, before the database was asked
	length   time.Duration // from then on; zero: dropped
	ends     int64         // the same by the own clock as it can be set, in Unix nanoseconds
	database int64         // the database's clock at asked, in Unix nanoseconds
}

// at returns what the database's clock says at a reading of our own, in Unix nanoseconds, and whether the term covers it. The reading carries
// a monotonic one as time.Now returns it. It takes both clocks to say that it is covered: the monotonic one stops while a machine is suspended,
// and the other can be set (protocol.md section 6).
func (t *term) at(own time.Time) (database int64, held bool) {
	passed := own.Sub(t.asked)
	return t.database + int64(passed), passed < t.length && own.UnixNano() < t.ends
}

func (l *lease) holds(own time.Time) bool {
	t := l.term.Load()
	if t == nil {
		return false
	}
	_, held := t.at(own)
	return held
}

// extend begins the term of a renewal. The database's clock is taken to be where it was thought to be, as far as the new reading lets it:
// it was taken at some moment between asked and replied.
func (l *lease) extend(length time.Duration, r reading) {
	database := r.database.UnixNano()
	if held := l.term.Load(); held != nil {
		thought, _ := held.at(r.asked)
		database = min(max(thought, database-int64(r.replied.Sub(r.asked))), database)
	}
	l.term.Store(&term{asked: r.asked, length: length, ends: r.asked.Add(length).UnixNano(), database: database})
}

func (l *lease) drop() {
	if held := l.term.Load(); held != nil {
		l.term.Store(&term{asked: held.asked, database: held.database})
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

// node is what this process is to the deployment: protocol.md section 4.
type node struct {
	incarnation atomic.Pointer[string] // changes when the node has to join anew
	declared    time.Duration          // the lease the others know of
	renewed     time.Time              // when the last renewal began
	epoch       string
	mark        string // of the revision that is applied
	stranger    bool   // in a database that is not the one it was: it has to join anew
	lease       lease
	rate        rateCheck
	applied     atomic.Int64 // revision up to which changes are applied; negative: nothing is cached yet
	histories   atomic.Int64 // how often the database was found to be another one
	directory   atomic.Pointer[Directory]
	imported    atomic.Bool
	replaced    atomic.Bool // ErrReplaced was logged, and no renewal has succeeded since

	acknowledged atomic.Pointer[time.Time] // the last Acknowledge
	others       janitor

	mu       sync.Mutex
	renewing *renewal
	closed   bool

	failures atomic.Int32 // of renewals, in a row
}

// patience is how long a renewal may take, after others have failed, until nobody waits for it any more.
const patience = 100 * time.Millisecond

// away reports whether the database does not answer at present, so that nobody need wait until its time is over: two renewals in a row have failed,
// and the one that runs gets no answer either. One failure says little: a process that was stopped has it when it goes on.
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

// renew asks for the head of the change log, applies what is new, and only then extends the lease, from a clock
// reading taken before it asked. Whoever calls while one is running shares it; should that one fail, it may have begun before this process was
// stopped or the database went away, and is tried once more.
func (k *Keystore) renew(ctx context.Context) error {
	shared, err := k.joinRenewal(ctx)
	if shared && err != nil && ctx.Err() == nil {
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

func (k *Keystore) renewOnce() error {
	n := k.node
	ctx, cancel := context.WithTimeout(context.Background(), min(k.settings.Load().Lease/3, loadTimeout))
	defer cancel()
	length, err := k.leaseLength(ctx)
	if err != nil {
		return err
	}
	head, at, err := k.askHead(ctx)
	if err != nil {
		return err
	}
	if err := k.checkRate(at, length); err != nil {
		n.lease.drop()
		return k.storeFailed("renewing the lease", err)
	}
	length = n.rate.lease(length)
	if head.Diverged || head.Epoch != n.epoch {
		if err := k.acceptAnother(head); err != nil {
			return err
		}
	}
	if n.stranger || head.Node != NodeActive {
		if err := k.rejoin(ctx, length); err != nil {
			return err
		}
		if head, at, err = k.askHead(ctx); err != nil {
			return err
		}
	}
	if ablated("ack-before-purge") {
		k.acknowledge(ctx, head, length)
	}
	if ablated("lease-before-apply") {
		n.lease.extend(length, at)
	}
	if err := k.catchUp(ctx, head); err != nil {
		return k.storeFailed("reading the change log", err)
	}
	n.imported.Store(head.Imported)
	if ablated("lease-from-reply") {
		at.asked = k.clock.now()
	}
	n.lease.extend(length, at)
	n.renewed = at.asked
	hold("acknowledge")
	k.acknowledge(ctx, head, length)
	return nil
}

// askHead reads the head of the change log, and its time against our own.
func (k *Keystore) askHead(ctx context.Context) (Head, reading, error) {
	n := k.node
	at := reading{asked: k.clock.now()}
	var position Position
	if applied := Revision(n.applied.Load()); applied >= 0 {
		position = Position{applied, n.mark}
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
	hold("renew.reply")
	return head, at, nil
}

// distrust drops the lease, all that is cached, and what runs.
func (k *Keystore) distrust() {
	k.node.lease.drop()
	k.cache.purge(Revision(max(0, k.node.applied.Load())))
	k.cache.cutAll()
}

// rejoin makes this process a node that no other has given up or knows of, with nothing cached.
func (k *Keystore) rejoin(ctx context.Context, length time.Duration) error {
	n := k.node
	if applied := n.applied.Load(); applied >= 0 {
		k.logger.Warn("this node was given up by another one and joins anew; was it stopped, or cut off from the database?")
		k.cache.purge(Revision(applied))
	}
	n.lease.drop()
	n.acknowledged.Store(nil) // it has told nobody anything
	former := *n.incarnation.Load()
	n.reincarnate()
	if err := k.declare(ctx, length); err != nil {
		return err
	}
	if err := k.db.Remove(ctx, former); err != nil { // nobody needs to wait for it
		_ = k.storeFailed("removing what this node was before", err)
	}
	n.stranger = false
	return nil
}

// leaseLength returns how long the next lease may be. The others, who read it from the node's row, must never take it for shorter than
// a lease that is held: a longer one is declared before it is used, and a shorter one when none that is longer can be held any more.
func (k *Keystore) leaseLength(ctx context.Context) (time.Duration, error) {
	n, length := k.node, k.settings.Load().Lease
	if length < n.declared && !n.lease.endsBy(n.renewed.Add(length)) || length == n.declared {
		return length, nil
	}
	if n.declared == 0 {
		return length, k.declare(ctx, length)
	}
	if err := k.db.SetLease(ctx, *n.incarnation.Load(), length); err != nil {
		_ = k.storeFailed("telling the others of another lease", err)
		return min(length, n.declared), nil
	}
	n.declared = length
	return length, nil
}

// declare tells the others of this node and how long its leases are, before it holds one.
func (k *Keystore) declare(ctx context.Context, length time.Duration) error {
	if err := k.db.Join(ctx, Node{Incarnation: *k.node.incarnation.Load(), Address: hostAndProcess(), Lease: length}); err != nil {
		return k.storeFailed("joining the deployment", err)
	}
	k.node.declared = length
	return nil
}

// acknowledge tells the other nodes, if there are any, what this one has applied, and that it lives.
func (k *Keystore) acknowledge(ctx context.Context, head Head, length time.Duration) {
	n := k.node
	last := n.acknowledged.Load()
	if head.Nodes < 2 || last != nil && n.others.applied == head.Revision && k.clock.now().Sub(*last) < length/6 {
		return
	}
	if err := k.db.Acknowledge(ctx, *n.incarnation.Load(), head.Revision); err != nil {
		_ = k.storeFailed("acknowledging a change", err) // a revoke elsewhere waits longer; the next renewal tries again
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
	n.others.tidy(ctx, k, nodes, now)
}

// keepUp renews a few times a lease, and whenever the database says that something may have changed.
func (k *Keystore) keepUp(ctx context.Context) {
	wait := k.settings.Load().Lease / 5
	for {
		timer := time.NewTimer(time.Duration(float64(wait) * (0.9 + 0.2*rand.Float64()))) // nodes that started together drift apart
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

// cutLapsed cuts what runs when the lease has run out and nothing has renewed it, for its key may have died. A revoke elsewhere waits for
// this node for as long as the lease and a margin for clocks. Half of the margin is for a renewal: a process that was stopped begins one when it goes on.
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

// storeFailed counts a failure of the database, logs it, though not each of a thousand a second and [ErrReplaced] once, and returns it with
// what was being done.
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
		k.logger.Error("the key database failed", slog.String("while", doing), slog.Any("error", err))
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
