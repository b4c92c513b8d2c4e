package keystore

import (
	"context"
	"time"
)

// ChangeLog is the part of a [Database] that tells nodes what has changed.
type ChangeLog interface {
	// Renew returns the head of the change log and the node's own state, from one snapshot taken
	// after the call began. It also reports whether the position of the node is in this history.
	// It returns ErrReplaced if the files of the database were replaced. A node that is not
	// registered is not an error.
	Renew(ctx context.Context, incarnation string, at Position) (Head, error)
	// Changes returns the changes after one revision, up to and including another, in order. After
	// ErrTruncated the caller treats everything as changed.
	Changes(ctx context.Context, after, upTo Revision) ([]Change, error)
	// Changed returns a channel with a capacity of one. It receives a value when another caller may
	// have committed a change, within 100 ms if that caller is another process. On SQLite it may take
	// 600 ms, if the disk needed a second or the file system rounds times to seconds. It may also
	// receive one without a change. Close closes it.
	Changed() <-chan struct{}
}

// Revision numbers the changes of a deployment. Zero is before the first change.
type Revision int64

// A Position is a revision and the random mark that was assigned to it. Two databases that share
// their history up to some revision, as after a restore, have different marks from there on. The
// zero value is before the first change.
type Position struct {
	Revision Revision
	Mark     string
}

// Nowhere is the position of a node that has read nothing: everything has changed since.
var Nowhere = Position{Revision: -1}

// Head is the state of the change log as one node sees it.
type Head struct {
	Position // of the newest change
	Epoch    string
	// Diverged reports whether the node's position is missing from this history, because committed
	// changes were lost.
	Diverged bool
	Node     NodeState // of the node that asks
	Nodes    int       // number of registered nodes, in any state
	Imported bool      // whether an imported secret was ever stored
	Now      time.Time // the database's clock, read during the call
	// Silent reports whether the database has failed to answer for a while since the last Join or
	// Confirm. Another server may then have taken over.
	Silent bool
	Noted  time.Time // the time stored by NoteTime; zero if none
	// Standbys reports whether commits wait for a standby, so that a failover loses no committed
	// change.
	Standbys bool
	// Timeline identifies the server: it changes when a standby takes over. Empty if the database
	// has no standbys.
	Timeline string
}

// A Change is one entry of the change log.
type Change struct {
	Revision Revision
	Kind     ChangeKind
	Digest   Digest // of the changed secret, for ChangeKey; zero for a key without secrets
	// Ends is when the changed secret stops being valid, for ChangeKey. The zero time means never,
	// and the Unix epoch that it is not valid now.
	Ends time.Time
	// Owner is the owner of the key, for ChangeKey. It may already be that of a later change,
	// which a failover may lose.
	Owner string
}

// ChangeKind is what a change can affect.
type ChangeKind string

// Kinds of changes.
const (
	ChangeKey ChangeKind = "key" // one key, through one of its secrets
	// ChangeNew means that too many credentials were added to list them. A credential that was
	// unknown may be valid now.
	ChangeNew    ChangeKind = "new"
	ChangePolicy ChangeKind = "policy" // namespaces, roles, plans, members
	ChangeAll    ChangeKind = "all"    // anything
)
