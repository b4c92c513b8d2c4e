package caddymodule

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sharedcache"
)

// CacheConfig configures a cache that the nodes of a deployment share. If one node has looked up a
// key, the others need no database query for it. The nodes also share rate limits through it. If
// it fails, only latency and the accuracy of rate limits change.
type CacheConfig struct {
	// The kind of cache. Only `redis` exists. Default is `redis`.
	Type string `json:"type,omitempty"`

	// The address: `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`; with several addresses, separated by
	// commas, a Redis Cluster; `redis-sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DB]` with
	// the addresses of the sentinels; `rediss://` and `rediss-sentinel://` over TLS;
	// `unix://[USER:PASSWORD@]/PATH`. Options follow a `?`, such as `timeout=50ms`, the longest
	// time that a call of the cache may take, and `ca=FILE`. A password must be percent-encoded.
	// Use `{env.NAME}` or `{file.PATH}` for it, because Caddy's admin endpoint shows the
	// configuration.
	URL string `json:"url,omitempty"`
}

// sharedCacheErrors counts failed calls to Redis for the life of the process, because a cache lives
// only as long as its config.
var sharedCacheErrors atomic.Uint64

func checkCacheType(name string) error {
	if name != "redis" {
		return fmt.Errorf("unknown cache %q: must be redis", redact.Argument(name))
	}
	return nil
}

func parseCache(a *App, d *caddyfile.Dispenser, args []string) error {
	switch {
	case len(args) == 0:
	case strings.Contains(args[0], "://"):
		args = append([]string{"redis"}, args...)
	case strings.HasPrefix(args[0], "{"):
		return d.Err("cache requires redis before a placeholder: `cache redis {env.NAME}`")
	default:
		if err := checkCacheType(args[0]); err != nil {
			return d.WrapErr(err)
		}
	}
	if len(args) != 2 || args[1] == "" {
		return d.Err("cache requires redis and one URL: redis://USER:PASSWORD@HOST:PORT/DB, better " +
			"with {env.NAME} or {file.PATH} for the password")
	}
	if !strings.Contains(args[1], "{") { // else Provision checks the expanded URL
		if err := sharedcache.CheckURL(args[1]); err != nil {
			return d.WrapErr(fmt.Errorf("cache redis: %w", err))
		}
	}
	a.Cache = &CacheConfig{Type: args[0], URL: args[1]}
	return nil
}

func (a *App) provisionCache() error {
	if a.Cache == nil {
		return nil
	}
	if a.Cache.Type != "" {
		if err := checkCacheType(a.Cache.Type); err != nil {
			return err
		}
	}
	url, err := expandURL("cache", a.Cache.URL)
	if err != nil {
		return err
	}
	if err := sharedcache.CheckURL(url); err != nil {
		return fmt.Errorf("cache redis: %w", err)
	}
	a.cacheURL = url
	return nil
}

// openCache opens the cache, if one is configured, and adds it to the settings. The server may be
// unreachable.
func (a *App) openCache() (err error) {
	if a.cacheURL == "" {
		return nil
	}
	a.cache, err = sharedcache.OpenRedis(sharedcache.Options{
		URL:    a.cacheURL,
		Logger: a.logger,
		Failed: func() { sharedCacheErrors.Add(1) },
	})
	if err != nil {
		return fmt.Errorf("cache redis: %w", err)
	}
	a.settings.Cache, a.settings.Rates = a.cache, a.cache
	return nil
}

// closeCache closes the cache. No settings in force may refer to it, unless the store is closed.
func (a *App) closeCache() error {
	if a.cache == nil {
		return nil
	}
	return a.cache.Close()
}
