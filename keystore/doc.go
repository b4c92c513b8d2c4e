// Package keystore is the domain: keys, members, roles, namespaces and permissions, and the
// decision whether a key allows a request. It is pure. It imports only the standard library, starts
// no goroutine, and knows neither SQL nor Caddy nor Redis.
//
// Start with [Decide], which maps a [Record] and a [Request] to an [Outcome]. A [Directory] holds
// the namespaces, roles and members that the decision depends on. [Token] and [TokenKey] define the
// format of credentials. [Database] is the contract of the system of record, [SharedCache] that of
// the cache that nodes share.
//
// Package node builds a running process on these types, package manage the operations that change
// them.
package keystore
