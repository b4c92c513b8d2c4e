package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// Progress is [node.Node.Progress], limited like the caller's other reads.
func (k *Keystore) Progress(
	ctx context.Context, c Caller, r keystore.Revision, since time.Time,
) (node.Propagation, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	done, err := k.reads.acquire(ctx, c)
	if err != nil {
		return node.Propagation{}, err
	}
	defer done()
	return k.Node.Progress(ctx, r, since)
}
