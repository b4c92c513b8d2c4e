package keystore

import (
	"context"
	"errors"
	"time"
)

// Revision counts the changes of a deployment. Zero is before the first.
type Revision int64

// Errors of a [Database] that callers tell apart. Everything else, a cancelled context included,
// means that the answer cannot be known: the data plane then says [Unavailable], never [Unknown].
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrSpent    = errors.New("this credential has been in use before")
	// ErrTruncated says that the change log does not hold every change since a position, or that
	// the position is not in this history.
	ErrTruncated = errors.New("the change log no longer reaches back that far")
	// ErrTokenKey says that the configured token key is not the one that this deployment's tokens
	// were made with.
	ErrTokenKey = errors.New("token key mismatch")
	// ErrReplaced says that files of the database were replaced or removed while it was open, so
	// that other processes may open different files under its name. A node that gets it drops its
	// lease and its cache.
	ErrReplaced = errors.New("files of the database were replaced while it was open")
	// ErrNewerSchema says that a later version of this program has migrated the database.
	ErrNewerSchema = errors.New("the database was migrated by a newer version")
)

// A Database is the system of record.
//
// It is linearizable and durable: a write whose call returned nil is visible to every later call of
// any process, and survives a kill or a power cut. All methods are safe for concurrent use. The
// caller bounds the time through ctx; when ctx ends a method returns soon with an error, and a
// write may or may not have been committed, except that a write that returned an error other than
// ctx's or a lost connection has not been. Many concurrent calls of Key, Keys, CountKeys, Policy,
// Audits and AuditChain wait for one another; no other method waits for them. Times are UTC in
// microseconds. Slices and maps that are passed in are not kept; those returned belong to the
// caller.
//
// Every change of a key, a secret, a namespace, a role or a member, by whatever program, takes the
// next [Revision] in its own transaction from one row, and leaves at least one [Change] under it.
// Revisions have no gaps and are in the order of the commits: whoever sees revision r sees all that
// r and the ones before it did. Last uses, nodes, sessions and remembered requests take none, nor
// does a new key by itself: it counts through its secrets.
type Database interface {
	// Deployment prepares the deployment at first use (the epoch, a token key unless one is
	// configured, the namespace `default`) and returns it. Processes that call it at the same time
	// get the same one. configured is the token key of the configuration, nil for none: ErrTokenKey
	// when tokens may have been made with another.
	Deployment(ctx context.Context, configured *[32]byte) (Deployment, error)

	// Join registers a node by its Incarnation, Address, Lease and Former, durably, before it first
	// trusts what it caches. Each start has a new incarnation, and so has a node that was fenced:
	// an incarnation that was removed never comes back. An existing row keeps its state and the
	// longer lease, but is written again: a nil error means that it is durable.
	Join(ctx context.Context, n Node) error
	// SetLease changes the lease of a node. A missing node is no error: [Database.Renew] tells.
	SetLease(ctx context.Context, incarnation string, lease time.Duration) error
	// Confirm writes the node's row again, unchanged and durably. A missing node is no error.
	Confirm(ctx context.Context, incarnation string) error
	// Renew returns the head of the change log and the node's own state, from one snapshot taken
	// after the call began, and whether the history up to there holds the position that the node is
	// at. ErrReplaced.
	Renew(ctx context.Context, incarnation string, at Position) (Head, error)
	// NewEpoch gives the deployment another epoch if the current one is `was`. It registers nodes
	// of another history as fencing, by their Incarnation, Address and Lease, except those that
	// have joined again: an existing row stays unchanged. A nil error means that all of this is
	// durable, and so is an epoch that another process has set.
	NewEpoch(ctx context.Context, was string, nodes []Node) error
	// NoteTime stores t unless a later time is stored already. [Head] returns the stored time,
	// which need not survive a crash.
	NoteTime(ctx context.Context, t time.Time) error
	// Acknowledge records that the node is alive and has applied everything up to a position. It
	// ignores a position that is not in this history.
	Acknowledge(ctx context.Context, incarnation string, at Position) error
	// Nodes returns the registered nodes, in any state. It may remove, and leave out, one whose
	// process has certainly ended.
	Nodes(ctx context.Context) ([]Node, error)
	// Fence tells a silent node, should it live, to join anew before it trusts anything. A missing
	// node is no error.
	Fence(ctx context.Context, incarnation string) error
	// Remove deletes the row of a node that leaves. A missing node is no error.
	Remove(ctx context.Context, incarnation string) error
	// RemoveFenced deletes the row of a node whose lease must have expired, if the node is still
	// fencing. A missing node is no error.
	RemoveFenced(ctx context.Context, incarnation string) error

	// Changes returns what happened in (after, upTo], in order. ErrTruncated: treat everything as
	// changed.
	Changes(ctx context.Context, after, upTo Revision) ([]Change, error)
	// Changed receives, with a capacity of one, when another caller may have committed a change:
	// within 100 ms for one of another process. It may fire for nothing, and is closed by Close.
	Changed() <-chan struct{}

	// KeyByDigest returns the key that a digest opens, and the head in the same snapshot, taken
	// after the call began. The digest of a token that was rotated out is not among the key's
	// Secrets. A nil key, with no error, when none has or had it.
	KeyByDigest(ctx context.Context, d Digest) (*Key, Position, error)
	// Key returns one key. ErrNotFound.
	Key(ctx context.Context, id string) (*Key, error)
	// Keys returns the keys that a filter fits, in the order that it asks for, at most limit of
	// them, and the cursor of the next page, empty at the end. A page also ends when it takes about
	// [PageBytes]. A cursor stays good while keys come and go. With a Text it looks at some
	// thousands of keys at most: a page may then be short, or empty, and not the last. Orders other
	// than by time of creation are for some thousands of keys: with more it is KindInvalid.
	Keys(ctx context.Context, f KeyFilter, cursor string, limit int) (keys []Key, next string,
		err error)
	// CountKeys counts them by status.
	CountKeys(ctx context.Context) (map[Status]int64, error)
	// CountPrefixes counts the keys that are neither revoked nor expired and have a token of this
	// deployment with a prefix not in except, by prefix. Members' tokens do not count.
	CountPrefixes(ctx context.Context, except []string) (map[string]int64, error)
	// MostKeys returns the highest [Tx.CountOwned] of all owners but root, and the highest
	// [Tx.CountHomed].
	MostKeys(ctx context.Context) (owner, namespace int64, err error)
	// Policy returns the namespaces, roles and members that have changed since a position, from one
	// snapshot taken after the call began; nil, with no error, for none. It returns all of them
	// since [Nowhere]. ErrTruncated.
	Policy(ctx context.Context, since Position) (*Policy, error)
	// RenewPolicy is Policy for renewals. It does not wait for calls of Policy.
	RenewPolicy(ctx context.Context, since Position) (*Policy, error)
	// Audits returns rows of the audit log that a filter fits, newest first, at most limit of them,
	// and the cursor of the next page, empty at the end. A page also ends when it takes about
	// [PageBytes].
	Audits(ctx context.Context, f AuditFilter, cursor string, limit int) (rows []AuditRow,
		next string, err error)
	// AuditChain returns the rows after a Seq, oldest first: at least one if there is any, and at
	// most about 500 rows or 256 KiB, plus the row that exceeds that.
	AuditChain(ctx context.Context, after int64) ([]AuditRow, error)

	// RefusedKeys returns the keys that [Tx.InsertKeys] would refuse now, as errors by index.
	RefusedKeys(ctx context.Context, keys []*Key) (refused map[int]error, err error)

	// Update runs change in one transaction, the only one of the whole deployment that writes
	// meanwhile, and returns the head right after it. An error of change rolls everything back and
	// is returned as it is.
	Update(ctx context.Context, change func(Tx) error) (Revision, error)
	// RecordUse notes last uses: key id to time. An earlier time than the one known changes
	// nothing, nor does an unknown id.
	RecordUse(ctx context.Context, uses map[string]time.Time) error

	// InsertSession adds a session, whose ID nobody else has. A token keeps MaxSessions, those that
	// were used last.
	InsertSession(ctx context.Context, s Session) error
	// Session: ErrNotFound.
	Session(ctx context.Context, id Digest) (*Session, error)
	// UseSession notes a use of a session. An earlier time than the one known changes nothing, nor
	// does an unknown id.
	UseSession(ctx context.Context, id Digest, at time.Time) error
	// DeleteSession ends one. An unknown id is no error.
	DeleteSession(ctx context.Context, id Digest) error
	// DeleteSessions removes those that were last used, or made, before the times given.
	DeleteSessions(ctx context.Context, used, made time.Time) error

	// Close releases all resources. It waits some seconds for running calls; later calls fail.
	Close() error
}

// A Tx is one transaction of [Database.Update]. It is for one goroutine, and ends with the call.
type Tx interface {
	// Now returns the database's clock: the same time throughout the transaction, and never before
	// the time stored by NoteTime.
	Now() time.Time

	// Key: ErrNotFound.
	Key(id string) (*Key, error)
	// InsertKeys adds keys with their secrets, as if one after the other, but for those that it
	// refuses, by their index. ErrExists: the id is taken. ErrSpent: a digest has been in use, by
	// any key, ever. Keys that are refused take nothing from those after them.
	InsertKeys(keys []*Key) (refused map[int]error, err error)
	// Keys returns the existing keys among ids, ordered by id.
	Keys(ids []string) ([]Key, error)
	// RevokeKeys revokes keys and increments their Version. reasons maps ids to reasons; it ignores
	// keys that do not exist or are already revoked.
	RevokeKeys(reasons map[string]string, by string) error
	// UpdateKey replaces the key of that id, but for LastUsedAt. Secrets new in k are added
	// (ErrSpent), the others' ExpiresAt set; one that is no longer in k opens nothing any more, but
	// its digest is kept. ErrNotFound.
	UpdateKey(k *Key) error
	// DeleteKey removes the key; the digests of its secrets are kept. ErrNotFound.
	DeleteKey(id string) error

	// BeginImport registers an import that a node makes in several transactions, and returns its
	// id.
	BeginImport(node, caller string) (id int64, err error)
	// StageKeys is InsertKeys for keys of an import: their secrets are not valid until the import
	// is published. CreatedBy must be the import's caller and CreatedAt the Now of BeginImport.
	// ErrNotFound: the import was abandoned.
	StageKeys(id int64, keys []*Key) (refused map[int]error, err error)
	// PublishImport completes an import and makes all of its secrets valid. ErrNotFound: the import
	// was abandoned.
	PublishImport(id int64) error
	// AbandonImports abandons the import with this id, imports that have added no key since idle,
	// and imports of nodes that no longer exist.
	AbandonImports(id int64, idle time.Time) error
	// RemoveAbandoned removes at most limit keys of abandoned imports and returns them. Their ids
	// and digests can be used again. It returns none when none are left.
	RemoveAbandoned(limit int) ([]Key, error)
	// ChangedAbandoned returns at most limit ids of keys that RemoveAbandoned leaves because they
	// were changed after the import had added them, and that are not revoked. When there is none,
	// and nothing to remove, it removes the imports: a revoked key and its digests stay.
	ChangedAbandoned(limit int) (ids []string, err error)

	// KeysMadeBy returns the ids of the keys whose CreatedBy is one of makers, oldest first for
	// each maker.
	KeysMadeBy(makers ...string) ([]string, error)
	// KeysOwnedBy returns how many keys that are not revoked act for a member, personal ones left
	// out.
	KeysOwnedBy(member string) (int64, error)
	// PersonalKey returns the key of a member's token that is not revoked, nil when there is none.
	PersonalKey(member string) (*Key, error)
	// KeysHolding calls f with each key that is not revoked, homed in one of the namespaces, and
	// has a role in a grant, until f returns false: with its ID, Namespace, Owner and Grants alone.
	// There may be a million, which are not held in memory. f must not use the transaction.
	KeysHolding(role RoleID, homes []string, f func(*Key) bool) error
	// RoleHeld returns where grants of keys have a role: each namespace once for connected grants
	// and once for others.
	RoleHeld(role RoleID) ([]Reach, error)

	// Policy is [Database.Policy] inside the transaction, what it has changed itself included.
	Policy(since Position) (*Policy, error)
	// CountOwned returns how many keys act for an owner, whatever their status. Members' own tokens
	// do not count.
	CountOwned(owner string) (int64, error)
	// CountHomed returns how many keys have a namespace as their home, counted as CountOwned does.
	CountHomed(namespace string) (int64, error)

	// InsertNamespace: ErrExists.
	InsertNamespace(ns *Namespace) error
	// UpdateNamespace: ErrNotFound.
	UpdateNamespace(ns *Namespace) error
	// DeleteNamespace: ErrNotFound.
	DeleteNamespace(id string) error
	// FormerNamespace reports whether a namespace with this id has been deleted, by whatever
	// program.
	FormerNamespace(id string) (bool, error)
	// NamespaceInUse names a key that lives in the namespace or has a grant in it, empty for none.
	NamespaceInUse(id string) (key string, err error)

	// InsertRole: ErrExists.
	InsertRole(r *Role) error
	// UpdateRole replaces its description, permissions and version. ErrNotFound.
	UpdateRole(r *Role) error
	// DeleteRole: ErrNotFound.
	DeleteRole(id RoleID) error

	// InsertMember: ErrExists, of the id or, where it has one, of the login.
	InsertMember(m *Member) error
	// UpdateMember replaces the member of that id. ErrNotFound; ErrExists: the login is another's.
	UpdateMember(m *Member) error
	// DeleteMember: ErrNotFound.
	DeleteMember(id string) error

	// LastAudit returns the newest row of the audit log, nil when there is none.
	LastAudit() (*AuditRow, error)
	// AppendAudit adds rows; the Seq of each is that of the one before it plus one.
	AppendAudit(rows []*AuditRow) error

	// Remembered returns what a caller's Idempotency-Key made, empty when it is not known or older
	// than since.
	Remembered(caller, key string, since time.Time) (made string, err error)
	// Remember keeps it, and forgets what is older than since.
	Remember(caller, key, made string, since time.Time) error
}

// A Deployment is what all nodes of one database share for good.
type Deployment struct {
	Epoch    string // random, of this database: another one after a restore that says so
	TokenKey [32]byte
}

// A Position is a revision and the random mark that it got: two databases that share a past up to
// some revision and not beyond it, as after a restore, have other marks from there on. Its zero
// value is before the first change.
type Position struct {
	Revision Revision
	Mark     string
}

// PageBytes is the approximate memory, as Size counts it, at which a page of a list ends. A page
// has at least one object.
const PageBytes = 4 << 20

// Nowhere is the position before the first change: everything has changed since.
var Nowhere = Position{Revision: -1}

// Head is the state of the change log as one node sees it.
type Head struct {
	Position // of the newest change
	Epoch    string
	// the position asked for is not in this history: changes that were committed have been lost
	Diverged bool
	Node     NodeState // of the node that asks
	Nodes    int       // registered, in any state
	Imported bool      // whether any credential without a tag of ours was ever stored
	Now      time.Time // the database's clock, read during the call
	// the database has not answered for a while since the last Join or Confirm: another server may
	// have taken over
	Silent bool
	Noted  time.Time // see NoteTime; zero: none
	// commits wait for a standby, so that a failover loses nothing that was acknowledged
	Standbys bool
	// of the server: another one once a standby has taken over; empty where there is no such thing
	Timeline string
}

// NodeState is what the database says of a node.
type NodeState string

const (
	NodeActive  NodeState = "active"
	NodeFencing NodeState = "fencing"
	NodeMissing NodeState = "" // no such row
)

// A Node is one registered process.
type Node struct {
	Incarnation  string
	Address      string // for people: host name and process id
	Lease        time.Duration
	State        NodeState
	Acknowledged Revision
	Beats        int64 // counts Acknowledge calls
	// the incarnation that this node was before, which holds no lease any more; only for Join
	Former string
	Epoch  string    // of the deployment when it joined; empty: not known
	Joined time.Time // by the database's clock, as Heard
	Heard  time.Time // when it joined or acknowledged last
}

// ChangeKind says what a change can affect.
type ChangeKind string

const (
	ChangeKey ChangeKind = "key" // one key, through one of its secrets
	// credentials were added, too many to name: what was known to open nothing may open something
	ChangeNew    ChangeKind = "new"
	ChangePolicy ChangeKind = "policy" // namespaces, roles, members
	ChangeAll    ChangeKind = "all"    // anything
)

// A Change is one entry of the change log.
type Change struct {
	Revision Revision
	Kind     ChangeKind
	Digest   Digest // of ChangeKey: the secret; zero for a key without any
	// of ChangeKey: when that secret stops opening anything; the epoch (Unix 0): it does not open
	// anything now; zero: never
	Ends time.Time
}

// Reach is where a grant counts.
type Reach struct {
	Namespace string
	Connected bool
}

// An AuditFilter selects rows of the audit log; its zero value all of them.
type AuditFilter struct {
	Namespaces []string // touches only these, and at least one; nil: any row
	Namespace  string   // touches this one; empty: any row
	Actor      string
	Action     string
	Object     string
	From, To   time.Time // zero: unbounded; From inclusive, To exclusive
}

// A KeyFilter selects keys; its zero value all of them.
type KeyFilter struct {
	Namespaces []string // home is one of these; nil: any. Empty but not nil fits none.
	In         string   // home is this one, or a grant names it; empty: any
	Visible    []string // and home is one of these, unless nil …
	OrOwner    string   // … or the key acts for this member, wherever its home is; empty: nobody
	Status     Status
	Now        time.Time // what Status is judged at
	Owner      string
	CreatedBy  string
	Role       string
	Metadata   map[string]string // all of these, to the letter
	// in name or id or listed prefix, without regard to ASCII case; literal, no wildcards
	Text string
	Sort KeySort
}

// A KeySort is the order of a list: created_at, name, expires_at or last_used_at, with a minus
// before it from the last to the first. Names are in the order of their UTF-8 without regard to
// ASCII case; a key that never expires comes after all others, one that was never used before them.
// The zero value is NewestFirst.
type KeySort string

// NewestFirst is the order of lists when nobody asks for another.
const NewestFirst KeySort = ""

// An AuditRow is one change as it is kept: see audit.go for the chain.
type AuditRow struct {
	Seq        int64
	At         time.Time
	Actor      string // member or key id
	From       string // the address the change came from
	Action     string // "key.mint", "namespace.delete", …
	Object     string // id
	Namespaces []string
	Before     string // JSON, empty for none
	After      string // JSON, empty for none
	Hash       Digest
}
