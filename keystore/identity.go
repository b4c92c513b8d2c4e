package keystore

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
)

// adopt reads what the deployment has for good, at the start or when the database has been
// replaced.
func (k *Keystore) adopt(ctx context.Context) error {
	d, err := k.db.Deployment(ctx, k.configured)
	if err != nil {
		return k.storeFailed("reading the deployment", err)
	}
	k.tokenKey.Store(NewTokenKey(d.TokenKey))
	k.seal.Store(newSharedSeal(d, ""))
	k.node.epoch = d.Epoch
	k.node.base = nil // it may be of another history
	nowhere := Nowhere
	k.node.position.Store(&nowhere)
	k.node.applied.Store(-1)
	return nil
}

// acceptAnother takes up with a database that is not the one it was: it was restored from a backup,
// or lost changes that it had committed when another server took over. All that was cached is
// dropped, entries in the shared cache are void by a new epoch, and what this node has revoked is
// revoked again, before it trusts anything. Nodes of the lost history may still hold a lease: their
// rows are written into this one as fencing, so that every revoke waits for them.
func (k *Keystore) acceptAnother(head Head) error {
	n := k.node
	n.lease.drop()
	if !n.stranger {
		n.histories.Add(1)
		n.stranger = true
	}
	k.logger.Error("the database has lost changes that were committed, or is another one; all "+
		"that was cached is dropped, and what was revoked here lately is revoked again. "+
		"Other changes that were lost have to be made again: compare with the logs and the audit "+
		"log",
		slog.Int64("revision_before", n.applied.Load()),
		slog.Int64("revision", int64(head.Revision)))
	ctx, cancel := context.WithTimeout(k.running, forgetTimeout)
	defer cancel()
	was := n.epoch
	if slices.Contains(n.left, head.Epoch) { // a new epoch was lost too
		was = head.Epoch
	}
	if err := k.db.NewEpoch(ctx, was, n.readers(head)); err != nil {
		return k.storeFailed("giving the deployment a new epoch", err)
	}
	if err := k.revokes.reassert(k.running, k.db, n.history()); err != nil {
		return k.storeFailed("revoking again what the database has lost", err)
	}
	left := n.epoch
	if err := k.adopt(ctx); err != nil {
		return err
	}
	if left != n.epoch {
		n.left = append(n.left, left)
	}
	k.cache.purge(0)
	n.commits.forget()
	n.lost.Store(k.Now().UnixNano())
	n.in(n.history(), n.others.forget)
	return nil
}

// followTimeline handles a standby that has taken over with all changes that this node knows. It
// may lack rows of nodes, because they have no revision. followTimeline writes those again, as
// fencing.
func (k *Keystore) followTimeline(head Head) error {
	n, timeline := k.node, head.Timeline
	if n.timeline != "" && n.timeline != timeline {
		ctx, cancel := context.WithTimeout(k.running, loadTimeout)
		defer cancel()
		if err := k.db.NewEpoch(ctx, "", n.readers(head)); err != nil {
			return k.storeFailed("registering the other nodes with the new primary", err)
		}
		n.takeovers.Add(1)
		n.in(n.history(), n.others.forget)
	}
	n.timeline = timeline
	if seal := k.seal.Load(); seal.timeline != timeline {
		k.seal.Store(newSharedSeal(seal.deployment, timeline))
	}
	return nil
}

// readers returns the other nodes that may hold a lease. A server that does not wait for standbys
// may have lost rows that this node never saw. One more node stands for all of them, with the
// longest lease that this node knows.
func (n *node) readers(head Head) []Node {
	if ablated("forget-readers") {
		return nil
	}
	all := make(map[string]Node, len(n.peers))
	maps.Copy(all, n.peersBefore)
	maps.Copy(all, n.peers)
	list := slices.Collect(maps.Values(all))
	if head.Timeline != "" && !head.Standbys {
		longest := n.row.lease
		for _, other := range list {
			longest = max(longest, other.Lease)
		}
		list = append(list, Node{Incarnation: "unknown " + n.epoch + " " + head.Timeline,
			Address: "nodes possibly lost in a failover", Lease: longest})
	}
	return list
}

// in calls f unless the database, or its server, was found to be another one since the history was
// recorded.
func (n *node) in(was history, f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.history() != was {
		return false
	}
	f()
	return true
}

var errLost = errors.New("the database has lost changes, and it is not known whether this is one " +
	"of them: look, and make it again")

// kept is how far a change has come, unless the database may have lost it meanwhile.
func (k *Keystore) kept(c commit, p Propagation) (Propagation, error) {
	if k.node.history() != c.history {
		return Propagation{}, k.storeFailed("waiting for the other nodes", errLost)
	}
	return p, nil
}

const (
	// rememberedRevokes is how many of its own revokes a node remembers, and rememberedReason how
	// many bytes of each reason.
	rememberedRevokes = 1 << 16
	rememberedReason  = 256
)

// revokes are those that this node has committed lately.
type revokes struct {
	mu    sync.Mutex
	known map[string]ownRevoke // by key id
	ring  []string             // ids, the oldest at next once it is full; empty: noted again later
	next  int
}

type ownRevoke struct {
	commit
	reason string
	at     int // in the ring
}

// note remembers the revoke of some keys.
func (r *revokes) note(ids []string, c commit, reason string) {
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
func (r *revokes) of(id string) (commit, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.known[id]
	return own.commit, !own.since.IsZero()
}

// reassert revokes again what a database with another history takes for alive. What is done is not
// done again when it has to be called once more.
func (r *revokes) reassert(ctx context.Context, db Database, now history) error {
	by := authority{root: true, actor: RootMember, from: "a node that remembers",
		policy: NewDirectory(new(Policy))}
	lost := r.lost(now)
	for slice := range slices.Chunk(slices.Collect(maps.Keys(lost)), revokeSlice) {
		sliceCtx, cancel := context.WithTimeout(ctx, forgetTimeout) // each: there may be many
		_, err := db.Update(sliceCtx, func(tx Tx) error {
			_, err := revokeAll(tx, by, slice, func(id string) string { return lost[id] })
			return err
		})
		cancel()
		if err != nil {
			err = r.reassertOneByOne(ctx, db, by, slice, lost)
		}
		if err != nil {
			return err
		}
		r.kept(slice, now)
	}
	return nil
}

// reassertOneByOne is for a slice with a key whose row is unreadable. That one is revoked as well,
// without a row in the audit log that would tell what it was.
func (r *revokes) reassertOneByOne(
	ctx context.Context, db Database, by authority, ids []string, reasons map[string]string,
) error {
	for _, id := range ids {
		one := func(change func(Tx) error) error {
			ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
			defer cancel()
			_, err := db.Update(ctx, change)
			return err
		}
		err := one(func(tx Tx) error {
			_, err := revokeAll(tx, by, []string{id}, func(id string) string { return reasons[id] })
			return err
		})
		if err != nil {
			err = one(func(tx Tx) error {
				return tx.RevokeKeys(map[string]string{id: reasons[id]},
					by.actor)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
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
			own.commit = commit{history: now}
			r.known[id] = own
		}
	}
}
