package admin

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const namespacesPath = api.Prefix + "/namespaces"

func (a *API) registerNamespaces() {
	register(a, huma.Operation{
		OperationID: "create-namespace", Method: http.MethodPost, Path: namespacesPath, Summary: "Create a namespace", Tags: []string{"namespaces"},
		DefaultStatus: http.StatusCreated, RequestBody: jsonBody(true, api.JSON),
	}, "admin.namespaces:create", a.createNamespace)
	register(a, huma.Operation{
		OperationID: "list-namespaces", Method: http.MethodGet, Path: namespacesPath, Summary: "List namespaces, newest first", Tags: []string{"namespaces"},
	}, "admin.namespaces:read", a.listNamespaces)
	register(a, huma.Operation{
		OperationID: "show-namespace", Method: http.MethodGet, Path: namespacesPath + "/{id}", Summary: "Show a namespace", Tags: []string{"namespaces"},
	}, "admin.namespaces:read", a.showNamespace)
	register(a, huma.Operation{
		OperationID: "edit-namespace", Method: http.MethodPatch, Path: namespacesPath + "/{id}", Summary: "Edit a namespace", Tags: []string{"namespaces"},
		RequestBody: jsonBody(true, api.JSON, api.MergePatch),
	}, "admin.namespaces:update", a.editNamespace, mayPend)
	register(a, huma.Operation{
		OperationID: "delete-namespace", Method: http.MethodDelete, Path: namespacesPath + "/{id}", Summary: "Delete an empty namespace", Tags: []string{"namespaces"},
	}, "admin.namespaces:delete", a.deleteNamespace, mayPend)
}

func showNamespace(ns *keystore.Namespace) api.Namespace {
	policy := ns.EditPolicy
	if policy == "" {
		policy = keystore.EditFree
	}
	return api.Namespace{
		ID: ns.ID, Kind: ns.Kind, Name: ns.Name, EditPolicy: string(policy), Reach: []string{}, CreatedAt: ns.CreatedAt, Version: ns.Version,
	}
}

type createNamespaceInput struct{ Body api.NamespaceRequest }

func (a *API) createNamespace(ctx context.Context, c keystore.Caller, in *createNamespaceInput) (*made[api.Namespace], error) {
	r := &in.Body
	var unbuilt fields
	unbuilt.notBuilt("parent", r.Parent != nil)
	unbuilt.notBuilt("reach", len(r.Reach) > 0)
	unbuilt.notBuilt("key_roles", len(r.KeyRoles) > 0)
	unbuilt.notBuilt("token_prefix", r.TokenPrefix != "")
	if err := unbuilt.err(codeNotBuilt); err != nil {
		return nil, err
	}
	ns, err := a.keys.CreateNamespace(ctx, c, keystore.Namespace{ID: r.ID, Kind: r.Kind, Name: r.Name, EditPolicy: keystore.EditPolicy(r.EditPolicy)})
	if err != nil {
		return nil, err
	}
	return &made[api.Namespace]{etag(ns.Version), namespacesPath + "/" + ns.ID, showNamespace(ns)}, nil
}

type listNamespacesInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"next_cursor of the page before"`
}

func (a *API) listNamespaces(ctx context.Context, c keystore.Caller, in *listNamespacesInput) (*page[api.Namespaces], error) {
	list, err := a.keys.ListNamespaces(ctx, c)
	if err != nil {
		return nil, err
	}
	list, next, err := pageOf(list, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	out := api.Namespaces{Items: make([]api.Namespace, len(list)), NextCursor: nilIfEmpty(next)}
	for i := range list {
		out.Items[i] = showNamespace(&list[i])
	}
	return &page[api.Namespaces]{out}, nil
}

func (a *API) showNamespace(ctx context.Context, c keystore.Caller, in *ByID) (*object[api.Namespace], error) {
	ns, err := a.keys.FindNamespace(ctx, c, in.ID)
	if err != nil {
		return nil, err
	}
	return &object[api.Namespace]{etag(ns.Version), showNamespace(ns)}, nil
}

type editNamespaceInput struct {
	ByID
	Change
	Body api.NamespacePatch
}

func (a *API) editNamespace(ctx context.Context, c keystore.Caller, in *editNamespaceInput) (*changed[api.NamespaceChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	r := &in.Body
	var unbuilt fields
	unbuilt.notBuilt("parent", r.Parent.Value != nil)
	unbuilt.notBuilt("reach", len(r.Reach.Or(nil)) > 0)
	unbuilt.notBuilt("key_roles", len(r.KeyRoles.Or(nil)) > 0)
	unbuilt.notBuilt("token_prefix", r.TokenPrefix.Or("") != "")
	if err := unbuilt.err(codeNotBuilt); err != nil {
		return nil, err
	}
	if r.ID.Sent || r.Kind.Sent {
		if err := a.checkFixed(ctx, c, in); err != nil {
			return nil, err
		}
	}
	patch := keystore.NamespacePatch{Name: sent(r.Name, ""), EditPolicy: (*keystore.EditPolicy)(sent(r.EditPolicy, string(keystore.EditFree)))}
	ns, p, err := a.keys.EditNamespace(ctx, c, in.ID, patch, o)
	return namespaceChanged(ns, p, err)
}

// checkFixed refuses another id or kind. They never change, so it need not be in the transaction.
func (a *API) checkFixed(ctx context.Context, c keystore.Caller, in *editNamespaceInput) error {
	ns, err := a.keys.FindNamespace(ctx, c, in.ID)
	if err != nil {
		return err
	}
	var wrong fields
	if in.Body.ID.Sent && in.Body.ID.Or("") != ns.ID {
		wrong.add("id", "never changes")
	}
	if in.Body.Kind.Sent && in.Body.Kind.Or("") != ns.Kind {
		wrong.add("kind", "never changes")
	}
	return wrong.err(codeInvalid)
}

type deleteNamespaceInput struct {
	ByID
	Change
}

func (a *API) deleteNamespace(ctx context.Context, c keystore.Caller, in *deleteNamespaceInput) (*changed[api.NamespaceChanged], error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	ns, p, err := a.keys.DeleteNamespace(ctx, c, in.ID, o)
	return namespaceChanged(ns, p, err)
}

func namespaceChanged(ns *keystore.Namespace, p keystore.Propagation, err error) (*changed[api.NamespaceChanged], error) {
	if err != nil {
		return nil, err
	}
	return &changed[api.NamespaceChanged]{changedStatus(p), etag(ns.Version), api.NamespaceChanged{Namespace: showNamespace(ns), Propagation: propagation(p)}}, nil
}

// pageOf cuts one page out of all namespaces. The cursor is the last one's age and id, so that it stays good when that one goes.
func pageOf(list []keystore.Namespace, cursor string, limit int) (part []keystore.Namespace, next string, err error) {
	slices.SortFunc(list, func(a, b keystore.Namespace) int { return comparePlace(placeOf(&a), placeOf(&b)) })
	if cursor != "" {
		after, err := parsePlace(cursor)
		if err != nil {
			return nil, "", err
		}
		list = list[firstAfter(list, after):]
	}
	if len(list) <= limit {
		return list, "", nil
	}
	return list[:limit], placeOf(&list[limit-1]).String(), nil
}
