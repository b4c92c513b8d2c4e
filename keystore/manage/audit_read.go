package manage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// ListAudit returns a page of the rows that match a filter, newest first, and the cursor of the
// next page: see [keystore.Database]. The caller sees a row if it has `admin.audit:read` in all
// namespaces that the row touches, or in `*` if it touches none (docs/authority.md, rule 10).
func (k *Keystore) ListAudit(
	ctx context.Context, c Caller, f keystore.AuditFilter, cursor string, limit int,
) ([]keystore.AuditRow, string, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, "", err
	}
	defer done()
	if err := auth.requireAnywhere(adminAudit, "read"); err != nil {
		return nil, "", err
	}
	f.Namespaces, _ = auth.readable(adminAudit)
	rows, next, err := k.Database().Audits(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", k.RefusalOr("reading the audit log", err)
	}
	return rows, next, nil
}

// An AuditVerdict says whether rows of the audit log were changed, removed or reordered. It does
// not cover rows that were removed from the end.
type AuditVerdict struct {
	Rows  int64           // the number of verified rows
	Last  keystore.Digest // the last row's hash; keep a copy elsewhere to detect a truncated log
	Wrong int64           // the sequence number of the first wrong row, 0 if there is none
	Cause string          // what is wrong with it, for people
}

var errBrokenChain = errors.New("audit chain is broken")

// VerifyAudit recomputes the hash chain of the log, up to the newest row at the time of the call.
// It requires `admin.audit:read` in all namespaces.
func (k *Keystore) VerifyAudit(ctx context.Context, c Caller) (AuditVerdict, error) {
	var v AuditVerdict
	newest, err := k.eachAudit(ctx, c, func(rows []keystore.AuditRow) error {
		for i := range rows {
			r := &rows[i]
			switch {
			case r.Seq != v.Rows+1:
				v.Wrong, v.Cause = v.Rows+1,
					fmt.Sprintf("row %d is missing: row %d follows", v.Rows+1, r.Seq)
				return errBrokenChain
			case r.Hash != r.Chain(v.Last):
				v.Wrong, v.Cause = r.Seq,
					fmt.Sprintf("row %d or the row before it has been changed", r.Seq)
				return errBrokenChain
			}
			v.Rows, v.Last = r.Seq, r.Hash
		}
		return nil
	})
	switch {
	case errors.Is(err, errBrokenChain):
	case err != nil:
		return v, err
	case v.Rows < newest.Seq:
		v.Wrong, v.Cause = v.Rows+1, fmt.Sprintf("row %d is missing: "+
			"the log had %d rows when the verification began", v.Rows+1, newest.Seq)
	case v.Last != newest.Hash:
		v.Wrong, v.Cause = newest.Seq, fmt.Sprintf(
			"row %d has changed since the verification began", newest.Seq)
	}
	return v, nil
}

// ExportAudit calls f with pages of the rows that exist at the time of the call, oldest first. It
// holds no database connection while f runs. It requires `admin.audit:read` in all namespaces. The
// rows include the hashes, so that a reader can verify the export. ExportAudit returns an error of
// f unchanged.
func (k *Keystore) ExportAudit(
	ctx context.Context, c Caller, f func([]keystore.AuditRow) error,
) error {
	var last int64
	newest, err := k.eachAudit(ctx, c, func(rows []keystore.AuditRow) error {
		last = rows[len(rows)-1].Seq
		return f(rows)
	})
	if err == nil && last < newest.Seq {
		err = fmt.Errorf("exporting the audit log: rows after %d are missing; "+
			"the log had %d rows when the export began", last, newest.Seq)
	}
	return err
}

// exportPage is the maximum number of rows that are read at once.
const exportPage = 500

// eachAudit calls f with pages of the rows up to the newest at the time of the call, oldest first.
// It returns that newest row, or the zero row for an empty log. It checks the caller's authority
// again for each page. If rows at the end are missing, it stops early without an error.
func (k *Keystore) eachAudit(
	ctx context.Context, c Caller, f func([]keystore.AuditRow) error,
) (newest keystore.AuditRow, err error) {
	rows, err := k.readAudit(ctx, c, func(ctx context.Context) ([]keystore.AuditRow, error) {
		rows, _, err := k.Database().Audits(ctx, keystore.AuditFilter{}, "", 1)
		return rows, err
	})
	if err != nil || len(rows) == 0 {
		return newest, err
	}
	newest = rows[0]
	for after := int64(0); after < newest.Seq; after = rows[len(rows)-1].Seq {
		rows, err = k.readAudit(ctx, c,
			func(ctx context.Context) ([]keystore.AuditRow, error) {
				return k.Database().AuditChain(ctx, after, exportPage)
			})
		if err != nil {
			return newest, err
		}
		if i := slices.IndexFunc(rows,
			func(r keystore.AuditRow) bool { return r.Seq > newest.Seq }); i >= 0 {
			rows = rows[:i]
		}
		if len(rows) == 0 {
			return newest, nil
		}
		if err := f(rows); err != nil {
			return newest, err
		}
	}
	return newest, nil
}

// readAudit reads rows of the log for a caller that may read all of it.
func (k *Keystore) readAudit(
	ctx context.Context, c Caller, read func(context.Context) ([]keystore.AuditRow, error),
) ([]keystore.AuditRow, error) {
	ctx, auth, done, err := k.beginLongRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireEverywhere(adminAudit, "read"); err != nil {
		return nil, err
	}
	rows, err := read(ctx)
	if err != nil {
		return nil, k.StoreFailed("reading the audit log", err)
	}
	return rows, nil
}
