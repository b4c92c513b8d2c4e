package caddymodule

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

// A tableBuilder makes the permission table of a handler.
type tableBuilder struct {
	rules *rules
	list  []operation
	taken map[string]int // what an operation matches → its index
}

func (c *rules) addTable(h *Handler) error {
	b := tableBuilder{rules: c, taken: make(map[string]int)}
	for _, o := range h.Operation {
		if err := b.addWritten(o); err != nil {
			return fmt.Errorf("operation: %w", err)
		}
	}
	b.finish(0)
	written := len(b.list)
	clear(b.taken) // what is written by hand goes before a document's operation for the same calls
	if err := b.addDocuments(h); err != nil {
		return err
	}
	b.finish(written)
	if c.strict && len(c.declared) == 0 {
		return unfinished{errors.New("strict without any operation would forbid every call: " +
			"declare some by `operation` or `openapi`")}
	}
	c.table = newTable(b.list)
	return nil
}

// finish is called once all operations of one origin are there, the first of them at the index
// from.
func (b *tableBuilder) finish(from int) {
	for _, o := range b.list[from:] {
		if o.leftOut {
			continue
		}
		b.rules.declared = append(b.rules.declared, api.Operation{
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
func (p *pattern) shape() string {
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
	if err := checkResource(redact.Argument(o.Permission), resource); err != nil {
		return err
	}
	class, err := parseClass(redact.Argument(o.Permission), o.Class)
	if err != nil {
		return err
	}
	usual, mapped := b.rules.methods[o.Method]
	if !mapped {
		return unmappedMethod(o.Permission, o.Method, o.Class)
	}
	// A pattern that asks for less than the method does must not match what the upstream takes for
	// another path: one that minds case takes /orders/SEARCH for /orders/{id}, and so do many for
	// /orders/%73earch.
	p, err := configuredPattern(o.Path, class < usual)
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
	if _, mapped := b.rules.methods[http.MethodHead]; !mapped {
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
