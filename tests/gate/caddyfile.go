package gate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Config is the content of a gate's Caddyfile. The zero value is one site, over HTTP/1.1 and over
// TLS with HTTP/2, with an `api_key` without subdirectives in front of the recording upstream.
//
// All texts may use {$GATE_UPSTREAM} (host:port), {$GATE_HTTP}, {$GATE_HTTPS} (ports),
// {$GATE_ADMIN} (address) and {$GATE_DIR} (a directory).
type Config struct {
	APIKey string // subdirectives of `api_key`, one per line
	Site   string // replaces the whole site, including `api_key` and `reverse_proxy`
	// Sites are further sites by their host names. Of each, only APIKey and Site count.
	Sites map[string]Config

	APIKeys string // options in the global `api_keys` block
	// Servers are options in the global `servers` block, such as `trusted_proxies static
	// 127.0.0.1/32`.
	Servers string
	Global  string // further global options

	Caddyfile string // replaces the whole Caddyfile

	HTTP3       bool     // serve HTTP/3 too, on the UDP port of the same number
	AdminSocket bool     // put the admin endpoint on a Unix socket instead of a TCP port
	Env         []string // further NAME=value for Caddy
	Binary      string   // the Caddy to run; "" is the one under test
	DataOf      *Gate    // share the data directory, and so the SQLite file, of this gate
}

// DefaultGC is an Env for tests that measure the memory of Caddy, because `make test` sets another
// GOGC.
var DefaultGC = []string{"GOGC=100"}

// Text returns the Caddyfile.
func (c Config) Text() string {
	if c.Caddyfile != "" {
		return c.Caddyfile
	}
	sites := c.site("site", "")
	for i, host := range slices.Sorted(maps.Keys(c.Sites)) {
		sites += c.Sites[host].site(fmt.Sprintf("site%d", i), host)
	}
	protocols := "protocols h1 h2\n"
	if c.HTTP3 {
		protocols = "protocols h1 h2 h3\n"
	}
	return fmt.Sprintf(`{
	admin {$GATE_ADMIN}
	auto_https disable_redirects
	skip_install_trust
	grace_period 2s
	metrics
	log {
		output stderr
		format api_keys
	}
%s%s%s
}
`, block("api_keys", c.APIKeys), block("servers", protocols+c.Servers), c.Global) + sites
}

// site is the site over HTTP and over HTTPS. The site of host "" answers for all other hosts.
func (c Config) site(snippet, host string) string {
	site := c.Site
	if site == "" {
		site = block("api_key", c.APIKey) + "reverse_proxy {$GATE_UPSTREAM}"
	}
	return fmt.Sprintf(`
(%[1]s) {
	bind 127.0.0.1
	log {
		output file {$GATE_DIR}/access.log
		format api_keys
	}
%[3]s
}

http://%[2]s:{$GATE_HTTP} {
	import %[1]s
}

https://%[2]s:{$GATE_HTTPS} {
	tls {$GATE_DIR}/cert.pem {$GATE_DIR}/key.pem
	import %[1]s
}
`, snippet, host, site)
}

func block(name, body string) string {
	if strings.TrimSpace(body) == "" {
		return name + "\n"
	}
	return name + " {\n" + body + "\n}\n"
}
