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

// forPeople reports whether a path under /apikeys/ is the console's, not the REST interface's.
func forPeople(path string) bool {
	return path != api.Prefix && !strings.HasPrefix(path, api.Prefix+"/")
}

// serveConsole answers a request for a page.
func (s *AdminSite) serveConsole(c *call) error {
	// A proxy that may say so can have ended TLS before us.
	who := console.Visitor{Secure: c.r.TLS != nil || c.request.trusted &&
		c.r.Header.Get("X-Forwarded-Proto") == "https"}
	who.Beside = c.request.noted // by an api_key of this site, which has let the path by as public
	who.Address = cmp.Or(c.request.clientIP, peerAddress(c.r))
	who.Session = console.SessionOf(c.r, who.Secure)
	user := s.signedIn(c)
	who.Trusted = user != ""
	who.Caller, who.Outcome = s.judgePerson(c, &who, user)
	who.SignIn = func(token string) (*keystore.Record, keystore.Outcome) {
		c.credential, c.session = credential{token: keystore.TrimSecretToken(token)}, ""
		outcome := s.gate.lookUp(c)
		return c.record, outcome
	}
	s.gate.conclude(c, who.Outcome)
	if !s.gate.app.hasStarted() {
		return s.gate.refuse(c)
	}
	defer func() { // signing in may begin it
		if c.running != nil {
			c.running.leave(c.keys)
		}
	}()
	w, r := c.w, c.r
	if c.running != nil {
		w, r = c.running.follow(w, r)
	}
	s.gate.app.serveConsole(w, r, who)
	return nil
}

// judgePerson is judge for a person: Caddy knows who it is, or there is a session.
func (s *AdminSite) judgePerson(
	c *call, who *console.Visitor, user string,
) (caller manage.Caller, outcome keystore.Outcome) {
	class, mapped := s.gate.rules.methods[c.method]
	if !mapped {
		return caller, keystore.Method
	}
	c.need.Class = class
	var err error
	switch c.keys, err = s.gate.app.Await(c.r.Context()); {
	case err != nil:
		return caller, keystore.Unavailable
	case user != "":
		return s.knownUser(c, user, who.Address)
	case who.Session == "":
		return caller, keystore.Public // there is a page to sign in at
	}
	c.session = who.Session
	if outcome = s.gate.lookUp(c); outcome == keystore.OK {
		caller = manage.MemberCaller(c.record, who.Address)
	}
	return caller, outcome
}

// knownUser is the member whom a user that Caddy has let in stands for.
func (s *AdminSite) knownUser(
	c *call, user, from string,
) (caller manage.Caller, outcome keystore.Outcome) {
	if isEarly(c.r) && c.need.Class == keystore.Write {
		return caller, keystore.Early
	}
	caller, err := c.keys.MemberByLogin(c.r.Context(), user, from, c.now)
	switch {
	case err != nil:
		return caller, keystore.Unavailable
	case caller.Member() == "":
		return caller, keystore.Forbidden
	}
	return caller, keystore.Anonymous // no credential of ours
}

// serveConsole serves the pages, after Start.
func (a *App) serveConsole(w http.ResponseWriter, r *http.Request, who console.Visitor) {
	var pages *console.Console
	if s := a.store.Load(); s != nil {
		pages = s.console
	} else {
		pages = a.opening.console
	}
	pages.ServeHTTP(w, r, who)
}
