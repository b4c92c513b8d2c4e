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

// Protocol is what a Request goes over.
type Protocol int

const (
	HTTP1 Protocol = iota // HTTP/1.1, plain
	HTTP2                 // HTTP/2 over TLS
	HTTP3                 // HTTP/3, for Client alone, if Config.HTTP3
)

// Protocols are those that Do sends over, for tests that run over each.
var Protocols = []Protocol{HTTP1, HTTP2}

func (p Protocol) String() string { return [...]string{"HTTP/1.1", "HTTP/2", "HTTP/3"}[p] }

// Request is sent as it stands here, right or wrong: no library cleans it.
type Request struct {
	Protocol Protocol
	Method   string   // "" is GET
	Target   string   // as in the request line; "" is /
	Host     string   // "" is api.example.com
	Header   []string // `Name: value`, as sent; over HTTP/2 in lower case
	Body     string   // with its Content-Length over HTTP/1.1, unless Header frames it
	Trailer  []string // `Name: value`; over HTTP/1.1 the body is sent chunked
	Extended string   // over HTTP/2, the `:protocol` of an extended CONNECT (RFC 8441)
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

// Response is what came back, and what reached the upstream meanwhile.
type Response struct {
	Status  int // 0 when there was none: see Err
	Header  http.Header
	Body    []byte
	Trailer http.Header
	Err     error // the connection or stream ended early
	Reached []Reached
}

// JSON is the body as an object, nil if it is none.
func (r Response) JSON() JSON {
	var object JSON
	json.Unmarshal(r.Body, &object)
	return object
}

// Code is the `code` of a problem document, "" in any other answer.
func (r Response) Code() string {
	if r.Header.Get("Content-Type") != "application/problem+json" {
		return ""
	}
	code, _ := r.JSON()["code"].(string)
	return code
}

// String is for failure messages, so it shows no token.
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

// Get is a GET with the token as bearer, or with no credential if it is "".
func (g *Gate) Get(t testing.TB, target string, token Token) Response {
	t.Helper()
	return g.Send(t, "GET", target, token, "")
}

// Send is a request over HTTP/1.1 with the token as bearer, or with no credential if it is "".
func (g *Gate) Send(t testing.TB, method, target string, token Token, body string) Response {
	t.Helper()
	r := Request{Method: method, Target: target, Body: body}
	if token != "" {
		r.Header = []string{"Authorization: Bearer " + string(token)}
	}
	return g.Do(t, r)
}

// Do sends a request on a connection of its own. One goroutine a gate, or Reached holds what
// another one sent.
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
