package keystore

import (
	"context"
	"time"
)

// SharedRates lets nodes share rate limits. Nodes do not trust it: they restore state that it has
// lost. Its methods are safe for concurrent use and return soon, by default within about 50 ms,
// even if the server hangs.
type SharedRates interface {
	// Book makes bookings at now, a time on the database's clock, and returns an answer for each,
	// in the same order. No two bookings may have the same name. If Book fails, it may have made
	// any of them.
	Book(ctx context.Context, now time.Time, bookings []Booking) ([]Booked, error)
}

// A Booking asks for requests of one limit.
type Booking struct {
	Name string // identifies the limit
	// Limit is the present limit. If the last booking had another one, the used part of the burst
	// stays the same, in requests, up to the present burst.
	Limit RateLimit
	// Known is the TAT that the node knows, in microseconds since the Unix epoch. The shared TAT
	// becomes the later of the two, so a server that has lost its data refills no limit.
	Known int64
	// Spent is the number of requests that were admitted already. They are booked even beyond the
	// limit.
	Spent int64
	// Want is the number of requests to book in advance. Fewer are booked if there is no room for
	// all.
	Want int64
}

// Booked is the answer to a booking.
type Booked struct {
	Granted int64 // of Want
	TAT     int64 // the shared TAT afterwards, in microseconds since the Unix epoch, rounded up
}
