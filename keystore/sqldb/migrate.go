package sqldb

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

//go:embed migrations
var migrations embed.FS

const schemaTable = "schema_version"

// migrate brings the schema up to this program's. Several processes may do so at the same time: each migration is one
// transaction, so the one that comes second fails, and looks again.
func migrate(ctx context.Context, db *sql.DB, d dialect) error {
	dir, err := fs.Sub(migrations, "migrations/"+d.migrations)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(d.goose, db, dir, goose.WithTableName(schemaTable),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	sources := p.ListSources()
	ours := sources[len(sources)-1].Version
	for before := int64(-1); ; {
		found, err := schemaVersion(ctx, db, d)
		switch {
		case err != nil:
			return err
		case found > ours:
			return fmt.Errorf("%w: its schema has version %d and this program knows %d. "+
				"Start the newer version of the program again, or restore the backup made before the upgrade", keystore.ErrNewerSchema, found, ours)
		case found == ours:
			return nil
		}
		if _, err := p.Up(ctx); err != nil && found == before {
			return err
		}
		before = found
	}
}

// schemaVersion is 0 for an empty database.
func schemaVersion(ctx context.Context, db *sql.DB, d dialect) (version int64, err error) {
	var exists bool
	if err := db.QueryRowContext(ctx, d.tableExists, schemaTable).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	err = db.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) FROM "+schemaTable).Scan(&version)
	return version, err
}
