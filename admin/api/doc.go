// Package api is the REST interface under /apikeys/v1 as Go types: what a body holds, with the
// names and the limits that the OpenAPI document states. The server ([admin]) and the Go client
// share them. It imports the standard library only.
//
// [admin]: https://pkg.go.dev/github.com/caddy-apikeys/caddy-apikeys/admin
package api

// Prefix is where the interface lives, in every server that has it.
const Prefix = "/apikeys/v1"

// Media types of bodies.
const (
	JSON       = "application/json"
	NDJSON     = "application/x-ndjson"
	MergePatch = "application/merge-patch+json"
	Problems   = "application/problem+json"
)
