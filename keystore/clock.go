package keystore

import (
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"
)

// A clock is a node's own. The zero value is the machine's; one with another rate is for tests.
type clock struct {
	rate  float64 // seconds that pass on it in one of the machine's
	since time.Time
}

func newClock(rate float64) clock { return clock{rate, time.Now()} }

func (c *clock) now() time.Time { return c.of(time.Now()) }

// of is what the clock says at a reading of the machine's.
func (c *clock) of(t time.Time) time.Time {
	if c.rate == 0 {
		return t
	}
	return c.scaled(t)
}

func (c *clock) scaled(t time.Time) time.Time {
	return c.since.Add(time.Duration(float64(t.Sub(c.since)) * c.rate))
}

// A reading is of two clocks: the database's was read at some moment between two readings of our own.
type reading struct {
	asked, replied time.Time
	database       time.Time
}

// maxRateError is how far off the rate of the two clocks may be. What sets a computer's clock slews it by a twelfth at most (chrony's maxslewrate).
const maxRateError = 0.1

// rateCheck compares the rate of this machine's clock with that of the database's: a revoke elsewhere counts on all clocks being within [clockRate]
// of the truth (protocol.md A2). A clock that is set shows in one comparison, one that runs wrongly in all, so it takes two to tell. It cannot be told
// which of the two is wrong, so that the node then takes the worse for true: it holds shorter leases if its own clock seems slow, and
// waits longer for the others if that seems fast. Who has not noticed a difference of less than half of clockRate is within the margin that all count on.
type rateCheck struct {
	from   reading
	wrong  int // comparisons in a row
	factor atomic.Uint64
}

// off is how much faster than this machine's clock the database's runs, 1 unless that is certain.
func (c *rateCheck) off() float64 {
	if bits := c.factor.Load(); bits != 0 {
		return math.Float64frombits(bits)
	}
	return 1
}

// lease is how long one's own may be.
func (c *rateCheck) lease(declared time.Duration) time.Duration {
	return time.Duration(float64(declared) / max(1, c.off()))
}

// wait is how long to wait for what another clock measures.
func (c *rateCheck) wait(d time.Duration) time.Duration {
	return time.Duration(float64(d) / min(1, c.off()))
}

// check takes a reading, compares it with one that is a lease older, and reports whether what is known of the rates has changed.
func (c *rateCheck) check(r reading, lease time.Duration) (changed bool) {
	least := r.asked.Sub(c.from.replied)
	if c.from.asked.IsZero() || least < lease {
		if c.from.asked.IsZero() {
			c.from = r
		}
		return false
	}
	passed := r.database.Sub(c.from.database)
	low, high := float64(passed)/float64(r.replied.Sub(c.from.asked)), float64(passed)/float64(least)
	c.from = r
	factor := 1.0
	switch {
	case low > 1+clockRate/2:
		factor = high
	case high < 1-clockRate/2:
		factor = low
	}
	if factor == 1 {
		c.wrong = 0
	} else if c.wrong++; c.wrong < 2 {
		return false
	}
	before := c.off()
	c.factor.Store(math.Float64bits(factor))
	return (factor == 1) != (before == 1)
}

// checkRate refuses the lease when the clocks are too far apart to be believed.
func (k *Keystore) checkRate(r reading, lease time.Duration) error {
	c := &k.node.rate
	changed := c.check(r, lease)
	off := c.off()
	if off < 1-maxRateError || off > 1+maxRateError {
		return fmt.Errorf("%w: the database's clock runs %.4f times as fast as this machine's; see to what sets the two clocks (NTP), or to the virtual machine", errClockRate, off)
	}
	switch {
	case changed && off != 1:
		k.logger.Error("the database's clock and this machine's do not run at the same rate: leases are shorter, or waits longer, until they do; see to what sets the two clocks (NTP)",
			slog.Float64("database_to_own", off))
	case changed:
		k.logger.Info("the database's clock and this machine's run at the same rate again")
	}
	return nil
}
