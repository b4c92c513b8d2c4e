package console

import (
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds on wrong tokens. None can be guessed; this keeps those who try from filling logs and
// connections.
const (
	guessesAtOnce = 10
	guessEvery    = 6 * time.Second
	// maxGuessers bounds the memory. Who makes it overflow is forgotten, with all others.
	maxGuessers = 10_000
)

// guesses counts wrong tokens by where they come from.
type guesses struct {
	mu   sync.Mutex
	from map[string]*rate.Limiter
}

// wait returns how long an address has to wait until it may try again.
func (g *guesses) wait(address string, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.from[network(address)]
	if l == nil {
		return 0
	}
	r := l.ReserveN(now, 1)
	defer r.CancelAt(now)
	return r.DelayFrom(now)
}

// wrong counts one.
func (g *guesses) wrong(address string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.from == nil || len(g.from) >= maxGuessers {
		g.from = make(map[string]*rate.Limiter)
	}
	key := network(address)
	l := g.from[key]
	if l == nil {
		l = rate.NewLimiter(rate.Every(guessEvery), guessesAtOnce)
		g.from[key] = l
	}
	l.AllowN(now, 1)
}

// network is what one person has at least: an IPv6 address is one of the 2^64 that a connection is
// given.
func network(address string) string {
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() && !a.Is4In6() {
		p, _ := a.WithZone("").Prefix(64)
		return p.String()
	}
	return address
}

func seconds(d time.Duration) string {
	return strconv.Itoa(int((d + time.Second - 1) / time.Second))
}
