package admin

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func (a *API) registerNamespaces() {
	k := &kind[keystore.Namespace, api.Namespace, api.NamespacePatch, api.NamespaceChanged]{
		one: "namespace", many: "namespaces", deletes: "Delete an empty namespace",
		identify: func(ns *keystore.Namespace) identity {
			return identity{ns.ID, ns.CreatedAt, ns.Version, ns.Size()}
		},
		show: showNamespace,
		answer: func(ns api.Namespace, _ keystore.Token, p api.Propagation) api.NamespaceChanged {
			return api.NamespaceChanged{Namespace: ns, Propagation: p}
		},
		find: func(ctx context.Context, c manage.Caller, id string) (*keystore.Namespace, error) {
			return a.keys.FindNamespace(ctx, c, id)
		},
		edit: a.editNamespace,
		remove: func(ctx context.Context, c manage.Caller, id string,
			o manage.ChangeOptions) (*keystore.Namespace, node.Propagation, error) {
			return a.keys.DeleteNamespace(ctx, c, id, o)
		},
	}
	registerAll(a, k, a.listNamespaces, a.createNamespace)
	k.registerOne(a)
}

type listNamespacesInput struct {
	Paging
	Q string `query:"q" maxLength:"200" doc:"A text that the id or the name contains; case is ignored"`
}

func (a *API) listNamespaces(
	ctx context.Context, c manage.Caller, in *listNamespacesInput,
) ([]keystore.Namespace, error) {
	list, err := a.keys.ListNamespaces(ctx, c)
	if text := strings.ToLower(in.Q); text != "" {
		list = slices.DeleteFunc(list, func(ns keystore.Namespace) bool {
			return !strings.Contains(strings.ToLower(ns.ID), text) &&
				!strings.Contains(strings.ToLower(ns.Name), text)
		})
	}
	return list, err
}

func showNamespace(ns *keystore.Namespace) api.Namespace {
	return api.Namespace{
		ID: ns.ID, Kind: ns.Kind, Parent: nilIfEmpty(ns.Parent), Name: ns.Name,
		EditPolicy: string(cmp.Or(ns.EditPolicy, keystore.EditFree)),
		Reach:      append([]string{}, ns.Reach...), KeyRoles: append([]string{}, ns.KeyRoles...),
		TokenPrefix: nilIfEmpty(ns.TokenPrefix),
		ChildPrefix: nilIfEmpty(ns.ChildPrefix),
		RateLimit:   showRate(ns.Rate), Quota: showQuota(ns.Quota),
		DefaultPlan: nilIfEmpty(ns.DefaultPlan),
		MaxLifetime: nilIfEmpty(keystore.LifetimeText(ns.MaxLifetime)), Idle: showIdle(ns.Idle),
		OnLeak:    string(cmp.Or(ns.OnLeak, keystore.LeakNotify)),
		CreatedAt: ns.CreatedAt, Version: ns.Version,
		Unreadable: ns.Unreadable,
	}
}

func (a *API) createNamespace(
	ctx context.Context, c manage.Caller, r *api.NamespaceRequest,
) (*keystore.Namespace, error) {
	var wrong fields
	ns := keystore.Namespace{
		ID: r.ID, Kind: r.Kind, Name: r.Name, EditPolicy: keystore.EditPolicy(r.EditPolicy),
		Reach: r.Reach, KeyRoles: r.KeyRoles, TokenPrefix: r.TokenPrefix,
		ChildPrefix: r.ChildPrefix, Limits: wrong.limits(r.RateLimit, r.Quota),
		DefaultPlan: r.DefaultPlan,
		Lifecycle: keystore.Lifecycle{MaxLifetime: wrong.lifetime("max_lifetime", r.MaxLifetime),
			Idle: wrong.idle(r.Idle), OnLeak: keystore.LeakAction(r.OnLeak)},
	}
	if r.Parent != nil {
		ns.Parent = *r.Parent
	}
	return a.keys.CreateNamespace(wrong.in(ctx), c, ns)
}

func (a *API) editNamespace(
	ctx context.Context, c manage.Caller, id string, r *api.NamespacePatch,
	o manage.ChangeOptions,
) (*keystore.Namespace, node.Propagation, error) {
	var wrong fields
	limits := wrong.limitsPatch(r.RateLimit, r.Quota)
	var maxLifetime *time.Duration
	if r.MaxLifetime.Sent {
		d := wrong.lifetime("max_lifetime", r.MaxLifetime.Or(""))
		maxLifetime = &d
	}
	var idle *keystore.IdleRule
	if r.Idle.Sent {
		rule := wrong.idle(r.Idle.Value)
		idle = &rule
	}
	if r.ID.Sent || r.Kind.Sent { // they never change, so no transaction is needed
		ns, err := a.keys.FindNamespace(ctx, c, id)
		if err != nil {
			return nil, node.Propagation{}, err
		}
		wrong.fixed("id", r.ID, ns.ID)
		wrong.fixed("kind", r.Kind, ns.Kind)
	}
	return a.keys.EditNamespace(wrong.in(ctx), c, id, manage.NamespacePatch{
		Name:       sent(r.Name, ""),
		EditPolicy: (*keystore.EditPolicy)(sent(r.EditPolicy, string(keystore.EditFree))),
		Parent:     sent(r.Parent, ""),
		Reach:      sent(r.Reach, nil), KeyRoles: sent(r.KeyRoles, nil),
		TokenPrefix: sent(r.TokenPrefix, ""),
		ChildPrefix: sent(r.ChildPrefix, ""),
		Limits:      limits, DefaultPlan: sent(r.DefaultPlan, ""),
		MaxLifetime: maxLifetime, Idle: idle,
		OnLeak: (*keystore.LeakAction)(sent(r.OnLeak, string(keystore.LeakNotify))),
	}, o)
}

// showIdle returns the wire type of a rule: nil for one that is not set.
func showIdle(r keystore.IdleRule) *api.IdleRule {
	if r == (keystore.IdleRule{}) {
		return nil
	}
	return &api.IdleRule{After: keystore.LifetimeText(r.After), Then: string(r.Then)}
}

func (f *fields) idle(r *api.IdleRule) keystore.IdleRule {
	if r == nil {
		return keystore.IdleRule{}
	}
	after := f.lifetime("idle.after", r.After)
	if r.After == "" {
		f.add("idle.after", "is required")
	}
	return keystore.IdleRule{After: after, Then: keystore.IdleAction(r.Then)}
}

// lifetime parses a time of the form 90d or 12h. An empty text is zero.
func (f *fields) lifetime(field, text string) time.Duration {
	if text == "" {
		return 0
	}
	d, err := keystore.ParseLifetime(text)
	if err != nil {
		f.add(field, "%s", err)
	}
	return d
}
