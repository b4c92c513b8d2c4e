package sharedcache

import (
	"context"
	_ "embed"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxBookings is the maximum number of bookings in one run of the script. A run blocks the server
// for a few milliseconds.
const maxBookings = 1000

//go:embed book.lua
var bookSource string

var bookScript = redis.NewScript(bookSource)

var errNotBooked = errors.New("the server sent an unexpected answer to the script")

// Book implements [keystore.SharedRates]. In a Cluster, the names must have the same hash tag. The
// timeout in the URL applies as for [Redis.Get].
//
// If the server rejects bookings, Book returns the reason each time and logs it at most once a
// minute. Get may still work, for example if the server is full or its user may not run scripts.
func (r *Redis) Book(
	ctx context.Context, now time.Time, bookings []keystore.Booking,
) ([]keystore.Booked, error) {
	if len(bookings) == 0 {
		return nil, nil
	}
	if r.unavailable.Load() {
		return nil, errUnavailable
	}
	booked := make([]keystore.Booked, 0, len(bookings))
	err := r.call(ctx, func(ctx context.Context) (err error) {
		for chunk := range slices.Chunk(bookings, maxBookings) {
			if booked, err = r.book(ctx, booked, now, chunk); err != nil {
				return err
			}
		}
		return nil
	})
	if answer := redis.Error(nil); errors.As(err, &answer) || errors.Is(err, errNotBooked) {
		if due(&r.bookRejected) {
			r.log.Warn("the shared cache rejects bookings of rate limits", "error", err)
		}
		return nil, err
	}
	r.count(ctx, bookings[0].Name, err)
	if err != nil {
		return nil, err
	}
	return booked, nil
}

// book runs the script, and appends its answers to booked.
func (r *Redis) book(
	ctx context.Context, booked []keystore.Booked, now time.Time, bookings []keystore.Booking,
) ([]keystore.Booked, error) {
	names := make([]string, len(bookings))
	args := make([]any, 1, 1+6*len(bookings))
	args[0] = now.UnixMicro()
	for i := range bookings {
		b := &bookings[i]
		names[i] = b.Name
		args = append(args, b.Limit.Requests, b.Limit.Per.Microseconds(), b.Limit.Burst,
			b.Known, b.Spent, b.Want)
	}
	cmd := bookScript.Run(ctx, r.client, names, args...)
	if err := cmd.Err(); err != nil {
		return nil, err
	}
	answers, err := cmd.Int64Slice()
	if err != nil || len(answers) != 2*len(bookings) {
		return nil, errNotBooked
	}
	for i := range bookings {
		granted, tat := answers[2*i], max(answers[2*i+1], bookings[i].Known)
		if granted < 0 || granted > bookings[i].Want {
			return nil, errNotBooked
		}
		booked = append(booked, keystore.Booked{Granted: granted, TAT: tat})
	}
	return booked, nil
}

var _ keystore.SharedRates = (*Redis)(nil)
