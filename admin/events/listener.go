package events

import (
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxWaiting is the maximum memory of the rows that wait for the listener, in bytes.
const maxWaiting = 16 << 20

// A listener holds the rows whose events a function is to get.
type listener struct {
	wake chan struct{} // with a capacity of one

	mu      sync.Mutex
	f       func(id string, e api.Event) // nil for none
	waiting []*keystore.AuditRow
	size    int64 // of waiting, in bytes
}

func newListener() *listener { return &listener{wake: make(chan struct{}, 1)} }

func (l *listener) set(f func(id string, e api.Event)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f = f; f == nil {
		l.waiting, l.size = nil, 0
	}
}

// add reports whether there was room for all rows.
func (l *listener) add(rows []*keystore.AuditRow) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return true
	}
	for i, row := range rows {
		if l.size += row.Size(); l.size > maxWaiting {
			l.size -= row.Size()
			rows = rows[:i]
			l.push(rows)
			return false
		}
	}
	l.push(rows)
	return true
}

func (l *listener) push(rows []*keystore.AuditRow) {
	l.waiting = append(l.waiting, rows...)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next removes the first row, and returns it with the function; nil if there is none.
func (l *listener) next() (*keystore.AuditRow, func(id string, e api.Event)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		l.waiting = nil
		return nil, nil
	}
	row := l.waiting[0]
	l.waiting = l.waiting[1:]
	l.size -= row.Size()
	return row, l.f
}
