package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const membersPath = api.Prefix + "/members"

func memberPath(id string) string { return membersPath + "/" + url.PathEscape(id) }

// CreateMember creates a member without a token. See [Client.NewMemberToken].
func (c *Client) CreateMember(ctx context.Context, spec api.MemberRequest) (api.Member, error) {
	return call[api.Member](ctx, c, send(http.MethodPost, membersPath, spec))
}

// ListMembers returns one page of members, newest first. cursor is the NextCursor of the previous
// page. limit is the size of the page: at most 1000, 0 means 100.
func (c *Client) ListMembers(ctx context.Context, cursor string, limit int) (api.Members, error) {
	r := get(membersPath)
	r.page(cursor, limit)
	return call[api.Members](ctx, c, r)
}

// AllMembers iterates over all members, newest first. Iteration stops after an error.
func (c *Client) AllMembers(ctx context.Context) iter.Seq2[api.Member, error] {
	return all("", func(cursor string) (api.Members, error) {
		return c.ListMembers(ctx, cursor, maxPage)
	})
}

// FindMember returns a member.
func (c *Client) FindMember(ctx context.Context, id string) (api.Member, error) {
	return call[api.Member](ctx, c, get(memberPath(id)))
}

// EditMember applies patch to a member. Active false disables the member, its token and all keys
// that act for it.
func (c *Client) EditMember(
	ctx context.Context, id string, patch api.MemberPatch, options ...ChangeOption,
) (api.MemberChanged, error) {
	return call[api.MemberChanged](ctx, c,
		send(http.MethodPatch, memberPath(id), patch, options...))
}

// TransferKeys transfers all keys of a member that are not revoked to another member. If the caller
// may not transfer one of them, none changes. After any other error, a repeated call transfers the
// rest.
func (c *Client) TransferKeys(
	ctx context.Context, id, to string, options ...ChangeOption,
) (api.MemberChanged, error) {
	return call[api.MemberChanged](ctx, c, send(http.MethodPost, memberPath(id)+"/transfer",
		api.TransferRequest{To: to}, options...))
}

// DeleteMember deletes a member that owns no keys except revoked ones. Its token is revoked.
func (c *Client) DeleteMember(
	ctx context.Context, id string, options ...ChangeOption,
) (api.MemberChanged, error) {
	return call[api.MemberChanged](ctx, c, send(http.MethodDelete, memberPath(id), nil, options...))
}

// NewMemberToken returns a new token for a member, which replaces its current one. No later call
// returns it.
func (c *Client) NewMemberToken(
	ctx context.Context, id string, spec api.TokenRequest, options ...ChangeOption,
) (api.MemberChanged, error) {
	return call[api.MemberChanged](ctx, c,
		send(http.MethodPost, memberPath(id)+"/token", spec, options...))
}
