package sqldb

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Deployment implements [keystore.Database].
func (d *DB) Deployment(ctx context.Context, configured *[32]byte) (keystore.Deployment, error) {
	if _, err := d.Nodes(ctx); err != nil { // so that nodes that have ended do not count below
		return keystore.Deployment{}, err
	}
	var out keystore.Deployment
	_, err := d.Update(ctx, func(kt keystore.Tx) (err error) {
		out, err = kt.(*tx).deployment(configured)
		return err
	})
	if err != nil {
		return keystore.Deployment{}, fmt.Errorf("preparing the deployment: %w", err)
	}
	return out, nil
}

// NewEpoch implements [keystore.Database]. It writes the epoch's row in any case, so that the
// commit waits for a standby even if another process was faster.
func (d *DB) NewEpoch(ctx context.Context, was string, nodes []keystore.Node) error {
	err := d.write(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE head SET epoch = CASE WHEN epoch = ? THEN ? ELSE epoch END", was,
			newEpoch())
		for _, n := range nodes {
			if err != nil {
				return err
			}
			_, err = t.exec(`INSERT INTO nodes (incarnation, address, lease, state, joined_at, heard_at)
				SELECT ?, ?, CAST(? AS bigint), ?, CAST(? AS bigint), CAST(? AS bigint)
				WHERE NOT EXISTS (SELECT 1 FROM nodes WHERE former = ?) ON CONFLICT (incarnation) DO NOTHING`,
				n.Incarnation, n.Address, n.Lease.Microseconds(), keystore.NodeFencing,
				t.now.UnixMicro(), t.now.UnixMicro(), n.Incarnation)
		}
		return err
	})
	return d.fail(ctx, "giving the deployment a new epoch", err)
}

func newEpoch() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}

func (t *tx) deployment(configured *[32]byte) (out keystore.Deployment, err error) {
	var made, fingerprint []byte
	err = t.row("SELECT h.epoch, d.token_key, d.fingerprint FROM head h, deployment d").Scan(&out.Epoch, &made, &fingerprint)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return t.newDeployment(configured)
	case err != nil:
		return out, err
	}
	switch {
	case configured == nil && made != nil:
		copy(out.TokenKey[:], made)
		return out, nil
	case configured != nil && (bytes.Equal(made, configured[:]) ||
		bytes.Equal(fingerprint, fingerprintOf(configured))):
		out.TokenKey = *configured
		return out, nil
	}
	// Another key than before. Nobody minds as long as no token was made, and no process is about
	// to make one.
	var used bool
	if err := t.row("SELECT EXISTS (SELECT 1 FROM secrets) OR EXISTS (SELECT 1 FROM nodes)").Scan(&used); err != nil {
		return out, err
	}
	if used {
		return out, tokenKeyError(configured != nil, made != nil)
	}
	out.TokenKey, err = t.setTokenKey(configured)
	return out, err
}

func tokenKeyError(configured, made bool) error {
	var advice string
	switch {
	case configured && made:
		advice = "its tokens were made with the key that the database made itself: take token_key " +
			"out of the configuration"
	case configured:
		advice = "its tokens were made with another token_key: configure that one again"
	default:
		advice = "its tokens were made with a configured token_key: configure that one again"
	}
	return fmt.Errorf("%w: this database has keys or running nodes, and %s. A new database takes "+
		"any, and so does one without keys once all processes on it have ended",
		keystore.ErrTokenKey, advice)
}

func (t *tx) newDeployment(configured *[32]byte) (out keystore.Deployment, err error) {
	out.Epoch = newEpoch()
	if _, err := t.exec("UPDATE head SET epoch = ?", out.Epoch); err != nil {
		return out, err
	}
	if _, err := t.exec("INSERT INTO deployment (one) VALUES (1)"); err != nil {
		return out, err
	}
	if out.TokenKey, err = t.setTokenKey(configured); err != nil {
		return out, err
	}
	err = t.InsertNamespace(&keystore.Namespace{ID: keystore.DefaultNamespace, Name: "Default",
		EditPolicy: keystore.EditFree, CreatedAt: t.now, Version: 1})
	return out, err
}

// setTokenKey stores a key of our own, or of a configured one no more than tells it from others.
func (t *tx) setTokenKey(configured *[32]byte) (key [32]byte, err error) {
	if configured != nil {
		_, err = t.exec("UPDATE deployment SET token_key = NULL, fingerprint = ?",
			fingerprintOf(configured))
		return *configured, err
	}
	_, _ = rand.Read(key[:]) // never fails
	_, err = t.exec("UPDATE deployment SET token_key = ?, fingerprint = NULL", key[:])
	return key, err
}

func fingerprintOf(tokenKey *[32]byte) []byte {
	sum := sha256.Sum256(append([]byte("caddy-apikeys token key\n"), tokenKey[:]...))
	return sum[:]
}
