package keystore

import (
	"context"
	"time"
)

// SharedRates lets nodes share rate limits. Nodes do not trust it: what it has lost, they bring
// again. Its methods are safe for concurrent use and return within tens of milliseconds whatever
// the server does.
type SharedRates interface {
	// Book books requests of many limits at now, a time on the database's clock, and returns an
	// answer for each, in their order. No two have the same name. An error means that nothing is
	// known: any of them may have been booked.
	Book(ctx context.Context, now time.Time, bookings []Booking) ([]Booked, error)
}

// A Booking asks for requests of one limit.
type Booking struct {
	Name  string // identifies the limit, with its Requests, Per and Burst
	Limit RateLimit
	// Known is the TAT of the node, in microseconds since the Unix epoch. The shared TAT becomes the
	// later of the two: nothing that was lost is admitted again.
	Known int64
	// Spent requests have been admitted already, and are booked even beyond the limit.
	Spent int64
	// Want is how many requests to book in advance. Fewer are booked if there is no room for all.
	Want int64
}

// Booked is the answer to a booking.
type Booked struct {
	Granted int64 // of Want
	TAT     int64 // the shared TAT afterwards, in microseconds since the Unix epoch, rounded up
}
