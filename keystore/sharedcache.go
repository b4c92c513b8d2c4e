package keystore

import (
	"context"
	"time"
)

// A SharedCache gives all nodes the records that one of them has read from the database. Nodes do
// not trust it: if its contents are lost, rolled back or forged, requests get the same answers,
// only more slowly. Its methods are safe for concurrent use and return soon, by default within
// about 50 ms, whatever the server does.
type SharedCache interface {
	// Get returns the value of a name, or nil if there is none. An error means that the cache is
	// unavailable.
	Get(ctx context.Context, name string) ([]byte, error)
	// Put stores a value for about ttl. It does not wait for the server, and may drop the value.
	Put(name string, value []byte, ttl time.Duration)
	// Close releases all resources. Later calls do nothing.
	Close() error
}
