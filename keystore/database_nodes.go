package keystore

import (
	"context"
	"time"
)

// Deployments is the part of a [Database] that holds the state that all nodes share.
type Deployments interface {
	// Deployment returns the deployment. The first call prepares it: the epoch, a token key unless
	// one is configured, and the namespace `default`. Concurrent first calls of several processes
	// get the same deployment. configured is the token key from the configuration, or nil.
	// Deployment returns ErrTokenKey if tokens may have been created with another key.
	Deployment(ctx context.Context, configured *[32]byte) (Deployment, error)
	// NewEpoch replaces the epoch of the deployment with a new one if it still equals was. It also
	// registers nodes of another history as fencing, with their Incarnation, Address and Lease. An
	// existing row stays unchanged, because its node has joined again. After a nil error all of
	// this is durable, and so is an epoch that another process has set.
	NewEpoch(ctx context.Context, was string, nodes []Node) error
	// NoteTime stores t unless a later time is stored. [Head] returns the stored time, which need
	// not survive a crash.
	NoteTime(ctx context.Context, t time.Time) error
}

// A Deployment is the permanent state that all nodes of one database share.
type Deployment struct {
	Epoch    string // random; a new one after the database has lost changes
	TokenKey [32]byte
}

// Membership is the part of a [Database] that registers nodes, so that a revoke knows which nodes
// to wait for. None of its methods fails because a node does not exist.
type Membership interface {
	// Join registers a node with its Incarnation, Address, Lease and Former. It must return nil
	// before the node first trusts its cache. Each start, and each node that joins again after it
	// was fenced, uses a new incarnation: one that was removed is never used again. An existing row
	// keeps its state and the longer lease, but is written again: after a nil error it is durable.
	Join(ctx context.Context, n Node) error
	// SetLease changes the lease of a node.
	SetLease(ctx context.Context, incarnation string, lease time.Duration) error
	// Confirm writes the row of a node again, unchanged and durably.
	Confirm(ctx context.Context, incarnation string) error
	// Acknowledge records that the node is alive and has applied all changes up to a position. It
	// ignores a position that is not in this history.
	Acknowledge(ctx context.Context, incarnation string, at Position) error
	// Nodes returns the registered nodes, in any state. It may remove, and leave out, a node whose
	// process has certainly ended.
	Nodes(ctx context.Context) ([]Node, error)
	// Fence tells a silent node to join again before it trusts anything, in case it still runs.
	Fence(ctx context.Context, incarnation string) error
	// Remove deletes the row of a node that leaves.
	Remove(ctx context.Context, incarnation string) error
	// RemoveFenced deletes the row of a node whose lease must have expired, if the node is still
	// fencing.
	RemoveFenced(ctx context.Context, incarnation string) error
}

// A Node is one registered process.
type Node struct {
	Incarnation  string
	Address      string // for people: host name and process id
	Lease        time.Duration
	State        NodeState
	Acknowledged Revision
	Beats        int64 // number of Acknowledge calls
	// Former is the previous incarnation of this node, which holds no lease any more. Only Join
	// uses it.
	Former string
	Epoch  string    // of the deployment when the node joined; empty if unknown
	Joined time.Time // by the database's clock, as is Heard
	Heard  time.Time // when the node last joined or acknowledged
}

// NodeState is the state of a node in the database.
type NodeState string

// States of a node.
const (
	NodeActive  NodeState = "active"
	NodeFencing NodeState = "fencing"
	NodeMissing NodeState = "" // not registered
)
