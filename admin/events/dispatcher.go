package events

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// A Result is the outcome of an attempt to deliver an event.
type Result int

// Results.
const (
	Delivered  Result = iota
	Failed            // and tried again later
	Gone              // the receiver answered 410
	NumResults int    = iota
)

// String returns the value of the label `result`.
func (r Result) String() string { return [...]string{"delivered", "failed", "gone"}[r] }

// A Dispatcher delivers the events of a deployment to webhooks, together with the other nodes. It
// also reports the events of this process. It is safe for concurrent use.
type Dispatcher struct {
	keys    *manage.Keystore
	render  renderer
	logger  *slog.Logger
	now     func() time.Time // this machine's clock
	clock   func() time.Time // the database's clock
	saver   *saver
	results [NumResults]atomic.Uint64

	mu       sync.Mutex
	running  map[string]*runningDelivery // by id
	listener *listener
}

type runningDelivery struct {
	*delivery
	stop context.CancelFunc
	done chan struct{}
}

// New returns the dispatcher of a key store, which has at most one. It stops when the key store is
// closed.
func New(ks *manage.Keystore, a *admin.API, logger *slog.Logger) *Dispatcher {
	d := &Dispatcher{keys: ks, render: renderer{ks, a}, logger: logger,
		now: time.Now, clock: ks.Now, saver: newSaver(ks),
		running: make(map[string]*runningDelivery), listener: newListener()}
	ks.OnAudit(d.audited)
	ks.Go(d.listen)
	ks.Go(d.forgetUnused)
	return d
}

// Configure replaces the webhooks. Those with the same configuration continue undisturbed.
func (d *Dispatcher) Configure(hooks []Webhook) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted := make(map[string]bool, len(hooks))
	for i := range hooks {
		id := hooks[i].ID()
		wanted[id] = true
		before := d.running[id]
		if before == nil || !before.hook.equal(&hooks[i]) {
			d.running[id] = d.start(hooks[i], newSender(&hooks[i]).send, before)
		}
	}
	for id, r := range d.running {
		if !wanted[id] {
			r.stop()
			delete(d.running, id)
		}
	}
}

// start starts a delivery in place of another one, which may be nil.
func (d *Dispatcher) start(
	hook Webhook, send func(context.Context, *message, time.Time) (int, error),
	before *runningDelivery,
) *runningDelivery {
	r := &runningDelivery{delivery: &delivery{Dispatcher: d, hook: hook, id: hook.ID(), send: send,
		wake: make(chan struct{}, 1)}, done: make(chan struct{})}
	var stopping context.Context
	stopping, r.stop = context.WithCancel(context.Background())
	if before != nil {
		before.stop()
	}
	d.keys.Go(func(ctx context.Context) {
		defer close(r.done)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(stopping, cancel)()
		if before != nil {
			<-before.done
		}
		r.run(ctx)
	})
	return r
}

// audited is called after each change of this process.
func (d *Dispatcher) audited(rows []*keystore.AuditRow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.running {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	if !d.listener.add(rows) {
		d.logger.Warn("events dropped: the handlers of the events app are too slow; webhooks " +
			"are not affected")
	}
}

// Results returns the number of attempts of this process by result.
func (d *Dispatcher) Results() (counts [NumResults]uint64) {
	for i := range counts {
		counts[i] = d.results[i].Load()
	}
	return counts
}

const (
	// unusedAfter is how long a row that no node holds is kept. A webhook that was removed from the
	// configuration for less time continues where it was.
	unusedAfter    = 7 * 24 * time.Hour
	unusedInterval = time.Hour
)

// forgetUnused deletes rows that this process has seen unchanged for unusedAfter. It does not rely
// on a clock of the database, which could be set.
func (d *Dispatcher) forgetUnused(ctx context.Context) {
	type seen struct {
		beat int64
		at   time.Time
	}
	rows := make(map[string]seen)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(unusedInterval):
		}
		reading, cancel := context.WithTimeout(ctx, storeTimeout)
		all, err := d.keys.Database().Webhooks(reading, "")
		now := make(map[string]seen, len(all))
		for i := range all {
			w := &all[i]
			now[w.ID] = seen{w.Beat, time.Now()}
			if s, ok := rows[w.ID]; ok && s.beat == w.Beat {
				now[w.ID] = s
				if time.Since(s.at) >= unusedAfter && err == nil {
					err = d.keys.Database().ForgetWebhook(reading, w.ID, w.Beat)
				}
			}
		}
		cancel()
		if err != nil {
			_ = d.keys.StoreFailed("deleting unused webhooks", err)
			continue
		}
		rows = now
	}
}

// Listen sets the function that gets the events of the changes that this process makes, one after
// the other. nil stands for none. If too many events wait for it, the newest are dropped.
func (d *Dispatcher) Listen(f func(id string, e api.Event)) { d.listener.set(f) }

// listen calls the listener.
func (d *Dispatcher) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.listener.wake:
		}
		for row, f := d.listener.next(); row != nil; row, f = d.listener.next() {
			rendering, cancel := context.WithTimeout(ctx, storeTimeout)
			e, _, err := d.render.event(rendering, row)
			cancel()
			if err != nil {
				d.logger.Error("skipping an event that cannot be read", slog.Any("error", err))
				continue
			}
			// A handler that hangs must not keep the key store from closing.
			done := make(chan struct{})
			go func() {
				defer close(done)
				f(row.EventID(), e)
			}()
			select {
			case <-done:
			case <-ctx.Done():
				return
			}
		}
	}
}
