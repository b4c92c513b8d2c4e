package sqldb

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// keyColumns, with keyJoins after a FROM that ends in keys k, yield one row for each secret that is
// not dropped, and one row for a key without secrets.
const (
	keyColumns = `k.id, k.prefix, k.name, k.namespace, k.grants, k.owner, k.personal,
		k.created_by, k.active, k.created_at, k.expires_at, k.revoked_at, k.revoked_by,
		k.revoke_reason, k.allowed_ips, k.metadata, k.version,
		l.rate_limit, l.quota, l.plan,
		u.used_at, a.address, ld.used_at, ld.note, s.digest, s.created_at, s.ends_at, s.imported,
		dk.prefix, dk.public_key`
	keyJoins = ` LEFT JOIN key_limits l ON l.key_id = k.id
		LEFT JOIN last_uses u ON u.key_id = k.id
		LEFT JOIN last_addresses a ON a.key_id = k.id AND a.used_at = u.used_at
		LEFT JOIN last_derived ld ON ld.key_id = k.id
		LEFT JOIN secrets s ON s.key_id = k.id AND s.dropped = 0
		LEFT JOIN deriving_keys dk ON dk.digest = s.digest`

	byDigestQuery = `SELECT h.revision,
			coalesce((SELECT mark FROM marks WHERE revision = h.revision), ''), ` + keyColumns + `
		FROM head h
		LEFT JOIN secrets d ON d.digest = ? AND (d.import_id IS NULL
			OR NOT EXISTS (SELECT 1 FROM imports i WHERE i.id = d.import_id))
		LEFT JOIN keys k ON k.id = d.key_id` + keyJoins
	byIDQuery = `SELECT ` + keyColumns + ` FROM keys k` + keyJoins + ` WHERE k.id = ?`
)

// scanKeys reads the keys of a query for keyColumns. If head is not nil, the head's columns come
// first.
func scanKeys(rows *sql.Rows, err error, head *keystore.Position) ([]keystore.Key, error) {
	keys, _, err := scanKeysUpTo(math.MaxInt64, rows, err, head)
	return keys, err
}

// scanKeysUpTo is like scanKeys but stops at an amount of memory, in bytes. It reports whether
// there are more keys.
func scanKeysUpTo(
	bytesLeft int64, rows *sql.Rows, err error, head *keystore.Position,
) (out []keystore.Key, more bool, _ error) {
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	var (
		id, prefix, name, namespace, grants, owner, createdBy string
		revokedBy, reason, allowed, metadata                  string
		rate, quota, plan, usedFrom, note                     string
		personal, active, imported                            sql.NullBool
		version                                               sql.NullInt64
		created, expires, revoked, used, derived              time.Time
		secret                                                keystore.Secret
	)
	into := []any{textTo{&id}, textTo{&prefix}, textTo{&name}, textTo{&namespace}, textTo{&grants},
		textTo{&owner},
		&personal, textTo{&createdBy}, &active, timeTo{&created}, timeTo{&expires},
		timeTo{&revoked}, textTo{&revokedBy},
		textTo{&reason}, textTo{&allowed}, textTo{&metadata}, &version, textTo{&rate},
		textTo{&quota}, textTo{&plan}, timeTo{&used}, textTo{&usedFrom},
		timeTo{&derived}, textTo{&note},
		digestTo{&secret.Digest}, timeTo{&secret.CreatedAt}, timeTo{&secret.ExpiresAt}, &imported,
		textTo{&secret.Deriving.Prefix}, derivingTo{&secret.Deriving}}
	if head != nil {
		into = append([]any{&head.Revision, &head.Mark}, into...)
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, false, err
		}
		if id == "" {
			continue // no key, only the head
		}
		if len(out) == 0 || out[len(out)-1].ID != id {
			if more = bytesLeft <= 0; more {
				break
			}
			k := keystore.Key{ID: id, Prefix: prefix, Name: name, Namespace: namespace,
				Owner: owner, Personal: personal.Bool, CreatedBy: createdBy,
				Active: active.Bool, CreatedAt: created, ExpiresAt: expires, RevokedAt: revoked,
				RevokedBy: revokedBy, RevokeReason: reason, LastUsedAt: used,
				LastDerived: keystore.DerivedUse{At: derived, Note: note}, Version: version.Int64}
			k.Plan = plan
			// Someone may have written an invalid address with SQL. It must not make the key
			// unreadable.
			k.LastUsedFrom, _ = netip.ParseAddr(usedFrom)
			if err := readJSON(&k, grants, allowed, metadata, rate, quota); err != nil {
				return nil, false, unreadable("key "+id, err)
			}
			out = append(out, k)
			bytesLeft -= k.Size()
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
	return out, more, rows.Err()
}

func readJSON(k *keystore.Key, grants, allowed, metadata, rate, quota string) (err error) {
	if k.Grants, err = toGrants(grants); err != nil {
		return err
	}
	if k.Limits, err = toLimits(rate, quota); err != nil {
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

// one returns the first key, or ErrNotFound.
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
func (d *DB) KeyByDigest(
	ctx context.Context, digest keystore.Digest,
) (*keystore.Key, keystore.Position, error) {
	var head keystore.Position
	var rows *sql.Rows
	err := d.retryLost(ctx, func() (err error) {
		rows, err = d.byDigest.QueryContext(ctx, digest[:])
		return err
	})
	keys, err := scanKeys(rows, err, &head)
	if err != nil {
		return nil, head, d.fail(ctx, "looking up a key", err)
	}
	if len(keys) == 0 {
		return nil, head, nil
	}
	return &keys[0], head, nil
}

// Key implements [keystore.Database].
func (d *DB) Key(ctx context.Context, id string) (*keystore.Key, error) {
	rows, err := d.query(ctx, d.bulk, byIDQuery+" AND "+d.current, id)
	keys, err := scanKeys(rows, err, nil)
	if err != nil {
		return nil, d.fail(ctx, "reading a key", err)
	}
	return one(keys, nil)
}

// MemberTokens implements [keystore.Database].
func (d *DB) MemberTokens(ctx context.Context, members []string) ([]keystore.Key, error) {
	array, err := d.array(members)
	if err != nil {
		return nil, err
	}
	rows, err := d.read(ctx)("SELECT "+keyColumns+" FROM keys k"+keyJoins+
		" WHERE k.personal = 1 AND k.revoked_at IS NULL AND k.owner "+d.among+" AND "+d.current+
		" ORDER BY k.id", array)
	keys, err := scanKeys(rows, err, nil)
	return keys, d.fail(ctx, "reading the tokens of members", err)
}

// CountKeys implements [keystore.Database]. It counts active keys as the difference, because most
// keys are active.
func (d *DB) CountKeys(ctx context.Context) (map[keystore.Status]int64, error) {
	var all, revoked, expired, inactive int64
	now := time.Now().UnixMicro()
	err := d.bulk.QueryRowContext(ctx, d.bind(`SELECT
		(SELECT count(*) FROM keys) - (SELECT count(*) FROM keys WHERE personal = 1),
		(SELECT count(*) FROM keys WHERE revoked_at IS NOT NULL AND personal = 0),
		(SELECT count(*) FROM keys WHERE revoked_at IS NULL AND expires_at IS NOT NULL
			AND expires_at <= ? AND personal = 0),
		(SELECT count(*) FROM keys WHERE active = 0 AND revoked_at IS NULL
			AND (expires_at IS NULL OR expires_at > ?) AND personal = 0)
		WHERE `+d.current), now, now).Scan(&all, &revoked, &expired, &inactive)
	if err != nil {
		return nil, d.fail(ctx, "counting keys", err)
	}
	return map[keystore.Status]int64{
		keystore.StatusRevoked: revoked, keystore.StatusExpired: expired,
		keystore.StatusInactive: inactive,
		keystore.StatusActive:   all - revoked - expired - inactive,
	}, nil
}

// CountPrefixes implements [keystore.Database]. It reads the index between the excluded prefixes,
// so that it is fast if few keys have others.
func (d *DB) CountPrefixes(ctx context.Context, except []string) (map[string]int64, error) {
	const operation = "counting keys by prefix"
	except = slices.Sorted(slices.Values(except))
	column := "k.prefix" + d.bytewise
	var ranges []string
	var args []any
	now := time.Now().UnixMicro()
	for i := 0; i <= len(except); i++ {
		within := "k.revoked_at IS NULL AND k.personal = 0 AND (k.expires_at IS NULL OR " +
			"k.expires_at > ?)"
		args = append(args, now)
		if i > 0 {
			within += " AND " + column + " > ?"
			args = append(args, except[i-1])
		}
		if i < len(except) {
			within += " AND " + column + " < ?"
			args = append(args, except[i])
		}
		ranges = append(ranges, "SELECT k.prefix, count(*) FROM keys k WHERE "+within+
			" AND EXISTS (SELECT 1 FROM secrets s WHERE s.key_id = k.id AND s.dropped = 0 AND "+
			"s.imported = 0)"+
			" AND "+d.current+" GROUP BY k.prefix")
	}
	rows, err := d.query(ctx, d.bulk, strings.Join(ranges, " UNION ALL "), args...)
	if err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	defer rows.Close()
	counts := make(map[string]int64)
	for rows.Next() {
		var prefix string
		var n int64
		if err := rows.Scan(&prefix, &n); err != nil {
			return nil, d.fail(ctx, operation, err)
		}
		counts[prefix] = n
	}
	return counts, d.fail(ctx, operation, rows.Err())
}
