package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// adopt reads what the deployment has for good, at the start or when the database has been
// replaced.
func (n *Node) adopt(ctx context.Context) error {
	d, err := n.db.Deployment(ctx, n.configured)
	if err != nil {
		return n.StoreFailed("reading the deployment", err)
	}
	n.tokenKey.Store(keystore.NewTokenKey(d.TokenKey))
	n.seal.Store(newSharedSeal(d, ""))
	n.membership.epoch = d.Epoch
	n.membership.base = nil // it may be of another history
	nowhere := keystore.Nowhere
	n.membership.position.Store(&nowhere)
	n.membership.applied.Store(-1)
	return nil
}

// acceptAnother takes up with a database that is not the one it was: it was restored from a backup,
// or lost changes that it had committed when another server took over. All that was cached is
// dropped, entries in the shared cache are void by a new epoch, and what this node has revoked is
// revoked again, before it trusts anything. Nodes of the lost history may still hold a lease: their
// rows are written into this one as fencing, so that every revoke waits for them.
func (n *Node) acceptAnother(head keystore.Head) error {
	m := n.membership
	m.lease.drop()
	if !m.stranger {
		m.histories.Add(1)
		m.stranger = true
	}
	n.logger.Error("the database has lost changes that were committed, or is another one; all "+
		"that was cached is dropped, and what was revoked here lately is revoked again. "+
		"Other changes that were lost have to be made again: compare with the logs and the audit "+
		"log",
		slog.Int64("revision_before", m.applied.Load()),
		slog.Int64("revision", int64(head.Revision)))
	ctx, cancel := context.WithTimeout(n.running, forgetTimeout)
	defer cancel()
	was := m.epoch
	if slices.Contains(m.left, head.Epoch) { // a new epoch was lost too
		was = head.Epoch
	}
	if err := n.db.NewEpoch(ctx, was, m.readers(head)); err != nil {
		return n.StoreFailed("giving the deployment a new epoch", err)
	}
	if err := n.revokes.reassert(n.running, n.db, m.history()); err != nil {
		return n.StoreFailed("revoking again what the database has lost", err)
	}
	left := m.epoch
	if err := n.adopt(ctx); err != nil {
		return err
	}
	if left != m.epoch {
		m.left = append(m.left, left)
	}
	n.cache.purge(0)
	m.commits.forget()
	m.lost.Store(n.Now().UnixNano())
	m.in(m.history(), m.others.forget)
	return nil
}

// followTimeline handles a standby that has taken over with all changes that this node knows. It
// may lack rows of nodes, because they have no revision. followTimeline writes those again, as
// fencing.
func (n *Node) followTimeline(head keystore.Head) error {
	m, timeline := n.membership, head.Timeline
	if m.timeline != "" && m.timeline != timeline {
		ctx, cancel := context.WithTimeout(n.running, QueryTimeout)
		defer cancel()
		if err := n.db.NewEpoch(ctx, "", m.readers(head)); err != nil {
			return n.StoreFailed("registering the other nodes with the new primary", err)
		}
		m.takeovers.Add(1)
		m.in(m.history(), m.others.forget)
	}
	m.timeline = timeline
	if seal := n.seal.Load(); seal.timeline != timeline {
		n.seal.Store(newSharedSeal(seal.deployment, timeline))
	}
	return nil
}

// readers returns the other nodes that may hold a lease. A server that does not wait for standbys
// may have lost rows that this node never saw. One more node stands for all of them, with the
// longest lease that this node knows.
func (m *membership) readers(head keystore.Head) []keystore.Node {
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

// in calls f unless the database, or its server, was found to be another one since the history was
// recorded.
func (m *membership) in(was history, f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.history() != was {
		return false
	}
	f()
	return true
}

var errLost = errors.New("the database has lost changes, and it is not known whether this is one " +
	"of them: look, and make it again")

const (
	// rememberedRevokes is how many of its own revokes a node remembers, and rememberedReason how
	// many bytes of each reason.
	rememberedRevokes = 1 << 16
	rememberedReason  = 256
	// reassertSlice is how many keys one transaction of a reassertion revokes.
	reassertSlice = 500
)

// revokes are those that this node has committed lately.
type revokes struct {
	mu    sync.Mutex
	again func(tx keystore.Tx, reasons map[string]string) error
	known map[string]ownRevoke // by key id
	ring  []string             // ids, the oldest at next once it is full; empty: noted again later
	next  int
}

type ownRevoke struct {
	Commit
	reason string
	at     int // in the ring
}

// note remembers the revoke of some keys.
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

// of returns the commit that revoked a key, so that who asks again waits for no node longer than
// who asked first.
func (r *revokes) of(id string) (Commit, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.known[id]
	return own.Commit, !own.since.IsZero()
}

// lost returns the revokes of another history: reasons by key id.
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

// kept records that keys are revoked in this history too.
func (r *revokes) kept(ids []string, now history) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if own, still := r.known[id]; still {
			own.Commit = Commit{history: now}
			r.known[id] = own
		}
	}
}

// reassert revokes again what a database with another history does not show as revoked. It can be
// repeated after a failure.
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
		r.kept(slice, now)
	}
	return nil
}

// revokeAgain revokes some of the lost keys in one transaction.
func (r *revokes) revokeAgain(
	ctx context.Context, db keystore.Database, ids []string, lost map[string]string,
) error {
	reasons := make(map[string]string, len(ids))
	for _, id := range ids {
		reasons[id] = lost[id]
	}
	return r.update(ctx, db, func(tx keystore.Tx) error { return r.again(tx, reasons) })
}

// update runs one transaction of a reassertion, of which there may be many.
func (r *revokes) update(
	ctx context.Context, db keystore.Database, change func(keystore.Tx) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	_, err := db.Update(ctx, change)
	return err
}

// reassertOneByOne is for a slice with a key whose row is unreadable. That key is revoked as well,
// without a row in the audit log that would tell what it was.
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

// ReassertWith sets how revokes that the database has lost are made again, from key ids and
// reasons. It must be set before [liveNode.RememberRevokes] is called.
func (n *Node) ReassertWith(again func(tx keystore.Tx, reasons map[string]string) error) {
	n.revokes.again = again
}

// RememberRevokes remembers revokes of this node, to make them again if the database loses them.
func (n *Node) RememberRevokes(ids []string, c Commit, reason string) {
	n.revokes.note(ids, c, reason)
}

// FirstRevoke returns the commit of this node that revoked a key, so that a repeated revoke waits
// no longer than the first one. It returns c if none is known in c's history.
func (n *Node) FirstRevoke(id string, c Commit) Commit {
	if first, known := n.revokes.of(id); known && first.history == c.history {
		return first
	}
	return c
}
