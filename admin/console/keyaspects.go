package console

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// An aspect is one part of an object in words, as a form describes it.
type aspect struct {
	Name, Label string
	Values      []string // empty: none
	Moment      bool     // whether the value is a time
	// fields are the names of its fields. A name that ends in a colon or a bracket is a prefix of
	// names.
	fields []string
}

// Text returns the values in one line.
func (a aspect) Text() string {
	separator := ", "
	if slices.ContainsFunc(a.Values, func(s string) bool { return strings.Contains(s, separator) }) {
		separator = "; "
	}
	return cmp.Or(strings.Join(a.Values, separator), "None")
}

// fingerprint identifies the values in the field `seen` of a form.
func (a aspect) fingerprint() string {
	sum := sha256.Sum256([]byte(strings.Join(a.Values, "\x00")))
	return a.Name + ":" + hex.EncodeToString(sum[:6])
}

// An aspectList collects the aspects of an object.
type aspectList []aspect

// add adds an aspect with the names of its fields.
func (l *aspectList) add(name, label string, values []string, fields ...string) {
	values = slices.DeleteFunc(values, func(s string) bool { return s == "" })
	*l = append(*l, aspect{Name: name, Label: label, Values: values, fields: fields})
}

// text adds an aspect that is the text of a field. The form may lack the field.
func (l *aspectList) text(f *form, name, label string) {
	if f.values.Has(name) {
		l.add(name, label, []string{strings.TrimSpace(f.Value(name))}, name)
	}
}

// choice adds an aspect that is one of the choices of a field.
func (l *aspectList) choice(f *form, name, label string, choices []choice) {
	if f.values.Has(name) {
		l.add(name, label, []string{labelOf(choices, f.Value(name))}, name)
	}
}

// limits adds the limits of a form. none describes a missing one.
func (l *aspectList) limits(f *form, none string) {
	if f.values.Has("rate_limit_rule") {
		l.add("rate_limit", "Rate limit", []string{ruleWords(f.Value("rate_limit_rule"), none,
			func() string { return rateWords(f.rateLimit()) })}, "rate_limit_rule",
			"rate_limit.requests", "rate_limit.per", "rate_limit.burst", "rate_limit.shadow")
	}
	if f.values.Has("quota_rule") {
		l.add("quota", "Quota", []string{ruleWords(f.Value("quota_rule"), none,
			func() string { return quotaWords(f.quota()) })},
			"quota_rule", "quota.requests", "quota.per", "quota.shadow")
	}
}

// copied returns a form with the same values and without errors. Both share the values.
func (f *form) copied() *form { return &form{values: f.values} }

// aspects returns the aspects of the key in a form. Aspects whose fields the form does not have are
// missing.
func (v *visit) aspects(p *keyForm, sent *form) (list aspectList) {
	f := sent.copied()
	yes := func(b bool) []string { return []string{map[bool]string{true: "Yes", false: "No"}[b]} }
	list.add("name", "Name", []string{f.Value("name")}, "name")
	list.add("active", "Active", yes(f.Has("active", "true")), "active")
	home := f.homeGrant()
	list.add("access", "Access", accessValues(withAccess(home.permissions, home.access)), "access",
		"permissions", "permissions_more")
	if len(p.Fixed) == 0 {
		roles := slices.Clone(home.roles)
		for _, r := range home.newRoles {
			roles = append(roles, r.Name+" (new: "+strings.Join(r.Permissions, ", ")+")")
		}
		list.add("roles", "Roles", sorted(roles), "roles", "roles_more", "new_roles[0].name",
			"new_roles[0].permissions", "new_roles[0].permissions_more")
	}
	if p.MayConnect || f.Has("connected", "true") {
		list.add("connected", "All children of "+p.Home.ID+", including future ones",
			yes(f.Has("connected", "true")), "connected")
	}
	list.add("grants", "Other namespaces", grantsWords(f.otherGrants(p, home, v.sharedRoles())),
		"grants", "grants_more", "access:", "connected:")
	if p.Key == nil {
		expires := []string{"Never"}
		at := f.expiry(v.keys.Now())
		if at != nil {
			expires = []string{at.Format(time.RFC3339)}
		}
		list.add("expires", "Expires", expires)
		list[len(list)-1].Moment = at != nil
	}
	if f.values.Has("plan") {
		plan := cmp.Or(strings.TrimSpace(f.Value("plan")), "Default of the namespace")
		list.add("plan", "Plan", []string{plan}, "plan")
	}
	list.limits(f, "From the plan")
	list.add("allowed_ips", "Allowed addresses", sorted(words(f.Value("allowed_ips"))),
		"allowed_ips")
	if owner := f.Value("owner"); owner != "" {
		list.add("owner", "Owner", []string{cmp.Or(p.Names[owner], owner)}, "owner")
	}
	list.add("metadata", "Metadata", sorted(f.lines("metadata")), "metadata")
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

// accessValues returns permissions in order, or the label of their access level.
func accessValues(permissions []string) []string {
	list := sorted(permissions)
	if label := accessLabels[accessOf(list)]; label != "" {
		return []string{label}
	}
	return list
}

// Chips reports whether the values are names of permissions or roles.
func (a aspect) Chips() bool {
	return a.Name == "roles" || a.Name == "access" && !slices.Contains(
		slices.Collect(maps.Values(accessLabels)), a.Values[0])
}

// sorted returns the elements of a list in order, each once.
func sorted(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// grantsWords describes grants, each with its namespace.
func grantsWords(grants []api.GrantRequest) (list []string) {
	byNamespace := func(a, b api.GrantRequest) int { return cmp.Compare(a.Namespace, b.Namespace) }
	for _, g := range slices.SortedStableFunc(slices.Values(grants), byNamespace) {
		has := accessValues(withAccess(g.Permissions, g.Access))
		for _, role := range sorted(g.Roles) {
			has = append(has, "role "+role)
		}
		list = append(list, cmp.Or(strings.Join(has, ", "), "no permissions")+
			inWords(g.Namespace, g.Connected))
	}
	return list
}

// inWords returns where a grant applies: " in acme and its children".
func inWords(namespace string, connected bool) string {
	switch {
	case namespace == keystore.AnyNamespace:
		return " in all namespaces"
	case connected:
		return " in " + namespace + " and its children"
	}
	return " in " + namespace
}

// ruleWords describes the rule of a form for a limit. none describes a missing limit.
func ruleWords(rule, none string, limit func() string) string {
	switch rule {
	case unlimited:
		return "No limit"
	case limited:
		return limit()
	}
	return none
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

// keyEdit returns the edit of the key of a form.
func (v *visit) keyEdit(p *keyForm) *edit {
	return newEdit("key", p.Key.ID, p.Key.Namespace, p.Key.Version, formOf(p, p.Key),
		func(f *form) aspectList { return v.aspects(p, f) })
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
