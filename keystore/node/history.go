package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// readDeployment reads the permanent properties of the deployment, at the start and after a change
// of history. It resets the node's position, so that no change counts as applied.
func (n *Node) readDeployment(ctx context.Context) error {
	d, err := n.db.Deployment(ctx, n.configured)
	if err != nil {
		return n.StoreFailed("reading the deployment", err)
	}
	n.tokenKey.Store(keystore.NewTokenKey(d.TokenKey))
	n.seal.Store(newSharedSeal(d, ""))
	n.membership.epoch = d.Epoch
	n.membership.base = nil // may be from another history
	nowhere := keystore.Nowhere
	n.membership.position.Store(&nowhere)
	n.membership.applied.Store(-1)
	return nil
}

// acceptNewHistory continues with a database that has another history: it was restored from a
// backup, or lost committed changes when another server took over (docs/protocol.md, rule 9).
// Before the node trusts the database, it drops its cache, voids the entries in the shared cache
// with a new epoch, and repeats its own revokes. Nodes of the lost history may still hold a lease.
// Their rows are written into the new history as fencing, so that every revoke waits for them.
func (n *Node) acceptNewHistory(head keystore.Head) error {
	m := n.membership
	m.lease.drop()
	if !m.mustRejoin {
		m.histories.Add(1)
		m.mustRejoin = true
	}
	n.logger.Error("the database has lost changes; dropping the cache and repeating this node's "+
		"revokes; repeat other lost changes yourself: compare the logs with the audit log",
		slog.Int64("revision_before", m.applied.Load()),
		slog.Int64("revision", int64(head.Revision)))
	ctx, cancel := context.WithTimeout(n.running, dropTimeout)
	defer cancel()
	was := m.epoch
	if slices.Contains(m.formerEpochs, head.Epoch) { // the database has lost the new epoch too
		was = head.Epoch
	}
	if err := n.db.NewEpoch(ctx, was, m.leaseHolders(head)); err != nil {
		return n.StoreFailed("giving the deployment a new epoch", err)
	}
	if err := n.revokes.reassert(n.running, n.db, m.history()); err != nil {
		return n.StoreFailed("repeating lost revokes", err)
	}
	former := m.epoch
	if err := n.readDeployment(ctx); err != nil {
		return err
	}
	n.limiter.forgetReservations()
	if former != m.epoch {
		m.formerEpochs = append(m.formerEpochs, former)
	}
	n.cache.purge(0)
	m.commits.forget()
	m.lostAt.Store(n.Now().UnixNano())
	m.inHistory(m.history(), m.fencer.forget)
	return nil
}

// followTimeline continues with a standby that has taken over with all changes that this node
// knows. The standby may lack rows of nodes, which have no revision, so followTimeline writes them
// again, as fencing.
func (n *Node) followTimeline(head keystore.Head) error {
	m, timeline := n.membership, head.Timeline
	if m.timeline != "" && m.timeline != timeline {
		ctx, cancel := context.WithTimeout(n.running, QueryTimeout)
		defer cancel()
		if err := n.db.NewEpoch(ctx, "", m.leaseHolders(head)); err != nil {
			return n.StoreFailed("registering the other nodes with the new primary", err)
		}
		m.takeovers.Add(1)
		m.inHistory(m.history(), m.fencer.forget)
	}
	m.timeline = timeline
	if seal := n.seal.Load(); seal.timeline != timeline {
		n.seal.Store(newSharedSeal(seal.deployment, timeline))
	}
	return nil
}

// leaseHolders returns the other nodes that may hold a lease. If the server does not wait for
// standbys, it may have lost rows that this node never saw. One more node with the longest known
// lease then stands for them.
func (m *membership) leaseHolders(head keystore.Head) []keystore.Node {
	//fault: if ablated("forget-readers") { return nil }
	all := make(map[string]keystore.Node, len(m.peers))
	maps.Copy(all, m.peersBefore)
	maps.Copy(all, m.peers)
	list := slices.Collect(maps.Values(all))
	if head.Timeline != "" && !head.Standbys {
		longest := m.row.lease
		for _, other := range list {
			longest = max(longest, other.Lease)
		}
		list = append(list, keystore.Node{Incarnation: "unknown " + m.epoch + " " + head.Timeline,
			Address: "nodes possibly lost in a failover", Lease: longest})
	}
	return list
}

// inHistory calls f if the history is still the same, and reports whether it is.
func (m *membership) inHistory(was history, f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.history() != was {
		return false
	}
	f()
	return true
}

var errLost = errors.New("the database has lost changes, perhaps including this one; check " +
	"whether it must be repeated")

const (
	// rememberedRevokes is how many of its own revokes a node remembers.
	rememberedRevokes = 1 << 16
	// rememberedReason is how many bytes of each reason it remembers.
	rememberedReason = 256
	// reassertSlice is how many keys one transaction revokes again.
	reassertSlice = 500
	// reassertTimeout limits each of these transactions.
	reassertTimeout = 10 * time.Second
)

// revokes are the latest revokes of this node, to repeat them if the database loses them.
type revokes struct {
	mu     sync.Mutex
	revoke func(tx keystore.Tx, reasons map[string]string) error
	known  map[string]ownRevoke // by key id
	ring   []string             // ids, the oldest at next when full; "" if noted again later
	next   int
}

type ownRevoke struct {
	Commit
	reason string
	at     int // in the ring
}

// note remembers that a commit revoked some keys.
func (r *revokes) note(ids []string, c Commit, reason string) {
	reason = strings.Clone(strings.ToValidUTF8(reason[:min(len(reason), rememberedReason)], ""))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = make(map[string]ownRevoke)
	}
	for _, id := range ids {
		if before, known := r.known[id]; known {
			r.ring[before.at] = ""
		}
		if len(r.ring) < rememberedRevokes {
			r.ring = append(r.ring, "")
			r.next = len(r.ring) - 1
		}
		delete(r.known, r.ring[r.next])
		r.ring[r.next] = id
		r.known[id] = ownRevoke{c, reason, r.next}
		r.next = (r.next + 1) % rememberedRevokes
	}
}

// commitOf returns the commit with which this node revoked a key. ok is false if it revoked no such
// key, or has had to repeat the revoke in another history.
func (r *revokes) commitOf(id string) (c Commit, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.known[id]
	return own.Commit, !own.since.IsZero()
}

// lost returns the revokes of earlier histories, as reasons by key id.
func (r *revokes) lost(now history) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := make(map[string]string)
	for id, own := range r.known {
		if own.history.histories != now.histories {
			lost[id] = own.reason
		}
	}
	return lost
}

// reasserted records that keys are revoked in the present history too.
func (r *revokes) reasserted(ids []string, now history) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if own, still := r.known[id]; still {
			own.Commit = Commit{history: now}
			r.known[id] = own
		}
	}
}

// reassert revokes the keys of [revokes.lost] again. It can be repeated after a failure.
func (r *revokes) reassert(ctx context.Context, db keystore.Database, now history) error {
	lost := r.lost(now)
	for slice := range slices.Chunk(slices.Collect(maps.Keys(lost)), reassertSlice) {
		err := r.revokeAgain(ctx, db, slice, lost)
		if err != nil {
			err = r.reassertOneByOne(ctx, db, slice, lost)
		}
		if err != nil {
			return err
		}
		r.reasserted(slice, now)
	}
	return nil
}

// revokeAgain revokes some keys in one transaction.
func (r *revokes) revokeAgain(
	ctx context.Context, db keystore.Database, ids []string, lost map[string]string,
) error {
	reasons := make(map[string]string, len(ids))
	for _, id := range ids {
		reasons[id] = lost[id]
	}
	return r.update(ctx, db, func(tx keystore.Tx) error { return r.revoke(tx, reasons) })
}

// update runs one transaction with its own timeout, because there may be many.
func (r *revokes) update(
	ctx context.Context, db keystore.Database, change func(keystore.Tx) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, reassertTimeout)
	defer cancel()
	_, err := db.Update(ctx, change)
	return err
}

// reassertOneByOne handles a slice with an unreadable row. It revokes that key too, but without an
// entry in the audit log, which would describe the key.
func (r *revokes) reassertOneByOne(
	ctx context.Context, db keystore.Database, ids []string, lost map[string]string,
) error {
	for _, id := range ids {
		err := r.revokeAgain(ctx, db, []string{id}, lost)
		if err != nil {
			err = r.update(ctx, db, func(tx keystore.Tx) error {
				return tx.RevokeKeys(map[string]string{id: lost[id]}, keystore.RootMember)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ReassertWith sets the function that repeats lost revokes, given their reasons by key id. It must
// be called before [Node.RememberRevokes].
func (n *Node) ReassertWith(revoke func(tx keystore.Tx, reasons map[string]string) error) {
	n.revokes.revoke = revoke
}

// RememberRevokes remembers revokes of this node, to repeat them if the database loses them.
func (n *Node) RememberRevokes(ids []string, c Commit, reason string) {
	n.revokes.note(ids, c, reason)
}

// FirstRevoke returns the commit with which this node revoked a key, so that a repeated revoke
// waits no longer than the first. It returns c if no such commit is known in c's history.
func (n *Node) FirstRevoke(id string, c Commit) Commit {
	if first, known := n.revokes.commitOf(id); known && first.history == c.history {
		return first
	}
	return c
}
