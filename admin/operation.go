package admin

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/danielgtaylor/huma/v2"
)

// permissionKey is the key under which the metadata of an operation holds its permission.
const permissionKey = "permission"

// storeTimeout bounds the database calls of an operation. Waiting for propagation is not included.
const storeTimeout = 10 * time.Second

func (a *API) config() huma.Config {
	schemas := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	alias[string](schemas)
	alias[bool](schemas)
	alias[time.Time](schemas)
	alias[api.RateLimit](schemas)
	alias[api.Quota](schemas)
	alias[api.IdleRule](schemas)
	schemas.RegisterTypeAlias(reflect.TypeFor[api.Optional[[]string]](),
		reflect.TypeFor[[]string]())
	schemas.RegisterTypeAlias(reflect.TypeFor[api.Optional[[]api.GrantRequest]](),
		reflect.TypeFor[[]api.GrantRequest]())
	schemas.RegisterTypeAlias(reflect.TypeFor[api.Optional[[]api.NewRole]](),
		reflect.TypeFor[[]api.NewRole]())
	schemas.RegisterTypeAlias(reflect.TypeFor[api.Optional[map[string]*string]](),
		reflect.TypeFor[map[string]*string]())
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			Info: &huma.Info{
				Title:   "caddy-apikeys",
				Version: "1",
				Description: "API keys in front of an existing API. At Caddy's admin " +
					"endpoint the caller is the member root. On a site the caller is the " +
					"member or key whose token is sent as a bearer token; it needs the " +
					"permission that the operation names.",
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{
				Schemas: schemas,
				SecuritySchemes: map[string]*huma.SecurityScheme{"key": {Type: "http",
					Scheme: "bearer"}},
			},
		},
		Formats: map[string]huma.Format{
			"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat,
		},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{a.translate},
	}
}

// alias describes an optional value as a nullable one.
func alias[T any](r huma.Registry) {
	r.RegisterTypeAlias(reflect.TypeFor[api.Optional[T]](), reflect.TypeFor[*T]())
}

// A trait changes how an operation is registered.
type trait int

const (
	mayPend  trait = iota // may answer 202, while the change is not in force on every node
	streams               // reads or writes a stream of any length, for any time
	mayMatch              // may answer 304 to If-None-Match
	judges                // checks the values in its body itself
)

// register adds an operation. The caller must hold permission in some namespace, unless it is
// empty. Members pass without it, except to create objects. The key store decides about the object
// itself.
func register[I, O any](
	a *API, op huma.Operation, permission string,
	handle func(context.Context, manage.Caller, *I) (*O, error), traits ...trait,
) {
	op.Middlewares = append(op.Middlewares, a.authorize)
	op.Security = []map[string][]string{{"key": {}}}
	if permission != "" {
		op.Description = strings.TrimSpace(op.Description + "\n\nRequires `" + permission + "`.")
		op.Metadata = map[string]any{permissionKey: permission}
	}
	add(a, op, func(ctx context.Context, in *I) (*O, error) {
		return handle(ctx, callerOf(ctx), in)
	}, traits...)
}

// add adds an operation that requires no caller.
func add[I, O any](
	a *API, op huma.Operation, handle func(context.Context, *I) (*O, error), traits ...trait,
) {
	streaming := slices.Contains(traits, streams)
	op.Parameters = pathParameters(op.Path)
	problems := a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Problem](), true, "")
	op.Responses = map[string]*huma.Response{"default": {
		Description: "A problem document (RFC 9457)",
		Content:     map[string]*huma.MediaType{api.Problems: {Schema: problems}},
	}}
	op.Middlewares = append(op.Middlewares, a.withParameters)
	if op.RequestBody != nil {
		body := a.withBody
		switch {
		case streaming:
			body = a.withStream
		case slices.Contains(traits, judges):
			body = a.withJSON
		}
		op.Middlewares = append(op.Middlewares, body)
		op.MaxBodyBytes, op.SkipValidateBody = -1, true // withBody has checked both
	}
	required := op.RequestBody != nil && op.RequestBody.Required
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		if !streaming {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, storeTimeout)
			defer cancel()
		}
		out, err := handle(ctx, in)
		accountOf(ctx).stopReading()
		if err != nil {
			return nil, a.refusal(&op, err)
		}
		return out, nil
	})
	if op.RequestBody != nil {
		op.RequestBody.Required = required // huma requires every body that is not a pointer
		for _, c := range op.RequestBody.Content {
			if c.Schema == nil {
				c.Schema = op.RequestBody.Content[api.JSON].Schema
			}
			if c.Schema != nil {
				a.refuseEmpty(c.Schema)
			}
		}
	}
	if slices.Contains(traits, mayMatch) {
		op.Responses["304"] = &huma.Response{Description: "The client has the current version",
			Headers: op.Responses["200"].Headers}
	}
	if slices.Contains(traits, mayPend) {
		op.Responses["202"] = &huma.Response{
			Description: "The change is made but not yet in force on every node: see " +
				"propagation.pending",
			Headers: op.Responses["200"].Headers,
			Content: op.Responses["200"].Content,
		}
	}
}

// jsonBody returns a body of the given media types.
func jsonBody(required bool, types ...string) *huma.RequestBody {
	b := &huma.RequestBody{Required: required, Content: make(map[string]*huma.MediaType)}
	for _, t := range types {
		b.Content[t] = &huma.MediaType{}
	}
	return b
}

func contentTypes(b *huma.RequestBody) []string { return slices.Sorted(maps.Keys(b.Content)) }

func callerOf(ctx context.Context) manage.Caller {
	c, _ := ctx.Value(callerKey{}).(manage.Caller)
	return c
}

// authorize refuses callers that lack the operation's permission in every namespace, before the
// request is parsed. It lets members pass, except to create objects.
func (a *API) authorize(ctx huma.Context, next func(huma.Context)) {
	c := callerOf(ctx.Context())
	if c.Actor() == "" {
		a.refuse(ctx, newProblem(http.StatusUnauthorized, keystore.Missing.Code(),
			"the token of a member, or of a key with admin permissions, is required; "+
				"send it as a bearer token"))
		return
	}
	if a.keys == nil {
		a.refuse(ctx, newProblem(http.StatusServiceUnavailable, keystore.Unavailable.Code(),
			a.notReached()))
		return
	}
	if permission, ok := ctx.Operation().Metadata[permissionKey].(string); ok {
		resource, operation, _ := strings.Cut(permission, ":")
		// A member may do some things with its own objects. The operation decides about those.
		own := len(c.Members()) > 0 && operation != "create"
		if err := a.keys.May(c, resource, operation); err != nil && !own {
			a.refuse(ctx, err)
			return
		}
	}
	next(ctx)
}

// notReached returns the detail of a problem whose cause is a nil key store.
func (a *API) notReached() string {
	const text = "the database has not been reached since this Caddy started; Caddy keeps retrying"
	if reason := a.reason.Load(); reason != nil && *reason != "" {
		return text + ": " + *reason
	}
	return text + "; its log says why"
}

// refuse answers with an error from a middleware.
func (a *API) refuse(ctx huma.Context, err error) {
	p := a.refusal(ctx.Operation(), err)
	for name, values := range p.GetHeaders() {
		ctx.SetHeader(name, values[0])
	}
	ctx.SetHeader("Content-Type", api.Problems)
	ctx.SetStatus(p.Status)
	_ = a.huma.Marshal(ctx.BodyWriter(), api.JSON, p.of(ctx.Context()))
}

// Change holds the parameters of every change of an existing object. It is exported because huma
// sets it by reflection.
type Change struct {
	Wait    string `query:"wait" doc:"How long to wait until the change is in force on every node, as a Go duration: 0s to 5m, default 10s" example:"30s"`
	IfMatch string `header:"If-Match" doc:"The ETag that the object must have, or a list of ETags"`
}

// Resolve implements huma.Resolver.
func (c *Change) Resolve(ctx huma.Context) []error {
	c.IfMatch = listed(ctx, "If-Match")
	if listed(ctx, "If-None-Match") != "" { // a changed object always exists
		return []error{newProblem(http.StatusPreconditionFailed, "version_mismatch",
			"If-None-Match applies to reads: use If-Match for a change")}
	}
	return nil
}

func (c *Change) options() (manage.ChangeOptions, error) {
	var wrong fields
	var o manage.ChangeOptions
	if tags := parseCondition(c.IfMatch); c.IfMatch != "" && !tags.any {
		// Weak tags match nothing here (RFC 9110 §13.1.1).
		o.IfVersion = -1
		if len(tags.strong) > 0 {
			o.IfVersion, o.OrVersions = tags.strong[0], tags.strong[1:]
		}
	}
	if c.Wait != "" {
		wait, err := time.ParseDuration(c.Wait)
		if err != nil || wait < 0 || wait > 5*time.Minute {
			wrong.add("wait", "must be a duration from 0s to 5m, such as 30s")
		}
		if o.Wait = wait; wait == 0 {
			o.Wait = -1 // zero means the default
		}
	}
	return o, wrong.err()
}

// etag returns the ETag of a version of an object.
func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// object is an answer with one object.
type object[T any] struct {
	Status int
	ETag   string `header:"ETag"`
	Body   T
}

// created is the answer to creating an object.
type created[T any] struct {
	ETag     string `header:"ETag"`
	Location string `header:"Location"`
	Body     T
}

// changed is the answer to a change. Its status is 202 while the change is not in force everywhere.
type changed[T any] struct {
	Status int
	ETag   string `header:"ETag"`
	Body   T
}

// page is an answer with a body only, such as one page of a list.
type page[T any] struct{ Body T }

func changedStatus(p node.Propagation) int {
	if p.Complete {
		return http.StatusOK
	}
	return http.StatusAccepted
}

func propagation(p node.Propagation) api.Propagation {
	out := api.Propagation{
		Revision: int64(p.Revision), Complete: p.Complete, Nodes: p.Nodes,
		Acknowledged: p.Acknowledged,
		MS:           p.Took.Milliseconds(), Pending: make([]api.PendingNode, len(p.Pending)),
	}
	for i, n := range p.Pending {
		out.Pending[i] = api.PendingNode(n)
	}
	return out
}

// nilIfEmpty returns nil, which JSON shows as null, for an empty string.
func nilIfEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func nilIfZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
