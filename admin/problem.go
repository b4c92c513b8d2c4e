package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// codeInvalid is the code of fields that are wrong, codeNotBuilt of those that a later version will
// know.
const (
	codeInvalid  = "invalid_fields"
	codeNotBuilt = "not_built"
)

// A problem is an [api.Problem] as an answer.
type problem struct{ api.Problem }

func newProblem(status int, code, detail string) *problem {
	return &problem{api.NewProblem(status, code, detail)}
}

// of returns p with the id of the request that it answers.
func (p *problem) of(ctx context.Context) *problem {
	id, _ := ctx.Value(requestIDKey{}).(string)
	if id == "" {
		return p
	}
	with := *p
	with.RequestID = id
	return &with
}

// GetStatus, ContentType and GetHeaders are how huma asks an error what to answer.
func (p *problem) GetStatus() int            { return p.Status }
func (p *problem) ContentType(string) string { return api.Problems }
func (p *problem) GetHeaders() http.Header {
	switch p.Status {
	case http.StatusUnauthorized:
		return http.Header{"Www-Authenticate": {`Bearer realm="api"`}}
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return http.Header{"Retry-After": {"1"}}
	}
	return nil
}

// refusal is the one place that turns an error of the key store into an answer. What is not a
// refusal is a failure of the store: its cause is logged and not shown.
func (a *API) refusal(op *huma.Operation, err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var refused *keystore.Error
	if !errors.As(err, &refused) {
		a.logger.Warn("a managing operation failed", slog.String("operation", op.OperationID),
			slog.Any("error", err))
		detail := "the key store cannot be reached at the moment, and nothing has been done by " +
			"half; try again"
		if op.Method == http.MethodGet || op.OperationID == "verify" { // which only read
			detail = "the key store cannot be reached at the moment; try again"
		}
		return newProblem(http.StatusServiceUnavailable, "unavailable", detail)
	}
	p = newProblem(statusOf(refused.Kind), refused.Code, refused.Detail)
	p.ID, p.Needed = refused.ID, refused.Needed
	for _, f := range refused.Fields {
		p.Errors = append(p.Errors, fieldError(f.Field, f.Detail))
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
	case keystore.KindBusy:
		return http.StatusTooManyRequests
	}
	panic(fmt.Sprintf("admin: unknown kind of refusal %d", k))
}

// write answers with a problem outside of huma.
func (a *API) write(w http.ResponseWriter, r *http.Request, p *problem) {
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", api.Problems)
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_ = json.NewEncoder(w).Encode(p.of(r.Context()))
	}
}
