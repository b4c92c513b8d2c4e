package caddymodule

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/console"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// opening is how an app goes on whose database could not be reached when it started.
type opening struct {
	api     *admin.API       // says so
	console *console.Console // too
	failed  atomic.Uint64
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

const (
	// openAgain is how soon the opening of a store is tried again; the wait doubles up to openAgainMax.
	openAgain    = 250 * time.Millisecond
	openAgainMax = 5 * time.Second
	// openMutter is how often the log says that it fails, as long as it fails in the same way.
	openMutter = time.Minute
)

// mayOpenLater reports whether a may start although its store does not open. A machine that boots before its database must not take
// down the other sites of its Caddy. But where a config with keys is running, one whose database cannot be reached is refused, unless
// the running one waits for the same.
func (a *App) mayOpenLater(err error) bool {
	before := runningApp()
	return sqldb.Unreachable(err) && (before == nil || before.identity == a.identity && before.store.Load() == nil)
}

// openLater goes on trying, until it succeeds or the app is cleaned up.
func (a *App) openLater(err error) {
	ctx, cancel := context.WithCancel(a.ctx)
	a.opening = &opening{api: admin.New(nil, a.logger), console: console.New(nil, nil, a.logger), cancel: cancel}
	a.opening.done.Go(func() { a.keepOpening(ctx, err) })
}

func (a *App) keepOpening(ctx context.Context, err error) {
	var said string
	var saidAt time.Time
	for wait := openAgain; ; wait = min(2*wait, openAgainMax) {
		a.opening.failed.Add(1)
		if text := err.Error(); text != said || time.Since(saidAt) >= openMutter {
			said, saidAt = text, time.Now()
			a.logger.Error("the key database cannot be opened: every request that needs a key is answered 503 until it can, which is tried again and again",
				slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(float64(wait) * (0.5 + 0.5*rand.Float64()))): // machines that boot together do not come all at once
		}
		var s *store
		if s, err = acquireStore(ctx, a); err == nil {
			a.store.Store(s)
			running.opened(a)
			a.logger.Info("the key database is open")
			return
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// stop ends the trying.
func (o *opening) stop() {
	if o != nil {
		o.cancel()
		o.done.Wait()
	}
}
