package console

import (
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits on wrong tokens. Tokens cannot be guessed; the limits keep attempts from filling the logs
// and from occupying connections.
const (
	guessBurst    = 10
	guessInterval = 6 * time.Second
	// maxGuessers bounds the memory. When it is exceeded, all counts are reset.
	maxGuessers = 10_000
)

// guesses counts wrong tokens by client network. It is safe for concurrent use.
type guesses struct {
	mu   sync.Mutex
	from map[string]*rate.Limiter
}

// wait returns how long an address must wait before it may try again.
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

// wrong counts a wrong token.
func (g *guesses) wrong(address string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.from == nil || len(g.from) >= maxGuessers {
		g.from = make(map[string]*rate.Limiter)
	}
	key := network(address)
	l := g.from[key]
	if l == nil {
		l = rate.NewLimiter(rate.Every(guessInterval), guessBurst)
		g.from[key] = l
	}
	l.AllowN(now, 1)
}

// network returns the network of a client. An IPv6 client usually has 2^64 addresses, so it is
// identified by its /64.
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
