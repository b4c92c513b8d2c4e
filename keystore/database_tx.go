package keystore

import (
	"context"
	"time"
)

// Transactor is the part of a [Database] that changes objects.
type Transactor interface {
	// Update runs change in one transaction and returns the head of the change log right after it.
	// Meanwhile, no other transaction of the deployment writes. If change returns an error, Update
	// rolls everything back and returns that error unchanged.
	Update(ctx context.Context, change func(Tx) error) (Revision, error)
}

// A Tx is one transaction of [Transactor.Update]. It consists of parts, like [Database]. Only one
// goroutine may use it, and only until the function passed to Update returns. Its methods fail when
// the context of Update is done. Reads include the writes of the transaction.
type Tx interface {
	// Now returns the database's clock: the same time throughout the transaction, and never before
	// the time stored by NoteTime.
	Now() time.Time

	KeyWriter
	KeyImporter
	KeyRelations
	PolicyWriter
	AuditWriter
	WebhookWriter
	QuotaThresholds
	ExpiringValues
	ReminderWriter
}

// KeyWriter is the part of a [Tx] that creates and changes keys.
type KeyWriter interface {
	// Key returns one key, or ErrNotFound.
	Key(id string) (*Key, error)
	// Keys returns the existing keys among ids, ordered by id.
	Keys(ids []string) ([]Key, error)
	// InsertKeys adds keys with their secrets, as if one after the other. It reports those that it
	// refuses, by index: ErrExists if the id is taken, ErrSpent if any key ever had one of the
	// digests. A refused key does not affect those after it.
	InsertKeys(keys []*Key) (refused map[int]error, err error)
	// UpdateKey replaces the key with the id of k, except its last uses. It adds the secrets that
	// are new in k and sets only the ExpiresAt of the others. A secret that is no longer in k becomes
	// invalid, but its digest is kept. UpdateKey returns ErrNotFound if the key does not exist, and
	// ErrSpent if any key ever had the digest of a new secret.
	UpdateKey(k *Key) error
	// RevokeKeys revokes keys and increments their Version. reasons maps ids to reasons; ids of
	// keys that do not exist or are already revoked are ignored.
	RevokeKeys(reasons map[string]string, by string) error
	// SetOwner makes a member the owner of keys and increments their Version. Ids of keys that do
	// not exist or are revoked are ignored.
	SetOwner(ids []string, owner string) error
	// InactivateKeys makes keys inactive and increments their Version. Ids of keys that do not exist
	// or are revoked are ignored.
	InactivateKeys(ids []string) error
	// DeleteKey deletes a key, or returns ErrNotFound. The digests of its secrets are kept.
	DeleteKey(id string) error
}

// KeyImporter is the part of a [Tx] for imports that take several transactions. The secrets of an
// import become valid all at once, when it is published.
type KeyImporter interface {
	// BeginImport registers an import by a node and returns its id.
	BeginImport(node, caller string) (id int64, err error)
	// StageKeys is InsertKeys for keys of an import. CreatedBy must be the import's caller, and
	// CreatedAt the Now of BeginImport. It returns ErrNotFound if the import was abandoned.
	StageKeys(id int64, keys []*Key) (refused map[int]error, err error)
	// PublishImport completes an import and makes all its secrets valid. It returns ErrNotFound if
	// the import was abandoned.
	PublishImport(id int64) error
	// AbandonImports abandons the import with this id, imports that have added no key since the
	// time idle, and imports of nodes that no longer exist.
	AbandonImports(id int64, idle time.Time) error
	// RemoveAbandoned removes at most limit keys of abandoned imports and returns them. Their ids
	// and digests can be used again. It returns none when none are left.
	RemoveAbandoned(limit int) ([]Key, error)
	// ChangedAbandoned returns at most limit ids of keys that RemoveAbandoned does not remove,
	// because they were changed after the import had added them. It leaves out revoked keys, which
	// stay with their digests. If there are none, it removes the abandoned imports of which
	// RemoveAbandoned has no key to remove.
	ChangedAbandoned(limit int) (ids []string, err error)
}

// KeyRelations is the part of a [Tx] that finds keys by the objects that they refer to.
type KeyRelations interface {
	// KeysCreatedBy returns the ids of the keys whose CreatedBy is one of creators, oldest first
	// for each creator.
	KeysCreatedBy(creators ...string) ([]string, error)
	// KeysOwnedBy returns the number of keys that act for a member, without revoked keys and the
	// member's own token.
	KeysOwnedBy(member string) (int64, error)
	// OwnedKeys returns the ids of at most limit of the keys that KeysOwnedBy counts, oldest first.
	OwnedKeys(member string, limit int) ([]string, error)
	// OwnedHomes returns the home namespaces of the keys that KeysOwnedBy counts, in any order and
	// each once. It takes time for each of them, but not for each key.
	OwnedHomes(member string) ([]string, error)
	// CountOwned returns the number of keys that act for an owner, in any status, without members'
	// own tokens.
	CountOwned(owner string) (int64, error)
	// CountHomed returns the number of keys whose home is a namespace, counted like CountOwned.
	CountHomed(namespace string) (int64, error)
	// PersonalKey returns the key of a member's token, or nil if there is none or it is revoked.
	PersonalKey(member string) (*Key, error)
	// KeysHolding calls f with each key that is not revoked, has its home in one of the namespaces,
	// and has the role in a grant, until f returns false. Only ID, Name, Namespace, Owner and
	// Grants of the key are set. There may be a million keys; they are not all held in memory. Keys
	// with equal Grants may share their array. f must not use the transaction.
	KeysHolding(role RoleID, homes []string, f func(*Key) bool) error
	// RoleHeld returns where keys have a role in a grant: each namespace at most once for connected
	// grants and once for others.
	RoleHeld(role RoleID) ([]Reach, error)
	// PlanInUse returns the id of a key, in any status, that names the plan, or "" if there is
	// none. The key's home is the namespace of the plan, or any namespace for a shared plan.
	PlanInUse(id PlanID) (key string, err error)
	// NamespaceInUse returns the id of a key that has its home or a grant in the namespace, or ""
	// if there is none.
	NamespaceInUse(id string) (key string, err error)
}

// Reach is where a grant applies.
type Reach struct {
	Namespace string
	Connected bool
}

// PolicyWriter is the part of a [Tx] that reads and changes namespaces, roles, plans and members.
type PolicyWriter interface {
	// Policy is [PolicyReader.Policy] inside the transaction.
	Policy(since Position) (*Policy, error)

	// InsertNamespace adds a namespace, or returns ErrExists.
	InsertNamespace(ns *Namespace) error
	// UpdateNamespace replaces the namespace with the id of ns, or returns ErrNotFound.
	UpdateNamespace(ns *Namespace) error
	// DeleteNamespace deletes a namespace, or returns ErrNotFound.
	DeleteNamespace(id string) error
	// FormerNamespace reports whether a namespace with this id has been deleted, by any program.
	FormerNamespace(id string) (bool, error)

	// InsertRole adds a role, or returns ErrExists.
	InsertRole(r *Role) error
	// UpdateRole replaces the description, the permissions and the version of a role, or returns
	// ErrNotFound.
	UpdateRole(r *Role) error
	// DeleteRole deletes a role, or returns ErrNotFound.
	DeleteRole(id RoleID) error

	// InsertPlan adds a plan, or returns ErrExists.
	InsertPlan(p *Plan) error
	// UpdatePlan replaces the description, the limits and the version of a plan, or returns
	// ErrNotFound.
	UpdatePlan(p *Plan) error
	// DeletePlan deletes a plan, or returns ErrNotFound.
	DeletePlan(id PlanID) error

	// InsertMember adds a member, or returns ErrExists if the id or the login is taken.
	InsertMember(m *Member) error
	// UpdateMember replaces the member with the id of m. It returns ErrNotFound if the member does
	// not exist, and ErrExists if the login is taken.
	UpdateMember(m *Member) error
	// DeleteMember deletes a member, or returns ErrNotFound.
	DeleteMember(id string) error
}

// AuditWriter is the part of a [Tx] that extends the audit log.
type AuditWriter interface {
	// LastAudit returns the newest row of the audit log, or nil if there is none.
	LastAudit() (*AuditRow, error)
	// AppendAudit adds rows. The Seq of each must be that of the row before it plus one.
	AppendAudit(rows []*AuditRow) error
}

// ExpiringValues is the part of a [Tx] that stores short texts for a limited time. The caller
// chooses the scopes, the meaning of the values and, with each call, how long they are kept.
type ExpiringValues interface {
	// Remembered returns the value stored under a scope and a key, or "" if there is none or it is
	// older than since.
	Remembered(scope, key string, since time.Time) (value string, err error)
	// Remember stores a value under a scope and a key. It also deletes some of the values, of any
	// scope, that are older than since: the table stays small without a job that cleans it.
	Remember(scope, key, value string, since time.Time) error
}
