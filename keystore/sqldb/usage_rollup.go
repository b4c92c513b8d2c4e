package sqldb

import (
	"context"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// MaintainUsage implements [keystore.Database].
func (d *DB) MaintainUsage(context.Context, keystore.UsageKept) (bool, error) {
	return false, nil
}
