package console

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

type memberForm struct {
	Member *api.Member // nil: a new member
	Whole  bool        // whether the visitor may change more than the grants that it sees
	Kinds  []choice
	Grants []grantForm
}

// A grantForm is the part of a form for one grant.
type grantForm struct {
	Form   *form
	Name   string // the prefix of its field names: grants[0]
	Index  int
	Places []choice
	Roles  []choice // shared roles
}

// Field returns the full name of one of its fields.
func (g grantForm) Field(name string) string { return g.Name + "." + name }

// Number returns the number of the grant, counted from 1.
func (g grantForm) Number() int { return g.Index + 1 }

func grantName(i int) string { return fmt.Sprintf("grants[%d]", i) }

// grantFields are the names of the fields of a grant.
var grantFields = []string{"namespace", "roles", "other_roles", "permissions", "connected"}

// maxGrants is the maximum number of grants of a form.
const maxGrants = 100

// grantCount returns the number of grants of a form.
func (f *form) grantCount() (n int) {
	for n < maxGrants && f.values.Has(grantName(n)+".namespace") {
		n++
	}
	return n
}

// removeGrant removes the fields of a grant and renumbers the following grants.
func (f *form) removeGrant(i int) {
	for n := f.grantCount(); i < n; i++ {
		for _, field := range grantFields {
			from, to := grantName(i+1)+"."+field, grantName(i)+"."+field
			if list := f.values[from]; list != nil {
				f.values[to] = list
			} else {
				f.values.Del(to)
			}
		}
	}
}

// grants returns the grants that a form requests.
func (f *form) grants() []api.GrantRequest {
	list := []api.GrantRequest{}
	for i := range f.grantCount() {
		at := grantName(i) + "."
		if f.Value(at+"namespace") == "" {
			f.wrong(at+"namespace", "choose a namespace")
		}
		list = append(list, api.GrantRequest{
			Namespace:   cmp.Or(f.Value(at+"namespace"), keystore.DefaultNamespace),
			Roles:       slices.Concat(f.Values(at+"roles"), words(f.Value(at+"other_roles"))),
			Permissions: words(f.Value(at + "permissions")),
			Connected: f.Has(at+"connected", "true") &&
				f.Value(at+"namespace") != keystore.AnyNamespace, // the form hides it then
		})
	}
	return list
}

// grantRoles returns the roles that grants in any namespace can name, the built-in ones first. It
// is empty if the visitor may not read roles; their names can be typed.
func (v *visit) grantRoles() (list []choice) {
	var shared []choice
	for _, r := range v.roles() {
		c := choice{Value: r.Name, Label: r.Name, Hint: r.Description}
		switch {
		case r.Builtin:
			list = append(list, c)
		case r.Namespace == keystore.AnyNamespace:
			shared = append(shared, c)
		}
	}
	slices.SortFunc(shared, func(a, b choice) int { return strings.Compare(a.Value, b.Value) })
	return append(list, shared...)
}

// memberKinds are the kinds of members.
var memberKinds = []choice{
	{Value: string(keystore.Person), Label: "Person"},
	{Value: string(keystore.Service), Label: "Service", Hint: "A program that manages keys."},
	{Value: string(keystore.Group), Label: "Group",
		Hint: "A team that the site names when it signs people in. It has no token."},
}

func (v *visit) memberForm(m *api.Member, f *form) memberForm {
	p := memberForm{Member: m, Whole: m == nil || v.keys.MayMember(v.Caller, "update", m.ID),
		Kinds: memberKinds}
	if m != nil { // a group stays a group, and no other member becomes one
		group := m.Kind == string(keystore.Group)
		p.Kinds = slices.DeleteFunc(slices.Clone(memberKinds),
			func(c choice) bool { return (c.Value == string(keystore.Group)) != group })
	}
	permission := "admin.members:update"
	if m == nil {
		permission = "admin.members:create"
	}
	places := append([]choice{{Value: "", Label: "Choose a namespace"}},
		v.places(permission, "All namespaces, including future ones")...)
	roles := v.grantRoles()
	for i := range f.grantCount() {
		g := grantForm{Form: f, Name: grantName(i), Index: i, Roles: slices.Clone(roles)}
		g.Places = offer(places, f.Value(g.Field("namespace")))
		p.Grants = append(p.Grants, g)
	}
	return p
}

// added adds a grant if the button for it was clicked. It reports whether to show the form again.
func (f *form) added() bool {
	if f.Value("add") == "" {
		return false
	}
	if n := f.grantCount(); n < maxGrants {
		f.values.Set(grantName(n)+".namespace", "")
	}
	return true
}

// removed removes a grant if its button was clicked. It reports whether to show the form again.
func (f *form) removed() bool {
	if f.Value("remove") == "" {
		return false
	}
	if i, err := strconv.Atoi(f.Value("remove")); err == nil && i >= 0 {
		f.removeGrant(i)
	}
	return true
}

func newMember(v *visit) error {
	f := v.kept()
	if f == nil {
		f = blank("kind", string(keystore.Person), "grants[0].namespace", v.namespace())
	}
	return v.write(http.StatusOK, "member_form", "Create member", v.memberForm(nil, f), f)
}

func createMember(v *visit) error {
	f := v.form()
	again := func() error {
		return v.again("member_form", "Create member", v.memberForm(nil, f), f)
	}
	step := f.again()
	switch {
	case f.added(), f.removed():
		f.status = http.StatusOK
		return again()
	case step != "" && step != codeStep:
		return again()
	}
	spec := api.MemberRequest{Name: cmp.Or(strings.TrimSpace(f.Value("name")), "-"),
		Kind: f.Value("kind"), Login: f.Value("login"), Grants: f.grants()}
	f.require("name") // instead of the name above
	if step == codeStep {
		if f.Ok() {
			f.Code = v.createCode("/members", spec, memberCommand(spec))
		}
		return again()
	}
	created, err := v.api.CreateMember(v.refusing(f), spec)
	if err != nil {
		if f.fail(err) {
			return again()
		}
		return err
	}
	n := notice{Title: "Member " + created.Name + " created",
		Text: "The member has no token yet. Create one and hand it over securely."}
	switch login := created.Login; {
	case created.Kind == string(keystore.Group) && login != nil:
		n.Text = "People whom this site signs in and finds in the group " + *login +
			" act for it, unless they are members themselves."
	case created.Kind == string(keystore.Group):
		n.Text = "Nobody acts for it until it has a login: the name of the group on this site."
	case login != nil:
		n.Text = "The user " + *login + " of this site is this member. A token is needed " +
			"only for requests without that login."
	}
	return v.done(v.MemberLink(created.ID), n)
}

func (v *visit) memberEdit(m api.Member) *edit {
	return newEdit("member", m.ID, "", m.Version, v.formOfMember(m), func(f *form) (l aspectList) {
		l.text(f, "name", "Name")
		l.choice(f, "kind", "Kind", memberKinds)
		l.text(f, "login", "Login")
		l.add("grants", "Access", grantsWords(f.copied().grants()), "grants[")
		return l
	})
}

func editMember(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	f := cmp.Or(v.kept(), v.memberEdit(m).now)
	return v.write(http.StatusOK, "member_form", "Edit "+m.Name, v.memberForm(&m, f), f)
}

// formOfMember returns the form of a member, filled in.
func (v *visit) formOfMember(m api.Member) *form {
	f := blank("name", m.Name, "kind", m.Kind, "login", "")
	if m.Login != nil {
		f.values.Set("login", *m.Login)
	}
	shared := v.grantRoles()
	for i, g := range m.Grants {
		at := grantName(i) + "."
		f.values.Set(at+"namespace", g.Namespace)
		var others []string
		for _, r := range g.Roles {
			if slices.ContainsFunc(shared, func(c choice) bool { return c.Value == r }) {
				f.values.Add(at+"roles", r)
			} else {
				others = append(others, r)
			}
		}
		f.values.Set(at+"other_roles", strings.Join(others, " "))
		f.values.Set(at+"permissions", strings.Join(g.Permissions, " "))
		if g.Connected {
			f.values.Set(at+"connected", "true")
		}
	}
	return f
}

func saveMember(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	f := v.form()
	title := "Edit " + m.Name
	again := func() error { return v.again("member_form", title, v.memberForm(&m, f), f) }
	// Remove before merging, because the index refers to the posted form. Add afterwards, so that the
	// empty grant is not a conflict.
	removed := f.removed()
	merged := v.merge(v.memberEdit(m), f)
	added := f.added()
	switch {
	case merged:
		return again()
	case added, removed:
		f.status = http.StatusOK
		return again()
	case f.again() != "":
		return again()
	}
	patch := memberPatch(m, f)
	done, err := v.api.EditMember(v.refusing(f), m.ID, patch, f.ifVersion(), client.Wait(shortWait))
	if err != nil {
		return unsaved(v, f, err, saveMember, again)
	}
	return v.changed(v.MemberLink(m.ID), "Changes saved", done.Propagation)
}

// memberPatch returns the changes that a form makes to a member. It omits unchanged fields, because
// changing the name requires more permissions than changing grants in one namespace.
func memberPatch(m api.Member, f *form) api.MemberPatch {
	patch := api.MemberPatch{Grants: api.Some(f.grants())}
	if !f.values.Has("name") { // then the other fields are missing too: see memberForm.Whole
		return patch
	}
	if name := f.Value("name"); name != m.Name {
		patch.Name = api.Some(strings.TrimSpace(name))
	}
	if kind := f.Value("kind"); kind != m.Kind {
		patch.Kind = api.Some(kind)
	}
	switch login := f.Value("login"); {
	case login == "" && m.Login != nil:
		patch.Login = api.Null[string]()
	case login != "" && (m.Login == nil || *m.Login != login):
		patch.Login = api.Some(login)
	}
	return patch
}
