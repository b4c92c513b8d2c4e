package api

import (
	"encoding/json"
	"time"
)

// A Webhook is a receiver of events, with its position in the audit log. The first node that has it
// in its configuration adds it.
type Webhook struct {
	ID         string            `json:"id" doc:"Derived from the URL in the configuration"`
	URL        string            `json:"url" doc:"As in the configuration: placeholders are not replaced" example:"https://hooks.example.com/keys"`
	Events     []string          `json:"events" nullable:"false" doc:"The types that it receives, with * as a wildcard; empty: all" example:"[\"key.*\"]"`
	Namespaces []string          `json:"namespaces" nullable:"false" doc:"It receives only events of objects in these namespaces; empty: all"`
	State      string            `json:"state" enum:"active,retrying,stopped,waiting" doc:"retrying: the next event has failed and is tried again at retry_at. stopped: the receiver has answered 410. waiting: no node delivers it at the moment"`
	Node       *string           `json:"node" doc:"The node that delivers it; null: none"`
	Position   int64             `json:"position" doc:"The seq of the last row of the audit log that is delivered or filtered out"`
	Backlog    int64             `json:"backlog" doc:"The number of rows of the audit log after the position"`
	Attempts   int               `json:"attempts" doc:"How often the next event has failed"`
	RetryAt    *time.Time        `json:"retry_at"`
	StoppedAt  *time.Time        `json:"stopped_at"`
	LastError  *string           `json:"last_error" doc:"Why the latest delivery failed; null if it succeeded"`
	Deliveries []WebhookDelivery `json:"deliveries" nullable:"false" doc:"The latest attempts, newest first, at most 20"`
	UpdatedAt  time.Time         `json:"updated_at" doc:"When a node last stored this state, by the clock of the database"`
}

// A WebhookDelivery is one attempt to deliver an event.
type WebhookDelivery struct {
	Event      string    `json:"event" doc:"The id of the event: the header webhook-id"`
	Type       string    `json:"type" example:"key.revoked"`
	At         time.Time `json:"at"`
	Status     *int      `json:"status" doc:"The status of the answer; null: there was none"`
	DurationMS int64     `json:"duration_ms"`
	Error      *string   `json:"error" doc:"null: the event was delivered"`
}

// Webhooks is the list of all webhooks, on one page.
type Webhooks = Page[Webhook]

// A ReplayRequest says where a webhook continues.
type ReplayRequest struct {
	From string `json:"from,omitempty" doc:"A time (RFC 3339), for all events from then on, or the id of the first event. Default: try the next event again now" example:"2026-01-31T12:00:00Z"`
}

// An Event is the body of a webhook, as the Standard Webhooks specification describes it.
type Event struct {
	Type      string                     `json:"type"`
	Timestamp time.Time                  `json:"timestamp"` // of the change
	Data      map[string]json.RawMessage `json:"data"`
}

// An EventActor is the member or key that made the change of an [Event].
type EventActor struct {
	ID      string `json:"id"`
	Name    string `json:"name"` // empty for a person who acts for groups and a deleted actor
	Address string `json:"address"`
}
