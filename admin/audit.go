package admin

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/danielgtaylor/huma/v2"
)

const auditPath = api.Prefix + "/audit"

func (a *API) registerAudit() {
	const permission = "admin.audit:read"
	register(a, huma.Operation{
		OperationID: "list-audit", Method: http.MethodGet, Path: auditPath,
		Summary: "List changes, newest first", Tags: []string{"audit"},
		Description: "Lists the rows for which the caller has the permission in every namespace " +
			"that the change affects. A row that affects no namespace requires it in *.",
	}, permission, a.listAudit)
	register(a, huma.Operation{
		OperationID: "verify-audit", Method: http.MethodGet, Path: auditPath + "/verify",
		Summary: "Verify the audit log", Tags: []string{"audit"},
		Description: "Reports whether rows were changed, removed or reordered, except for rows " +
			"that were removed from the end. " +
			"Each row's hash is SHA-256 over the hash of the previous row, or 32 zero bytes for " +
			"the first row, followed by a JSON array of seq, at in microseconds since 1970, " +
			"actor, address, action, object, namespaces, before and after. The last two are " +
			"strings of JSON, empty for none. The permission is required in *.",
	}, permission, a.verifyAudit, streams)
	register(a, huma.Operation{
		OperationID: "export-audit", Method: http.MethodGet, Path: auditPath + "/export",
		Summary: "Export the whole audit log, oldest first", Tags: []string{"audit"},
		Description: "Writes one row per line. The permission is required in *.",
	}, permission, a.exportAudit, streams)
	rows := a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.AuditRow](), true, "")
	a.huma.OpenAPI().Paths[auditPath+"/export"].Get.Responses["200"] = &huma.Response{
		Description: "One row per line",
		Content:     map[string]*huma.MediaType{api.NDJSON: {Schema: rows}},
	}
}

type listAuditInput struct {
	Paging
	Namespace string    `query:"namespace" maxLength:"200" doc:"Only rows that affect this namespace"`
	Actor     string    `query:"actor" maxLength:"1000" doc:"Only changes made by this member, key or person, as the rows name it"`
	Action    string    `query:"action" maxLength:"200" doc:"Only this action" example:"key.mint"`
	Object    string    `query:"object" maxLength:"200" doc:"Only changes of the object with this id"`
	From      time.Time `query:"from" doc:"Only changes at or after this time (RFC 3339)"`
	To        time.Time `query:"to" doc:"Only changes before this time (RFC 3339)"`
}

func (a *API) listAudit(
	ctx context.Context, c manage.Caller, in *listAuditInput,
) (*page[api.AuditRows], error) {
	if !in.From.IsZero() && !in.To.IsZero() && !in.To.After(in.From) {
		var wrong fields
		wrong.add("to", "must be later than from")
		return nil, wrong.err()
	}
	f := keystore.AuditFilter{Namespace: in.Namespace, Actor: in.Actor, Action: in.Action,
		Object: in.Object, From: in.From, To: in.To}
	list, next, err := a.keys.ListAudit(ctx, c, f, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	var size int64
	for i := range list {
		size += list[i].Size()
	}
	if err := accountOf(ctx).take(listCopies * size); err != nil {
		return nil, err
	}
	return showPage(list, next, showAuditRow), nil
}

func showAuditRow(r *keystore.AuditRow) api.AuditRow {
	return api.AuditRow{
		Seq: r.Seq, At: r.At, Actor: r.Actor, Address: r.From, Action: r.Action, Object: r.Object,
		Namespaces: append([]string{}, r.Namespaces...),
		Before:     json.RawMessage(nullIfEmpty(r.Before)),
		After:      json.RawMessage(nullIfEmpty(r.After)), Hash: hex.EncodeToString(r.Hash[:]),
	}
}

func nullIfEmpty(text string) string {
	if text == "" {
		return "null"
	}
	return text
}

func (a *API) verifyAudit(
	ctx context.Context, c manage.Caller, _ *struct{},
) (*page[api.AuditVerdict], error) {
	v, err := a.keys.VerifyAudit(ctx, c)
	if err != nil {
		return nil, err
	}
	return &page[api.AuditVerdict]{api.AuditVerdict{Intact: v.Wrong == 0, Rows: v.Rows,
		Last: hex.EncodeToString(v.Last[:]), Wrong: v.Wrong, Cause: v.Cause}}, nil
}

// writeTimeout bounds the time that a client takes to read one part of a stream, such as a page of
// an export, which is a few hundred KiB.
const writeTimeout = time.Minute

// A stream writes a body in parts. A write fails if the client does not read it within timeout.
type stream struct {
	io.Writer
	control *http.ResponseController
	timeout time.Duration
}

func (a *API) stream(out huma.Context) *stream {
	w := out.BodyWriter()
	return &stream{w, http.NewResponseController(w.(http.ResponseWriter)), a.writeTimeout}
}

func (s *stream) Write(p []byte) (int, error) {
	// Only a writer to memory has no deadlines, and it never blocks.
	_ = s.control.SetWriteDeadline(time.Now().Add(s.timeout))
	return s.Writer.Write(p)
}

// exportAudit answers an error with a problem document until it has written a row. After that, it
// aborts the connection, so that no client mistakes an incomplete log for the whole.
func (a *API) exportAudit(
	ctx context.Context, c manage.Caller, _ *struct{},
) (*huma.StreamResponse, error) {
	return &huma.StreamResponse{Body: func(out huma.Context) {
		started := false
		start := func() {
			if !started {
				out.SetHeader("Content-Type", api.NDJSON)
				out.SetStatus(http.StatusOK)
				started = true
			}
		}
		w := a.stream(out)
		var lines bytes.Buffer
		e := json.NewEncoder(&lines)
		e.SetEscapeHTML(false)
		err := a.keys.ExportAudit(ctx, c, func(rows []keystore.AuditRow) error {
			lines.Reset()
			for i := range rows {
				if err := e.Encode(showAuditRow(&rows[i])); err != nil {
					return err
				}
			}
			start()
			if _, err := lines.WriteTo(w); err != nil {
				return fmt.Errorf("writing the audit log to the client: %w", err)
			}
			return nil
		})
		switch {
		case err == nil:
			start()
		case started:
			_ = a.refusal(out.Operation(), err) // logs the error
			panic(http.ErrAbortHandler)
		default:
			a.refuse(out, err)
		}
	}}, nil
}
