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
	// Nodes removes nodes whose process has ended, so that they do not count below.
	if _, err := d.Nodes(ctx); err != nil {
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

// NewEpoch implements [keystore.Database]. It always writes the row of the epoch, so that the
// commit waits for a standby even if another process was faster.
func (d *DB) NewEpoch(ctx context.Context, was string, nodes []keystore.Node) error {
	err := d.write(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE head SET epoch = CASE WHEN epoch = ? THEN ? ELSE epoch END", was,
			newEpoch())
		for _, n := range nodes {
			if err != nil {
				return err
			}
			_, err = t.exec(`
				INSERT INTO nodes (incarnation, address, lease, state, joined_at, heard_at)
				SELECT ?, ?, CAST(? AS bigint), ?, CAST(? AS bigint), CAST(? AS bigint)
				WHERE NOT EXISTS (SELECT 1 FROM nodes WHERE former = ?)
				ON CONFLICT (incarnation) DO NOTHING`,
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
	var stored, fingerprint []byte
	err = t.row("SELECT h.epoch, d.token_key, d.fingerprint FROM head h, deployment d").
		Scan(&out.Epoch, &stored, &fingerprint)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return t.newDeployment(configured)
	case err != nil:
		return out, err
	}
	switch {
	case configured == nil && stored != nil:
		copy(out.TokenKey[:], stored)
		return out, nil
	case configured != nil && (bytes.Equal(stored, configured[:]) ||
		bytes.Equal(fingerprint, fingerprintOf(configured))):
		out.TokenKey = *configured
		return out, nil
	}
	// The key differs from the previous one. That is allowed as long as no token exists and no
	// process is about to create one.
	var used bool
	if err := t.row("SELECT EXISTS (SELECT 1 FROM secrets) OR EXISTS (SELECT 1 FROM nodes)").
		Scan(&used); err != nil {
		return out, err
	}
	if used {
		return out, tokenKeyError(configured != nil, stored != nil)
	}
	out.TokenKey, err = t.setTokenKey(configured)
	return out, err
}

// tokenKeyError explains ErrTokenKey. configured reports whether the configuration has a token key,
// stored whether the database has one.
func tokenKeyError(configured, stored bool) error {
	var advice string
	switch {
	case configured && stored:
		advice = "its tokens were created with the key stored in the database: remove token_key " +
			"from the configuration"
	case configured:
		advice = "its tokens were created with another token_key: configure that one again"
	default:
		advice = "its tokens were created with a configured token_key: configure that one again"
	}
	return fmt.Errorf("%w: this database has keys or running nodes, and %s. Another token_key "+
		"can be used only with a database that has no keys and that no process is using",
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

// setTokenKey stores a new random key, or only the fingerprint of a configured one.
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
