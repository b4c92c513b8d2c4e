package console

import (
	"cmp"
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
)

// A form holds the values of a form and their errors.
type form struct {
	values  url.Values
	Problem string           // an error of the whole form
	Errors  []api.FieldError // errors of fields
	status  int              // the status of the answer
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

// Error returns the error of a field or of one of its values, or an empty string.
func (f *form) Error(name string) string {
	for _, e := range f.Errors {
		if e.Field == name || f.Anchor(e.Field) == name {
			return sentence(e.Detail)
		}
	}
	return ""
}

// wrong adds an error of a field.
func (f *form) wrong(field, detail string) {
	f.Errors = append(f.Errors, api.FieldError{Field: field, Detail: detail})
}

// Ok reports whether the form has no errors.
func (f *form) Ok() bool { return f.Problem == "" && len(f.Errors) == 0 }

// Anchor returns the name of the input or group of inputs at which an error of a field is shown:
// `allowed_ips` for `allowed_ips[3]`, `grants` for `grants[0].roles`.
func (f *form) Anchor(field string) string {
	if i := strings.IndexAny(field, "[."); i > 0 {
		return field[:i]
	}
	return field
}

// labels holds the labels of fields that differ from their names.
var labels = map[string]string{
	"allowed_ips": "Allowed addresses", "expires_at": "Expires",
	"grace": "Current token expires", "confirm": "Confirmation", "new_roles": "New role",
	"parent": "Parent", "key_roles": "Roles of keys", "token_prefix": "Token prefix",
	"child_prefix": "Child prefix", "edit_policy": "Edits of keys", "token": "Token",
	"rate_limit.per": "Rate limit duration", "quota.requests": "Quota units",
	"quota.per": "Quota period", "q": "Search",
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

// again reports whether the form was sent to be shown again, with all that was typed: by a button
// named `again`, or with a new search in the permission table, for which Enter is enough. The value
// `NAME=VALUE` of the button adds a value to the form.
func (f *form) again() bool {
	button := f.Value("again")
	if name, value, ok := strings.Cut(button, "="); ok && !f.Has(name, value) {
		f.values.Add(name, value)
	}
	found := false
	for name := range f.values {
		table, ok := strings.CutSuffix(name, "_find")
		if text := f.Value(name); ok && text != f.Value(table+"_found") {
			f.values.Set(table+"_found", text)
			f.values.Del(table + "_open") // of the previous results
			found = true
		}
	}
	if button == "" && !found {
		return false
	}
	f.status = http.StatusOK
	return true
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
		f.Errors = append(f.Errors, refused.Errors...)
		return true
	}
	return false
}
