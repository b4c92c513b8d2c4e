package console

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A visit is one request for a page.
type visit struct {
	*Console
	Visitor
	w   http.ResponseWriter
	r   *http.Request
	ctx context.Context
	api *client.Client // acts as the visitor; nil before admission

	allowed       map[string]bool   // see may
	known         map[string]string // see names
	listed        []api.Namespace   // see namespaces
	readable      []api.Role        // see roles
	readablePlans []api.Plan        // see plans
}

// may reports whether the visitor has a permission ("admin.keys:read") in some namespace. It
// remembers the result, because each row of a list may ask, and there may be thousands of
// namespaces to look at.
func (v *visit) may(permission string) bool {
	ok, known := v.allowed[permission]
	if !known {
		resource, operation, _ := strings.Cut(permission, ":")
		ok = v.keys.May(v.Caller, resource, operation) == nil
		if v.allowed == nil {
			v.allowed = make(map[string]bool)
		}
		v.allowed[permission] = ok
	}
	return ok
}

// mayIn reports whether the visitor has a permission in a namespace.
func (v *visit) mayIn(permission, namespace string) bool {
	resource, operation, _ := strings.Cut(permission, ":")
	return v.keys.MayIn(v.Caller, resource, operation, namespace)
}

// query returns a parameter of the address.
func (v *visit) query(name string) string { return v.r.URL.Query().Get(name) }

// namespace returns the namespace of the switcher, empty for all.
func (v *visit) namespace() string { return v.query("namespace") }

// link returns an address of the console with parameters, given as alternating names and values. It
// keeps the switcher's namespace and omits empty values.
func (v *visit) link(path string, parameters ...string) string {
	q := make(url.Values)
	q.Set("namespace", v.namespace())
	return address(path, q, parameters...)
}

// With returns the address of this page with changed parameters, given as alternating names and
// values. An empty value removes a parameter. A list starts at its first page again.
func (v *visit) With(parameters ...string) string {
	q := v.r.URL.Query()
	for _, name := range paging {
		q.Del(name)
	}
	return address(v.r.URL.Path, q, parameters...)
}

// address returns a path with a query. It sets further parameters, given as alternating names and
// values, and omits empty ones.
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

// A notice is a message above a page: the result of the last action, or a warning.
type notice struct {
	Kind  string `json:"kind,omitempty"` // classes: empty for success, "warning" or "danger"
	Title string `json:"title"`
	Text  string `json:"text,omitempty"`
	// Propagation is the state of the change on the nodes; nil: not shown.
	Propagation *api.Propagation `json:"propagation,omitempty"`
	Link        string           `json:"-"` // to the progress page; empty: none
}

// noticeCookie carries a notice over a redirect. It is not secret, and pages show it as text.
const noticeCookie = "apikeys-notice"

// maxNotice keeps the cookie below the limit of browsers, in bytes.
const maxNotice = 3000

// done redirects after a change, so that a reload does not repeat it.
func (v *visit) done(to string, n notice) error {
	if n.Propagation != nil && len(n.Propagation.Pending) > 5 {
		p := *n.Propagation
		p.Pending = p.Pending[:5]
		n.Propagation = &p
	}
	if value := cookieValue(n); len(value) <= maxNotice {
		v.setCookie(noticeCookie, value, time.Minute)
	}
	v.redirect(to)
	return nil
}

// cookieValue returns an object that JSON can express as the value of a cookie.
func cookieValue(o any) string {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // notices and changes consist of texts and numbers
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// readCookie reads an object from the value of a cookie. It reports whether it could.
func readCookie(value string, o any) bool {
	text, err := base64.RawURLEncoding.DecodeString(value)
	return err == nil && json.Unmarshal(text, o) == nil
}

// redirect leads to another page of the console.
func (v *visit) redirect(to string) {
	//nolint:gosec // next checks the addresses that requests contain
	http.Redirect(v.w, v.r, to, http.StatusSeeOther)
}

// takeNotice returns the notice of a redirect and removes it.
func (v *visit) takeNotice() *notice {
	cookie, err := v.r.Cookie(noticeCookie)
	if err != nil {
		return nil
	}
	v.setCookie(noticeCookie, "", -1)
	n := new(notice)
	if !readCookie(cookie.Value, n) {
		return nil
	}
	return n
}

// show answers 200 with a page. See write.
func (v *visit) show(name, title string, data any) error {
	return v.write(http.StatusOK, name, title, data, nil)
}

// ask answers 200 with a page that has an empty form. See write.
func (v *visit) ask(name, title string, data any) error {
	return v.write(http.StatusOK, name, title, data, blank())
}

// again shows an invalid form again, with its values and errors. Its status is 422 by default.
func (v *visit) again(name, title string, data any, f *form) error {
	return v.write(f.status, name, title, data, f)
}

// fail answers with the refusal of the REST interface. It logs any other error.
func (v *visit) fail(err error) {
	if v.query("cursor") != "" && v.r.Method != http.MethodPost && aboutCursor(err) {
		_ = v.done(v.With(), notice{Kind: "warning", Title: invalidAddress})
		return
	}
	if refused, ok := errors.AsType[*keystore.Error](err); ok { // of a read that does not use REST
		v.refuse(kinds[refused.Kind], "Request refused", sentence(refused.Error()))
		return
	}
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		v.logger.Warn("console page failed", slog.String("page", v.r.URL.Path),
			slog.Any("error", err))
		v.refuse(http.StatusServiceUnavailable, "Something went wrong",
			"Try again. The server's log contains the cause.")
		return
	}
	title := map[int]string{
		http.StatusForbidden: "Access denied", http.StatusNotFound: "Not found",
		http.StatusConflict:           "Not possible now",
		http.StatusPreconditionFailed: "Changed by someone else",
		http.StatusServiceUnavailable: "The key database is unavailable",
		http.StatusTooManyRequests:    "Too many requests",
	}[refused.Status]
	if title == "" {
		title = "Request refused"
	}
	v.refuse(refused.Status, title, sentence(refused.Error()))
}

// invalidAddress is the title of a notice on a list.
const invalidAddress = "The list begins at its first page, because its address was invalid"

// aboutCursor reports whether an error is about the position in a list, such as that of an old
// bookmark.
func aboutCursor(err error) bool {
	if refused, ok := errors.AsType[*keystore.Error](err); ok {
		return slices.ContainsFunc(refused.Fields,
			func(e keystore.FieldError) bool { return e.Field == "cursor" })
	}
	refused, ok := errors.AsType[*client.Error](err)
	return ok && slices.ContainsFunc(refused.Errors,
		func(e api.FieldError) bool { return e.Field == "cursor" })
}

// kinds are the statuses of refused reads.
var kinds = map[keystore.Kind]int{
	keystore.KindInvalid:   http.StatusUnprocessableEntity,
	keystore.KindForbidden: http.StatusForbidden,
	keystore.KindNotFound:  http.StatusNotFound,
	keystore.KindBusy:      http.StatusTooManyRequests,
}

// refuse answers with a page that only has a title and a text.
func (v *visit) refuse(status int, title, text string) {
	if err := v.write(status, "refused", title, text, nil); err != nil {
		v.logger.Error("console page cannot be rendered", slog.Any("error", err))
		v.w.WriteHeader(http.StatusInternalServerError)
	}
}

// sentence returns s with a capital at the beginning and a full stop at the end.
func sentence(s string) string {
	if s == "" {
		return s
	}
	if c := s[0]; c >= 'a' && c <= 'z' {
		s = string(c-'a'+'A') + s[1:]
	}
	return strings.TrimRight(s, ".") + "."
}
