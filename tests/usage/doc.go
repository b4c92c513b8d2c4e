// Package usage tests usage with real Caddys and PostgreSQL: every answered request is counted
// once, even if nodes or PostgreSQL are killed or stopped meanwhile. Only those of the last 10 s
// before a node is killed may be missing. docs/usage.md is the promise.
//
//	go test ./usage -usage.requests 10000000 -timeout 2h
package usage
