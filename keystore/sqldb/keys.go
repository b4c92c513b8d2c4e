package sqldb

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// keyColumns with keyJoins after a FROM that ends in keys k give one row for each secret that is not dropped; one row
// when there is none.
const (
	keyColumns = `k.id, k.prefix, k.name, k.namespace, k.grants, k.owner, k.personal, k.created_by, k.active, k.created_at,
		k.expires_at, k.revoked_at, k.revoked_by, k.revoke_reason, k.allowed_ips, k.metadata, k.version,
		u.used_at, s.digest, s.created_at, s.ends_at, s.imported`
	keyJoins = ` LEFT JOIN last_uses u ON u.key_id = k.id
		LEFT JOIN secrets s ON s.key_id = k.id AND s.dropped = 0`

	byDigestQuery = `SELECT h.revision, ` + keyColumns + ` FROM head h
		LEFT JOIN secrets d ON d.digest = ? AND d.dropped = 0
		LEFT JOIN keys k ON k.id = d.key_id` + keyJoins
	byIDQuery = `SELECT ` + keyColumns + ` FROM keys k` + keyJoins + ` WHERE k.id = ?`
)

// scanKeys gathers the rows of a query for keyColumns, with head before them if that is not nil.
func scanKeys(rows *sql.Rows, err error, head *keystore.Revision) ([]keystore.Key, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []keystore.Key
	var (
		id, prefix, name, namespace, grants, owner, createdBy string
		revokedBy, reason, allowed, metadata                  string
		personal, active, imported                            sql.NullBool
		version                                               sql.NullInt64
		created, expires, revoked, used                       time.Time
		secret                                                keystore.Secret
	)
	into := []any{textTo{&id}, textTo{&prefix}, textTo{&name}, textTo{&namespace}, textTo{&grants}, textTo{&owner},
		&personal, textTo{&createdBy}, &active, timeTo{&created}, timeTo{&expires}, timeTo{&revoked}, textTo{&revokedBy},
		textTo{&reason}, textTo{&allowed}, textTo{&metadata}, &version, timeTo{&used},
		digestTo{&secret.Digest}, timeTo{&secret.CreatedAt}, timeTo{&secret.ExpiresAt}, &imported}
	if head != nil {
		into = append([]any{head}, into...)
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		if id == "" {
			continue // only the head
		}
		if len(out) == 0 || out[len(out)-1].ID != id {
			k := keystore.Key{ID: id, Prefix: prefix, Name: name, Namespace: namespace, Owner: owner, Personal: personal.Bool, CreatedBy: createdBy,
				Active: active.Bool, CreatedAt: created, ExpiresAt: expires, RevokedAt: revoked, RevokedBy: revokedBy,
				RevokeReason: reason, LastUsedAt: used, Version: version.Int64}
			if err := readJSON(&k, grants, allowed, metadata); err != nil {
				return nil, unreadable("key "+id, err)
			}
			out = append(out, k)
		}
		if !secret.Digest.IsZero() {
			secret.Imported = imported.Bool
			k := &out[len(out)-1]
			k.Secrets = append(k.Secrets, secret)
		}
	}
	for i := range out {
		slices.SortFunc(out[i].Secrets, func(a, b keystore.Secret) int {
			return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), bytes.Compare(a.Digest[:], b.Digest[:]))
		})
	}
	return out, rows.Err()
}

func readJSON(k *keystore.Key, grants, allowed, metadata string) (err error) {
	if k.Grants, err = toGrants(grants); err != nil {
		return err
	}
	if allowed != "[]" {
		if err := json.Unmarshal([]byte(allowed), &k.AllowedIPs); err != nil {
			return err
		}
	}
	if metadata != "{}" {
		return json.Unmarshal([]byte(metadata), &k.Metadata)
	}
	return nil
}

func one(keys []keystore.Key, err error) (*keystore.Key, error) {
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, keystore.ErrNotFound
	}
	return &keys[0], nil
}

// KeyByDigest implements [keystore.Database].
func (d *DB) KeyByDigest(ctx context.Context, digest keystore.Digest) (*keystore.Key, keystore.Revision, error) {
	var head keystore.Revision
	var rows *sql.Rows
	err := d.retryLost(ctx, func() (err error) {
		rows, err = d.byDigest.QueryContext(ctx, digest[:])
		return err
	})
	keys, err := scanKeys(rows, err, &head)
	if err != nil {
		return nil, 0, d.fail(ctx, "looking up a key", err)
	}
	if len(keys) == 0 {
		return nil, head, nil
	}
	return &keys[0], head, nil
}

// Key implements [keystore.Database].
func (d *DB) Key(ctx context.Context, id string) (*keystore.Key, error) {
	rows, err := d.query(ctx, d.readers, byIDQuery+" AND "+d.current, id)
	keys, err := scanKeys(rows, err, nil)
	if err != nil {
		return nil, d.fail(ctx, "reading a key", err)
	}
	return one(keys, nil)
}

// maxUnion is how many namespaces are merged from as many ordered index scans; more are filtered out of one scan of all.
const maxUnion = 50

// A part of the keys that are asked for.
type part struct {
	condition string
	args      []any
}

// Keys implements [keystore.Database].
func (d *DB) Keys(ctx context.Context, f keystore.KeyFilter, cursor string, limit int) ([]keystore.Key, string, error) {
	where, args, err := d.conditions(f, cursor)
	if err != nil {
		return nil, "", err
	}
	parts, err := d.parts(f)
	if err != nil || len(parts) == 0 {
		return nil, "", err
	}
	end := "" // cursor of the last key that may be looked at
	if f.Text != "" {
		if end, err = d.horizon(ctx, parts, cursor); err != nil {
			return nil, "", d.fail(ctx, "listing keys", err)
		}
	}
	if end != "" {
		condition, position, _ := beside(">=", end)
		where, args = where+" AND "+condition, append(args, position...)
	}
	union, all := newest(parts, where, args, " LIMIT ?", limit+1)
	query := "SELECT " + keyColumns + " FROM (" + union + newestFirst + " LIMIT ?) p JOIN keys k ON k.id = p.id" + keyJoins + " ORDER BY k.created_at DESC, k.id DESC"
	rows, err := d.query(ctx, d.readers, query, append(all, limit+1)...)
	keys, err := scanKeys(rows, err, nil)
	if err != nil {
		return nil, "", d.fail(ctx, "listing keys", err)
	}
	if len(keys) <= limit {
		return keys, end, nil
	}
	last := keys[limit-1]
	return keys[:limit], cursorOf(last.CreatedAt, last.ID), nil
}

// newestFirst is the order of pages.
const newestFirst = " ORDER BY 1 DESC, 2 DESC"

// newest is the union of the positions in each part that fit. Each part has the order and a page of its own: PostgreSQL would read them whole.
func newest(parts []part, where string, args []any, page string, bound int) (query string, all []any) {
	pages := make([]string, len(parts))
	for i, p := range parts {
		pages[i] = "SELECT created_at, id FROM (SELECT k.created_at, k.id FROM keys k WHERE " + where + " AND " + p.condition + newestFirst + page + ") AS part"
		all = append(append(append(all, args...), p.args...), bound)
	}
	return strings.Join(pages, " UNION "), all
}

// lookedThrough is how many keys of a part one page may look at for a text, which no index finds.
const lookedThrough = 10_000

// horizon is the position of the last key down to which every part may be looked at; empty: of none there are more.
func (d *DB) horizon(ctx context.Context, parts []part, cursor string) (string, error) {
	after, position, err := "1 = 1", []any(nil), error(nil)
	if cursor != "" {
		if after, position, err = beside("<", cursor); err != nil {
			return "", err
		}
	}
	union, all := newest(parts, after, position, " LIMIT 1 OFFSET ?", d.lookedThrough-1)
	rows, err := d.query(ctx, d.readers, union+newestFirst+" LIMIT 1", all...)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var at time.Time
	var id string
	for rows.Next() {
		if err := rows.Scan(timeTo{&at}, &id); err != nil {
			return "", err
		}
	}
	if id == "" {
		return "", rows.Err()
	}
	return cursorOf(at, id), rows.Err()
}

// A cursor is the position of a key in the order of pages.
func cursorOf(at time.Time, id string) string {
	return strconv.FormatInt(at.UnixMicro(), 10) + "_" + id
}

// beside is the condition that a key stands so to a cursor.
func beside(relation, cursor string) (condition string, position []any, err error) {
	at, id, _ := strings.Cut(cursor, "_")
	micros, err := strconv.ParseInt(at, 10, 64)
	if err != nil || id == "" {
		return "", nil, badCursor()
	}
	return "(k.created_at, k.id) " + relation + " (?, ?)", []any{micros, id}, nil
}

// parts are by home namespaces, and by owner.
func (d *DB) parts(f keystore.KeyFilter) (parts []part, err error) {
	if f.Namespaces == nil && f.Visible == nil {
		return []part{{condition: "1 = 1"}}, nil
	}
	homes := f.Namespaces
	switch {
	case homes == nil:
		homes = f.Visible
	case f.Visible != nil:
		homes = slices.DeleteFunc(slices.Clone(homes), func(ns string) bool { return !slices.Contains(f.Visible, ns) })
	}
	homes = slices.Compact(slices.Sorted(slices.Values(homes)))
	if len(homes) <= maxUnion {
		for _, ns := range homes {
			parts = append(parts, part{"k.namespace = ?", []any{ns}})
		}
	} else {
		array, err := d.array(homes)
		if err != nil {
			return nil, err
		}
		// The || keeps SQLite from sorting what it finds by namespace.
		parts = append(parts, part{"k.namespace || '' " + d.among, []any{array}})
	}
	if f.Visible == nil || f.OrOwner == "" {
		return parts, nil
	}
	owned := part{"k.owner = ?", []any{f.OrOwner}}
	if f.Namespaces != nil {
		array, err := d.array(f.Namespaces)
		if err != nil {
			return nil, err
		}
		owned = part{owned.condition + " AND k.namespace || '' " + d.among, append(owned.args, array)}
	}
	return append(parts, owned), nil
}

// array is a list of texts for the dialect's conditions.
func (d *DB) array(texts []string) (string, error) {
	stored := make([]string, len(texts))
	for i, s := range texts {
		stored[i] = d.text(s)
	}
	return fromJSON(stored)
}

// conditions are all of a filter's but for the namespaces and who may see them.
func (d *DB) conditions(f keystore.KeyFilter, cursor string) (string, []any, error) {
	where, args := []string{d.current, "k.personal = 0"}, []any{}
	add := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	if cursor != "" {
		condition, position, err := beside("<", cursor)
		if err != nil {
			return "", nil, err
		}
		add(condition, position...)
	}
	now := f.Now.UnixMicro()
	switch f.Status {
	case keystore.StatusRevoked:
		add("k.revoked_at IS NOT NULL")
	case keystore.StatusExpired:
		add("k.revoked_at IS NULL AND k.expires_at <= ?", now)
	case keystore.StatusInactive:
		add("k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?) AND k.active = 0", now)
	case keystore.StatusActive:
		add("k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?) AND k.active = 1", now)
	case "":
	default:
		add("1 = 0")
	}
	if f.Owner != "" {
		add("k.owner = ?", f.Owner)
	}
	if f.CreatedBy != "" {
		add("k.created_by = ?", f.CreatedBy)
	}
	if f.Role != "" {
		add("EXISTS (SELECT 1 FROM held h WHERE h.key_id = k.id AND h.role = ?)", f.Role)
	}
	if f.Text != "" {
		in := func(expression string) string { return fmt.Sprintf(d.contains, expression) }
		add("("+in("k.name")+" OR "+in("k.id")+" OR "+in("k.prefix || '_' || substr(k.id, 1, 8) || '…'")+")", f.Text, f.Text, f.Text)
	}
	return strings.Join(where, " AND "), args, nil
}

func badCursor() error {
	const detail = "is not one that this server gave out: start without one"
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields", Detail: "the cursor " + detail,
		Fields: []keystore.FieldError{{Field: "cursor", Detail: detail}}}
}

// CountKeys implements [keystore.Database]. Only the keys that are not simply active are looked at one by one.
func (d *DB) CountKeys(ctx context.Context) (map[keystore.Status]int64, error) {
	var all, revoked, expired, inactive int64
	now := time.Now().UnixMicro()
	err := d.readers.QueryRowContext(ctx, d.bind(`SELECT
		(SELECT count(*) FROM keys) - (SELECT count(*) FROM keys WHERE personal = 1),
		(SELECT count(*) FROM keys WHERE revoked_at IS NOT NULL AND personal = 0),
		(SELECT count(*) FROM keys WHERE revoked_at IS NULL AND expires_at IS NOT NULL AND expires_at <= ? AND personal = 0),
		(SELECT count(*) FROM keys WHERE active = 0 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?) AND personal = 0)
		WHERE `+d.current), now, now).Scan(&all, &revoked, &expired, &inactive)
	if err != nil {
		return nil, d.fail(ctx, "counting keys", err)
	}
	return map[keystore.Status]int64{
		keystore.StatusRevoked: revoked, keystore.StatusExpired: expired, keystore.StatusInactive: inactive,
		keystore.StatusActive: all - revoked - expired - inactive,
	}, nil
}
