package sqldb

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

//go:embed migrations
var migrations embed.FS

// schemaTable is the table in which goose stores the version of the schema.
const schemaTable = "schema_version"

// migrate upgrades the schema to the version of this program. Several processes may do so at the
// same time. In PostgreSQL they wait for one another. In SQLite, each migration is one transaction:
// the second process fails, and reads the version again.
func (d *DB) migrate(ctx context.Context) error {
	p, err := d.migrator()
	if err != nil {
		return err
	}
	sources := p.ListSources()
	ours := sources[len(sources)-1].Version
	for before := int64(-1); ; {
		found, err := d.schemaVersion(ctx)
		switch {
		case err != nil:
			return err
		case found > ours:
			return fmt.Errorf("%w: its schema has version %d and this program knows %d. "+
				"Start the newer version of the program again, or restore the backup made before "+
				"the upgrade", keystore.ErrNewerSchema, found, ours)
		case found == ours:
			return nil
		}
		if err := d.upgrade(ctx, p); err != nil && found == before {
			// Another process may have run the same migration since schemaVersion.
			if now, again := d.schemaVersion(ctx); again != nil || now == found {
				return err
			}
		}
		before = found
	}
}

func (d *DB) migrator() (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations/"+d.migrations)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(d.goose, d.writer, dir, goose.WithTableName(schemaTable),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
}

// upgrade runs the migrations that are missing.
func (d *DB) upgrade(ctx context.Context, p *goose.Provider) error {
	if d.migrationLock != "" {
		tx, err := d.lease.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, d.migrationLock); err != nil {
			return err
		}
	}
	_, err := p.Up(ctx)
	return err
}

// schemaVersion returns the version of the schema, 0 for an empty database.
func (d *DB) schemaVersion(ctx context.Context) (version int64, err error) {
	var exists bool
	if err := d.writer.QueryRowContext(ctx, d.bind(d.tableExists),
		schemaTable).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	err = d.writer.QueryRowContext(ctx,
		"SELECT coalesce(max(version_id), 0) FROM "+schemaTable).Scan(&version)
	return version, err
}
