package manage

import (
	"context"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// ListPlans returns the plans that the caller may read, newest first. A caller that may read plans
// in any namespace may read the shared ones.
func (k *Keystore) ListPlans(ctx context.Context, c Caller) ([]keystore.Plan, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminPlans, "read"); err != nil {
		return nil, err
	}
	var list []keystore.Plan
	for _, p := range auth.policy.AllPlans() {
		if auth.mayReadShareable(adminPlans, p.Namespace) {
			list = append(list, *p)
		}
	}
	return list, nil
}

// FindPlan returns a plan that the caller may read.
func (k *Keystore) FindPlan(
	ctx context.Context, c Caller, id keystore.PlanID,
) (*keystore.Plan, error) {
	list, err := k.ListPlans(ctx, c)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(p keystore.Plan) bool { return p.ID() == id })
	if i < 0 {
		return nil, notFound("plan")
	}
	return &list[i], nil
}

// CreatePlan creates a plan with the Namespace, Name, Description and Limits of spec.
func (k *Keystore) CreatePlan(
	ctx context.Context, c Caller, spec keystore.Plan,
) (*keystore.Plan, error) {
	var plan *keystore.Plan
	err := k.add(ctx, c, 0, func(tx keystore.Tx, auth authority) error {
		plan = &keystore.Plan{
			Namespace: spec.Namespace, Name: spec.Name, Description: spec.Description,
			Limits: spec.Limits, CreatedAt: tx.Now(), Version: 1,
		}
		if !auth.may(adminPlans, "create", plan.Namespace) {
			return permissionRequired(adminPlans, "create")
		}
		if err := checkPlan(plan, auth.policy); err != nil {
			return err
		}
		if err := checkNameFree("plan", plan.ID(), auth.policy.PlanIDs()); err != nil {
			return err
		}
		if err := auth.checkCovers(plan.Over(keystore.Limits{})); err != nil {
			return err
		}
		if err := tx.InsertPlan(plan); err != nil {
			return nameTaken(err, "plan", plan.Namespace, plan.Name)
		}
		if _, err := k.checkCapacity(tx, auth, false); err != nil {
			return err
		}
		return audit(tx, auth, "plan.create", plan.Name, plan.Touches(), nil, plan)
	})
	return plan, err
}

func checkPlan(plan *keystore.Plan, d *keystore.Directory) error {
	var p fieldErrors
	p.shareable(d, plan.Namespace, plan.Name, plan.Description)
	p.limits(plan.Limits)
	return p.err()
}

// planFor returns a plan on which the caller may perform an operation. It checks the version.
func planFor(
	auth authority, operation string, id keystore.PlanID, o ChangeOptions,
) (*keystore.Plan, error) {
	plan := auth.policy.Plan(id)
	if err := auth.requireOnShareable(adminPlans, operation, id.Namespace, "plan",
		plan != nil); err != nil {
		return nil, err
	}
	return plan, o.check(plan.Version)
}

// A PlanPatch describes changes of a plan. Nil fields change nothing.
type PlanPatch struct {
	Description *string
	Limits      LimitsPatch
}

// A LimitsPatch describes changes of limits. Nil fields change nothing.
type LimitsPatch struct {
	Rate  *keystore.RateLimit // the zero value removes the limit
	Quota *keystore.Quota     // the zero value removes the quota
}

func (patch LimitsPatch) apply(l *keystore.Limits) {
	set(&l.Rate, patch.Rate)
	set(&l.Quota, patch.Quota)
}

// whole reports whether the patch replaces all limits.
func (patch LimitsPatch) whole() bool { return patch.Rate != nil && patch.Quota != nil }

// EditPlan changes a plan. The change applies to every key that has the plan.
func (k *Keystore) EditPlan(
	ctx context.Context, c Caller, id keystore.PlanID, patch PlanPatch, o ChangeOptions,
) (*keystore.Plan, node.Propagation, error) {
	var plan *keystore.Plan
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) error {
		before, err := planFor(auth, "update", id, o)
		if err != nil {
			return err
		}
		after := *before
		set(&after.Description, patch.Description)
		patch.Limits.apply(&after.Limits)
		if after.Unreadable = ""; before.Unreadable != "" && !patch.Limits.whole() {
			return rowUnreadable("rate_limit and quota", before.Unreadable)
		}
		after.Version++
		if err := checkPlan(&after, auth.policy); err != nil {
			return err
		}
		limits := after.Over(keystore.Limits{})
		if err := auth.checkCovers(limits); err != nil {
			return err
		}
		if err := tx.UpdatePlan(&after); err != nil {
			return err
		}
		lowers := before.Unreadable == "" && before.Over(keystore.Limits{}).Covers(limits)
		if _, err := k.checkCapacity(tx, auth, lowers); err != nil {
			return err
		}
		plan = &after
		return audit(tx, auth, "plan.edit", id.Name, before.Touches(), before, &after)
	})
	return plan, p, err
}

// DeletePlan deletes a plan that is not in use, and returns it as it was.
func (k *Keystore) DeletePlan(
	ctx context.Context, c Caller, id keystore.PlanID, o ChangeOptions,
) (*keystore.Plan, node.Propagation, error) {
	var plan *keystore.Plan
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) (err error) {
		if plan, err = planFor(auth, "delete", id, o); err != nil {
			return err
		}
		use, err := planInUse(tx, auth, id)
		if err != nil {
			return err
		}
		if use != "" {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
				Detail: "the plan is in use: " + use, ID: id.Name}
		}
		if err := tx.DeletePlan(id); err != nil {
			return err
		}
		return audit(tx, auth, "plan.delete", id.Name, plan.Touches(), plan, nil)
	})
	return plan, p, err
}

// planInUse describes an object that names a plan, or returns the empty string if there is none. It
// names the object only if the caller may read it.
func planInUse(tx keystore.Tx, auth authority, id keystore.PlanID) (string, error) {
	for _, ns := range auth.policy.AllNamespaces() {
		if ns.DefaultPlan == id.Name &&
			(ns.ID == id.Namespace || id.Namespace == keystore.AnyNamespace) {
			return describeUse(auth.may(adminNamespaces, "read", ns.ID), "namespace", ns.ID,
				"names it as default_plan"), nil
		}
	}
	user, err := tx.PlanInUse(id)
	if err != nil || user == "" {
		return "", err
	}
	key, err := tx.Key(user)
	if err != nil {
		return "", err
	}
	return describeUse(auth.mayReadKey(key.ID, key.Namespace, key.Owner), "key", key.ID,
		"names it; give such keys another plan, or revoke and delete them"), nil
}

// limits checks the limits of a key, a plan or a namespace.
func (p *fieldErrors) limits(l keystore.Limits) {
	if defect := l.Rate.Defect(); defect != "" && !p.about("rate_limit") {
		p.add("rate_limit", "%s", defect)
	}
	if defect := l.Quota.Defect(); defect != "" && !p.about("quota") {
		p.add("quota", "%s", defect)
	}
}

// plan checks that keys whose home is this namespace can have the plan: it must be one of that
// namespace or a shared one.
func (p *fieldErrors) plan(d *keystore.Directory, field, home, name string) {
	if name == "" || d.PlanFor(home, name) != nil {
		return
	}
	namespace, short, qualified := strings.Cut(name, "/")
	switch {
	case qualified && namespace != home && namespace != keystore.AnyNamespace:
		p.add(field, "must be the name of a plan of namespace %q or of a shared one, without a "+
			"namespace: keys cannot have plans of other namespaces", home)
	case qualified:
		p.add(field, "must be the name of a plan without its namespace: %q", short)
	default:
		p.add(field, "plan %q does not exist in namespace %q and is not shared; create it first",
			name, home)
	}
}
