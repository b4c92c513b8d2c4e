package console

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the machine may have none

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// A form holds the values of a form and their errors.
type form struct {
	values  url.Values
	Problem string           // an error of the whole form
	Errors  []api.FieldError // errors of fields
	Kept    bool             // whether it was kept when its session ended: see keepForm
	// Conflict is set if someone else has changed the object; nil: nobody has.
	Conflict *conflict
	Codes    bool   // whether code that does the same as the form was requested
	Code     []code // nil: not requested, or the form has errors
	status   int    // the status of the answer

	targets map[string]string // see Target
}

// form returns the posted form.
func (v *visit) form() *form {
	return &form{values: v.r.PostForm, status: http.StatusUnprocessableEntity}
}

// blank returns a new form with initial values, given as alternating names and values.
func blank(values ...string) *form {
	f := &form{values: make(url.Values), status: http.StatusOK}
	for i := 0; i+1 < len(values); i += 2 {
		f.values.Add(values[i], values[i+1])
	}
	return f
}

// Value returns the value of a field.
func (f *form) Value(name string) string { return f.values.Get(name) }

// Values returns the values of all fields of a name.
func (f *form) Values(name string) []string { return f.values[name] }

// zone returns the time zone of days and times: the viewer's, or UTC if the script has not set it.
func (f *form) zone() *time.Location {
	name := f.Value("zone")
	if at, err := time.LoadLocation(name); err == nil && name != "Local" {
		return at
	}
	return time.UTC
}

// Has reports whether one of the fields of a name has a value, such as a checked box.
func (f *form) Has(name, value string) bool { return slices.Contains(f.values[name], value) }

// Error returns the errors that an input or a group of inputs shows, or an empty string.
func (f *form) Error(name string) string {
	var texts []string
	for _, e := range f.Errors {
		if text := sentence(e.Detail); f.Target(e.Field) == name && !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, " ")
}

// Within reports whether a group of inputs, or one in it, has an error.
func (f *form) Within(name string) bool {
	return slices.ContainsFunc(f.Errors, func(e api.FieldError) bool {
		rest, within := strings.CutPrefix(e.Field, name)
		return within && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// wrong adds an error of a field.
func (f *form) wrong(field, detail string) {
	f.Errors = append(f.Errors, api.FieldError{Field: field, Detail: detail})
}

// require adds an error if a field is empty.
func (f *form) require(field string) {
	if strings.TrimSpace(f.Value(field)) == "" {
		f.wrong(field, "is required")
	}
}

// Ok reports whether the form has no errors.
func (f *form) Ok() bool { return f.Problem == "" && len(f.Errors) == 0 }

// Target returns the name of the input, or of the group of inputs, that shows an error of a field:
// the most specific one that the form has sent. It is `allowed_ips` for `allowed_ips[3]`, and
// `grants[0]` for `grants[0].roles` if no role is checked.
func (f *form) Target(field string) string {
	target, known := f.targets[field]
	if !known {
		target = f.target(field)
		if f.targets == nil {
			f.targets = make(map[string]string)
		}
		f.targets[field] = target
	}
	return target
}

func (f *form) target(field string) string {
	for name := field; ; {
		if f.values.Has(name) || f.values.Has(name+"_more") {
			return name
		}
		for sent := range f.values {
			if strings.HasPrefix(sent, name+".") {
				return name
			}
		}
		i := strings.LastIndexAny(name, "[.")
		if i <= 0 {
			return f.Anchor(field)
		}
		name = name[:i]
	}
}

// Anchor returns the first part of the name of a field: `grants` for `grants[0].roles`.
func (f *form) Anchor(field string) string {
	if i := strings.IndexAny(field, "[."); i > 0 {
		return field[:i]
	}
	return field
}

// labels holds the labels of fields that differ from their names.
var labels = map[string]string{
	"allowed_ips": "Allowed addresses", "expires_at": "Expires",
	"grace": "Old token stops working", "confirm": "Confirmation", "new_roles": "New role",
	"parent": "Parent", "key_roles": "Roles of keys", "token_prefix": "Token prefix",
	"child_prefix": "Child prefix", "edit_policy": "Edits of keys", "token": "Token",
	"rate_limit.per": "Rate limit duration", "quota.requests": "Quota units",
	"quota.per": "Quota period", "q": "Search",
	"max_lifetime": "Maximum lifetime", "idle.after": "Unused for", "idle.then": "Unused keys",
	"on_leak": "Leaked keys",
}

// Named returns the label of a field: "Allowed addresses 2" for `allowed_ips[1]`.
func (f *form) Named(field string) string {
	if label := labels[field]; label != "" {
		return label
	}
	anchor := f.Anchor(field)
	field = cmp.Or(labels[anchor], anchor) + field[len(anchor):]
	words := indexes.ReplaceAllStringFunc(field, func(index string) string {
		n, _ := strconv.Atoi(index[1 : len(index)-1])
		return " " + strconv.Itoa(n+1)
	})
	words = strings.NewReplacer("_", " ", ".", " ").Replace(words)
	return strings.ToUpper(words[:min(1, len(words))]) + words[min(1, len(words)):]
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// again returns the value of the clicked button if its name is `again`, or an empty string. Such a
// button shows the form again with its input. If the search text of the permission table has
// changed, any button counts as the search button, because Enter in the search field clicks the
// first button of the form. The value `NAME=VALUE` adds a value to the form.
func (f *form) again() string {
	button := f.Value("again")
	f.values.Del("again")
	if name, value, ok := strings.Cut(button, "="); ok && !f.Has(name, value) {
		f.values.Add(name, value)
	}
	for name := range f.values {
		table, ok := strings.CutSuffix(name, "_find")
		if text := f.Value(name); ok && text != f.Value(table+"_found") {
			f.values.Set(table+"_found", text)
			f.values.Del(table + "_open") // of the previous results
			button = "find"
		}
	}
	f.Kept, f.Codes = button == keptStep, button == codeStep
	if button != "" && button != reviewStep {
		f.status = http.StatusOK
	}
	return button
}

// fail adds the errors of a refused call to the form. It reports whether the user can fix them, so
// that the form is shown again.
func (f *form) fail(err error) bool {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return false
	}
	switch refused.Status {
	case http.StatusUnprocessableEntity, http.StatusForbidden, http.StatusConflict,
		http.StatusPreconditionFailed, http.StatusBadRequest:
		f.status, f.Problem = refused.Status, sentence(refused.Message())
		if refused.Status == http.StatusPreconditionFailed {
			f.Problem = "Someone changed this while you were editing. Open it in another tab to see " +
				"the changes."
		}
		for _, e := range refused.Errors {
			// Nobody types fractions of microseconds.
			e.Detail = strings.TrimSuffix(cmp.Or(ownWords[e.Detail], e.Detail),
				", in whole microseconds")
			if !slices.Contains(f.Errors, e) { // see refusing
				f.Errors = append(f.Errors, e)
			}
		}
		return true
	}
	return false
}

// refusing returns the context of a call that must be refused if the form has errors. The REST
// interface adds its own, so that the visitor sees all errors at once.
func (v *visit) refusing(f *form) context.Context {
	if f.Ok() {
		return v.ctx
	}
	wrong := make([]keystore.FieldError, len(f.Errors))
	for i, e := range f.Errors {
		wrong[i] = keystore.FieldError(e)
	}
	return manage.WithFieldErrors(v.ctx, wrong)
}

// ownWords replaces explanations of the REST interface with instructions for a form.
var ownWords = map[string]string{
	"must be in the future":                        "choose a future date",
	`namespace "" does not exist; create it first`: "choose a namespace",
	"must not be empty unless the key has an access level, roles or grants": "choose at least one " +
		"permission",
}
