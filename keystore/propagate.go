package keystore

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"
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
	Revision     Revision
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
type commit struct {
	revision Revision
	// on our own clock, after the commit's reply: a node that has not seen it took its lease before
	since   time.Time
	history history // before the change was made
}

// propagate waits until every node has applied a change that was committed, or can no longer use
// what it cached before. It waits at most for wait, and until Close; zero means [DefaultWait], and
// a negative wait means one look. An incomplete result is not a failure: the change is committed,
// and in force on each pending node by the time in the result.
func (k *Keystore) propagate(ctx context.Context, c commit, wait time.Duration) Propagation {
	begun := k.clock.now()
	if wait == 0 {
		wait = DefaultWait
	}
	p := Propagation{Revision: c.revision}
	if !k.busy() {
		return p
	}
	defer k.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(k.running, cancel)()
	longest := lastPoll
	if wait == math.MaxInt64 {
		longest = retryInterval
	}
	for poll := firstPoll; ; poll = min(2*poll, longest) {
		if now, err := k.progress(ctx, c); err == nil {
			p = now
		}
		p.Took = k.clock.now().Sub(begun)
		if p.Complete || p.Took >= wait || k.node.history() != c.history {
			return p
		}
		select {
		case <-ctx.Done():
			return p
		case <-time.After(min(poll, wait-p.Took)):
		}
	}
}

// measured is propagate for a change that takes access away, once for each: how long it takes is
// observed even when nobody waits any more, of maxWatched at a time.
func (k *Keystore) measured(c commit, wait time.Duration) Propagation {
	p := k.propagate(context.Background(), c, wait) // whoever asked may have gone
	if p.Complete {
		k.observer.Propagated(p.Took)
		return p
	}
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	if !k.node.closed && k.watched.Load() < maxWatched {
		k.watched.Add(1)
		k.work.Go(func() {
			defer k.watched.Add(-1)
			if rest := k.propagate(k.running, c, math.MaxInt64); rest.Complete {
				k.observer.Propagated(p.Took + rest.Took)
			}
		})
	}
	return p
}

// progress asks which nodes have applied a change. The members are read strictly after the commit:
// one that joins later reads a head that holds it.
func (k *Keystore) progress(ctx context.Context, c commit) (Propagation, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	r := c.revision
	p := Propagation{Revision: r}
	if Revision(k.node.applied.Load()) < r {
		_ = k.renewAnew(ctx) // a failure shows in what is applied
	}
	nodes, err := k.db.Nodes(ctx)
	if err != nil {
		return p, err
	}
	p.Nodes = len(nodes)
	for _, n := range nodes {
		if n.Incarnation == *k.node.incarnation.Load() {
			n.Acknowledged = Revision(k.node.applied.Load())
		}
		over := k.node.others.lastLease(&n, c.since).Add(k.node.surelyOver(n.Lease))
		switch {
		case !counts(&n):
		case n.Acknowledged >= r:
			p.Acknowledged++
		case k.clock.now().Before(over):
			p.Pending = append(p.Pending, PendingNode{Node: n.Address,
				Until: k.databaseTime(over).UTC().Truncate(time.Millisecond)})
		}
	}
	if len(p.Pending) == 0 {
		// The acknowledgements count only if this node still finds the same history after reading
		// them.
		if err := k.renewAnew(ctx); err != nil {
			return p, err
		}
	}
	p.Complete = len(p.Pending) == 0 && k.node.history() == c.history
	return p, nil
}

// Progress returns how far a change has spread that was answered before it was complete. It looks
// once. Took counts from since, the time of that answer on the database's clock. A node that is cut
// off is pending until its lease has run out, counted from when this node first saw the change:
// that may be later than its commit. Progress waits for the caller's turn to read.
func (k *Keystore) Progress(
	ctx context.Context, c Caller, r Revision, since time.Time,
) (Propagation, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	done, err := k.turns.take(ctx, c)
	if err != nil {
		return Propagation{}, err
	}
	defer done()
	now := k.clock.now()
	if since.UnixNano() <= k.node.lost.Load() {
		return Propagation{}, k.storeFailed("asking how far a change has come", errLost)
	}
	p, err := k.progress(ctx, commit{r, k.node.commits.before(r, now), k.node.history()})
	if err != nil {
		return p, k.storeFailed("asking how far a change has come", err)
	}
	p.Took = max(0, k.databaseTime(now).Sub(since))
	return p, nil
}

const (
	// commitGrain is the interval between the commit times that a node remembers.
	commitGrain = time.Second
	// rememberedCommits is how many commit times a node remembers. With a lease longer than they
	// cover, [Keystore.Progress] waits longer.
	rememberedCommits = 1024
)

// commitTimes remembers the latest time, on this node's clock, at which each revision can have been
// committed. The zero value is empty and ready for use.
type commitTimes struct {
	mu    sync.Mutex
	times []commitTime // in order of both
}

type commitTime struct {
	revision Revision
	at       time.Time
}

// seen records that a renewal answered at the given time found a revision.
func (c *commitTimes) seen(r Revision, at time.Time) {
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
func (c *commitTimes) before(r Revision, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, _ := slices.BinarySearchFunc(c.times, r,
		func(t commitTime, r Revision) int { return cmp.Compare(t.revision, r) })
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
