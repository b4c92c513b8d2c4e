package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sharedcache"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(App))
}

const appName = "api_keys"

// App is the store of API keys that the `api_key` and `api_keys_admin` handlers and Caddy's admin
// endpoint work on. It need not be configured: without it, the handlers use one with the defaults.
//
// What it has cached and counted outlives a reload, as long as the database stays the same. All
// strings may hold placeholders such as `{env.NAME}`; one that is unknown or empty is an error.
type App struct {
	// The system of record. Default is SQLite, in `apikeys.db` in Caddy's data directory.
	Database *DatabaseConfig `json:"database,omitempty"`

	// A cache that the nodes share. Default is none.
	Cache *CacheConfig `json:"cache,omitempty"`

	// How many keys are kept in this process's memory at most. Default is 1000000.
	LocalCache int `json:"local_cache,omitempty"`

	// How many bytes of memory these keys may take, approximately. Default is 1073741824.
	LocalCacheBytes int64 `json:"local_cache_bytes,omitempty"`

	// How many bytes of memory requests to the management interface may use together for bodies and
	// lists. A request that would exceed it gets 429. Default is 268435456.
	RequestMemory int64 `json:"request_memory_bytes,omitempty"`

	// The longest time for which a node that is cut off from the database may go on trusting what
	// it has cached, and so the longest time that a revoke may have to wait for it. Between 1s and
	// 24h. Default is 30s.
	Lease caddy.Duration `json:"lease,omitempty"`

	// The prefixes that tokens may have; the first is for new keys. A prefix is
	// `[a-z][a-z0-9]*(_[a-z0-9]+)*` of at most 24 characters. `akm` is not for keys. Default is
	// `ak` alone.
	TokenPrefix []string `json:"token_prefix,omitempty"`

	// Prefixes that are no longer accepted although live keys have them: requests with these keys
	// get 401. Without it, a configuration that does not accept the prefix of a live key is
	// refused. Default is none.
	AbandonPrefix []string `json:"abandon_prefix,omitempty"`

	// The key that tokens are signed with, 64 hex digits. It cannot change once there are tokens:
	// they would all be refused. Default is one that is made at the first start and kept in the
	// database.
	TokenKey string `json:"token_key,omitempty"`

	// How much the database may hold. Default is the default of each field.
	Capacity *CapacityConfig `json:"capacity,omitempty"`

	ctx    caddy.Context
	logger *slog.Logger
	// of the database: the absolute path of its file, or where PostgreSQL is, without the password
	identity string
	url      string    // of PostgreSQL, empty for SQLite
	tokenKey *[32]byte // nil: the database's own
	settings node.Settings
	cacheURL string             // empty: no shared cache
	cache    *sharedcache.Redis // nil: none, or not started
	declared []api.Operation    // by all handlers
	named    []string           // resources, by handlers
	sites    []*AdminSite
	servers  []*caddyhttp.Server // that have handlers

	store   atomic.Pointer[store] // nil until it is open
	started chan struct{}         // closed by Start, when it succeeds
	gone    chan struct{}         // closed by Cleanup
	opening *opening              // nil: Start has opened the store, or failed
}

// DatabaseConfig names a system of record.
type DatabaseConfig struct {
	// The kind of database: `sqlite` or `postgres`. Default is `sqlite`.
	Type string `json:"type,omitempty"`

	// Of `sqlite`: the file, which is made if it is missing. Default is `apikeys.db` in Caddy's
	// data directory.
	Path string `json:"path,omitempty"`

	// Of `postgres`: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE` with the options of
	// libpq. Of several hosts, with commas between them, the one that is the primary is used. One
	// schema holds one deployment: the one that `search_path` names, which must be there. A
	// password is better `{env.NAME}` or `{file.PATH}`: Caddy shows its configuration.
	URL string `json:"url,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appName,
		New: func() caddy.Module { return new(App) },
	}
}

const (
	minLease = time.Second
	// maxLease is there for the typing error: a revoke may have to wait that long.
	maxLease = 24 * time.Hour
	// minMemory is the smallest limit of memory, in bytes: a smaller number probably has the wrong
	// unit.
	minMemory = 16 << 20
)

// Provision checks the configuration. It runs under `caddy validate` too, so it touches neither
// disk nor network.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger = ctx, ctx.Slogger()
	a.started, a.gone = make(chan struct{}), make(chan struct{})
	if err := a.provisionDatabase(); err != nil {
		return err
	}
	if err := a.provisionCache(); err != nil {
		return err
	}
	if err := a.provisionTokens(); err != nil {
		return err
	}
	if a.LocalCache < 0 {
		return fmt.Errorf("local_cache is %d: it takes a number of keys above 0", a.LocalCache)
	}
	if a.LocalCacheBytes != 0 && a.LocalCacheBytes < minMemory {
		return fmt.Errorf("local_cache_bytes is %d: it must be at least %d", a.LocalCacheBytes,
			minMemory)
	}
	if a.RequestMemory != 0 && a.RequestMemory < minMemory {
		return fmt.Errorf("request_memory is %d: it must be at least %d", a.RequestMemory,
			minMemory)
	}
	if lease := time.Duration(a.Lease); lease != 0 && (lease < minLease || lease > maxLease) {
		return fmt.Errorf("lease is %s: it takes a duration between %s and %s", lease, minLease,
			maxLease)
	}
	if a.Capacity != nil {
		if err := a.Capacity.check(); err != nil {
			return err
		}
		a.settings.Capacity = a.Capacity.capacity()
	}
	a.settings.LocalCache, a.settings.LocalCacheBytes, a.settings.Lease = a.LocalCache, a.LocalCacheBytes, time.Duration(a.Lease)
	return registerMetrics(ctx.GetMetricsRegistry())
}

func (a *App) provisionDatabase() error {
	config := DatabaseConfig{}
	if a.Database != nil {
		config = *a.Database
	}
	if config.Type == "" {
		config.Type = "sqlite"
	}
	switch err := checkDatabaseType(config.Type); {
	case err != nil:
		return err
	case config.Type == "postgres":
		if config.Path != "" {
			return errors.New("database postgres takes a url, and no path")
		}
		return a.provisionPostgres(config.URL)
	case config.URL != "":
		return errors.New("database sqlite takes a path, and no url")
	}
	path := filepath.Join(caddy.AppDataDir(), "apikeys.db")
	var err error
	if config.Path != "" {
		if err := checkDatabasePath(config.Path); err != nil { // before expand, which repeats it
			return err
		}
		if path, err = expand("database", config.Path); err != nil {
			return err
		}
		if err := checkDatabasePath(path); err != nil {
			return err
		}
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("database: finding the file: %w", err)
	}
	a.identity = path
	return nil
}

func (a *App) provisionPostgres(url string) error {
	expanded, err := expandURL("database", url)
	if err != nil {
		return err
	}
	if a.identity, err = sqldb.PostgresIdentity(expanded); err != nil {
		return fmt.Errorf("database postgres: %w", err)
	}
	a.url = expanded
	return nil
}

func checkDatabaseType(name string) error {
	switch name {
	case "sqlite", "postgres":
		return nil
	}
	return fmt.Errorf("unknown database %q: there are sqlite and postgres", redact.Argument(name))
}

// checkDatabasePath refuses a URL: as a path it would show its password in errors, logs and the
// name of a file.
func checkDatabasePath(path string) error {
	if strings.Contains(path, "://") {
		return errors.New("database sqlite takes the path of a file, and this is a URL: for " +
			"PostgreSQL write `database postgres URL`")
	}
	return nil
}

func (a *App) provisionTokens() error {
	seen := make(map[string]bool)
	for _, prefix := range a.TokenPrefix {
		prefix, err := expand("token_prefix", prefix)
		if err != nil {
			return err
		}
		if err := checkPrefix("token_prefix", prefix); err != nil {
			return err
		}
		if seen[prefix] {
			return fmt.Errorf("token_prefix %s is given twice", redact.Argument(prefix))
		}
		seen[prefix] = true
		a.settings.TokenPrefixes = append(a.settings.TokenPrefixes, prefix)
	}
	if len(seen) == 0 {
		seen[keystore.DefaultPrefix] = true
	}
	for _, prefix := range a.AbandonPrefix {
		prefix, err := expand("abandon_prefix", prefix)
		if err != nil {
			return err
		}
		if err := checkPrefix("abandon_prefix", prefix); err != nil {
			return err
		}
		if seen[prefix] {
			return fmt.Errorf("abandon_prefix %s: token_prefix accepts it, or it is given twice",
				redact.Argument(prefix))
		}
		seen[prefix] = true
		a.settings.AbandonedPrefixes = append(a.settings.AbandonedPrefixes, prefix)
	}
	if a.TokenKey == "" {
		return nil
	}
	digits, err := expand("token_key", a.TokenKey)
	if err != nil {
		return err
	}
	secret, err := keystore.ParseTokenSecret(digits)
	if err != nil {
		return fmt.Errorf("token_key: %w", err)
	}
	a.tokenKey = &secret
	return nil
}

func checkPrefix(option, prefix string) error {
	switch {
	case prefix == keystore.MemberPrefix:
		return fmt.Errorf("%s %s is for the tokens of members: choose another one", option, prefix)
	case !keystore.ValidPrefix(prefix):
		return fmt.Errorf("%s %q: a prefix begins with a-z and goes on with a-z, 0-9 and single "+
			"underscores between them, at most 24 characters in all", option,
			redact.Argument(prefix))
	}
	return nil
}

// declare adds operations to the permission table of the config, and the resource that a handler
// names, if any. Handlers call it while they are provisioned, one after the other and before Start.
func (a *App) declare(operations []api.Operation, resource string) {
	a.declared = append(a.declared, operations...)
	if resource != "" {
		a.named = append(a.named, resource)
	}
}

// Start opens the store, or takes over the one that the running config has open. If the database
// cannot be reached, Start may succeed without it: see mayOpenLater.
func (a *App) Start() error {
	if err := a.openCache(); err != nil {
		return err
	}
	s, err := a.open()
	if err != nil {
		return err
	}
	running.add(a, s)
	close(a.started)
	for _, s := range a.sites {
		s.warnIfUnreachable()
	}
	return nil
}

// Stop does nothing: Caddy stops the apps in any order, and others may still be serving requests.
// Cleanup comes after all of them have stopped, and also when a config fails so late that Caddy
// stops none.
func (*App) Stop() error { return nil }

// Cleanup makes the app before this one the running one again, if a config is withdrawn, and gives
// the store back. It may come without Start.
func (a *App) Cleanup() error {
	running.remove(a)
	if a.gone != nil {
		close(a.gone)
	}
	a.opening.stop()
	var err error
	if a.store.Load() != nil {
		err = releaseStore(a)
	}
	return errors.Join(err, a.closeCache())
}

// Keystore returns the open store, nil while it is not open. After Cleanup it may be closed: then
// it knows no key.
func (a *App) Keystore() *manage.Keystore {
	if s := a.store.Load(); s != nil {
		return s.keys
	}
	return nil
}

// startTimeout is how long a request waits for Start: Caddy starts apps in any order, so the HTTP
// app may be earlier.
const startTimeout = 5 * time.Second

// Await returns the open store. Before Start it waits, at most 5 s, and after it no more; an error
// means that the answer to any request cannot be known: 503.
func (a *App) Await(ctx context.Context) (*manage.Keystore, error) {
	if s := a.store.Load(); s != nil {
		return s.keys, nil
	}
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-a.started:
		if s := a.store.Load(); s != nil {
			return s.keys, nil
		}
		return nil, errors.New("the database has not been reached yet")
	case <-a.gone:
		return nil, errors.New("the key store was not started: its configuration has been withdrawn")
	case <-timer.C:
		return nil, fmt.Errorf("the key store has not started within %s", startTimeout)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// hasStarted reports whether Start has succeeded, with the store or to open it later.
func (a *App) hasStarted() bool {
	select {
	case <-a.started:
		return true
	default:
		return false
	}
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
