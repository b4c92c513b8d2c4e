// Package adversarial sends the requests of attackers, broken clients and disagreeing parsers to
// the gate. Each case is a row. The tests judge the response and the request that reached the
// upstream.
package adversarial

import (
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

// row is one request and its expected outcome. In all texts, {NAME} stands for the token of that
// key and {basic user:password} for its base64 form.
type row struct {
	what    string
	on      string // "1" or "2" to send only over this version of HTTP
	send    string // METHOD target
	header  []string
	body    string
	trailer []string

	// want is the status, or the status and the code of the problem document. Without a code, Caddy
	// itself may refuse the request. "refused" is any 4xx, or no response.
	want string
	as   string   // the key whose identity the upstream gets; "" is R, "-" is none
	at   string   // the target that the upstream gets, if not the one sent
	gone []string // header names that the upstream must not get
	kept []string // header lines that the upstream must get
	also []string // header lines of the response

	passes bool // whether the credential may stay in the request
}

// world is a gate and the keys of its rows.
type world struct {
	*gate.Gate
	ids    map[string]string // by key name
	tokens map[string]string
	host   string // host of the site for the rows; "" is the gate's own site
}

// operations separate R, which may read items, from A, which may do everything on ops.
const operations = `
	public /public/* /health
	operation items:get read GET /v1/items/**
	operation items:put write PUT /v1/items/**
	operation ops:get read GET /v1/admin/**
	operation ops:do write POST /v1/admin/**
`

// start runs a gate and mints the keys R and A and the revoked key X. J is a forged token, well
// formed except for its tag.
func start(t *testing.T, c gate.Config) world {
	t.Helper()
	w := world{Gate: gate.Start(t, c), ids: map[string]string{}, tokens: map[string]string{}}
	w.mint(t, "R", gate.JSON{"permissions": []string{"items:read"}})
	w.mint(t, "A", gate.JSON{"permissions": []string{"ops:*"}})
	w.Revoke(t, w.mint(t, "X", gate.JSON{"permissions": []string{"items:read"}}).ID)
	w.tokens["J"] = forge("ak")
	gate.Watch(w.tokens["J"])
	return w
}

func (w world) mint(t *testing.T, name string, fields gate.JSON) gate.Key {
	t.Helper()
	body := gate.JSON{"name": name}
	for field, value := range fields {
		body[field] = value
	}
	k := w.Mint(t, body)
	w.ids[name], w.tokens[name] = k.ID, string(k.Token)
	return k
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// forge returns a token that only the deployment's token key can distinguish from a real one.
func forge(prefix string) string {
	b := []byte(prefix + "_")
	for range 12 + 32 + 8 {
		b = append(b, base62[rand.IntN(len(base62))])
	}
	return withCheck(string(b))
}

// withCheck appends the checksum: CRC-32 (IEEE) in six digits of base62, most significant first.
func withCheck(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	check := []byte("000000")
	for i := len(check) - 1; sum > 0; i, sum = i-1, sum/62 {
		check[i] = base62[sum%62]
	}
	return body + string(check)
}

var (
	named = regexp.MustCompile(`\{[A-Z][A-Za-z0-9]*\}`)
	basic = regexp.MustCompile(`\{basic ([^{}]*)\}`)
)

func (w world) expand(t *testing.T, text string) string {
	t.Helper()
	text = named.ReplaceAllStringFunc(text, func(name string) string {
		token, ok := w.tokens[strings.Trim(name, "{}")]
		if !ok {
			t.Fatalf("no key %s", name)
		}
		return token
	})
	return basic.ReplaceAllStringFunc(text, func(match string) string {
		return base64.StdEncoding.EncodeToString([]byte(basic.FindStringSubmatch(match)[1]))
	})
}

func (w world) expandAll(t *testing.T, lines []string) []string {
	t.Helper()
	lines = slices.Clone(lines)
	for i := range lines {
		lines[i] = w.expand(t, lines[i])
	}
	return lines
}

// run sends every row over both HTTP versions.
func (w world) run(t *testing.T, rows []row) {
	for _, r := range rows {
		for _, protocol := range gate.Protocols {
			if r.on != "" && r.on != map[gate.Protocol]string{gate.HTTP1: "1",
				gate.HTTP2: "2"}[protocol] {
				continue
			}
			t.Run(fmt.Sprintf("%v/%s", protocol, r.what), func(t *testing.T) {
				method, target, _ := strings.Cut(w.expand(t, r.send), " ")
				got := w.Do(t, gate.Request{Protocol: protocol, Host: w.host, Method: method,
					Target: target, Header: w.expandAll(t, r.header), Body: w.expand(t, r.body),
					Trailer: w.expandAll(t, r.trailer)})
				w.judge(t, r, target, got)
			})
		}
	}
}

func (w world) judge(t *testing.T, r row, target string, got gate.Response) {
	t.Helper()
	status, code, _ := strings.Cut(r.want, " ")
	switch {
	case r.want == "refused":
		if got.Status < 400 && got.Err == nil || got.Status >= 500 {
			t.Errorf("want a refusal, got %v", got)
		}
	case status != strconv.Itoa(got.Status) || code != "" && code != got.Code():
		t.Errorf("want %s, got %v", r.want, got)
	}
	if code != "" {
		judgeProblem(t, code, got)
	}
	for _, line := range w.expandAll(t, r.also) {
		name, value, _ := strings.Cut(line, ": ")
		if !slices.Equal(got.Header.Values(name), []string{value}) {
			t.Errorf("%s %q in the answer, want %q", name, got.Header.Values(name), value)
		}
	}
	if !strings.HasPrefix(r.want, "2") || r.want == "204" { // 204 comes from the product itself
		if len(got.Reached) != 0 {
			t.Errorf("the request reached the upstream: %v", got)
		}
		return
	}
	if len(got.Reached) != 1 {
		t.Errorf("want one request at the upstream: %v", got)
	}
	for _, reached := range got.Reached {
		w.judgeReached(t, r, target, reached)
	}
}

// judgeProblem checks what all refusals of the product have in common.
func judgeProblem(t *testing.T, code string, got gate.Response) {
	t.Helper()
	body := got.JSON()
	if body["type"] != "about:blank" || body["status"] != float64(got.Status) ||
		body["title"] == nil {
		t.Errorf("not a problem document of RFC 9457: %v", got)
	}
	if h := got.Header.Get("Cache-Control"); h != "no-store" {
		t.Errorf("Cache-Control %q, want no-store", h)
	}
	challenge := `Bearer realm="api", error="invalid_token"`
	if code == "missing_key" {
		challenge = `Bearer realm="api"` // RFC 6750 §3.1: without credentials no error code
	}
	challenges := got.Header.Values("WWW-Authenticate")
	// `from basic` adds a challenge for Basic.
	if got.Status == http.StatusUnauthorized && !slices.Equal(challenges, []string{challenge}) &&
		!slices.Contains(challenges, `Basic realm="api"`) {
		t.Errorf("WWW-Authenticate %q, want %q", challenges, challenge)
	}
	if got.Status == http.StatusMethodNotAllowed && got.Header.Get("Allow") == "" {
		t.Error("405 without Allow")
	}
	if code == "insufficient_permission" && (body["needed"] == nil || body["namespace"] == nil) {
		t.Errorf("without the needed permission: %v", got)
	}
}

// identity has the headers that the product may send to the upstream.
var identity = []string{"X-Apikey-Id", "X-Apikey-Name", "X-Apikey-Namespace", "X-Apikey-Owner",
	"X-Apikey-Permissions"}

// judgeReached checks a request that reached the upstream: it contains no token, and no header that
// a back end could confuse with an identity header, except those of the product.
func (w world) judgeReached(t *testing.T, r row, target string, reached gate.Reached) {
	t.Helper()
	for name, token := range w.tokens {
		if !r.passes && strings.Contains(reached.Wire, token) {
			t.Errorf("the upstream got the token of %s", name)
		}
	}
	head, _, _ := strings.Cut(reached.Wire, "\r\n\r\n")
	for _, line := range strings.Split(head, "\r\n")[1:] {
		name, _, _ := strings.Cut(line, ":")
		if strings.HasPrefix(fold(name), "x-apikey-") && !slices.Contains(identity, name) &&
			!slices.Contains(r.kept, line) {
			t.Errorf("the upstream got %q", line)
		}
	}
	for name := range reached.Trailer {
		if strings.HasPrefix(fold(name), "x-apikey") {
			t.Errorf("the upstream got the trailer %q", name)
		}
	}
	as := r.as
	if as == "" {
		as = "R"
	}
	named := as
	for _, line := range r.kept {
		if value, other := strings.CutPrefix(line, "X-Apikey-Name: "); other {
			named = value
		}
	}
	for _, name := range identity {
		values := reached.Header.Values(name)
		switch {
		case as == "-" && len(values) != 0:
			t.Errorf("%s %q at the upstream, want none", name, values)
		case as != "-" && name == "X-Apikey-Id" && !slices.Equal(values, []string{w.ids[as]}),
			as != "-" && name == "X-Apikey-Name" && !slices.Equal(values, []string{named}),
			as != "-" && name == "X-Apikey-Namespace" && (len(values) != 1 || values[0] == ""):
			t.Errorf("%s %q at the upstream, want that of %s", name, values, as)
		}
	}
	for _, name := range r.gone {
		if values := reached.Header.Values(name); len(values) != 0 {
			t.Errorf("%s %q at the upstream, want none", name, values)
		}
	}
	for _, line := range w.expandAll(t, r.kept) {
		name, value, _ := strings.Cut(line, ": ")
		if !slices.Equal(reached.Header.Values(name), []string{value}) {
			t.Errorf("%s %q at the upstream, want %q", name, reached.Header.Values(name), value)
		}
	}
	at := r.at
	if at == "" {
		at = target
	}
	if reached.Target != at {
		t.Errorf("the upstream got the target %s, want %s", reached.Target, at)
	}
}

// fold returns a header name as CGI, WSGI, PHP and similar interfaces see it.
func fold(name string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' {
			return c
		}
		return '-'
	}, strings.ToLower(name))
}
