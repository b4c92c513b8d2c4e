package console

import (
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
	Member *api.Member // nil: a new one
	Whole  bool        // the visitor may change more than the grants that it sees
	Kinds  []choice
	Grants []grantForm
}

// A grantForm is the part of a form that asks for one grant.
type grantForm struct {
	Form   *form
	Name   string // what the names of its fields begin with: grants[0]
	Index  int
	Places []choice
	Roles  []choice // that are the same everywhere
}

// Field is the name of one of its fields.
func (g grantForm) Field(name string) string { return g.Name + "." + name }

// Number counts them for people.
func (g grantForm) Number() int { return g.Index + 1 }

// Errors are what is wrong with it.
func (g grantForm) Errors() (list []string) {
	for _, e := range g.Form.Errors {
		if e.Field == g.Name || strings.HasPrefix(e.Field, g.Name+".") {
			list = append(list, sentence(e.Detail))
		}
	}
	return list
}

func grantName(i int) string { return fmt.Sprintf("grants[%d]", i) }

// grantFields are the fields of a grant.
var grantFields = []string{"namespace", "roles", "other_roles", "permissions", "connected"}

// maxGrants is how many grants a form takes.
const maxGrants = 100

// grantCount is how many grants a form has.
func (f *form) grantCount() (n int) {
	for n < maxGrants && f.values.Has(grantName(n)+".namespace") {
		n++
	}
	return n
}

// removeGrant takes the fields of one out, and moves the others up.
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

// grants are those that a form asks for.
func (f *form) grants() []api.GrantRequest {
	list := []api.GrantRequest{}
	for i := range f.grantCount() {
		at := grantName(i) + "."
		list = append(list, api.GrantRequest{
			Namespace:   f.Value(at + "namespace"),
			Roles:       slices.Concat(f.Values(at+"roles"), words(f.Value(at+"other_roles"))),
			Permissions: words(f.Value(at + "permissions")),
			Connected:   f.Has(at+"connected", "true"),
		})
	}
	return list
}

// grantRoles are those that grants everywhere can name, the built-in ones first. Who may not read
// roles types their names.
func (v *visit) grantRoles() (list []choice) {
	var made []choice
	for _, r := range v.roles() {
		c := choice{Value: r.Name, Label: r.Name, Hint: r.Description}
		switch {
		case r.Builtin:
			list = append(list, c)
		case r.Namespace == keystore.AnyNamespace:
			made = append(made, c)
		}
	}
	slices.SortFunc(made, func(a, b choice) int { return strings.Compare(a.Value, b.Value) })
	return append(list, made...)
}

func (v *visit) memberForm(m *api.Member, f *form) memberForm {
	p := memberForm{Member: m, Whole: m == nil || v.keys.MayMember(v.Caller, "update", m.ID),
		Kinds: []choice{
			{Value: string(keystore.Person), Label: "A person"},
			{Value: string(keystore.Service), Label: "A service",
				Hint: "A program that manages keys."},
		}}
	permission := "admin.members:update"
	if m == nil {
		permission = "admin.members:create"
	}
	places := append([]choice{{Value: "", Label: "Choose a namespace"}},
		v.places(permission, "Everywhere, also in namespaces made later")...)
	roles := v.grantRoles()
	for i := range f.grantCount() {
		g := grantForm{Form: f, Name: grantName(i), Index: i, Roles: slices.Clone(roles)}
		g.Places = offer(places, f.Value(g.Field("namespace")))
		p.Grants = append(p.Grants, g)
	}
	return p
}

// rearranged answers a button that adds or removes a grant: the form comes back as it was typed.
func (v *visit) rearranged(f *form) bool {
	switch {
	case f.Value("add") != "":
		if n := f.grantCount(); n < maxGrants {
			f.values.Set(grantName(n)+".namespace", "")
		}
	case f.Value("remove") != "":
		if i, err := strconv.Atoi(f.Value("remove")); err == nil && i >= 0 {
			f.removeGrant(i)
		}
	default:
		return false
	}
	f.status = http.StatusOK
	return true
}

func newMember(v *visit) error {
	f := blank("kind", string(keystore.Person), "grants[0].namespace", v.namespace())
	return v.write(http.StatusOK, "member_form", "New member", v.memberForm(nil, f), f)
}

func createMember(v *visit) error {
	f := v.form()
	if v.rearranged(f) {
		return v.again("member_form", "New member", v.memberForm(nil, f), f)
	}
	spec := api.MemberRequest{Name: f.Value("name"), Kind: f.Value("kind"), Login: f.Value("login"),
		Grants: f.grants()}
	if spec.Name == "" {
		f.wrong("name", "is required")
		return v.again("member_form", "New member", v.memberForm(nil, f), f)
	}
	made, err := v.api.CreateMember(v.ctx, spec)
	if err != nil {
		if f.fail(err) {
			return v.again("member_form", "New member", v.memberForm(nil, f), f)
		}
		return err
	}
	n := notice{Title: made.Name + " is a member",
		Text: "There is no token yet: make one, and hand it over in a safe way."}
	if made.Login != nil {
		n.Text = "Whoever the site has let in as " + *made.Login +
			" is this member. A token is needed only without that."
	}
	return v.done(v.MemberLink(made.ID), n)
}

func editMember(v *visit) error {
	m, err := v.theMember()
	if err != nil {
		return err
	}
	f := blank("version", strconv.FormatInt(m.Version, 10), "name", m.Name, "kind", m.Kind)
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
	return v.write(http.StatusOK, "member_form", "Edit "+m.Name, v.memberForm(&m, f), f)
}

func saveMember(v *visit) error {
	m, err := v.theMember()
	if err != nil {
		return err
	}
	f := v.form()
	title := "Edit " + m.Name
	if v.rearranged(f) {
		return v.again("member_form", title, v.memberForm(&m, f), f)
	}
	done, err := v.api.EditMember(v.ctx, m.ID, memberPatch(m, f), f.ifVersion(),
		client.Wait(shortWait))
	if err != nil {
		if f.fail(err) {
			return v.again("member_form", title, v.memberForm(&m, f), f)
		}
		return err
	}
	return v.changed(v.MemberLink(m.ID), "Saved", done.Propagation)
}

// memberPatch is what a form changes of a member, and no more: changing grants in one namespace
// takes less than changing the name.
func memberPatch(m api.Member, f *form) api.MemberPatch {
	patch := api.MemberPatch{Grants: api.Some(f.grants())}
	if !f.values.Has("name") { // nor the others: see memberForm.Whole
		return patch
	}
	if name := f.Value("name"); name != m.Name {
		patch.Name = api.Some(name)
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
