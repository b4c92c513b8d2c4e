package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A keyForm holds the choices of the form for a key.
type keyForm struct {
	Key *api.Key // the edited key; nil: a new key
	// Like is the key whose values the form for a new key begins with; nil: none.
	Like *api.Key
	// Less means that the visitor cannot give everything that Like has.
	Less bool

	Names  map[string]string
	Home   api.Namespace
	Homes  []choice // namespaces where the visitor may create keys
	Levels []choice // access levels
	Table  []resource

	Roles   []choice // of the home namespace
	Builtin []choice // for keys that manage keys
	// Unlisted means that the visitor may not list the roles of the namespace and must type them.
	Unlisted   bool
	Fixed      []string // the roles that all keys of the namespace have
	RoleNeeded bool     // whether keys need at least one role
	MayCreate  bool     // whether the visitor may create roles

	// MayConnect means that the grant in the home namespace can include its children.
	MayConnect bool
	Connected  []otherNamespace // children of the home namespace
	Others     []otherNamespace

	Owners   []choice
	Expiries []choice
	Rules    []choice // for limits
	Plans    []choice
	// PlansUnlisted means that the visitor may not list plans and must type the name of one.
	PlansUnlisted bool
	GrowOnly      bool // whether edits of the namespace's keys can only add permissions
	Once          string

	mayGive func(keystore.Permission) bool // whether the visitor has it in the home namespace
	current *keystore.Set                  // the permissions of the edited key there
}

// An otherNamespace is a namespace, other than its own, in which a key can have a grant.
type otherNamespace struct {
	ID, Label string
	Kept      *api.Grant // the grant there of the edited key, or of the one that is copied, if any
	// Loses has the choices of access that would remove a permission that cannot be removed.
	Loses map[string]bool
}

// Access levels of the form that the REST interface does not have.
const (
	byRoles = "roles" // the permissions of its roles only
	same    = "same"  // in another namespace: as in the home namespace
	kept    = "kept"  // in another namespace: unchanged
)

// Locked reports whether an edit cannot remove a value from a field of the key.
func (p *keyForm) Locked(field, value string) bool {
	if !p.GrowOnly || p.Key == nil {
		return false
	}
	for _, g := range p.Key.Grants {
		switch {
		case field == "grants" && g.Namespace == value,
			field == "connected:" && g.Namespace == value && g.Connected:
			return true
		case g.Namespace != p.Home.ID:
		case field == "permissions" && slices.Contains(g.Permissions, value),
			field == "roles" && slices.Contains(g.Roles, value),
			field == "connected" && g.Connected:
			return true
		}
	}
	return false
}

// Barred reports whether the visitor cannot give a permission in the home namespace: neither the
// visitor nor the key has it there.
func (p *keyForm) Barred(permission string) bool {
	parsed, err := keystore.ParsePermission(permission)
	return err == nil && !p.current.Covers(parsed) && !p.mayGive(parsed)
}

// barredInRole is like Barred for a role that the key lacks. The permissions of the key do not
// count, because the key also gets permissions that are added to the role later.
func (p *keyForm) barredInRole(permission string) bool {
	parsed, err := keystore.ParsePermission(permission)
	return err == nil && !p.mayGive(parsed)
}

// bar disables a choice that the visitor cannot give, and explains it.
func bar(c choice, barred func(string) bool, permissions ...string) choice {
	if c.Disabled = slices.ContainsFunc(permissions, barred); c.Disabled {
		c.Hint = "You lack some of these permissions: " + c.Hint
	}
	return c
}

func compareChoices(a, b choice) int {
	return cmp.Or(cmp.Compare(strings.ToLower(a.Label), strings.ToLower(b.Label)),
		cmp.Compare(a.Value, b.Value))
}

// keyForm returns the form for a key with a home namespace. like is the key whose grants a new key
// can copy, or nil.
func (v *visit) keyForm(home string, k, like *api.Key) (*keyForm, error) {
	p := &keyForm{Key: k, Like: like, Names: v.names(), Home: v.home(home),
		mayGive: v.keys.MayGive(v.Caller, home), current: ownPermissions(k)}
	p.GrowOnly = p.Home.EditPolicy == string(keystore.EditGrowOnly)
	p.Levels = []choice{
		bar(choice{Value: string(keystore.ReadOnly), Label: accessLabels[keystore.ReadOnly],
			Hint: "All calls that read."}, p.Barred, "read"),
		bar(choice{Value: string(keystore.ReadWrite), Label: accessLabels[keystore.ReadWrite],
			Hint: "All calls that read or write."}, p.Barred, "read", "write"),
		{Value: string(keystore.Custom), Label: "Custom", Hint: "The calls that you choose."},
	}
	var err error
	if p.Table, err = v.table(); err != nil {
		return nil, err
	}
	v.roleChoices(p)
	if len(p.Roles) > 0 || p.Unlisted || p.MayCreate || len(p.Fixed) > 0 {
		p.Levels = append(p.Levels, choice{Value: byRoles, Label: "By roles",
			Hint: "The permissions of its roles."})
	}
	if g := homeGrantOf(k); p.GrowOnly {
		for i, l := range p.Levels {
			if lost := v.lost(g, keystore.Access(l.Value).Permissions(), g.Roles); lost != "" &&
				l.Value != string(keystore.Custom) {
				p.Levels[i].Disabled = true
				p.Levels[i].Hint = "The key would lose " + lost + "."
			}
		}
	}
	p.Rules, p.PlansUnlisted = keyLimitRules, !v.mayIn("admin.plans:read", home)
	none, plan := "Default of the namespace", ""
	if p.Home.DefaultPlan != nil {
		none += ": " + *p.Home.DefaultPlan
	}
	if k != nil && k.Plan != nil {
		plan = *k.Plan
	}
	p.Plans = v.planChoices(home, none, plan)
	if p.Home.DefaultPlan != nil { // its limits are those of the first choice
		for _, plan := range p.Plans[1:] {
			if plan.Value == *p.Home.DefaultPlan {
				p.Plans[0].Hint = plan.Hint
			}
		}
	}
	v.otherNamespaces(p)
	p.Homes = offer(v.places("admin.keys:create", ""), p.Home.ID)
	if v.may("admin.members:update") {
		p.Owners = slices.DeleteFunc(v.members(),
			func(c choice) bool { return !v.keys.MayActFor(v.Caller, c.Value) })
		if k != nil && !slices.ContainsFunc(p.Owners,
			func(c choice) bool { return c.Value == k.Owner }) {
			p.Owners = append(p.Owners, choice{Value: k.Owner,
				Label: cmp.Or(p.Names[k.Owner], k.Owner)})
		}
	} else if groups := v.groups(); k == nil || v.owns(k.Owner) {
		p.Owners = groups
	}
	if k == nil && len(v.groups()) > 1 {
		p.Owners = append([]choice{{Label: "The group that has these permissions"}}, p.Owners...)
	}
	return p, nil
}

// homeGrantOf returns the grant of a key in its home namespace. It is empty if there is none, and for
// nil.
func homeGrantOf(k *api.Key) api.Grant {
	if k != nil {
		for _, g := range k.Grants {
			if g.Namespace == k.Namespace {
				return g
			}
		}
	}
	return api.Grant{}
}

// ownPermissions returns the permissions of a key in its home namespace, without those of its
// roles. It returns an empty set for nil.
func ownPermissions(k *api.Key) *keystore.Set {
	return keystore.NewSet(parsed(homeGrantOf(k).Permissions)...)
}

// parsed returns the permissions of the REST interface in a list, without invalid ones.
func parsed(list []string) (all []keystore.Permission) {
	for _, text := range list {
		if p, err := keystore.ParsePermission(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// lost returns a permission of a grant that it would not have with other permissions and roles, or
// an empty string.
func (v *visit) lost(g api.Grant, permissions []keystore.Permission, roles []string) string {
	expand := func(permissions []keystore.Permission, roles []string) *keystore.Set {
		return v.keys.Policy().Expand(&keystore.Grant{Namespace: g.Namespace,
			Permissions: permissions, Roles: roles})
	}
	then := expand(permissions, roles)
	for _, p := range expand(parsed(g.Permissions), g.Roles).Permissions() {
		if !then.Covers(p) {
			return p.String()
		}
	}
	return ""
}

func (v *visit) roleChoices(p *keyForm) {
	p.MayCreate = v.mayIn("admin.roles:create", p.Home.ID)
	switch {
	case len(p.Home.KeyRoles) == 1 && p.Home.KeyRoles[0] == keystore.AnyRole:
		p.RoleNeeded = true
	case len(p.Home.KeyRoles) > 0:
		p.Fixed, p.MayCreate = p.Home.KeyRoles, false
		return
	}
	var had []string
	if p.Key != nil {
		had = homeRoles(*p.Key)
	}
	p.Unlisted = !v.mayIn("admin.roles:read", p.Home.ID)
	for _, r := range v.roles() {
		if r.Namespace != p.Home.ID && r.Namespace != keystore.AnyNamespace {
			continue
		}
		c := choice{Value: r.Name, Label: r.Name, Hint: strings.Join(r.Permissions, ", ")}
		if !slices.Contains(had, r.Name) {
			c = bar(c, p.barredInRole, r.Permissions...)
		}
		if r.Builtin {
			p.Builtin = append(p.Builtin, c)
		} else {
			p.Roles = append(p.Roles, c)
		}
	}
	for _, name := range had { // a role that the form does not show would be removed
		if !slices.ContainsFunc(slices.Concat(p.Roles, p.Builtin),
			func(c choice) bool { return c.Value == name }) {
			p.Roles = append(p.Roles, choice{Value: name, Label: name})
		}
	}
	slices.SortFunc(p.Roles, compareChoices)
}

// maxRepeated is the maximum number of permissions and roles of the home namespace that grants in
// other namespaces can repeat.
const maxRepeated = 500

// maxOthers is the number of namespaces that a form offers. Others can be typed.
const maxOthers = 200

func (v *visit) otherNamespaces(p *keyForm) {
	all := v.reachable()
	offered := make(map[string]bool)
	for _, ns := range all {
		if ns.ID == p.Home.ID {
			continue
		}
		o := otherNamespace{ID: ns.ID, Label: namespaceLabel(ns)}
		child := ns.Parent != nil && *ns.Parent == p.Home.ID
		switch {
		case child:
			p.Connected = append(p.Connected, o)
		case len(p.Others) < maxOthers:
			p.Others = append(p.Others, o)
		default:
			continue
		}
		offered[ns.ID] = true
	}
	byID := func(a, b otherNamespace) int {
		return cmp.Compare(strings.ToLower(a.ID), strings.ToLower(b.ID))
	}
	slices.SortFunc(p.Connected, byID)
	slices.SortFunc(p.Others, byID)
	p.MayConnect = v.keys.MayConnect(v.Caller, p.Home.ID)
	if v.mayIn("admin.keys:create", keystore.AnyNamespace) {
		p.Others = append(p.Others, otherNamespace{ID: keystore.AnyNamespace,
			Label: "All namespaces, including future ones"})
		offered[keystore.AnyNamespace] = true
	}
	source := cmp.Or(p.Key, p.Like)
	if source == nil {
		return
	}
	home := homeGrantOf(source)
	for i, g := range source.Grants {
		if g.Namespace == p.Home.ID {
			continue
		}
		if !offered[g.Namespace] {
			p.Others = append(p.Others, otherNamespace{ID: g.Namespace, Label: g.Namespace})
		}
		for _, list := range [][]otherNamespace{p.Connected, p.Others} {
			for j := range list {
				if list[j].ID == g.Namespace {
					list[j].Kept = &source.Grants[i]
					if p.GrowOnly && p.Key != nil {
						list[j].Loses = v.losing(g, home)
					}
				}
			}
		}
	}
}

// losing returns the choices of access in another namespace that would remove a permission from the
// grant of a key there. home is the grant in the home namespace, which the choice same repeats.
func (v *visit) losing(g, home api.Grant) map[string]bool {
	var shared []string
	for _, name := range v.sharedRoles() {
		if slices.Contains(home.Roles, name) {
			shared = append(shared, name)
		}
	}
	losing := map[string]bool{same: v.lost(g, parsed(home.Permissions), shared) != ""}
	for _, level := range []keystore.Access{keystore.ReadOnly, keystore.ReadWrite} {
		losing[string(level)] = v.lost(g, level.Permissions(), nil) != ""
	}
	return losing
}

// words splits a text at spaces, commas and line breaks.
func words(text string) []string {
	return strings.FieldsFunc(text,
		func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' })
}

// A homeGrant is the grant that a form requests in the key's home namespace.
type homeGrant struct {
	access             string
	permissions, roles []string
	connected          bool
	newRoles           []api.NewRole
}

func (f *form) homeGrant() homeGrant {
	h := homeGrant{access: f.Value("access"),
		roles:     slices.Concat(f.Values("roles"), words(f.Value("roles_more"))),
		connected: f.Has("connected", "true")}
	switch h.access {
	case string(keystore.Custom):
		h.permissions = f.permissions("permissions")
	case byRoles:
		h.access = ""
	}
	if name := strings.TrimSpace(f.Value("new_roles[0].name")); name != "" {
		h.newRoles = []api.NewRole{{Name: name,
			Permissions: orEmpty(f.permissions("new_roles[0].permissions"))}}
	}
	return h
}

// needsRole reports a missing role for a key with permissions by roles. The field for permissions
// is hidden then.
func (f *form) needsRole(p *keyForm, h homeGrant, others []api.GrantRequest) {
	if f.Value("access") == byRoles && len(h.roles)+len(h.newRoles)+len(p.Fixed)+len(others) == 0 {
		f.wrong("roles", "choose at least one role or another access level")
	}
}

// otherGrants returns the grants that a form requests in other namespaces. shared are the names of
// the shared roles.
func (f *form) otherGrants(p *keyForm, home homeGrant, shared []string) []api.GrantRequest {
	grants := []api.GrantRequest{}
	ids := slices.Concat(f.Values("grants"), words(f.Value("grants_more")))
	if len(ids) > maxGrants { // each grant repeats the home grant
		f.wrong("grants", fmt.Sprintf("must contain at most %d namespaces", maxGrants))
		return grants
	}
	if len(home.permissions)+len(home.roles) > maxRepeated {
		f.wrong("grants", fmt.Sprintf("can repeat at most %d permissions and roles of the key's "+
			"own namespace: choose fewer", maxRepeated))
		return grants
	}
	var roles []string
	for _, role := range home.roles {
		if slices.Contains(shared, role) && !slices.Contains(roles, role) {
			roles = append(roles, role)
		}
	}
	for _, id := range ids {
		g := api.GrantRequest{Namespace: id, Connected: f.Has("connected:"+id, "true")}
		switch access := cmp.Or(f.Value("access:"+id), same); access {
		case same:
			g.Access, g.Permissions, g.Roles = home.access, home.permissions, roles
		case kept:
			for _, o := range slices.Concat(p.Connected, p.Others) {
				if o.ID == id && o.Kept != nil {
					g.Permissions, g.Roles = o.Kept.Permissions, o.Kept.Roles
				}
			}
		default:
			g.Access = access
		}
		grants = append(grants, g)
	}
	return grants
}

// sharedRoles returns the names of the shared roles that the visitor may read.
func (v *visit) sharedRoles() []string {
	var names []string
	for _, r := range v.roles() {
		if r.Namespace == keystore.AnyNamespace {
			names = append(names, r.Name)
		}
	}
	return names
}

// metadata parses lines of name=value. It stops at the first invalid line.
func (f *form) metadata() map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(f.Value("metadata")) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		switch _, twice := m[name]; {
		case !ok || name == "":
			f.wrong("metadata", fmt.Sprintf("the line %q must have the form name=value", line))
			return m
		case twice:
			f.wrong("metadata", fmt.Sprintf("the name %q is duplicated", name))
			return m
		}
		m[name] = strings.TrimSpace(value)
	}
	return m
}

// expiries are the offered expiries besides a custom day.
var expiries = []struct {
	value, label string
	days         int
}{
	{"30d", "In 30 days", 30}, {"60d", "In 60 days", 60}, {"90d", "In 90 days", 90},
	{"1y", "In a year", 365},
}

const never, onDay = "never", "custom"

// defaultExpiry is the chosen expiry of a new key.
const defaultExpiry = "90d"

// lifetimeOf returns the chosen expiry of a new key in a namespace.
func lifetimeOf(home api.Namespace) string {
	if home.MaxLifetime != nil {
		return *home.MaxLifetime
	}
	return defaultExpiry
}

// keyExpiries returns the expiries of a new key in a namespace: those that it allows.
func keyExpiries(now time.Time, home api.Namespace) []choice {
	list := expiryChoices(now)
	if home.MaxLifetime == nil {
		return list
	}
	longest, _ := keystore.ParseLifetime(*home.MaxLifetime) // zero allows none of the others
	allowed := []choice{{Value: *home.MaxLifetime, Label: "In " + durationWords(*home.MaxLifetime) +
		", the most that the namespace allows",
		Hint: now.Add(longest).UTC().Format("2006-01-02")}}
	for _, e := range expiries {
		if time.Duration(e.days)*day < longest {
			i := slices.IndexFunc(list, func(c choice) bool { return c.Value == e.value })
			allowed = append(allowed, list[i])
		}
	}
	return append(allowed, list[len(list)-1])
}

func expiryChoices(now time.Time) []choice {
	list := []choice{{Value: never, Label: "Never"}}
	for _, e := range expiries {
		list = append(list, choice{Value: e.value, Label: e.label,
			Hint: now.AddDate(0, 0, e.days).UTC().Format("2006-01-02")})
	}
	return append(list, choice{Value: onDay, Label: "On a custom day"})
}

// expiry parses the expiry of a key or token. It returns nil for never.
func (f *form) expiry(now time.Time) *time.Time {
	chosen := f.Value("expires")
	for _, e := range expiries {
		if e.value == chosen {
			at := now.AddDate(0, 0, e.days).UTC().Truncate(time.Second)
			return &at
		}
	}
	if d, err := keystore.ParseLifetime(chosen); err == nil {
		at := now.Add(d).UTC().Truncate(time.Second)
		return &at
	}
	if chosen != onDay {
		if f.values.Has("expires") && chosen != never {
			f.wrong("expires_at", "must be never, a duration such as 90d, or a day")
		}
		return nil
	}
	at, err := time.ParseInLocation("2006-01-02 15:04",
		f.Value("expires_day")+" "+cmp.Or(f.Value("expires_time"), "00:00"), f.zone())
	at = at.UTC()
	if err != nil || at.Year() < 0 || at.Year() > 9999 { // RFC 3339 has no other years
		f.wrong("expires_at",
			"must be a day such as 2027-01-31, with an optional time such as 17:30")
		return nil
	}
	return &at
}
