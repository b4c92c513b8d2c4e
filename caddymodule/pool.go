package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/console"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
	"github.com/caddyserver/caddy/v2"
)

// stores holds what outlives a reload, by the database's identity alone.
var stores = caddy.NewUsagePool()

const (
	// openTimeout bounds the opening of a database, migrations included.
	openTimeout = time.Minute
	// readTimeout bounds the opening of the key store, which reads all namespaces, roles and
	// members. It fails earlier if the database stops answering.
	readTimeout = 6 * time.Minute
)

// A store is one open database with all that the process knows and counts of it.
type store struct {
	db       *sqldb.DB
	keys     *manage.Keystore
	api      *admin.API
	console  *console.Console
	metrics  *storeMetrics
	log      *movingLog
	tokenKey *[32]byte // as configured when it was opened
}

// acquireStore returns the store of a's database, open. Each call that succeeds is followed by one
// releaseStore.
func acquireStore(ctx context.Context, a *App) (*store, error) {
	value, loaded, err := stores.LoadOrNew(a.identity,
		func() (caddy.Destructor, error) { return openStore(ctx, a) })
	if err != nil {
		return nil, err
	}
	s := value.(*store)
	if loaded && !sameTokenKey(s.tokenKey, a.tokenKey) {
		return nil, errors.Join(
			fmt.Errorf("token_key is not the one that the running config has opened the database "+
				"%s with: a token key cannot change once there are tokens. Put the former one back",
				a.identity),
			releaseStore(a))
	}
	if loaded && a.url != "" {
		if err := s.db.Reconnect(a.url); err != nil { // the password may be another one
			return nil, errors.Join(fmt.Errorf("database postgres: %w", err), releaseStore(a))
		}
	}
	return s, nil
}

func releaseStore(a *App) error {
	_, err := stores.Delete(a.identity)
	return err
}

func sameTokenKey(a, b *[32]byte) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func openStore(ctx context.Context, a *App) (*store, error) {
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	db, err := openDatabase(opening, a)
	if err != nil {
		return nil, err
	}
	s := &store{db: db, log: newMovingLog(a.logger), metrics: newStoreMetrics(),
		tokenKey: a.tokenKey}
	logger := slog.New(s.log)
	ctx, cancel = context.WithTimeout(ctx, readTimeout)
	defer cancel()
	s.keys, err = manage.Open(ctx, db, a.tokenKey, a.settings, s.metrics, logger)
	if err != nil {
		return nil, fmt.Errorf("opening the key store %s: %w", a.identity, err)
	}
	s.api = admin.New(s.keys, logger)
	s.metrics.keys, s.metrics.api = s.keys, s.api
	s.console = console.New(s.keys, s.api, logger)
	return s, nil
}

func openDatabase(ctx context.Context, a *App) (*sqldb.DB, error) {
	if a.url != "" {
		return sqldb.OpenPostgres(ctx, a.url)
	}
	return sqldb.OpenSQLite(ctx, a.identity)
}

// configure puts a's settings in force.
func (s *store) configure(a *App) {
	s.log.moveTo(a.logger)
	if a.url != "" {
		if err := s.db.Reconnect(a.url); err != nil {
			a.logger.Error("the database is still used as before", "error", err)
		}
	}
	s.keys.Configure(a.settings)
	s.api.SetMemory(cmp.Or(a.RequestMemory, admin.DefaultMemory))
	s.api.Declare(a.declared)
	s.api.RuleBy(a.rule)
	s.console.Declare(a.named)
}

// Destruct is called when no config uses the store any more.
func (s *store) Destruct() error {
	s.metrics.close()
	if err := s.keys.Close(); err != nil {
		return fmt.Errorf("closing the key store: %w", err)
	}
	return nil
}
