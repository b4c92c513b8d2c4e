package keystore

import (
	"fmt"
	"time"
)

// A clock is a node's own. The zero value is the machine's; one with another rate is for tests.
type clock struct {
	rate  float64 // seconds that pass on it in one of the machine's
	since time.Time
}

func newClock(rate float64) clock { return clock{rate, time.Now()} }

func (c clock) now() time.Time { return c.of(time.Now()) }

// of is what the clock says at a reading of the machine's.
func (c clock) of(t time.Time) time.Time {
	if c.rate == 0 {
		return t
	}
	return c.since.Add(time.Duration(float64(t.Sub(c.since)) * c.rate))
}

// A reading is of two clocks: the database's was read at some moment between two readings of our own.
type reading struct {
	asked, replied time.Time
	database       time.Time
}

// rateCheck compares the rate of this machine's clock with that of the database's: a revoke elsewhere counts on both being within [clockRate]
// of the truth (protocol.md A2). A clock that is set shows in one comparison, one that runs wrongly in all, so it takes two to tell.
type rateCheck struct {
	from   reading
	wrong  int // comparisons in a row
	factor float64
}

// check takes a reading, compares it with one that is a lease older, and says what is wrong with the clocks for as long as it is.
func (c *rateCheck) check(r reading, lease time.Duration) error {
	switch least := r.asked.Sub(c.from.replied); {
	case c.from.asked.IsZero():
		c.from = r
	case least >= lease:
		passed := r.database.Sub(c.from.database)
		low, high := float64(passed)/float64(r.replied.Sub(c.from.asked)), float64(passed)/float64(least)
		c.from, c.factor = r, high
		if low > 1+clockRate/2 || high < 1-clockRate/2 {
			c.wrong++
		} else {
			c.wrong = 0
		}
	}
	if c.wrong >= 2 {
		return fmt.Errorf("%w: the database's clock runs %.4f times as fast as this machine's; see to what sets the two clocks (NTP), or to the virtual machine", errClockRate, c.factor)
	}
	return nil
}
