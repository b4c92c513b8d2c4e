package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// Preflight answers CORS preflights.
type Preflight struct {
	// The allowed origins, such as `https://app.example.com`. Default is any origin.
	Origins []string `json:"origins,omitempty"`
}

func checkOrigin(origin string) error {
	u, err := url.Parse(origin)
	if err == nil {
		switch {
		case strings.Contains(u.Host, "*"):
			return fmt.Errorf("preflight: %q has a wildcard: list each origin, or none to allow "+
				"any", redact.Argument(origin))
		case u.Scheme == "https" && u.Port() == "443", u.Scheme == "http" && u.Port() == "80":
			return fmt.Errorf("preflight: %q has the default port: leave it out, as browsers do",
				redact.Argument(origin))
		case strings.ContainsFunc(u.Host, func(r rune) bool { return r > unicode.MaxASCII }):
			return fmt.Errorf("preflight: %q is not an origin: use the xn-- form of the host, as "+
				"browsers do", redact.Argument(origin))
		}
	}
	if err != nil || u.Host == "" || origin != u.Scheme+"://"+u.Host {
		return fmt.Errorf("preflight: %q is not an origin: must be SCHEME://HOST or "+
			"SCHEME://HOST:PORT without a path, such as https://app.example.com, or left out for "+
			"any origin", redact.Argument(origin))
	}
	return nil
}

// isPreflight reports whether a request is a CORS-preflight request as the Fetch standard defines
// it.
func isPreflight(method string, header http.Header) bool {
	return method == http.MethodOptions && header["Origin"] != nil &&
		header["Access-Control-Request-Method"] != nil
}

// allowOrigin allows the page that sent the request to read our response.
func (p *Preflight) allowOrigin(answer, request http.Header) {
	origin := request["Origin"]
	if len(origin) != 1 {
		return
	}
	if len(p.Origins) == 0 {
		answer["Access-Control-Allow-Origin"] = []string{"*"}
		return
	}
	answer.Add("Vary", "Origin")
	if slices.ContainsFunc(p.Origins,
		func(allowed string) bool { return strings.EqualFold(allowed, origin[0]) }) {
		answer["Access-Control-Allow-Origin"] = []string{origin[0]}
	}
}

// preflightMaxAge is the number of seconds for which a browser may cache the answer.
const preflightMaxAge = "600"

// answer answers a preflight. methods are the mapped ones.
func (p *Preflight) answer(w http.ResponseWriter, r *http.Request, methods string) {
	defer w.WriteHeader(http.StatusNoContent)
	answer, request := w.Header(), r.Header
	p.allowOrigin(answer, request)
	answer.Add("Vary", "Access-Control-Request-Headers")
	if answer["Access-Control-Allow-Origin"] == nil {
		return
	}
	answer["Access-Control-Allow-Methods"] = []string{methods}
	if asked := request["Access-Control-Request-Headers"]; asked != nil {
		answer["Access-Control-Allow-Headers"] = []string{strings.Join(asked, ", ")}
	}
	answer["Access-Control-Max-Age"] = []string{preflightMaxAge}
}
