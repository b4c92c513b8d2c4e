package manage

import (
	"context"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// revokeBatch is how many keys one transaction revokes. Another change waits for at most one such
// transaction.
const revokeBatch = 500

// RevokeKey revokes a key permanently. Revoking it again changes nothing and waits again until
// every node has applied it. With created, RevokeKey also revokes the keys that the key created,
// and those that they created. It revokes the key itself first, in a separate transaction, so that
// the key cannot create more. After an error, calling RevokeKey again revokes the rest.
func (k *Keystore) RevokeKey(
	ctx context.Context, c Caller, id, reason string, created bool, o ChangeOptions,
) (*keystore.Key, node.Propagation, error) {
	var p fieldErrors
	p.text("reason", reason, maxReason)
	if err := p.err(); err != nil {
		return nil, node.Propagation{}, err
	}
	var key *keystore.Key
	var auth authority
	changed := false
	done, err := k.commit(ctx, c, func(tx keystore.Tx, caller authority) (err error) {
		auth = caller
		if key, err = ownKey(tx, auth, id); err == nil && key == nil {
			key, err = keyFor(tx, auth, "revoke", id, o)
		} else if err == nil {
			err = o.check(key.Version)
		}
		if err != nil {
			return err
		}
		changed = key.RevokedAt.IsZero()
		key, err = revoke(tx, auth, key, reason)
		return err
	})
	if err != nil {
		return nil, node.Propagation{}, err
	}
	if changed {
		k.RememberRevokes([]string{id}, done, reason)
	}
	if created {
		last, err := k.revokeCreated(ctx, auth, id, reason, done)
		if err != nil {
			return nil, node.Propagation{}, err
		}
		if last.Revision > 0 {
			done, changed = last, true
		}
	}
	if changed {
		propagation, err := k.PropagateObserved(done, o.Wait)
		return key, propagation, err
	}
	if !created {
		done = k.FirstRevoke(id, done)
	}
	propagation, err := k.Propagate(done, o.Wait)
	return key, propagation, err
}

// ownKey returns the key with this id if the caller may revoke it without a permission: the calling
// key itself (docs/authority.md, rule 11), or a key that the calling member owns
// (docs/authority.md, rule 10). Otherwise it returns nil.
func ownKey(tx keystore.Tx, auth authority, id string) (*keystore.Key, error) {
	if auth.root {
		return nil, nil
	}
	key, err := tx.Key(id)
	switch {
	case isNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case id == auth.actor || auth.ownsKey(key.Owner) && !key.Personal:
		return key, nil
	}
	return nil, nil
}

func revoke(
	tx keystore.Tx, auth authority, before *keystore.Key, reason string,
) (*keystore.Key, error) {
	if !before.RevokedAt.IsZero() {
		return before, nil
	}
	after := *before
	after.RevokedAt, after.RevokedBy, after.RevokeReason = tx.Now(), auth.actor, reason
	return &after, updateKey(tx, auth, "key.revoke", before, &after)
}

// revokeCreated revokes all keys that a revoked key created, directly or through others. They can
// be in any namespace, because the key gave them its own permissions. It continues if the client
// disconnects. It uses an authority from before the revoke, because the caller may be the key
// itself. It returns the last change, or the zero value if there was none.
func (k *Keystore) revokeCreated(
	ctx context.Context, auth authority, creator, reason string, first node.Commit,
) (last node.Commit, err error) {
	waiting, seen := []string{creator}, map[string]bool{creator: true}
	for len(waiting) > 0 {
		batch := waiting[:min(len(waiting), revokeBatch)]
		var revoked, next []string
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bulkTimeout)
		done, err := k.commitAs(ctx, func(tx keystore.Tx) (err error) {
			revoked, err = revokeAll(tx, auth, batch, func(string) string { return reason })
			if err != nil {
				return err
			}
			// Read after the revoke, so that the list is complete.
			next, err = tx.KeysCreatedBy(batch...)
			return err
		})
		cancel()
		if err != nil {
			return last, err
		}
		if done = done.InHistoryOf(first); len(revoked) > 0 {
			k.RememberRevokes(revoked, done, reason)
			last = done
		}
		waiting = waiting[len(batch):]
		for _, id := range next {
			if !seen[id] {
				seen[id] = true
				waiting = append(waiting, id)
			}
		}
	}
	return last, nil
}

// revokeAll revokes keys in one transaction and returns the ids of those that were not revoked
// before.
func revokeAll(
	tx keystore.Tx, auth authority, ids []string, reason func(id string) string,
) (revoked []string, err error) {
	keys, err := tx.Keys(ids)
	if err != nil {
		return nil, err
	}
	var list []auditedChange
	reasons := make(map[string]string, len(keys))
	for i := range keys {
		before := &keys[i]
		if !before.RevokedAt.IsZero() {
			continue
		}
		after := *before
		after.RevokedAt, after.RevokedBy = tx.Now(), auth.actor
		after.RevokeReason, after.Version = reason(before.ID), before.Version+1
		revoked = append(revoked, before.ID)
		reasons[before.ID] = after.RevokeReason
		list = append(list, auditedChange{before.ID, before.Touches(auth.policy), before, &after})
	}
	if len(revoked) == 0 {
		return nil, nil
	}
	if err := tx.RevokeKeys(reasons, auth.actor); err != nil {
		return nil, err
	}
	return revoked, auditAll(tx, auth, "key.revoke", list)
}

// DeleteKey deletes a revoked key and returns it as it was. The digests of its tokens are kept, so
// that they are never accepted again.
func (k *Keystore) DeleteKey(
	ctx context.Context, c Caller, id string, o ChangeOptions,
) (*keystore.Key, node.Propagation, error) {
	var key *keystore.Key
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) (err error) {
		if key, err = keyFor(tx, auth, "delete", id, o); err != nil {
			return err
		}
		if key.RevokedAt.IsZero() {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "not_revoked",
				Detail: "only a revoked key can be deleted; revoke it first", ID: id}
		}
		if err := tx.DeleteKey(id); err != nil {
			return err
		}
		return audit(tx, auth, "key.delete", id, key.Touches(auth.policy), key, nil)
	})
	return key, p, err
}
