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

// SaveWebhook implements [keystore.Database].
func (d *DB) SaveWebhook(ctx context.Context, w *keystore.Webhook) error {
	state, err := fromJSON(w.WebhookState)
	if err != nil {
		return err
	}
	statement, conflict := "INSERT INTO webhooks (beat, holder, position, state, saved_at, id) "+
		"VALUES (1, ?, ?, ?, "+d.clock+", ?) ON CONFLICT DO NOTHING", keystore.ErrExists
	args := []any{w.Holder, w.Position, state, d.clockArg(), w.ID}
	if w.Beat != 0 {
		statement, conflict = "UPDATE webhooks SET beat = beat + 1, holder = ?, position = ?, "+
			"replay = NULL, state = ?, saved_at = "+d.clock+" WHERE id = ? AND beat = ?"+d.unforced,
			keystore.ErrNotFound
		args = append(args, w.Beat)
	}
	n, err := d.affect(ctx, d.uses, "saving the progress of a webhook", statement, args...)
	if err == nil && n == 0 {
		return conflict
	}
	return err
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
