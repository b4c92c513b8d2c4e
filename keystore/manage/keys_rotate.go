package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// RotateKey gives a key a new token; its id stays. The current token stops working after grace, or
// when the key expires. An older token, which an earlier rotation left valid, stops at once.
func (k *Keystore) RotateKey(
	ctx context.Context, c Caller, id string, grace time.Duration, o ChangeOptions,
) (*keystore.Key, keystore.Token, node.Propagation, error) {
	if grace < 0 || grace > MaxGrace {
		var p fieldErrors
		p.add("grace", "must be between 0s and 720h (30 days)")
		return nil, keystore.Token{}, node.Propagation{}, p.err()
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
		after.Secrets = []keystore.Secret{token.Secret(tx.Now())}
		if current := before.Current(tx.Now()); current != nil && grace > 0 {
			old := *current
			old.ExpiresAt = earlier(earlier(tx.Now().Add(grace), before.ExpiresAt),
				current.ExpiresAt)
			after.Secrets = append(after.Secrets, old)
		}
		key = &after
		return updateKey(tx, auth, "key.rotate", before, &after)
	})
	return key, token, p, err
}

// earlier returns the earlier of two times. A zero b means never.
func earlier(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
