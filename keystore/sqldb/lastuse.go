package sqldb

import (
	"context"
	"maps"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// RecordUse implements [keystore.Database].
func (d *DB) RecordUse(ctx context.Context, uses map[string]keystore.LastUse) error {
	const batch = 1000 // a revoke waits for one batch at most
	// Sorted, so that two processes that record the same keys cannot deadlock.
	ids := slices.Sorted(maps.Keys(uses))
	for part := range slices.Chunk(ids, batch) {
		if err := d.inBackground(ctx, d.uses, func(t *tx) error {
			return t.recordUse(part, uses)
		}); err != nil {
			return d.fail(ctx, "recording last uses", err)
		}
	}
	return nil
}

// recordUse stores the last uses of some keys. An address belongs to the use at its time: a use
// without one hides the former address, and nodes of a release without addresses do too.
func (t *tx) recordUse(ids []string, uses map[string]keystore.LastUse) error {
	times := make([][2]any, 0, len(ids)) // id and microseconds
	var addresses [][3]any               // id, microseconds and address
	for _, id := range ids {
		stored, use := t.db.text(id), uses[id]
		times = append(times, [2]any{stored, use.At.UnixMicro()})
		if use.From.IsValid() {
			addresses = append(addresses, [3]any{stored, use.At.UnixMicro(), use.From.String()})
		}
	}
	array, err := fromJSON(times)
	if err != nil {
		return err
	}
	id, at, from := item(0, "text"), item(1, "bigint"), item(2, "text")
	// It locks the keys. Otherwise a key could be deleted meanwhile, and its last use would remain.
	known := " FROM " + t.db.items + " r CROSS JOIN keys k WHERE k.id = " + id
	if _, err := t.exec("INSERT INTO last_uses (key_id, used_at) SELECT k.id, "+at+known+
		t.db.unforced+" ORDER BY k.id"+t.db.lockKeys+" ON CONFLICT (key_id) DO UPDATE SET "+
		"used_at = excluded.used_at WHERE excluded.used_at > last_uses.used_at",
		array); err != nil || len(addresses) == 0 {
		return err
	}
	if array, err = fromJSON(addresses); err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO last_addresses (key_id, used_at, address) SELECT k.id, "+at+", "+
		from+known+" ORDER BY k.id"+t.db.lockKeys+" ON CONFLICT (key_id) DO UPDATE SET "+
		"used_at = excluded.used_at, address = excluded.address "+
		"WHERE excluded.used_at > last_addresses.used_at", array)
	return err
}
