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

// A keyForm is what a new key, or an edited one, can be given.
type keyForm struct {
	Key    *api.Key // that is edited; nil: a new one
	Names  map[string]string
	Home   api.Namespace
	Homes  []choice // where the visitor may make keys
	Levels []choice // of access
	Table  []resource

	Roles   []choice // that there are in the home namespace
	Builtin []choice // for keys that manage keys
	// the visitor may not read those of the namespace, and has to know their names
	Unlisted   bool
	Fixed      []string // the roles that keys of the namespace have, exactly these
	RoleNeeded bool     // they have one at least
	MayMake    bool     // new ones

	// what is given in the home namespace can take in those connected to it
	MayConnect bool
	Connected  []otherNamespace // children of the home namespace
	Others     []otherNamespace

	Owners   []choice
	Expiries []choice
	GrowOnly bool // the key can be given more, and lose nothing
	Once     string

	gives func(keystore.Permission) bool // whether the visitor holds it in the home namespace
	had   *keystore.Set                  // what the key that is edited was given there
}

// An otherNamespace is one that a key can have a grant in besides its own.
type otherNamespace struct {
	ID, Label string
	Kept      *api.Grant // that the key has there and that is neither of the access levels
}

// Levels of a form beyond those of the REST interface.
const (
	byRoles = "roles" // nothing but what roles give
	same    = "same"  // in another namespace: as at home
	kept    = "kept"  // in another namespace: as it is
)

// Locked reports whether the key that is edited has something in its own namespace that it can
// never lose.
func (p *keyForm) Locked(field, value string) bool {
	if !p.GrowOnly {
		return false
	}
	for _, g := range p.Key.Grants {
		switch {
		case field == "grants" && g.Namespace == value:
			return true
		case g.Namespace != p.Home.ID:
		case field == "permissions" && slices.Contains(g.Permissions, value), field == "roles" &&
			slices.Contains(g.Roles, value), field == "connected" && g.Connected:
			return true
		}
	}
	return false
}

// Barred reports whether the visitor cannot give a permission in the home namespace: it holds less
// there, and so does the key.
func (p *keyForm) Barred(permission string) bool {
	parsed, err := keystore.ParsePermission(permission)
	return err == nil && !p.had.Covers(parsed) && !p.gives(parsed)
}

// barredInRole is Barred for a role that the key lacks: what else the key has does not help, since
// it gets what is added to the role later.
func (p *keyForm) barredInRole(permission string) bool {
	parsed, err := keystore.ParsePermission(permission)
	return err == nil && !p.gives(parsed)
}

// bar takes out of a choice what the visitor cannot give, and says so.
func bar(c choice, barred func(string) bool, permissions ...string) choice {
	if c.Disabled = slices.ContainsFunc(permissions, barred); c.Disabled {
		c.Hint = "More than you hold here yourself: " + c.Hint
	}
	return c
}

func compareChoices(a, b choice) int {
	return cmp.Or(cmp.Compare(strings.ToLower(a.Label), strings.ToLower(b.Label)),
		cmp.Compare(a.Value, b.Value))
}

// keyForm returns what a key homed in a namespace can be given.
func (v *visit) keyForm(home string, k *api.Key) (*keyForm, error) {
	p := &keyForm{Key: k, Names: v.names(), Home: v.home(home),
		gives: v.keys.MayGive(v.Caller, home), had: given(k)}
	p.GrowOnly = k != nil && p.Home.EditPolicy == string(keystore.EditGrowOnly)
	p.Levels = []choice{
		bar(choice{Value: string(keystore.ReadOnly), Label: "Read-Only",
			Hint: "Every call that reads."}, p.Barred, "read"),
		bar(choice{Value: string(keystore.ReadWrite), Label: "Read & Write",
			Hint: "Every call that reads or writes."}, p.Barred, "read", "write"),
		{Value: string(keystore.Custom), Label: "Custom", Hint: "The calls that you choose."},
	}
	var err error
	if p.Table, err = v.table(); err != nil {
		return nil, err
	}
	v.roleChoices(p)
	if len(p.Roles) > 0 || p.Unlisted || p.MayMake || len(p.Fixed) > 0 {
		p.Levels = append(p.Levels, choice{Value: byRoles, Label: "By roles",
			Hint: "What its roles allow, and nothing else."})
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
	}
	return p, nil
}

// given is what a key was given in its own namespace, without its roles.
func given(k *api.Key) *keystore.Set {
	var list []keystore.Permission
	if k != nil {
		for _, g := range k.Grants {
			for _, text := range g.Permissions {
				if p, err := keystore.ParsePermission(text); err == nil &&
					g.Namespace == k.Namespace {
					list = append(list, p)
				}
			}
		}
	}
	return keystore.NewSet(list...)
}

func (v *visit) roleChoices(p *keyForm) {
	p.MayMake = v.mayIn("admin.roles:create", p.Home.ID)
	switch {
	case len(p.Home.KeyRoles) == 1 && p.Home.KeyRoles[0] == keystore.AnyRole:
		p.RoleNeeded = true
	case len(p.Home.KeyRoles) > 0:
		p.Fixed, p.MayMake = p.Home.KeyRoles, false
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
	for _, name := range had { // the form sends those that it shows
		if !slices.ContainsFunc(slices.Concat(p.Roles, p.Builtin),
			func(c choice) bool { return c.Value == name }) {
			p.Roles = append(p.Roles, choice{Value: name, Label: name})
		}
	}
	slices.SortFunc(p.Roles, compareChoices)
}

// maxOthers is how many namespaces a form offers. The others can be typed.
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
		return cmp.Compare(strings.ToLower(a.ID),
			strings.ToLower(b.ID))
	}
	slices.SortFunc(p.Connected, byID)
	slices.SortFunc(p.Others, byID)
	p.MayConnect = v.keys.MayConnect(v.Caller, p.Home.ID)
	if v.mayIn("admin.keys:create", keystore.AnyNamespace) {
		p.Others = append(p.Others, otherNamespace{ID: keystore.AnyNamespace,
			Label: "All namespaces, also those made later"})
		offered[keystore.AnyNamespace] = true
	}
	if p.Key == nil {
		return
	}
	for i, g := range p.Key.Grants {
		if g.Namespace == p.Home.ID {
			continue
		}
		if !offered[g.Namespace] {
			p.Others = append(p.Others, otherNamespace{ID: g.Namespace, Label: g.Namespace})
		}
		for _, list := range [][]otherNamespace{p.Connected, p.Others} {
			for j := range list {
				if list[j].ID == g.Namespace {
					list[j].Kept = &p.Key.Grants[i]
				}
			}
		}
	}
}

// words are what is typed with spaces, commas or line ends between.
func words(text string) []string {
	return strings.FieldsFunc(text,
		func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' })
}

// A homeGrant is what a form asks for in the key's own namespace.
type homeGrant struct {
	access             string
	permissions, roles []string
	connected          bool
	newRoles           []api.NewRole
}

func (f *form) homeGrant() homeGrant {
	h := homeGrant{access: f.Value("access"),
		roles: slices.Concat(f.Values("roles"),
			words(f.Value("roles_more"))), connected: f.Has("connected", "true")}
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

// needsRole says that a key which is to have what roles give has none, where they are chosen: the
// permissions, which lack too, are not shown then.
func (f *form) needsRole(p *keyForm, h homeGrant, others []api.GrantRequest) {
	if f.Value("access") == byRoles && len(h.roles)+len(h.newRoles)+len(p.Fixed)+len(others) == 0 {
		f.wrong("roles",
			"are what the key is to have, and none is chosen: choose one, or another access level")
	}
}

// otherGrants are what a form asks for in other namespaces. shared are the roles that are the same
// everywhere.
func (f *form) otherGrants(p *keyForm, home homeGrant, shared []string) []api.GrantRequest {
	grants := []api.GrantRequest{}
	ids := slices.Concat(f.Values("grants"), words(f.Value("grants_more")))
	if len(ids) > maxGrants { // each repeats what the home grant has
		f.wrong("grants", fmt.Sprintf("more than %d namespaces are more than a key can have",
			maxGrants))
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

// sharedRoles are those that every namespace has.
func (v *visit) sharedRoles() []string {
	var names []string
	for _, r := range v.roles() {
		if r.Namespace == keystore.AnyNamespace {
			names = append(names, r.Name)
		}
	}
	return names
}

// metadata reads lines of name=value, up to the first that is none.
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
			f.wrong("metadata", fmt.Sprintf("the line %q is not like name=value", line))
			return m
		case twice:
			f.wrong("metadata", fmt.Sprintf("the name %q comes twice", name))
			return m
		}
		m[name] = strings.TrimSpace(value)
	}
	return m
}

// Expiries that are offered, besides a day of one's own.
var expiries = []struct {
	value, label string
	days         int
}{{"30d", "In 30 days", 30}, {"60d", "In 60 days", 60}, {"90d", "In 90 days", 90}, {"1y",
	"In a year", 365}}

const never, onDay = "never", "custom"

func expiryChoices(now time.Time) []choice {
	list := []choice{{Value: never, Label: "Never"}}
	for _, e := range expiries {
		list = append(list, choice{Value: e.value, Label: e.label,
			Hint: now.AddDate(0, 0, e.days).UTC().Format("2006-01-02")})
	}
	return append(list, choice{Value: onDay, Label: "On a day of your choice"})
}

// expiry reads when a key is to expire; nil is never.
func (f *form) expiry(now time.Time) *time.Time {
	chosen := f.Value("expires")
	for _, e := range expiries {
		if e.value == chosen {
			at := now.AddDate(0, 0, e.days).UTC().Truncate(time.Second)
			return &at
		}
	}
	if chosen != onDay {
		return nil
	}
	at, err := time.ParseInLocation("2006-01-02 15:04",
		f.Value("expires_day")+" "+cmp.Or(f.Value("expires_time"), "00:00"), f.zone())
	at = at.UTC()
	if err != nil || at.Year() < 0 || at.Year() > 9999 { // RFC 3339 has no other years
		f.wrong("expires_at",
			"give a day such as 2027-01-31, and a time such as 17:30 if it is not to be midnight")
		return nil
	}
	return &at
}
