package linear

import (
	"testing"
	"time"
)

// A recorder records a failure of Check without failing the test.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		steps func(size int) int
		fails bool
	}{
		"linear":    {func(size int) int { return size }, false},
		"quadratic": {func(size int) int { return size * size }, true},
	} {
		r := &recorder{TB: t}
		Check(r, 3, func(size int) func() {
			return func() {
				until := time.Now().Add(time.Duration(test.steps(size)) * 100 * time.Microsecond)
				for time.Now().Before(until) {
				}
			}
		})
		if r.failed != test.fails {
			t.Errorf("%s: failed is %t", name, r.failed)
		}
	}
}
