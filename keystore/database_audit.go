package keystore

import (
	"context"
	"time"
)

// AuditReader is the part of a [Database] that reads the audit log.
type AuditReader interface {
	// Audits returns at most limit rows that match a filter, newest first, and the cursor of the
	// next page, empty after the last. A page also ends at about [PageBytes].
	Audits(ctx context.Context, f AuditFilter, cursor string, limit int) (rows []AuditRow,
		next string, err error)
	// AuditChain returns at most limit rows after a Seq, oldest first. A page ends early once the
	// rows after the first one have 256 KiB.
	AuditChain(ctx context.Context, after int64, limit int) ([]AuditRow, error)
}

// An AuditFilter selects rows of the audit log. A row must match every field that is set; the zero
// value selects all.
type AuditFilter struct {
	Namespaces []string // the row names some of these and no others; nil matches any row
	Namespace  string   // the row names this one; empty matches any row
	Actor      string
	Action     string
	Object     string
	From, To   time.Time // From is inclusive, To exclusive; zero means no bound
}

// An AuditRow is one change in the audit log.
type AuditRow struct {
	Seq        int64
	At         time.Time
	Actor      string // id of a member or a key, or a [GroupActor]
	From       string // address that the change came from, or why a node made it on its own
	Action     string // "key.mint", "namespace.delete", …
	Object     string // id, or the name of a role or a plan
	Namespaces []string
	Before     string // JSON; empty if the object was created
	After      string // JSON; empty if the object was deleted
	Hash       Digest // of this row and the Hash of the row before it
}
