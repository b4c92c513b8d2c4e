package console

import (
	"cmp"
	"net/url"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const plansPath = Root + "/plans"

func planPages() []page {
	const one = plansPath + "/{namespace}/{name}"
	return []page{
		{"GET " + plansPath, "admin.plans:read", listPlans},
		{"GET " + plansPath + "/new", "admin.plans:create", newPlan},
		{"POST " + plansPath + "/new", "admin.plans:create", createPlan},
		{"GET " + one, "admin.plans:read", showPlan},
		{"GET " + one + "/edit", "admin.plans:update", editPlan},
		{"POST " + one + "/edit", "admin.plans:update", savePlan},
		{"GET " + one + "/delete", "admin.plans:delete", askToDeletePlan},
		{"POST " + one + "/delete", "admin.plans:delete", deletePlan},
	}
}

type plansPage struct {
	Plans []planLine
	Next  *string
}

// A planLine is a plan in a list.
type planLine struct {
	api.Plan
	Keys string // how many keys name it; empty: not counted
}

// PlanLink returns the address of a plan's page.
func (v *visit) PlanLink(namespace, name string, more ...string) string {
	return v.link(plansPath + "/" + url.PathEscape(namespace) + "/" +
		url.PathEscape(name) + strings.Join(more, ""))
}

func (v *visit) listPlans(cursor string, limit int) (api.Plans, error) {
	return v.api.ListPlans(v.ctx, "", cursor, limit)
}

// listPlans shows the plans that keys of the switcher's namespace can name: the namespace's own and
// the shared ones.
func listPlans(v *visit) error {
	var match func(api.Plan) bool
	if in, text := v.namespace(), v.query("q"); in+text != "" {
		match = func(p api.Plan) bool {
			return (in == "" || p.Namespace == in || p.Namespace == keystore.AnyNamespace) &&
				contains(text, p.Name, p.Description)
		}
	}
	list, next, err := selected(v.query("cursor"), v.listPlans, match)
	if err != nil {
		return err
	}
	page := plansPage{Next: next}
	for _, p := range list {
		page.Plans = append(page.Plans, planLine{p, v.keysWith(keystore.KeyFilter{Plan: p.Name,
			In: inNamespace(p.Namespace)})})
	}
	return v.show("plans", "Plans", page)
}

// planDependents returns the namespaces and keys that name a plan, as far as the visitor may see
// them, and whether there are more.
func (v *visit) planDependents(p api.Plan) (dependents []dependent, more bool) {
	for _, ns := range v.namespaces() {
		if ns.DefaultPlan != nil && *ns.DefaultPlan == p.Name &&
			(p.Namespace == ns.ID || p.Namespace == keystore.AnyNamespace) {
			dependents = append(dependents,
				dependent{Kind: "Default plan of namespace", Name: ns.ID,
					Link: v.NamespaceLink(ns.ID)})
		}
	}
	filter := client.KeyFilter{Plan: p.Name, Limit: maxDependents}
	if p.Namespace != keystore.AnyNamespace {
		filter.Home = p.Namespace
	}
	keys, err := v.api.ListKeys(v.ctx, filter)
	for _, k := range keys.Items {
		if err == nil {
			dependents = append(dependents, v.keyDependent(k))
		}
	}
	if len(dependents) > maxDependents {
		return dependents[:maxDependents], true
	}
	return dependents, keys.NextCursor != nil
}

// PlanKeys returns the address of the list of the keys that name a plan.
func (v *visit) PlanKeys(p api.Plan) string {
	return v.link(keysPath, "plan", p.Name, "namespace", inNamespace(p.Namespace))
}

type planPage struct {
	Plan       api.Plan
	Dependents []dependent
	More       bool
	Keys       string // see removal
}

func (v *visit) planFromPath() (api.Plan, error) {
	return v.api.FindPlan(v.ctx, v.r.PathValue("namespace"), v.r.PathValue("name"))
}

func showPlan(v *visit) error {
	p, err := v.planFromPath()
	if err != nil {
		return err
	}
	dependents, more := v.planDependents(p)
	return v.show("plan", p.Name, planPage{p, dependents, more, v.PlanKeys(p)})
}

type planForm struct {
	Plan   *api.Plan // nil: a new plan
	Places []choice  // namespaces for a new plan
	Rules  []choice  // for limits
}

// writePlanForm shows the form for a plan, or for a new one if plan is nil.
func (v *visit) writePlanForm(plan *api.Plan, f *form) error {
	p, title := planForm{Plan: plan, Rules: limitRules}, "Create plan"
	if plan == nil {
		p.Places = v.places("admin.plans:create", "Shared by all namespaces")
	} else {
		title = "Edit " + plan.Name
	}
	return v.again("plan_form", title, p, f)
}

func newPlan(v *visit) error {
	f := v.kept()
	if f == nil {
		f = blank("namespace", v.namespace())
		f.setLimits(nil, nil)
		f.values.Set("rate_limit_rule", limited)
	}
	return v.writePlanForm(nil, f)
}

func createPlan(v *visit) error {
	f := v.form()
	step := f.again()
	if step != "" && step != codeStep {
		return v.writePlanForm(nil, f)
	}
	spec := api.PlanRequest{
		Namespace: f.Value("namespace"), Name: strings.TrimSpace(f.Value("name")),
		Description: strings.TrimSpace(f.Value("description")),
		RateLimit:   f.rateLimit(), Quota: f.quota(),
	}
	if step == codeStep {
		if f.require("name"); f.Ok() {
			f.Code = v.createCode("/plans", spec, planCommand(spec))
		}
		return v.writePlanForm(nil, f)
	}
	created, err := v.api.CreatePlan(v.refusing(f), spec)
	if err != nil {
		if f.fail(err) {
			return v.writePlanForm(nil, f)
		}
		return err
	}
	return v.done(v.PlanLink(created.Namespace, created.Name),
		notice{Title: "Plan " + created.Name + " created", Text: "Keys can now use it."})
}

func planEdit(p api.Plan) *edit {
	now := blank("description", p.Description)
	now.setLimits(bounds(p.RateLimit, p.Quota))
	return newEdit("plan", p.Name, p.Namespace, p.Version, now, func(f *form) (l aspectList) {
		l.text(f, "description", "Description")
		l.limits(f.copied(), "No limit")
		return l
	})
}

func editPlan(v *visit) error {
	p, err := v.planFromPath()
	if err != nil {
		return err
	}
	return v.writePlanForm(&p, cmp.Or(v.kept(), planEdit(p).now))
}

func savePlan(v *visit) error {
	p, err := v.planFromPath()
	if err != nil {
		return err
	}
	f := v.form()
	again := func() error { return v.writePlanForm(&p, f) }
	if v.merge(planEdit(p), f) || f.again() != "" {
		return again()
	}
	rate, quota := bounds(p.RateLimit, p.Quota)
	patch := api.PlanPatch{RateLimit: f.rateChange(rate), Quota: f.quotaChange(quota)}
	if p.Unreadable != "" { // both limits have to be set
		patch.RateLimit = api.Optional[api.RateLimit]{Sent: true, Value: f.rateLimit()}
		patch.Quota = api.Optional[api.Quota]{Sent: true, Value: f.quota()}
	}
	if f.values.Has("description") {
		patch.Description = api.Some(strings.TrimSpace(f.Value("description")))
	}
	done, err := v.api.EditPlan(v.refusing(f), p.Namespace, p.Name, patch, f.ifVersion(),
		client.Wait(shortWait))
	if err != nil {
		return unsaved(v, f, err, savePlan, again)
	}
	return v.changed(v.PlanLink(p.Namespace, p.Name),
		"Changes saved for all keys that have the plan", done.Propagation)
}

func (v *visit) planRemoval(p api.Plan) removal {
	r := removal{
		Section: "Plans", Kind: "plan", Name: p.Name, List: v.link(plansPath),
		Back: v.PlanLink(p.Namespace, p.Name),
		Text: "Keys can no longer use the plan. The audit log keeps its changes.",
	}
	r.Dependents, r.More = v.planDependents(p)
	r.Keys = v.PlanKeys(p)
	return r
}

func askToDeletePlan(v *visit) error {
	p, err := v.planFromPath()
	if err != nil {
		return err
	}
	return v.ask("delete", "Delete "+p.Name, v.planRemoval(p))
}

func deletePlan(v *visit) error {
	p, err := v.planFromPath()
	if err != nil {
		return err
	}
	done, err := v.api.DeletePlan(v.ctx, p.Namespace, p.Name, client.Wait(shortWait))
	if err != nil {
		f := v.form()
		if f.fail(err) {
			return v.again("delete", "Delete "+p.Name, v.planRemoval(p), f)
		}
		return err
	}
	return v.changed(v.link(plansPath), "Plan "+p.Name+" deleted", done.Propagation)
}
