// Package linear tests that code takes time in proportion to the size of its input. Start reading
// at [Check].
package linear

import (
	"math"
	"runtime"
	"testing"
	"time"
)

// Check fails the test if an input of ten times the size takes more than forty times as long.
// Quadratic code takes a hundred times as long. prepare creates an input and returns the function
// to measure, which must not start goroutines. On Linux, only its own processor time counts.
func Check(t testing.TB, size int, prepare func(size int) func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sizes := [2]int{size, 10 * size}
	best := [2]time.Duration{math.MaxInt64, math.MaxInt64}
	slow := func() bool { return best[1] > 40*best[0] }
	// The fastest of several runs depends least on other load, which also slows down caches. There
	// are more runs if needed.
	for round := range 60 {
		if round >= 5 && !slow() {
			return
		}
		for i, n := range sizes {
			f := prepare(n)
			begun := now()
			f()
			best[i] = min(best[i], now()-begun)
		}
	}
	if slow() {
		t.Errorf("size %d takes %v, and size %d takes %v", sizes[0], best[0], sizes[1], best[1])
	}
}
