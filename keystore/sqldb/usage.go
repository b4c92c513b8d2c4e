package sqldb

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

var errNoUsage = errors.New("usage is not stored yet")

// AddUsage implements [keystore.Database].
func (d *DB) AddUsage(context.Context, keystore.UsageBatch) error { return errNoUsage }

// Usage implements [keystore.Database].
func (d *DB) Usage(context.Context, keystore.UsageQuery) ([]keystore.UsageSum, error) {
	return nil, errNoUsage
}

// UsedOperations implements [keystore.Database].
func (d *DB) UsedOperations(
	context.Context, []string,
) (map[string]map[string]time.Time, error) {
	return nil, errNoUsage
}

// MaintainUsage implements [keystore.Database].
func (d *DB) MaintainUsage(context.Context, keystore.UsageKept) (bool, error) {
	return false, errNoUsage
}
