//go:build unix

package sharedcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/redistest"
)

// minutely admits ten requests at once and one a minute.
var minutely = keystore.RateLimit{Requests: 1, Per: time.Minute, Burst: 10}

const rateName = "apikeys:{e}:rate:one"

// noon is when the tests book, unless they say otherwise.
var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// after returns the TAT of minutely after n requests at noon.
func after(n int64) int64 { return noon.Add(time.Duration(n) * time.Minute).UnixMicro() }

// booked books once the server answers. An earlier attempt may have made the booking too, if its
// answer came too late.
func (c cache) booked(t *testing.T, b keystore.Booking) keystore.Booked {
	t.Helper()
	return c.bookedAt(t, noon, b)
}

// bookedAt is booked at another time.
func (c cache) bookedAt(
	t *testing.T, now time.Time, b keystore.Booking,
) (answer keystore.Booked) {
	t.Helper()
	eventually(t, "the server books", func() bool {
		booked, err := c.Book(ctx, now, []keystore.Booking{b})
		if err == nil {
			answer = booked[0]
		}
		return err == nil
	})
	return answer
}

// wantTAT reads the shared TAT of minutely.
func (c cache) wantTAT(t *testing.T, tat int64) {
	t.Helper()
	got := c.booked(t, keystore.Booking{Name: rateName, Limit: minutely})
	if got != (keystore.Booked{TAT: tat}) {
		t.Errorf("%+v, want TAT %d", got, tat)
	}
}

// TestAdvanceOfFleet: requests that many nodes have admitted in advance all count, even if the
// burst is small and is refilled slowly.
func TestAdvanceOfFleet(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	const nodes = 10
	b := keystore.Booking{Name: rateName, Spent: 1,
		Limit: keystore.RateLimit{Requests: 20 * nodes, Per: 24 * time.Hour, Burst: 1}}
	var got keystore.Booked
	for range nodes {
		got = r.booked(t, b)
	}
	if want := noon.Add(24 * time.Hour / 20).UnixMicro(); got.TAT < want {
		t.Errorf("TAT %d after %d requests, want %d", got.TAT, nodes, want)
	}
}

// TestFlushedRates: after the server has lost its data, nodes restore the state that they know.
func TestFlushedRates(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	known := keystore.Booking{Name: rateName, Limit: minutely, Known: after(7), Want: 10}
	if got := r.booked(t, known); got.Granted > 3 || got.TAT != after(10) {
		t.Errorf("%+v", got)
	}
	if err := operator(t, s).FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	r.wantTAT(t, noon.UnixMicro())
	known.Known = after(10)
	if got := r.booked(t, known); got != (keystore.Booked{TAT: after(10)}) {
		t.Errorf("%+v", got)
	}
	r.wantTAT(t, after(10)) // for nodes that knew nothing
}

// TestRestoredRates: an old dump refills no limit whose state a node knows.
func TestRestoredRates(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	r.booked(t, keystore.Booking{Name: rateName, Limit: minutely, Known: after(2)})
	if err := operator(t, s).Save(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	r.booked(t, keystore.Booking{Name: rateName, Limit: minutely, Known: after(9)})
	s.Kill()
	s.Run()
	r.wantTAT(t, after(2)) // the script is loaded with EVAL again
	got := r.booked(t, keystore.Booking{Name: rateName, Limit: minutely, Known: after(9), Want: 10})
	if got.Granted > 1 || got.TAT != after(10) {
		t.Errorf("%+v", got)
	}
}

// TestRatesExpire: a TAT is kept until a minute after its time, and only if it is later than now.
func TestRatesExpire(t *testing.T) {
	s := redistest.Start(t)
	r, operator := open(t, "redis://"+s.Addr()), operator(t, s)
	r.booked(t, keystore.Booking{Name: rateName, Limit: minutely, Known: after(-1)})
	if n := operator.DBSize(ctx).Val(); n != 0 {
		t.Errorf("%d values without a booking", n)
	}
	r.booked(t, keystore.Booking{Name: rateName, Limit: minutely, Known: after(5)})
	if ttl := operator.PTTL(ctx, rateName).Val(); ttl <= 5*time.Minute || ttl > 6*time.Minute {
		t.Errorf("expires in %s", ttl)
	}
	if v := operator.Get(ctx, rateName).Val(); v != storedAt(after(5)) {
		t.Errorf("stored %q", v)
	}
	operator.Persist(ctx, rateName)
	r.wantTAT(t, after(5))
	if ttl := operator.PTTL(ctx, rateName).Val(); ttl > 0 {
		t.Error("a call that booked nothing wrote the value")
	}
}

// storedAt returns the value of a limit of minutely with a TAT.
func storedAt(tat int64) string {
	return fmt.Sprintf("%064s/%d", formerlyStoredAt(tat), minutely.Burst)
}

// formerlyStoredAt is storedAt of versions that do not store the burst.
func formerlyStoredAt(tat int64) string {
	return fmt.Sprintf("%d/%d/%d", tat, minutely.Requests, minutely.Per.Microseconds())
}

// TestChangedRates: when a limit is changed, the used part of its burst stays the same.
func TestChangedRates(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	from := keystore.RateLimit{Requests: 10, Per: time.Minute, Burst: 100}
	for _, test := range []struct {
		to   keystore.RateLimit
		room int64
	}{
		{keystore.RateLimit{Requests: 1, Per: time.Hour, Burst: 100}, 40},
		{keystore.RateLimit{Requests: 1000, Per: time.Second, Burst: 1000}, 940},
		{keystore.RateLimit{Requests: 10, Per: time.Minute, Burst: 150}, 90},
		{keystore.RateLimit{Requests: 10, Per: time.Minute, Burst: 70}, 10},
		{keystore.RateLimit{Requests: 10, Per: time.Minute, Burst: 10}, 0},
		{keystore.RateLimit{Requests: 20, Per: time.Minute, Burst: 50}, 0},
	} {
		name := rateName + fmt.Sprint(test.to)
		r.booked(t, keystore.Booking{Name: name, Limit: from, Spent: 60})
		booked := r.booked(t, keystore.Booking{Name: name, Limit: test.to, Want: 10_000})
		if booked.Granted != test.room {
			t.Errorf("%+v: room for %d, want %d", test.to, booked.Granted, test.room)
		}
	}
}

// TestLoweredBurst: what has been used beyond a lowered burst is forgotten, once.
func TestLoweredBurst(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	r.booked(t, keystore.Booking{Name: rateName, Limit: minutely, Known: after(10)})
	lowered := minutely
	lowered.Burst = 3
	b := keystore.Booking{Name: rateName, Limit: lowered, Want: 10}
	if got := r.booked(t, b); got != (keystore.Booked{TAT: after(3)}) {
		t.Errorf("%+v when the burst was lowered", got)
	}
	// Requests that nodes have admitted in advance are not forgotten.
	b.Known = after(4)
	if got := r.booked(t, b); got != (keystore.Booked{TAT: after(4)}) {
		t.Errorf("%+v after one more", got)
	}
	b.Known = 0
	if got := r.booked(t, b); got != (keystore.Booked{TAT: after(4)}) {
		t.Errorf("%+v, it was forgotten", got)
	}
	got := r.bookedAt(t, noon.Add(2*time.Minute), b)
	if got.Granted > 1 || got.TAT != after(5) {
		t.Errorf("%+v after two minutes", got)
	}
	// A burst that was raised again.
	b.Limit, b.Want = minutely, 0
	if got := r.booked(t, b); got != (keystore.Booked{TAT: after(5)}) {
		t.Errorf("%+v when the burst was raised", got)
	}
}

// TestRatesOfFormerVersions: versions that do not store the burst, and this one, read each other's
// values.
func TestRatesOfFormerVersions(t *testing.T) {
	s := redistest.Start(t)
	r, operator := open(t, "redis://"+s.Addr()), operator(t, s)
	operator.Set(ctx, rateName, formerlyStoredAt(after(7)), 0)
	r.wantTAT(t, after(7))
	r.booked(t, keystore.Booking{Name: rateName, Limit: minutely, Known: after(8)})
	read := operator.GetRange(ctx, rateName, 0, 63).Val() // then they remove zeros from numbers
	if got := strings.TrimLeft(read, "0"); got != formerlyStoredAt(after(8)) {
		t.Errorf("a former version reads %q", read)
	}
}

// TestForeignRates: a value that another program has stored counts as lost, and one that is too
// late blocks the limit only for a while.
func TestForeignRates(t *testing.T) {
	s := redistest.Start(t)
	r, operator := open(t, "redis://"+s.Addr()), operator(t, s)
	for _, foreign := range []string{
		"", "x", "-1", "1e300", "0x7fffffffffffffff", "inf", "nan", " 1", "1 ", "1\n", "\x00",
		"1.5", strings.Repeat("x", 1<<20), "9e15", "9/9", "9/9/9/9", "9000000000000000/0/0",
		"9000000000000000/1/x", "x" + storedAt(after(5)), "/" + storedAt(after(5)),
	} {
		operator.Set(ctx, rateName, foreign, 0)
		r.wantTAT(t, noon.UnixMicro())
		operator.Set(ctx, rateName, foreign, 0)
		r.booked(t, keystore.Booking{Name: rateName, Limit: minutely, Known: after(3)})
		r.wantTAT(t, after(3))
	}

	operator.Del(ctx, rateName)
	operator.RPush(ctx, rateName, "x")
	booked, err := []keystore.Booked(nil), error(nil)
	eventually(t, "the server books", func() bool {
		booked, err = r.Book(ctx, noon, []keystore.Booking{
			{Name: rateName, Limit: minutely, Known: after(3)},
			{Name: rateName + "other", Limit: minutely, Known: after(4)},
		})
		return err == nil
	})
	if booked[0].TAT != after(3) || booked[1].TAT != after(4) {
		t.Errorf("with a list: %+v", booked)
	}
	r.wantTAT(t, after(3))

	// Two bursts, a minute and a tenth of the period.
	latest := after(2*minutely.Burst+1) + minutely.Per.Microseconds()/10
	for _, late := range []string{
		storedAt(after(1000)), storedAt(math.MaxInt64), formerlyStoredAt(after(1000)),
		"99999999999999999999/1/60000000",
	} {
		operator.Set(ctx, rateName, late, 0)
		r.wantTAT(t, latest)
		if v := operator.Get(ctx, rateName).Val(); v != storedAt(latest) {
			t.Errorf("%.30s: stored %q", late, v)
		}
	}
}

// TestLongBursts: bursts of thousands of years are not exceeded. Their TATs are not exact in Lua.
func TestLongBursts(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	for _, l := range []keystore.RateLimit{
		{Requests: 1, Per: keystore.MaxPer, Burst: keystore.MaxRate},
		{Requests: 7, Per: keystore.MaxPer - time.Microsecond, Burst: keystore.MaxRate - 1},
		{Requests: 3, Per: keystore.MinPer, Burst: keystore.MaxRate},
	} {
		name := rateName + fmt.Sprint(l)
		var exact keystore.Meter
		var known int64
		for _, want := range []int64{1, l.Burst / 3, 7, l.Burst / 2, l.Burst, 1, l.Burst} {
			b, err := r.Book(ctx, noon, []keystore.Booking{
				{Name: name, Limit: l, Known: known, Want: want},
			})
			if err != nil {
				continue // it may have been booked
			}
			room := exact.Room(&l, noon.UnixMicro())
			if b[0].Granted > min(room, want) {
				t.Fatalf("%+v: %d granted of %d, there is room for %d", l, b[0].Granted, want, room)
			}
			exact = exact.Add(&l, noon.UnixMicro(), b[0].Granted)
			if known = b[0].TAT; known < exact.TAT {
				t.Fatalf("%+v: TAT %d, must be at least %d", l, known, exact.TAT)
			}
		}
		if left := exact.Room(&l, noon.UnixMicro()); left > 1 && r.failures.Load() == 0 {
			t.Errorf("%+v: %d are left", l, left)
		}
	}
}

// TestRatesOfHungServer: a Book ends within the timeout and, after a few failures, returns
// immediately.
func TestRatesOfHungServer(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr()+"?timeout=200ms")
	r.works(t)
	s.Stop()
	bookings := make([]keystore.Booking, 3*maxBookings) // the timeout bounds all their calls
	for i := range bookings {
		bookings[i] = keystore.Booking{Name: fmt.Sprint(rateName, i), Limit: minutely}
	}
	start, failures := time.Now(), 0
	eventually(t, "Book stops asking the server", func() bool {
		_, err := r.Book(ctx, noon, bookings)
		failures++
		return errors.Is(err, errUnavailable)
	})
	if took := time.Since(start); failures > maxFailures+1 || took > 10*r.timeout {
		t.Errorf("%d calls took %s", failures, took)
	}
	r.wantLine(t, "does not answer")
	if _, err := r.Get(ctx, "name"); !errors.Is(err, errUnavailable) {
		t.Errorf("Get asked the server: %v", err)
	}
	s.Continue()
	r.wantLine(t, "answers again")
	r.works(t)
}

// TestCancelledBook: a cancelled Book and one after Close are not failures of the server.
func TestCancelledBook(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	bookings := []keystore.Booking{{Name: rateName, Limit: minutely}}
	for range 2 * maxFailures {
		if _, err := r.Book(cancelled, noon, bookings); err == nil {
			t.Error("a cancelled call booked")
		}
	}
	if n := r.failures.Load(); n != 0 || r.unavailable.Load() {
		t.Errorf("%d failures reported, unavailable: %v", n, r.unavailable.Load())
	}
	r.works(t)
	r.Close()
	if _, err := r.Book(ctx, noon, bookings); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestRejectedBookings: Get works although the server books nothing, and one log line reports it.
func TestRejectedBookings(t *testing.T) {
	const acl = "user apikeys on >s3cr3t ~apikeys:* resetchannels -@all "
	for name, c := range map[string]struct{ acl, maxmemory, answer, want string }{
		"no scripts":      {"+getrange +set", "0", "", "NOPERM"},
		"no EVAL":         {"+getrange +set +evalsha", "0", "", "NOPERM"},
		"no GETRANGE":     {"+set +evalsha +eval", "0", "", ""},
		"full":            {"+getrange +set +evalsha +eval", "1", "", "OOM"},
		"no numbers":      {answer: "+OK", want: "unexpected answer"},
		"too few numbers": {answer: "*1\r\n:1", want: "unexpected answer"},
		"less than none":  {answer: "*2\r\n:-1\r\n:1", want: "unexpected answer"},
		"too many":        {answer: "*2\r\n:2\r\n:1", want: "unexpected answer"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := ""
			if c.acl == "" {
				addr = fakeServer(t, func(request string) string {
					if strings.Contains(request, "hello") {
						return "-ERR unknown command" // the client continues
					}
					if strings.Contains(request, "evalsha") {
						return c.answer
					}
					return "+OK"
				})
			} else {
				s := redistest.Start(t, acl+c.acl, "maxmemory "+c.maxmemory)
				addr = s.Addr()
			}
			r := open(t, "redis://apikeys:s3cr3t@"+addr)
			for range 2 * maxFailures {
				booked, err := r.Book(ctx, noon, []keystore.Booking{
					{Name: rateName, Limit: minutely, Want: 1},
				})
				if err == nil {
					t.Fatalf("booked %+v", booked)
				}
			}
			if got := r.wantLine(t, "rejects bookings"); !strings.Contains(got, c.want) {
				t.Error(got)
			}
			select {
			case line := <-r.lines:
				t.Error("a second line:", line)
			default:
			}
			if name != "no GETRANGE" {
				r.answer(t, "apikeys:{e}:name")
			}
		})
	}
}

// BenchmarkBook measures calls with 100 bookings.
func BenchmarkBook(b *testing.B) {
	s := redistest.Start(b)
	r, err := OpenRedis(Options{URL: "redis://" + s.Addr() + "?timeout=1s"})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	bookings := make([]keystore.Booking, 100)
	for i := range bookings {
		bookings[i] = keystore.Booking{
			Name: fmt.Sprint(rateName, i), Spent: 1, Want: 5,
			Limit: keystore.RateLimit{Requests: 1000, Per: time.Second, Burst: 1000},
		}
	}
	b.ReportAllocs()
	for now := noon; b.Loop(); now = now.Add(time.Millisecond) {
		booked, err := r.Book(ctx, now, bookings)
		if err != nil {
			b.Fatal(err)
		}
		for i := range booked {
			bookings[i].Known = booked[i].TAT
		}
	}
}
