package node

import (
	"testing"
	"time"
)

// TestLeaseNeedsBothClocks checks that a lease ends on the first of two clocks. The monotonic clock
// stops while a machine is suspended, and the wall clock can be set.
func TestLeaseNeedsBothClocks(t *testing.T) {
	const second = time.Second
	for _, c := range []struct {
		monotonic, wall time.Duration // how long the lease is on each clock
		at              time.Duration
		want            bool
	}{
		{6 * second, 6 * second, 6*second - 1, true},
		{6 * second, 6 * second, 6 * second, false},
		{6 * second, 9 * second, 6 * second, false},
		{9 * second, 6 * second, 6 * second, false},
		{9 * second, 7 * second, 6 * second, true},
		{0, 9 * second, 0, false}, // dropped
	} {
		asked := time.Now()
		var l lease
		l.term.Store(&term{databaseClock{asked: asked, reads: 100}, c.monotonic,
			asked.Add(c.wall).UnixNano()})
		at, covered := l.term.Load().at(asked.Add(c.at))
		if covered != c.want || at != 100+int64(c.at) {
			t.Errorf("%+v: covered is %v, the database's time %d", c, covered, at)
		}
		want := time.Duration(0)
		if c.want {
			want = c.monotonic - c.at
		}
		if rest := l.remaining(asked.Add(c.at)); rest != want {
			t.Errorf("%+v: %v remain, want %v", c, rest, want)
		}
	}
}
