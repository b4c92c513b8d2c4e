package manage

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestBulkWaitsForSingleChanges checks that a single change waits for at most one transaction of a
// bulk change, even if several are waiting.
func TestBulkWaitsForSingleChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newWriteQueue()
		var order []string
		var mu sync.Mutex
		did := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, s)
		}
		var wg sync.WaitGroup
		if err := q.enterBulk(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			wg.Go(func() {
				if err := q.enterBulk(t.Context()); err != nil {
					t.Error(err)
				}
				did(fmt.Sprint("bulk ", i))
				q.leaveBulk()
			})
		}
		synctest.Wait()
		for range 3 {
			leave := q.enter()
			wg.Go(func() {
				time.Sleep(time.Second) // waiting for the database
				did("single")
				leave()
			})
		}
		synctest.Wait()
		q.leaveBulk()
		wg.Wait()
		if got := strings.Join(order[:3], ", "); got != "single, single, single" ||
			len(order) != 9 {
			t.Errorf("%v", order)
		}

		leave := q.enter()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.enterBulk(ctx); err == nil {
			t.Error("a bulk change did not wait for a single change")
		}
		leave()
		if err := q.enterBulk(t.Context()); err != nil {
			t.Errorf("after a cancelled wait: %v", err)
		}
		if len(q.singles) > 0 {
			t.Errorf("%d single changes remain", len(q.singles))
		}
	})
}
