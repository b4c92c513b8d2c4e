package fleet

import (
	"context"
	"maps"
	"sync"
	"time"
)

// Hostile is a shared cache that an attacker controls: the test can read all entries, keep them and
// restore them later. The zero value is an empty cache.
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

// Put implements keystore.SharedCache.
func (h *Hostile) Put(name string, value []byte, _ time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.entries == nil {
		h.entries = make(map[string][]byte)
	}
	h.entries[name] = value
}

// Close implements keystore.SharedCache.
func (h *Hostile) Close() error { return nil }

// Snapshot returns a copy of all entries.
func (h *Hostile) Snapshot() map[string][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.entries)
}

// Restore replaces all entries.
func (h *Hostile) Restore(entries map[string][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = maps.Clone(entries)
}
