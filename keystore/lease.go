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
	return time.Duration(float64(l)*(1+clockRate)/(1-clockRate)) + time.Millisecond
}

// A lease says until when what is cached may be trusted.
type lease struct {
	until atomic.Pointer[time.Time] // with a monotonic reading
}

// holds reports whether the lease covers now, which carries a monotonic reading as time.Now returns it. It takes both clocks to
// say so: the monotonic one stops while a machine is suspended, and the other can be set (protocol.md section 6).
func (l *lease) holds(now time.Time) bool {
	until := l.until.Load()
	return until != nil && now.Before(*until) && now.UnixNano() < until.UnixNano()
}

// extend never shortens.
func (l *lease) extend(until time.Time) {
	if held := l.until.Load(); held == nil || held.Before(until) || held.UnixNano() > until.UnixNano() {
		l.until.Store(&until)
	}
}

func (l *lease) drop() { l.until.Store(nil) }

// endsBy reports whether the lease holds at no time after t.
func (l *lease) endsBy(t time.Time) bool {
	until := l.until.Load()
	return until == nil || !until.After(t)
}

func (l *lease) remaining(now time.Time) time.Duration {
	if !l.holds(now) {
		return 0
	}
	return l.until.Load().Sub(now)
}

// node is what this process is to the deployment: protocol.md section 4.
type node struct {
	incarnation atomic.Pointer[string] // changes when the node has to join anew
	declared    time.Duration          // the lease the others know of
	renewed     time.Time              // when the last renewal began
	epoch       string
	lease       lease
	applied     atomic.Int64 // revision up to which changes are applied; negative: nothing is cached yet
	directory   atomic.Pointer[directory]
	imported    atomic.Bool

	acknowledged atomic.Pointer[time.Time] // the last Acknowledge
	others       janitor

	mu       sync.Mutex
	renewing *renewal
	closed   bool
}

// close ends trust in what is cached, and all renewals but one that runs.
func (n *node) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
}

// A renewal is one run of renew, for all who want one while it runs.
type renewal struct {
	done chan struct{}
	err  error
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
		r = &renewal{done: make(chan struct{})}
		n.renewing = r
		k.work.Go(func() {
			r.err = k.renewOnce()
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
	begun := time.Now()
	head, err := k.db.Renew(ctx, *n.incarnation.Load())
	if err != nil {
		return k.storeFailed("renewing the lease", err)
	}
	switch {
	case head.Epoch != n.epoch || head.Revision < Revision(n.applied.Load()):
		if n.applied.Load() >= 0 {
			k.logger.Error("the database is not the one it was: all that was cached is dropped",
				slog.Int64("revision_before", n.applied.Load()), slog.Int64("revision", int64(head.Revision)))
		}
		n.lease.drop()
		if err := k.adopt(ctx); err != nil {
			return err
		}
	case head.Node != NodeActive:
		if n.applied.Load() >= 0 {
			k.logger.Warn("this node was given up by another one and joins anew; was it stopped, or cut off from the database?")
		}
		n.lease.drop()
		k.cache.purge(Revision(n.applied.Load()))
		former := *n.incarnation.Load()
		n.reincarnate()
		if err := k.declare(ctx, length); err != nil {
			return err
		}
		if err := k.db.Remove(ctx, former); err != nil { // nobody needs to wait for it
			_ = k.storeFailed("removing what this node was before", err)
		}
		begun = time.Now()
		if head, err = k.db.Renew(ctx, *n.incarnation.Load()); err != nil {
			return k.storeFailed("renewing the lease", err)
		}
	}
	if err := k.catchUp(ctx, head); err != nil {
		return k.storeFailed("reading the change log", err)
	}
	n.imported.Store(head.Imported)
	n.lease.extend(begun.Add(length))
	n.renewed = begun
	k.acknowledge(ctx, head, length)
	return nil
}

// leaseLength returns how long the next lease may be. The others, who read it from the node's row, must never take it for shorter than
// a lease that is held: a longer one is declared before it is used, and a shorter one when none that is longer can be held any more.
func (k *Keystore) leaseLength(ctx context.Context) (time.Duration, error) {
	n, length := k.node, k.settings.Load().Lease
	if length < n.declared && !n.lease.endsBy(n.renewed.Add(length)) || length == n.declared {
		return length, nil
	}
	if err := k.declare(ctx, length); err != nil && n.declared == 0 {
		return 0, err
	}
	return min(length, n.declared), nil
}

// declare tells the others of this node and how long its leases are, before it holds one.
func (k *Keystore) declare(ctx context.Context, length time.Duration) error {
	if err := k.db.Join(ctx, Node{Incarnation: *k.node.incarnation.Load(), Address: hostAndProcess(), Lease: length}); err != nil {
		return k.storeFailed("joining the deployment", err)
	}
	k.node.declared = length
	return nil
}

// adopt reads what the deployment has for good, at the start or when the database has been replaced.
func (k *Keystore) adopt(ctx context.Context) error {
	d, err := k.db.Deployment(ctx, k.configured)
	if err != nil {
		return k.storeFailed("reading the deployment", err)
	}
	k.tokenKey.Store(NewTokenKey(d.TokenKey))
	k.seal.Store(newSharedSeal(d))
	k.node.epoch = d.Epoch
	k.node.applied.Store(-1)
	return nil
}

// acknowledge tells the other nodes, if there are any, what this one has applied, and that it lives.
func (k *Keystore) acknowledge(ctx context.Context, head Head, length time.Duration) {
	n := k.node
	last := n.acknowledged.Load()
	if head.Nodes < 2 || last != nil && n.others.applied == head.Revision && time.Since(*last) < length/6 {
		return
	}
	if err := k.db.Acknowledge(ctx, *n.incarnation.Load(), head.Revision); err != nil {
		_ = k.storeFailed("acknowledging a change", err) // a revoke elsewhere waits longer; the next renewal tries again
		return
	}
	now := time.Now()
	n.acknowledged.Store(&now)
	n.others.applied = head.Revision
	nodes, err := k.db.Nodes(ctx)
	if err != nil {
		_ = k.storeFailed("reading the nodes", err)
		return
	}
	n.others.tidy(ctx, k, nodes, now)
}

// janitor finds out which other nodes have gone silent, so that a node that died an hour ago costs the next revoke nothing.
type janitor struct {
	applied Revision // as acknowledged last
	seen    map[string]silence
}

// silence is how long, on our own clock, a node has said nothing.
type silence struct {
	beats  int64
	since  time.Time
	fenced time.Time // zero: not by us
}

// tidy fences nodes that were silent for a lease, and removes those whose lease has surely run out since.
func (j *janitor) tidy(ctx context.Context, k *Keystore, nodes []Node, now time.Time) {
	seen := make(map[string]silence, len(nodes))
	for _, other := range nodes {
		if other.Incarnation == *k.node.incarnation.Load() {
			continue
		}
		s, known := j.seen[other.Incarnation]
		if !known || s.beats != other.Beats {
			s = silence{beats: other.Beats, since: now}
		}
		var err error
		switch {
		case s.fenced.IsZero() && now.Sub(s.since) >= other.Lease:
			if err = k.db.Fence(ctx, other.Incarnation); err == nil {
				s.fenced = time.Now()
				k.logger.Warn("a node has gone silent and is given up", slog.String("node", other.Address))
			}
		case !s.fenced.IsZero() && now.Sub(s.fenced) >= surelyOver(other.Lease):
			err = k.db.Remove(ctx, other.Incarnation)
		}
		if err != nil {
			_ = k.storeFailed("giving up a silent node", err)
		}
		seen[other.Incarnation] = s
	}
	j.seen = seen
}

// keepUp renews a few times a lease, and whenever the database says that something may have changed. When the lease has run out and the
// database still cannot be asked, what runs is cut, for its key may have died.
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
			if !k.node.lease.holds(time.Now()) {
				k.cache.cutAll() // a revoke elsewhere waits no longer for this node
			}
		}
	}
}

// storeFailed counts a failure of the database, logs it, though not each of a thousand a second, and returns it with what was being done.
func (k *Keystore) storeFailed(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	k.counters.storeErrors.Add(1)
	now, last := time.Now().UnixNano(), k.loggedFailure.Load()
	if now-last >= int64(time.Second) && k.loggedFailure.CompareAndSwap(last, now) {
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
