package console

import (
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

type keyPage struct {
	Key     api.Key
	Status  string // see api.Key.EffectiveStatus
	Names   map[string]string
	May     []effect
	Root    bool // whether it acts for root, which has no limits
	Rotate  bool // whether the visitor may rotate its token
	Limits  keyLimits
	Usage   *usagePart // nil: the visitor may not see it
	Spent   *quotaUse  // nil: it has no quota, or its use is not known
	History []event
	More    bool   // whether the history has more rows
	Code    []code // nil: the visitor may not create a key like it
	Derive  []code // nil: requests with the key, or with derived tokens, are refused
}

func showKey(v *visit) error {
	chosen, ok := v.chosenRange()
	if !ok {
		return nil
	}
	k, err := v.api.FindKey(v.ctx, v.r.PathValue("id"))
	if err != nil {
		return err
	}
	stored, err := v.keys.FindKey(v.ctx, v.Caller, k.ID)
	if err != nil {
		return err
	}
	p := keyPage{Key: k, Status: k.EffectiveStatus(), Names: v.names(),
		Root:   k.Owner == keystore.RootMember,
		Rotate: k.Status != string(keystore.StatusExpired) && v.keys.MayRotate(v.Caller, stored),
		Limits: effectiveLimits(v.keys.Policy(), stored)}
	for _, g := range v.keys.Policy().Explain(stored) {
		p.May = append(p.May, effectOf(g, p.Refused()))
	}
	v.addUsage(&p, chosen, stored)
	if v.may("admin.audit:read") {
		rows, err := v.api.ListAudit(v.ctx, client.AuditFilter{Object: k.ID, Limit: pageSize})
		if err != nil {
			return err
		}
		p.More = rows.NextCursor != nil
		for _, r := range rows.Items {
			p.History = append(p.History, event{r, v.change(r), actionWords(r.Action)})
		}
	}
	if !p.Refused() && !v.keys.Settings().Derive.Off {
		p.Derive = deriveCode(k)
	}
	if v.mayIn("admin.keys:create", k.Namespace) {
		p.Code = v.mintCode(v.likeKey(k))
	}
	return v.show("key", shownName(k.Name, k.Prefix), p)
}

// Refused reports whether requests with the key are refused.
func (p keyPage) Refused() bool { return p.Status != string(keystore.StatusActive) }

// An effect is what a key may do through one of its grants, or could do if it is refused.
type effect struct {
	keystore.EffectiveGrant
	Every       bool // every call, except those that manage keys
	Permissions []keystore.Permission
}

// effectOf returns the effect of a grant. For a refused key it ignores the current permissions of
// the owner.
func effectOf(g keystore.EffectiveGrant, refused bool) effect {
	e := effect{EffectiveGrant: g, Permissions: g.Effective}
	if refused {
		e.Permissions = nil
		for _, s := range g.Sources {
			e.Permissions = append(e.Permissions, s.Permission)
		}
	}
	if e.Every = keystore.NewSet(e.Permissions...).Covers(everything); e.Every {
		e.Permissions = slices.DeleteFunc(slices.Clone(e.Permissions),
			func(p keystore.Permission) bool { return !p.IsAdmin() })
	}
	return e
}

// everything is the permission for every call.
var everything = keystore.Permission{Action: "*"}

// addUsage adds the usage of a key to its page.
func (v *visit) addUsage(p *keyPage, chosen timeRange, k *keystore.Key) {
	p.Usage = v.usagePart(chosen, p.Limits.Quota,
		func(s manage.UsageSpan) (*manage.Usage, error) {
			return v.keys.KeyUsage(v.ctx, v.Caller, k.ID, s)
		})
	if p.Usage.Problem != "" {
		return
	}
	var err error
	if p.Spent, err = v.spent(k.ID, p.Limits.Quota); err != nil {
		p.Usage.Problem = v.usageProblem(err)
	}
}

// keyLimits are the limits that a key has, without those of its namespace.
type keyLimits struct {
	Plan    *keystore.Plan // nil: none
	Default bool           // whether it is the default plan of the namespace
	Rate    *api.RateLimit // nil: no limit
	Quota   *api.Quota
}

func effectiveLimits(d *keystore.Directory, k *keystore.Key) keyLimits {
	name := k.Plan
	if ns := d.Namespace(k.Namespace); name == "" && ns != nil {
		name = ns.DefaultPlan
	}
	l := keyLimits{Plan: d.PlanFor(k.Namespace, name), Default: k.Plan == ""}
	l.Rate, l.Quota = limitsAsShown(d.KeyLimits(k.Namespace, k.KeyLimits))
	return l
}

// home returns a namespace as far as the visitor may know it. A visitor that creates or edits keys
// there must know its rules for keys.
func (v *visit) home(id string) api.Namespace {
	if ns, err := v.api.FindNamespace(v.ctx, id); err == nil {
		return ns
	}
	known := api.Namespace{ID: id}
	if ns := v.keys.Policy().Namespace(id); ns != nil && v.changesKeys(id) {
		known.EditPolicy, known.KeyRoles, known.Reach = string(ns.EditPolicy), ns.KeyRoles, ns.Reach
		if ns.DefaultPlan != "" {
			known.DefaultPlan = &ns.DefaultPlan
		}
	}
	return known
}

// changesKeys reports whether the visitor may create or edit keys in a namespace.
func (v *visit) changesKeys(namespace string) bool {
	return v.mayIn("admin.keys:create", namespace) || v.mayIn("admin.keys:update", namespace)
}

// Reach lists the kinds of descendants of a namespace in which grants of keys apply too, for data
// permissions, as far as the visitor may know them.
func (v *visit) Reach(namespace string) []string {
	if ns := v.keys.Policy().Namespace(namespace); ns != nil &&
		(v.mayIn("admin.namespaces:read", namespace) || v.changesKeys(namespace)) {
		return ns.Reach
	}
	return nil
}

// An event is a row of a key's history.
type event struct {
	api.AuditRow
	change
	Words string
}

// actions has the words of a key's history for actions of the audit log.
var actions = map[string]string{
	"key.mint": "Created", "key.import": "Imported", "key.edit": "Edited",
	"key.rotate": "Token rotated", "key.revoke": "Revoked", "key.delete": "Deleted",
	"key.expiring": "Expires soon", "key.expired": "Expired", "key.unused": "Unused",
	"key.leaked": "Token leaked",
}

func actionWords(action string) string {
	if words, ok := actions[action]; ok {
		return words
	}
	return labelOf(auditActions, action)
}
