// Package faults breaks real fleets, Caddys that share a PostgreSQL and a Redis, and judges what
// their clients saw.
//
// # The promise
//
// A history ([History]) holds every request with the time before its first byte and the time after
// its answer, every change of a key with the times of its call and its return, every stream, and
// every fault. [History.Check] judges it:
//
//   - a request that was sent after a change had answered that it is in force everywhere is not accepted with what the change took away;
//   - no stream shows an event that was sent after that, but for a process that cannot ask the database or does not run: it cuts by a timer, when
//     its lease is over or when it goes on (docs/protocol.md);
//   - a live key is never refused, whatever is broken: when nothing can be known the answer is 503;
//   - nor is it answered 503 by a node that is well and whose way to the database is, and was so for as long as it takes to notice. Redis
//     is no excuse for anything.
//
// While a change is under way, either answer is right.
//
// # The suite
//
// TestScenarios breaks one thing at the one moment when it matters, in a way that repeats: with the
// files of keystore/node/faults.go a process waits at a named point of the protocol, with those of
// gate.Fleet's proxies one way is cut or hangs, and there are signals and SQL. It covers what a
// fleet on one machine can suffer: read the table in scenarios_test.go. It includes what the
// database's operator does: PostgreSQL's wall clock is set (libfaketime is preloaded into the
// server), a synchronous or asynchronous standby takes over, a backup is restored under running
// nodes, synchronous_commit is turned off, and the files of a fleet on SQLite are replaced.
//
// TestAblations shows that this would be noticed. Each names a part of the protocol that a Caddy
// built with the tag faults leaves out; in the scenario that it stands beside, the oracle must then
// find a request accepted or a stream going on. One that survives fails the test.
//
// TestChaos runs random faults, one to three at a time, on three nodes and those that join, while
// keys are minted, set inactive, narrowed, rotated, revoked and deleted, and are used on every node
// before and after. The schedule comes from a seed alone ([Plan]). PostgreSQL has a synchronous
// standby, which takes over at times and is away at others. The database's clock is set ahead and
// behind, settings are changed, and keys are imported, exported and revoked by the hundred; a node
// that has no other fault serves live keys through all of these. A failover that loses answered
// changes and a restore are in TestScenarios alone: no random history tells which of its changes
// are lost.
//
// # Running it
//
// `make test` runs most scenarios, each ablation in one scenario, and half a minute of random
// faults. `make faults` also has what takes long, and half an hour of random faults:
//
//	make faults SEED=42 DURATION=1h
//
// Without SEED each run has another one, and prints it. A run that fails keeps its history, one
// JSON object a line, and names the file:
//
//	jq -c 'select(.request.access == "4fK…1.7 read" or .change.takes and (.change.takes | index("4fK…1.7 read")))' FILE
//
// The Caddy under test is the file that CADDY_WITH_FAULTS names, else one that is built first, with
// -race and -tags faults.
package faults
