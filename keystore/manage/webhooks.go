package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A WebhookStatus is a webhook as the database shows it.
type WebhookStatus struct {
	keystore.Webhook
	// Backlog is the number of rows of the audit log that the webhook has not processed.
	Backlog int64
	Node    string // address of the node that delivers it; empty for none
}

// ListWebhooks returns the webhooks of the deployment, ordered by id. It requires
// `admin.webhooks:read` in all namespaces.
func (k *Keystore) ListWebhooks(ctx context.Context, c Caller) ([]WebhookStatus, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireEverywhere(adminWebhooks, "read"); err != nil {
		return nil, err
	}
	return k.webhooks(ctx, "")
}

// webhooks returns the webhook with an id or, for the empty id, all.
func (k *Keystore) webhooks(ctx context.Context, id string) ([]WebhookStatus, error) {
	list, err := k.backlogs(ctx, id)
	if err != nil {
		return nil, err
	}
	nodes, err := k.Database().Nodes(ctx)
	if err != nil {
		return nil, k.StoreFailed("reading the nodes", err)
	}
	for i := range list {
		for _, n := range nodes {
			if n.Incarnation == list[i].Holder {
				list[i].Node = n.Address
			}
		}
	}
	return list, nil
}

// backlogs is webhooks without the nodes.
func (k *Keystore) backlogs(ctx context.Context, id string) ([]WebhookStatus, error) {
	hooks, err := k.Database().Webhooks(ctx, id)
	if err != nil {
		return nil, k.StoreFailed("reading webhooks", err)
	}
	newest, err := k.NewestAudit(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]WebhookStatus, len(hooks))
	for i, hook := range hooks {
		hook.TakeReplay()
		list[i] = WebhookStatus{Webhook: hook, Backlog: max(0, newest-hook.Position)}
	}
	return list, nil
}

// NewestAudit returns the Seq of the newest row of the audit log, or zero for an empty log.
func (k *Keystore) NewestAudit(ctx context.Context) (int64, error) {
	rows, _, err := k.Database().Audits(ctx, keystore.AuditFilter{}, "", 1)
	if err != nil {
		return 0, k.StoreFailed("reading the audit log", err)
	}
	if len(rows) == 0 {
		return 0, nil
	}
	return rows[0].Seq, nil
}

// WebhookBacklogs returns the Backlog of each webhook, by id.
func (k *Keystore) WebhookBacklogs(ctx context.Context) (map[string]int64, error) {
	list, err := k.backlogs(ctx, "")
	backlogs := make(map[string]int64, len(list))
	for i := range list {
		backlogs[list[i].ID] = list[i].Backlog
	}
	return backlogs, err
}

// A ReplayFrom says where a webhook continues: with the first event at or after a time, with one
// event, or, if it is the zero value, where it is now. At most one field is set.
type ReplayFrom struct {
	At    time.Time
	Event string // id
}

// ReplayWebhook makes a webhook deliver the events from a point on, again if it has delivered them
// before. It also restarts a webhook that has stopped, and ends the wait for the next attempt. It
// requires `admin.webhooks:replay` in all namespaces.
func (k *Keystore) ReplayWebhook(
	ctx context.Context, c Caller, id string, from ReplayFrom,
) (*WebhookStatus, error) {
	after, err := k.replayAfter(ctx, c, from)
	if err != nil {
		return nil, err
	}
	return k.signalWebhook(ctx, c, "webhook.replay", id, after)
}

// replayAfter returns the Seq of the row after which a replay begins.
func (k *Keystore) replayAfter(ctx context.Context, c Caller, from ReplayFrom) (int64, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := auth.requireEverywhere(adminWebhooks, "replay"); err != nil {
		return 0, err
	}
	var wrong fieldErrors
	switch {
	case from.Event != "":
		seq, ok := keystore.ParseEventID(from.Event)
		if ok {
			rows, err := k.Database().AuditChain(ctx, seq-1, 1)
			if err != nil {
				return 0, k.StoreFailed("reading the audit log", err)
			}
			ok = len(rows) > 0 && rows[0].EventID() == from.Event
		}
		if !ok {
			wrong.add("from", "must be a time such as 2026-01-31T12:00:00Z, or the id of an event "+
				"in the audit log")
			return 0, wrong.err()
		}
		return seq - 1, nil
	case !from.At.IsZero():
		seq, err := k.Database().AuditAt(ctx, from.At)
		if err != nil {
			return 0, k.StoreFailed("reading the audit log", err)
		}
		if seq == 0 {
			wrong.add("from", "must not be later than the latest event")
			return 0, wrong.err()
		}
		return seq - 1, nil
	}
	return keystore.ReplayHere, nil
}

// TestWebhook adds an event for one webhook to the audit log. The webhook receives it whatever its
// filters are. TestWebhook also ends the webhook's wait for the next attempt. It requires
// `admin.webhooks:replay` in all namespaces.
func (k *Keystore) TestWebhook(ctx context.Context, c Caller, id string) (*WebhookStatus, error) {
	return k.signalWebhook(ctx, c, keystore.WebhookTest, id, keystore.ReplayHere)
}

func (k *Keystore) signalWebhook(
	ctx context.Context, c Caller, action, id string, after int64,
) (*WebhookStatus, error) {
	_, err := k.commit(ctx, c, func(tx keystore.Tx, auth authority) error {
		if err := auth.requireEverywhere(adminWebhooks, "replay"); err != nil {
			return err
		}
		if err := tx.ReplayWebhook(id, after); isNotFound(err) {
			return notFound("webhook")
		} else if err != nil {
			return err
		}
		var what auditedReplay
		if after != keystore.ReplayHere {
			what.After = &after
		}
		return audit(tx, auth, action, id, nil, nil, what)
	})
	if err != nil {
		return nil, err
	}
	list, err := k.webhooks(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 { // deleted meanwhile
		return nil, notFound("webhook")
	}
	return &list[0], nil
}

// auditedReplay is the position that a webhook was moved to.
type auditedReplay struct {
	After *int64 `json:"after,omitempty"` // nil for its present position
}
