// Package route matches requests with the configuration of an api_key handler: path patterns, the
// permission table with the operations of OpenAPI documents, and filtered lists. It knows
// permissions as package keystore defines them, and neither Caddy nor keys. Start reading at
// [Pattern] and [Table]. target.go decides which paths and URIs are unambiguous.
package route

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route/openapi"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TableConfig is the configuration of a [Table].
type TableConfig struct {
	// Methods are the classes of methods. A method without a class is refused everywhere.
	Methods map[string]keystore.Class
	// Resource is the resource of calls that match no operation. It may be empty.
	Resource string
	// Strict makes calls that match no operation undeclared.
	Strict bool
	// Operations are the configured operations. If their patterns are equally literal, they take
	// precedence over operations of Documents.
	Operations []Operation
	// Documents are the OpenAPI documents whose operations are added.
	Documents []OpenAPI
}

// A Table is the permission table of a handler. It returns the permission that a call needs. It is
// immutable and may be used concurrently.
type Table struct {
	// Declared are all operations, for the management API.
	Declared []api.Operation
	// LeftOut are the operations that skip_unsupported leaves out of the documents, each with the
	// reason.
	LeftOut []string

	index    *index
	resource string
	strict   bool
	// permissions are those of calls that match no operation, by class.
	permissions [keystore.UnknownClass + 1]string
}

// An operation is a row of the permission table: the need and the cost of one call.
type operation struct {
	method  string
	pattern Pattern
	need    keystore.Need
	text    string // of need
	cost    int64  // in units; 0 stands for 1
	summary string
	place   string // of the declaration, for errors

	leftOut bool // by skip_unsupported: its calls are undeclared
	// queries are parameters that make a call undeclared, because an operation with them is left
	// out.
	queries []string
}

// Need returns the need of a call on a canonical escaped path, its text, and its cost in units.
// class is the class of its method.
func (t *Table) Need(
	method, path, query string, class keystore.Class,
) (need keystore.Need, text string, cost int64) {
	cost = 1
	switch o := t.index.find(method, path); {
	case o != nil:
		cost = max(1, o.cost)
		if !o.leftOut && !hasParameter(query, o.queries) {
			return o.need, o.text, cost
		}
	case method == http.MethodOptions:
		cost = t.index.maxCost(path)
	}
	return t.unmatched(class), t.permissions[class], cost
}

// unmatched returns the need of a call that matches no operation.
func (t *Table) unmatched(class keystore.Class) keystore.Need {
	return keystore.Need{Class: class, Resource: t.resource, Undeclared: t.strict}
}

// A tableBuilder collects the operations of a table.
type tableBuilder struct {
	*TableConfig
	table *Table
	list  []operation
	taken map[string]int // shape of an operation → its position in list
}

// NewTable compiles a permission table. It reads the documents that have not been read. If several
// operations match a call, the most literal pattern wins, as documented at index. An error that a
// later line of the Caddyfile may fix is an [Incomplete].
func NewTable(config TableConfig) (*Table, error) {
	t := &Table{resource: config.Resource, strict: config.Strict}
	for class := range keystore.UnknownClass + 1 {
		t.permissions[class] = t.unmatched(class).String()
	}
	b := tableBuilder{TableConfig: &config, table: t, taken: make(map[string]int)}
	for _, o := range config.Operations {
		if err := b.addConfigured(o); err != nil {
			return nil, fmt.Errorf("operation: %w", err)
		}
	}
	b.finish(0)
	configured := len(b.list)
	clear(b.taken) // a configured operation may override one of a document
	if err := b.addDocuments(); err != nil {
		return nil, err
	}
	b.finish(configured)
	if t.strict && len(t.Declared) == 0 {
		return nil, Incomplete{errors.New("strict without any operation would forbid every call: " +
			"declare operations with `operation` or `openapi`")}
	}
	t.index = newIndex(b.list)
	return t, nil
}

// finish completes the operations of one origin, which are b.list[from:].
func (b *tableBuilder) finish(from int) {
	for _, o := range b.list[from:] {
		if o.leftOut {
			continue
		}
		b.table.Declared = append(b.table.Declared, api.Operation{
			Permission: o.text, Class: o.need.Class.String(), Method: o.method,
			Path: o.pattern.text, Summary: o.summary,
		})
	}
	b.addHead(from)
}

// add appends an operation. It returns an error if another one matches the same calls.
func (b *tableBuilder) add(o operation) error {
	if i, taken := b.taken[o.shape()]; taken {
		return b.duplicate(&o, i)
	}
	b.append(o)
	return nil
}

func (b *tableBuilder) append(o operation) {
	o.text = o.need.String()
	b.taken[o.shape()] = len(b.list)
	b.list = append(b.list, o)
}

// duplicate returns the error for an operation that matches the same calls as the one at position
// i of the list.
func (b *tableBuilder) duplicate(o *operation, i int) error {
	return fmt.Errorf("%s %s already requires %s (%s): remove one of them",
		redact.Argument(o.method), redact.Argument(o.pattern.text), b.list[i].need,
		redact.Argument(b.list[i].place))
}

// shape returns a key that operations share if they match the same calls.
func (o *operation) shape() string { return o.method + o.pattern.shape() }

// shape returns a key that patterns share if they match the same paths, except for case.
func (p *Pattern) shape() string {
	var shape strings.Builder
	for _, s := range p.segments {
		shape.WriteByte('/')
		switch {
		case s.literal != "":
			shape.WriteString(ascii.ToLower(s.literal))
		case s.mixed != "":
			shape.WriteString(s.mixed)
		default:
			shape.WriteString(parameter)
		}
	}
	if p.rest {
		shape.WriteString("//")
	}
	return shape.String()
}

// addConfigured adds an operation of the configuration.
func (b *tableBuilder) addConfigured(o Operation) error {
	resource, name, ok := strings.Cut(o.Permission, ":")
	if !ok || !keystore.ValidOperation(name) {
		return fmt.Errorf("%q must be RESOURCE:OPERATION, such as orders:search (read, write and "+
			"* are not operations)", redact.Argument(o.Permission))
	}
	if err := CheckResource(redact.Argument(o.Permission), resource); err != nil {
		return err
	}
	class, err := ParseClass(redact.Argument(o.Permission), o.Class)
	if err != nil {
		return err
	}
	usual, mapped := b.Methods[o.Method]
	if !mapped {
		return unmappedMethod(o.Permission, o.Method, o.Class)
	}
	// A pattern with a lower class than the method is exact: it must not match a path that the
	// upstream routes elsewhere. A case-sensitive upstream routes /orders/SEARCH to /orders/{id},
	// and many upstreams do the same with /orders/%73earch.
	p, err := ParsePattern(o.Path, class < usual)
	if err != nil {
		return fmt.Errorf("%s: %w", redact.Argument(o.Permission), err)
	}
	if o.Cost != 0 && !openapi.ValidCost(o.Cost) {
		return fmt.Errorf("%s: cost %d: must be 1 to %d", redact.Argument(o.Permission), o.Cost,
			openapi.MaxCost)
	}
	if err := b.add(operation{method: o.Method, pattern: p,
		need: keystore.Need{Class: class, Resource: resource, Operation: name},
		cost: o.Cost, place: o.Path}); err != nil {
		return fmt.Errorf("%s: %w", redact.Argument(o.Permission), err)
	}
	return nil
}

// addHead gives HEAD the operations of GET (RFC 9110 §9.3.2), except where the same path has its
// own operation for HEAD.
func (b *tableBuilder) addHead(from int) {
	if _, mapped := b.Methods[http.MethodHead]; !mapped {
		return
	}
	for _, o := range b.list[from:] {
		if _, own := b.taken[http.MethodHead+o.pattern.shape()]; o.method == http.MethodGet &&
			!own {
			o.method = http.MethodHead
			b.list = append(b.list, o)
		}
	}
}
