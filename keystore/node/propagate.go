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
	// DefaultWait is how long a change that takes access away waits for the other nodes unless the
	// caller says otherwise.
	DefaultWait = 10 * time.Second
	// The nodes' rows are read meanwhile after firstPoll, then after twice as long each time, at
	// last every lastPoll, or every retryInterval when nobody waits.
	firstPoll = time.Millisecond
	lastPoll  = 10 * time.Millisecond
	// maxWatched is how many changes that nobody waits for are watched at a time.
	maxWatched = 16
)

// Propagation says how far a change has come (docs/protocol.md, rule 7). Its zero value is of a
// change that changed nothing.
type Propagation struct {
	Revision     keystore.Revision
	Complete     bool
	Nodes        int
	Acknowledged int
	Took         time.Duration // since the commit, or since it was asked for again
	Pending      []PendingNode
}

// A PendingNode has not yet acknowledged. Until is when its lease has surely run out.
type PendingNode struct {
	Node  string
	Until time.Time
}

// A commit is a change that the database has taken.
type Commit struct {
	Revision keystore.Revision
	// on our own clock, after the commit's reply: a node that has not seen it took its lease before
	since   time.Time
	history history // before the change was made
}

// InHistoryOf returns the commit as one of the history that first was made in.
func (c Commit) InHistoryOf(first Commit) Commit {
	c.history = first.history
	return c
}

// spread waits until every node has applied a change that was committed, or can no longer use
// what it cached before. It waits at most for wait, and until Close; zero means [DefaultWait], and
// a negative wait means one look. An incomplete result is not a failure: the change is committed,
// and in force on each pending node by the time in the result.
func (n *Node) spread(ctx context.Context, c Commit, wait time.Duration) Propagation {
	begun := n.clock.now()
	if wait == 0 {
		wait = DefaultWait
	}
	p := Propagation{Revision: c.Revision}
	if !n.busy() {
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
		select {
		case <-ctx.Done():
			return p
		case <-time.After(min(poll, wait-p.Took)):
		}
	}
}

// measured is spread for a change that takes access away, once for each: how long it takes is
// observed even when nobody waits any more, of maxWatched at a time.
func (n *Node) measured(c Commit, wait time.Duration) Propagation {
	p := n.spread(context.Background(), c, wait) // whoever asked may have gone
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
			if rest := n.spread(n.running, c, math.MaxInt64); rest.Complete {
				n.observer.Propagated(p.Took + rest.Took)
			}
		})
	}
	return p
}

// progress asks which nodes have applied a change. The members are read strictly after the commit:
// one that joins later reads a head that holds it.
func (n *Node) progress(ctx context.Context, c Commit) (Propagation, error) {
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	r := c.Revision
	p := Propagation{Revision: r}
	if keystore.Revision(n.membership.applied.Load()) < r {
		_ = n.renewAnew(ctx) // a failure shows in what is applied
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
		over := n.membership.others.lastLease(&other,
			c.since).Add(surelyOver(other.Lease))
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
	// rememberedCommits is how many commit times a node remembers. With a lease longer than they
	// cover, [manage.Keystore.Progress] waits longer.
	rememberedCommits = 1024
)

// commitTimes remembers the latest time, on this node's clock, at which each revision can have been
// committed. The zero value is empty and ready for use.
type commitTimes struct {
	mu    sync.Mutex
	times []commitTime // in order of both
}

type commitTime struct {
	revision keystore.Revision
	at       time.Time
}

// seen records that a renewal answered at the given time found a revision.
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

// Propagate waits until a change is in force on every node, as spread does. It fails if the
// database may have lost the change meanwhile.
func (n *Node) Propagate(ctx context.Context, c Commit, wait time.Duration) (Propagation, error) {
	return n.kept(c, n.spread(context.WithoutCancel(ctx), c, wait))
}

// PropagateObserved is Propagate for a change that takes access away: the time it takes is
// observed.
func (n *Node) PropagateObserved(c Commit, wait time.Duration) (Propagation, error) {
	return n.kept(c, n.measured(c, wait))
}

// kept is how far a change has come, unless the database may have lost it meanwhile.
func (n *Node) kept(c Commit, p Propagation) (Propagation, error) {
	if n.membership.history() != c.history {
		return Propagation{}, n.StoreFailed("waiting for the other nodes", errLost)
	}
	return p, nil
}

// Progress returns how far a change has spread that was answered before it was complete. It looks
// once. Took counts from since, the time of that answer on the database's clock. A node that is cut
// off is pending until its lease has run out, counted from when this node first saw the change:
// that may be later than its commit.
func (n *Node) Progress(
	ctx context.Context, r keystore.Revision, since time.Time,
) (Propagation, error) {
	now := n.clock.now()
	if since.UnixNano() <= n.membership.lost.Load() {
		return Propagation{}, n.StoreFailed("asking how far a change has come", errLost)
	}
	p, err := n.progress(ctx, Commit{r, n.membership.commits.before(r, now),
		n.membership.history()})
	if err != nil {
		return p, n.StoreFailed("asking how far a change has come", err)
	}
	p.Took = max(0, n.databaseTime(now).Sub(since))
	return p, nil
}
