package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// unknownParameter is huma's message for a query parameter that the operation does not have. huma
// exports no variable for it.
const unknownParameter = "unknown query parameter"

// isUnknown is the detail of an unknown field or parameter.
const isUnknown = "is unknown"

// ownTexts holds the texts that replace huma's messages. Each text continues a sentence that begins
// with the name of the field, like the texts of the key store. Message and text may contain one
// formatting verb. The text for a minimum length omits it, because the minimum is always 1.
var ownTexts = []struct {
	message *string
	text    string
}{
	{&validation.MsgUnexpectedProperty, isUnknown},
	{&validation.MsgExpectedRFC3339DateTime, "must be a time such as 2027-01-01T00:00:00Z"},
	{&validation.MsgExpectedBoolean, "must be true or false"},
	{&validation.MsgExpectedNumber, "must be a number"},
	{&validation.MsgExpectedInteger, "must be a whole number"},
	{&validation.MsgExpectedString, mustBeString},
	{&validation.MsgExpectedArray, "must be a list"},
	{&validation.MsgExpectedObject, "must be an object"},
	{&validation.MsgExpectedOneOf, "must be one of: %s"},
	{&validation.MsgExpectedMinimumNumber, "must be %s or more"},
	{&validation.MsgExpectedMaximumNumber, "must be %s or less"},
	{&validation.MsgExpectedMinLength, "must not be empty"},
	{&validation.MsgExpectedMaxLength, "must have at most %s characters"},
	{&validation.MsgExpectedMaxItems, "must contain at most %s entries"},
}

const mustBeString = "must be a string"

// ownText returns the text for a message of huma, or the message if there is none.
func ownText(message string) string {
	for _, own := range ownTexts {
		if value, ok := formatted(*own.message, message); ok && strings.Contains(own.text, "%s") {
			return fmt.Sprintf(own.text, integer(value))
		} else if ok {
			return own.text
		}
	}
	return message
}

// integer returns a number that huma wrote with an exponent, such as 1e+08, without it.
func integer(value string) string {
	if f, err := strconv.ParseFloat(value, 64); err == nil && strings.Contains(value, "e+") {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return value
}

// formatted reports whether text results from format, which contains at most one verb. It returns
// the value of the verb.
func formatted(format, text string) (value string, ok bool) {
	before, after, verb := strings.Cut(format, "%")
	if !verb {
		return "", text == format
	}
	value, ok = strings.CutPrefix(text, before)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(value, after[1:]) // after the letter of the verb
}

// maxErrors is the largest number of fields that an answer names.
const maxErrors = 100

// translate turns huma's own errors into problems. It drops the values that huma repeats, because
// one may be a token.
func (a *API) translate(ctx huma.Context, _ string, v any) (any, error) {
	if p, ok := v.(*problem); ok {
		return p.of(ctx.Context()), nil
	}
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	var known []string
	for _, p := range ctx.Operation().Parameters {
		if p.In == "query" {
			known = append(known, p.Name)
		}
	}
	slices.Sort(known)
	p := newProblem(e.Status, codeInvalid, someInvalid)
	for _, d := range e.Errors[:min(len(e.Errors), maxErrors)] {
		where, field, _ := strings.Cut(d.Location, ".")
		if d.Message == unknownParameter {
			p.Errors = append(p.Errors, fieldError(field, unknownOf(known)))
		} else {
			p.Errors = append(p.Errors, fieldError(cmp.Or(field, where), ownText(d.Message)))
		}
	}
	if len(p.Errors) == 0 {
		p.Detail = e.Detail
	}
	return p.of(ctx.Context()), nil
}

// validate checks a JSON text, known to be valid, against its schema. root names the value as a
// whole in errors.
//
// huma ignores the case of names unless a process-wide setting says otherwise. Names that differ in
// case are different names (RFC 8259 §8.3), so validate renames those that huma would accept.
func (a *API) validate(s *huma.Schema, text []byte, root string) error {
	var shape any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	_ = d.Decode(&shape)
	var wrong fields
	a.inspect(s, shape, "", &wrong)
	if slices.ContainsFunc(wrong,
		func(e keystore.FieldError) bool { return e.Detail == holdsToken }) {
		return wrong.err() // huma's errors might repeat the token
	}
	path := huma.NewPathBuffer(make([]byte, 0, 64), 0)
	path.Push(root)
	var found huma.ValidateResult
	huma.Validate(a.huma.OpenAPI().Components.Schemas, s, path, huma.ModeWriteToServer, shape,
		&found)
	for _, err := range found.Errors {
		var d *huma.ErrorDetail
		if errors.As(err, &d) {
			field, detail := a.invalid(s, d)
			wrong.addNew(cmp.Or(field, root), detail)
		}
	}
	if len(wrong) > 0 { // else limits are checked with the other fields
		wrong.addLimits(shape)
	}
	return wrong.err()
}

// addLimits adds the errors of limits in a body that is not valid, so that one answer has those of
// all limits. It leaves out fields that have an error, and limits that cannot be decoded.
func (f *fields) addLimits(body any) {
	object, _ := body.(map[string]any)
	var wrong fields
	var rate api.RateLimit
	if decodeLimit(object["rate_limit"], &rate) {
		wrong.rate(&rate)
	}
	var quota api.Quota
	if decodeLimit(object["quota"], &quota) {
		wrong.quota(&quota)
	}
	for _, e := range wrong {
		f.addNew(e.Field, e.Detail)
	}
}

func decodeLimit(value, into any) bool {
	if value == nil {
		return false
	}
	text, err := json.Marshal(value)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return err == nil && d.Decode(into) == nil
}

// invalid converts an error of huma about a body. It returns the field, which is empty for the
// whole body, and the detail. huma reports a missing field at the object that lacks it.
func (a *API) invalid(body *huma.Schema, d *huma.ErrorDetail) (field, detail string) {
	_, field, _ = strings.Cut(d.Location, ".")
	if name, ok := formatted(validation.MsgExpectedRequiredProperty, d.Message); ok {
		if field != "" {
			field += "."
		}
		return field + name, "is required"
	}
	if d.Message == validation.MsgUnexpectedProperty {
		field = strings.TrimSuffix(field, otherCase)
		return field, unknownOf(a.known(body, field))
	}
	return field, ownText(d.Message)
}

// otherCase marks a name that differs from a known one only in its case.
const otherCase = "\x00"

// unknownOf returns the detail of an unknown name where the given names are known.
func unknownOf(known []string) string {
	if len(known) == 0 {
		return isUnknown
	}
	return isUnknown + "; must be one of: " + strings.Join(known, ", ")
}

// known lists the valid fields of the object that contains an unknown field.
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

// fieldError returns an error with texts of limited length, because they may repeat parts of the
// request.
func fieldError(field, detail string) api.FieldError {
	return api.FieldError{Field: cut(field, 200), Detail: cut(detail, maxDetail)}
}

// maxDetail is the maximum length in bytes of the detail of a field or a line.
const maxDetail = 1000

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return keystore.Truncate(s, limit) + "…"
}

// someInvalid is the detail of a problem that lists its invalid fields.
const someInvalid = "some fields are not valid"

// fields collects the errors of the fields of a request, at most maxErrors.
type fields []keystore.FieldError

func (f *fields) add(field, format string, args ...any) {
	if len(*f) < maxErrors {
		*f = append(*f, keystore.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)})
	}
}

// addNew adds an error unless the field has one.
func (f *fields) addNew(field, detail string) {
	if !slices.ContainsFunc(*f, func(e keystore.FieldError) bool { return e.Field == field }) {
		f.add(field, "%s", detail)
	}
}

// in returns a context in which the key store adds the collected errors to those that it finds
// itself. If there are any, it refuses the change.
func (f fields) in(ctx context.Context) context.Context { return manage.WithFieldErrors(ctx, f) }

// err returns the collected errors as one refusal, or nil if there are none.
func (f fields) err() error {
	if len(f) == 0 {
		return nil
	}
	return &keystore.Error{Kind: keystore.KindInvalid, Code: codeInvalid, Detail: someInvalid,
		Fields: f}
}
