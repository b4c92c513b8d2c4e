package sqldb

import (
	"encoding/hex"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (t *tx) BeginImport(node, caller string) (id int64, err error) {
	err = t.row("INSERT INTO imports (node, caller, at, beat_at) VALUES (?, ?, ?, ?) RETURNING id",
		node, caller, t.now.UnixMicro(), t.now.UnixMicro()).Scan(&id)
	return id, err
}

func (t *tx) StageKeys(id int64, keys []*keystore.Key) (refused map[int]error, err error) {
	if err := found(t.exec("UPDATE imports SET beat_at = ? WHERE id = ? AND abandoned = 0",
		t.now.UnixMicro(), id)); err != nil {
		return nil, err
	}
	return t.insertKeys(keys, id)
}

func (t *tx) PublishImport(id int64) error {
	return found(t.exec("DELETE FROM imports WHERE id = ? AND abandoned = 0", id))
}

func (t *tx) AbandonImports(id int64, idle time.Time) error {
	_, err := t.exec(`UPDATE imports SET abandoned = 1 WHERE abandoned = 0
		AND (id = ? OR beat_at < ?
			OR NOT EXISTS (SELECT 1 FROM nodes n WHERE n.incarnation = imports.node))`,
		id, idle.UnixMicro())
	return err
}

// abandonedKeys selects the keys of abandoned imports, unless they were changed. It finds them by
// the caller and the time of their import, because secrets have no index of the import.
const abandonedKeys = ` FROM imports i
	JOIN keys k ON k.created_by = i.caller AND k.created_at = i.at
	JOIN secrets s ON s.key_id = k.id AND s.dropped = 0 AND s.import_id = i.id
	WHERE i.abandoned = 1 AND k.version = 1 AND k.revoked_at IS NULL`

// RemoveAbandoned removes the keys first, so that the change log names their secrets.
func (t *tx) RemoveAbandoned(limit int) ([]keystore.Key, error) {
	ids, err := list(t.query, scanText, "SELECT k.id"+abandonedKeys+" LIMIT ?", limit)
	if err != nil || len(ids) == 0 {
		return nil, t.note(err)
	}
	keys, err := t.Keys(ids)
	if err != nil {
		return nil, err
	}
	array, err := t.db.array(ids)
	if err != nil {
		return nil, err
	}
	digests, err := list(t.query, scanDigest, `SELECT s.digest FROM secrets s
		JOIN imports i ON i.id = s.import_id AND i.abandoned = 1
		WHERE s.dropped = 0 AND s.key_id `+t.db.among, array)
	if err != nil {
		return nil, t.note(err)
	}
	if _, err := t.exec("DELETE FROM keys WHERE id "+t.db.among, array); err != nil {
		return nil, err
	}
	if array, err = fromJSON(digests); err != nil {
		return nil, err
	}
	_, err = t.exec("DELETE FROM secrets WHERE digest "+t.db.amongHex, array)
	return keys, err
}

func (t *tx) ChangedAbandoned(limit int) ([]string, error) {
	ids, err := list(t.query, scanText, `SELECT DISTINCT k.id FROM imports i
		JOIN keys k ON k.created_by = i.caller AND k.created_at = i.at
		JOIN secrets s ON s.key_id = k.id AND s.import_id = i.id
		WHERE i.abandoned = 1 AND k.version > 1 AND k.revoked_at IS NULL LIMIT ?`, limit)
	if err != nil || len(ids) > 0 {
		return ids, t.note(err)
	}
	_, err = t.exec("DELETE FROM imports WHERE abandoned = 1 AND id NOT IN (SELECT i.id" +
		abandonedKeys + ")")
	return nil, err
}

// scanDigest reads a digest and returns it in hexadecimal.
func scanDigest(scan func(...any) error) (string, error) {
	var d keystore.Digest
	err := scan(digestTo{&d})
	return hex.EncodeToString(d[:]), err
}
