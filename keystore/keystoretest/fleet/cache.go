package fleet

import (
	"context"
	"maps"
	"sync"
	"time"
)

// hostile is a shared cache in the hands of an attacker: everything in it can be read, kept and put
// back.
type Hostile struct {
	mu      sync.Mutex
	entries map[string][]byte
}

func (h *Hostile) Get(_ context.Context, name string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.entries[name], nil
}

func (h *Hostile) Put(name string, value []byte, _ time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.entries == nil {
		h.entries = make(map[string][]byte)
	}
	h.entries[name] = value
}

func (h *Hostile) Close() error { return nil }

func (h *Hostile) Snapshot() map[string][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.entries)
}

func (h *Hostile) Restore(entries map[string][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = maps.Clone(entries)
}
