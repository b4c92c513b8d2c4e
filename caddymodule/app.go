// Package caddymodule plugs API keys into Caddy: the app api_keys, which opens the key store; the
// handlers api_key, which requires a key, and api_keys_admin, which serves the REST API and the web
// console on a site; the module of Caddy's admin endpoint; the Caddyfile syntax; and the metrics.
//
// It adapts the other packages and may import all of them. Only this package and its subpackages
// know Caddy. Decisions about keys are made by [keystore.Decide], never here.
//
// Start with app.go for the life of the store, and with [Handler.ServeHTTP] in handler.go for the
// path of a request.
package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/events"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sharedcache"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

func init() {
	caddy.RegisterModule(new(App))
}

const appName = "api_keys"

// App is the store of API keys for the `api_key` and `api_keys_admin` handlers and Caddy's admin
// endpoint. It is optional: without it, the handlers use one with the defaults.
//
// Its caches and counters survive a reload that keeps the database. Strings may contain
// placeholders such as `{env.NAME}`, except types and the events and namespaces of webhooks; an
// unknown or empty placeholder is an error.
type App struct {
	// The database. Default is SQLite in `apikeys.db` in Caddy's data directory.
	Database *DatabaseConfig `json:"database,omitempty"`

	// A cache shared by all nodes. Default is none.
	Cache *CacheConfig `json:"cache,omitempty"`

	// The approximate maximum number of keys in the local cache of this process. Default is 1000000.
	LocalCache int `json:"local_cache,omitempty"`

	// The approximate maximum size of the local cache in bytes. Default is 1073741824.
	LocalCacheBytes int64 `json:"local_cache_bytes,omitempty"`

	// The maximum memory in bytes that all requests to the management interface together use for
	// bodies and lists. A request that would exceed it gets 429, or 413 if it needs more than that
	// alone. Default is 268435456.
	RequestMemory int64 `json:"request_memory_bytes,omitempty"`

	// The maximum time for which a node without a connection to the database may use its caches. A
	// revoke waits for such a node at most 2 % longer. Between 1s and 24h. Default is 30s.
	Lease caddy.Duration `json:"lease,omitempty"`

	// The accepted token prefixes; new keys get the first. A prefix has the form
	// `[a-z][a-z0-9]*(_[a-z0-9]+)*` and at most 24 characters. `akm`, also before an underscore, is
	// reserved for members. Default is `ak`.
	TokenPrefix []string `json:"token_prefix,omitempty"`

	// Token prefixes that are no longer accepted although live keys have them. Requests with these
	// keys get 401. Caddy refuses a configuration that neither accepts nor abandons the prefix of a
	// live key. Default is none.
	AbandonPrefix []string `json:"abandon_prefix,omitempty"`

	// The key that signs tokens, 64 hex digits. It cannot be changed once tokens exist: all of them
	// would be refused. Default is a random key that is created at the first start and stored in
	// the database.
	TokenKey string `json:"token_key,omitempty"`

	// Limits on the contents of the database. Default is the default of each limit.
	Capacity *CapacityConfig `json:"capacity,omitempty"`

	// A limit on invalid keys from one address. Default is none.
	Abuse *AbuseConfig `json:"abuse,omitempty"`

	// How long the usage of keys is kept, or whether it is counted at all. Default is the default
	// of each period.
	Usage *UsageConfig `json:"usage,omitempty"`

	// Which derived tokens are accepted. Default is those that expire within 24 hours.
	Derive *DeriveConfig `json:"derive,omitempty"`

	// When the audit log gets reminders that a key expires: at most 10 times before the expiry,
	// such as `30d` or `12h`, each at least `1m` and `1m` apart from the others. `off` alone stops
	// them, and the report that a key has expired. Default is `30d`, `7d` and `1d`.
	Remind []string `json:"remind,omitempty"`

	// The time after which the audit log reports a key that was not used, such as `90d`. A
	// namespace can have another. Default is never.
	Unused string `json:"unused,omitempty"`

	// A URL or a file with the public keys that sign reports of leaked tokens, in the format of
	// `https://api.github.com/meta/public_keys/secret_scanning`. Default is none, and signed
	// reports are refused.
	LeakKeys string `json:"leak_keys,omitempty"`

	// The receivers of events. Default is none.
	Webhooks []WebhookConfig `json:"webhooks,omitempty"`

	ctx    caddy.Context
	logger *slog.Logger
	// identity is the absolute path of the database file, or the PostgreSQL URL without password
	identity  string
	url       string    // of PostgreSQL, empty for SQLite
	tokenKey  *[32]byte // nil for the one in the database
	settings  node.Settings
	abuse     *abuseLimit        // nil for none
	leakKeys  *admin.LeakKeys    // nil for none
	cacheURL  string             // empty without a shared cache
	cache     *sharedcache.Redis // nil without a shared cache or before Start
	declared  []api.Operation    // by all handlers
	resources []string           // of all handlers
	webhooks  []events.Webhook
	active    atomic.Bool // all apps have started
	sites     []*AdminSite
	servers   []*caddyhttp.Server // that have handlers
	lines     map[string]string   // of the Caddyfile, by the check of doctor that found them

	store     atomic.Pointer[store] // nil until it is open
	started   chan struct{}         // closed by Start, when it succeeds
	cleanedUp chan struct{}         // closed by Cleanup
	opening   *opening              // nil unless Start has succeeded without the store
}

// DatabaseConfig selects the database.
type DatabaseConfig struct {
	// The kind of database: `sqlite` or `postgres`. Default is `sqlite`.
	Type string `json:"type,omitempty"`

	// The database file, for `sqlite`. It is created if it does not exist. Default is `apikeys.db`
	// in Caddy's data directory.
	Path string `json:"path,omitempty"`

	// The database URL, for `postgres`: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE`
	// with the options of libpq. Of several hosts, separated by commas, the primary is used. Each
	// deployment has its own schema, which `search_path` names and which must exist. Use
	// `{env.NAME}` or `{file.PATH}` for the password, because Caddy's admin endpoint shows the
	// configuration.
	URL string `json:"url,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "api_keys",
		New: func() caddy.Module { return new(App) },
	}
}

const (
	minLease = time.Second
	// maxLease catches typing errors: a revoke may have to wait this long.
	maxLease = 24 * time.Hour
	// minMemory is the smallest memory limit, in bytes. A smaller number probably has the wrong
	// unit.
	minMemory = 16 << 20
)

// Provision checks the configuration. It runs under `caddy validate` too, so it touches neither
// network nor disk, except for files that placeholders name.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger = ctx, ctx.Slogger()
	a.started, a.cleanedUp = make(chan struct{}), make(chan struct{})
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
		return fmt.Errorf("local_cache is %d: it must be a number of keys above 0", a.LocalCache)
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
		return fmt.Errorf("lease is %s: it must be a duration between %s and %s", lease, minLease,
			maxLease)
	}
	if a.Capacity != nil {
		if err := a.Capacity.check(); err != nil {
			return err
		}
		a.settings.Capacity = a.Capacity.capacity()
	}
	if a.Abuse != nil {
		limit, err := a.Abuse.limit()
		if err != nil {
			return err
		}
		a.abuse = &abuseLimit{limit, processFailures()}
	}
	if a.Usage != nil {
		var err error
		if a.settings.Usage, err = a.Usage.settings(); err != nil {
			return err
		}
	}
	if a.Derive != nil {
		var err error
		if a.settings.Derive, err = a.Derive.settings(); err != nil {
			return err
		}
	}
	if err := a.provisionReminders(); err != nil {
		return err
	}
	if err := a.provisionWebhooks(); err != nil {
		return err
	}
	if err := a.provisionEvents(); err != nil {
		return err
	}
	a.settings.LocalCache, a.settings.LocalCacheBytes = a.LocalCache, a.LocalCacheBytes
	a.settings.Lease = time.Duration(a.Lease)
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
			return errors.New("database postgres requires a url and accepts no path")
		}
		return a.provisionPostgres(config.URL)
	case config.URL != "":
		return errors.New("database sqlite accepts a path and no url")
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
	return fmt.Errorf("unknown database %q: must be sqlite or postgres", redact.Argument(name))
}

// checkDatabasePath refuses a URL. As a path, it would put its password into errors, logs and a
// file name.
func checkDatabasePath(path string) error {
	if strings.Contains(path, "://") {
		return errors.New("database sqlite requires the path of a file, not a URL: for " +
			"PostgreSQL use `database postgres URL`")
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
	like := keystore.HasTokenPrefix(prefix, keystore.MemberPrefix) // such as akm_x
	switch {
	case !keystore.ValidPrefix(prefix): // may be a token
		return fmt.Errorf("%s %q: must begin with a-z, contain only a-z, 0-9 and single "+
			"underscores between them, and have at most 24 characters", option,
			redact.Argument(prefix))
	case prefix == keystore.MemberPrefix, like && option != "abandon_prefix":
		return fmt.Errorf("%s %s is reserved for member tokens: choose another prefix", option,
			prefix)
	}
	return nil
}

// declare adds a handler's operations to the permission table of the config, and its resource if it
// has one. Handlers call it while they are provisioned: one after the other and before Start.
func (a *App) declare(operations []api.Operation, resource string) {
	a.declared = append(a.declared, operations...)
	if resource != "" {
		a.resources = append(a.resources, resource)
	}
}

// Start opens the store, or shares the open one of the running config. If the database is
// unreachable, Start may succeed without it: see mayOpenLater.
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
	a.warnOfDangers(startedWith(os.Args))
	for _, s := range a.sites {
		s.warnIfUnreachable()
	}
	a.warnOfOrder()
	return nil
}

// Stop does nothing, because Caddy stops apps in any order and others may still serve requests.
// Cleanup is called after all apps have stopped, and also if a config fails so late that Caddy
// stops none.
func (*App) Stop() error { return nil }

// Cleanup releases the store. If the config has failed, the previous app becomes the running one
// again. It may be called without Start.
func (a *App) Cleanup() error {
	running.remove(a)
	if a.cleanedUp != nil {
		close(a.cleanedUp)
	}
	a.opening.stop()
	var err error
	if a.store.Load() != nil {
		err = releaseStore(a)
	}
	return errors.Join(err, a.closeCache())
}

// Keystore returns the open key store, or nil while it is not open. After Cleanup it may be
// closed: lookups then return an error.
func (a *App) Keystore() *manage.Keystore {
	if s := a.store.Load(); s != nil {
		return s.keys
	}
	return nil
}

// startTimeout is how long a request waits for Start. Caddy starts apps in any order, so the HTTP
// app may start first.
const startTimeout = 5 * time.Second

// Await returns the open key store. It waits for Start for at most 5 s. After an error no request
// can be decided: the answer is 503.
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
		return nil, errors.New("the database is not reachable yet")
	case <-a.cleanedUp:
		return nil, errors.New("the key store was not started: its configuration failed")
	case <-timer.C:
		return nil, fmt.Errorf("the key store has not started within %s", startTimeout)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// hasStarted reports whether Start has succeeded, even if the store opens later.
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
