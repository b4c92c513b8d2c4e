// Package keystore decides whether an API key opens a request, and manages the keys.
//
// The data plane asks [manage.Keystore.Lookup] for the [Record] a credential opens and [Decide] for
// the [Outcome]; the managing side ([manage.Keystore.MintKey] and its neighbours) is the one way to
// change anything. A change that takes access away answers when no node accepts what it took: see
// lease.go, changes.go and propagate.go.
//
// The package imports the standard library only. The system of record behind it is a [Database].
package keystore
