package keystore

import (
	"context"
	"time"
)

// WebhookStore is the part of a [Database] that stores the position of each webhook in the audit
// log, and which node delivers it. Its writes assign no revision. A crash of the database may lose
// the last of them: the webhook then receives some events again.
type WebhookStore interface {
	// Webhooks returns the webhook with an id, or none if it does not exist. For the empty id, it
	// returns all webhooks, ordered by ID.
	Webhooks(ctx context.Context, id string) ([]Webhook, error)
	// SaveWebhooks stores webhooks with different ids, in one transaction, and returns the ids of
	// those that it stored. It stores each webhook whose Beat is unchanged and whose row of the
	// audit log at Position exists with that Hash, so that no stored position is ahead of the audit
	// log after a failover. The row is not checked if Hash is empty or Position is unchanged: a new
	// webhook or a replay can be ahead if a failover loses rows between the choice of its Position
	// and this call. A Beat of zero adds the webhook unless its id exists. SaveWebhooks increments
	// the Beat, clears Replay and sets SavedAt to the time of the database.
	SaveWebhooks(ctx context.Context, list []Webhook) (saved []string, err error)
	// ForgetWebhook deletes a webhook unless its Beat has changed from beat.
	ForgetWebhook(ctx context.Context, id string, beat int64) error
	// AuditAt returns the Seq of the oldest row of the audit log at or after a time, or zero if
	// there is none. If the clock was set back, an older row may have a later time.
	AuditAt(ctx context.Context, at time.Time) (int64, error)
}

// WebhookWriter is the part of a [Tx] that changes webhooks.
type WebhookWriter interface {
	// ReplayWebhook tells the node that delivers a webhook to try again now, and to continue after
	// a row of the audit log unless after is [ReplayHere]. It returns ErrNotFound if the webhook
	// does not exist.
	ReplayWebhook(id string, after int64) error
}

// ReplayHere stands for the present position of a webhook.
const ReplayHere = -1

// A Webhook is the progress of one webhook through the audit log.
type Webhook struct {
	ID       string
	Beat     int64     // number of changes of the row, 1 or more once it is stored
	Holder   string    // the incarnation of the node that delivers it; empty for none
	Position int64     // Seq of the last row of the audit log that is delivered or filtered out
	Replay   *int64    // the argument of a ReplayWebhook since the last SaveWebhooks
	SavedAt  time.Time // of the last SaveWebhooks
	WebhookState
}

// TakeReplay applies and clears Replay. It reports whether there was one.
func (w *Webhook) TakeReplay() bool {
	if w.Replay == nil {
		return false
	}
	if *w.Replay != ReplayHere {
		w.Position, w.Hash = *w.Replay, ""
	}
	w.Replay, w.StoppedAt, w.Attempts, w.RetryAt = nil, time.Time{}, 0, time.Time{}
	return true
}

// A WebhookState has the details that the delivering node stores about a webhook, for people and
// for the next node.
type WebhookState struct {
	URL        string            `json:"url"` // without secrets
	Events     []string          `json:"events,omitempty"`
	Namespaces []string          `json:"namespaces,omitempty"`
	StoppedAt  time.Time         `json:"stopped_at,omitzero"`  // when the receiver answered 410
	Hash       string            `json:"hash,omitempty"`       // of the row at Position, if known
	Attempts   int               `json:"attempts,omitempty"`   // failed ones of the next event
	RetryAt    time.Time         `json:"retry_at,omitzero"`    // of the next event
	Deliveries []WebhookDelivery `json:"deliveries,omitempty"` // attempts, the latest first
}

// A WebhookDelivery is one attempt to deliver an event.
type WebhookDelivery struct {
	Event  string        `json:"event"` // id
	Type   string        `json:"type"`
	At     time.Time     `json:"at"`
	Status int           `json:"status,omitempty"` // of the answer; zero for none
	Took   time.Duration `json:"took"`
	Error  string        `json:"error,omitempty"` // empty if the event was delivered
}
