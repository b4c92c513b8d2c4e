package admin

import (
	"context"
	"net/http"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/danielgtaylor/huma/v2"
)

func (a *API) registerNodes() {
	register(a, huma.Operation{
		OperationID: "list-nodes", Method: http.MethodGet, Path: api.Prefix + "/nodes",
		Summary: "List nodes, oldest first", Tags: []string{"nodes"},
		Description: "The permission is required in *.",
	}, "admin.nodes:read", a.listNodes)
}

func (a *API) listNodes(
	ctx context.Context, c manage.Caller, _ *struct{},
) (*page[api.Nodes], error) {
	list, err := a.keys.ListNodes(ctx, c)
	if err != nil {
		return nil, err
	}
	out := api.Nodes{Items: make([]api.Node, len(list))}
	for i, n := range list {
		state := string(n.State)
		if n.Silent {
			state = "silent"
		}
		out.Items[i] = api.Node{
			Address: n.Address, State: state, Self: n.Self, LeaseMS: n.Lease.Milliseconds(),
			Revision: int64(n.Acknowledged), Behind: int64(n.Behind), JoinedAt: n.Joined,
			HeardAt: n.Heard,
		}
	}
	return &page[api.Nodes]{out}, nil
}
