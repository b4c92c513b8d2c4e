package admin

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

const keysPath = api.Prefix + "/keys"

func (a *API) registerKeys() {
	register(a, huma.Operation{
		OperationID: "mint-key", Method: http.MethodPost, Path: keysPath, Summary: "Mint a key",
		Tags:          []string{"keys"},
		DefaultStatus: http.StatusCreated, RequestBody: jsonBody(true, api.JSON),
	}, "admin.keys:create", a.mintKey)
	register(a, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: keysPath, Summary: "List keys",
		Tags: []string{"keys"},
	}, "admin.keys:read", a.listKeys)
	k := &a.key
	k.registerOne(a)
	revoke := k.operation("revoke", http.MethodPost, "/revoke", "Revoke a key permanently")
	revoke.RequestBody = jsonBody(false, api.JSON)
	register(a, revoke, k.permission("revoke"), a.revokeKey, mayPend)
	rotate := k.operation("rotate", http.MethodPost, "/rotate", "Rotate the token of a key")
	rotate.RequestBody = jsonBody(false, api.JSON)
	register(a, rotate, k.permission("update"), a.rotateKey, mayPend)
	grants := k.operation("edit-grants-of", http.MethodPost, "/grants",
		"Add or remove permissions, roles and namespaces of a key")
	grants.RequestBody = jsonBody(true, api.JSON)
	register(a, grants, k.permission("update"), a.editGrants, mayPend)
}

// keyKind describes keys.
func (a *API) keyKind() kind[keystore.Key, api.Key, api.KeyPatch, api.KeyChanged] {
	return kind[keystore.Key, api.Key, api.KeyPatch, api.KeyChanged]{
		one: "key", many: "keys", deletes: "Delete a revoked key",
		identify: func(k *keystore.Key) identity {
			return identity{k.ID, k.CreatedAt, k.Version, k.Size()}
		},
		show: a.shownKey,
		answer: func(k api.Key, token keystore.Token, p api.Propagation) api.KeyChanged {
			return api.KeyChanged{Key: k, Token: token.Reveal(), Propagation: p}
		},
		find: func(ctx context.Context, c manage.Caller, id string) (*keystore.Key, error) {
			return a.keys.FindKey(ctx, c, id)
		},
		edit: func(ctx context.Context, c manage.Caller, id string, r *api.KeyPatch,
			o manage.ChangeOptions) (*keystore.Key, node.Propagation, error) {
			patch, wrong := keyPatch(r)
			return a.keys.EditKey(wrong.in(ctx), c, id, patch, o)
		},
		remove: func(ctx context.Context, c manage.Caller, id string,
			o manage.ChangeOptions) (*keystore.Key, node.Propagation, error) {
			return a.keys.DeleteKey(ctx, c, id, o)
		},
	}
}

type mintInput struct {
	Idempotency
	Body api.MintRequest
}

func (a *API) mintKey(
	ctx context.Context, c manage.Caller, in *mintInput,
) (*created[api.Minted], error) {
	spec, wrong := keySpec(&in.Body)
	k, token, err := a.keys.MintKey(wrong.in(ctx), c, spec, in.once())
	if err != nil {
		return nil, err
	}
	return &created[api.Minted]{etag(k.Version), keysPath + "/" + k.ID,
		api.Minted{Key: a.shownKey(k), Token: token.Reveal()}}, nil
}

type listKeysInput struct {
	Paging
	Namespace string `query:"namespace" doc:"Only keys with this home namespace or with a grant that names it"`
	Home      string `query:"home" doc:"Only keys with this home namespace"`
	Status    string `query:"status" doc:"Only keys with this status; owner_disabled: active keys whose owner is disabled; usable: active keys whose owner is enabled. Pages of active, owner_disabled and usable keys may be short as with q" enum:"active,inactive,expired,revoked,owner_disabled,usable"`
	Owner     string `query:"owner" maxLength:"200" doc:"Only keys that act for this member"`
	Role      string `query:"role" maxLength:"200" doc:"Only keys with this role in a grant"`
	Plan      string `query:"plan" maxLength:"200" doc:"Only keys that name this plan. Keys that have it as the default of their namespace are left out"`
	Expiring  string `query:"expiring" maxLength:"50" doc:"Only keys that expire within this time, such as 30d or 12h, and are not revoked"`
	Unused    string `query:"unused" maxLength:"50" doc:"Only keys that were not used for this time, such as 90d, and are neither revoked nor expired. For a key that was never used, the time begins with its creation. Pages may be short as with q"`
	CreatedBy string `query:"created_by" maxLength:"1000" doc:"Only keys created by this member, key or person, as the keys name it"`
	Metadata  string `query:"metadata" maxLength:"8192" doc:"NAME=VALUE: only keys with exactly this name and value in their metadata. Pages may be short as with q" example:"team=erp"`
	Sort      string `query:"sort" enum:"created_at,-created_at,name,-name,expires_at,-expires_at,last_used_at,-last_used_at" doc:"The sort field; a leading minus reverses the order. Default: -created_at. Fields other than created_at can sort at most ten thousand keys (422)"`
	Q         string `query:"q" maxLength:"200" doc:"A text that the name, id or prefix contains; case is ignored. A page searches at most ten thousand keys, so it may be short or empty and still have a next_cursor"`
}

func (a *API) listKeys(
	ctx context.Context, c manage.Caller, in *listKeysInput,
) (*page[api.Keys], error) {
	f := keystore.KeyFilter{Status: keystore.Status(in.Status), Owner: in.Owner, Role: in.Role,
		Plan: in.Plan, CreatedBy: in.CreatedBy, Text: in.Q, Sort: keystore.KeySort(in.Sort)}
	var wrong fields
	wrong.namespaceID("namespace", in.Namespace)
	wrong.namespaceID("home", in.Home)
	f.Expiring = wrong.lifetime("expiring", in.Expiring)
	f.Unused = wrong.lifetime("unused", in.Unused)
	if in.Metadata != "" {
		name, value, ok := strings.Cut(in.Metadata, "=")
		if !ok || name == "" {
			wrong.add("metadata", "must be NAME=VALUE, such as team=erp")
		}
		f.Metadata = map[string]string{name: value}
	}
	if err := wrong.err(); err != nil {
		return nil, err
	}
	f.In = in.Namespace
	if in.Home != "" {
		f.Namespaces = []string{in.Home}
	}
	list, next, err := a.keys.ListKeys(ctx, c, f, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	if err := accountOf(ctx).take(listCopies * a.key.size(list)); err != nil {
		return nil, err
	}
	return showPage(list, next, a.shownKey), nil
}

// namespaceID checks the namespace of a filter, which may be empty.
func (f *fields) namespaceID(field, id string) {
	if id != "" && !keystore.ValidNamespaceID(id) {
		f.add(field, "must be a valid namespace id")
	}
}

func (a *API) revokeKey(
	ctx context.Context, c manage.Caller, in *editInput[api.RevokeRequest],
) (*changed[api.KeyChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	k, p, err := a.keys.RevokeKey(ctx, c, in.ID, in.Body.Reason, in.Body.Made, o)
	return a.key.changed(k, keystore.Token{}, p, err)
}

func (a *API) editGrants(
	ctx context.Context, c manage.Caller, in *editInput[api.GrantEdit],
) (*changed[api.KeyChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	edits, err := grantEdits(&in.Body)
	if err != nil {
		return nil, err
	}
	k, p, err := a.keys.EditKey(ctx, c, in.ID, manage.KeyPatch{Edits: edits}, o)
	return a.key.changed(k, keystore.Token{}, p, err)
}

func (a *API) rotateKey(
	ctx context.Context, c manage.Caller, in *editInput[api.RotateRequest],
) (*changed[api.KeyChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	var grace time.Duration
	if in.Body.Grace != "" {
		if grace, err = time.ParseDuration(in.Body.Grace); err != nil {
			var wrong fields
			wrong.add("grace", "must be a duration such as 24h")
			return nil, wrong.err()
		}
	}
	k, token, p, err := a.keys.RotateKey(ctx, c, in.ID, grace, o)
	return a.key.changed(k, token, p, err)
}
