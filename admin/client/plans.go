package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const plansPath = api.Prefix + "/plans"

func planPath(namespace, name string) string {
	return plansPath + "/" + url.PathEscape(namespace) + "/" + url.PathEscape(name)
}

// CreatePlan creates a plan.
func (c *Client) CreatePlan(ctx context.Context, spec api.PlanRequest) (api.Plan, error) {
	return call[api.Plan](ctx, c, send(http.MethodPost, plansPath, spec))
}

// ListPlans returns one page of the plans of a namespace, newest first. The namespace [Shared]
// selects shared plans, and an empty one all plans. cursor is the NextCursor of the previous page.
// limit is the size of the page: at most 1000, 0 means 100.
func (c *Client) ListPlans(
	ctx context.Context, namespace, cursor string, limit int,
) (api.Plans, error) {
	r := get(plansPath)
	r.parameter("namespace", namespace)
	r.page(cursor, limit)
	return call[api.Plans](ctx, c, r)
}

// AllPlans iterates over the plans of a namespace, newest first: see [Client.ListPlans]. Iteration
// stops after an error.
func (c *Client) AllPlans(ctx context.Context, namespace string) iter.Seq2[api.Plan, error] {
	return all("", func(cursor string) (api.Plans, error) {
		return c.ListPlans(ctx, namespace, cursor, maxPage)
	})
}

// FindPlan returns a plan.
func (c *Client) FindPlan(ctx context.Context, namespace, name string) (api.Plan, error) {
	return call[api.Plan](ctx, c, get(planPath(namespace, name)))
}

// EditPlan applies patch to a plan, for every key that has it.
func (c *Client) EditPlan(
	ctx context.Context, namespace, name string, patch api.PlanPatch, options ...ChangeOption,
) (api.PlanChanged, error) {
	return call[api.PlanChanged](ctx, c,
		send(http.MethodPatch, planPath(namespace, name), patch, options...))
}

// DeletePlan deletes a plan that is not in use.
func (c *Client) DeletePlan(
	ctx context.Context, namespace, name string, options ...ChangeOption,
) (api.PlanChanged, error) {
	return call[api.PlanChanged](ctx, c,
		send(http.MethodDelete, planPath(namespace, name), nil, options...))
}
