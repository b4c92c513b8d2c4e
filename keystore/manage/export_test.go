package manage

import (
	"context"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// DeleteExpiredSessions deletes expired sessions now.
func (k *Keystore) DeleteExpiredSessions() { k.deleteExpiredSessions(context.Background()) }

// SetIdle sets the Idle of a namespace without a check, so that its time can be shorter than the
// minimum.
func (k *Keystore) SetIdle(ctx context.Context, namespace string, r keystore.IdleRule) error {
	done, err := k.commitAs(ctx, func(tx keystore.Tx) error {
		d, err := k.policyIn(tx)
		if err != nil {
			return err
		}
		after := *d.Namespace(namespace)
		after.Idle = r
		after.Version++
		return tx.UpdateNamespace(&after)
	})
	if err != nil {
		return err
	}
	_, err = k.Propagate(done, node.DefaultWait)
	return err
}
