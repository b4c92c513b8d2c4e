package caddymodule

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/console"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// isConsolePath reports whether a path under /apikeys/ belongs to the console, not to the REST API.
func isConsolePath(path string) bool {
	return path != api.Prefix && !strings.HasPrefix(path, api.Prefix+"/")
}

// serveConsole answers a request for a page.
func (s *AdminSite) serveConsole(c *call) error {
	// A trusted proxy may have terminated TLS.
	visitor := console.Visitor{Secure: c.r.TLS != nil || c.request.trusted &&
		c.r.Header.Get("X-Forwarded-Proto") == "https"}
	visitor.Beside = c.request.decided // an api_key of this site has passed the path on as public
	visitor.Address = cmp.Or(c.request.clientIP(), peerAddress(c.r))
	visitor.Session = console.SessionOf(c.r, visitor.Secure)
	user := s.trustedUser(c)
	visitor.Trusted = user != ""
	visitor.Caller, visitor.Outcome = s.authorizeConsole(c, &visitor, user)
	visitor.SignIn = func(token string) (*keystore.Record, keystore.Outcome) {
		c.credential, c.session = credential{token: keystore.TrimSecretToken(token)}, ""
		outcome := s.auth.lookUp(c)
		return c.record, outcome
	}
	s.auth.conclude(c, visitor.Outcome)
	if !s.auth.app.hasStarted() {
		return s.auth.refuse(c)
	}
	defer func() { // a sign-in may also register the request as running
		if c.running != nil {
			c.running.leave(c.keys)
		}
	}()
	w, r := c.w, c.r
	if c.running != nil {
		w, r = c.running.wrap(w, r)
	}
	s.auth.app.serveConsole(w, r, visitor)
	return nil
}

// authorizeConsole decides on a request for a page. It authenticates the user that Caddy has
// authenticated, or else the session. Without either, the outcome is Public.
func (s *AdminSite) authorizeConsole(
	c *call, visitor *console.Visitor, user string,
) (caller manage.Caller, outcome keystore.Outcome) {
	class, mapped := s.auth.rules.methods[c.method]
	if !mapped {
		return caller, keystore.Method
	}
	c.need.Class = class
	var err error
	switch c.keys, err = s.auth.app.Await(c.r.Context()); {
	case err != nil:
		return caller, keystore.Unavailable
	case user != "":
		return s.callerForUser(c, user, visitor.Address)
	case visitor.Session == "":
		return caller, keystore.Public // the console shows the sign-in page
	}
	c.session = visitor.Session
	if outcome = s.auth.lookUp(c); outcome == keystore.OK {
		caller = manage.MemberCaller(c.record, visitor.Address)
	}
	return caller, outcome
}

// callerForUser returns the member whose login is the user that Caddy has authenticated, or the
// user acting for groups. The outcome is Forbidden if there is neither.
func (s *AdminSite) callerForUser(
	c *call, user, from string,
) (caller manage.Caller, outcome keystore.Outcome) {
	if isEarly(c.r) && c.need.Class == keystore.Write {
		return caller, keystore.Early
	}
	caller, err := c.keys.CallerByLogin(c.r.Context(), user,
		groupNames(c.placeholder(s.groups)), from, c.now)
	switch {
	case err != nil:
		return caller, keystore.Unavailable
	case caller.Actor() == "":
		return caller, keystore.Forbidden
	}
	return caller, keystore.Anonymous // without a token
}

// serveConsole serves the pages. It must not be called before Start.
func (a *App) serveConsole(w http.ResponseWriter, r *http.Request, visitor console.Visitor) {
	var pages *console.Console
	if s := a.store.Load(); s != nil {
		pages = s.console
	} else {
		pages = a.opening.console
	}
	pages.ServeHTTP(w, r, visitor)
}
