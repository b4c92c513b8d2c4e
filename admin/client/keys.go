package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const keysPath = api.Prefix + "/keys"

func keyPath(id string) string { return keysPath + "/" + url.PathEscape(id) }

// MintKey makes a key and returns it with its token, which is shown this once. remember, when not
// empty, is sent as Idempotency-Key: repeated within 24 hours it makes no second key but is refused
// with 409 `already_made` and the key's id.
func (c *Client) MintKey(
	ctx context.Context, spec api.MintRequest, remember string,
) (api.Minted, error) {
	r := send(http.MethodPost, keysPath, spec)
	if remember != "" {
		r.header("Idempotency-Key", remember)
	}
	return call[api.Minted](ctx, c, r)
}

// A KeyFilter says which keys to list, and which page of them. Its zero value is the first page of
// all keys.
type KeyFilter struct {
	Namespace string // home, or a grant names it
	Home      string
	Status    string // active, inactive, expired or revoked
	Owner     string // a member
	Role      string // in any of its grants
	CreatedBy string
	Text      string // in the name, or the beginning of the id
	Metadata  string // NAME=VALUE
	// by created_at, name, expires_at or last_used_at, with a minus before it from the last to the
	// first; empty: newest first
	Sort   string
	Cursor string // the NextCursor of the page before
	Limit  int    // of one page: at most 1000, 0 means 100
}

// ListKeys returns one page.
func (c *Client) ListKeys(ctx context.Context, f KeyFilter) (api.Keys, error) {
	r := get(keysPath)
	r.parameter("namespace", f.Namespace)
	r.parameter("home", f.Home)
	r.parameter("status", f.Status)
	r.parameter("owner", f.Owner)
	r.parameter("role", f.Role)
	r.parameter("created_by", f.CreatedBy)
	r.parameter("q", f.Text)
	r.parameter("metadata", f.Metadata)
	r.parameter("sort", f.Sort)
	r.page(f.Cursor, f.Limit)
	return call[api.Keys](ctx, c, r)
}

// AllKeys iterates over the keys that f selects, beginning at its page. Iteration stops after an
// error.
func (c *Client) AllKeys(ctx context.Context, f KeyFilter) iter.Seq2[api.Key, error] {
	return all(f.Cursor, func(cursor string) (api.Keys, error) {
		f.Cursor = cursor
		return c.ListKeys(ctx, f)
	})
}

// FindKey returns one key.
func (c *Client) FindKey(ctx context.Context, id string) (api.Key, error) {
	return call[api.Key](ctx, c, get(keyPath(id)))
}

// EditKey changes what patch holds.
func (c *Client) EditKey(
	ctx context.Context, id string, patch api.KeyPatch, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c, send(http.MethodPatch, keyPath(id), patch, options...))
}

// EditGrants adds and removes parts of a key's grants.
func (c *Client) EditGrants(
	ctx context.Context, id string, edit api.GrantEdit, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c,
		send(http.MethodPost, keyPath(id)+"/grants", edit, options...))
}

// RevokeKey ends a key for good. Repeating it changes nothing and waits again.
func (c *Client) RevokeKey(
	ctx context.Context, id string, why api.RevokeRequest, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c,
		send(http.MethodPost, keyPath(id)+"/revoke", why, options...))
}

// RotateKey returns a new token for the key; the present one dies after the grace, any older one at
// once.
func (c *Client) RotateKey(
	ctx context.Context, id string, how api.RotateRequest, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c,
		send(http.MethodPost, keyPath(id)+"/rotate", how, options...))
}

// DeleteKey takes a revoked key off the list.
func (c *Client) DeleteKey(
	ctx context.Context, id string, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c, send(http.MethodDelete, keyPath(id), nil, options...))
}

// ImportKeys adds keys whose credentials were made elsewhere: all of them or, with partial, those
// that can be. body is an [api.ImportRequest] for [api.JSON], or one [api.ImportKey] a line for
// [api.NDJSON]. When nothing is imported because of some, the refusal has them in Refused. remember
// is as for [Client.MintKey].
func (c *Client) ImportKeys(
	ctx context.Context, contentType string, body io.Reader, partial bool, remember string,
) (api.Imported, error) {
	r := &request{method: http.MethodPost, path: keysPath + "/import", body: body,
		contentType: contentType}
	if partial {
		r.parameter("partial", "1")
	}
	if remember != "" {
		r.header("Idempotency-Key", remember)
	}
	return call[api.Imported](ctx, c, r)
}

// ListPrefixes returns the token prefixes that are accepted, and others that live keys have.
func (c *Client) ListPrefixes(ctx context.Context) (api.TokenPrefixes, error) {
	return call[api.TokenPrefixes](ctx, c, get(api.Prefix+"/prefixes"))
}
