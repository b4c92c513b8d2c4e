package node

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// LookupSuspect is [Node.Lookup] for a client that has sent too many invalid credentials. In a
// store, it does not look up a credential that anyone can make up: a derived token, or one without
// a tag. If no record of it is cached, the outcome is [keystore.Limited].
func (n *Node) LookupSuspect(
	ctx context.Context, credential string, now time.Time,
) (Answer, error) {
	d, untagged := keystore.DerivedParent(credential)
	if !untagged {
		tagged, ok := n.Inspect(credential)
		d, untagged = keystore.DigestOf(credential), ok && !tagged
	}
	if untagged {
		if r, _ := n.cache.shard(&d).find(&d, n.clock.of(now).UnixNano()); r == nil {
			return Answer{Outcome: keystore.Limited}, nil
		}
	}
	return n.Lookup(ctx, credential, now)
}
