package node

import (
	"fmt"
	"strings"
	"testing"
)

// TestRememberedRevokes: the newest are remembered, each as long as any, and long reasons take
// little room.
func TestRememberedRevokes(t *testing.T) {
	var r revokes
	id := func(i int) string { return fmt.Sprint("key", i) }
	note := func(ids ...string) {
		r.note(ids, Commit{history: history{1, 0}},
			strings.Repeat("é", 1000))
	}
	note("twice")
	note("first")
	for i := range rememberedRevokes - 2 {
		note(id(i))
	}
	note("twice") // takes the place of "twice", the oldest
	note("second")
	lost := r.lost(history{2, 0})
	if _, known := lost["twice"]; !known {
		t.Error("a key that was noted again is forgotten with its older entry")
	}
	if _, known := lost["first"]; known || len(lost) != rememberedRevokes {
		t.Errorf("%d revokes are remembered, want the newest %d", len(lost), rememberedRevokes)
	}
	if reason := lost["second"]; len(reason) > rememberedReason || strings.Trim(reason, "é") != "" {
		t.Errorf("reason %q", reason)
	}
	r.reasserted([]string{"twice"}, history{2, 0})
	if len(r.lost(history{2, 0})) != rememberedRevokes-1 {
		t.Error("what was revoked again is revoked once more")
	}
	if rememberedRevokes < 65536 {
		t.Error("operations.md promises 65,536")
	}
}
