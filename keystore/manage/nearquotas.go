package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

const (
	maxNearQuotas = 1000 // examined in one read
	maxNearKeys   = 200  // looked up in one read
)

// A NearQuota is a quota that is largely used up in the current period.
type NearQuota struct {
	Key        *keystore.Key // nil for the quota of a namespace
	Namespace  string        // home of the key, or the namespace
	Quota      keystore.Quota
	Begin, End time.Time // of the period
	// Used are the units of the period that nodes may spend or have spent. Nodes reserve units, so
	// requests have used up to a few percent less.
	Used int64
}

// NearQuotas returns the quotas that are used up to at least a share, from 0 to 1: those of a
// namespace and of the keys whose home it is, or of all that the caller may read if namespace is
// empty. It returns at most limit, those with the largest share first. It examines the 1000 quotas
// with the largest share, but only the first 200 quotas of keys among them.
func (k *Keystore) NearQuotas(
	ctx context.Context, c Caller, namespace string, share float64, limit int,
) ([]NearQuota, error) {
	ctx, auth, done, err := k.beginLongRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminKeys, "read"); err != nil && len(auth.members) == 0 {
		return nil, err
	}
	uses, err := k.Database().NearQuotas(ctx, share, maxNearQuotas)
	if err != nil {
		return nil, k.RefusalOr("reading used quotas", err)
	}
	var near []NearQuota
	lookups := 0
	for i := range uses {
		u := &uses[i]
		id, per, ofNamespace := node.ParseQuota(u.Quota)
		n := NearQuota{Namespace: id, Begin: u.Begin, End: u.End, Used: u.Granted}
		if ofNamespace {
			if ns := auth.policy.Namespace(id); ns != nil && auth.may(adminNamespaces, "read", id) {
				n.Quota = ns.Limits.Over(keystore.Limits{}).Quota
			}
		} else {
			if lookups++; lookups > maxNearKeys {
				continue
			}
			key, err := k.Database().Key(ctx, id)
			switch {
			case isNotFound(err):
				continue
			case err != nil:
				return nil, k.StoreFailed("reading a key", err)
			case auth.mayReadKey(id, key.Namespace, key.Owner) && !key.Personal:
				n.Key, n.Namespace = key, key.Namespace
				n.Quota = auth.policy.KeyLimits(key.Namespace, key.KeyLimits).Quota
			}
		}
		if namespace != "" && n.Namespace != namespace {
			continue
		}
		// The quota may have changed since its units were reserved.
		if n.Quota.Per == per && float64(n.Used) >= share*float64(n.Quota.Units) {
			if near = append(near, n); len(near) == limit {
				break
			}
		}
	}
	return near, nil
}
