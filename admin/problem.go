package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// codeInvalid is the code of fields that are wrong, codeNotBuilt of those that a later version will know.
const (
	codeInvalid  = "invalid_fields"
	codeNotBuilt = "not_built"
)

// A problem is an [api.Problem] as an answer.
type problem struct{ api.Problem }

func newProblem(status int, code, detail string) *problem {
	return &problem{api.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}}
}

// GetStatus, ContentType and GetHeaders are how huma asks an error what to answer.
func (p *problem) GetStatus() int            { return p.Status }
func (p *problem) ContentType(string) string { return api.Problems }
func (p *problem) GetHeaders() http.Header {
	switch p.Status {
	case http.StatusUnauthorized:
		return http.Header{"Www-Authenticate": {`Bearer realm="api"`}}
	case http.StatusServiceUnavailable:
		return http.Header{"Retry-After": {"1"}}
	}
	return nil
}

// refusal is the one place that turns an error of the key store into an answer. What is not a refusal is a failure of
// the store: its cause is logged and not shown.
func (a *API) refusal(op *huma.Operation, err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var refused *keystore.Error
	if !errors.As(err, &refused) {
		a.logger.Warn("a managing operation failed", slog.String("operation", op.OperationID), slog.Any("error", err))
		return newProblem(http.StatusServiceUnavailable, "unavailable", "the key store cannot be reached at the moment, and nothing has been done by half; try again")
	}
	p = newProblem(statusOf(refused.Kind), refused.Code, refused.Detail)
	p.ID, p.Needed = refused.ID, refused.Needed
	for _, f := range refused.Fields {
		p.Errors = append(p.Errors, api.FieldError(f))
	}
	return p
}

func statusOf(k keystore.Kind) int {
	switch k {
	case keystore.KindInvalid:
		return http.StatusUnprocessableEntity
	case keystore.KindForbidden:
		return http.StatusForbidden
	case keystore.KindNotFound:
		return http.StatusNotFound
	case keystore.KindConflict:
		return http.StatusConflict
	case keystore.KindPrecondition:
		return http.StatusPreconditionFailed
	}
	panic(fmt.Sprintf("admin: unknown kind of refusal %d", k))
}

// translate turns huma's own errors into problems, without the values that it would repeat: one may be a token.
func translate(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := newProblem(e.Status, codeInvalid, "some fields are not valid")
	for _, d := range e.Errors {
		p.Errors = append(p.Errors, fieldError(d))
	}
	if len(p.Errors) == 0 {
		p.Detail = e.Detail
	}
	return p, nil
}

// fieldError names the field itself where huma names the object that lacks it.
func fieldError(d *huma.ErrorDetail) api.FieldError {
	where, field, _ := strings.Cut(d.Location, ".")
	var missing string
	if n, _ := fmt.Sscanf(d.Message, validation.MsgExpectedRequiredProperty, &missing); n == 1 {
		if field != "" {
			field += "."
		}
		return api.FieldError{Field: field + missing, Detail: "is required"}
	}
	if field == "" {
		field = where
	}
	return api.FieldError{Field: field, Detail: d.Message}
}

// cut shortens what may repeat what was sent.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// write answers with a problem outside of huma.
func (a *API) write(w http.ResponseWriter, r *http.Request, p *problem) {
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", api.Problems)
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_ = json.NewEncoder(w).Encode(p)
	}
}

// fields collects what is wrong with a body.
type fields []keystore.FieldError

func (f *fields) add(field, format string, args ...any) {
	*f = append(*f, keystore.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)})
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
