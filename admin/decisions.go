package admin

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (a *API) registerDecisions() {
	register(a, huma.Operation{
		OperationID: "verify", Method: http.MethodPost, Path: api.Prefix + "/verify", Summary: "What a request with a token would be answered", Tags: []string{"decisions"},
		Description: "It looks at the address only if client_ip is given, and never at early data. Without namespace and permission, the outcome says only whether the key is alive. It costs no quota.",
		RequestBody: jsonBody(true, api.JSON),
	}, "admin.keys:read", a.verify)
	add(a, huma.Operation{
		OperationID: "health", Method: http.MethodGet, Path: healthPath, Summary: "Whether this node is well", Tags: []string{"decisions"},
	}, a.health)
	unwell := a.huma.OpenAPI().Paths[healthPath].Get.Responses
	unwell["503"] = &huma.Response{Description: "The database is away, or the lease has lapsed", Content: unwell["200"].Content}
}

type verifyInput struct{ Body api.VerifyRequest }

func (a *API) verify(ctx context.Context, c keystore.Caller, in *verifyInput) (*page[api.Verdict], error) {
	about := keystore.Question{Namespace: in.Body.Namespace, Permission: in.Body.Permission}
	if in.Body.ClientIP != "" {
		var err error
		if about.Client, err = netip.ParseAddr(in.Body.ClientIP); err != nil {
			var wrong fields
			wrong.add("client_ip", "must be an address such as 192.0.2.1")
			return nil, wrong.err(codeInvalid)
		}
	}
	v, err := a.keys.Verify(ctx, c, in.Body.Token, about)
	if err != nil {
		return nil, err
	}
	out := api.Verdict{Outcome: v.Outcome.String(), Status: v.Outcome.Status(), Code: nilIfEmpty(v.Outcome.Code()), Needed: nilIfEmpty(v.Needed)}
	if !v.Outcome.Refuses() {
		out.Status = http.StatusOK
	}
	if v.Key != nil {
		shown := showKey(v.Key, a.keys.Now())
		out.Key = &shown
	}
	return &page[api.Verdict]{out}, nil
}

type healthOutput struct {
	Status int
	Body   api.Health
}

func (a *API) health(ctx context.Context, _ *struct{}) (*healthOutput, error) {
	h := keystore.Health{Problem: a.notReached() + "; every request that needs a key gets 503"}
	if a.keys != nil {
		h = a.keys.Health(ctx)
	}
	out := &healthOutput{http.StatusOK, api.Health{
		Healthy: h.Problem == "", Problem: h.Problem, Revision: int64(h.Revision), LeaseRemainingMS: h.LeaseRemaining.Milliseconds(),
	}}
	if h.Problem != "" {
		out.Status = http.StatusServiceUnavailable
	}
	return out, nil
}
