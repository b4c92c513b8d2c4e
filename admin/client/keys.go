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

// MintKey creates a key and returns it with its token, which no later call returns. A non-empty
// idempotencyKey is sent as Idempotency-Key. Within 24 hours, the server refuses a repeat with 409
// `already_made` and the id of the key, and creates no second key.
func (c *Client) MintKey(
	ctx context.Context, spec api.MintRequest, idempotencyKey string,
) (api.Minted, error) {
	r := send(http.MethodPost, keysPath, spec)
	if idempotencyKey != "" {
		r.header("Idempotency-Key", idempotencyKey)
	}
	return call[api.Minted](ctx, c, r)
}

// A KeyFilter selects keys and a page of them. Its zero value selects the first page of all keys.
type KeyFilter struct {
	Namespace string // the home namespace, or named by a grant
	Home      string // the home namespace
	Status    string // active, inactive, expired, revoked, owner_disabled or usable
	Owner     string // the id of a member
	Role      string // named by a grant
	Plan      string // named by the key itself
	Expiring  string // within this time, such as 30d
	Unused    string // for this time, such as 90d
	CreatedBy string // the id of a member or key
	Text      string // in the name, id or prefix
	Metadata  string // NAME=VALUE
	// Sort is created_at, name, expires_at or last_used_at. A leading minus reverses the order.
	// Empty means -created_at.
	Sort string
	// Cursor is the NextCursor of the previous page. With the reverse Sort, it leads from the last
	// key of that page back to the keys before it.
	Cursor string
	Limit  int // the size of a page: at most 1000, 0 means 100
}

// ListKeys returns one page of keys.
func (c *Client) ListKeys(ctx context.Context, f KeyFilter) (api.Keys, error) {
	r := get(keysPath)
	r.parameter("namespace", f.Namespace)
	r.parameter("home", f.Home)
	r.parameter("status", f.Status)
	r.parameter("owner", f.Owner)
	r.parameter("role", f.Role)
	r.parameter("plan", f.Plan)
	r.parameter("expiring", f.Expiring)
	r.parameter("unused", f.Unused)
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

// FindKey returns a key.
func (c *Client) FindKey(ctx context.Context, id string) (api.Key, error) {
	return call[api.Key](ctx, c, get(keyPath(id)))
}

// EditKey applies patch to a key.
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

// RevokeKey revokes a key permanently and, with Made, the keys that it created. It may be repeated:
// then it revokes those that are left, and waits again.
func (c *Client) RevokeKey(
	ctx context.Context, id string, spec api.RevokeRequest, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c,
		send(http.MethodPost, keyPath(id)+"/revoke", spec, options...))
}

// RotateKey returns a new token for the key. The current token expires after the grace, an older
// one at once.
func (c *Client) RotateKey(
	ctx context.Context, id string, spec api.RotateRequest, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c,
		send(http.MethodPost, keyPath(id)+"/rotate", spec, options...))
}

// DeleteKey deletes a revoked key.
func (c *Client) DeleteKey(
	ctx context.Context, id string, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c, send(http.MethodDelete, keyPath(id), nil, options...))
}

// ImportKeys adds keys whose credentials were created elsewhere: all of them or none; with partial,
// only the valid ones. body is an [api.ImportRequest] for [api.JSON], or one [api.ImportKey] per
// line for [api.NDJSON]. If invalid keys prevent the import, the error lists them in Refused. For
// idempotencyKey, see [Client.MintKey].
func (c *Client) ImportKeys(
	ctx context.Context, contentType string, body io.Reader, partial bool,
	idempotencyKey string,
) (api.Imported, error) {
	r := &request{method: http.MethodPost, path: keysPath + "/import", body: body,
		contentType: contentType}
	if partial {
		r.parameter("partial", "1")
	}
	if idempotencyKey != "" {
		r.header("Idempotency-Key", idempotencyKey)
	}
	return call[api.Imported](ctx, c, r)
}

// ListPrefixes returns the accepted token prefixes, and other prefixes of valid keys.
func (c *Client) ListPrefixes(ctx context.Context) (api.TokenPrefixes, error) {
	return call[api.TokenPrefixes](ctx, c, get(api.Prefix+"/prefixes"))
}
