package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/jsonlist"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// List names a call whose answer, in JSON, lists namespaces of one kind. The answer is filtered:
// what stays is the key's own namespace, those that it lies in, and those where the key allows this
// call.
type List struct {
	// The method. GET takes in HEAD.
	Method string `json:"method"`
	// The path pattern.
	Path string `json:"path"`
	// The kind of the namespaces.
	Kind string `json:"kind"`
	// The names, joined with dots, that lead to the array in the answer. Default is that the answer
	// is the array.
	Items string `json:"items,omitempty"`
	// The names, joined with dots, that lead to the id in an element. Default is that an element is
	// an id, or has one in `id`.
	ID string `json:"id,omitempty"`
}

// listRule is a List, checked and made fit for requests.
type listRule struct {
	pattern pattern
	List
	items, id []string
}

func (c *rules) addLists(h *Handler) error {
	if h.Forwarded != "" && len(h.List) > 0 {
		return errors.New("list: with forwarded no answer of the API comes by here: filter it " +
			"where the API is proxied")
	}
	for _, l := range h.List {
		if err := c.addList(l); err != nil {
			return fmt.Errorf("list: %w", err)
		}
	}
	// HEAD takes what GET takes (RFC 9110 §9.3.2), but for what is declared for HEAD itself
	if _, mapped := c.methods[http.MethodHead]; mapped {
		own := c.lists[http.MethodHead]
		for _, get := range c.lists[http.MethodGet] {
			if !slices.ContainsFunc(own,
				func(l listRule) bool { return l.pattern.same(&get.pattern) }) {
				c.lists[http.MethodHead] = append(c.lists[http.MethodHead], get)
			}
		}
	}
	for _, lists := range c.lists {
		sortPatterns(lists, func(l *listRule) *pattern { return &l.pattern })
	}
	return nil
}

func (c *rules) addList(l List) error {
	if _, mapped := c.methods[l.Method]; !mapped {
		return unmappedMethod(l.Path, l.Method, "read")
	}
	if l.Kind == "" {
		return fmt.Errorf("%s: the kind of the namespaces is missing", redact.Argument(l.Path))
	}
	p, err := configuredPattern(l.Path, false)
	if err != nil {
		return err
	}
	compiled := listRule{pattern: p, List: l}
	if compiled.items, err = parseNames("items", l.Items); err != nil {
		return fmt.Errorf("%s: %w", redact.Argument(l.Path), err)
	}
	if compiled.id, err = parseNames("id", l.ID); err != nil {
		return fmt.Errorf("%s: %w", redact.Argument(l.Path), err)
	}
	for _, other := range c.lists[l.Method] {
		if other.pattern.same(&p) {
			return fmt.Errorf("%s %s lists %s already (%s): remove one of them",
				redact.Argument(l.Method),
				redact.Argument(l.Path), redact.Argument(other.Kind), redact.Argument(other.Path))
		}
	}
	c.lists[l.Method] = append(c.lists[l.Method], compiled)
	return nil
}

// parseNames splits names that are joined with dots.
func parseNames(option, text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	names := strings.Split(text, ".")
	if slices.Contains(names, "") {
		return nil, fmt.Errorf("%s: %q has an empty name: it takes names joined with dots, such "+
			"as data.items", option, redact.Argument(text))
	}
	return names, nil
}

// list returns the list that a call is for, or nil.
func (c *rules) list(call *call) *listRule {
	for i, lists := 0, c.lists[call.method]; i < len(lists); i++ {
		if _, ok := lists[i].pattern.match(call.path); ok {
			return &lists[i]
		}
	}
	return nil
}

// partial are request headers that ask for less than the whole list: for a part of it, for nothing
// if it has not changed, or for what has (RFC 9110 §13.1 and §14, RFC 3229); or for a tunnel
// instead.
var partial = []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since",
	"If-Unmodified-Since", "A-Im", "Upgrade"}

// serveNext lets a call go on, and filters the answer if it is a list.
func (h *Handler) serveNext(
	c *call, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	l := h.rules.list(c)
	if l == nil {
		return next.ServeHTTP(w, r)
	}
	for _, name := range partial {
		delete(r.Header, name)
	}
	r.Header["Accept-Encoding"] = []string{"identity"} // without it, Go's client asks for gzip
	// not c, which would be allocated for every call
	record, policy, need := c.record, c.policy, c.need
	a := newListAnswer(w, r, jsonlist.Filter{Items: l.items, ID: l.id, Keep: func(id string) bool {
		return record != nil && record.Sees(policy, policy.Namespace(id), l.Kind, need)
	}})
	cause, err := a.serve(r, next)
	if cause == nil {
		return err
	}
	if !a.gone && r.Context().Err() == nil {
		h.logger.Error("the API's answer to a call of `list` cannot be filtered, so the client "+
			"does not get it",
			zap.String("list", l.Method+" "+l.Path), zap.String("key", c.request.keyID()),
			zap.Error(cause))
	}
	switch {
	case a.sent: // in part: it must not look complete
		panic(http.ErrAbortHandler)
	case h.Preflight != nil:
		h.Preflight.allowOrigin(w.Header(), r.Header)
	}
	if h.Errors != "" {
		return caddyhttp.Error(http.StatusBadGateway, cause)
	}
	writeProblem(w, r, http.StatusBadGateway, unfilterable)
	return nil
}
