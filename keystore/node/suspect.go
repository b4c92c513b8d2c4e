package node

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// LookupSuspect is [Node.Lookup] for a client that has sent too many invalid credentials. It does
// not look up a credential without a tag in a store, nor the key of a derived token, because anyone
// can make one up. If no record of it is cached, the outcome is [keystore.Limited].
func (n *Node) LookupSuspect(
	ctx context.Context, credential string, now time.Time,
) (Answer, error) {
	tagged, ok := n.Inspect(credential)
	d, derived := keystore.DerivedParent(credential)
	if !derived {
		d = keystore.DigestOf(credential)
	}
	if derived || ok && !tagged {
		if r, _ := n.cache.shard(&d).find(&d, n.clock.of(now).UnixNano()); r == nil {
			return Answer{Outcome: keystore.Limited}, nil
		}
	}
	return n.Lookup(ctx, credential, now)
}
