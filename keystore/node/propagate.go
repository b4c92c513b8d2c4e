package node

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// DefaultWait is how long a change waits for the other nodes by default.
	DefaultWait = 10 * time.Second
	// firstPoll is the first interval at which a waiting change reads the nodes' rows. It doubles
	// up to lastPoll, or up to retryInterval if no caller waits.
	firstPoll = time.Millisecond
	lastPoll  = 10 * time.Millisecond
	// maxWatched is how many changes without a waiting caller are observed at a time.
	maxWatched = 16
)

// A Propagation says on how many nodes a change is in force (docs/protocol.md, rule 7). The zero
// value is that of an operation that changed nothing.
type Propagation struct {
	Revision     keystore.Revision
	Complete     bool // in force on every node
	Nodes        int
	Acknowledged int
	Took         time.Duration // since the commit, or since a repeated operation began
	Pending      []PendingNode
}

// A PendingNode has not acknowledged a change yet.
type PendingNode struct {
	Node  string    // its address
	Until time.Time // when its lease must have expired, on the database's clock
}

// A Commit is a change that the database has committed.
type Commit struct {
	Revision keystore.Revision
	// since is the time on our own clock after the reply to the commit. A node that has not seen
	// the change began its lease before then.
	since   time.Time
	history history // before the change
}

// InHistoryOf returns c with the history of first, an earlier commit of the same operation.
func (c Commit) InHistoryOf(first Commit) Commit {
	c.history = first.history
	return c
}

// propagate waits until every node has applied a committed change, or can no longer use what it
// cached before (docs/protocol.md, rule 7). It stops waiting after the duration wait, and at Close.
// A wait of 0 stands for [DefaultWait], and a negative one for no wait. An incomplete result is not
// a failure: the change is committed, and in force on each pending node by the time in the result.
func (n *Node) propagate(ctx context.Context, c Commit, wait time.Duration) Propagation {
	begun := n.clock.now()
	if wait == 0 {
		wait = DefaultWait
	}
	p := Propagation{Revision: c.Revision}
	if !n.beginWork() {
		return p
	}
	defer n.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.running, cancel)()
	longest := lastPoll
	if wait == math.MaxInt64 {
		longest = retryInterval
	}
	for poll := firstPoll; ; poll = min(2*poll, longest) {
		if now, err := n.progress(ctx, c); err == nil {
			p = now
		}
		p.Took = n.clock.now().Sub(begun)
		if p.Complete || p.Took >= wait || n.membership.history() != c.history {
			return p
		}
		if !pause(ctx, min(poll, wait-p.Took)) {
			return p
		}
	}
}

// propagateObserved is propagate for a change that removes access. It reports the duration to
// the observer, even if the change completes after wait. At most maxWatched such changes are
// watched at a time.
func (n *Node) propagateObserved(c Commit, wait time.Duration) Propagation {
	p := n.propagate(context.Background(), c, wait) // continues when the caller is cancelled
	if p.Complete {
		n.observer.Propagated(p.Took)
		return p
	}
	n.membership.mu.Lock()
	defer n.membership.mu.Unlock()
	if !n.membership.closed && n.watched.Load() < maxWatched {
		n.watched.Add(1)
		n.work.Go(func() {
			defer n.watched.Add(-1)
			if rest := n.propagate(n.running, c, math.MaxInt64); rest.Complete {
				n.observer.Propagated(p.Took + rest.Took)
			}
		})
	}
	return p
}

// progress returns which nodes have applied a change. It reads the nodes after the commit, because
// a node that joins later reads a head that includes the change.
func (n *Node) progress(ctx context.Context, c Commit) (Propagation, error) {
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	r := c.Revision
	p := Propagation{Revision: r}
	if keystore.Revision(n.membership.applied.Load()) < r {
		_ = n.renewAnew(ctx) // after a failure, this node is pending
	}
	nodes, err := n.db.Nodes(ctx)
	if err != nil {
		return p, err
	}
	p.Nodes = len(nodes)
	for _, other := range nodes {
		if other.Incarnation == *n.membership.incarnation.Load() {
			other.Acknowledged = keystore.Revision(n.membership.applied.Load())
		}
		//fault: if !awaited(&other) { continue }
		over := n.membership.fencer.lastLease(&other, c.since).Add(leaseWait(other.Lease))
		switch {
		case other.Acknowledged >= r:
			p.Acknowledged++
		case n.clock.now().Before(over):
			p.Pending = append(p.Pending, PendingNode{Node: other.Address,
				Until: n.databaseTime(over).UTC().Truncate(time.Millisecond)})
		}
	}
	if len(p.Pending) == 0 {
		// The acknowledgements count only if this node still finds the same history after reading
		// them.
		if err := n.renewAnew(ctx); err != nil {
			return p, err
		}
	}
	p.Complete = len(p.Pending) == 0 && n.membership.history() == c.history
	return p, nil
}

const (
	// commitGrain is the interval between the commit times that a node remembers.
	commitGrain = time.Second
	// rememberedCommits is how many commit times a node remembers. If they cover less time than the
	// lease, [Node.Progress] may name nodes as pending that no longer are.
	rememberedCommits = 1024
)

// commitTimes remembers the latest time, on this node's clock, at which each revision can have been
// committed. The zero value is empty and ready for use.
type commitTimes struct {
	mu    sync.Mutex
	times []commitTime // sorted by revision and by time
}

type commitTime struct {
	revision keystore.Revision
	at       time.Time
}

// seen records that a renewal, whose reply arrived at the given time, has found a revision.
func (c *commitTimes) seen(r keystore.Revision, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := len(c.times) - 1; last >= 0 &&
		(c.times[last].revision == r || at.Sub(c.times[last].at) < commitGrain) {
		return
	}
	if len(c.times) == rememberedCommits {
		c.times = append(c.times[:0], c.times[1:]...)
	}
	c.times = append(c.times, commitTime{r, at})
}

// before returns a time by which a revision was committed, or now if none is known.
func (c *commitTimes) before(r keystore.Revision, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, _ := slices.BinarySearchFunc(c.times, r,
		func(t commitTime, r keystore.Revision) int { return cmp.Compare(t.revision, r) })
	if i < len(c.times) {
		return c.times[i].at
	}
	return now
}

// forget drops all times, for a new history.
func (c *commitTimes) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.times = nil
}

// Propagate waits until a committed change is in force on every node, but no longer than wait. A
// wait of 0 stands for [DefaultWait], and a negative one for no wait. It does not stop when the
// request that made the change is cancelled. An error means that the database may have lost the
// change.
func (n *Node) Propagate(c Commit, wait time.Duration) (Propagation, error) {
	return n.unlessLost(c, n.propagate(context.Background(), c, wait))
}

// Latest returns the latest change of the database, as if it had just been committed: once it is in
// force, so is everything that this node has found in the database before the call.
func (n *Node) Latest(ctx context.Context) (Commit, error) {
	c := Commit{history: n.membership.history()}
	if err := n.renewAnew(ctx); err != nil {
		return c, err
	}
	c.Revision, c.since = n.Applied(), n.clock.now()
	return c, nil
}

// PropagateObserved is Propagate for a change that removes access. It also reports the duration
// to the [Observer].
func (n *Node) PropagateObserved(c Commit, wait time.Duration) (Propagation, error) {
	return n.unlessLost(c, n.propagateObserved(c, wait))
}

// unlessLost returns p, or an error if the database may have lost the change.
func (n *Node) unlessLost(c Commit, p Propagation) (Propagation, error) {
	if n.membership.history() != c.history {
		return Propagation{}, n.StoreFailed("waiting for the other nodes", errLost)
	}
	return p, nil
}

// Progress returns the current state of a change whose response was incomplete. since is the time
// of that response on the database's clock, from which Took counts. A node that is cut off is
// pending until its lease has expired, counted from when this node first saw the change, which may
// be later than its commit.
func (n *Node) Progress(
	ctx context.Context, r keystore.Revision, since time.Time,
) (Propagation, error) {
	now := n.clock.now()
	if since.UnixNano() <= n.membership.lostAt.Load() {
		return Propagation{}, n.StoreFailed("reading the progress of a change", errLost)
	}
	p, err := n.progress(ctx,
		Commit{r, n.membership.commits.before(r, now), n.membership.history()})
	if err != nil {
		return p, n.StoreFailed("reading the progress of a change", err)
	}
	p.Took = max(0, n.databaseTime(now).Sub(since))
	return p, nil
}
