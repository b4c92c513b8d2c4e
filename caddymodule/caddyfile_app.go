package caddymodule

import (
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobalOption)
}

func parseGlobalOption(d *caddyfile.Dispenser, earlier any) (any, error) {
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if earlier != nil {
		return nil, d.Err("the global option api_keys is given twice: Caddy has one key store")
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// appOptions parses the options. Their errors repeat arguments only through redact.Argument, because
// they may be secrets. So they do not use Dispenser.ArgErr.
var appOptions = map[string]func(a *App, d *caddyfile.Dispenser, args []string) error{
	"database": func(a *App, d *caddyfile.Dispenser, args []string) error {
		if len(args) == 0 {
			return d.Err("database requires a kind: sqlite [PATH], or postgres URL")
		}
		switch {
		case strings.Contains(args[0], "://"):
			args = append([]string{"postgres"}, args...)
		case strings.HasPrefix(args[0], "{"):
			return d.Err("database requires a kind before a placeholder: `database postgres " +
				"{env.NAME}` or `database sqlite {env.NAME}`")
		}
		if err := checkDatabaseType(args[0]); err != nil {
			return d.WrapErr(err)
		}
		if args[0] == "postgres" {
			if len(args) != 2 || args[1] == "" {
				return d.Err("database postgres requires one URL: " +
					"postgres://USER:PASSWORD@HOST:PORT/DATABASE, better with {env.NAME} or " +
					"{file.PATH} for the password")
			}
			if !strings.Contains(args[1], "{") { // else Provision checks the expanded URL
				if _, err := sqldb.PostgresIdentity(args[1]); err != nil {
					return d.WrapErr(err)
				}
			}
			a.Database = &DatabaseConfig{Type: args[0], URL: args[1]}
			return nil
		}
		if len(args) > 2 {
			return d.Err("database sqlite accepts at most one path")
		}
		a.Database = &DatabaseConfig{Type: args[0]}
		if len(args) == 2 {
			if a.Database.Path = args[1]; a.Database.Path == "" {
				return d.Err("the path of database sqlite must not be empty: leave it out for " +
					"apikeys.db in Caddy's data directory")
			}
			if err := checkDatabasePath(a.Database.Path); err != nil {
				return d.WrapErr(err)
			}
		}
		return nil
	},
	"cache": parseCache,
	"local_cache": func(a *App, d *caddyfile.Dispenser, args []string) (err error) {
		ok := len(args) == 1 || len(args) == 2
		if ok {
			a.LocalCache, err = strconv.Atoi(args[0])
			ok = err == nil && a.LocalCache > 0
		}
		if ok && len(args) == 2 {
			a.LocalCacheBytes, ok = parseSize(args[1])
			ok = ok && a.LocalCacheBytes >= minMemory
		}
		if !ok {
			return d.Errf("local_cache %s: must be a number of keys above 0, optionally with a "+
				"size of at least 16MiB", redact.Argument(strings.Join(args, " ")))
		}
		return nil
	},
	"request_memory": func(a *App, d *caddyfile.Dispenser, args []string) error {
		ok := len(args) == 1
		if ok {
			a.RequestMemory, ok = parseSize(args[0])
		}
		if !ok || a.RequestMemory < minMemory {
			return d.Errf("request_memory %s: must be one size of at least 16MiB",
				redact.Argument(strings.Join(args, " ")))
		}
		return nil
	},
	"lease": func(a *App, d *caddyfile.Dispenser, args []string) error {
		var lease time.Duration
		var err error
		if len(args) == 1 {
			lease, err = caddy.ParseDuration(args[0])
		}
		if len(args) != 1 || err != nil || lease < minLease || lease > maxLease {
			return d.Errf("lease %s: must be one duration between %s and %s, such as 30s",
				redact.Argument(strings.Join(args, " ")), minLease, maxLease)
		}
		a.Lease = caddy.Duration(lease)
		return nil
	},
	"token_prefix": func(a *App, d *caddyfile.Dispenser, args []string) error {
		if len(args) == 0 {
			return d.Err("token_prefix requires one or more prefixes, the first for new keys")
		}
		a.TokenPrefix = args
		return checkPrefixArgs(d, "token_prefix", args)
	},
	"abandon_prefix": func(a *App, d *caddyfile.Dispenser, args []string) error {
		if len(args) == 0 {
			return d.Err("abandon_prefix requires one or more prefixes that token_prefix no " +
				"longer accepts")
		}
		a.AbandonPrefix = args
		return checkPrefixArgs(d, "abandon_prefix", args)
	},
	"capacity":  parseCapacity,
	"abuse":     parseAbuse,
	"derive":    parseDerive,
	"usage":     parseUsage,
	"remind":    parseRemindOption,
	"unused":    parseUnused,
	"leak_keys": parseLeakKeys,
	"webhook":   parseWebhook,
	"token_key": func(a *App, d *caddyfile.Dispenser, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return d.Err("token_key requires one argument: 64 hex digits, or better {env.NAME} or " +
				"{file.PATH} with them")
		}
		a.TokenKey = args[0]
		return nil
	},
}

const appOptionNames = "database, cache, local_cache, lease, token_prefix, abandon_prefix, " +
	"token_key, capacity, request_memory, abuse, usage, derive, remind, unused, leak_keys, webhook"

// checkPrefixArgs checks the prefixes that have no placeholder. Provision checks the others once
// they are expanded.
func checkPrefixArgs(d *caddyfile.Dispenser, option string, prefixes []string) error {
	for _, prefix := range prefixes {
		if !strings.Contains(prefix, "{") {
			if err := checkPrefix(option, prefix); err != nil {
				return d.WrapErr(err)
			}
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	api_keys {
//	    database       sqlite [<path>] | [postgres] <url>
//	    cache          [redis] <url>
//	    local_cache    <entries> [<size>]
//	    lease          <duration>
//	    token_prefix   <for_new_keys> [<accepted_too>...]
//	    abandon_prefix <no_longer_accepted>...
//	    token_key      <64_hex_digits>
//	    capacity {
//	        namespaces         <deployment> [<per_namespace>]
//	        roles              <deployment> [<per_namespace>]
//	        plans              <deployment> [<per_namespace>]
//	        members            <deployment> [<per_namespace>]
//	        directory          <size> [<size_per_namespace>]
//	        keys_per_namespace <keys>
//	        keys_per_owner     <keys>
//	    }
//	    request_memory <size>
//	    abuse          <failures>/<duration>
//	    usage          off
//	    usage {
//	        minutes <duration>|forever
//	        hours   <duration>|forever
//	        days    <duration>|forever
//	        months  <duration>|forever
//	    }
//	    derive         off
//	    derive         max <duration>
//	    remind         <time_before_expiry>...|off
//	    unused         <time>
//	    leak_keys      <url>|<file>
//	    webhook        <url> {
//	        secret        <secret> [<former_secret>...]
//	        events        <type>...
//	        namespace     <id>...
//	        allow_private
//	    }
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // api_keys
	if d.NextArg() {
		return d.Err("the global option api_keys accepts no arguments, only a block")
	}
	given := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		parse, known := appOptions[option]
		switch {
		case !known:
			return d.Errf("unknown option %q in the global option api_keys: must be one of %s",
				redact.Argument(option), appOptionNames)
		case given[option] && option != "webhook":
			return d.Errf("%s is given twice in the global option api_keys", option)
		}
		given[option] = true
		if err := parse(a, d, d.RemainingArgs()); err != nil {
			return err
		}
		if d.NextBlock(1) {
			return d.Errf("%s accepts no block", option)
		}
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*App)(nil)
