package sqldb

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// maxInserts is the largest number of rows that are inserted one by one instead of by COPY.
	maxInserts = 10
	// maxNamed is the largest number of secrets of one statement that the change log names. More
	// secrets are one change. The triggers of PostgreSQL contain the same number.
	maxNamed = 100
	// analyzeFrom is the number of copied rows after which this process analyzes the tables,
	// because the query plans are outdated then.
	analyzeFrom = 10_000
)

// keyColumnNames are in the order of keyValues.
var (
	keyColumnNames = []string{"prefix", "name", "namespace", "grants", "owner", "personal",
		"created_by", "active", "created_at", "expires_at",
		"revoked_at", "revoked_by", "revoke_reason", "allowed_ips", "metadata", "version", "id"}
	updateKey = "UPDATE keys SET " +
		strings.Join(keyColumnNames[:len(keyColumnNames)-1], " = ?, ") + " = ? WHERE id = ?"
)

func keyValues(k *keystore.Key) ([]any, error) {
	grants, err := fromGrants(k.Grants)
	if err != nil {
		return nil, err
	}
	allowed, err := fromList(k.AllowedIPs)
	if err != nil {
		return nil, err
	}
	metadata, err := fromMap(k.Metadata)
	if err != nil {
		return nil, err
	}
	return []any{k.Prefix, k.Name, k.Namespace, grants, k.Owner, fromBool(k.Personal), k.CreatedBy,
		fromBool(k.Active), k.CreatedAt.UnixMicro(),
		fromTime(k.ExpiresAt), fromTime(k.RevokedAt), k.RevokedBy, k.RevokeReason, allowed,
		metadata, k.Version, k.ID}, nil
}

// limitColumnNames are in the order of limitValues.
var limitColumnNames = []string{"key_id", "namespace", "rate_limit", "quota", "plan"}

func limitValues(k *keystore.Key) ([]any, error) {
	rate, quota, err := fromLimits(k.Limits)
	return []any{k.ID, k.Namespace, rate, quota, k.Plan}, err
}

func (t *tx) InsertKeys(keys []*keystore.Key) (refused map[int]error, err error) {
	return t.insertKeys(keys, nil)
}

// insertKeys adds keys. Keys of an import are not valid until the import is published.
func (t *tx) insertKeys(keys []*keystore.Key, importID any) (refused map[int]error, err error) {
	if refused, err = t.db.refused(t.replanned, keys); err != nil {
		return nil, t.note(err)
	}
	rows := make([][]any, 0, len(keys))
	var limits [][]any
	secrets, deriving := make([][]any, 0, len(keys)), make([][]any, 0, len(keys))
	for i, k := range keys {
		if refused[i] != nil {
			continue
		}
		row, err := keyValues(k)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
		if k.KeyLimits != (keystore.KeyLimits{}) {
			if row, err = limitValues(k); err != nil {
				return nil, err
			}
			limits = append(limits, row)
		}
		for _, s := range k.Secrets {
			secrets = append(secrets, secretValues(k, s, importID))
			if s.Deriving != (keystore.DerivingKey{}) {
				deriving = append(deriving, derivingValues(s.Digest, s.Deriving))
			}
		}
	}
	if err := t.insertRows("keys", keyColumnNames, rows); err != nil {
		return nil, err
	}
	if err := t.insertRows("key_limits", limitColumnNames, limits); err != nil {
		return nil, err
	}
	if err := t.insertRows("deriving_keys", derivingColumnNames, deriving); err != nil {
		return nil, err
	}
	if importID != nil { // the change log names them when the import is published
		return refused, t.insertRows("secrets", secretColumnNames, secrets)
	}
	return refused, t.insertSecrets(secrets)
}

// RefusedKeys implements [keystore.Database].
func (d *DB) RefusedKeys(ctx context.Context, keys []*keystore.Key) (map[int]error, error) {
	refused, err := d.refused(d.read(ctx), keys)
	return refused, d.fail(ctx, "searching for existing keys", err)
}

// refused returns the keys that InsertKeys would refuse, as errors by index.
func (d *DB) refused(q querier, keys []*keystore.Key) (map[int]error, error) {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = d.text(k.ID)
	}
	taken := make(map[string]bool, len(keys))
	var id string
	if err := d.each(q, "SELECT id FROM keys WHERE id "+d.among+" AND "+d.current, ids, &id,
		func() { taken[id] = true }); err != nil {
		return nil, err
	}
	spent, err := d.spent(q, keys...)
	if err != nil {
		return nil, err
	}
	refused := make(map[int]error)
	for i, k := range keys {
		switch {
		case taken[ids[i]]:
			refused[i] = keystore.ErrExists
		case !spend(spent, k.Secrets):
			refused[i] = keystore.ErrSpent
		default:
			taken[ids[i]] = true
		}
	}
	return refused, nil
}

// spent returns the digests of the keys that have ever been stored.
func (d *DB) spent(q querier, keys ...*keystore.Key) (map[keystore.Digest]bool, error) {
	digests := make([]string, 0, len(keys))
	for _, k := range keys {
		for _, s := range k.Secrets {
			digests = append(digests, hex.EncodeToString(s.Digest[:]))
		}
	}
	spent := make(map[keystore.Digest]bool, len(digests))
	var digest keystore.Digest
	return spent, d.each(q, "SELECT digest FROM secrets WHERE digest "+d.amongHex, digests,
		digestTo{&digest}, func() { spent[digest] = true })
}

// spend adds the digests of one key to spent. If one of them is spent already or a duplicate, it
// adds none and returns false.
func spend(spent map[keystore.Digest]bool, secrets []keystore.Secret) bool {
	for i, s := range secrets {
		twice := slices.ContainsFunc(secrets[:i],
			func(before keystore.Secret) bool { return before.Digest == s.Digest })
		if twice || spent[s.Digest] {
			return false
		}
	}
	for _, s := range secrets {
		spent[s.Digest] = true
	}
	return true
}

// each runs a query for one column, with a list as a JSON array for its argument. It scans each row
// into a variable and calls f.
func (d *DB) each(q querier, query string, list []string, into any, f func()) error {
	if len(list) == 0 {
		return nil
	}
	array, err := fromJSON(list)
	if err != nil {
		return err
	}
	rows, err := q(query, array)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(into); err != nil {
			return err
		}
		f()
	}
	return rows.Err()
}

// secretColumnNames are in the order of secretValues.
var secretColumnNames = []string{"digest", "key_id", "created_at", "ends_at", "imported",
	"import_id"}

func secretValues(k *keystore.Key, s keystore.Secret, importID any) []any {
	return []any{s.Digest[:], k.ID, s.CreatedAt.UnixMicro(), fromTime(s.ExpiresAt),
		fromBool(s.Imported), importID}
}

// insertSecrets adds rows of secrets. More than maxNamed rows are one change.
func (t *tx) insertSecrets(rows [][]any) error {
	many := t.db.beginMany != "" && len(rows) > maxNamed
	if many {
		t.many = true
		if _, err := t.exec(t.db.beginMany); err != nil {
			return err
		}
	}
	if err := t.insertRows("secrets", secretColumnNames, rows); err != nil {
		return err
	}
	if many {
		_, err := t.exec(t.db.endMany)
		return err
	}
	return nil
}

func (t *tx) AppendAudit(list []*keystore.AuditRow) error {
	var last int64
	if err := t.row("SELECT coalesce(max(seq), 0) FROM audit").Scan(&last); err != nil {
		return err
	}
	rows := make([][]any, len(list))
	for i, a := range list {
		if a.Seq != last+1 {
			return fmt.Errorf("audit row %d does not follow row %d", a.Seq, last)
		}
		last = a.Seq
		namespaces, err := fromJSON(a.Namespaces)
		if err != nil {
			return err
		}
		rows[i] = []any{a.Seq, a.At.UnixMicro(), a.Actor, a.From, a.Action, a.Object, namespaces,
			a.Before, a.After, a.Hash[:]}
	}
	return t.insertRows("audit", strings.Split(auditColumns, ", "), rows)
}

// insertRows adds rows to a table. For many rows it uses dialect.copyRows, if there is one.
func (t *tx) insertRows(table string, columns []string, rows [][]any) error {
	if t.db.copyRows != nil && len(rows) > maxInserts {
		if t.failed != nil {
			return t.failed
		}
		for _, row := range rows {
			t.db.texts(row)
		}
		t.db.copied.Add(int64(len(rows)))
		return t.note(t.conn.Raw(func(driverConn any) error {
			return t.db.copyRows(t.ctx, driverConn, table, columns, rows)
		}))
	}
	insert := "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES (?" +
		strings.Repeat(", ?", len(columns)-1) + ")"
	for _, row := range rows {
		if _, err := t.exec(insert, row...); err != nil {
			return err
		}
	}
	return nil
}
