package admin

import (
	"context"
	"net/http"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/danielgtaylor/huma/v2"
)

func (a *API) registerSelf() {
	register(a, huma.Operation{
		OperationID: "show-self", Method: http.MethodGet, Path: api.Prefix + "/self",
		Summary: "Show the caller and its permissions", Tags: []string{"self"},
	}, "", a.showSelf)
	register(a, huma.Operation{
		OperationID: "revoke-self", Method: http.MethodPost, Path: api.Prefix + "/self/revoke",
		Summary: "Revoke the caller's own key", Tags: []string{"self"},
		RequestBody: jsonBody(false, api.JSON),
	}, "", a.revokeSelf, mayPend)
}

func (a *API) showSelf(
	ctx context.Context, c manage.Caller, _ *struct{},
) (*page[api.Self], error) {
	self := api.Self{Member: nilIfEmpty(c.Member()), Permissions: make(map[string][]string)}
	if self.Login = c.Login(); self.Login != "" {
		for _, id := range c.Members() {
			if m := a.keys.Policy().Member(id); m != nil {
				self.Groups = append(self.Groups, api.SelfGroup{ID: id, Name: m.Name})
			}
		}
	}
	for namespace, list := range a.keys.Permissions(c) {
		self.Permissions[namespace] = permissionTexts(list)
	}
	if id := c.Credential(); id != "" {
		k, err := a.keys.FindKey(ctx, c, id)
		if err != nil {
			return nil, err
		}
		shown := a.shownKey(k)
		if expires, narrowed := c.NarrowedUntil(); narrowed {
			// The holder of a derived token must not learn more about the key.
			shown = api.Key{ID: shown.ID, Status: shown.Status, Active: shown.Active,
				Grants: []api.Grant{}, Secrets: []api.Secret{}, AllowedIPs: []string{},
				Metadata: map[string]string{}, Access: string(keystore.Custom), ExpiresAt: &expires}
		}
		self.Key = &shown
	}
	return &page[api.Self]{self}, nil
}

type revokeSelfInput struct {
	Change
	Body api.RevokeRequest
}

func (a *API) revokeSelf(
	ctx context.Context, c manage.Caller, in *revokeSelfInput,
) (*changed[api.KeyChanged], error) {
	if len(c.Members()) > 0 {
		return nil, newProblem(http.StatusConflict, "no_key",
			"the caller is "+c.Actor()+", not a key; to invalidate a member's token, "+
				"create another one or disable the member")
	}
	return a.revokeKey(ctx, c, &editInput[api.RevokeRequest]{ByID{c.Credential()}, in.Change,
		in.Body})
}
