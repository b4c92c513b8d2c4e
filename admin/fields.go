package admin

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// unknownParameter is what huma says of one in the query. It is no variable there.
const unknownParameter = "unknown query parameter"

func init() {
	// Said after the name of the field, as the key store's own are. huma has no setting for one API
	// alone.
	validation.MsgUnexpectedProperty = "is not known"
	validation.MsgExpectedRFC3339DateTime = "must be a time such as 2027-01-01T00:00:00Z"
	validation.MsgExpectedBoolean = "must be true or false"
	validation.MsgExpectedNumber = "must be a number"
	validation.MsgExpectedInteger = "must be a whole number"
	validation.MsgExpectedString = "must be a string"
	validation.MsgExpectedArray = "must be a list"
	validation.MsgExpectedObject = "must be an object"
	validation.MsgExpectedOneOf = "must be one of: %s"
	validation.MsgExpectedMinimumNumber = "must be %v or more"
	validation.MsgExpectedMaximumNumber = "must be %v or less"
	validation.MsgExpectedMinLength = "must have at least %d character(s)"
	validation.MsgExpectedMaxLength = "must have at most %d characters"
	validation.MsgExpectedMaxItems = "are more than %d"
}

// maxErrors is how many fields an answer names.
const maxErrors = 100

// translate turns huma's own errors into problems, without the values that it would repeat: one may
// be a token.
func (a *API) translate(ctx huma.Context, _ string, v any) (any, error) {
	if p, ok := v.(*problem); ok {
		return p.of(ctx.Context()), nil
	}
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	op := ctx.Operation()
	var body *huma.Schema
	if op.RequestBody != nil {
		body = op.RequestBody.Content[api.JSON].Schema
	}
	p := newProblem(e.Status, codeInvalid, "some fields are not valid")
	for _, d := range e.Errors[:min(len(e.Errors), maxErrors)] {
		p.Errors = append(p.Errors, a.humaError(body, op.Parameters, d))
	}
	if len(p.Errors) == 0 {
		p.Detail = e.Detail
	}
	return p.of(ctx.Context()), nil
}

// humaError names the field itself where huma names the object that lacks it.
func (a *API) humaError(
	body *huma.Schema, parameters []*huma.Param, d *huma.ErrorDetail,
) api.FieldError {
	where, field, _ := strings.Cut(d.Location, ".")
	var missing string
	if n, _ := fmt.Sscanf(d.Message, validation.MsgExpectedRequiredProperty, &missing); n == 1 {
		if field != "" {
			field += "."
		}
		return fieldError(field+missing, "is required")
	}
	var known []string
	switch d.Message {
	case validation.MsgUnexpectedProperty:
		known = a.known(body, field)
	case unknownParameter:
		for _, p := range parameters {
			if p.In == "query" {
				known = append(known, p.Name)
			}
		}
		slices.Sort(known)
	default:
		if field == "" {
			field = where
		}
		return fieldError(field, d.Message)
	}
	if len(known) == 0 {
		return fieldError(field, validation.MsgUnexpectedProperty)
	}
	return fieldError(field, validation.MsgUnexpectedProperty+"; known are "+
		strings.Join(known, ", "))
}

// known lists the fields of the object in which field was not expected.
func (a *API) known(object *huma.Schema, field string) []string {
	for _, step := range append([]string{""}, strings.Split(field, ".")...) {
		name, _, _ := strings.Cut(step, "[")
		s := object
		if step != "" {
			s = object.Properties[name]
		}
		if s != nil && s.Items != nil {
			s = s.Items
		}
		if s != nil && s.Ref != "" {
			s = a.huma.OpenAPI().Components.Schemas.SchemaFromRef(s.Ref)
		}
		if s == nil || s.Properties == nil {
			break
		}
		object = s
	}
	return slices.Sorted(maps.Keys(object.Properties))
}

// fieldError bounds what may repeat what was sent.
func fieldError(field, detail string) api.FieldError {
	return api.FieldError{Field: cut(field, 200), Detail: cut(detail, maxDetail)}
}

// maxDetail is how long a field's or a line's detail is, in bytes.
const maxDetail = 1000

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// fields collects what is wrong with a body, as much of it as is named.
type fields []keystore.FieldError

func (f *fields) add(field, format string, args ...any) {
	if len(*f) < maxErrors {
		*f = append(*f, keystore.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)})
	}
}

// err is nil when nothing is wrong.
func (f fields) err(code string) error {
	if len(f) == 0 {
		return nil
	}
	detail := "some fields are not valid"
	if code == codeNotBuilt {
		detail = "this version cannot do what some fields ask for; leave them out"
	}
	return &keystore.Error{Kind: keystore.KindInvalid, Code: code, Detail: detail, Fields: f}
}
