package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// derivingColumnNames are in the order of derivingValues.
var derivingColumnNames = []string{"digest", "public_key", "prefix"}

func derivingValues(d keystore.Digest, k keystore.DerivingKey) []any {
	return []any{d[:], k.Public[:], k.Prefix}
}

// DerivingKey implements [keystore.Database].
func (d *DB) DerivingKey(
	ctx context.Context, digest keystore.Digest,
) (k keystore.DerivingKey, err error) {
	err = d.retryLost(ctx, func() error {
		return d.readers.QueryRowContext(ctx, d.bind("SELECT prefix, public_key "+
			"FROM deriving_keys WHERE digest = ? AND "+d.current), digest[:]).
			Scan(textTo{&k.Prefix}, derivingTo{&k})
	})
	if errors.Is(err, sql.ErrNoRows) {
		return k, nil
	}
	return k, d.fail(ctx, "looking up a deriving key", err)
}

// RecordDeriving implements [keystore.Database].
func (d *DB) RecordDeriving(
	ctx context.Context, keys map[keystore.Digest]keystore.DerivingKey,
) error {
	err := inBatches(ctx, d, keys,
		func(a, b keystore.Digest) int { return bytes.Compare(a[:], b[:]) }, (*tx).recordDeriving)
	return d.fail(ctx, "recording deriving keys", err)
}

func (t *tx) recordDeriving(
	digests []keystore.Digest, keys map[keystore.Digest]keystore.DerivingKey,
) error {
	rows := make([][3]string, len(digests)) // digest, public key and prefix
	for i, d := range digests {
		k := keys[d]
		rows[i] = [3]string{hex.EncodeToString(d[:]), hex.EncodeToString(k.Public[:]), k.Prefix}
	}
	array, err := fromJSON(rows)
	if err != nil {
		return err
	}
	digest, public := t.db.fromHex(item(0, "text")), t.db.fromHex(item(1, "text"))
	_, err = t.exec("INSERT INTO deriving_keys (digest, public_key, prefix) SELECT s.digest, "+
		public+", "+item(2, "text")+" FROM "+t.db.items+" r CROSS JOIN secrets s "+
		"WHERE s.digest = "+digest+" AND s.dropped = 0"+t.db.unforced+
		" ORDER BY s.digest ON CONFLICT (digest) DO UPDATE SET prefix = "+joinedPrefixes+
		" WHERE deriving_keys.public_key = excluded.public_key AND "+newPrefix, array)
	return err
}

const (
	// joinedPrefixes is the new prefix of a deriving key that is already stored. If the stored and
	// the recorded prefix are both a [keystore.ForeignPrefix], it lists the prefixes of both: a
	// token that lacks a prefix always will, and the recording node may accept fewer prefixes than
	// the node that wrote the row.
	joinedPrefixes = "CASE WHEN deriving_keys.prefix LIKE ' %' AND excluded.prefix LIKE ' %' " +
		"THEN rtrim(deriving_keys.prefix) || " +
		"replace(excluded.prefix, deriving_keys.prefix, ' ') ELSE excluded.prefix END"
	// newPrefix is the condition under which the row changes. A row with the same prefix, or with a
	// [keystore.ForeignPrefix] that contains the recorded one, stays as it is.
	newPrefix = "deriving_keys.prefix <> excluded.prefix AND (excluded.prefix NOT LIKE ' %' OR " +
		"replace(deriving_keys.prefix, excluded.prefix, '') = deriving_keys.prefix)"
)

// derivingTo reads the public key of a row after its prefix. NULL, or anything other than 32 bytes,
// is read as an unknown key, because anyone can sign for a public key of zeros.
type derivingTo struct{ k *keystore.DerivingKey }

func (to derivingTo) Scan(v any) error {
	b, _ := v.([]byte)
	if len(b) != len(to.k.Public) {
		*to.k = keystore.DerivingKey{}
		return nil
	}
	copy(to.k.Public[:], b)
	return nil
}
