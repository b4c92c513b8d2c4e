package node

import (
	"context"
	"maps"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// IsMemberToken reports whether this deployment created the token for a member. The tag proves that
// without a query.
func (n *Node) IsMemberToken(token string) bool {
	t, err := keystore.ParseToken(token)
	return err == nil && t.Prefix() == keystore.MemberPrefix && n.tokenKey.Load().Verify(t)
}

// Inspect reports, without a query, whether a credential can be valid, and whether its tag proves
// that this deployment created it. A credential with an accepted prefix must have the right tag.
// Any other can only have been imported.
func (n *Node) Inspect(credential string) (tagged, ok bool) {
	return n.inspect(credential, n.settings.Load().TokenPrefixes)
}

// inspect is Inspect with the accepted prefixes. A mixture of those before and after a reload may
// accept a token that neither of them accepts.
func (n *Node) inspect(credential string, accepted []string) (tagged, ok bool) {
	if !keystore.PossibleCredential(credential) {
		return false, false
	}
	if t, err := keystore.ParseToken(credential); err == nil &&
		slices.Contains(accepted, t.Prefix()) {
		return true, n.tokenKey.Load().Verify(t)
	}
	return false, !hasPrefix(credential, accepted)
}

// Foreign reports whether a credential has none of the accepted prefixes, was not created by this
// deployment and is not a derived token.
func (n *Node) Foreign(credential string) bool {
	return !n.HasPrefix(credential) && n.ownPrefix(credential) == "" &&
		!keystore.IsDerived(credential)
}

// HasPrefix reports whether a credential has one of the accepted prefixes or that of members'
// tokens.
func (n *Node) HasPrefix(credential string) bool {
	return hasPrefix(credential, n.settings.Load().TokenPrefixes)
}

func hasPrefix(credential string, accepted []string) bool {
	return keystore.HasTokenPrefix(credential, keystore.MemberPrefix) ||
		slices.ContainsFunc(accepted,
			func(p string) bool { return keystore.HasTokenPrefix(credential, p) })
}

// Abandoned reports whether a credential is a token that this deployment created with a prefix that
// it no longer accepts. That prefix may begin with one that it accepts.
func (n *Node) Abandoned(credential string) bool {
	prefix := n.ownPrefix(credential)
	return prefix != "" && prefix != keystore.MemberPrefix &&
		!slices.Contains(n.settings.Load().TokenPrefixes, prefix)
}

// ownPrefix returns the prefix of a token that this deployment created, or "" for any other
// credential.
func (n *Node) ownPrefix(credential string) (prefix string) {
	t, err := keystore.ParseToken(credential)
	if err != nil || !n.tokenKey.Load().Verify(t) {
		return ""
	}
	return t.Prefix()
}

// NewDerivingKey returns the deriving key of a token.
func (n *Node) NewDerivingKey(token string) keystore.DerivingKey {
	prefix := n.ownPrefix(token)
	if prefix == "" {
		prefix = keystore.ForeignPrefix(token, n.settings.Load().TokenPrefixes)
	}
	return keystore.NewDerivingKey(token, prefix)
}

// An OtherPrefix is a prefix of live keys that settings do not accept.
type OtherPrefix struct {
	Prefix    string
	Keys      int64 // those that are neither revoked nor expired
	Abandoned bool  // listed in Settings.AbandonedPrefixes
}

// OtherPrefixes returns the prefixes of live keys that s does not accept. Under s, requests with
// their tokens are refused. For a rotated key, only the newest token counts, not one in its grace
// period.
func (n *Node) OtherPrefixes(ctx context.Context, s Settings) ([]OtherPrefix, error) {
	counts, err := n.db.CountPrefixes(ctx, s.withDefaults().TokenPrefixes)
	if err != nil {
		return nil, n.StoreFailed("counting keys by prefix", err)
	}
	var list []OtherPrefix
	for _, prefix := range slices.Sorted(maps.Keys(counts)) {
		abandoned := slices.Contains(s.AbandonedPrefixes, prefix)
		list = append(list, OtherPrefix{prefix, counts[prefix], abandoned})
	}
	return list, nil
}

// CountRefused returns the number of live keys from the database that are refused because the
// prefix of their token is not accepted.
func (n *Node) CountRefused(ctx context.Context) (refused int64, err error) {
	others, err := n.OtherPrefixes(ctx, *n.settings.Load())
	for _, p := range others {
		refused += p.Keys
	}
	return refused, err
}
