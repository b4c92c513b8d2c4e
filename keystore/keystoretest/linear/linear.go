// Package linear tests that code takes time in proportion to the size of its input. Start reading
// at [Check].
package linear

import (
	"math"
	"testing"
	"time"
)

// Check fails the test if an input of ten times the size takes more than forty times as long.
// Quadratic code takes a hundred times as long. prepare creates an input and returns the function
// to measure.
func Check(t testing.TB, size int, prepare func(size int) func()) {
	t.Helper()
	sizes := [2]int{size, 10 * size}
	best := [2]time.Duration{math.MaxInt64, math.MaxInt64}
	slow := func() bool { return best[1] > 40*best[0] }
	// The fastest of several runs depends least on other load. There are more runs if needed.
	for round := range 60 {
		if round >= 5 && !slow() {
			return
		}
		for i, n := range sizes {
			f := prepare(n)
			start := time.Now()
			f()
			best[i] = min(best[i], time.Since(start))
		}
	}
	if slow() {
		t.Errorf("size %d takes %v, and size %d takes %v", sizes[0], best[0], sizes[1], best[1])
	}
}
