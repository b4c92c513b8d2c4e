package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"

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
		return d.readers.QueryRowContext(ctx, d.bind("SELECT public_key, prefix "+
			"FROM deriving_keys WHERE digest = ?"), digest[:]).
			Scan(derivingTo{&k}, textTo{&k.Prefix})
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
	const batch = 100 // a revoke waits for one batch at most
	// Sorted, so that two processes that record the same keys cannot deadlock.
	digests := slices.SortedFunc(maps.Keys(keys),
		func(a, b keystore.Digest) int { return bytes.Compare(a[:], b[:]) })
	for part := range slices.Chunk(digests, batch) {
		if err := d.inBackground(ctx, d.uses, func(t *tx) error {
			for _, digest := range part {
				k := keys[digest]
				if _, err := t.exec("INSERT INTO deriving_keys (digest, public_key, prefix) "+
					"SELECT digest, ?, ? FROM secrets WHERE digest = ? AND dropped = 0"+
					t.db.unforced+" ON CONFLICT (digest) DO UPDATE SET prefix = excluded.prefix "+
					"WHERE deriving_keys.public_key = excluded.public_key",
					k.Public[:], k.Prefix, digest[:]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return d.fail(ctx, "recording deriving keys", err)
		}
	}
	return nil
}

// derivingTo reads the public key of a row. NULL, or anything else than 32 bytes, is read as a key
// that is unknown.
type derivingTo struct{ k *keystore.DerivingKey }

func (to derivingTo) Scan(v any) error {
	*to.k = keystore.DerivingKey{}
	if b, _ := v.([]byte); len(b) == len(to.k.Public) {
		copy(to.k.Public[:], b)
	}
	return nil
}
