package admin

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/danielgtaylor/huma/v2"
)

const permissionsPath = api.Prefix + "/permissions"

func (a *API) registerPermissions() {
	register(a, huma.Operation{
		OperationID: "list-permissions", Method: http.MethodGet, Path: permissionsPath,
		Summary: "List the operations that have a permission of their own",
		Tags:    []string{"permissions"},
		Description: "The table of all `api_key` handlers of the node that answers, by " +
			"permission. Besides these, `read`, `write` and `*` are permissions, and so are " +
			"`RESOURCE:read`, `RESOURCE:write` and `RESOURCE:*`.",
	}, "admin.keys:read", a.listPermissions)
}

// Declare replaces the permission table. Until the first call there is none: callers get 503.
func (a *API) Declare(operations []api.Operation) {
	operations = slices.Clone(operations)
	slices.SortStableFunc(operations, compareOperations)
	// a snippet may be used by several sites
	operations = slices.CompactFunc(operations,
		func(a, b api.Operation) bool { return compareOperations(a, b) == 0 })
	a.declared.Store(&operations)
}

const stillLoading = "the configuration is still being loaded; try again"

// A Request is what [Rule] decides about.
type Request struct {
	Method string
	Target string     // path and query
	Host   string     // with or without a port; empty: any
	Client netip.Addr // the zero Addr: unknown
	Token  string
}

// A Ruling is what a handler decides about a request before it asks the key store.
type Ruling struct {
	Outcome keystore.Outcome // OK: the key decides
	// the id of the namespace that the request accesses; empty: the key's own
	Namespace string
	Need      keystore.Need
}

// A Rule returns the rulings of all `api_key` handlers that a request passes, in their order. There
// is at least one, or an error.
type Rule func(Request) ([]Ruling, error)

// RuleBy sets the handlers that decide about requests. Until the first call, callers who ask get
// 503.
func (a *API) RuleBy(rule Rule) { a.rule.Store(&rule) }

// compareOperations orders the table, whatever the summaries.
func compareOperations(a, b api.Operation) int {
	return cmp.Or(cmp.Compare(a.Permission, b.Permission), cmp.Compare(a.Method, b.Method),
		cmp.Compare(a.Path, b.Path), cmp.Compare(a.Class, b.Class))
}

type listPermissionsInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"next_cursor of the page before"`
}

func (a *API) listPermissions(
	_ context.Context, c manage.Caller, in *listPermissionsInput,
) (*page[api.Operations], error) {
	if err := a.keys.May(c, "admin.keys", "read"); err != nil {
		return nil, err
	}
	declared := a.declared.Load()
	if declared == nil {
		return nil, newProblem(http.StatusServiceUnavailable, keystore.Unavailable.Code(),
			stillLoading)
	}
	list := *declared
	if in.Cursor != "" {
		last, err := parseOperation(in.Cursor)
		if err != nil {
			return nil, err
		}
		i, found := slices.BinarySearchFunc(list, last, compareOperations)
		if found {
			i++
		}
		list = list[i:]
	}
	out := api.Operations{Items: list[:min(len(list), in.Limit)]}
	if len(list) > in.Limit {
		next := operationCursor(list[in.Limit-1])
		out.NextCursor = &next
	}
	if out.Items == nil {
		out.Items = []api.Operation{}
	}
	return &page[api.Operations]{out}, nil
}

// operationCursor is the last operation of a page, so that the next page fits when the table has
// changed meanwhile.
func operationCursor(o api.Operation) string {
	o.Summary = ""
	text, _ := json.Marshal(o)
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseOperation(cursor string) (o api.Operation, err error) {
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		var wrong fields
		wrong.add("cursor", "is none that a list has returned")
		return o, wrong.err(codeInvalid)
	}
	return o, nil
}
