package keystoretest

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestSharedRates tests the contract of [keystore.SharedRates]. Each call of open returns the
// shared rates of another node on the same server, and arranges that they are closed at the end of
// the test.
func TestSharedRates(t *testing.T, open func(t *testing.T) keystore.SharedRates) {
	t.Run("Exact", func(t *testing.T) { testExactRates(t, open(t), open(t)) })
	t.Run("Order", func(t *testing.T) {
		const n = 2500 // more than fit into one message
		limit := func(i int) keystore.RateLimit {
			return keystore.RateLimit{Requests: 1, Per: time.Hour, Burst: int64(i) + 1}
		}
		booked := bookNew(t, open(t), n, func(i int, b *keystore.Booking) {
			b.Limit, b.Want = limit(i), n+1
		})
		for i, b := range booked {
			l := limit(i)
			want := keystore.Meter{}.Add(&l, ratesEpoch.UnixMicro(), l.Burst).TAT
			if b.Granted != l.Burst || b.TAT != want {
				t.Fatalf("%d: %+v", i, b)
			}
		}
	})
	t.Run("Rounding", func(t *testing.T) {
		// Some numbers of requests take a little more or less than a whole number of microseconds:
		// the difference is smaller than floating-point numbers can represent.
		limits := []keystore.RateLimit{
			{Requests: 99_999_989, Per: 86_399_999_999 * time.Microsecond, Burst: 100_000_000},
			{Requests: 99_999_971, Per: 86_399_999_981 * time.Microsecond, Burst: 100_000_000},
			{Requests: 89_999_999, Per: 79_999_999_987 * time.Microsecond, Burst: 100_000_000},
		}
		now := ratesEpoch.UnixMicro()
		bookings := make([]keystore.Booking, 2*len(limits))
		booked := bookNew(t, open(t), len(bookings), func(i int, b *keystore.Booking) {
			b.Limit = limits[i/2]
			requests, per := b.Limit.Requests, b.Limit.Per.Microseconds()
			if b.Want = inverse(per, requests); i%2 == 1 {
				b.Known, b.Want = now+inverse(requests, per), b.Limit.Burst
			}
			bookings[i] = *b
		})
		for i := range booked {
			r := modelRate{Booking: bookings[i]}
			if defect := r.booked(now, booked[i]); defect != "" {
				t.Errorf("%+v: %s", r, defect)
			}
		}
	})
	t.Run("None", func(t *testing.T) {
		booked, err := open(t).Book(ctx, ratesEpoch, nil)
		if len(booked) != 0 || err != nil {
			t.Errorf("%v, %v", booked, err)
		}
	})
	t.Run("Concurrent", func(t *testing.T) {
		const callers, calls, burst = 8, 50, 300
		booking := keystore.Booking{
			Name: newRateNames(1)[0], Want: 3,
			Limit: keystore.RateLimit{Requests: 1, Per: time.Hour, Burst: burst},
		}
		var granted, failed atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			rates := open(t)
			wg.Go(func() {
				for range calls {
					booked, err := rates.Book(ctx, ratesEpoch, []keystore.Booking{booking})
					if err != nil {
						failed.Add(1)
						continue
					}
					granted.Add(booked[0].Granted)
				}
			})
		}
		wg.Wait()
		if g := granted.Load(); g > burst || g < burst-booking.Want*failed.Load() {
			t.Errorf("%d of %d granted, %d calls failed", g, burst, failed.Load())
		}
	})
}

// ratesEpoch is when the tests begin to book.
var ratesEpoch = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// newRateNames returns names that no test has used. They look like those of the keystore.
func newRateNames(n int) []string {
	names, deployment := make([]string, n), keystore.NewID()
	for i := range names {
		names[i] = fmt.Sprintf("apikeys:{%s}:rate:%d", deployment, i)
	}
	return names
}

// bookNew books n new limits at ratesEpoch.
func bookNew(
	t *testing.T, rates keystore.SharedRates, n int, set func(i int, b *keystore.Booking),
) (booked []keystore.Booked) {
	t.Helper()
	untilBooked(t, func() (err error) {
		bookings := make([]keystore.Booking, n)
		for i, name := range newRateNames(n) {
			bookings[i].Name = name
			set(i, &bookings[i])
		}
		if booked, err = rates.Book(ctx, ratesEpoch, bookings); err == nil && len(booked) != n {
			t.Fatalf("%d answers to %d bookings", len(booked), n)
		}
		return err
	})
	return booked
}

// untilBooked calls f until it returns no error. f uses other names each time: after an error, any
// booking may have been made.
func untilBooked(t *testing.T, f func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A modelRate holds the bookings of one limit.
type modelRate struct {
	keystore.Booking
	meter    keystore.Meter
	bookings int64 // each may have rounded up the TAT by a microsecond
	last     int64 // the TAT in the last answer
}

// testExactRates compares random bookings with [keystore.Meter], which is exact.
func testExactRates(t *testing.T, nodes ...keystore.SharedRates) {
	const limits, steps = 60, 40
	rng := rand.New(rand.NewPCG(1, 13))
	untilBooked(t, func() error {
		now, rates := ratesEpoch.UnixMicro(), newModelRates(rng, limits)
		for range steps {
			now += []int64{0, 1, rng.Int64N(1000), rng.Int64N(1e6), -rng.Int64N(1000),
				rng.Int64N(3600e6)}[rng.IntN(6)]
			bookings := make([]keystore.Booking, limits)
			for i := range rates {
				rates[i].next(rng, now)
				bookings[i] = rates[i].Booking
			}
			node := nodes[rng.IntN(len(nodes))]
			booked, err := node.Book(ctx, time.UnixMicro(now), bookings)
			if err != nil {
				return err
			}
			for i := range rates {
				if defect := rates[i].booked(now, booked[i]); defect != "" {
					t.Fatalf("at %d, %+v: %s", now, rates[i], defect)
				}
			}
		}
		return nil
	})
}

func newModelRates(rng *rand.Rand, n int) []modelRate {
	// Small and large numbers are equally likely.
	between := func(low, high float64) int64 {
		return int64(low * math.Pow(high/low, rng.Float64()))
	}
	rates := make([]modelRate, n)
	for i, name := range newRateNames(n) {
		l := &rates[i].Limit
		for {
			l.Requests, l.Burst = between(1, keystore.MaxRate), between(1, keystore.MaxRate)
			l.Per = time.Duration(between(1e6, 86400e6)) * time.Microsecond
			// The TAT is earlier than 2^53: up to there, integers are exact in any format.
			if l.Burst/l.Requests < (1<<50)/l.Per.Microseconds() {
				break
			}
		}
		rates[i].Name = name
	}
	return rates
}

// next chooses the next booking.
func (r *modelRate) next(rng *rand.Rand, now int64) {
	l := &r.Limit
	r.Known, r.Spent, r.Want = 0, 0, 0
	switch room := r.meter.Room(l, now); rng.IntN(4) {
	case 0:
		r.Known = r.last
	case 1: // others have admitted that much, and the server has lost it
		r.Known = keystore.Meter{}.Add(l, now, rng.Int64N(l.Burst)+1).TAT
	case 2: // more than there is room for
		r.Spent = rng.Int64N(min(2*room, l.Burst) + 1)
	}
	switch rng.IntN(4) {
	case 0:
		r.Want = 1
	case 1:
		r.Want = rng.Int64N(l.Burst) + 1
	case 2:
		r.Want = l.Burst + 1
	}
}

// inverse returns the number whose product with a is 1 modulo m. a and m have no common factor.
func inverse(a, m int64) int64 {
	return new(big.Int).ModInverse(big.NewInt(a), big.NewInt(m)).Int64()
}

// booked applies an answer, and returns its defect or the empty string.
func (r *modelRate) booked(now int64, b keystore.Booked) (defect string) {
	l := &r.Limit
	exact := r.meter
	if r.Known > now {
		exact = exact.Max(keystore.Meter{TAT: r.Known})
	}
	if r.Spent > 0 {
		exact = exact.Add(l, now, r.Spent)
	}
	rounded := exact
	rounded.TAT += r.bookings + 1
	least, most := min(r.Want, rounded.Room(l, now)), min(r.Want, exact.Room(l, now))
	if b.Granted < least || b.Granted > most {
		return fmt.Sprintf("%+v: granted must be %d to %d", b, least, most)
	}
	if b.Granted > 0 {
		exact = exact.Add(l, now, b.Granted)
	}
	if r.Spent+b.Granted > 0 {
		r.bookings++
	}
	if early := max(exact.TAT, now); b.TAT < early || b.TAT > early+r.bookings+1 {
		return fmt.Sprintf("%+v: the TAT must be %d plus at most %d", b, early, r.bookings)
	}
	r.meter, r.last = exact, b.TAT
	return ""
}
