package route

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// List names a call whose response is a JSON list of namespaces of one kind. The response is
// filtered: it keeps the key's home namespace, the ancestors of that, and the namespaces in which
// the key allows this call (docs/api_key.md, rule 15).
type List struct {
	// The method. GET includes HEAD.
	Method string `json:"method"`
	// The path pattern.
	Path string `json:"path"`
	// The kind of the namespaces.
	Kind string `json:"kind"`
	// The path to the array in the response: names of fields joined with dots. Default is that the
	// response is the array.
	Items string `json:"items,omitempty"`
	// The path to the id in an element: names of fields joined with dots. Default is that an
	// element is an id, or has one in `id`.
	ID string `json:"id,omitempty"`
}

// A ListRule is a validated [List].
type ListRule struct {
	List
	// ItemsPath and IDPath are the names in Items and ID.
	ItemsPath, IDPath []string

	pattern Pattern
}

// Lists are the calls whose responses are filtered, by method.
type Lists map[string][]ListRule

// NewLists validates a configuration. methods has the classes of methods. A method without a class
// is refused everywhere. An error that a later line of the Caddyfile may fix is an [Incomplete].
func NewLists(configured []List, methods map[string]keystore.Class) (Lists, error) {
	l := make(Lists)
	for _, list := range configured {
		if _, mapped := methods[list.Method]; !mapped {
			return nil, fmt.Errorf("list: %w", unmappedMethod(list.Path, list.Method, "read"))
		}
		if err := l.add(list); err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
	}
	// The rules of GET apply to HEAD (RFC 9110 §9.3.2), unless HEAD has a rule for the same paths.
	if _, mapped := methods[http.MethodHead]; mapped {
		own := l[http.MethodHead]
		for _, get := range l[http.MethodGet] {
			if !slices.ContainsFunc(own,
				func(r ListRule) bool { return r.pattern.same(&get.pattern) }) {
				l[http.MethodHead] = append(l[http.MethodHead], get)
			}
		}
	}
	for _, rules := range l {
		sortByPattern(rules, func(r *ListRule) *Pattern { return &r.pattern })
	}
	return l, nil
}

func (l Lists) add(list List) error {
	if list.Kind == "" {
		return fmt.Errorf("%s: the kind of the namespaces is missing", redact.Argument(list.Path))
	}
	p, err := ParsePattern(list.Path, false)
	if err != nil {
		return err
	}
	rule := ListRule{pattern: p, List: list}
	if rule.ItemsPath, err = parseNames("items", list.Items); err != nil {
		return fmt.Errorf("%s: %w", redact.Argument(list.Path), err)
	}
	if rule.IDPath, err = parseNames("id", list.ID); err != nil {
		return fmt.Errorf("%s: %w", redact.Argument(list.Path), err)
	}
	for _, other := range l[list.Method] {
		if other.pattern.same(&p) {
			return fmt.Errorf("%s %s already lists %s (%s): remove one of them",
				redact.Argument(list.Method), redact.Argument(list.Path),
				redact.Argument(other.Kind), redact.Argument(other.Path))
		}
	}
	l[list.Method] = append(l[list.Method], rule)
	return nil
}

// parseNames splits names that are joined with dots. Errors begin with option.
func parseNames(option, text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	names := strings.Split(text, ".")
	if slices.Contains(names, "") {
		return nil, fmt.Errorf("%s: %q has an empty name: must be names joined with dots, such as "+
			"data.items", option, redact.Argument(text))
	}
	return names, nil
}

// Find returns the rule for a call on a canonical escaped path, or nil.
func (l Lists) Find(method, path string) *ListRule {
	for i, rules := 0, l[method]; i < len(rules); i++ {
		if _, ok := rules[i].pattern.Match(path); ok {
			return &rules[i]
		}
	}
	return nil
}
