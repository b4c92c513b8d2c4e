package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A kind is one way to run Caddy. All kinds run the same program with the same Caddyfile except
// for these parts.
type kind struct {
	name   string
	format string // the format of all logs
	global string // further global options
	front  string // the handlers in front of `reverse_proxy` and `respond`
}

var (
	stock      = kind{name: "stock", format: "json"}
	control    = kind{name: "stock again (control)", format: "json"}
	withFormat = kind{name: "`format api_keys`", format: "api_keys"}
	withKeys   = kind{"`format api_keys`, `api_key`", "api_keys", "api_keys", "api_key"}
	fewHeaders = kind{"`format api_keys`, `api_key` with `identity id namespace`", "api_keys",
		"api_keys", "api_key {\n\t\tidentity id namespace\n\t}"}
	noHeaders = kind{"`format api_keys`, `api_key` with `identity none`", "api_keys", "api_keys",
		"api_key {\n\t\tidentity none\n\t}"}
)

// setHeaders sets the headers that `api_key` sets, to constants and without checking a key.
func setHeaders(id string) kind {
	return kind{name: "`request_header`, six times", format: "json", front: `request_header -Authorization
	request_header X-Apikey-Id ` + id + `
	request_header X-Apikey-Name bench
	request_header X-Apikey-Namespace default
	request_header X-Apikey-Owner root
	request_header X-Apikey-Permissions read`}
}

// forwardAuth asks a checker about each request.
func forwardAuth(checker string) kind {
	return kind{name: "`forward_auth`", format: "json", front: `forward_auth ` + checker + ` {
		uri /check
		copy_headers X-Key-Id
	}`}
}

// caddyfile has one site per port. Its verbs are the parts of a kind.
const caddyfile = `{
	admin {$GATE_ADMIN}
	auto_https off
	default_bind 127.0.0.1
	log {
		format %[1]s
	}
	servers :{$BENCH_HTTP2} {
		protocols h1 h2c
	}
	servers :{$BENCH_HTTP2_LOG} {
		protocols h1 h2c
	}
	%[2]s
}
(proxy) {
	%[3]s
	reverse_proxy {$BENCH_UPSTREAM}
}
(respond) {
	%[3]s
	respond 200
}
(log) {
	log {
		output file {$GATE_DIR}/access.log {
			roll_disabled
		}
		format %[1]s
	}
}
http://:{$BENCH_PROXY}, http://:{$BENCH_HTTP2} {
	import proxy
}
http://:{$BENCH_PROXY_LOG}, http://:{$BENCH_HTTP2_LOG} {
	import log
	import proxy
}
http://:{$BENCH_RESPOND} {
	import respond
}
http://:{$BENCH_RESPOND_LOG} {
	import log
	import respond
}
http://:{$BENCH_REFUSE} {
	respond 401
}
`

// A caddy is one process with the sites of caddyfile.
type caddy struct {
	*gate.Gate
	name  string
	sites map[string]string // addresses by name
	token string            // that requests carry; set by the caller of startCaddy
}

func startCaddy(b *testing.B, k kind, upstream string) *caddy {
	b.Helper()
	c := &caddy{name: k.name, sites: map[string]string{}}
	env := []string{"BENCH_UPSTREAM=" + upstream}
	for _, site := range []string{"proxy", "proxy_log", "http2", "http2_log", "respond",
		"respond_log", "refuse"} {
		port := freeport.For(b)
		c.sites[site] = fmt.Sprint("127.0.0.1:", port)
		env = append(env, fmt.Sprintf("BENCH_%s=%d", strings.ToUpper(site), port))
	}
	c.Gate = gate.Start(b, gate.Config{Env: env,
		Caddyfile: fmt.Sprintf(caddyfile, k.format, k.global, k.front)})
	return c
}

// A request is one kind of request with which the processes are compared.
type request struct {
	name, title string
	site        string
	log         bool // whether the site has an access log
	browser     bool // with the headers of a browser
	goals       bool // the goals are for this request
}

var requests = []request{
	{"wrk", "no access log", "proxy", false, false, true},
	{"browser", "a browser's headers, no access log", "proxy", false, true, true},
	{"access_log", "a browser's headers, access log", "proxy", true, true, true},
	{"http2", "HTTP/2, a browser's headers, no access log", "http2", false, true, false},
	{"http2_access_log", "HTTP/2, a browser's headers, access log", "http2", true, true, false},
	{"respond", "`respond`, no access log", "respond", false, false, false},
	{"respond_access_log", "`respond`, a browser's headers, access log", "respond", true, true,
		false},
}

func (r request) load(c *caddy) load {
	site := r.site
	if r.log {
		site += "_log"
	}
	l := load{addr: c.sites[site], header: bearer(c.token), status: "200", conns: conns,
		length: roundLength, http2: r.site == "http2"}
	if r.browser {
		l.header = slices.Concat(browserHeaders, l.header)
	}
	return l
}

// browserHeaders are the ten headers that a browser sends with a fetch request.
var browserHeaders = []string{
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
	"Accept: application/json",
	"Accept-Language: en-GB,en;q=0.7,de;q=0.3",
	"Accept-Encoding: gzip, deflate, br, zstd",
	"Referer: https://shop.example.com/orders?page=2",
	"Cookie: session=5f2b7c1e9d304a68; theme=dark",
	"Sec-Fetch-Dest: empty",
	"Sec-Fetch-Mode: cors",
	"Sec-Fetch-Site: same-origin",
	"Priority: u=4",
}
