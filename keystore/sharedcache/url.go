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

// A location is what a URL says.
type location struct {
	addrs              []string
	cluster            bool
	db                 int
	username, password string

	master                             string // of Sentinel
	sentinelUsername, sentinelPassword string

	timeout       time.Duration
	ca, cert, key string      // files
	tls           *tls.Config // nil: none
}

// CheckURL says what is wrong with the URL of a Redis. It opens nothing, and its errors show no
// part of the URL that could be a password.
//
//	redis://[USER:PASSWORD@]HOST[:PORT][/DB]                       one server
//	unix://[USER:PASSWORD@]/PATH[?db=DB]                           one server, by its socket
//	redis://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]…               Cluster
//	redis-sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DB]     Sentinel: the addresses are the sentinels'
//
// rediss:// and rediss-sentinel:// are the same over TLS. A password without a user is
// `:PASSWORD@`; special characters in either are percent-encoded. Ports are 6379, of sentinels
// 26379, unless given. Further options follow a `?`, separated by `&`:
//
//	timeout=DURATION                               how long a request waits for Redis at most, 1ms to 1s; default is 50ms
//	cluster=true                                   Cluster, of which one address is given
//	sentinel_user=USER, sentinel_password=PASSWORD how to sign in at the sentinels; default is not at all
//	ca=FILE                                        whom to trust for the server's certificate, in PEM; default is whom the system trusts
//	cert=FILE, key=FILE                            the client's certificate and its key, in PEM
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
		return nil, errors.New("a Redis URL begins with redis://, rediss://, unix://, " +
			"redis-sentinel:// or rediss-sentinel://")
	}

	// net/url knows no lists of hosts, and shows in its errors what it could not parse.
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
			return nil, errors.New("there is a user name without a password: it is " +
				"USER:PASSWORD@, or :PASSWORD@ without a user")
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("what follows the ? must be NAME=VALUE, separated by &, special " +
			"characters percent-encoded")
	}
	for name, values := range query {
		if len(values) > 1 {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		if err := l.option(scheme, name, values[0]); err != nil {
			return nil, err
		}
	}
	if (l.cert == "") != (l.key == "") {
		return nil, errors.New("cert and key go together")
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

// path reads what comes after the addresses.
func (l *location) path(path string, sentinel bool) (err error) {
	db := path
	if sentinel {
		if l.master, db, _ = strings.Cut(path, "/"); l.master == "" {
			return errors.New("the master that the sentinels watch is missing: " +
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
		return errors.New("a Redis Cluster has database 0 alone")
	}
	return nil
}

func parseDB(text string) (int, error) {
	db, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, errors.New("a database is a number from 0")
	}
	return int(db), nil
}

const optionNames = "timeout, cluster, db, sentinel_user, sentinel_password, ca, cert, key"

// option reads one of the options behind the question mark.
func (l *location) option(scheme, name, value string) (err error) {
	if value == "" {
		return fmt.Errorf("%s is empty", name)
	}
	schemes := []string{"redis", "rediss", "redis-sentinel", "rediss-sentinel", "unix"}
	switch name {
	case "timeout":
		if l.timeout, err = time.ParseDuration(value); err != nil || l.timeout < time.Millisecond ||
			l.timeout > time.Second {
			return errors.New("timeout takes a duration between 1ms and 1s, such as 50ms")
		}
	case "cluster":
		schemes = []string{"redis", "rediss"}
		if l.cluster, err = strconv.ParseBool(value); err != nil {
			return errors.New("cluster is true or false")
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
		return fmt.Errorf("unknown option %q: there are %s", name, optionNames)
	}
	if !slices.Contains(schemes, scheme) {
		return fmt.Errorf("%s is an option of %s:// alone", name, strings.Join(schemes, ":// and "))
	}
	return nil
}

// loadTLS reads the files that the URL names.
func (l *location) loadTLS() error {
	if l.ca != "" {
		pem, err := os.ReadFile(l.ca)
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		l.tls.RootCAs = x509.NewCertPool()
		if !l.tls.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ca: there is no certificate in PEM in %s", l.ca)
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

// secrets returns what no error may show.
func (l *location) secrets() []string {
	var secrets []string
	for _, s := range []string{l.password, l.sentinelPassword} {
		if s != "" {
			secrets = append(secrets, s)
		}
	}
	return secrets
}
