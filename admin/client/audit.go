package client

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const auditPath = api.Prefix + "/audit"

// An AuditFilter says which rows of the audit log to list, and which page of them. Its zero value
// is the first page of all rows.
type AuditFilter struct {
	Namespace string // that a row touches
	Actor     string // a member or key id
	Action    string // "key.mint", "role.edit", …
	Object    string // the id of what was changed
	From      time.Time
	To        time.Time // exclusive; both zero: unbounded
	Cursor    string    // the NextCursor of the page before
	Limit     int       // of one page: at most 1000, 0 means 100
}

// ListAudit returns one page, newest first.
func (c *Client) ListAudit(ctx context.Context, f AuditFilter) (api.AuditRows, error) {
	r := get(auditPath)
	r.parameter("namespace", f.Namespace)
	r.parameter("actor", f.Actor)
	r.parameter("action", f.Action)
	r.parameter("object", f.Object)
	r.time("from", f.From)
	r.time("to", f.To)
	r.page(f.Cursor, f.Limit)
	return call[api.AuditRows](ctx, c, r)
}

func (r *request) time(name string, t time.Time) {
	if !t.IsZero() {
		r.parameter(name, t.UTC().Format(time.RFC3339Nano))
	}
}

// AllAudit iterates over the rows that f selects, beginning at its page. Iteration stops after an
// error.
func (c *Client) AllAudit(ctx context.Context, f AuditFilter) iter.Seq2[api.AuditRow, error] {
	return all(f.Cursor, func(cursor string) (api.AuditRows, error) {
		f.Cursor = cursor
		return c.ListAudit(ctx, f)
	})
}

// VerifyAudit says whether the audit log is as it was written. That it is not is no error.
func (c *Client) VerifyAudit(ctx context.Context) (api.AuditVerdict, error) {
	return call[api.AuditVerdict](ctx, c, get(auditPath+"/verify"))
}

// ExportAudit writes the whole audit log, an [api.AuditRow] a line, oldest first. After an error,
// what was written is not all of it.
func (c *Client) ExportAudit(ctx context.Context, w io.Writer) error {
	resp, err := c.do(ctx, get(auditPath+"/export"), api.NDJSON)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("the audit log was not written to its end: %w", err)
	}
	return nil
}
