// Package route compiles the part of an api_key's configuration that says what a call is: path
// patterns, the permission table with the operations of OpenAPI documents, and lists. It knows
// keystore's words for permissions and neither Caddy nor a key. Start reading at [Pattern], then
// [Table]; target.go says which paths and URIs are unambiguous enough to be judged at all.
package route

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TableConfig is what a [Table] is compiled from.
type TableConfig struct {
	// Methods has the class of each method that is not refused everywhere.
	Methods map[string]keystore.Class
	// Resource is the resource of calls that are no operation; it may be empty.
	Resource string
	// Strict makes calls that are no operation undeclared.
	Strict bool
	// Operations go before those of Documents.
	Operations []Operation
	Documents  []OpenAPI
}

// A Table is the permission table of a handler. It says which permission a call needs. It may be
// used by several goroutines.
type Table struct {
	// Declared are the operations of the configuration, for the management API.
	Declared []api.Operation
	// LeftOut are the operations of documents that skip_unsupported leaves out, each with the
	// reason.
	LeftOut []string

	index    *index
	resource string
	strict   bool
}

// An operation is a row of the permission table: what one call takes.
type operation struct {
	method  string
	pattern Pattern
	need    keystore.Need
	summary string
	place   string // where it is declared, for errors

	leftOut bool // by skip_unsupported: its calls are undeclared
	// parameters that make a call undeclared, because an operation with them is left out
	queries []string
}

// Need returns what a call on a canonical escaped path needs. class is that of its method.
func (t *Table) Need(method, path, query string, class keystore.Class) keystore.Need {
	if o := t.index.find(method, path); o != nil && !o.leftOut && !hasParameter(query, o.queries) {
		return o.need
	}
	return keystore.Need{Class: class, Resource: t.resource, Undeclared: t.strict}
}

// A tableBuilder collects the operations of a table.
type tableBuilder struct {
	*TableConfig
	table *Table
	list  []operation
	taken map[string]int // what an operation matches → its position in list
}

// NewTable compiles a permission table. Of a call that several operations match, see index. It
// reads the documents that are not read yet. An error that a later line of the Caddyfile may fix is
// an [Incomplete].
func NewTable(config TableConfig) (*Table, error) {
	t := &Table{resource: config.Resource, strict: config.Strict}
	b := tableBuilder{TableConfig: &config, table: t, taken: make(map[string]int)}
	for _, o := range config.Operations {
		if err := b.addWritten(o); err != nil {
			return nil, fmt.Errorf("operation: %w", err)
		}
	}
	b.finish(0)
	written := len(b.list)
	clear(b.taken) // a written operation and a document's may be for the same calls
	if err := b.addDocuments(); err != nil {
		return nil, err
	}
	b.finish(written)
	if t.strict && len(t.Declared) == 0 {
		return nil, Incomplete{errors.New("strict without any operation would forbid every call: " +
			"declare some by `operation` or `openapi`")}
	}
	t.index = newIndex(b.list)
	return t, nil
}

// finish is called after the last operation of one origin. The first of them has the position from.
func (b *tableBuilder) finish(from int) {
	for _, o := range b.list[from:] {
		if o.leftOut {
			continue
		}
		b.table.Declared = append(b.table.Declared, api.Operation{
			Permission: o.need.String(), Class: o.need.Class.String(), Method: o.method,
			Path: o.pattern.text, Summary: o.summary,
		})
	}
	b.addHead(from)
}

// add appends an operation unless another one is for the same calls.
func (b *tableBuilder) add(o operation) error {
	if i, taken := b.taken[o.shape()]; taken {
		return b.clash(&o, i)
	}
	b.append(o)
	return nil
}

func (b *tableBuilder) append(o operation) {
	b.taken[o.shape()] = len(b.list)
	b.list = append(b.list, o)
}

// clash says that o is for the same calls as the operation with the index i.
func (b *tableBuilder) clash(o *operation, i int) error {
	return fmt.Errorf("%s %s is %s already (%s): remove one of them", redact.Argument(o.method),
		redact.Argument(o.pattern.text), b.list[i].need, redact.Argument(b.list[i].place))
}

// shape is the same for operations that are for the same calls.
func (o *operation) shape() string { return o.method + o.pattern.shape() }

// shape is the same for patterns that match the same paths, but for case.
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

func (b *tableBuilder) addWritten(o Operation) error {
	resource, name, ok := strings.Cut(o.Permission, ":")
	if !ok || !keystore.ValidOperation(name) {
		return fmt.Errorf("%q is no RESOURCE:OPERATION, such as orders:search (read, write and * "+
			"cannot be operations)", redact.Argument(o.Permission))
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
	// A pattern that asks for less than the method does must not match what the upstream takes for
	// another path: one that minds case takes /orders/SEARCH for /orders/{id}, and so do many for
	// /orders/%73earch.
	p, err := ParsePattern(o.Path, class < usual)
	if err != nil {
		return fmt.Errorf("%s: %w", redact.Argument(o.Permission), err)
	}
	if err := b.add(operation{method: o.Method, pattern: p,
		need:  keystore.Need{Class: class, Resource: resource, Operation: name},
		place: o.Path}); err != nil {
		return fmt.Errorf("%s: %w", redact.Argument(o.Permission), err)
	}
	return nil
}

// addHead makes HEAD take what GET takes (RFC 9110 §9.3.2), but for operations that are declared
// for HEAD themselves.
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
