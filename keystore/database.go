package keystore

import "errors"

// Errors of a [Database] that callers tell apart. Any other error, including that of a cancelled
// context, means that the answer is not known. A request then gets [Unavailable], never [Unknown].
var (
	// ErrNotFound means that the named object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists means that an id, or a member's login, is already taken.
	ErrExists = errors.New("already exists")
	// ErrSpent means that a credential belongs to a key, or belonged to one before.
	ErrSpent = errors.New("credential has been used before")
	// ErrTruncated means that the change log no longer holds every change since a position, or that
	// the position is not in this history.
	ErrTruncated = errors.New("the change log no longer reaches back that far")
	// ErrTokenKey means that the configured token key is not the one with which the tokens of this
	// deployment were created.
	ErrTokenKey = errors.New("token key mismatch")
	// ErrReplaced means that files of the database were replaced or removed while it was open, so
	// that other processes may open different files under the same name. A node that gets it drops
	// its lease and its cache.
	ErrReplaced = errors.New("files of the database were replaced while it was open")
	// ErrNewerSchema means that a later version of this program has migrated the database.
	ErrNewerSchema = errors.New("the database was migrated by a newer version")
)

// A Database is the system of record. Each of its parts is an interface with its own contract, and
// a function that needs one part accepts only that interface. The following contract applies to all
// parts. Package keystoretest tests it.
//
// Consistency: a Database is linearizable and durable. A write that returned nil is visible to
// every later call of any process, and survives a kill or a power failure. Only RecordUse,
// RecordDeriving, Acknowledge, NoteTime, UseSession, DeleteSessions, SaveWebhooks and ForgetWebhook
// may lose their latest writes in a crash or a failover of the database. Every change of a key, a
// secret, a namespace, a role, a plan or a member, by any program, takes the next [Revision] in its
// own transaction, from a single row, and logs at least one [Change] with it. Revisions have no
// gaps and follow the order of the commits: a reader that sees revision r sees all changes up to r.
// The audit log follows the same order. Last uses, deriving keys, usage, nodes, sessions, webhooks,
// grants and thresholds of quotas, expiring values, reminders and the audit log take no revision.
// Neither does a new key by itself: the change is the addition of its secrets.
//
// Concurrency: all methods are safe for concurrent use. Many concurrent calls of Key, Keys,
// MemberTokens, OwnedHomes, CountMatching, CountKeys, CountPrefixes, MostKeys, RefusedKeys,
// NearQuotas, Policy, Audits, AuditChain, AuditAt, Usage, UsedOperations, ReminderPositions,
// ExpiringKeys, UnusedKeys and Webhooks may wait for one another. Other methods do not wait for
// them, except that Update may do so after it has added thousands of keys, and MaintainUsage and
// AddUsage may do so briefly.
//
// Time: the caller bounds each call through its context. When the context ends, the method returns
// soon with an error. A write may then have been committed or not, and the same holds after a lost
// connection. After any other error it has not been committed.
//
// Values: times are UTC, in microseconds. The Database does not keep slices and maps that are
// passed to it; those that it returns belong to the caller.
type Database interface {
	Deployments
	Membership
	ChangeLog
	KeyReader
	PolicyReader
	AuditReader
	Transactor
	UsageRecorder
	QuotaLedger
	UsageStore
	SessionStore
	ReminderFinder
	WebhookStore

	// Close releases all resources. It waits a few seconds for running calls. Later calls fail.
	Close() error
}

// PageBytes is the approximate size at which a page of a list ends: the sum of the Size of its
// objects. A page has at least one object.
const PageBytes = 4 << 20
