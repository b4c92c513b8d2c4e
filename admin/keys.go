package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const keysPath = api.Prefix + "/keys"

func (a *API) registerKeys() {
	register(a, huma.Operation{
		OperationID: "mint-key", Method: http.MethodPost, Path: keysPath, Summary: "Mint a key", Tags: []string{"keys"},
		DefaultStatus: http.StatusCreated, RequestBody: jsonBody(true, api.JSON),
	}, "admin.keys:create", a.mintKey)
	register(a, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: keysPath, Summary: "List keys, newest first", Tags: []string{"keys"},
	}, "admin.keys:read", a.listKeys)
	register(a, huma.Operation{
		OperationID: "show-key", Method: http.MethodGet, Path: keysPath + "/{id}", Summary: "Show a key", Tags: []string{"keys"},
	}, "admin.keys:read", a.showKey)
	register(a, huma.Operation{
		OperationID: "edit-key", Method: http.MethodPatch, Path: keysPath + "/{id}", Summary: "Edit a key", Tags: []string{"keys"},
		RequestBody: jsonBody(true, api.JSON, api.MergePatch),
	}, "admin.keys:update", a.editKey, mayPend)
	register(a, huma.Operation{
		OperationID: "delete-key", Method: http.MethodDelete, Path: keysPath + "/{id}", Summary: "Delete a revoked key", Tags: []string{"keys"},
	}, "admin.keys:delete", a.deleteKey, mayPend)
	register(a, huma.Operation{
		OperationID: "revoke-key", Method: http.MethodPost, Path: keysPath + "/{id}/revoke", Summary: "Revoke a key for good", Tags: []string{"keys"},
		RequestBody: jsonBody(false, api.JSON),
	}, "admin.keys:revoke", a.revokeKey, mayPend)
	register(a, huma.Operation{
		OperationID: "rotate-key", Method: http.MethodPost, Path: keysPath + "/{id}/rotate", Summary: "Give a key a new token", Tags: []string{"keys"},
		RequestBody: jsonBody(false, api.JSON),
	}, "admin.keys:update", a.rotateKey, mayPend)
	register(a, huma.Operation{
		OperationID: "show-self", Method: http.MethodGet, Path: api.Prefix + "/self", Summary: "What the caller is and may do", Tags: []string{"self"},
	}, "", a.showSelf)
	register(a, huma.Operation{
		OperationID: "revoke-self", Method: http.MethodPost, Path: api.Prefix + "/self/revoke", Summary: "Revoke the caller's own key", Tags: []string{"self"},
		RequestBody: jsonBody(false, api.JSON),
	}, "", a.revokeSelf, mayPend)
}

// Idempotency is what every operation that makes keys takes. Its name and those of [ByID] and [Change] are exported for reflection's sake.
type Idempotency struct {
	Key string `header:"Idempotency-Key" maxLength:"200" doc:"A repeat with the same value within 24 h is refused (409) and makes nothing"`
}

type mintInput struct {
	Idempotency
	Body api.MintRequest
}

func (a *API) mintKey(ctx context.Context, c keystore.Caller, in *mintInput) (*made[api.Minted], error) {
	spec, err := keySpec(&in.Body)
	if err != nil {
		return nil, err
	}
	k, token, err := a.keys.MintKey(ctx, c, spec, in.Key)
	if err != nil {
		return nil, err
	}
	return &made[api.Minted]{etag(k.Version), keysPath + "/" + k.ID, api.Minted{Key: showKey(k, a.keys.Now()), Token: token.Reveal()}}, nil
}

type listKeysInput struct {
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor    string `query:"cursor" maxLength:"500" doc:"next_cursor of the page before"`
	Namespace string `query:"namespace" doc:"Only keys of this home namespace"`
	Status    string `query:"status" enum:"active,inactive,expired,revoked"`
	Owner     string `query:"owner" maxLength:"200"`
	Role      string `query:"role" maxLength:"200"`
	CreatedBy string `query:"created_by" maxLength:"200"`
	Q         string `query:"q" maxLength:"200" doc:"Text in the name, the id or the prefix, whatever its case"`
}

func (a *API) listKeys(ctx context.Context, c keystore.Caller, in *listKeysInput) (*page[api.Keys], error) {
	f := keystore.KeyFilter{Status: keystore.Status(in.Status), Owner: in.Owner, Role: in.Role, CreatedBy: in.CreatedBy, Text: in.Q}
	if in.Namespace != "" {
		if !keystore.ValidNamespaceID(in.Namespace) {
			var wrong fields
			wrong.add("namespace", "no namespace can have this id")
			return nil, wrong.err(codeInvalid)
		}
		f.Namespaces = []string{in.Namespace}
	}
	list, next, err := a.keys.ListKeys(ctx, c, f, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	out := api.Keys{Items: make([]api.Key, len(list)), NextCursor: nilIfEmpty(next)}
	for i := range list {
		out.Items[i] = showKey(&list[i], a.keys.Now())
	}
	return &page[api.Keys]{out}, nil
}

func (a *API) showKey(ctx context.Context, c keystore.Caller, in *ByID) (*object[api.Key], error) {
	k, err := a.keys.FindKey(ctx, c, in.ID)
	if err != nil {
		return nil, err
	}
	return &object[api.Key]{etag(k.Version), showKey(k, a.keys.Now())}, nil
}

type editKeyInput struct {
	ByID
	Change
	Body api.KeyPatch
}

func (a *API) editKey(ctx context.Context, c keystore.Caller, in *editKeyInput) (*changed[api.KeyChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	patch, err := keyPatch(&in.Body)
	if err != nil {
		return nil, err
	}
	k, p, err := a.keys.EditKey(ctx, c, in.ID, patch, o)
	return a.keyChanged(k, keystore.Token{}, p, err)
}

type deleteKeyInput struct {
	ByID
	Change
}

func (a *API) deleteKey(ctx context.Context, c keystore.Caller, in *deleteKeyInput) (*changed[api.KeyChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	k, p, err := a.keys.DeleteKey(ctx, c, in.ID, o)
	return a.keyChanged(k, keystore.Token{}, p, err)
}

type revokeKeyInput struct {
	ByID
	Change
	Body api.RevokeRequest
}

func (a *API) revokeKey(ctx context.Context, c keystore.Caller, in *revokeKeyInput) (*changed[api.KeyChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	k, p, err := a.keys.RevokeKey(ctx, c, in.ID, in.Body.Reason, in.Body.Made, o)
	return a.keyChanged(k, keystore.Token{}, p, err)
}

type rotateKeyInput struct {
	ByID
	Change
	Body api.RotateRequest
}

func (a *API) rotateKey(ctx context.Context, c keystore.Caller, in *rotateKeyInput) (*changed[api.KeyChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	var grace time.Duration
	if in.Body.Grace != "" {
		if grace, err = time.ParseDuration(in.Body.Grace); err != nil {
			var wrong fields
			wrong.add("grace", "must be a duration such as 24h")
			return nil, wrong.err(codeInvalid)
		}
	}
	k, token, p, err := a.keys.RotateKey(ctx, c, in.ID, grace, o)
	return a.keyChanged(k, token, p, err)
}

func (a *API) showSelf(ctx context.Context, c keystore.Caller, _ *struct{}) (*page[api.Self], error) {
	if c.Actor() == keystore.RootMember {
		return &page[api.Self]{api.Self{
			Member:      nilIfEmpty(keystore.RootMember),
			Permissions: map[string][]string{keystore.AnyNamespace: {"*", "admin:*"}},
		}}, nil
	}
	k, err := a.keys.FindKey(ctx, c, c.Actor())
	if err != nil {
		return nil, err
	}
	shown := showKey(k, a.keys.Now())
	self := api.Self{Key: &shown, Permissions: make(map[string][]string, len(shown.Grants))}
	for _, g := range shown.Grants {
		self.Permissions[g.Namespace] = g.Permissions
	}
	return &page[api.Self]{self}, nil
}

type revokeSelfInput struct {
	Change
	Body api.RevokeRequest
}

func (a *API) revokeSelf(ctx context.Context, c keystore.Caller, in *revokeSelfInput) (*changed[api.KeyChanged], error) {
	if c.Actor() == keystore.RootMember {
		return nil, newProblem(http.StatusConflict, "no_key", "the caller is the member root, which has no key to revoke")
	}
	return a.revokeKey(ctx, c, &revokeKeyInput{ByID{c.Actor()}, in.Change, in.Body})
}

// keyChanged is the answer to a change of a key.
func (a *API) keyChanged(k *keystore.Key, token keystore.Token, p keystore.Propagation, err error) (*changed[api.KeyChanged], error) {
	if err != nil {
		return nil, err
	}
	return &changed[api.KeyChanged]{changedStatus(p), etag(k.Version), api.KeyChanged{Key: showKey(k, a.keys.Now()), Token: token.Reveal(), Propagation: propagation(p)}}, nil
}
