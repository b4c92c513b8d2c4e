package keystore

import (
	"context"
	"time"
)

// UsageStore is the part of a [Database] that counts requests by key and time. It takes no
// revision. It waits for transactions of other parts only if the database has a single writer, and
// then holds the write lock for milliseconds at a time.
type UsageStore interface {
	// AddUsage adds a batch, unless this batch or a later one of its writer was added before. The
	// caller repeats a batch unchanged until AddUsage returns nil, so a batch counts exactly once
	// even if the acknowledgement of a commit is lost.
	AddUsage(ctx context.Context, b UsageBatch) error
	// Usage returns the sums that a query selects, ordered by group and time. Buckets without
	// requests are left out.
	Usage(ctx context.Context, q UsageQuery) ([]UsageSum, error)
	// UsedOperations returns, for each of some keys, the operations with which it was used, and the
	// beginning of the day of their last use.
	UsedOperations(ctx context.Context, keys []string) (map[string]map[string]time.Time, error)
	// MaintainUsage rolls up and deletes usage for a few milliseconds, and reports whether there is
	// more to do. It does nothing while another process does it. If it fails or is interrupted,
	// the next call of any process continues.
	MaintainUsage(ctx context.Context, kept UsageKept) (more bool, err error)
}

// A UsageBatch is a part of what a process has counted.
type UsageBatch struct {
	// Writer identifies the process. It is never used again. Number counts its batches from 1.
	Writer string
	Number int64
	// Rows have no duplicates and are at most MaxUsageRows. A row without counts adds no bucket; it
	// only notes that its operation was used.
	Rows []UsageRow
}

// MaxUsageRows is the maximum number of rows in a UsageBatch. It bounds the time for which a batch
// holds the write lock.
const MaxUsageRows = 250

// A UsageRow counts the requests of one minute with one key, operation and outcome.
type UsageRow struct {
	Begin     time.Time // of the minute, by the database's clock
	Key       string
	Namespace string // home of the key
	Owner     string // of the key
	Operation string // the permission that the request needs: see [Need.String]
	Outcome   Outcome
	UsageCounts
}

// A UsageQuery selects usage. A zero field selects everything, but Step is required.
type UsageQuery struct {
	Step Period // of the buckets: [Minute], [Hour], [Day] or [Month]
	// From and To are the beginnings of the first bucket and of the bucket after the last.
	From, To time.Time
	// Keys selects keys by their ids; nil selects any key, an empty list none.
	Keys []string
	Home string // of the keys; empty selects any
	// Namespaces and OrOwners are one condition: the home of the key is one of Namespaces, or one of
	// OrOwners owns the key, both at the time of the request. Nil Namespaces match any key.
	Namespaces []string
	OrOwners   []string
	// By groups the sums by key, namespace, owner or operation. Zero means one group. The usage of
	// single Keys is not kept by operation.
	By UsageGroup
	// Limit is the maximum number of groups: those with the most requests from From to To. Zero
	// means no limit.
	Limit int
}

// A UsageGroup is a dimension of usage.
type UsageGroup string

// Dimensions.
const (
	ByKey       UsageGroup = "key"
	ByNamespace UsageGroup = "namespace"
	ByOwner     UsageGroup = "owner"
	ByOperation UsageGroup = "operation"
)

// A UsageSum is a sum over one bucket, group and outcome.
type UsageSum struct {
	Group   string // empty if the query has no group
	Begin   time.Time
	Outcome Outcome
	UsageCounts
}
