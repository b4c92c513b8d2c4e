package sharedcache

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A location is a parsed URL.
type location struct {
	addrs              []string // HOST:PORT, or the path of a socket
	cluster            bool
	db                 int
	username, password string

	master                             string // of Sentinel
	sentinelUsername, sentinelPassword string

	timeout       time.Duration
	ca, cert, key string      // files
	tls           *tls.Config // nil: none
}

// CheckURL returns an error if a text is not a Redis URL. It opens nothing, and its errors show no
// part of the URL that could be a password.
//
//	redis://[USER:PASSWORD@]HOST[:PORT][/DB]                     one server
//	unix://[USER:PASSWORD@]/PATH[?db=DB]                         one server, by its socket
//	redis://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]…             Cluster
//	redis-sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DB]   Sentinel, by its addresses
//
// rediss:// and rediss-sentinel:// are the same over TLS. Without a user, a password is written
// `:PASSWORD@`. Special characters in both are percent-encoded. The default port is 6379, and 26379
// for Sentinel. Options follow a `?`, separated by `&`:
//
//	timeout=DURATION             how long a call of Redis may take, 1ms to 1s; default is 50ms
//	cluster=true                 Cluster with a single address
//	sentinel_user=USER           user for the sentinels; default is none
//	sentinel_password=PASSWORD   password for the sentinels; default is none
//	ca=FILE                      trusted authorities, in PEM; default is those of the system
//	cert=FILE, key=FILE          client certificate and its key, in PEM
func CheckURL(text string) error {
	_, err := parseURL(text)
	return err
}

const defaultPort, sentinelPort = "6379", "26379"

func parseURL(text string) (*location, error) {
	scheme, rest, _ := strings.Cut(text, "://")
	l := &location{timeout: defaultTimeout}
	port := defaultPort
	switch scheme {
	case "redis", "unix":
	case "redis-sentinel":
		port = sentinelPort
	case "rediss":
		l.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	case "rediss-sentinel":
		l.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		port = sentinelPort
	default:
		return nil, errors.New("a Redis URL must begin with redis://, rediss://, unix://, " +
			"redis-sentinel:// or rediss-sentinel://")
	}

	// net/url does not support lists of hosts, and quotes the URL in its errors.
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	hosts := authority[strings.LastIndexByte(authority, '@')+1:]
	tail := rest[len(authority):]
	u, err := url.Parse("redis://" + strings.TrimSuffix(authority, hosts) + "host" + tail)
	if err != nil || strings.Contains(tail, "@") || strings.Contains(tail, "#") {
		return nil, errors.New("not a Redis URL: special characters in the user name, the " +
			"password and options must be percent-encoded (/ is %2F, # is %23, ? is %3F, @ is " +
			"%40, % is %25)")
	}
	if u.User != nil {
		l.username = u.User.Username()
		if l.password, _ = u.User.Password(); l.password == "" {
			return nil, errors.New("a user name must have a password: write USER:PASSWORD@, or " +
				":PASSWORD@ without a user")
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("options after the ? must be NAME=VALUE, separated by &, with " +
			"special characters percent-encoded")
	}
	for name, values := range query {
		if len(values) > 1 {
			return nil, fmt.Errorf("%s must not be given twice", name)
		}
		if err := l.option(scheme, name, values[0]); err != nil {
			return nil, err
		}
	}
	if (l.cert == "") != (l.key == "") {
		return nil, errors.New("cert and key must be given together")
	}
	if scheme == "unix" {
		if hosts != "" || len(u.Path) < 2 {
			return nil, errors.New("the path of a socket must be absolute: unix:///PATH")
		}
		l.addrs = []string{u.Path}
		return l, nil
	}
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := address(host, port)
		if err != nil {
			return nil, err
		}
		l.addrs = append(l.addrs, addr)
	}
	return l, l.path(strings.Trim(u.Path, "/"), port == sentinelPort)
}

// address adds the default port to a host that has none.
func address(host, port string) (string, error) {
	u, err := url.Parse("//" + host)
	if err == nil && u.Port() != "" {
		port = u.Port()
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || u.Hostname() == "" || strings.Contains(u.Hostname(), ":") && host[0] != '[' {
		return "", errors.New("an address is missing or is not HOST or HOST:PORT ([ADDRESS]:PORT " +
			"for IPv6)")
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// path parses the path of a URL, which follows the addresses.
func (l *location) path(path string, sentinel bool) (err error) {
	db := path
	if sentinel {
		if l.master, db, _ = strings.Cut(path, "/"); l.master == "" {
			return errors.New("the path must name the master that the sentinels monitor: " +
				"redis-sentinel://HOST,HOST/MASTER")
		}
	} else {
		l.cluster = l.cluster || len(l.addrs) > 1
	}
	if db != "" {
		if l.db, err = parseDB(db); err != nil {
			return err
		}
	}
	if l.cluster && l.db != 0 {
		return errors.New("a Redis Cluster has only database 0")
	}
	return nil
}

func parseDB(text string) (int, error) {
	db, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, errors.New("a database must be a number, 0 or greater")
	}
	return int(db), nil
}

const optionNames = "timeout, cluster, db, sentinel_user, sentinel_password, ca, cert, key"

// option applies one option.
func (l *location) option(scheme, name, value string) (err error) {
	if value == "" {
		return fmt.Errorf("%s must not be empty", name)
	}
	schemes := []string{"redis", "rediss", "redis-sentinel", "rediss-sentinel", "unix"}
	switch name {
	case "timeout":
		if l.timeout, err = time.ParseDuration(value); err != nil || l.timeout < time.Millisecond ||
			l.timeout > time.Second {
			return errors.New("timeout must be a duration between 1ms and 1s, such as 50ms")
		}
	case "cluster":
		schemes = []string{"redis", "rediss"}
		if l.cluster, err = strconv.ParseBool(value); err != nil {
			return errors.New("cluster must be true or false")
		}
	case "db":
		schemes = []string{"unix"}
		if l.db, err = parseDB(value); err != nil {
			return err
		}
	case "sentinel_user":
		schemes = []string{"redis-sentinel", "rediss-sentinel"}
		l.sentinelUsername = value
	case "sentinel_password":
		schemes = []string{"redis-sentinel", "rediss-sentinel"}
		l.sentinelPassword = value
	case "ca":
		schemes = []string{"rediss", "rediss-sentinel"}
		l.ca = value
	case "cert":
		schemes = []string{"rediss", "rediss-sentinel"}
		l.cert = value
	case "key":
		schemes = []string{"rediss", "rediss-sentinel"}
		l.key = value
	default:
		return fmt.Errorf("unknown option %q: must be one of %s", name, optionNames)
	}
	if !slices.Contains(schemes, scheme) {
		return fmt.Errorf("%s requires a URL with %s://", name, strings.Join(schemes, ":// or "))
	}
	return nil
}

// loadTLS reads the files in the URL.
func (l *location) loadTLS() error {
	if l.ca != "" {
		pem, err := os.ReadFile(l.ca)
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		l.tls.RootCAs = x509.NewCertPool()
		if !l.tls.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ca: %s must contain a certificate in PEM", l.ca)
		}
	}
	if l.cert != "" {
		pair, err := tls.LoadX509KeyPair(l.cert, l.key)
		if err != nil {
			return fmt.Errorf("cert and key: %w", err)
		}
		l.tls.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// secrets returns the passwords, which no error may show.
func (l *location) secrets() []string {
	var secrets []string
	for _, s := range []string{l.password, l.sentinelPassword} {
		if s != "" {
			secrets = append(secrets, s)
		}
	}
	return secrets
}
