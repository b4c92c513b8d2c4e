package keystore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlicesWaitForChanges: a change waits for the slice that is being written, and for no other,
// however many are waiting.
func TestSlicesWaitForChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		var order []string
		var mu sync.Mutex
		did := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, s)
		}
		var wg sync.WaitGroup
		if err := q.turn(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			wg.Go(func() {
				if err := q.turn(t.Context()); err != nil {
					t.Error(err)
				}
				did(fmt.Sprint("slice ", i))
				q.over()
			})
		}
		synctest.Wait()
		for range 3 {
			leave := q.enter()
			wg.Go(func() {
				time.Sleep(time.Second) // it has to wait for the database
				did("change")
				leave()
			})
		}
		synctest.Wait()
		q.over()
		wg.Wait()
		if got := strings.Join(order[:3], ", "); got != "change, change, change" ||
			len(order) != 9 {
			t.Errorf("%v", order)
		}

		leave := q.enter()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.turn(ctx); err == nil {
			t.Error("a slice did not wait for a change")
		}
		leave()
		if err := q.turn(t.Context()); err != nil {
			t.Error("who gave up waiting keeps the turn")
		}
	})
}

// TestRememberedRevokes: the newest are remembered, each as long as any, and long reasons take
// little room.
func TestRememberedRevokes(t *testing.T) {
	var r revokes
	id := func(i int) string { return fmt.Sprint("key", i) }
	note := func(ids ...string) {
		r.note(ids, commit{history: history{1, 0}},
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
	r.kept([]string{"twice"}, history{2, 0})
	if len(r.lost(history{2, 0})) != rememberedRevokes-1 {
		t.Error("what was revoked again is revoked once more")
	}
	if rememberedRevokes < 65536 {
		t.Error("operations.md promises 65,536")
	}
}
