package events

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// leaseLength is how long a node delivers a webhook after it has last saved its row. Another
	// node takes over if the row has not changed for this time. Both measure on their own clocks.
	leaseLength = 30 * time.Second
	// saveInterval is how often the node that delivers saves the row.
	saveInterval = 10 * time.Second
	// progressInterval is how often it saves the position while it delivers. A node that takes over
	// sends again what was delivered since.
	progressInterval = time.Second
	// watchInterval is how often the other nodes read the row.
	watchInterval = 5 * time.Second
	// pollInterval is how often the node that delivers reads the audit log although it knows of no
	// change: another node may have written rows without a revision.
	pollInterval = 2 * time.Second
	// noticeInterval is how often it checks for changes.
	noticeInterval = 100 * time.Millisecond
	// storeTimeout bounds a call of the database.
	storeTimeout = 5 * time.Second
	// maxBuffer is the maximum number of rows that are read at once.
	maxBuffer = 500
	// maxDeliveries is the number of attempts that the row keeps.
	maxDeliveries = 20
	// maxError is the maximum length of the error of an attempt, in bytes.
	maxError = 300
)

// retryDelays are the times between attempts, as Standard Webhooks recommends them. The last one is
// repeated without end, because later events must not overtake an event that was not delivered.
var retryDelays = []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour,
	5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}

// retryDelay returns the time to wait after a number of failed attempts, without jitter.
func retryDelay(attempts int) time.Duration {
	return retryDelays[max(0, min(attempts, len(retryDelays))-1)]
}

// A delivery delivers one webhook, or watches another node do so. Only its own goroutine uses it.
type delivery struct {
	*Dispatcher
	hook Webhook
	id   string
	send func(ctx context.Context, m *message, now time.Time) (status int, err error)
	wake chan struct{} // with a capacity of one: there may be new rows

	row     keystore.Webhook // as last read or saved
	held    bool             // this node has saved row, and nobody has changed it since
	saved   time.Time        // before the last save: the lease begins then
	holder  string           // this node's incarnation at the last save
	dirty   bool             // row has changes that are not saved
	watched int64            // Beat of the row while another node holds it
	since   time.Time        // when watched was first seen

	due    time.Time // row.RetryAt on this machine's clock
	dueFor time.Time // the RetryAt from which due was computed

	buffer  []keystore.AuditRow // the rows after row.Position
	applied keystore.Revision   // of the node before the audit log was last read
	polled  time.Time           // when the audit log was last read to its end
}

// run delivers until ctx is done.
func (d *delivery) run(ctx context.Context) {
	defer d.release()
	for ctx.Err() == nil {
		wait := d.step(ctx)
		if wait <= 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-d.wake:
			d.polled = time.Time{}
		}
		timer.Stop()
	}
}

// step performs the next action and returns how long to wait after it.
func (d *delivery) step(ctx context.Context) time.Duration {
	if !d.held {
		return d.claim(ctx)
	}
	now := d.now()
	if d.untilSave(now) <= 0 || !d.leased(now) {
		if !d.save() {
			return noticeInterval
		}
		now = d.now()
	}
	until := max(d.untilSave(now), time.Millisecond)
	switch {
	case !d.row.StoppedAt.IsZero():
		return until
	case !d.row.RetryAt.IsZero():
		if wait := d.untilRetry(); wait > 0 {
			return min(wait, until)
		}
	}
	if len(d.buffer) == 0 && !d.read(ctx, now) {
		return min(noticeInterval, until)
	}
	if len(d.buffer) > 0 {
		d.next(ctx)
	}
	return 0
}

// untilSave returns the time until the row must be saved. It is not positive if that is overdue.
func (d *delivery) untilSave(now time.Time) time.Duration {
	interval := saveInterval
	if d.dirty {
		interval = progressInterval
	}
	return interval - now.Sub(d.saved)
}

// leased reports whether this node may begin an attempt. The wall clock counts as well, because the
// monotonic one stops while a machine is suspended.
func (d *delivery) leased(now time.Time) bool {
	const left = leaseLength - sendTimeout - time.Second
	return now.Sub(d.saved) < left && now.Round(0).Sub(d.saved.Round(0)) < left
}

// untilRetry returns the time until the next attempt. It uses the database's clock once, when it
// first sees RetryAt, so that a clock that is set back delays no attempt.
func (d *delivery) untilRetry() time.Duration {
	if !d.dueFor.Equal(d.row.RetryAt) {
		d.dueFor = d.row.RetryAt
		d.due = d.now().Add(min(d.row.RetryAt.Sub(d.clock()),
			retryDelay(d.row.Attempts)*5/4))
	}
	return d.due.Sub(d.now())
}

// claim makes this node the one that delivers, if there is no other one.
func (d *delivery) claim(ctx context.Context) time.Duration {
	found, err := d.find(ctx)
	if err != nil {
		return watchInterval
	}
	own := d.keys.Incarnation()
	switch {
	case found == nil:
		newest, err := d.newest(ctx)
		if err != nil {
			return watchInterval
		}
		if d.row.Beat > 0 { // a crash or a failover has lost the row, or somebody has deleted it
			d.logger.Warn("webhook was missing in the database; it continues where it was",
				slog.String("webhook", d.id))
		}
		if d.row.ID != "" {
			newest = min(newest, d.row.Position)
		}
		d.row = keystore.Webhook{ID: d.id, Position: newest}
	case found.Holder == "" || found.Holder == own || found.Holder == d.holder:
		if found.Position < d.row.Position && found.Replay == nil {
			d.logger.Warn("webhook moved back; it receives some events again",
				slog.String("webhook", d.id))
		}
		d.row = *found
	case d.watched != found.Beat:
		d.row, d.watched, d.since = *found, found.Beat, d.now()
		return watchInterval
	case d.now().Sub(d.since) < leaseLength:
		return min(watchInterval, leaseLength-d.now().Sub(d.since))
	default:
		d.logger.Info("taking over a webhook that no node delivers", slog.String("webhook", d.id))
		d.row = *found
	}
	d.buffer, d.polled = nil, time.Time{}
	if !d.save() {
		return watchInterval
	}
	return 0
}

// find returns the row of the webhook, or nil if there is none.
func (d *delivery) find(ctx context.Context) (*keystore.Webhook, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	found, err := d.keys.Database().Webhooks(ctx, d.id)
	if err != nil {
		return nil, d.keys.StoreFailed("reading webhooks", err)
	}
	if len(found) == 0 {
		return nil, nil
	}
	return &found[0], nil
}

// newest returns the Seq of the newest row of the audit log.
func (d *delivery) newest(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return d.keys.NewestAudit(ctx)
}

// save stores the row, and with it extends the lease. It reports whether this node still holds the
// row. It applies a replay. It takes no context: a node that stops needs the result to release the
// row.
func (d *delivery) save() bool {
	if d.row.TakeReplay() {
		d.buffer, d.polled = nil, time.Time{}
	}
	next := d.row
	next.Holder = d.keys.Incarnation()
	next.URL, next.Events, next.Namespaces = d.hook.Shown, d.hook.Events, d.hook.Namespaces
	asked := d.now()
	if !d.saver.save(&next) {
		d.held, d.watched = false, 0 // the write may have happened
		return false
	}
	next.Beat++
	d.row, d.held, d.saved, d.holder, d.dirty = next, true, asked, next.Holder, false
	return true
}

// release lets another node take over within watchInterval.
func (d *delivery) release() {
	if d.held {
		d.row.Holder = ""
		d.saver.save(&d.row) // if it fails, another node waits for the lease
	}
}

// read fills the buffer. It reports whether it has read anything.
func (d *delivery) read(ctx context.Context, now time.Time) bool {
	applied := d.keys.Applied()
	if applied == d.applied && now.Sub(d.polled) < pollInterval {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	rows, err := d.keys.Database().AuditChain(ctx, max(0, d.row.Position-1), maxBuffer)
	if err != nil {
		d.polled = now
		_ = d.keys.StoreFailed("reading the audit log", err)
		return false
	}
	if d.row.Position > 0 {
		has := len(rows) > 0 && rows[0].Seq == d.row.Position
		// A position without a hash comes from claim, lost or a replay. Its row may be missing.
		if len(rows) == 0 || d.row.Hash != "" && (!has || d.row.Hash != hashOf(&rows[0])) {
			d.polled = now
			d.lost(ctx)
			return false
		}
		if has {
			d.row.Hash, rows = hashOf(&rows[0]), rows[1:]
		}
	}
	if d.buffer = rows; len(rows) == 0 {
		d.applied, d.polled = applied, now
	}
	return len(rows) > 0
}

// lost handles a missing row of the audit log at the position. If a failover has lost it, save
// fails, because the row of the webhook is older too. The delivery then continues at the position
// in that row. Otherwise somebody has changed the audit log.
func (d *delivery) lost(ctx context.Context) {
	if !d.save() {
		return
	}
	newest, err := d.newest(ctx)
	if err != nil {
		return
	}
	d.logger.Warn("the audit log no longer has the row at the webhook's position; "+
		"continuing with later rows", slog.String("webhook", d.id))
	d.row.Position, d.row.Hash, d.dirty = min(newest, d.row.Position), "", true
}

// hashOf returns the hash of a row as [keystore.WebhookState] has it.
func hashOf(row *keystore.AuditRow) string { return hex.EncodeToString(row.Hash[:]) }

// next delivers the first row of the buffer or skips it.
func (d *delivery) next(ctx context.Context) {
	row := &d.buffer[0]
	m, err := d.message(ctx, row)
	if err != nil {
		// The row would fail again, and those after it would wait forever.
		d.logger.Error("skipping an event that cannot be read", slog.String("webhook", d.id),
			slog.Any("error", err))
	}
	if m == nil {
		d.done(row)
		return
	}
	began := d.now()
	at := d.clock()
	// The signed time is that of this machine, because receivers compare it with their own clocks.
	// The database's time may lag behind after its clock was set.
	status, err := d.send(ctx, m, began)
	if ctx.Err() != nil {
		return // this node stops: the next one sends the event again
	}
	attempt := keystore.WebhookDelivery{Event: m.id, Type: m.kind, At: at, Status: status,
		Took: d.now().Sub(began)}
	if err == nil {
		d.record(attempt)
		d.results[Delivered].Add(1)
		d.row.Attempts, d.row.RetryAt = 0, time.Time{}
		d.done(row)
		return
	}
	attempt.Error = keystore.Truncate(err.Error(), maxError)
	d.record(attempt)
	log := d.logger.With(slog.String("webhook", d.id), slog.String("event", m.id),
		slog.String("error", attempt.Error))
	if status == http.StatusGone {
		d.results[Gone].Add(1)
		d.row.StoppedAt = at
		log.Error("webhook stopped: the receiver answered 410")
	} else {
		d.results[Failed].Add(1)
		d.row.Attempts++
		wait := time.Duration(float64(retryDelay(d.row.Attempts)) * (0.9 + 0.2*rand.Float64()))
		d.row.RetryAt = at.Add(wait)
		log.Warn("webhook delivery failed", slog.Duration("retry_in", wait.Round(time.Second)))
	}
	d.save()
}

// message returns the message for a row, or nil if the webhook does not want it.
func (d *delivery) message(ctx context.Context, row *keystore.AuditRow) (*message, error) {
	if t := Type(row); row.Action != keystore.WebhookTest && !matches(d.hook.Events, t) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	e, namespace, err := d.render.event(ctx, row)
	if err != nil || !d.hook.wants(row, e.Type, namespace) {
		return nil, err
	}
	body, err := json.Marshal(e)
	return &message{row.EventID(), e.Type, body}, err
}

// done removes the first row from the buffer.
func (d *delivery) done(row *keystore.AuditRow) {
	d.row.Position, d.row.Hash, d.dirty = row.Seq, hashOf(row), true
	d.buffer = d.buffer[1:]
}

// record adds an attempt to those that the row keeps.
func (d *delivery) record(a keystore.WebhookDelivery) {
	kept := d.row.Deliveries[:min(len(d.row.Deliveries), maxDeliveries-1)]
	d.row.Deliveries = append([]keystore.WebhookDelivery{a}, kept...)
	d.dirty = true
}
