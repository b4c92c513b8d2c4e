package sharedcache

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestURL(t *testing.T) {
	for _, test := range []struct {
		url  string
		want location
	}{
		{"redis://localhost", location{addrs: []string{"localhost:6379"}}},
		{"redis://localhost:7000/3", location{addrs: []string{"localhost:7000"}, db: 3}},
		{"redis://[::1]:7000/", location{addrs: []string{"[::1]:7000"}}},
		{"redis://[::1]", location{addrs: []string{"[::1]:6379"}}},
		{"redis://:pass@h", location{addrs: []string{"h:6379"}, password: "pass"}},
		{"redis://user:p%2Fa%40s%3As@h",
			location{addrs: []string{"h:6379"}, username: "user", password: "p/a@s:s"}},
		{"redis://user:p@ss@h", location{addrs: []string{"h:6379"}, username: "user",
			password: "p@ss"}},
		{"rediss://h?ca=/etc/ca.pem&cert=c&key=k",
			location{addrs: []string{"h:6379"}, ca: "/etc/ca.pem", cert: "c", key: "k"}},
		{"redis://a:1,b:2,[::1]:3", location{addrs: []string{"a:1", "b:2", "[::1]:3"},
			cluster: true}},
		{"redis://u:p@a?cluster=true",
			location{addrs: []string{"a:6379"}, username: "u", password: "p", cluster: true}},
		{"redis://h?timeout=20ms", location{addrs: []string{"h:6379"},
			timeout: 20 * time.Millisecond}},
		{"redis://h?timeout=1ms", location{addrs: []string{"h:6379"}, timeout: time.Millisecond}},
		{"unix:///run/redis.sock", location{addrs: []string{"/run/redis.sock"}}},
		{"unix:///s", location{addrs: []string{"/s"}}},
		{"unix://u:p@/run/redis.sock?db=2",
			location{addrs: []string{"/run/redis.sock"}, username: "u", password: "p", db: 2}},
		{"redis-sentinel://a,b:2/main",
			location{addrs: []string{"a:26379", "b:2"}, master: "main"}},
		{"rediss-sentinel://u:p@a/main/4?sentinel_user=s&sentinel_password=t%26", location{
			addrs: []string{"a:26379"}, master: "main", db: 4, username: "u", password: "p",
			sentinelUsername: "s", sentinelPassword: "t&",
		}},
	} {
		got, err := parseURL(test.url)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		if secure := strings.HasPrefix(test.url, "rediss"); secure != (got.tls != nil) {
			t.Errorf("%s: TLS is %t", test.url, got.tls != nil)
		}
		if test.want.timeout == 0 {
			test.want.timeout = defaultTimeout
		}
		addrs := test.want.addrs
		if !slices.Equal(got.addrs, addrs) {
			t.Errorf("%s: addresses %q, want %q", test.url, got.addrs, addrs)
		}
		got.tls, got.addrs, test.want.addrs = nil, nil, nil
		if g, w := *got, test.want; !same(g, w) {
			t.Errorf("%s: %+v, want %+v", test.url, g, w)
		}
	}
}

func same(a, b location) bool {
	return a.cluster == b.cluster && a.db == b.db && a.username == b.username &&
		a.password == b.password && a.master == b.master &&
		a.sentinelUsername == b.sentinelUsername && a.sentinelPassword == b.sentinelPassword &&
		a.timeout == b.timeout &&
		a.ca == b.ca && a.cert == b.cert && a.key == b.key
}

// TestBadURL uses the word secret where a password could be. No error may show it.
func TestBadURL(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"", "begin with redis://"},
		{"secret@localhost:6379", "begin with redis://"},
		{"http://:secret@localhost", "begin with redis://"},
		{"redis://", "HOST"},
		{"redis://:secret", "HOST"},
		{"redis://:secret@", "HOST"},
		{"redis://:secret@h:port", "HOST"},
		{"redis://:secret@h:70000", "HOST"},
		{"redis://:secret@a,,b", "HOST"},
		{"redis://:secret@::1", "HOST"},
		{"redis://secret@h", "USER:PASSWORD@"},
		{"redis://:sec/secret@h", "percent-encoded"},
		{"redis://:sec?secret@h", "percent-encoded"},
		{"redis://:sec#secret@h", "percent-encoded"},
		{"redis://:secret%zz@h", "percent-encoded"},
		{"redis://:se cret@h\n", "percent-encoded"},
		{"redis://:secret@h/x", "number"},
		{"redis://:secret@h/-1", "number"},
		{"redis://:secret@h/99999999999", "number"},
		{"redis://:secret@a,b/1", "database 0"},
		{"redis://:secret@a/1?cluster=true", "database 0"},
		{"redis://:secret@h?cluster=secret", "true or false"},
		{"redis://:secret@h?timeout=secret", "between 1ms and 1s"},
		{"redis://:secret@h?timeout=2s", "between 1ms and 1s"},
		{"redis://:secret@h?timeout=0", "between 1ms and 1s"},
		{"redis://:secret@h?timeout", "timeout must not be empty"},
		{"redis://:secret@h?timeout=10ms&timeout=20ms", "given twice"},
		{"redis://:secret@h?read_timeout=secret", `unknown option "read_timeout"`},
		{"redis://:secret@h?db=1", "unix://"},
		{"redis://:secret@h?ca=/ca.pem", "rediss://"},
		{"rediss://:secret@h?cert=c", "given together"},
		{"redis://:secret@h?sentinel_password=secret", "redis-sentinel://"},
		{"redis://:secret@h?a=%zz", "percent-encoded"},
		{"redis-sentinel://:secret@h", "master"},
		{"redis-sentinel://:secret@h/m/x", "number"},
		{"redis-sentinel://:secret@h/m?cluster=true", "redis://"},
		{"unix://:secret@host/path", "unix:///PATH"},
		{"unix://", "unix:///PATH"},
	} {
		err := CheckURL(test.url)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want an error with %q", test.url, err, test.want)
		} else if strings.Contains(err.Error(), "secret") &&
			!strings.Contains(test.want, "secret") {
			t.Errorf("%q: the error shows the password: %v", test.url, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	f.Add("redis://user:pass@h:1,[::1]:2/3?timeout=20ms")
	f.Add("redis-sentinel://:p%40@h/m/0?sentinel_password=x")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseURL(text)
		if err != nil {
			return
		}
		if len(l.addrs) == 0 || l.timeout <= 0 {
			t.Errorf("%q: %+v", text, l)
		}
		l.client().Close() // go-redis panics on some wrong options
	})
}
