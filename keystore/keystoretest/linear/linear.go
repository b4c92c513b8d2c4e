// Package linear checks in tests that code takes time in proportion to the size of its input.
package linear

import (
	"math"
	"testing"
	"time"
)

// Check fails the test if an input of ten times the size takes more than forty times as long.
// Quadratic code takes a hundred times as long. prepare makes an input of a size and returns what
// is to be measured.
func Check(t testing.TB, size int, prepare func(size int) func()) {
	t.Helper()
	sizes := [2]int{size, 10 * size}
	best := [2]time.Duration{math.MaxInt64, math.MaxInt64}
	slow := func() bool { return best[1] > 40*best[0] }
	// A busy machine changes the fastest of several runs least. It gets more of them if need be.
	for round := range 20 {
		if round >= 5 && !slow() {
			return
		}
		for i, n := range sizes {
			f := prepare(n)
			begun := time.Now()
			f()
			best[i] = min(best[i], time.Since(begun))
		}
	}
	if slow() {
		t.Errorf("size %d takes %v, and size %d takes %v", sizes[0], best[0], sizes[1], best[1])
	}
}
