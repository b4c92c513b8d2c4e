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

// adopt reads what the deployment has for good, at the start or when the database has been replaced.
func (k *Keystore) adopt(ctx context.Context) error {
	d, err := k.db.Deployment(ctx, k.configured)
	if err != nil {
		return k.storeFailed("reading the deployment", err)
	}
	k.tokenKey.Store(NewTokenKey(d.TokenKey))
	k.seal.Store(newSharedSeal(d))
	k.node.epoch = d.Epoch
	k.node.applied.Store(-1)
	return nil
}

// acceptAnother takes up with a database that is not the one it was: it was restored from a backup, or lost changes that it had committed
// when another server took over. All that was cached is dropped, entries in the shared cache are void by a new epoch, and what
// this node has revoked is revoked again, before it trusts anything (protocol.md section 4).
func (k *Keystore) acceptAnother(head Head) error {
	n := k.node
	n.lease.drop()
	if !n.stranger {
		n.histories.Add(1)
		n.stranger = true
	}
	k.logger.Error("the database has lost changes that were committed, or is another one; all that was cached is dropped, and what was revoked here lately is revoked again. "+
		"Other changes that were lost have to be made again: compare with the logs and the audit log",
		slog.Int64("revision_before", n.applied.Load()), slog.Int64("revision", int64(head.Revision)))
	ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
	defer cancel()
	if head.Epoch == n.epoch {
		if err := k.db.NewEpoch(ctx, n.epoch); err != nil {
			return k.storeFailed("giving the deployment a new epoch", err)
		}
	}
	if err := k.revokes.reassert(ctx, k.db, n.histories.Load()); err != nil {
		return k.storeFailed("revoking again what the database has lost", err)
	}
	if err := k.adopt(ctx); err != nil {
		return err
	}
	k.cache.purge(0)
	n.others.forget()
	return nil
}

var errLost = errors.New("the database has lost changes, and it is not known whether this is one of them: look, and make it again")

// kept is how far a change has come, unless the database may have lost it meanwhile.
func (k *Keystore) kept(c commit, p Propagation) (Propagation, error) {
	if k.node.histories.Load() != c.history {
		return Propagation{}, k.storeFailed("waiting for the other nodes", errLost)
	}
	return p, nil
}

const (
	// rememberedRevokes is how many revokes of its own a node remembers, and rememberedReason how
	// many bytes of the reason of each.
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

// of returns the commit that revoked a key, so that who asks again waits for no node longer than who asked first.
func (r *revokes) of(id string) (commit, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.known[id]
	return own.commit, !own.since.IsZero()
}

// reassert revokes again what a database with another history takes for alive. What is done is not done again when it has to be called once more.
func (r *revokes) reassert(ctx context.Context, db Database, history int64) error {
	by := authority{root: true, actor: RootMember, from: "a node that remembers", policy: NewDirectory(new(Policy))}
	lost := r.lost(history)
	for slice := range slices.Chunk(slices.Collect(maps.Keys(lost)), revokeSlice) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetTimeout) // each: there may be many
		_, err := db.Update(ctx, func(tx Tx) error {
			_, err := revokeAll(tx, by, slice, func(id string) string { return lost[id] })
			return err
		})
		cancel()
		if err != nil {
			return err
		}
		r.kept(slice, history)
	}
	return nil
}

// lost returns the reasons, by key id, of what was revoked in another history.
func (r *revokes) lost(history int64) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := make(map[string]string)
	for id, own := range r.known {
		if own.history != history {
			lost[id] = own.reason
		}
	}
	return lost
}

// kept notes that keys are revoked in this history too.
func (r *revokes) kept(ids []string, history int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if own, still := r.known[id]; still {
			own.commit = commit{history: history}
			r.known[id] = own
		}
	}
}
