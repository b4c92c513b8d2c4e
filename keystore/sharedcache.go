package keystore

import (
	"context"
	"time"
)

// A SharedCache keeps for all nodes what one of them has read from the database. Nobody trusts it:
// to lose it, roll it back or forge it changes latency, never an answer. Its methods are safe for
// concurrent use and return within tens of milliseconds whatever the server does.
type SharedCache interface {
	// Get returns what was put under a name, nil when there is nothing. An error says that the
	// cache could not be asked.
	Get(ctx context.Context, name string) ([]byte, error)
	// Put keeps a value for about ttl. It does not wait for the server, and may drop the value.
	Put(name string, value []byte, ttl time.Duration)
	// Close gives everything back. Calls that follow do nothing.
	Close() error
}
