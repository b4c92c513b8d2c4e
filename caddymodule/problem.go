package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A refusal is the response to a refused request.
type refusal struct {
	outcome   keystore.Outcome
	status    int      // zero for the outcome's own
	detail    string   // a sentence for people; empty if the title suffices
	allow     string   // the allowed methods, for a 405
	challenge []string // the values of WWW-Authenticate, for a 401
	needed    string   // the permission that the key lacks, for [keystore.Forbidden]
	namespace string   // the namespace of needed
	// For a 429: the violated limits, as a set of 1<<node.LimitName, and the time after which the
	// request may be admitted. The set is empty if the option abuse has refused the request.
	violated int
	retry    time.Duration
	costs    map[node.LimitName]string // details of quotas that the cost of the request exceeds
	values   []string                  // an empty array for the values of headers, or nil
}

// forbidden is the body of [keystore.Forbidden]. It has both members even if they are empty.
type forbidden struct {
	api.Problem
	Needed    string `json:"needed"`
	Namespace string `json:"namespace"`
}

// newProblem returns a problem document (RFC 9457). Its type is about:blank, because code
// identifies the problem.
func newProblem(status int, code, title, detail string) api.Problem {
	return api.Problem{Type: "about:blank", Title: title, Status: status, Code: code,
		Detail: detail}
}

func (f refusal) problem() api.Problem {
	return newProblem(f.code(), f.outcome.Code(), f.outcome.Title(), f.detail)
}

// code is the HTTP status.
func (f refusal) code() int {
	if f.status != 0 {
		return f.status
	}
	return f.outcome.Status()
}

// A body is a marshalled problem document.
type body struct {
	text   []byte
	length string // of text, for Content-Length
}

func newBody(text []byte) body { return body{text, strconv.Itoa(len(text))} }

func marshal(problem any) body {
	text, _ := json.Marshal(problem)
	return newBody(text)
}

// preparedProblems are the bodies of refusals without variable parts.
var preparedProblems = func() (bodies [keystore.NumOutcomes]body) {
	for i := range bodies {
		if o := keystore.Outcome(i); o.Refuses() {
			bodies[i] = marshal(refusal{outcome: o}.problem())
		}
	}
	return bodies
}()

func (f refusal) body() body {
	switch {
	case f.outcome == keystore.Forbidden:
		return marshal(forbidden{f.problem(), f.needed, f.namespace})
	case f.outcome == keystore.Limited || f.outcome == keystore.Exhausted:
		return f.limitBody()
	case f.status != 0 || f.detail != "":
		return marshal(f.problem())
	}
	return preparedProblems[f.outcome]
}

// retryAfter is the number of seconds after which a client should retry if the store is
// unavailable.
const retryAfter = "1"

// setHeaders sets the response headers that depend on the outcome. It returns the setter for the
// others.
func (f refusal) setHeaders(w http.ResponseWriter) headerSetter {
	h := headerSetter{w.Header(), f.values}
	switch f.outcome.Status() {
	case http.StatusUnauthorized:
		h.set("Www-Authenticate", f.challenge...)
	case http.StatusMethodNotAllowed:
		h.set("Allow", f.allow)
	case http.StatusServiceUnavailable:
		h.set("Retry-After", retryAfter)
	case http.StatusTooManyRequests:
		h.set("Retry-After", retryAfterValue(f.retry))
	}
	return h
}

// write answers the request with a problem document.
func (f refusal) write(w http.ResponseWriter, r *http.Request) error {
	h := f.setHeaders(w)
	if r.Method == http.MethodConnect && r.ProtoMajor == 1 {
		h.set("Connection", "close") // the client may send tunnel data next
	}
	writeProblem(w, r, h, f.code(), f.body())
	return nil
}

// requestID returns Caddy's id of a request, `{http.request.uuid}`, if the site uses it, so that
// the access log has it too. Otherwise it returns "".
func requestID(r *http.Request) string {
	if caddyhttp.GetVar(r.Context(), "uuid") == nil {
		return ""
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	id, _ := repl.GetString("http.request.uuid")
	return id
}

// writeProblem answers a request with a problem document. h sets the headers of w.
func writeProblem(
	w http.ResponseWriter, r *http.Request, h headerSetter, status int, b body,
) {
	if id := requestID(r); id != "" {
		member, _ := json.Marshal(id)
		b = newBody(slices.Concat(b.text[:len(b.text)-1], []byte(`,"request_id":`), member,
			[]byte("}")))
	}
	h.set("Cache-Control", "no-store")
	h.set("Content-Type", api.Problems)
	h.set("Content-Length", b.length)
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.text) // an error means that the client has disconnected
	}
}

// handleError passes the refusal to Caddy's error routes.
func (f refusal) handleError(w http.ResponseWriter) error {
	h := f.setHeaders(w)
	h.set("Cache-Control", "no-store")
	return caddyhttp.Error(f.code(), errors.New(f.outcome.Code()))
}
