package admin

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// anything is the schema of values that the OpenAPI document does not describe.
var anything = new(huma.Schema)

// withParameters checks the query and the headers of an operation before huma reads them. huma
// treats an empty parameter as absent, uses the first of repeated ones and drops malformed ones, so
// a filter could be ignored.
func (a *API) withParameters(ctx huma.Context, next func(huma.Context)) {
	if err := checkParameters(ctx); err != nil {
		a.refuse(ctx, err)
		return
	}
	next(ctx)
}

func checkParameters(ctx huma.Context) error {
	target := ctx.URL()
	var wrong fields
	query, err := url.ParseQuery(target.RawQuery)
	if err != nil {
		return newProblem(http.StatusBadRequest, "syntax",
			"the query is malformed: percent-encode '%' as %25, ';' as %3B and '&' as %26 within "+
				"a value")
	}
	headers := make(map[string][]string)
	ctx.EachHeader(func(name, value string) { headers[name] = append(headers[name], value) })
	for name := range query {
		if keystore.ContainsToken(name) { // huma would repeat it
			wrong.add("query", holdsToken)
		}
	}
	for _, p := range ctx.Operation().Parameters {
		switch p.In {
		case "query":
			wrong.parameter(p.Name, query[p.Name])
		case "header":
			values := headers[textproto.CanonicalMIMEHeaderKey(p.Name)]
			if len(values) > 1 && strings.HasPrefix(p.Name, "If-") { // a list on several lines
				values = []string{strings.Join(values, ", ")}
			}
			wrong.parameter(p.Name, values)
		case "path":
			switch id := ctx.Param(p.Name); {
			case !printable(id):
				return newProblem(http.StatusNotFound, "not_found",
					"ids consist of printable characters")
			case keystore.ContainsToken(id):
				return newProblem(http.StatusNotFound, "not_found",
					"this is a token, not an id; others may have seen it, so rotate its key")
			}
		}
	}
	return wrong.err()
}

// parameter checks the values of one parameter.
func (f *fields) parameter(name string, values []string) {
	switch {
	case len(values) == 0:
	case len(values) > 1:
		f.add(name, "must be given once")
	case slices.Contains(values, ""):
		f.add(name, "must not be empty; leave it out instead")
	case !printable(strings.Join(values, "")):
		f.add(name, "must be UTF-8 without control characters")
	case keystore.ContainsToken(values[0]):
		f.add(name, holdsToken)
	}
}

// holdsToken is the error of a field that is stored or repeated in answers and contains a token.
const holdsToken = "must not contain a token; if the token works, rotate its key"

// printable reports whether every database can store and compare s.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// refuseEmpty requires at least one character in each text field of a body, except fields with the
// tag `minLength:"0"`. In the others, an empty string would be treated as absent, such as that of an
// unset variable in a script.
func (a *API) refuseEmpty(s *huma.Schema) {
	schemas := a.huma.OpenAPI().Components.Schemas
	for s.Ref != "" {
		s = schemas.SchemaFromRef(s.Ref)
	}
	if s.Items != nil {
		a.refuseEmpty(s.Items)
	}
	for _, p := range s.Properties {
		if p.Type == huma.TypeString && p.MinLength == nil && len(p.Enum) == 0 && p.Format == "" {
			one := 1
			p.MinLength = &one
			p.PrecomputeMessages()
		} else if p.Type != huma.TypeString {
			a.refuseEmpty(p)
		}
	}
}

// mayBeEmpty reports whether a string has that tag: it may be empty, and null is treated as absent.
func mayBeEmpty(s *huma.Schema) bool { return s.MinLength != nil && *s.MinLength == 0 }

// inspect refuses three kinds of values that huma accepts: null for a string that is not nullable,
// which huma treats as absent; a token in a field that is not write-only; and a whole number such
// as 1e3 or 1.0, which encoding/json does not decode as an integer. It replaces the other integers
// in v, which are of type [json.Number], and marks names in v that differ from a known one only in
// their case with otherCase.
func (a *API) inspect(s *huma.Schema, v any, at string, wrong *fields) {
	for s.Ref != "" {
		s = a.huma.OpenAPI().Components.Schemas.SchemaFromRef(s.Ref)
	}
	switch v := v.(type) {
	case string:
		if keystore.ContainsToken(v) && !s.WriteOnly {
			wrong.add(strings.TrimPrefix(at, "."), holdsToken)
		}
	case []any:
		for i, element := range v {
			a.inspect(cmp.Or(s.Items, anything), element, at+"["+strconv.Itoa(i)+"]", wrong)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			p := s.Properties[name]
			if values, ok := s.AdditionalProperties.(*huma.Schema); ok && p == nil {
				p = values
			}
			other := p == nil && differsInCase(name, s.Properties)
			p = cmp.Or(p, anything)
			switch {
			case keystore.ContainsToken(name):
				wrong.add(cmp.Or(strings.TrimPrefix(at, "."), "body"), holdsToken)
			case v[name] == nil && p.Type == huma.TypeString && !p.Nullable && !mayBeEmpty(p):
				wrong.add(strings.TrimPrefix(at+"."+name, "."), mustBeString)
			case p.Type == huma.TypeInteger:
				if n, ok := v[name].(json.Number); ok {
					var err error
					if v[name], err = n.Int64(); err != nil {
						wrong.add(strings.TrimPrefix(at+"."+name, "."),
							"must be a whole number such as 100")
					}
				}
			default:
				a.inspect(p, v[name], at+"."+name, wrong)
			}
			if other {
				v[name+otherCase] = v[name]
				delete(v, name)
			}
		}
	}
}

// differsInCase reports whether an unknown name differs from a known one only in its case.
func differsInCase(name string, known map[string]*huma.Schema) bool {
	for k := range known {
		if strings.EqualFold(k, name) {
			return true
		}
	}
	return false
}
