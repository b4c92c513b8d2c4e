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
	"github.com/caddy-apikeys/caddy-apikeys/admin/events"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
	"github.com/caddyserver/caddy/v2"
)

// stores holds the open stores, which survive reloads, by the identity of their database.
var stores = caddy.NewUsagePool()

const (
	// openTimeout bounds opening a database, including migrations.
	openTimeout = time.Minute
	// readTimeout bounds opening the key store, which reads all namespaces, roles, plans and
	// members. It fails earlier if the database stops responding.
	readTimeout = 6 * time.Minute
)

// A store is an open database with its caches, interfaces and counters.
type store struct {
	db       *sqldb.DB
	keys     *manage.Keystore
	api      *admin.API
	console  *console.Console
	events   *events.Dispatcher
	metrics  *storeMetrics
	log      *reloadableLog
	tokenKey *[32]byte // as configured when it was opened
}

// acquireStore returns the open store of a's database. The caller releases it with releaseStore.
func acquireStore(ctx context.Context, a *App) (*store, error) {
	value, loaded, err := stores.LoadOrNew(a.identity,
		func() (caddy.Destructor, error) { return openStore(ctx, a) })
	if err != nil {
		return nil, err
	}
	s := value.(*store)
	if loaded && !sameTokenKey(s.tokenKey, a.tokenKey) {
		return nil, errors.Join(
			fmt.Errorf("token_key differs from the one with which the running config opened the "+
				"database %s: a token key cannot change once tokens exist. Restore the former one",
				a.identity),
			releaseStore(a))
	}
	if loaded && a.url != "" {
		// The password may have changed. Until a runs, runningApps.restore undoes this.
		if err := s.db.Reconnect(a.url); err != nil {
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
	s := &store{db: db, log: newReloadableLog(a.logger), metrics: newStoreMetrics(),
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
	s.events = events.New(s.keys, s.api, logger)
	s.metrics.events = s.events
	return s, nil
}

func openDatabase(ctx context.Context, a *App) (*sqldb.DB, error) {
	if a.url != "" {
		return sqldb.OpenPostgres(ctx, a.url)
	}
	return sqldb.OpenSQLite(ctx, a.identity)
}

// configure applies a's settings.
func (s *store) configure(a *App) {
	s.log.moveTo(a.logger)
	if a.url != "" {
		if err := s.db.Reconnect(a.url); err != nil {
			a.logger.Error("database settings rejected; keeping the current connection", "error",
				err)
		}
	}
	s.keys.Configure(a.settings)
	s.api.SetMemory(cmp.Or(a.RequestMemory, admin.DefaultMemory))
	s.api.SetLeakKeys(a.leakKeys)
	s.api.Declare(a.declared)
	s.api.RuleBy(a.rule)
	s.console.Declare(a.resources)
	s.events.Configure(a.webhooks)
	s.events.Listen(a.emit)
}

// Destruct closes the store once no config uses it.
func (s *store) Destruct() error {
	s.metrics.close()
	if err := s.keys.Close(); err != nil {
		return fmt.Errorf("closing the key store: %w", err)
	}
	return nil
}
