package node

import (
	"errors"
	"fmt"
	"time"
)

// A clock is the node's own clock. The zero value is the machine's clock. Tests use other rates.
type clock struct {
	rate  float64 // seconds that pass on it per second of the machine's clock
	since time.Time
}

func newClock(rate float64) clock { return clock{rate, time.Now()} }

func (c *clock) now() time.Time { return c.of(time.Now()) }

// of converts a reading of the machine's clock.
func (c *clock) of(t time.Time) time.Time {
	if c.rate == 0 {
		return t
	}
	return c.scaled(t)
}

func (c *clock) scaled(t time.Time) time.Time {
	return c.since.Add(time.Duration(float64(t.Sub(c.since)) * c.rate))
}

var processStart = time.Now()

// sinceStart converts a reading of our own clock to nanoseconds since the process started, by the
// monotonic clock. A wall clock that is set back would keep outdated entries in the cache.
func sinceStart(own time.Time) int64 { return int64(own.Sub(processStart)) }

// A reading compares two clocks: the database's clock was read between two readings of our own.
type reading struct {
	asked, replied time.Time
	database       time.Time
}

// A rateCheck compares the rate of this node's monotonic clock with that of the database's clock.
// Every wait assumes that clocks run within [clockRate] of true time, so a node whose clock differs
// by more than half of that takes no lease. The result has no other use: the database's clock is a
// wall clock, so it must not shorten or lengthen any wait.
//
// Setting a wall clock distorts one comparison, or several in different ways. A clock that runs at
// the wrong rate distorts all of them alike. So two comparisons in a row have to agree.
type rateCheck struct {
	from   reading
	before rateRange // the previous comparison
	wrong  bool      // the last two comparisons agree that the rate is off
	rate   float64   // the result of the last comparison
}

// A rateRange is the possible number of seconds on the database's clock per second on our own.
type rateRange struct{ low, high float64 }

// off reports whether the whole range lies beyond half of clockRate, and on which side.
func (r rateRange) off() (side int) {
	switch {
	case r.low > 1+clockRate/2:
		return 1
	case r.high < 1-clockRate/2:
		return -1
	}
	return 0
}

// agrees reports whether two ranges can be measurements of one rate.
func (r rateRange) agrees(other rateRange) bool {
	return r.low <= other.high+clockRate && other.low <= r.high+clockRate
}

// check compares a reading with an earlier one that is at least a lease older, if there is one. It
// reports whether the last two comparisons agree that the rate is off.
func (c *rateCheck) check(r reading, lease time.Duration) (wrong bool) {
	shortest := r.asked.Sub(c.from.replied)
	switch {
	case c.from.asked.IsZero():
		c.from = r
		return false
	case shortest < lease:
		return c.wrong
	}
	passed := float64(r.database.Sub(c.from.database))
	now := rateRange{passed / float64(r.replied.Sub(c.from.asked)), passed / float64(shortest)}
	if passed < 0 {
		now.low, now.high = now.high, now.low
	}
	c.rate = (now.low + now.high) / 2
	//fault: noteRate(c.rate)
	c.wrong = now.off() != 0 && now.off() == c.before.off() && now.agrees(c.before)
	c.from, c.before = r, now
	return c.wrong
}

var errClockRate = errors.New("this node takes no lease")

// checkRate returns an error while this node's clock and the database's run at different rates.
func (n *Node) checkRate(r reading, lease time.Duration) error {
	c := &n.membership.rate
	before := c.wrong
	wrong := c.check(r, lease)
	if wrong {
		return fmt.Errorf("%w: the database's clock runs %.4f times as fast as this machine's; "+
			"check time synchronization (NTP) of both machines, and the hosts of virtual machines",
			errClockRate, c.rate)
	}
	if before {
		n.logger.Info("the database's clock and this machine's run at the same rate again")
	}
	return nil
}

// leaseWait returns how long to wait on this node's monotonic clock until a lease of length l,
// which begins now on another node's clock, must have expired (docs/protocol.md, rule 7).
func leaseWait(l time.Duration) time.Duration {
	//fault: if ablated("no-drift-margin") { return l }
	wait := time.Duration(float64(l)*(1+clockRate)/(1-clockRate)) + time.Millisecond
	//fault: wait = shortenWait(wait)
	return wait
}

// stepConfirm is how long the database's clock must stay ahead before a node follows it.
const stepConfirm = time.Minute

// A databaseClock is a node's time for the expiry of keys. It follows the database's clock only as
// far as this node's monotonic clock allows, because the database's clock can be set like any
// other. It never runs backwards: a key that has expired stays expired. When the database's clock
// is set back, or is ahead for less than [stepConfirm], the time continues at its own rate, at most
// [clockRate] off. When it is ahead for longer, or when this machine's clock has moved with it, as
// after a suspend, the time follows.
type databaseClock struct {
	asked time.Time // on our own clock
	reads int64     // this clock at asked, in Unix nanoseconds
	// aheadSince is the time on our own clock from which the database's clock has been too far
	// ahead by the same amount, or zero if it is not.
	aheadSince time.Time
	aheadReads int64 // the database's clock at aheadSince
}

// follow returns the clock after a reading. The zero databaseClock adopts the reading.
func (c databaseClock) follow(r reading) databaseClock {
	latest := r.database.UnixNano()
	next := databaseClock{asked: r.asked, reads: latest}
	if c.asked.IsZero() {
		return next
	}
	elapsed := int64(r.asked.Sub(c.asked))
	drift := max(0, int64(clockRate*float64(elapsed)))
	expected := c.reads + elapsed
	// The database's clock was read at some moment between asked and replied.
	earliest := latest - int64(r.replied.Sub(r.asked))
	switch found := min(max(expected, earliest), latest); {
	case found < expected-drift:
		next.reads = expected - drift
	case found <= expected+drift:
		next.reads = found
	default:
		next.reads, next.aheadSince, next.aheadReads = expected, c.aheadSince, c.aheadReads
		since := r.asked.Sub(c.aheadSince)
		if c.aheadSince.IsZero() ||
			time.Duration(found-c.aheadReads-int64(since)).Abs() > time.Second+since/100 {
			next.aheadSince, next.aheadReads, since = r.asked, found, 0
		}
		// The amount by which this machine's wall clock was set.
		moved := r.asked.UnixNano() - c.asked.UnixNano() - elapsed
		if since >= stepConfirm || found-expected <= moved+int64(time.Second) {
			next = databaseClock{asked: r.asked, reads: found}
		}
	}
	return next
}
