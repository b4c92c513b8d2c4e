// Package usage tests usage with real Caddys and PostgreSQL: what was answered is counted, and
// counted once, whatever is killed or stopped meanwhile. docs/usage.md is the promise.
//
//	go test ./usage -usage.requests 10000000 -timeout 2h
package usage
