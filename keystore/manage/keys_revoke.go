package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

const (
	// revokeSlice is how many keys one transaction revokes: other changes wait for one at most.
	revokeBatch = 500
	// revokeWait bounds such a transaction.
	revokeWait = 30 * time.Second
)

// RevokeKey revokes a key for good. Revoking it again changes nothing and waits again. With made,
// it also revokes the keys that the key created, and those that they created. It revokes the key
// itself first, in a separate transaction, so that the key creates no more, and the others in many
// transactions. After an error, calling it again revokes the rest.
func (k *Keystore) RevokeKey(
	ctx context.Context, c Caller, id, reason string, made bool, o ChangeOptions,
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
	if made {
		last, err := k.revokeCreated(ctx, auth, id, reason, done)
		if err != nil {
			return nil, node.Propagation{}, err
		}
		if last.Revision > 0 {
			done, changed = last, true
		}
	}
	if changed {
		spread, err := k.PropagateObserved(done, o.Wait)
		return key, spread, err
	}
	if !made {
		done = k.FirstRevoke(id, done)
	}
	spread, err := k.Propagate(ctx, done, o.Wait)
	return key, spread, err
}

// ownKey returns the key of that id if the caller may revoke it without any permission: the key
// that asks itself (spec 7a.6), or one that acts for the member that asks (7a.5).
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

// revokeMade revokes all keys that a revoked key created, in any namespace, because it gave them
// its own permissions. The caller may have disconnected, and may be the key itself. It returns the
// last change, or the zero value if there was none.
func (k *Keystore) revokeCreated(
	ctx context.Context, auth authority, maker, reason string, first node.Commit,
) (last node.Commit, err error) {
	waiting, seen := []string{maker}, map[string]bool{maker: true}
	for len(waiting) > 0 {
		slice := waiting[:min(len(waiting), revokeBatch)]
		var ended, next []string
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeWait)
		done, err := k.commitAs(ctx, func(tx keystore.Tx) (err error) {
			if ended,
				err = revokeAll(tx, auth, slice, func(string) string { return reason }); err != nil {
				return err
			}
			// after they were revoked, so that there will be no more
			next, err = tx.KeysMadeBy(slice...)
			return err
		})
		cancel()
		if err != nil {
			return last, err
		}
		if done = done.InHistoryOf(first); len(ended) > 0 {
			k.RememberRevokes(ended, done, reason)
			last = done
		}
		waiting = waiting[len(slice):]
		for _, id := range next {
			if !seen[id] {
				seen[id] = true
				waiting = append(waiting, id)
			}
		}
	}
	return last, nil
}

// revokeAll revokes keys in one transaction and returns those that were valid before.
func revokeAll(
	tx keystore.Tx, auth authority, ids []string, reason func(id string) string,
) (ended []string, err error) {
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
		after.RevokedAt, after.RevokedBy, after.RevokeReason, after.Version = tx.Now(), auth.actor, reason(before.ID), before.Version+1
		ended = append(ended, before.ID)
		reasons[before.ID] = after.RevokeReason
		list = append(list, auditedChange{before.ID, before.Touches(auth.policy), before, &after})
	}
	if len(ended) == 0 {
		return nil, nil
	}
	if err := tx.RevokeKeys(reasons, auth.actor); err != nil {
		return nil, err
	}
	return ended, auditAll(tx, auth, "key.revoke", list)
}

// RotateKey gives a key another token under the same id. The present one dies after grace, but not
// later than the key, and an older one at once.
func (k *Keystore) RotateKey(
	ctx context.Context, c Caller, id string, grace time.Duration, o ChangeOptions,
) (*keystore.Key, keystore.Token, node.Propagation, error) {
	if grace < 0 || grace > MaxGrace {
		return nil, keystore.Token{}, node.Propagation{},
			&keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields",
				Detail: "some fields are not valid",
				Fields: []keystore.FieldError{{Field: "grace",
					Detail: "lies between 0s and 720h (30 days)"}}}
	}
	var key *keystore.Key
	var token keystore.Token
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) error {
		before, err := keyToUpdate(tx, auth, id, o)
		if err != nil {
			return err
		}
		if err := auth.checkToken(before); err != nil {
			return err
		}
		after := *before
		after.Prefix = k.prefixIn(auth.policy, after.Namespace)
		token = k.TokenKey().Generate(after.Prefix, after.ID)
		after.Secrets = []keystore.Secret{{Digest: token.Digest(), CreatedAt: tx.Now()}}
		if present := before.Current(tx.Now()); present != nil && grace > 0 {
			old := *present
			old.ExpiresAt = earlier(earlier(tx.Now().Add(grace), before.ExpiresAt),
				present.ExpiresAt)
			after.Secrets = append(after.Secrets, old)
		}
		key = &after
		return updateKey(tx, auth, "key.rotate", before, &after)
	})
	return key, token, p, err
}

// earlier returns the earlier of two times, of which zero ones mean never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// DeleteKey takes a revoked key from the list and returns what it was. The digests of its secrets
// are kept.
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
