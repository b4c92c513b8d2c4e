package sqldb

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A postgresURL is a connection URI, split and decoded like libpq.
// See https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS.
type postgresURL struct {
	user, password string
	hosts          string // with ports
	database       string
	options        map[string]string
}

func parseURL(dsn string) (*postgresURL, error) {
	scheme, rest, found := strings.Cut(dsn, "://")
	if !found || scheme != "postgres" && scheme != "postgresql" || strings.Contains(rest, "#") {
		return nil, errPostgresURL
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority = rest[:i]
	}
	path, query, _ := strings.Cut(rest[len(authority):], "?")
	login, hosts, found := strings.Cut(authority, "@")
	if !found {
		login, hosts = "", authority
	}
	u := &postgresURL{options: make(map[string]string)}
	if !validHosts(hosts) {
		return nil, errPostgresURL // an error could show a part of the password as a host
	}
	var undecodable bool
	decode := func(text string) string {
		decoded, err := url.PathUnescape(text)
		undecodable = undecodable || err != nil
		return decoded
	}
	user, password, _ := strings.Cut(login, ":")
	u.user, u.password, u.hosts = decode(user), decode(password), decode(hosts)
	u.database = decode(strings.TrimPrefix(path, "/"))
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		name, value, found := strings.Cut(pair, "=")
		if !found || strings.Contains(value, "=") {
			return nil, errPostgresURL
		}
		name, value = decode(name), decode(value)
		u.options[name] = value // of repeated options, the last one is effective
		if name == "dbname" || name == "database" {
			u.database = value
		}
	}
	if undecodable {
		return nil, errPostgresURL
	}
	for _, name := range slices.Sorted(maps.Keys(u.options)) {
		if err := checkParameter(name, u.options[name]); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// validHosts reports whether text is HOST[:PORT], with commas between several, where HOST may be
// [ADDRESS].
func validHosts(text string) bool {
	for host := range strings.SplitSeq(text, ",") {
		name, port, _ := strings.Cut(host, ":")
		if strings.HasPrefix(host, "[") {
			var closed bool
			if name, port, closed = strings.Cut(host[1:], "]"); !closed || port != "" &&
				port[0] != ':' {
				return false
			}
			port = strings.TrimPrefix(port, ":")
		}
		if strings.ContainsAny(name, "@[]") || strings.Trim(port, "0123456789") != "" {
			return false
		}
	}
	return true
}

// identity returns USER@HOSTS/DATABASE and the options that determine the schema.
func (u *postgresURL) identity() string {
	or := func(value, option string) string {
		if other, given := u.options[option]; given {
			return other
		}
		return value
	}
	hosts := or(u.hosts, "host")
	if port := or("", "port"); port != "" {
		hosts += ":" + port
	}
	if !strings.Contains(hosts, "/") { // the path of a socket is case-sensitive
		hosts = strings.ToLower(hosts)
	}
	identity := or(u.user, "user") + "@" + hosts + "/" + u.database
	// options may set a search_path as well
	for _, name := range []string{"search_path", "options", "service"} {
		if value := or("", name); value != "" {
			identity += " " + name + "=" + value
		}
	}
	return identity
}

// unsupported are parameters of libpq that the driver cannot honor.
var unsupported = strings.Fields(`hostaddr requirepeer sslcrl sslcrldir sslkeylogfile
	tcp_user_timeout gsslib
	scram_client_key scram_server_key oauth_issuer oauth_client_id oauth_client_secret oauth_scope`)

// adjusted are parameters of libpq that the driver would send to the server, with their allowed
// values; nil: any value, or any whole number below 65536 for keepalives_*.
var adjusted = map[string][]string{
	"fallback_application_name": nil,
	"gssencmode":                {"disable", "prefer"}, // the driver has no GSS encryption
	"gssdelegation":             {"0"},
	"load_balance_hosts":        {"disable", "random"}, // there is only one primary
	"replication":               {"false", "off", "no", "0"},
	"sslcompression":            {"0", "1"}, // libpq ignores it
	"client_encoding":           {"utf8", "auto"},
	"ssl_min_protocol_version":  tlsVersions,
	"ssl_max_protocol_version":  tlsVersions,
	"keepalives":                {"0", "1"},
	"keepalives_idle":           nil,
	"keepalives_interval":       nil,
	"keepalives_count":          nil,
}

var tlsVersions = []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}

// checkParameter returns an error if a parameter of libpq, or its value, is not supported. The
// error does not show the value.
func checkParameter(name, value string) error {
	if slices.Contains(unsupported, name) {
		return fmt.Errorf("connection parameter %s is not supported: remove it from the "+
			"PostgreSQL URL", name)
	}
	values, known := adjusted[name]
	switch {
	case known && values != nil &&
		!slices.Contains(values, strings.ReplaceAll(value, "UTF", "utf")):
		last := len(values) - 1
		listed := values[last]
		if last > 0 {
			listed = strings.Join(values[:last], ", ") + " or " + listed
		}
		return fmt.Errorf("connection parameter %s must be %s", name, listed)
	case strings.HasPrefix(name, "keepalives_"):
		if _, err := strconv.ParseUint(value, 10, 16); err != nil {
			return fmt.Errorf("connection parameter %s must be a whole number below 65536", name)
		}
	}
	return nil
}

// adjust applies the parameters of libpq that are not for the server, and removes them from the
// parameters that the driver sends. They may also come from a service file.
func adjust(config *pgx.ConnConfig) error {
	parameters := config.RuntimeParams
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if err := checkParameter(name, parameters[name]); err != nil {
			return err
		}
	}
	if name := parameters["fallback_application_name"]; parameters["application_name"] == "" &&
		name != "" {
		parameters["application_name"] = name
	}
	configs := []*tls.Config{config.TLSConfig}
	for _, other := range config.Fallbacks {
		configs = append(configs, other.TLSConfig)
	}
	for _, c := range configs {
		if c == nil {
			continue
		}
		if i := slices.Index(tlsVersions, parameters["ssl_min_protocol_version"]); i >= 0 {
			c.MinVersion = tls.VersionTLS10 + uint16(i)
		}
		if i := slices.Index(tlsVersions, parameters["ssl_max_protocol_version"]); i >= 0 {
			c.MaxVersion = tls.VersionTLS10 + uint16(i)
		}
	}
	for name := range parameters {
		if strings.HasPrefix(name, "keepalives") {
			dialer := net.Dialer{Timeout: config.ConnectTimeout, KeepAlive: -1,
				KeepAliveConfig: keepAlive(parameters)}
			config.DialFunc = dialer.DialContext
			break
		}
	}
	maps.DeleteFunc(parameters, func(name, _ string) bool {
		_, ours := adjusted[name]
		return ours
	})
	return nil
}

// keepAlive returns the TCP settings in the parameters. In libpq and in Go, zero stands for the
// default.
func keepAlive(parameters map[string]string) net.KeepAliveConfig {
	if parameters["keepalives"] == "0" {
		return net.KeepAliveConfig{}
	}
	number := func(name string) int {
		n, _ := strconv.Atoi(parameters[name]) // checkParameter has checked it
		return n
	}
	return net.KeepAliveConfig{
		Enable:   true,
		Idle:     time.Duration(number("keepalives_idle")) * time.Second,
		Interval: time.Duration(number("keepalives_interval")) * time.Second,
		Count:    number("keepalives_count"),
	}
}
