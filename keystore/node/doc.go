// Package node runs one process of a deployment. A [Node] looks up credentials, keeps its cache
// valid with a lease, applies the change log, and waits until changes are in force on all other
// nodes. docs/protocol.md states the rules that it follows.
//
// Start with [Node.Lookup] (lookup.go), which answers from the cache (localcache.go) or loads a
// record from the shared cache (shared.go) or the database (load.go). [Node.Renew] (lease.go)
// applies the change log (changes.go) and renews the lease. [Node.Write] (write.go) commits a
// change, and [Node.Propagate] (propagate.go) waits for the other nodes. fence.go removes nodes
// that have stopped, history.go handles a database that has lost changes, and running.go cuts
// requests whose key is no longer valid.
//
// The package uses [keystore.Database] and [keystore.SharedCache] through their interfaces. It
// knows nothing about authority, HTTP or Caddy. Lines that begin with `//fault:` are fault points
// for tests: see faults.go.
package node
