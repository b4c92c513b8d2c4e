package console

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// A visit is one request for a page.
type visit struct {
	*Console
	Visitor
	w   http.ResponseWriter
	r   *http.Request
	ctx context.Context
	api *client.Client // as the visitor

	known    map[string]string // see names
	listed   []api.Namespace   // see namespaces
	readable []api.Role        // see roles
}

// may reports whether the visitor holds a permission ("admin.keys:read") in some namespace.
func (v *visit) may(permission string) bool {
	resource, operation, _ := strings.Cut(permission, ":")
	return v.keys.May(v.Caller, resource, operation) == nil
}

// mayIn reports whether the visitor holds a permission in a namespace.
func (v *visit) mayIn(permission, namespace string) bool {
	resource, operation, _ := strings.Cut(permission, ":")
	return v.keys.MayIn(v.Caller, resource, operation, namespace)
}

// query is a parameter of the address.
func (v *visit) query(name string) string { return v.r.URL.Query().Get(name) }

// namespace is the one that the switcher is set to, empty for all.
func (v *visit) namespace() string { return v.query("namespace") }

// link is an address of the console with parameters, names and values in turn; empty values are
// left out. The switcher's namespace is kept.
func (v *visit) link(path string, parameters ...string) string {
	q := make(url.Values)
	q.Set("namespace", v.namespace())
	return address(path, q, parameters...)
}

// With is the address of this page with other parameters, names and values in turn; an empty value
// takes one out. The page of a list begins anew.
func (v *visit) With(parameters ...string) string {
	q := v.r.URL.Query()
	q.Del("cursor")
	return address(v.r.URL.Path, q, parameters...)
}

// address sets more parameters, names and values in turn, and leaves the empty ones out.
func address(path string, q url.Values, parameters ...string) string {
	for i := 0; i+1 < len(parameters); i += 2 {
		q.Set(parameters[i], parameters[i+1])
	}
	for name, values := range q {
		if len(values) == 0 || values[0] == "" {
			q.Del(name)
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// A notice stands on top of a page: what has just been done, or what is the matter.
type notice struct {
	Kind        string           `json:"kind,omitempty"` // empty: it went well; "warning", "danger"
	Title       string           `json:"title"`
	Text        string           `json:"text,omitempty"`
	Propagation *api.Propagation `json:"propagation,omitempty"` // how far the change has come
}

// noticeCookie carries a notice over a redirect. It is no secret, and shown as text.
const noticeCookie = "apikeys-notice"

// maxNotice keeps the cookie below what browsers keep.
const maxNotice = 3000

// done redirects after a change, so that a reload does not make it again.
func (v *visit) done(to string, n notice) error {
	if n.Propagation != nil && len(n.Propagation.Pending) > 5 {
		p := *n.Propagation
		p.Pending = p.Pending[:5]
		n.Propagation = &p
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if value := base64.RawURLEncoding.EncodeToString(text); len(value) <= maxNotice {
		v.setCookie(noticeCookie, value, time.Minute)
	}
	http.Redirect(v.w, v.r, to, http.StatusSeeOther)
	return nil
}

// takeNotice returns the notice that a redirect has left, once.
func (v *visit) takeNotice() *notice {
	cookie, err := v.r.Cookie(noticeCookie)
	if err != nil {
		return nil
	}
	v.setCookie(noticeCookie, "", -1)
	text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	n := new(notice)
	if err != nil || json.Unmarshal(text, n) != nil {
		return nil
	}
	return n
}

// show answers 200 with a page: templates/NAME.html, in which .Page is data.
func (v *visit) show(name, title string, data any) error {
	return v.write(http.StatusOK, name, title, data, nil)
}

// again answers a form that cannot be taken as it is: 422 with all that was typed, and what is
// wrong with it.
func (v *visit) again(name, title string, data any, f *form) error {
	return v.write(f.status, name, title, data, f)
}

// fail answers with what the REST interface refused; whatever else went wrong is logged.
func (v *visit) fail(err error) {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		v.logger.Warn("a page of the console failed", slog.String("page", v.r.URL.Path),
			slog.Any("error", err))
		v.refuse(http.StatusServiceUnavailable, "That did not work",
			"Something went wrong here, and the log says what. Try again.")
		return
	}
	title := map[int]string{
		http.StatusForbidden: "You may not do that", http.StatusNotFound: "There is no such thing",
		http.StatusConflict:           "That is not possible now",
		http.StatusPreconditionFailed: "Somebody else has changed it",
		http.StatusServiceUnavailable: "The key database is away",
		http.StatusTooManyRequests:    "Too many requests",
	}[refused.Status]
	if title == "" {
		title = "That cannot be done"
	}
	v.refuse(refused.Status, title, sentence(refused.Error()))
}

// refuse answers with a page that says why there is no other.
func (v *visit) refuse(status int, title, text string) {
	if err := v.write(status, "refused", title, text, nil); err != nil {
		v.logger.Error("a page of the console cannot be written", slog.Any("error", err))
		v.w.WriteHeader(http.StatusInternalServerError)
	}
}

// statusOf is the HTTP status that the REST interface has refused with, 0 for nil and other errors.
func statusOf(err error) int { return client.StatusOf(err) }

// sentence begins with a capital and ends with a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	if c := s[0]; c >= 'a' && c <= 'z' {
		s = string(c-'a'+'A') + s[1:]
	}
	return strings.TrimRight(s, ".") + "."
}
