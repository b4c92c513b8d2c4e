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

// catchUp applies what lies between what is applied and head. When it returns nil, nothing cached
// is older than head.
func (n *Node) catchUp(ctx context.Context, head keystore.Head) error {
	m := n.membership
	applied := keystore.Revision(m.applied.Load())
	if applied == head.Revision {
		return nil
	}
	policy := applied < 0
	if policy {
		n.forget(ctx, head.Revision)
	} else {
		changes, err := n.db.Changes(ctx, applied, head.Revision)
		switch {
		case errors.Is(err, keystore.ErrTruncated) && m.base == nil:
			m.rereads = true
			return errAgain
		case errors.Is(err, keystore.ErrTruncated):
			n.forget(ctx, head.Revision)
			policy = true
		case err != nil:
			return err
		}
		//fault: hold("apply")
		policy = n.apply(ctx, changes) || policy
	}
	if policy {
		// forget may have taken long
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), QueryTimeout)
		defer cancel()
		if err := n.takePolicy(ctx, head.Revision); err != nil {
			return err
		}
	}
	m.position.Store(&keystore.Position{Revision: head.Revision, Mark: head.Mark})
	m.applied.Store(int64(head.Revision))
	return nil
}

// A baseDirectory is a complete directory, to which later changes are applied.
type baseDirectory struct {
	*keystore.Directory
	at keystore.Position
}

// directoryTimeout bounds the reading of a complete directory. It fails earlier if no rows arrive.
const directoryTimeout = 5 * time.Minute

// readDirectory reads the whole directory if this node has none to start from. It may take longer
// than a lease. So it comes before the renewal, which then reads what has changed since.
func (n *Node) readDirectory() error {
	m := n.membership
	if m.base != nil || m.applied.Load() >= 0 && !m.rereads {
		return nil
	}
	ctx, cancel := context.WithTimeout(n.running, directoryTimeout)
	defer cancel()
	p, err := n.db.Policy(ctx, keystore.Nowhere)
	if err != nil {
		return n.StoreFailed("reading namespaces, roles and members", err)
	}
	m.base, m.rereads = &baseDirectory{keystore.NewDirectory(new(keystore.Policy)).With(p,
		&n.requests), p.At}, false
	return nil
}

// takePolicy reads what has changed of the policy, and cuts what runs for members who are disabled
// by it. One that is newer than head is not taken, for the same reason as with records: see fly.
func (n *Node) takePolicy(ctx context.Context, head keystore.Revision) error {
	m := n.membership
	held := m.directory.Load()
	d, at := held, *m.position.Load()
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
		m.base, m.rereads = nil, true
		return errAgain
	case errors.Is(err, context.DeadlineExceeded):
		m.rereads = m.base == nil // it may be much
		return fmt.Errorf("reading namespaces, roles and members: %w", err)
	case err != nil:
		return fmt.Errorf("reading namespaces, roles and members: %w", err)
	case newer:
		return errAgain
	case policy != nil:
		d = d.With(policy, &n.requests)
	}
	m.base = nil
	if d == held {
		return nil
	}
	var before []string
	if held != nil {
		before = held.UnreadableRows()
	}
	for _, row := range d.UnreadableRows() {
		if !slices.Contains(before, row) {
			n.logger.Error("ignoring unreadable database row; it grants nothing until it is "+
				"repaired",
				slog.String("row", row))
		}
	}
	m.directory.Store(d)
	n.cache.cutDisabled(d)
	return nil
}

// apply drops what changes made stale, gives requests on their way their new end, and reports
// whether the policy was among them.
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
			s.endAt(&c.Digest, keystore.UnixNano(c.Ends), n.Now().UnixNano())
			s.mu.Unlock()
		case keystore.ChangeNew:
			n.cache.forgetNegatives()
		case keystore.ChangePolicy:
			policy = true
		default:
			n.forget(ctx, c.Revision)
			policy = true
		}
	}
	return policy
}

// forgetTimeout bounds how long the node asks about what runs; its lease goes on meanwhile.
const forgetTimeout = 10 * time.Second

// forget drops all that is cached, since any of it may have changed at or before revision r, and
// asks anew about what runs.
func (n *Node) forget(ctx context.Context, r keystore.Revision) {
	n.cache.purge(r)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetTimeout)
	defer cancel()
	for _, d := range n.cache.runningDigests() {
		ends := int64(0) // what cannot be asked about is cut
		if key, _, err := n.db.KeyByDigest(ctx, d); err == nil && key != nil {
			if r := keystore.NewRecord(key, d); r.Usable() {
				ends = r.Expiry()
			}
		}
		s := n.cache.shard(&d)
		s.mu.Lock()
		s.endAt(&d, ends, n.Now().UnixNano())
		s.mu.Unlock()
	}
}
