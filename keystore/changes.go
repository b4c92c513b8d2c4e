package keystore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// catchUp applies what lies between what is applied and head. When it returns nil, nothing cached
// is older than head.
func (k *Keystore) catchUp(ctx context.Context, head Head) error {
	n := k.node
	applied := Revision(n.applied.Load())
	if applied == head.Revision {
		return nil
	}
	policy := applied < 0
	if policy {
		k.forget(ctx, head.Revision)
	} else {
		changes, err := k.db.Changes(ctx, applied, head.Revision)
		switch {
		case errors.Is(err, ErrTruncated) && n.base == nil:
			n.rereads = true
			return errAgain
		case errors.Is(err, ErrTruncated):
			k.forget(ctx, head.Revision)
			policy = true
		case err != nil:
			return err
		}
		hold("apply")
		policy = k.apply(ctx, changes) || policy
	}
	if policy {
		// forget may have taken long
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		if err := k.takePolicy(ctx, head.Revision); err != nil {
			return err
		}
	}
	n.position.Store(&Position{head.Revision, head.Mark})
	n.applied.Store(int64(head.Revision))
	return nil
}

// A baseDirectory is a complete directory, to which later changes are applied.
type baseDirectory struct {
	*Directory
	at Position
}

// directoryTimeout bounds the reading of a complete directory. It fails earlier if no rows arrive.
const directoryTimeout = 5 * time.Minute

// readDirectory reads the whole directory if this node has none to start from. It may take longer
// than a lease. So it comes before the renewal, which then reads what has changed since.
func (k *Keystore) readDirectory() error {
	n := k.node
	if n.base != nil || n.applied.Load() >= 0 && !n.rereads {
		return nil
	}
	ctx, cancel := context.WithTimeout(k.running, directoryTimeout)
	defer cancel()
	p, err := k.db.Policy(ctx, Nowhere)
	if err != nil {
		return k.storeFailed("reading namespaces, roles and members", err)
	}
	n.base, n.rereads = &baseDirectory{builtin.with(p, &k.requests), p.At}, false
	return nil
}

// takePolicy reads what has changed of the policy, and cuts what runs for members who are disabled
// by it. One that is newer than head is not taken, for the same reason as with records: see fly.
func (k *Keystore) takePolicy(ctx context.Context, head Revision) error {
	n := k.node
	held := n.directory.Load()
	d, at := held, *n.position.Load()
	if n.base != nil {
		d, at = n.base.Directory, n.base.at
	}
	var policy *Policy
	err := ErrTruncated
	if at.Revision >= 0 {
		policy, err = k.db.RenewPolicy(ctx, at)
	}
	switch {
	case errors.Is(err, ErrTruncated):
		n.base, n.rereads = nil, true
		return errAgain
	case errors.Is(err, context.DeadlineExceeded):
		n.rereads = n.base == nil // it may be much
		return fmt.Errorf("reading namespaces, roles and members: %w", err)
	case err != nil:
		return fmt.Errorf("reading namespaces, roles and members: %w", err)
	case (at.Revision > head || policy != nil && policy.Revision > head) &&
		!ablated("newer-than-applied"):
		return errAgain
	case policy != nil:
		d = d.with(policy, &k.requests)
	}
	n.base = nil
	if d == held {
		return nil
	}
	var before []string
	if held != nil {
		before = held.unreadable()
	}
	for _, row := range d.unreadable() {
		if !slices.Contains(before, row) {
			k.logger.Error("ignoring unreadable database row; it grants nothing until it is "+
				"repaired",
				slog.String("row", row))
		}
	}
	n.directory.Store(d)
	k.cache.cutDisabled(d)
	return nil
}

// apply drops what changes made stale, gives requests on their way their new end, and reports
// whether the policy was among them.
func (k *Keystore) apply(ctx context.Context, changes []Change) (policy bool) {
	for i := range changes {
		c := &changes[i]
		switch c.Kind {
		case ChangeKey:
			if c.Digest.IsZero() {
				continue
			}
			s := k.cache.shard(&c.Digest)
			s.mu.Lock()
			s.invalidate(&c.Digest, c.Revision)
			s.endAt(&c.Digest, unixOrNever(c.Ends), k.Now().UnixNano())
			s.mu.Unlock()
		case ChangeNew:
			k.cache.forgetNegatives()
		case ChangePolicy:
			policy = true
		default:
			k.forget(ctx, c.Revision)
			policy = true
		}
	}
	return policy
}

// forgetTimeout bounds how long the node asks about what runs; its lease goes on meanwhile.
const forgetTimeout = 10 * time.Second

// forget drops all that is cached, since any of it may have changed at or before revision r, and
// asks anew about what runs.
func (k *Keystore) forget(ctx context.Context, r Revision) {
	k.cache.purge(r)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetTimeout)
	defer cancel()
	for _, d := range k.cache.runningDigests() {
		ends := int64(0) // what cannot be asked about is cut
		if key, _, err := k.db.KeyByDigest(ctx, d); err == nil && key != nil {
			if r := NewRecord(key, d); r.active && !r.revoked {
				ends = r.ends()
			}
		}
		s := k.cache.shard(&d)
		s.mu.Lock()
		s.endAt(&d, ends, k.Now().UnixNano())
		s.mu.Unlock()
	}
}
