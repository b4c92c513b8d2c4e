package manage

import (
	"context"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// ListPrefixes returns the accepted prefixes, the one for new keys first, and the others that live
// keys have. It requires `admin.keys:read` in all namespaces.
func (k *Keystore) ListPrefixes(
	ctx context.Context, c Caller,
) (accepted []string, others []node.OtherPrefix, err error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	if !auth.may(adminKeys, "read", keystore.AnyNamespace) {
		refusal := permissionRequired(adminKeys, "read")
		refusal.Detail += " in namespace " + keystore.AnyNamespace
		return nil, nil, refusal
	}
	s := *k.Settings()
	others, err = k.OtherPrefixes(ctx, s)
	return slices.Clone(s.TokenPrefixes), others, err
}
