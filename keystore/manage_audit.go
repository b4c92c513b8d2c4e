package keystore

import (
	"context"
	"errors"
	"fmt"
)

// ListAudit returns the rows that a filter fits and the caller may see, newest first: those of which it may read the audit in all namespaces
// they touch. Rows that touch none take it in `*`.
func (k *Keystore) ListAudit(ctx context.Context, c Caller, f AuditFilter, cursor string, limit int) ([]AuditRow, string, error) {
	visible, err := k.visibleAudit(ctx, c)
	if err != nil {
		return nil, "", err
	}
	f.Namespaces = visible
	rows, next, err := k.db.Audits(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", k.refusalOr("reading the audit log", err)
	}
	return rows, next, nil
}

// visibleAudit returns the namespaces whose rows the caller may see, nil for all.
func (k *Keystore) visibleAudit(ctx context.Context, c Caller) ([]string, error) {
	by, err := k.fresh(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := by.anywhere(adminAudit, "read"); err != nil {
		return nil, err
	}
	list, all := by.readable(adminAudit)
	if all {
		return nil, nil
	}
	return list, nil
}

// An AuditVerdict says whether the audit log is as it was written.
type AuditVerdict struct {
	Rows  int64
	Last  Digest // the newest row's hash, to be kept elsewhere: it also tells rows that were cut off at the end
	Wrong int64  // the seq of the first row that does not follow from the one before; 0: none
	Cause string // of it, for people
}

var errBroken = errors.New("the chain is broken")

// VerifyAudit recomputes the chain of the whole log. It takes `admin.audit:read` in all namespaces.
func (k *Keystore) VerifyAudit(ctx context.Context, c Caller) (AuditVerdict, error) {
	var v AuditVerdict
	by, err := k.fresh(ctx, c)
	if err != nil {
		return v, err
	}
	if !by.may(adminAudit, "read", AnyNamespace) {
		return v, lacks(adminAudit, "read")
	}
	err = k.db.AuditChain(ctx, 0, func(r *AuditRow) error {
		switch {
		case r.Seq != v.Rows+1:
			v.Wrong, v.Cause = v.Rows+1, fmt.Sprintf("row %d is missing: the next one is %d", v.Rows+1, r.Seq)
			return errBroken
		case r.Hash != r.chain(v.Last):
			v.Wrong, v.Cause = r.Seq, fmt.Sprintf("row %d, or the one before it, is not as it was written", r.Seq)
			return errBroken
		}
		v.Rows, v.Last = r.Seq, r.Hash
		return nil
	})
	if err != nil && !errors.Is(err, errBroken) {
		return v, k.storeFailed("reading the audit log", err)
	}
	return v, nil
}

// ExportAudit calls f with each row, oldest first. It takes `admin.audit:read` in all namespaces: with the hashes, whoever has the
// export can verify it.
func (k *Keystore) ExportAudit(ctx context.Context, c Caller, f func(*AuditRow) error) error {
	by, err := k.fresh(ctx, c)
	if err != nil {
		return err
	}
	if !by.may(adminAudit, "read", AnyNamespace) {
		return lacks(adminAudit, "read")
	}
	if err := k.db.AuditChain(ctx, 0, f); err != nil {
		return k.storeFailed("reading the audit log", err)
	}
	return nil
}
