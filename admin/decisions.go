package admin

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func (a *API) registerDecisions() {
	register(a, huma.Operation{
		OperationID: "verify", Method: http.MethodPost, Path: api.Prefix + "/verify",
		Summary: "Verify a token", Tags: []string{"decisions"},
		Description: "Shows how a request with the token would be answered. " +
			"With path, the api_key handlers of this node decide as they would for a request " +
			"with this method, path and host and no other headers. " +
			"Without path, the fields namespace and permission say what the request requires. " +
			"Without these, the outcome only tells whether the key is valid. " +
			"The address is checked only if client_ip is given. Early data and limits are never " +
			"checked.",
		RequestBody: jsonBody(true, api.JSON),
	}, "admin.keys:read", a.verify)
	add(a, huma.Operation{
		OperationID: "health", Method: http.MethodGet, Path: healthPath,
		Summary: "Report node health", Tags: []string{"decisions"},
	}, a.health)
	responses := a.huma.OpenAPI().Paths[healthPath].Get.Responses
	responses["503"] = &huma.Response{
		Description: "The database is unavailable, key lookups fail, or the lease has expired",
		Content:     responses["200"].Content}
}

type verifyInput struct{ Body api.VerifyRequest }

func (a *API) verify(
	ctx context.Context, c manage.Caller, in *verifyInput,
) (*page[api.Verdict], error) {
	q := &in.Body
	question := manage.VerifyRequest{Namespace: q.Namespace, Permission: q.Permission}
	var wrong fields
	if q.ClientIP != "" {
		var err error
		if question.Client, err = netip.ParseAddr(q.ClientIP); err != nil {
			wrong.add("client_ip", "must be an address such as 192.0.2.1")
		}
	}
	for _, f := range []struct{ name, value string }{{"namespace", q.Namespace},
		{"permission", q.Permission}} {
		if q.Path != "" && f.value != "" {
			wrong.add(f.name, "must be absent if path is given: the api_key handler determines it")
		}
	}
	for _, f := range []struct{ name, value string }{{"method", q.Method}, {"host", q.Host}} {
		if q.Path == "" && f.value != "" {
			wrong.add(f.name, "requires path")
		}
	}
	if err := wrong.err(); err != nil {
		return nil, err
	}
	if q.Path == "" {
		v, err := a.keys.Verify(ctx, c, q.Token, question)
		return a.verdict(v, "", err)
	}
	if err := a.keys.May(c, "admin.keys", "read"); err != nil {
		return nil, err
	}
	rule := a.rule.Load()
	if rule == nil {
		return nil, newProblem(http.StatusServiceUnavailable, keystore.Unavailable.Code(),
			stillLoading)
	}
	rulings, err := (*rule)(Request{
		Method: cmp.Or(q.Method, http.MethodGet), Target: q.Path, Host: q.Host,
		Client: question.Client, Token: q.Token,
	})
	if err != nil {
		return nil, err
	}
	var last *page[api.Verdict]
	for _, r := range rulings {
		v := manage.Verdict{Outcome: r.Outcome}
		if r.Outcome == keystore.OK || r.Outcome == keystore.Forbidden {
			v.Needed = r.Need.String()
		} else {
			r.Namespace = ""
		}
		if r.Outcome == keystore.OK {
			question.Namespace, question.Need = r.Namespace, &r.Need
			v, err = a.keys.Verify(ctx, c, q.Token, question)
			if v.Key != nil {
				r.Namespace = cmp.Or(r.Namespace, v.Key.Namespace)
			}
		}
		// The namespace comes from the path, which may contain a token.
		if r.Namespace == q.Token || keystore.ContainsToken(r.Namespace) {
			r.Namespace = ""
		}
		last, err = a.verdict(v, r.Namespace, err)
		if err != nil || v.Outcome.Refuses() {
			break // the handlers that follow do not get the request
		}
	}
	return last, err
}

// verdict returns v as an answer, or the error.
func (a *API) verdict(v manage.Verdict, namespace string, err error) (*page[api.Verdict], error) {
	if err != nil {
		return nil, err
	}
	out := api.Verdict{Outcome: v.Outcome.String(), Status: v.Outcome.Status(),
		Code: nilIfEmpty(v.Outcome.Code()), Needed: nilIfEmpty(v.Needed), Namespace: namespace}
	if !v.Outcome.Refuses() {
		out.Status = http.StatusOK
	}
	if v.Key != nil {
		shown := a.shownKey(v.Key)
		out.Key = &shown
	}
	return &page[api.Verdict]{out}, nil
}

type healthOutput struct {
	Status int
	Body   api.Health
}

func (a *API) health(ctx context.Context, _ *struct{}) (*healthOutput, error) {
	h := node.Health{Problem: a.notReached() + "; every request that needs a key gets 503"}
	if a.keys != nil {
		h = a.keys.Health(ctx)
	}
	out := &healthOutput{http.StatusOK, api.Health{
		Healthy: h.Problem == "", Problem: h.Problem, Revision: int64(h.Revision),
		LeaseRemainingMS: h.LeaseRemaining.Milliseconds(),
	}}
	if h.Problem != "" {
		out.Status = http.StatusServiceUnavailable
	}
	return out, nil
}
