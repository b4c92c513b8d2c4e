package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Webhooks implements [keystore.Database].
func (d *DB) Webhooks(ctx context.Context, id string) ([]keystore.Webhook, error) {
	where := clause{sql: d.current}
	if id != "" {
		where = where.and(clause{"id = ?", []any{id}})
	}
	found, err := list(d.read(ctx), scanWebhook, "SELECT id, beat, holder, position, replay, "+
		"saved_at, state FROM webhooks WHERE "+where.sql+" ORDER BY id", where.args...)
	return found, d.fail(ctx, "reading webhooks", err)
}

func scanWebhook(scan func(...any) error) (w keystore.Webhook, err error) {
	var replay sql.NullInt64
	var state string
	if err := scan(&w.ID, &w.Beat, &w.Holder, &w.Position, &replay, timeTo{&w.SavedAt},
		&state); err != nil {
		return w, err
	}
	if replay.Valid {
		w.Replay = &replay.Int64
	}
	return w, json.Unmarshal([]byte(state), &w.WebhookState)
}

// SaveWebhooks implements [keystore.Database].
func (d *DB) SaveWebhooks(
	ctx context.Context, webhooks []keystore.Webhook,
) (saved []string, err error) {
	rows := make([][]any, len(webhooks))
	for i := range webhooks {
		w := &webhooks[i]
		state, err := fromJSON(w.WebhookState)
		if err != nil {
			return nil, err
		}
		rows[i] = []any{w.ID, w.Beat, w.Holder, w.Position, state, w.Hash}
	}
	object, err := fromJSON(rows)
	if err != nil {
		return nil, err
	}
	id, beat, position := item(0, "text"), item(1, "bigint"), item(3, "bigint")
	hash, stored := item(5, "text"), "SELECT 1 FROM webhooks w WHERE w.id = "+id
	// Ordered, so that two processes that save the same webhooks cannot deadlock.
	err = d.inBackground(ctx, d.uses, func(t *tx) (err error) {
		saved, err = list(t.query, scanText, "INSERT INTO webhooks (id, beat, holder, position, "+
			"state, saved_at) SELECT "+id+", "+beat+" + 1, "+item(2, "text")+", "+position+", "+
			item(4, "text")+", ? FROM "+d.items+" r WHERE ("+beat+" = 0 OR EXISTS ("+stored+
			")) AND ("+hash+" = '' OR EXISTS ("+stored+" AND w.position = "+position+
			") OR EXISTS (SELECT 1 FROM audit a WHERE a.seq = "+position+" AND a.hash = "+
			d.fromHex(hash)+"))"+d.unforced+" ORDER BY "+id+" ON CONFLICT (id) DO UPDATE SET "+
			"beat = excluded.beat, holder = excluded.holder, position = excluded.position, replay "+
			"= NULL, state = excluded.state, saved_at = excluded.saved_at WHERE webhooks.beat = "+
			"excluded.beat - 1 RETURNING id", t.now.UnixMicro(), object)
		return t.note(err)
	})
	return saved, d.fail(ctx, "saving the progress of webhooks", err)
}

// ForgetWebhook implements [keystore.Database].
func (d *DB) ForgetWebhook(ctx context.Context, id string, beat int64) error {
	return d.exec(ctx, d.uses, "deleting an unused webhook",
		"DELETE FROM webhooks WHERE id = ? AND beat = ?"+d.unforced, id, beat)
}

// AuditAt implements [keystore.Database].
func (d *DB) AuditAt(ctx context.Context, at time.Time) (int64, error) {
	found, err := list(d.read(ctx), func(scan func(...any) error) (seq int64, err error) {
		return seq, scan(&seq)
	}, "SELECT seq FROM audit WHERE at >= ? AND "+d.current+" ORDER BY at, seq LIMIT 1",
		at.UnixMicro())
	if err != nil || len(found) == 0 {
		return 0, d.fail(ctx, readingAudit, err)
	}
	return found[0], nil
}

func (t *tx) ReplayWebhook(id string, after int64) error {
	return found(t.exec("UPDATE webhooks SET beat = beat + 1, replay = ? WHERE id = ?", after, id))
}
