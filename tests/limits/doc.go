// Package limits tests rate limits and quotas with real Caddys, PostgreSQL and Redis. docs/limits.md
// is the promise that it holds them to.
//
// TestStacks runs the same load on every kind of deployment: one process, several on one SQLite
// file, and several on PostgreSQL with Redis, Sentinel, a Cluster or no Redis. failures_test.go
// breaks servers and processes in the middle of that load, and changes_test.go changes limits while
// they are in use. complaints_test.go has a test for each complaint about other gateways.
//
// No test depends on the speed of the machine. Limits refill so slowly that time hardly matters,
// and a request counts in an interval only if it was sent and answered within it.
package limits
