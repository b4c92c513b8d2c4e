package console

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// An aspect is one part of a key in words, as a form describes it.
type aspect struct {
	Name, Label string
	Values      []string // empty: none
	Moment      bool     // whether the value is a time
	// fields are the names of its fields. A name that ends in a colon is a prefix of names.
	fields []string
}

// Text returns the values in one line.
func (a aspect) Text() string { return cmp.Or(strings.Join(a.Values, ", "), "None") }

// fingerprint identifies the values in the field `seen` of a form.
func (a aspect) fingerprint() string {
	sum := sha256.Sum256([]byte(strings.Join(a.Values, "\x00")))
	return a.Name + ":" + hex.EncodeToString(sum[:6])
}

// aspects returns the aspects of the key in a form. Aspects whose fields the form does not have are
// missing.
func (v *visit) aspects(p *keyForm, sent *form) (list []aspect) {
	f := &form{values: sent.values} // the errors of fields are not those of the form
	add := func(name, label string, values []string, fields ...string) {
		values = slices.DeleteFunc(values, func(s string) bool { return s == "" })
		list = append(list, aspect{Name: name, Label: label, Values: values, fields: fields})
	}
	yes := func(b bool) []string { return []string{map[bool]string{true: "Yes", false: "No"}[b]} }
	add("name", "Name", []string{f.Value("name")}, "name")
	add("active", "Active", yes(f.Has("active", "true")), "active")
	home := f.homeGrant()
	add("access", "Permissions", sorted(withAccess(home.permissions, home.access)), "access",
		"permissions", "permissions_more")
	if len(p.Fixed) == 0 {
		roles := slices.Clone(home.roles)
		for _, r := range home.newRoles {
			roles = append(roles, r.Name+" (new: "+strings.Join(r.Permissions, ", ")+")")
		}
		add("roles", "Roles", sorted(roles), "roles", "roles_more", "new_roles[0].name",
			"new_roles[0].permissions", "new_roles[0].permissions_more")
	}
	if p.MayConnect || f.Has("connected", "true") {
		add("connected", "Valid in all children of "+p.Home.ID, yes(f.Has("connected", "true")),
			"connected")
	}
	var others []string
	for _, g := range f.otherGrants(p, home, v.sharedRoles()) {
		others = append(others, otherGrantWords(g))
	}
	slices.Sort(others)
	add("grants", "Other namespaces", others, "grants", "grants_more", "access:", "connected:")
	if p.Key == nil {
		expires := []string{"Never"}
		at := f.expiry(v.keys.Now())
		if at != nil {
			expires = []string{at.Format(time.RFC3339)}
		}
		add("expires", "Expires", expires)
		list[len(list)-1].Moment = at != nil
	}
	if f.values.Has("plan") {
		plan := cmp.Or(strings.TrimSpace(f.Value("plan")), "Default of the namespace")
		add("plan", "Plan", []string{plan}, "plan")
	}
	if f.values.Has("rate_limit_rule") {
		add("rate_limit", "Rate limit", []string{ruleWords(f.Value("rate_limit_rule"),
			func() string {
				l := f.rateLimit()
				if l != nil {
					l.Burst = cmp.Or(l.Burst, l.Requests)
				}
				return rateWords(l)
			})}, "rate_limit_rule", "rate_limit.requests", "rate_limit.per", "rate_limit.burst",
			"rate_limit.shadow")
	}
	if f.values.Has("quota_rule") {
		add("quota", "Quota", []string{ruleWords(f.Value("quota_rule"),
			func() string { return quotaWords(f.quota()) })},
			"quota_rule", "quota.requests", "quota.per", "quota.shadow")
	}
	addresses := words(f.Value("allowed_ips"))
	slices.Sort(addresses)
	add("allowed_ips", "Allowed addresses", addresses, "allowed_ips")
	if owner := f.Value("owner"); owner != "" {
		add("owner", "Owner", []string{cmp.Or(p.Names[owner], owner)}, "owner")
	}
	metadata := f.lines("metadata")
	slices.Sort(metadata)
	add("metadata", "Metadata", metadata, "metadata")
	return list
}

// withAccess returns permissions with those of an access level of the REST interface.
func withAccess(permissions []string, access string) []string {
	all := slices.Clone(permissions)
	for _, permission := range keystore.Access(access).Permissions() {
		all = append(all, permission.String())
	}
	return all
}

// sorted returns the elements of a list in order, each once.
func sorted(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// otherGrantWords describes a grant in a namespace other than the key's own.
func otherGrantWords(g api.GrantRequest) string {
	has := sorted(withAccess(g.Permissions, g.Access))
	for _, role := range g.Roles {
		has = append(has, "role "+role)
	}
	in := g.Namespace
	if in == keystore.AnyNamespace {
		in = "everywhere"
	}
	if g.Connected {
		in += " and its children"
	}
	return in + ": " + cmp.Or(strings.Join(slices.Compact(has), ", "), "no permissions")
}

// ruleWords describes the rule of a form for a limit of a key.
func ruleWords(rule string, limit func() string) string {
	switch rule {
	case unlimited:
		return "No limit"
	case limited:
		return limit()
	}
	return "From the plan"
}

// changesOf returns the differences between two descriptions of a key.
func changesOf(before, after []aspect) (list []difference) {
	for _, b := range after {
		i := slices.IndexFunc(before, func(a aspect) bool { return a.Name == b.Name })
		if i < 0 || slices.Equal(before[i].Values, b.Values) {
			continue
		}
		a := before[i]
		list = append(list, difference{Field: b.Label, List: true,
			Removed: missing(a.Values, b.Values), Added: missing(b.Values, a.Values)})
	}
	return list
}

// missing returns the elements of a that b does not contain.
func missing(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// A conflict is the change of a key by someone else while a visitor was editing it.
type conflict struct {
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

// editForm returns the form of the key, filled in. Its field `seen` tells later which aspects have
// changed since.
func (v *visit) editForm(p *keyForm) *form {
	f := formOf(p, p.Key)
	var seen []string
	for _, a := range v.aspects(p, f) {
		seen = append(seen, a.fingerprint())
	}
	f.values.Set("version", strconv.FormatInt(p.Key.Version, 10))
	f.values.Set("seen", strings.Join(seen, " "))
	return f
}

// merge brings a form for an older version of the key up to date. Aspects that only others have
// changed become theirs; the visitor chooses among those that both have changed. It reports whether
// there is something for the visitor to see.
func (v *visit) merge(p *keyForm, f *form) bool {
	now := v.editForm(p)
	seen := strings.Fields(f.Value("seen"))
	mine := v.aspects(p, f)
	p.Conflict = &conflict{Events: v.eventsSince(p.Key.ID, f.Value("version"))}
	for _, theirs := range v.aspects(p, now) {
		i := slices.IndexFunc(mine, func(a aspect) bool { return a.Name == theirs.Name })
		if i < 0 || slices.Equal(mine[i].Values, theirs.Values) ||
			slices.Contains(seen, theirs.fingerprint()) { // nobody else has changed it
			continue
		}
		if slices.Contains(seen, mine[i].fingerprint()) {
			f.take(now, theirs.fields)
			p.Conflict.Taken = append(p.Conflict.Taken, theirs.Label)
			continue
		}
		c := conflictChoice{Name: theirs.Name, Label: theirs.Label, Mine: mine[i].Text(),
			Theirs: theirs.Text()}
		p.Conflict.Choices = append(p.Conflict.Choices, c)
		f.values.Set(c.Field(), "mine")
	}
	f.values.Set("version", now.Value("version"))
	f.values.Set("seen", now.Value("seen"))
	if len(p.Conflict.Taken)+len(p.Conflict.Choices) == 0 {
		p.Conflict = nil
		return false
	}
	f.values.Del("again")
	f.status = http.StatusPreconditionFailed
	return true
}

// resolve applies the visitor's choices after a conflict: see merge.
func (v *visit) resolve(p *keyForm, f *form) {
	var now *form
	for _, a := range v.aspects(p, f) {
		field := conflictChoice{Name: a.Name}.Field()
		if f.Value(field) == "theirs" {
			now = cmp.Or(now, formOf(p, p.Key))
			f.take(now, a.fields)
		}
		f.values.Del(field)
	}
}

// take replaces fields by those of another form: see [aspect].
func (f *form) take(from *form, fields []string) {
	for _, field := range fields {
		of := func(name string) bool {
			return name == field || strings.HasSuffix(field, ":") && strings.HasPrefix(name, field)
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

// eventsSince returns the changes of a key after a version, as far as the visitor may see them.
func (v *visit) eventsSince(id, version string) (list []event) {
	known, err := strconv.ParseInt(version, 10, 64)
	if err != nil || !v.may("admin.audit:read") {
		return nil
	}
	rows, err := v.api.ListAudit(v.ctx, client.AuditFilter{Object: id, Limit: maxEvents})
	if err != nil {
		return nil // the choices do not need it
	}
	for _, r := range rows.Items {
		at, err := strconv.ParseInt(fmt.Sprint(objectOf(r.After)["version"]), 10, 64)
		if err != nil || at <= known {
			break
		}
		list = append(list, event{AuditRow: r, change: v.change(r), Words: actionWords(r.Action)})
	}
	return list
}

// A review shows the effect of a form before it is saved.
type review struct {
	*keyForm
	Aspects []aspect     // of a new key
	Changes []difference // of an edit
	Fields  [][2]string  // the form, as names and values
}

// reviewed shows the review of a form for a key. The visitor can save it or edit it again.
func (v *visit) reviewed(title string, p *keyForm, f *form) error {
	r := review{keyForm: p}
	after := v.aspects(p, f)
	if p.Key == nil {
		r.Aspects = slices.DeleteFunc(after, func(a aspect) bool { return len(a.Values) == 0 })
	} else {
		r.Changes = changesOf(v.aspects(p, formOf(p, p.Key)), after)
	}
	for name, values := range f.values {
		for _, value := range values {
			r.Fields = append(r.Fields, [2]string{name, value})
		}
	}
	slices.SortStableFunc(r.Fields, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	f.status = http.StatusOK
	return v.again("key_review", title, r, f)
}
