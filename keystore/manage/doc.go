// Package manage is the one way to change anything: keys, roles, plans, namespaces and members, for
// the REST interface, the console and the command line alike. It also answers their reads.
//
// To see how a change is made, start with [Keystore.EditRole]. Its steps are those of all changes:
//
//  1. Keystore.change (change.go) opens a transaction.
//  2. Keystore.authorityIn (authority.go) reads the policy and the caller's key in the transaction
//     and determines what the caller may do. Its methods implement docs/authority.md.
//  3. The operation checks the permission, the fields (validate.go) and what the change adds, and
//     writes the object.
//  4. audit (audit_write.go) appends to the audit log, in the same transaction.
//  5. After the commit, [node.Node.Propagate] waits until every node has applied the change.
//
// A refusal is a [*keystore.Error]. All other errors mean that the database failed.
//
// The package builds on one running node and on the domain. It knows nothing about HTTP, Caddy or
// any particular database.
package manage
