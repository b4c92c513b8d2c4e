package manage

import (
	"context"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// ListPrefixes returns the accepted token prefixes, that of new keys first, and the other prefixes
// of live keys. It requires `admin.keys:read` in all namespaces.
func (k *Keystore) ListPrefixes(
	ctx context.Context, c Caller,
) (accepted []string, others []node.OtherPrefix, err error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	if err := auth.requireEverywhere(adminKeys, "read"); err != nil {
		return nil, nil, err
	}
	s := *k.Settings()
	others, err = k.OtherPrefixes(ctx, s)
	return slices.Clone(s.TokenPrefixes), others, err
}
