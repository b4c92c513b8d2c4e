package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestPendingNotesAreBounded: notes beyond the limit are not kept, the uses themselves are.
func TestPendingNotesAreBounded(t *testing.T) {
	u := pendingUses{at: make(map[string]keystore.LastUse)}
	now := time.Now()
	note := strings.Repeat("x", 1<<20)
	derived := func(second int, note string) keystore.LastUse {
		at := now.Add(time.Duration(second) * time.Second)
		return keystore.LastUse{At: at, Derived: keystore.DerivedUse{At: at, Note: note}}
	}
	for i := range 20 {
		u.add(fmt.Sprint(i), derived(0, note))
	}
	u.add("0", derived(1, "")) // makes room
	u.add("1", derived(-1, note))
	u.add("19", derived(2, note))
	var kept int
	for id, use := range u.at {
		kept += len(use.Derived.Note)
		if use.Derived.At.IsZero() {
			t.Errorf("%s has lost its derived use", id)
		}
	}
	if len(u.at) != 20 || kept != 16<<20 || u.notes != kept {
		t.Errorf("%d uses with %d bytes of notes, counted %d", len(u.at), kept, u.notes)
	}
	if u.at["19"].Derived.Note == "" {
		t.Error("the room is not used again")
	}
	delete(u.at, "19")
	if u.count(); u.notes != 15<<20 {
		t.Errorf("%d bytes are counted", u.notes)
	}
}
