package admin

import (
	"context"
	"net/http"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/danielgtaylor/huma/v2"
)

func (a *API) registerPrefixes() {
	register(a, huma.Operation{
		OperationID: "list-prefixes", Method: http.MethodGet, Path: api.Prefix + "/prefixes",
		Summary:     "List accepted token prefixes, and refused ones of live keys",
		Tags:        []string{"keys"},
		Description: "The permission is required in *.",
	}, "admin.keys:read", a.listPrefixes)
}

func (a *API) listPrefixes(
	ctx context.Context, c manage.Caller, _ *struct{},
) (*page[api.TokenPrefixes], error) {
	accepted, others, err := a.keys.ListPrefixes(ctx, c)
	if err != nil {
		return nil, err
	}
	out := api.TokenPrefixes{Accepted: accepted, Others: make([]api.OtherPrefix, len(others))}
	for i, p := range others {
		out.Others[i] = api.OtherPrefix(p)
	}
	return &page[api.TokenPrefixes]{out}, nil
}
