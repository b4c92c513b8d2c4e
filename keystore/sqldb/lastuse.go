package sqldb

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// RecordUse implements [keystore.Database].
func (d *DB) RecordUse(ctx context.Context, uses map[string]keystore.LastUse) error {
	err := inBatches(ctx, d, uses, strings.Compare, (*tx).recordUse)
	return d.fail(ctx, "recording last uses", err)
}

// inBatches calls write for a part of rows at a time, each in a transaction of its own, and deletes
// the committed entries from rows.
func inBatches[K comparable, V any](
	ctx context.Context, d *DB, rows map[K]V, compare func(a, b K) int,
	write func(t *tx, part []K, rows map[K]V) error,
) error {
	const batch = 1000 // a revoke waits for one batch at most
	// Sorted, so that two processes that record the same rows cannot deadlock.
	for part := range slices.Chunk(slices.SortedFunc(maps.Keys(rows), compare), batch) {
		if err := d.inBackground(ctx, d.uses, func(t *tx) error {
			return write(t, part, rows)
		}); err != nil {
			return err
		}
		for _, k := range part {
			delete(rows, k)
		}
	}
	return nil
}

// recordUse stores the last uses of some keys. A stored address counts only for the use with the
// same time. So a later use without an address hides it, even one that a node of a release without
// addresses has recorded.
func (t *tx) recordUse(ids []string, uses map[string]keystore.LastUse) error {
	times := make([][2]any, 0, len(ids)) // id and microseconds
	var addresses [][3]any               // id, microseconds and address
	var derived [][3]any                 // id, microseconds and note
	for _, id := range ids {
		stored, use := t.db.text(id), uses[id]
		times = append(times, [2]any{stored, use.At.UnixMicro()})
		if use.From.IsValid() {
			addresses = append(addresses, [3]any{stored, use.At.UnixMicro(), use.From.String()})
		}
		if last := use.Derived; !last.At.IsZero() {
			derived = append(derived, [3]any{stored, last.At.UnixMicro(), t.db.text(last.Note)})
		}
	}
	array, err := fromJSON(times)
	if err != nil {
		return err
	}
	id, at := item(0, "text"), item(1, "bigint")
	// The query locks the keys. Otherwise a key could be deleted meanwhile, and its last use would
	// remain.
	known := " FROM " + t.db.items + " r CROSS JOIN keys k WHERE k.id = " + id
	if _, err := t.exec("INSERT INTO last_uses (key_id, used_at) SELECT k.id, "+at+known+
		t.db.unforced+" ORDER BY k.id"+t.db.lockKeys+" ON CONFLICT (key_id) DO UPDATE SET "+
		"used_at = excluded.used_at WHERE excluded.used_at > last_uses.used_at",
		array); err != nil {
		return err
	}
	// store stores texts with their times in a table, if they are later than those in it.
	store := func(table, column string, rows [][3]any) error {
		if len(rows) == 0 {
			return nil
		}
		array, err := fromJSON(rows)
		if err != nil {
			return err
		}
		_, err = t.exec("INSERT INTO "+table+" (key_id, used_at, "+column+") SELECT k.id, "+at+
			", "+item(2, "text")+known+" ORDER BY k.id"+t.db.lockKeys+" ON CONFLICT (key_id) DO "+
			"UPDATE SET used_at = excluded.used_at, "+column+" = excluded."+column+
			" WHERE excluded.used_at > "+table+".used_at", array)
		return err
	}
	if err := store("last_addresses", "address", addresses); err != nil {
		return err
	}
	return store("last_derived", "note", derived)
}
