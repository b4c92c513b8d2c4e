package console

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const signInPath = Root + "/sign-in"

func signInPages() []page {
	return []page{
		{"GET " + signInPath, anybody, askForToken},
		{"POST " + signInPath, anybody, signIn},
		{"POST " + Root + "/sign-out", anybody, signOut},
	}
}

// Names of the session cookie, over TLS and without. Browsers accept and send the first one over
// TLS only. The prefix `__Host-` would be stricter but requires the path `/`: then all other
// handlers of the site, and their upstreams, would receive the sessions of the members.
const (
	SecureCookie = "__Secure-apikeys-session"
	PlainCookie  = "apikeys-session"
)

// SessionOf returns the value of the session cookie of a request. It is empty if there is no cookie
// or more than one.
func SessionOf(r *http.Request, secure bool) string {
	found := r.CookiesNamed(cookieName(secure))
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}

func cookieName(secure bool) string {
	if secure {
		return SecureCookie
	}
	return PlainCookie
}

// setCookie sets a cookie that only the console receives. A negative life removes it.
func (v *visit) setCookie(name, value string, life time.Duration) {
	v.setCookieAt(Root+"/", name, value, life)
}

// setCookieAt is setCookie for a cookie that only pages below a path receive.
func (v *visit) setCookieAt(path, name, value string, life time.Duration) {
	//nolint:gosec // Secure is unset only where the console is served without TLS
	http.SetCookie(v.w, &http.Cookie{
		Name: name, Value: value, Path: path, MaxAge: int(life / time.Second), HttpOnly: true,
		Secure: v.Secure, SameSite: http.SameSiteStrictMode,
	})
}

func (v *visit) dropSession() { v.setCookie(cookieName(v.Secure), "", -time.Second) }

// fromElsewhere reports whether a link on another site led here. Then the browser has not sent the
// session cookie.
func (v *visit) fromElsewhere() bool {
	return v.r.Method == http.MethodGet && v.r.Header.Get("Sec-Fetch-Site") == "cross-site" &&
		v.r.Header.Get("Sec-Fetch-Mode") == "navigate"
}

// bounce redirects to the same address from a page of this site, so that the browser sends the
// session cookie.
func (v *visit) bounce() {
	if err := v.write(http.StatusOK, "bounce", "One moment", v.r.URL.RequestURI(),
		nil); err != nil {
		v.fail(err)
	}
}

// askToSignIn redirects to the sign-in page, which leads back to the current page. A form is kept
// for it.
func (v *visit) askToSignIn() {
	q := url.Values{"next": {v.r.URL.RequestURI()}}
	if v.r.Method == http.MethodPost {
		switch from, err := url.Parse(v.r.Referer()); {
		case v.isForm():
			if kept := v.keepForm(); kept != "" {
				q.Set("form", kept)
			}
		case err == nil:
			q.Set("next", from.RequestURI()) // the page with the button
		}
	}
	if v.Session != "" {
		v.dropSession()
		q.Set("ended", v.Outcome.String())
	}
	v.redirect(address(signInPath, q))
}

// next returns the page of the console to open after signing in.
func (v *visit) next() string { return ownPage(v.r.FormValue("next")) }

// ownPage returns an address that a request contains if it is one of the console, and otherwise the
// address of the keys.
func ownPage(address string) string {
	u, err := url.Parse(address)
	// The path may have escapes, so the text must begin like a page, too.
	if err != nil || !strings.HasPrefix(address, Root+"/") ||
		!strings.HasPrefix(path.Clean(u.Path), Root+"/") || strings.Contains(address, "\\") {
		return keysPath
	}
	return address
}

type signInPage struct {
	Next  string
	Ended string // why a session ended; empty: there was none
	Form  string // what happened to the form that the visitor was filling in; empty: there was none
	Kept  string // replaces Form if the script has kept the input; empty: it cannot have
}

const shownAgain = "Your input has not been saved. The form shows it again after you sign in."

func askForToken(v *visit) error {
	if v.Caller.Actor() != "" {
		v.redirect(v.next())
		return nil
	}
	if v.Trusted || v.keys == nil {
		v.admitted(anyMember)
		return nil
	}
	p := signInPage{Next: v.next()}
	if v.query("ended") != "" {
		p.Ended = "Your session has ended: it was unused for about an hour, it reached 12 hours, or " +
			"your token is no longer valid. Sign in again to continue."
	}
	switch v.query("form") {
	case formKept:
		p.Form = shownAgain
	case formLong:
		p.Form, p.Kept = "Your input is too long to be kept and has not been saved.", shownAgain
	case formToken:
		p.Form = "Your input was neither saved nor kept, because it contains a token."
	}
	if v.query("ended") == keystore.OwnerDisabled.String() {
		p.Ended = "This member has been disabled."
	}
	return v.show("signin", "Sign in", p)
}

// signIn opens a session. The token is in the body, never in an address, and no answer repeats it.
func signIn(v *visit) error {
	if v.Trusted || v.keys == nil {
		return askForToken(v) // explains why signing in is impossible or unnecessary
	}
	f := v.form()
	token := keystore.TrimSecretToken(strings.TrimSpace(f.Value("token")))
	f.values.Del("token")
	again := func(status int, problem string) error {
		f.status = status
		f.wrong("token", problem)
		return v.again("signin", "Sign in", signInPage{Next: v.next()}, f)
	}
	// A member that shares the address with the guesser can still sign in.
	if wait := v.guesses.wait(v.Address, time.Now()); wait > 0 && !v.keys.IsMemberToken(token) {
		v.w.Header().Set("Retry-After", seconds(wait))
		return again(http.StatusTooManyRequests,
			"There were too many wrong tokens from your address. Try again in "+seconds(wait)+
				" seconds.")
	}
	if token == "" {
		return again(http.StatusUnprocessableEntity,
			"Enter the token of a member. It begins with akm_.")
	}
	record, outcome := v.SignIn(token)
	switch {
	case outcome == keystore.Unavailable, outcome == keystore.Early:
		v.Outcome = outcome
		v.admitted(anyMember)
		return nil
	case outcome.Refuses():
		v.guesses.wrong(v.Address, time.Now())
		return again(http.StatusUnprocessableEntity, refusedToken(outcome, v.Address))
	case !keystore.HasTokenPrefix(token, keystore.MemberPrefix):
		return again(http.StatusUnprocessableEntity,
			"This is the token of a key. Keys are for programs that call the REST interface. "+
				"Sign in with the token of a member, which begins with akm_.")
	}
	session, err := v.keys.OpenSession(v.ctx, record)
	if err != nil {
		return err
	}
	if v.Session != "" { // the previous session of this browser
		if err := v.keys.CloseSession(v.ctx, v.Session); err != nil {
			return err
		}
	}
	v.setCookie(cookieName(v.Secure), session, keystore.SessionLife)
	v.redirect(v.next())
	return nil
}

// refusedToken explains to the owner of a token why it is refused.
func refusedToken(o keystore.Outcome, address string) string {
	switch o {
	case keystore.Expired:
		return "This token has expired. Ask an administrator for another one."
	case keystore.Revoked:
		return "This token has been revoked or replaced by another one."
	case keystore.Inactive, keystore.OwnerDisabled:
		return "The member of this token has been disabled."
	case keystore.Address:
		return "This token may not be used from " + address + "."
	}
	return "This is not the token of a member. Check that you copied it completely."
}

func signOut(v *visit) error {
	if v.Trusted {
		v.refuse(http.StatusConflict, "Sign out at this site",
			"This site signs you in with every request. Sign out where you signed in.")
		return nil
	}
	if v.Session != "" && v.keys != nil {
		if err := v.keys.CloseSession(v.ctx, v.Session); err != nil {
			return err
		}
	}
	v.dropSession()
	v.redirect(signInPath)
	return nil
}
