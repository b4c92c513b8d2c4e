package admin

import (
	"context"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func (a *API) registerPlans() {
	k := &kind[keystore.Plan, api.Plan, api.PlanPatch, api.PlanChanged]{
		one: "plan", many: "plans", of: "/{namespace}/{name}",
		deletes: "Delete a plan that is not in use",
		identify: func(p *keystore.Plan) identity {
			return identity{p.Namespace + "/" + p.Name, p.CreatedAt, p.Version, p.Size()}
		},
		show: showPlan,
		answer: func(p api.Plan, _ keystore.Token, done api.Propagation) api.PlanChanged {
			return api.PlanChanged{Plan: p, Propagation: done}
		},
		find: func(ctx context.Context, c manage.Caller, id string) (*keystore.Plan, error) {
			return a.keys.FindPlan(ctx, c, planID(id))
		},
		edit: a.editPlan,
		remove: func(ctx context.Context, c manage.Caller, id string,
			o manage.ChangeOptions) (*keystore.Plan, node.Propagation, error) {
			return a.keys.DeletePlan(ctx, c, planID(id), o)
		},
	}
	registerAll(a, k, a.listPlans, a.createPlan)
	k.registerOne(a)
}

func planID(id string) keystore.PlanID {
	namespace, name, _ := strings.Cut(id, "/")
	return keystore.PlanID{Namespace: namespace, Name: name}
}

func showPlan(p *keystore.Plan) api.Plan {
	return api.Plan{
		Namespace: p.Namespace, Name: p.Name, Description: p.Description,
		RateLimit: showRate(p.Rate), Quota: showQuota(p.Quota),
		CreatedAt: p.CreatedAt, Version: p.Version, Unreadable: p.Unreadable,
	}
}

type listPlansInput struct {
	Paging
	Namespace string `query:"namespace" doc:"Only plans of this namespace; *: only shared plans"`
}

func (a *API) listPlans(
	ctx context.Context, c manage.Caller, in *listPlansInput,
) ([]keystore.Plan, error) {
	if in.Namespace != keystore.AnyNamespace {
		var wrong fields
		wrong.namespaceID("namespace", in.Namespace)
		if err := wrong.err(); err != nil {
			return nil, err
		}
	}
	list, err := a.keys.ListPlans(ctx, c)
	if in.Namespace != "" {
		list = slices.DeleteFunc(list,
			func(p keystore.Plan) bool { return p.Namespace != in.Namespace })
	}
	return list, err
}

func (a *API) createPlan(
	ctx context.Context, c manage.Caller, r *api.PlanRequest,
) (*keystore.Plan, error) {
	var wrong fields
	plan := keystore.Plan{Namespace: r.Namespace, Name: r.Name, Description: r.Description,
		Limits: wrong.limits(r.RateLimit, r.Quota)}
	return a.keys.CreatePlan(wrong.in(ctx), c, plan)
}

func (a *API) editPlan(
	ctx context.Context, c manage.Caller, id string, r *api.PlanPatch, o manage.ChangeOptions,
) (*keystore.Plan, node.Propagation, error) {
	plan, err := a.keys.FindPlan(ctx, c, planID(id))
	if err != nil {
		return nil, node.Propagation{}, err
	}
	var wrong fields
	wrong.fixed("namespace", r.Namespace, plan.Namespace)
	wrong.fixed("name", r.Name, plan.Name)
	patch := manage.PlanPatch{Description: sent(r.Description, ""),
		Limits: wrong.limitsPatch(r.RateLimit, r.Quota)}
	return a.keys.EditPlan(wrong.in(ctx), c, planID(id), patch, o)
}
