package keystore

import "context"

// PolicyReader is the part of a [Database] that reads namespaces, roles, plans and members. A node
// holds all of them in memory.
type PolicyReader interface {
	// Policy returns the namespaces, roles, plans and members that have changed since a position,
	// from one snapshot taken after the call began. It returns nil, with no error, if none have,
	// and all of them for [Nowhere]. It can return ErrTruncated.
	Policy(ctx context.Context, since Position) (*Policy, error)
	// RenewPolicy is Policy for lease renewals. It does not wait for calls of Policy.
	RenewPolicy(ctx context.Context, since Position) (*Policy, error)
}
