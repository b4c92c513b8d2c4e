package console

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// An edit detects concurrent changes of an object while a visitor edits it in a form. See merge.
type edit struct {
	kind, id, namespace string                 // of the object, as the audit log has them
	now                 *form                  // filled in with the object as it is
	aspects             func(*form) aspectList // of the object in a form
}

// newEdit returns the edit of an object that has a version and is described by a form. The field
// `seen` of the form shows later which aspects have changed since.
func newEdit(
	kind, id, namespace string, version int64, now *form, aspects func(*form) aspectList,
) *edit {
	var seen []string
	for _, a := range aspects(now) {
		seen = append(seen, a.fingerprint())
	}
	now.values.Set("version", strconv.FormatInt(version, 10))
	now.values.Set("seen", strings.Join(seen, " "))
	return &edit{kind, id, namespace, now, aspects}
}

// A conflict is the change of an object by someone else while a visitor was editing it.
type conflict struct {
	Kind    string  // of the object: "key"
	Events  []event // the changes, newest first, as far as the visitor may see them
	Taken   []string
	Choices []conflictChoice
}

// A conflictChoice is an aspect that both have changed.
type conflictChoice struct {
	Name, Label  string
	Mine, Theirs string
}

// Field returns the name of the field that chooses between the two.
func (c conflictChoice) Field() string { return "take:" + c.Name }

// merge brings a posted form for an older version of the object up to date. An aspect that only
// others have changed gets their value. An aspect that both have changed becomes a choice for the
// visitor. merge reports whether the form must be shown again for either reason. In a form for the
// current version, it applies the choices that the visitor has made.
func (v *visit) merge(e *edit, f *form) bool {
	if f.Value("version") == e.now.Value("version") {
		e.resolve(f)
		return false
	}
	seen := strings.Fields(f.Value("seen"))
	mine := e.aspects(f)
	c := &conflict{Kind: e.kind, Events: v.eventsSince(e, f.Value("version"))}
	for _, theirs := range e.aspects(e.now) {
		i := slices.IndexFunc(mine, func(a aspect) bool { return a.Name == theirs.Name })
		if i < 0 || slices.Equal(mine[i].Values, theirs.Values) ||
			slices.Contains(seen, theirs.fingerprint()) { // nobody else has changed it
			continue
		}
		if slices.Contains(seen, mine[i].fingerprint()) {
			f.take(e.now, theirs.fields)
			c.Taken = append(c.Taken, theirs.Label)
			continue
		}
		choice := conflictChoice{Name: theirs.Name, Label: theirs.Label, Mine: mine[i].Text(),
			Theirs: theirs.Text()}
		c.Choices = append(c.Choices, choice)
		f.values.Set(choice.Field(), "mine")
	}
	f.values.Set("version", e.now.Value("version"))
	f.values.Set("seen", e.now.Value("seen"))
	if len(c.Taken)+len(c.Choices) == 0 {
		return false
	}
	f.values.Del("again")
	f.Conflict, f.status = c, http.StatusPreconditionFailed
	return true
}

// resolve applies the visitor's choices after a conflict.
func (e *edit) resolve(f *form) {
	for _, a := range e.aspects(f) {
		field := conflictChoice{Name: a.Name}.Field()
		if f.Value(field) == "theirs" {
			f.take(e.now, a.fields)
		}
		f.values.Del(field)
	}
}

// take replaces fields by those of another form: see [aspect].
func (f *form) take(from *form, fields []string) {
	for _, field := range fields {
		of := func(name string) bool {
			return name == field || strings.ContainsAny(field[len(field)-1:], ":[") &&
				strings.HasPrefix(name, field)
		}
		for name := range f.values {
			if of(name) {
				f.values.Del(name)
			}
		}
		for name, values := range from.values {
			if of(name) {
				f.values[name] = values
			}
		}
	}
}

// maxEvents is the number of changes by others that a form shows.
const maxEvents = 10

// eventsSince returns the changes of an object after a version, as far as the visitor may see them.
func (v *visit) eventsSince(e *edit, version string) (list []event) {
	known, err := strconv.ParseInt(version, 10, 64)
	if err != nil || !v.may("admin.audit:read") {
		return nil
	}
	rows, err := v.api.ListAudit(v.ctx, client.AuditFilter{Object: e.id, Limit: maxEvents})
	if err != nil {
		return nil // the choices do not need it
	}
	for _, r := range rows.Items {
		after := objectOf(r.After)
		if kind, _, _ := strings.Cut(r.Action, "."); kind != e.kind ||
			plainText(after["namespace"]) != e.namespace { // roles and plans can have the same name
			continue
		}
		at, err := strconv.ParseInt(fmt.Sprint(after["version"]), 10, 64)
		if err != nil || at <= known {
			break
		}
		list = append(list, event{AuditRow: r, change: v.change(r), Words: actionWords(r.Action)})
	}
	return list
}
