package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// catchUp applies the changes after the applied revision, up to head (docs/protocol.md, rule 3).
// After it has succeeded, nothing in the cache is older than head.
func (n *Node) catchUp(ctx context.Context, head keystore.Head) error {
	m := n.membership
	applied := keystore.Revision(m.applied.Load())
	if applied == head.Revision {
		return nil
	}
	policy := applied < 0
	if policy {
		n.dropCache(ctx, head.Revision)
	} else {
		changes, err := n.db.Changes(ctx, applied, head.Revision)
		switch {
		case errors.Is(err, keystore.ErrTruncated) && m.base == nil:
			m.rereadPolicy = true
			return errRetry
		case errors.Is(err, keystore.ErrTruncated):
			n.dropCache(ctx, head.Revision)
			policy = true
		case err != nil:
			return err
		}
		//fault: hold("apply")
		policy = n.apply(ctx, changes) || policy
	}
	if policy {
		// dropCache may have used up the time of ctx.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), QueryTimeout)
		defer cancel()
		if err := n.refreshPolicy(ctx, head.Revision); err != nil {
			return err
		}
	}
	m.position.Store(&keystore.Position{Revision: head.Revision, Mark: head.Mark})
	m.applied.Store(int64(head.Revision))
	return nil
}

// A baseDirectory is a complete directory that was read at a position. Later changes are applied to
// it.
type baseDirectory struct {
	*keystore.Directory
	at keystore.Position
}

// directoryTimeout limits reading a complete directory. The database fails earlier if no rows
// arrive.
const directoryTimeout = 5 * time.Minute

// readDirectory reads the whole directory if this node has none to start from. That may take longer
// than a lease, so it happens before the renewal, which then reads the changes since.
func (n *Node) readDirectory() error {
	m := n.membership
	if m.base != nil || m.applied.Load() >= 0 && !m.rereadPolicy {
		return nil
	}
	ctx, cancel := context.WithTimeout(n.running, directoryTimeout)
	defer cancel()
	p, err := n.db.Policy(ctx, keystore.Nowhere)
	if err != nil {
		return n.StoreFailed("reading namespaces, roles, plans and members", err)
	}
	directory := keystore.NewDirectory(new(keystore.Policy)).With(p, &n.requests)
	m.base, m.rereadPolicy = &baseDirectory{directory, p.At}, false
	return nil
}

// refreshPolicy reads the changes to the policy, and cuts the running requests of members that were
// disabled. It refuses a policy that is newer than head, because a failover may lose a change that
// this node has not applied (docs/protocol.md, rule 5).
func (n *Node) refreshPolicy(ctx context.Context, head keystore.Revision) error {
	m := n.membership
	current := m.directory.Load()
	d, at := current, *m.position.Load()
	if m.base != nil {
		d, at = m.base.Directory, m.base.at
	}
	var policy *keystore.Policy
	err := keystore.ErrTruncated
	if at.Revision >= 0 {
		policy, err = n.db.RenewPolicy(ctx, at)
	}
	newer := at.Revision > head || policy != nil && policy.Revision > head
	//fault: newer = newer && !ablated("newer-than-applied")
	switch {
	case errors.Is(err, keystore.ErrTruncated):
		m.base, m.rereadPolicy = nil, true
		return errRetry
	case errors.Is(err, context.DeadlineExceeded):
		m.rereadPolicy = m.base == nil // there may be too many changes for one renewal
		return fmt.Errorf("reading namespaces, roles, plans and members: %w", err)
	case err != nil:
		return fmt.Errorf("reading namespaces, roles, plans and members: %w", err)
	case newer:
		return errRetry
	case policy != nil:
		d = d.With(policy, &n.requests)
	}
	m.base = nil
	if d == current {
		return nil
	}
	var before []string
	if current != nil {
		before = current.UnreadableRows()
	}
	for _, row := range d.UnreadableRows() {
		if !slices.Contains(before, row) {
			n.logger.Error("ignoring unreadable database row; it grants nothing until it is "+
				"repaired", slog.String("row", row))
		}
	}
	m.directory.Store(d)
	n.cache.cutDisabled(d)
	return nil
}

// apply removes from the cache the records that changes have made stale, and updates the expiry and
// the owner of running requests. It reports whether the changes include the policy.
func (n *Node) apply(ctx context.Context, changes []keystore.Change) (policy bool) {
	for i := range changes {
		c := &changes[i]
		switch c.Kind {
		case keystore.ChangeKey:
			if c.Digest.IsZero() {
				continue
			}
			s := n.cache.shard(&c.Digest)
			s.mu.Lock()
			s.invalidate(&c.Digest, c.Revision)
			s.update(&c.Digest, c.Owner, keystore.UnixNano(c.Ends), n.Now().UnixNano())
			s.mu.Unlock()
		case keystore.ChangeNew:
			n.cache.forgetNegatives()
		case keystore.ChangePolicy:
			policy = true
		default:
			n.dropCache(ctx, c.Revision)
			policy = true
		}
	}
	return policy
}

// dropTimeout limits how long dropCache reads the keys of running requests. Meanwhile the lease
// continues.
const dropTimeout = 10 * time.Second

// dropCache empties the cache, because anything in it may have changed at or before revision r, and
// reads the keys of the running requests again.
func (n *Node) dropCache(ctx context.Context, r keystore.Revision) {
	n.cache.purge(r)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	for _, d := range n.cache.runningDigests() {
		owner, expires := "", int64(0) // cuts the requests, unless the key turns out to be usable
		if key, _, err := n.db.KeyByDigest(ctx, d); err == nil && key != nil {
			if r := keystore.NewRecord(key, d); r.Usable() {
				owner, expires = r.Owner, r.Expiry()
			}
		}
		s := n.cache.shard(&d)
		s.mu.Lock()
		s.update(&d, owner, expires, n.Now().UnixNano())
		s.mu.Unlock()
	}
}
