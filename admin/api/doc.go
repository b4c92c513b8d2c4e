// Package api holds the wire types of the REST interface under /apikeys/v1: the bodies of requests
// and answers, with the names, limits and descriptions of the OpenAPI document in struct tags. The
// server ([admin]) and the Go client share them. Every problem document in the repository is a
// [Problem]. The package imports the standard library only and knows nothing of the key store.
//
// Start with key.go, the largest kind of object. A file holds one kind of object with the requests
// that change it; limit.go holds the limits of keys, plans and namespaces, and answer.go and
// problem.go hold the types that all kinds share.
//
// [admin]: https://pkg.go.dev/github.com/caddy-apikeys/caddy-apikeys/admin
package api

// Prefix begins the path of every operation.
const Prefix = "/apikeys/v1"

// The media types of bodies.
const (
	JSON       = "application/json"
	NDJSON     = "application/x-ndjson"
	CSV        = "text/csv"
	MergePatch = "application/merge-patch+json"
	Problems   = "application/problem+json"
)
