package client

import "github.com/caddy-apikeys/caddy-apikeys/keystore"

// Caveats say how a derived token narrows its key. ExpiresAt is required.
type Caveats = keystore.Caveats

// Derive derives a token from a key's token and restricts it by caveats. It needs no network and no
// [Client]. The token works until it expires or the key stops working (docs/derived.md).
func Derive(token string, c Caveats) (string, error) { return keystore.Derive(token, c) }
