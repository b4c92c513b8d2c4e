// Package failover runs gates on three PostgreSQL servers that Patroni manages, breaks the primary
// again and again, and judges what clients saw with the oracle of package faults.
//
// # The deployment
//
// Patroni runs with etcd, `synchronous_mode` and `synchronous_mode_strict`: see [settings] and
// docs/operations.md. Three gates have all three servers in their URL. Proxies stand on each
// connection: from each gate to each server, from the other members to a server and to its Patroni,
// and from each Patroni to etcd.
//
// # The failovers
//
// While keys are minted, changed, revoked and used on every gate, the primary's whole member
// (Patroni, PostgreSQL and its backends) is
//
//   - killed with SIGKILL, as when its machine dies, and started again after the failover;
//   - paused with SIGSTOP until another member is primary, and resumed. It then believes that it is the primary until its
//     Patroni has asked etcd;
//   - partitioned from etcd and from the other members. Each gate is on the primary's side, on the other, or reaches both.
//
// Each round ends when Patroni has all three members back by itself. Then all keys of the round are
// used on every gate: a revoked one must be refused, and one whose mint or activation was answered
// must be accepted.
//
// # Running it
//
// `make test` runs one failover of each kind. `make faults` runs FAILOVERS of them, with Patroni's
// smallest supported ttl, and prints how long keys were answered 503 and how long a revoke took:
//
//	make faults FAILOVERS=50 SEED=42
//
// A run that fails keeps its history and the logs of Patroni and PostgreSQL, and names the files.
package failover
