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

// A form is what was typed, and what is wrong with it.
type form struct {
	values  url.Values
	Problem string           // with the whole of it
	Errors  []api.FieldError // in the order in which they came
	status  int              // to answer with
}

// form returns what was sent.
func (v *visit) form() *form {
	return &form{values: v.r.PostForm, status: http.StatusUnprocessableEntity}
}

// blank is a form before anything was typed, with the values that it begins with, names and values
// in turn.
func blank(values ...string) *form {
	f := &form{values: make(url.Values), status: http.StatusOK}
	for i := 0; i+1 < len(values); i += 2 {
		f.values.Add(values[i], values[i+1])
	}
	return f
}

// Value is what a field holds.
func (f *form) Value(name string) string { return f.values.Get(name) }

// Values is what fields of one name hold.
func (f *form) Values(name string) []string { return f.values[name] }

// zone is where days and times are typed: the viewer's zone, as far as the script has said which.
func (f *form) zone() *time.Location {
	name := f.Value("zone")
	if at, err := time.LoadLocation(name); err == nil && name != "Local" {
		return at
	}
	return time.UTC
}

// Has reports whether one of the fields of a name holds a value: a box that is checked, an option
// that is chosen.
func (f *form) Has(name, value string) bool { return slices.Contains(f.values[name], value) }

// Error is what is wrong with a field, or with one of its values.
func (f *form) Error(name string) string {
	for _, e := range f.Errors {
		if e.Field == name || f.Anchor(e.Field) == name {
			return sentence(e.Detail)
		}
	}
	return ""
}

// wrong notes an error of a field.
func (f *form) wrong(field, detail string) {
	f.Errors = append(f.Errors, api.FieldError{Field: field, Detail: detail})
}

// Ok reports whether nothing is wrong so far.
func (f *form) Ok() bool { return f.Problem == "" && len(f.Errors) == 0 }

// Anchor is the name of the input, or of the group of them, that an error of a field is shown at:
// `allowed_ips` for `allowed_ips[3]`, `grants` for `grants[0].roles`.
func (f *form) Anchor(field string) string {
	if i := strings.IndexAny(field, "[."); i > 0 {
		return field[:i]
	}
	return field
}

// labels are what fields are called on the pages, where that is not their name.
var labels = map[string]string{
	"allowed_ips": "Addresses", "expires_at": "Expires", "grace": "The present token ends",
	"confirm": "Confirmation", "new_roles": "New role", "parent": "Lies in",
	"key_roles": "Roles that keys have here", "token_prefix": "Tokens begin with",
	"child_prefix": "Child prefix", "edit_policy": "Keys can be edited", "token": "Member token",
}

// Named is a field for people: `allowed_ips[1]` is "Addresses 2".
func (f *form) Named(field string) string {
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

// fail keeps why the REST interface has refused what the form asks for, and reports whether the
// person who filled it in can do something about it.
func (f *form) fail(err error) bool {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return false
	}
	switch refused.Status {
	case http.StatusUnprocessableEntity, http.StatusForbidden, http.StatusConflict, http.StatusPreconditionFailed, http.StatusBadRequest:
		f.status, f.Problem = refused.Status, sentence(refused.Message())
		f.Errors = append(f.Errors, refused.Errors...)
		return true
	}
	return false
}
