package node

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Untagged reports whether a credential has to be looked up although anyone can make it up: it has no
// tag, or is a derived token. It returns the digest that is looked up.
func (n *Node) Untagged(credential string) (d keystore.Digest, untagged bool) {
	if d, untagged = keystore.DerivedParent(credential); untagged {
		return d, true
	}
	tagged, ok := n.Inspect(credential)
	return keystore.DigestOf(credential), ok && !tagged
}

// LookupSuspect is [Node.Lookup] for a client that has sent too many invalid credentials. It looks
// up a credential that is [Node.Untagged] only in this process's cache. If no record of it is
// cached, the outcome is [keystore.Limited].
func (n *Node) LookupSuspect(
	ctx context.Context, credential string, now time.Time,
) (Answer, error) {
	if d, untagged := n.Untagged(credential); untagged {
		if r, _ := n.cache.shard(&d).find(&d, n.clock.of(now).UnixNano()); r == nil {
			return Answer{Outcome: keystore.Limited}, nil
		}
	}
	return n.Lookup(ctx, credential, now)
}
