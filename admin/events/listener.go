package events

import (
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxWaiting is the maximum memory of the rows that wait for the listener, in bytes.
const maxWaiting = 16 << 20

// A listener queues the rows of events for a function.
type listener struct {
	wake chan struct{} // with a capacity of one

	mu      sync.Mutex
	f       func(id string, e api.Event) // nil for none
	waiting []*keystore.AuditRow
	size    int64 // of waiting, in bytes
	full    bool  // rows were dropped since waiting was last empty
}

func newListener() *listener { return &listener{wake: make(chan struct{}, 1)} }

func (l *listener) set(f func(id string, e api.Event)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f = f; f == nil {
		l.waiting, l.size = nil, 0
	}
}

// add adds rows. It returns false when it begins to drop some.
func (l *listener) add(rows []*keystore.AuditRow) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return true
	}
	before := l.full
	for _, row := range rows {
		if l.full = l.full || l.size+row.Size() > maxWaiting; l.full {
			break // the rows stay without gaps
		}
		l.size += row.Size()
		l.waiting = append(l.waiting, row)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return before || !l.full
}

// next removes the first row, and returns it with the function; nil if there is none.
func (l *listener) next() (*keystore.AuditRow, func(id string, e api.Event)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		l.waiting, l.full = nil, false
		return nil, nil
	}
	row := l.waiting[0]
	l.waiting = l.waiting[1:]
	l.size -= row.Size()
	return row, l.f
}
