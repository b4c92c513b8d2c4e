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

// An AuditFilter selects rows of the audit log and a page of them. Its zero value selects the first
// page of all rows.
type AuditFilter struct {
	Namespace string    // affected by the change
	Actor     string    // the id of a member or key
	Action    string    // "key.mint", "role.edit", …
	Object    string    // the id of the changed object
	From      time.Time // inclusive; zero: unbounded
	To        time.Time // exclusive; zero: unbounded
	Cursor    string    // the NextCursor of the previous page
	Limit     int       // the size of a page: at most 1000, 0 means 100
}

// ListAudit returns one page of the audit log, newest first.
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

// VerifyAudit reports whether rows of the audit log were changed, removed or reordered, except for
// rows that were removed from the end. A changed log is not an error.
func (c *Client) VerifyAudit(ctx context.Context) (api.AuditVerdict, error) {
	return call[api.AuditVerdict](ctx, c, get(auditPath+"/verify"))
}

// ExportAudit writes the whole audit log to w, oldest first, one [api.AuditRow] as JSON per line.
// After an error, w holds an incomplete log.
func (c *Client) ExportAudit(ctx context.Context, w io.Writer) error {
	resp, err := c.do(ctx, get(auditPath+"/export"), api.NDJSON)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("exporting the audit log: the output is incomplete: %w", err)
	}
	return nil
}
