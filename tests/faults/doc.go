// Package faults injects faults into fleets of Caddy processes that share PostgreSQL and Redis, and
// judges the responses that their clients received.
//
// # The promise
//
// A history ([History]) records every request with the times before its first byte and after its
// response, every change of a key with the times of its call and its return, every stream, and
// every fault. [History.Check] verifies that:
//
//   - no request is accepted on the strength of an access that was taken away, if it was sent after
//     the change returned complete;
//   - no stream delivers an event that was sent after that. A process that cannot reach the
//     database, or is stopped, cuts its streams when its lease expires or when it continues
//     (docs/protocol.md);
//   - no fault makes a node refuse a valid key. A node that cannot know answers 503;
//   - a healthy node with a working database connection does not answer 503 for a valid key, once
//     it has had time to notice. A fault of Redis excuses nothing.
//
// While a change is in progress, either response is correct.
//
// # The suite
//
// TestScenarios injects one fault at the moment when it matters, reproducibly. A process waits at a
// named fault point of the protocol (keystore/node/faults.go describes them), a proxy cuts or
// stalls one connection, or the test sends signals and SQL. The table in scenarios_test.go lists
// the faults that a fleet on one machine can suffer. They include actions of the database operator:
// setting the wall clock of PostgreSQL (with libfaketime), a failover to a synchronous or
// asynchronous standby, restoring a backup while nodes run, turning synchronous_commit off, and
// replacing SQLite files.
//
// TestAblations proves that the scenarios detect errors. Each ablation is a part of the protocol
// that a Caddy with fault points can leave out. In the scenario that names the ablation, the oracle
// must then find an accepted request or a stream that continues. Otherwise the test fails.
//
// TestChaos injects random faults, one to three at a time, into three nodes and those that join.
// Meanwhile keys are minted, deactivated, narrowed, rotated, revoked and deleted, and every node
// receives requests with them before and after. A seed alone determines the schedule ([Plan]).
// PostgreSQL has a synchronous standby, which sometimes takes over and sometimes is unavailable.
// The database clock is set, synchronous_commit is changed, and hundreds of keys are imported,
// exported and revoked. A node without another fault must serve valid keys through all of these.
// Failovers that lose acknowledged changes and restores are only in TestScenarios, because a random
// history does not tell which changes are lost.
//
// # Running it
//
// `make test` runs most scenarios, each ablation in one scenario, and 20 seconds of random
// faults. `make faults` adds the slow scenarios and runs half an hour of random faults:
//
//	make faults SEED=42 DURATION=1h
//
// Without SEED, each run chooses a seed and prints it. A run that fails keeps its history as one
// JSON object per line and prints the path:
//
//	jq -c 'select(.request.access == "4fK…1.7 read" or
//		.change.takes and (.change.takes | index("4fK…1.7 read")))' FILE
//
// CADDY_WITH_FAULTS names the Caddy with fault points that the scenarios run. Without it, the tests
// build one. TestChaos needs no fault points, and runs the Caddy under test with the race detector.
package faults
