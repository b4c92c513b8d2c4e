package admin

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A kind describes one kind of objects and the operations that all kinds have. V is an object in
// the key store, T its wire type, P a patch and C the answer to a change.
type kind[V, T, P, C any] struct {
	one, many string
	of        string // the path of one object below the list; empty: "/{id}"
	deletes   string // the summary of the delete operation

	identify func(*V) identity
	show     func(*V) T
	answer   func(T, keystore.Token, api.Propagation) C

	find func(ctx context.Context, c manage.Caller, id string) (*V, error)
	edit func(ctx context.Context, c manage.Caller, id string, patch *P,
		o manage.ChangeOptions) (*V, node.Propagation, error)
	remove func(ctx context.Context, c manage.Caller, id string,
		o manage.ChangeOptions) (*V, node.Propagation, error)
}

// identity holds the attributes that all kinds of objects have.
type identity struct {
	id      string // for a role or a plan: its namespace, a slash and its name
	created time.Time
	version int64
	size    int64 // in bytes of memory
}

// ByID holds the id of one object, taken from the path. It is exported because huma sets it by
// reflection.
type ByID struct{ ID string }

// Resolve implements huma.Resolver.
func (b *ByID) Resolve(ctx huma.Context) []error {
	var parts []string
	for _, p := range pathParameters(ctx.Operation().Path) {
		parts = append(parts, ctx.Param(p.Name))
	}
	b.ID = strings.Join(parts, "/")
	return nil
}

var inBraces = regexp.MustCompile(`{(\w+)}`)

func pathParameters(path string) (list []*huma.Param) {
	for _, name := range inBraces.FindAllStringSubmatch(path, -1) {
		list = append(list, &huma.Param{Name: name[1], In: "path", Required: true,
			Schema: &huma.Schema{Type: huma.TypeString}})
	}
	return list
}

func (k *kind[V, T, P, C]) list() string { return api.Prefix + "/" + k.many }

func (k *kind[V, T, P, C]) permission(operation string) string {
	return "admin." + k.many + ":" + operation
}

// operation describes an operation on one object. Its id begins with verb and its path ends with
// below.
func (k *kind[V, T, P, C]) operation(verb, method, below, summary string) huma.Operation {
	path := k.of
	if path == "" {
		path = "/{id}"
	}
	return huma.Operation{
		OperationID: verb + "-" + k.one, Method: method, Path: k.list() + path + below,
		Summary: summary, Tags: []string{k.many},
	}
}

type editInput[P any] struct {
	ByID
	Change
	Body P
}

type showInput struct {
	ByID
	Unless
}

type deleteInput struct {
	ByID
	Change
}

// registerOne adds the operations on one object.
func (k *kind[V, T, P, C]) registerOne(a *API) {
	register(a, k.operation("show", http.MethodGet, "", "Show a "+k.one), k.permission("read"),
		func(ctx context.Context, c manage.Caller, in *showInput) (*object[T], error) {
			v, err := k.find(ctx, c, in.ID)
			if err != nil {
				return nil, err
			}
			version := k.identify(v).version
			return &object[T]{in.status(version), etag(version), k.show(v)}, nil
		}, mayMatch)
	edit := k.operation("edit", http.MethodPatch, "", "Edit a "+k.one)
	edit.RequestBody = jsonBody(true, api.JSON, api.MergePatch)
	register(a, edit, k.permission("update"),
		func(ctx context.Context, c manage.Caller, in *editInput[P]) (*changed[C], error) {
			o, err := in.options()
			if err != nil {
				return nil, err
			}
			v, p, err := k.edit(ctx, c, in.ID, &in.Body, o)
			return k.changed(v, keystore.Token{}, p, err)
		}, mayPend)
	register(a, k.operation("delete", http.MethodDelete, "", k.deletes), k.permission("delete"),
		func(ctx context.Context, c manage.Caller, in *deleteInput) (*changed[C], error) {
			o, err := in.options()
			if err != nil {
				return nil, err
			}
			v, p, err := k.remove(ctx, c, in.ID, o)
			return k.changed(v, keystore.Token{}, p, err)
		}, mayPend)
}

// changed returns the answer to a change.
func (k *kind[V, T, P, C]) changed(
	v *V, token keystore.Token, p node.Propagation, err error,
) (*changed[C], error) {
	if err != nil {
		return nil, err
	}
	return &changed[C]{changedStatus(p), etag(k.identify(v).version),
		k.answer(k.show(v), token, propagation(p))}, nil
}

type createInput[R any] struct{ Body R }

// Paging holds the parameters of a page of a list. A cursor has room for a key's name, which has up
// to 200 characters, in base64. The type is exported because huma sets it by reflection.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" maxLength:"1200" doc:"The next_cursor of the previous page"`
}

func (p Paging) paging() Paging { return p }

// registerAll adds the operations on the list of a kind that is small enough to be held in memory.
// I holds the parameters of the list, and R is the request to create an object.
func registerAll[I interface{ paging() Paging }, R, V, T, P, C any](a *API, k *kind[V, T, P, C],
	list func(context.Context, manage.Caller, *I) ([]V, error),
	create func(context.Context, manage.Caller, *R) (*V, error)) {
	register(a, huma.Operation{
		OperationID: "create-" + k.one, Method: http.MethodPost, Path: k.list(),
		Summary: "Create a " + k.one, Tags: []string{k.many},
		DefaultStatus: http.StatusCreated, RequestBody: jsonBody(true, api.JSON),
	}, k.permission("create"),
		func(ctx context.Context, c manage.Caller, in *createInput[R]) (*created[T], error) {
			v, err := create(ctx, c, &in.Body)
			if err != nil {
				return nil, err
			}
			is := k.identify(v)
			return &created[T]{etag(is.version), k.list() + "/" + is.id, k.show(v)}, nil
		})
	register(a, huma.Operation{
		OperationID: "list-" + k.many, Method: http.MethodGet, Path: k.list(),
		Summary: "List " + k.many + ", newest first", Tags: []string{k.many},
	}, k.permission("read"),
		func(ctx context.Context, c manage.Caller, in *I) (*page[api.Page[T]], error) {
			all, err := list(ctx, c, in)
			if err != nil {
				return nil, err
			}
			at := (*in).paging()
			part, next, err := k.pageOf(all, at.Cursor, at.Limit)
			if err != nil {
				return nil, err
			}
			if err := accountOf(ctx).take(listCopies * k.size(part)); err != nil {
				return nil, err
			}
			return showPage(part, next, k.show), nil
		})
}

// showPage returns a page of a list as an answer.
func showPage[V, T any](list []V, next string, show func(*V) T) *page[api.Page[T]] {
	out := api.Page[T]{Items: make([]T, len(list)), NextCursor: nilIfEmpty(next)}
	for i := range list {
		out.Items[i] = show(&list[i])
	}
	return &page[api.Page[T]]{out}
}

// pageOf returns one page of all objects, limited to about keystore.PageBytes. The cursor holds the
// creation time and id of the last object, so it stays valid if that object is deleted.
func (k *kind[V, T, P, C]) pageOf(
	list []V, cursor string, limit int,
) (part []V, next string, err error) {
	at := func(v *V) position {
		is := k.identify(v)
		return position{is.created.UnixMicro(), is.id}
	}
	slices.SortFunc(list, func(a, b V) int { return comparePositions(at(&a), at(&b)) })
	if cursor != "" {
		after, err := parsePosition(cursor)
		if err != nil {
			return nil, "", err
		}
		first := slices.IndexFunc(list,
			func(v V) bool { return comparePositions(at(&v), after) > 0 })
		if first < 0 {
			first = len(list)
		}
		list = list[first:]
	}
	n := 0
	for left := int64(keystore.PageBytes); n < min(len(list), limit) && left > 0; n++ {
		left -= k.identify(&list[n]).size
	}
	if n == len(list) {
		return list, "", nil
	}
	return list[:n], at(&list[n-1]).String(), nil
}

// size returns the memory that objects take, in bytes.
func (k *kind[V, T, P, C]) size(list []V) (n int64) {
	for i := range list {
		n += k.identify(&list[i]).size
	}
	return n
}
