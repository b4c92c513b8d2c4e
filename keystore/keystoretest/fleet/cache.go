package fleet

import (
	"context"
	"maps"
	"sync"
	"time"
)

// Hostile is a shared cache in the hands of an attacker, who can read, keep and restore everything
// in it. Its zero value is empty.
type Hostile struct {
	mu      sync.Mutex
	entries map[string][]byte
}

// Get implements keystore.SharedCache.
func (h *Hostile) Get(_ context.Context, name string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.entries[name], nil
}

// Put implements keystore.SharedCache. Values never expire.
func (h *Hostile) Put(name string, value []byte, _ time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.entries == nil {
		h.entries = make(map[string][]byte)
	}
	h.entries[name] = value
}

// Close implements keystore.SharedCache. It does nothing.
func (h *Hostile) Close() error { return nil }

// Snapshot returns a copy of all values by name.
func (h *Hostile) Snapshot() map[string][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.entries)
}

// Restore replaces all values.
func (h *Hostile) Restore(entries map[string][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = maps.Clone(entries)
}
