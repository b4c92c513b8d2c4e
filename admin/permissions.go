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
		Summary: "List operations and their permissions",
		Tags:    []string{"permissions"},
		Description: "Lists the operations that the `api_key` handlers of this node declare, " +
			"sorted by permission. `read`, `write`, `*`, `RESOURCE:read`, `RESOURCE:write` and " +
			"`RESOURCE:*` are permissions as well.",
	}, "admin.keys:read", a.listPermissions)
}

// Declare replaces the permission table. Until the first call, requests for it get 503.
func (a *API) Declare(operations []api.Operation) {
	operations = slices.Clone(operations)
	slices.SortStableFunc(operations, compareOperations)
	// several sites may import the same snippet
	operations = slices.CompactFunc(operations,
		func(a, b api.Operation) bool { return compareOperations(a, b) == 0 })
	a.declared.Store(&operations)
}

const stillLoading = "the configuration is still loading; try again"

// A Request is a request that a [Rule] decides about.
type Request struct {
	Method string
	Target string     // path and query
	Host   string     // with or without a port; empty: any
	Client netip.Addr // the zero Addr: unknown
	Token  string
}

// A Ruling is the decision of a handler about a request before it asks the key store.
type Ruling struct {
	Outcome keystore.Outcome // OK: the decision depends on the key
	// Namespace is the id of the namespace that the request accesses; empty: the key's own.
	Namespace string
	Need      keystore.Need // the permission that the request requires
}

// A Rule returns the rulings of all `api_key` handlers that a request passes, in order: at least
// one, or an error.
type Rule func(Request) ([]Ruling, error)

// RuleBy sets the rule that decides about requests. Until the first call, requests to verify a path
// get 503.
func (a *API) RuleBy(rule Rule) { a.rule.Store(&rule) }

// compareOperations sorts the table. It ignores summaries.
func compareOperations(a, b api.Operation) int {
	return cmp.Or(cmp.Compare(a.Permission, b.Permission), cmp.Compare(a.Method, b.Method),
		cmp.Compare(a.Path, b.Path), cmp.Compare(a.Class, b.Class))
}

type listPermissionsInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the previous page"`
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

// operationCursor returns a cursor that holds the last operation of a page, so that it stays valid
// when the table changes.
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
		wrong.add("cursor", "must be the next_cursor of a previous page")
		return o, wrong.err()
	}
	return o, nil
}
