package keystore

import (
	"math"
	"math/bits"
	"time"
)

// A Meter is the state of one rate limit: the generic cell rate algorithm (ITU-T I.371, Annex A).
// It stores the theoretical arrival time (TAT): the time at which all admitted requests would have
// passed if they came evenly at the limit's rate. The zero value has admitted nothing.
//
// Times are microseconds since the Unix epoch. The arithmetic is exact: the TAT has a fraction in
// units of 1/Requests of a microsecond.
type Meter struct {
	TAT      int64
	fraction int64
}

// Room returns how many requests the limit admits at now.
func (m Meter) Room(l *RateLimit, now int64) int64 {
	per := l.Per.Microseconds()
	// now + Burst · per / Requests − max(now, TAT), in the units of fraction.
	ahead, fraction := m.TAT-now, m.fraction
	if ahead < 0 {
		ahead, fraction = 0, 0
	}
	if ahead > (math.MaxInt64-l.Requests)/l.Requests {
		return 0
	}
	left := l.Burst*per - (ahead*l.Requests + fraction)
	if left < 0 {
		return 0
	}
	return left / per
}

// Fits reports whether Room is at least 1. It is faster than Room.
func (m Meter) Fits(l *RateLimit, now int64) bool {
	left := uint64((l.Burst - 1) * l.Per.Microseconds())
	if m.TAT < now {
		return true
	}
	above, ahead := bits.Mul64(uint64(m.TAT-now), uint64(l.Requests))
	return above == 0 && ahead <= left && uint64(m.fraction) <= left-ahead
}

// A Step is the time by which one request advances the TAT of a limit.
type Step struct{ whole, fraction int64 }

// Step returns the limit's step.
func (l *RateLimit) Step() Step {
	per := l.Per.Microseconds()
	return Step{per / l.Requests, per % l.Requests}
}

// Next is a faster Add for one request. s is the limit's step.
func (m Meter) Next(l *RateLimit, s Step, now int64) Meter {
	if m.TAT < now {
		m = Meter{TAT: now}
	}
	m.TAT += s.whole
	if m.fraction += s.fraction; m.fraction >= l.Requests {
		m.TAT++
		m.fraction -= l.Requests
	}
	return m
}

// Add books n requests at now, even if there is no room. n must be at most MaxRate.
func (m Meter) Add(l *RateLimit, now, n int64) Meter {
	if m.TAT < now {
		m = Meter{TAT: now}
	}
	parts := n*l.Per.Microseconds() + m.fraction
	whole := parts / l.Requests
	m.TAT = min(m.TAT, math.MaxInt64-whole) + whole
	m.fraction = parts % l.Requests
	return m
}

// After returns the earliest time at which the limit admits n requests if it admits no others
// before. n must be at most Burst.
func (m Meter) After(l *RateLimit, n int64) int64 {
	per := l.Per.Microseconds()
	// TAT − (Burst − n) · per / Requests, rounded up
	parts := (l.Burst-n)*per - m.fraction
	early := parts / l.Requests
	if parts < 0 && parts%l.Requests != 0 {
		early--
	}
	return m.TAT - early
}

// Max returns the meter that has admitted more.
func (m Meter) Max(o Meter) Meter {
	if o.TAT > m.TAT || o.TAT == m.TAT && o.fraction > m.fraction {
		return o
	}
	return m
}

// Within converts a meter of one limit, from, into a meter of another limit, to. It keeps the
// number of requests of the burst that are in use, up to the new burst.
func (m Meter) Within(from, to *RateLimit, now int64) Meter {
	if m.TAT <= now {
		return Meter{}
	}
	used := float64(m.TAT-now) * float64(from.Requests) / float64(from.Per.Microseconds())
	used = math.Ceil(min(used, float64(to.Burst)))
	return Meter{}.Add(to, now, int64(used))
}

// Micros converts a time from Unix nanoseconds to microseconds, rounded down.
func Micros(nanoseconds int64) int64 { return nanoseconds / int64(time.Microsecond) }
