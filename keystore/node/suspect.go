package node

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// LookupSuspect is [Node.Lookup] for a client that has sent too many invalid credentials. Anyone
// can make up derived tokens and credentials without a tag. If this process has not cached the
// record of such a credential, the outcome is [keystore.Limited].
func (n *Node) LookupSuspect(
	ctx context.Context, credential string, now time.Time,
) (Answer, error) {
	d, untagged := keystore.DerivedParent(credential)
	if !untagged {
		tagged, ok := n.Inspect(credential)
		d, untagged = keystore.DigestOf(credential), ok && !tagged
	}
	if untagged {
		if r, _ := n.cache.shard(&d).find(&d, sinceStart(n.clock.of(now))); r == nil {
			return Answer{Outcome: keystore.Limited}, nil
		}
	}
	return n.Lookup(ctx, credential, now)
}
