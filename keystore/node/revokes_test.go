package node

import (
	"fmt"
	"strings"
	"testing"
)

// TestRememberedRevokes checks that the newest revokes are remembered, and that long reasons are
// cut.
func TestRememberedRevokes(t *testing.T) {
	var r revokes
	id := func(i int) string { return fmt.Sprint("key", i) }
	note := func(ids ...string) {
		r.note(ids, Commit{history: history{1, 0}}, strings.Repeat("é", 1000))
	}
	note("twice")
	note("first")
	for i := range rememberedRevokes - 2 {
		note(id(i))
	}
	note("twice") // replaces "twice", the oldest
	note("second")
	lost := r.lost(history{2, 0})
	if _, known := lost["twice"]; !known {
		t.Error("a key that was noted again is forgotten with its older entry")
	}
	if _, known := lost["first"]; known || len(lost) != rememberedRevokes {
		t.Errorf("%d revokes are remembered, want the newest %d", len(lost), rememberedRevokes)
	}
	reason := lost["second"]
	if len(reason) > rememberedReason || strings.Trim(reason, "é") != "" {
		t.Errorf("reason %q", reason)
	}
	r.reasserted([]string{"twice"}, history{2, 0})
	if len(r.lost(history{2, 0})) != rememberedRevokes-1 {
		t.Error("a repeated revoke is repeated again")
	}
	if rememberedRevokes < 65536 {
		t.Error("docs/operations.md promises 65,536")
	}
}
