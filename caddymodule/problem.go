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

// A refusal is the answer to a request that ends here.
type refusal struct {
	outcome   keystore.Outcome
	status    int      // zero: the outcome's
	detail    string   // for people; empty: the title says it all
	allow     string   // of 405: the methods there are
	realm     string   // of 401, with the
	schemes   []string // to ask for
	needed    string   // of [keystore.Forbidden]: the permission that was missing …
	namespace string   // … and where
}

// forbidden is the body of a 403, which has both members even if they are empty.
type forbidden struct {
	api.Problem
	Needed    string `json:"needed"`
	Namespace string `json:"namespace"`
}

// newProblem returns a problem document (RFC 9457). Its type is about:blank: the code says it all.
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

// preparedProblems are the bodies of the refusals that are always the same.
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

// retryAfter is how many seconds a client should wait when the store is away.
const retryAfter = "1"

// setHeaders sets the headers that a refusal has whoever writes its body.
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
		header["Connection"] = []string{"close"} // what follows was meant for the tunnel
	}
	writeProblem(w, r, f.code(), f.body())
	return nil
}

// requestID returns Caddy's id of a request, `{http.request.uuid}`, if the site has made Caddy
// generate one; then the access log has it too. Otherwise the same refusals have the same body.
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
		_, _ = w.Write(body) // a client that has gone needs no answer
	}
}

// handleError gives the refusal to Caddy's error routes.
func (f refusal) handleError(w http.ResponseWriter) error {
	f.setHeaders(w.Header())
	return caddyhttp.Error(f.code(), errors.New(f.outcome.Code()))
}
