package node

import (
	"math"
	"testing"
	"time"
)

// readings returns a function that creates readings. Times are in seconds on the node's clock and
// on the database's, which both begin at 0.
func readings() func(asked, took, database float64) reading {
	start := time.Now()
	at := func(seconds float64) time.Time {
		return start.Add(time.Duration(math.Round(seconds * 1e9)))
	}
	return func(asked, took, database float64) reading {
		return reading{asked: at(asked), replied: at(asked + took), database: at(database)}
	}
}

// TestDatabaseClockFollows checks the time by which keys expire, after each of some readings of the
// database's clock. The first reading is at 0.
func TestDatabaseClockFollows(t *testing.T) {
	type step struct{ asked, took, database, want float64 }
	const ns = 1e-9
	for name, steps := range map[string][]step{
		"at the same rate":           {{10, 0, 10, 10}, {30, 0, 30, 30}},
		"as much faster as allowed":  {{10, 0, 10.1, 10.1}, {20, 0, 20.2, 20.2}},
		"as much slower as allowed":  {{10, 0, 9.9, 9.9}, {20, 0, 19.8, 19.8}},
		"as much faster in minutes":  {{200, 0, 202, 202}, {400, 0, 404 + ns, 402}},
		"slower than allowed":        {{10, 0, 9.9 - ns, 9.9}, {20, 0, 9, 19.8}},
		"set back":                   {{10, 0, -3600, 9.9}},
		"ahead by a second":          {{10, 0, 11, 11}},
		"ahead by more":              {{10, 0, 11 + ns, 10}, {20, 0, 21 + ns, 20}},
		"slow reply":                 {{10, 1, 10.5, 10}, {20, 1, 20.05, 20}},
		"slow reply, read late":      {{10, 1, 11.05, 10.05}},
		"slow reply, read before":    {{10, 1, 9.95, 9.95}},
		"slow reply, clock set back": {{10, 1, 5, 9.9}},
		"slow reply, ahead":          {{10, 0.5, 12, 10}},
		"ahead for a minute":         {{10, 0, 3610, 10}, {69.5, 0, 3669.5, 69.5}, {70, 0, 3670, 3670}},
		"ahead by another amount": {{10, 0, 3610, 10}, {40, 0, 3641.3 + ns, 40},
			{70, 0, 3671.3, 70}, {99, 0, 3700.3, 99}, {100, 0, 3701.3, 3701.3}},
		"ahead by less meanwhile": {{10, 0, 3610, 10}, {40, 0, 3638.7 - ns, 40},
			{70, 0, 3668.7, 70}, {100, 0, 3698.7, 3698.7}},
		"ahead by about the same amount": {{10, 0, 3610, 10}, {40, 0, 3641.3, 40},
			{70, 0, 3670, 3670}},
		"ahead by a little less": {{10, 0, 3610, 10}, {40, 0, 3638.7, 40}, {70, 0, 3670, 3670}},
		"ahead for less than a minute twice": {{10, 0, 3610, 10}, {60, 0, 60, 60},
			{65, 0, 3665, 65}, {75, 0, 3675, 75}, {125, 0, 3725, 3725}},
	} {
		at := readings()
		zero := at(0, 0, 0)
		c := databaseClock{}.follow(zero)
		for _, s := range steps {
			c = c.follow(at(s.asked, s.took, s.database))
			want := at(s.want, 0, 0).asked.Sub(zero.asked)
			if got := time.Duration(c.reads - zero.database.UnixNano()); got != want {
				t.Errorf("%s: after %v s it reads %v, want %v", name, s.asked, got, want)
			}
		}
	}
}

// TestRateCheck compares clocks after some readings. The first reading is at 0, and the lease is
// 10 s.
func TestRateCheck(t *testing.T) {
	type step struct {
		asked, took, database float64
		wrong                 bool
		rate                  float64 // of the last comparison; 0 before the first
	}
	for name, steps := range map[string][]step{
		"the same rate":     {{10, 0, 10, false, 1}, {20, 0, 20, false, 1}},
		"slightly faster":   {{10, 0, 10.04, false, 1.004}, {20, 0, 20.08, false, 1.004}},
		"slightly slower":   {{10, 0, 9.96, false, 0.996}, {20, 0, 19.92, false, 0.996}},
		"too fast":          {{10, 0, 10.06, false, 1.006}, {20, 0, 20.12, true, 1.006}},
		"too slow":          {{10, 0, 9.94, false, 0.994}, {20, 0, 19.88, true, 0.994}},
		"twice as fast":     {{10, 0, 20, false, 2}, {20, 0, 40, true, 2}},
		"within a lease":    {{9.9, 0, 99, false, 0}, {10, 0, 10, false, 1}},
		"set once":          {{10, 0, 20, false, 2}, {20, 0, 30, false, 1}},
		"set and set back":  {{10, 0, 20, false, 2}, {20, 0, 20, false, 0}},
		"set twice":         {{10, 0, 20, false, 2}, {20, 0, 50, false, 3}},
		"almost alike":      {{10, 0, 10.06, false, 1.006}, {20, 0, 20.21, true, 1.015}},
		"in reverse order":  {{10, 0, 10.15, false, 1.015}, {20, 0, 20.21, true, 1.006}},
		"only now too fast": {{10, 0, 10.04, false, 1.004}, {20, 0, 20.1, false, 1.006}},
		"not alike":         {{10, 0, 10.06, false, 1.006}, {20, 0, 20.27, false, 1.021}},
		"not alike either":  {{10, 0, 10.21, false, 1.021}, {20, 0, 20.27, false, 1.006}},
		"running backwards": {{10, 0, -5, false, -0.5}, {20, 0, -10, true, -0.5}},
		"corrected": {{10, 0, 11, false, 1.1}, {20, 0, 22, true, 1.1}, {25, 0, 27, true, 1.1},
			{30, 0, 32, false, 1}, {40, 0, 43, false, 1.1}},
		// The rate is between 10/11 and 1.
		"slow reply": {{10, 1, 10, false, (10.0/11 + 1) / 2}, {21, 0, 20, false, (1 + 10.0/11) / 2}},
		// The rates are between -5/11 and -5/10.
		"slow reply, running backwards": {{10, 1, -5, false, (-5.0/11 - 5.0/10) / 2},
			{21, 0, -10, true, (-5.0/11 - 5.0/10) / 2}},
	} {
		at := readings()
		var c rateCheck
		if c.check(at(0, 0, 0), 10*time.Second) {
			t.Errorf("%s: wrong after one reading", name)
		}
		for _, s := range steps {
			wrong := c.check(at(s.asked, s.took, s.database), 10*time.Second)
			if wrong != s.wrong || math.Abs(c.rate-s.rate) > 1e-6 {
				t.Errorf("%s: after %v s wrong is %v with rate %v, want %v and %v", name, s.asked,
					wrong, c.rate, s.wrong, s.rate)
			}
		}
	}
}

// TestLeaseWait checks that a revoke waits until the lease of a node with the slowest clock has
// expired, even if its own clock is the fastest, and not much longer.
func TestLeaseWait(t *testing.T) {
	for _, lease := range []time.Duration{0, time.Second, 30 * time.Second, time.Hour} {
		expires := time.Duration(float64(lease) / (1 - clockRate))
		waits := time.Duration(float64(leaseWait(lease)) / (1 + clockRate))
		if waits < expires || waits > expires+2*time.Millisecond {
			t.Errorf("waits %v for a lease of %v that expires after %v", waits, lease, expires)
		}
	}
}
