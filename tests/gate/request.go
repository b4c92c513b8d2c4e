package gate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// JSON is an object of the management API.
type JSON = map[string]any

// Protocol is an HTTP version.
type Protocol int

// The versions that Caddy serves.
const (
	HTTP1 Protocol = iota // HTTP/1.1, plain
	HTTP2                 // HTTP/2 over TLS
	HTTP3                 // HTTP/3, only for Client, with Config.HTTP3
)

// Protocols are the protocols of Do, for tests that use each of them.
var Protocols = []Protocol{HTTP1, HTTP2}

func (p Protocol) String() string { return [...]string{"HTTP/1.1", "HTTP/2", "HTTP/3"}[p] }

// Request is sent unchanged, even if it is malformed.
type Request struct {
	Protocol Protocol
	Method   string   // "" means GET
	Target   string   // as in the request line; "" means /
	Host     string   // "" means api.example.com
	Header   []string // `Name: value`; HTTP/2 sends names in lower case
	Body     string   // HTTP/1.1 adds a Content-Length unless Header frames the body
	Trailer  []string // `Name: value`; makes HTTP/1.1 send the body chunked
	Extended string   // `:protocol` of an extended CONNECT (RFC 8441) over HTTP/2
}

func (r Request) method() string { return or(r.Method, "GET") }
func (r Request) target() string { return or(r.Target, "/") }
func (r Request) host() string   { return or(r.Host, "api.example.com") }

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// Response is a response, and the requests that reached the upstream meanwhile.
type Response struct {
	Status  int // 0 without a response; then Err is set
	Header  http.Header
	Body    []byte
	Trailer http.Header
	Err     error // why the connection or stream ended early
	Reached []Reached
}

// JSON returns the body as an object, or nil if it is not an object.
func (r Response) JSON() JSON {
	var object JSON
	json.Unmarshal(r.Body, &object)
	return object
}

// Code returns the `code` of a problem document, or "" for other responses.
func (r Response) Code() string {
	if r.Header.Get("Content-Type") != "application/problem+json" {
		return ""
	}
	code, _ := r.JSON()["code"].(string)
	return code
}

// String formats the response for a failure message, without tokens.
func (r Response) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "status %d, header %v, body %.2000s", r.Status, r.Header, r.Body)
	if r.Err != nil {
		fmt.Fprintf(&b, ", error %v", r.Err)
	}
	fmt.Fprintf(&b, ", %d reached the upstream", len(r.Reached))
	for _, reached := range r.Reached {
		fmt.Fprintf(&b, "\n%.2000s", reached.Wire)
	}
	return redact(b.String())
}

// Get sends a GET over HTTP/1.1 with the token as bearer, or without a credential if it is "".
func (g *Gate) Get(t testing.TB, target string, token Token) Response {
	t.Helper()
	return g.Send(t, "GET", target, token, "")
}

// Send sends a request over HTTP/1.1 with the token as bearer, or without a credential if it is "".
func (g *Gate) Send(t testing.TB, method, target string, token Token, body string) Response {
	t.Helper()
	r := Request{Method: method, Target: target, Body: body}
	if token != "" {
		r.Header = []string{"Authorization: Bearer " + string(token)}
	}
	return g.Do(t, r)
}

// Do sends a request on a new connection. Only one goroutine may use a gate, because Reached has
// the requests of all goroutines.
func (g *Gate) Do(t testing.TB, r Request) Response {
	t.Helper()
	g.Upstream.Take()
	var response Response
	switch r.Protocol {
	case HTTP1:
		response = g.doHTTP1(t, r)
	case HTTP2:
		response = g.doHTTP2(t, r.fields(), r.Body, fields(r.Trailer))
	default:
		t.Fatalf("no raw requests over %v", r.Protocol)
	}
	response.Reached = g.Upstream.Take()
	return response
}
