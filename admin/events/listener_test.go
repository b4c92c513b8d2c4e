package events

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestListenerIsBounded: once the waiting events use too much memory, new ones are dropped, and one
// warning is logged. They are accepted again when all waiting ones have been taken.
func TestListenerIsBounded(t *testing.T) {
	l := newListener()
	row := &keystore.AuditRow{After: strings.Repeat("x", 1<<20)}
	if !l.add([]*keystore.AuditRow{row}) || len(l.waiting) != 0 {
		t.Error("rows wait although nobody listens")
	}
	l.set(func(string, api.Event) {})
	warnings := 0
	for range 100 {
		if !l.add([]*keystore.AuditRow{row}) {
			warnings++
		}
	}
	if len(l.waiting) == 0 || l.size > maxWaiting || warnings != 1 {
		t.Errorf("%d rows of %d bytes, %d warnings", len(l.waiting), l.size, warnings)
	}
	for r, f := l.next(); r != nil; r, f = l.next() {
		f("", api.Event{})
	}
	if l.size != 0 || !l.add([]*keystore.AuditRow{row}) || len(l.waiting) != 1 {
		t.Errorf("after all rows were taken: %d rows of %d bytes", len(l.waiting), l.size)
	}
	l.set(nil)
	if len(l.waiting) != 0 || l.size != 0 {
		t.Error("rows wait although nobody listens any more")
	}
}
