package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/console"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// opening is the state of an app that has started without its database.
type opening struct {
	api     *admin.API       // answers 503
	console *console.Console // answers 503
	failed  atomic.Uint64    // number of failed attempts
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

const (
	// startWait is how long Start waits for the store if Caddy may start without it.
	startWait = 5 * time.Second
	// retryMin is the first pause between two attempts. It doubles up to retryMax.
	retryMin = 250 * time.Millisecond
	retryMax = 5 * time.Second
	// openLogInterval is how often the same failure is logged.
	openLogInterval = time.Minute
)

// mayOpenLater reports whether a may start although opening its store failed. A machine that boots
// before its database must not take down the other sites of its Caddy. But if a config with keys is
// running, a config whose database is unreachable is refused, unless the running one waits for the
// same database.
func (a *App) mayOpenLater(err error) bool {
	before := runningApp()
	return sqldb.Unreachable(err) &&
		(before == nil || before.identity == a.identity && before.store.Load() == nil)
}

// An attempt is the result of opening a store.
type attempt struct {
	store *store
	err   error
}

// attempt opens the store in the background.
func (a *App) attempt(ctx context.Context) <-chan attempt {
	done := make(chan attempt, 1)
	go func() {
		s, err := acquireStore(ctx, a)
		done <- attempt{s, err}
	}()
	return done
}

// open opens the store. If Caddy may start without it, open retries in the background until it
// succeeds or the app is cleaned up, and returns nil.
func (a *App) open() (*store, error) {
	ctx, cancel := context.WithCancel(a.ctx)
	first := a.attempt(ctx)
	err := fmt.Errorf("opening the database %s: not open after %s; still trying: %w",
		a.identity, startWait, context.DeadlineExceeded)
	var late <-chan time.Time
	if a.mayOpenLater(err) {
		late = time.After(startWait)
	}
	select {
	case done := <-first:
		if done.err == nil {
			if err := a.checkPrefixes(ctx, done.store); err != nil {
				cancel()
				running.restore()
				return nil, errors.Join(err, releaseStore(a))
			}
		}
		if done.err == nil || !a.mayOpenLater(done.err) {
			cancel()
			return done.store, done.err
		}
		first, err = nil, done.err
	case <-late:
	}
	a.opening = &opening{api: admin.New(nil, a.logger), console: console.New(nil, nil, a.logger),
		cancel: cancel}
	a.opening.done.Go(func() { a.keepOpening(ctx, first, err) })
	return nil, nil
}

// prefixesWait bounds the count of keys whose prefix is not accepted. Caddy starts without it.
const prefixesWait = 2 * time.Second

// checkPrefixes refuses settings that neither accept nor abandon the token prefix of live keys.
func (a *App) checkPrefixes(ctx context.Context, s *store) error {
	ctx, cancel := context.WithTimeout(ctx, prefixesWait)
	defer cancel()
	others, err := s.keys.OtherPrefixes(ctx, a.settings)
	if err != nil {
		a.logger.Warn("counting keys with unaccepted token prefixes failed",
			slog.Any("error", err))
		return nil
	}
	var refused, counts []string
	for _, p := range others {
		if p.Abandoned {
			a.logger.Warn("live keys with an abandoned token prefix are refused",
				slog.String("prefix", p.Prefix), slog.Int64("keys", p.Keys),
				slog.String("at", cmp.Or(lineOf("abandoned"), unknownLine)),
				slog.String("advice", "Revoke the keys, or accept the prefix: move it from "+
					"`abandon_prefix` to `token_prefix`."))
			continue
		}
		refused = append(refused, p.Prefix)
		counts = append(counts, fmt.Sprintf("%s (%d)", p.Prefix, p.Keys))
	}
	if len(refused) == 0 {
		return nil
	}
	accepted := a.settings.TokenPrefixes
	if len(accepted) == 0 {
		accepted = []string{keystore.DefaultPrefix}
	}
	at := lineOf("prefixes")
	if at != "" {
		at = " See " + at + "."
	}
	return fmt.Errorf("token_prefix does not accept the prefixes of live keys: %s. Requests with "+
		"these keys would get 401. %s%s",
		strings.Join(counts, ", "), prefixAdvice(accepted, refused), at)
}

// prefixAdvice says how to configure prefixes that are not accepted.
func prefixAdvice(accepted, refused []string) string {
	return fmt.Sprintf("Accept them with `token_prefix %s %s`, or refuse them permanently with "+
		"`abandon_prefix %[2]s`.",
		strings.Join(accepted, " "), strings.Join(refused, " "))
}

// keepOpening waits for the pending attempt, or starts one if pending is nil, and retries until one
// succeeds. err is the latest error.
func (a *App) keepOpening(ctx context.Context, pending <-chan attempt, err error) {
	var logged string
	var loggedAt time.Time
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		if pending == nil { // the attempt has failed and is not just slow
			a.opening.failed.Add(1)
		}
		a.opening.api.NotReached(sqldb.Advice(err))
		if text := err.Error(); text != logged || time.Since(loggedAt) >= openLogInterval {
			logged, loggedAt = text, time.Now()
			a.logger.Error("cannot open the key database; requests that need a key get 503 until "+
				"a retry succeeds",
				slog.Any("error", err))
		}
		if pending == nil {
			select {
			case <-ctx.Done():
				return
			// Random, so that machines that boot together do not retry together.
			case <-time.After(time.Duration(float64(wait) * (0.5 + 0.5*rand.Float64()))):
			}
			pending = a.attempt(ctx)
		}
		done := <-pending
		pending, err = nil, done.err
		if err == nil {
			// too late to refuse the configuration
			if err := a.checkPrefixes(ctx, done.store); err != nil {
				a.logger.Error("live keys are refused because their token prefix is not accepted",
					slog.Any("error", err))
			}
			running.opened(a, done.store)
			a.logger.Info("key database opened")
			return
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// stop stops retrying.
func (o *opening) stop() {
	if o != nil {
		o.cancel()
		o.done.Wait()
	}
}
