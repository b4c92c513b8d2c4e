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

// codeInvalid is the code of problems with invalid fields.
const codeInvalid = "invalid_fields"

// A problem is an [api.Problem] that huma can answer with.
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

// GetStatus, ContentType and GetHeaders implement the interfaces of huma for errors.

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

// refusal is the one place that turns an error of the key store into an answer. Any error other
// than a [keystore.Error] is a failure of the store. refusal logs its cause and does not show it.
func (a *API) refusal(op *huma.Operation, err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var refused *keystore.Error
	if !errors.As(err, &refused) {
		a.logger.Warn("management operation failed", slog.String("operation", op.OperationID),
			slog.Any("error", err))
		detail := "the key store is unavailable; " +
			"each object was changed completely or not at all: check before you repeat the request"
		if op.Method == http.MethodGet || op.OperationID == "verify" { // these only read
			detail = "the key store is unavailable; try again"
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
	panic(fmt.Sprintf("admin: unknown kind of error %d", k))
}

// write answers with a problem where huma is not involved.
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
