package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A refusal is the response to a refused request.
type refusal struct {
	outcome   keystore.Outcome
	status    int      // zero for the outcome's own
	detail    string   // a sentence for people; empty if the title suffices
	allow     string   // the allowed methods, for a 405
	realm     string   // for a 401
	schemes   []string // authentication schemes, for a 401
	needed    string   // the permission that the key lacks, for [keystore.Forbidden]
	namespace string   // the namespace in which it lacks it
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

// preparedProblems are the bodies of refusals without variable parts.
var preparedProblems = func() (bodies [keystore.NumOutcomes][]byte) {
	for i := range bodies {
		if o := keystore.Outcome(i); o.Refuses() {
			bodies[i], _ = json.Marshal(refusal{outcome: o}.problem())
		}
	}
	return bodies
}()

func (f refusal) body() []byte {
	switch {
	case f.outcome == keystore.Forbidden:
		body, _ := json.Marshal(forbidden{f.problem(), f.needed, f.namespace})
		return body
	case f.status != 0 || f.detail != "":
		body, _ := json.Marshal(f.problem())
		return body
	}
	return preparedProblems[f.outcome]
}

// retryAfter is the number of seconds after which a client should retry if the store is
// unavailable.
const retryAfter = "1"

// setHeaders sets the headers of a refusal, whether we or an error route write the body.
func (f refusal) setHeaders(header http.Header) {
	header["Cache-Control"] = []string{"no-store"}
	switch f.outcome.Status() {
	case http.StatusUnauthorized:
		challenges := make([]string, len(f.schemes))
		for i, scheme := range f.schemes {
			challenges[i] = scheme + ` realm="` + f.realm + `"`
			if scheme == bearerScheme && f.outcome != keystore.Missing { // RFC 6750 §3.1
				challenges[i] += `, error="invalid_token"`
			}
		}
		header["Www-Authenticate"] = challenges
	case http.StatusMethodNotAllowed:
		header["Allow"] = []string{f.allow}
	case http.StatusServiceUnavailable:
		header["Retry-After"] = []string{retryAfter}
	}
}

// write answers the request with a problem document.
func (f refusal) write(w http.ResponseWriter, r *http.Request) error {
	header := w.Header()
	f.setHeaders(header)
	if r.Method == http.MethodConnect && r.ProtoMajor == 1 {
		header["Connection"] = []string{"close"} // the client may send tunnel data next
	}
	writeProblem(w, r, f.code(), f.body())
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

// writeProblem answers a request with a marshalled problem document.
func writeProblem(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if id := requestID(r); id != "" {
		member, _ := json.Marshal(id)
		body = slices.Concat(body[:len(body)-1], []byte(`,"request_id":`), member, []byte("}"))
	}
	header := w.Header()
	header["Cache-Control"] = []string{"no-store"}
	header["Content-Type"] = []string{api.Problems}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // an error means that the client has disconnected
	}
}

// handleError passes the refusal to Caddy's error routes.
func (f refusal) handleError(w http.ResponseWriter) error {
	f.setHeaders(w.Header())
	return caddyhttp.Error(f.code(), errors.New(f.outcome.Code()))
}
