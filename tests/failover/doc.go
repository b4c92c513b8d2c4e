// Package failover runs gates on three PostgreSQL servers under Patroni, repeatedly breaks the
// primary, and judges the responses to clients with the oracle of package faults.
//
// # The deployment
//
// Patroni runs with etcd, `synchronous_mode` and `synchronous_mode_strict`: see [settings] and
// docs/operations.md. Three gates have all three servers in their URL. A proxy is on each
// connection: from each gate to each server, from the other members to a server and to its Patroni,
// and from each Patroni to etcd.
//
// # The failovers
//
// While keys are minted, changed, revoked and used on every gate, the primary's whole member
// (Patroni, PostgreSQL and its backends) is
//
//   - killed with SIGKILL, as when its machine dies, and started again after the failover;
//   - paused with SIGSTOP until another member is primary, and resumed. It then believes that it is
//     the primary until its Patroni has asked etcd;
//   - partitioned from etcd and from the other members. Each gate is on the primary's side, on the
//     other side, or reaches both.
//
// Each round ends when Patroni has recovered all three members. Then every gate receives a request
// with each key of the round. It must refuse revoked keys, and accept keys whose mint or activation
// returned.
//
// All gates have one webhook, and all keys expire soon after the time of their reminder. At the end,
// each key that is not revoked has one reminder, and the receiver has all events of the audit log in
// their order.
//
// # Running it
//
// `make test` runs one failover of each kind. `make faults` runs FAILOVERS of them, with Patroni's
// smallest supported ttl, and prints how long requests got 503 and how long a revoke took:
//
//	make faults FAILOVERS=50 SEED=42
//
// A run that fails keeps its history and the logs of Patroni and PostgreSQL, and prints their
// paths.
package failover
