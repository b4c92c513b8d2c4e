package linear

import (
	"crypto/sha256"
	"testing"
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
				sum := make([]byte, 5_000)
				for range test.steps(size) {
					hash := sha256.Sum256(sum)
					copy(sum, hash[:])
				}
			}
		})
		if r.failed != test.fails {
			t.Errorf("%s: failed is %t", name, r.failed)
		}
	}
}
