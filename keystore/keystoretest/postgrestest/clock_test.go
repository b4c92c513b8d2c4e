//go:build unix

package postgrestest

import (
	"strconv"
	"testing"
	"time"
)

func TestSetClock(t *testing.T) {
	s, err := StartWithClock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, ahead := range []time.Duration{0, time.Hour, -30 * time.Second,
		1500 * time.Millisecond} {
		if err := s.SetClock(ahead); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		out, err := s.Query("", "SELECT extract(epoch FROM clock_timestamp())")
		after := time.Now()
		if err != nil {
			t.Fatal(err)
		}
		seconds, err := strconv.ParseFloat(out, 64)
		if err != nil {
			t.Fatal(err)
		}
		// faketime truncates fractions of a microsecond.
		got := time.UnixMicro(int64(seconds * 1e6)).Add(-ahead)
		if got.Before(before.Add(-time.Millisecond)) || got.After(after.Add(time.Millisecond)) {
			t.Errorf("%v ahead: the server's clock is off by %v", ahead, got.Sub(before))
		}
	}
}
