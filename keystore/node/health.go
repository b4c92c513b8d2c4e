package node

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Health is the state of a node.
type Health struct {
	Problem        string // for people; empty if the node is healthy
	Revision       keystore.Revision
	LeaseRemaining time.Duration // 0 if the lease has expired
	CachedRecords  int
	CachedBytes    int64 // approximately
}

// Health returns the state of the node after a query to the database.
func (n *Node) Health(ctx context.Context) Health {
	err := n.renewAnew(ctx) // a running renewal may have read an earlier state
	if err == nil {
		n.tryLookup(ctx)
	}
	h := n.Gauges()
	switch {
	case err == nil && n.lookupsFail.Load():
		h.Problem = "key lookups in the database fail; cached keys still work, but " +
			"requests with other keys get 503"
	case err != nil && h.LeaseRemaining > 0:
		h.Problem = "the database is unreachable; cached keys work until the lease expires"
	case errors.Is(err, errClockRate):
		h.Problem = err.Error()
	case errors.Is(err, keystore.ErrReplaced):
		h.Problem = keystore.ErrReplaced.Error() + "; every request that needs a key gets 503; " +
			"a restart is required: see the log for what to check first"
	case h.LeaseRemaining == 0:
		h.Problem = "the lease has expired and the database is unreachable; every request that " +
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
