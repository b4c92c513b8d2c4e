// Package usage tests usage with real Caddys and PostgreSQL: every answered request is counted
// once, even if nodes or PostgreSQL are killed or stopped meanwhile. docs/usage.md is the promise.
//
//	go test ./usage -usage.requests 10000000 -timeout 2h
package usage
