package console

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const namespacesPath = Root + "/namespaces"

func namespacePages() []page {
	const one = namespacesPath + "/{id}"
	return []page{
		{"GET " + namespacesPath, "admin.namespaces:read", listNamespaces},
		{"GET " + namespacesPath + "/new", "admin.namespaces:create", newNamespace},
		{"POST " + namespacesPath + "/new", "admin.namespaces:create", createNamespace},
		{"GET " + one, "admin.namespaces:read", showNamespace},
		{"GET " + one + "/edit", "admin.namespaces:update", editNamespace},
		{"POST " + one + "/edit", "admin.namespaces:update", saveNamespace},
		{"GET " + one + "/delete", "admin.namespaces:delete", askToDeleteNamespace},
		{"POST " + one + "/delete", "admin.namespaces:delete", deleteNamespace},
	}
}

// NamespaceLink returns the address of a namespace's page.
func (v *visit) NamespaceLink(id string, more ...string) string {
	return v.link(namespacesPath + "/" + url.PathEscape(id) + strings.Join(more, ""))
}

type namespacesPage struct {
	Branches []branch
	Next     *string // the id of the first namespace on the next page
}

// treePage is the number of namespaces on a page of the tree.
const treePage = 100

// listNamespaces shows the tree, or the part below the switcher's namespace.
func listNamespaces(v *visit) error {
	all, err := collect(v.api.AllNamespaces(v.ctx))
	if err != nil {
		return err
	}
	rows := tree(all, v.namespace())
	if text := v.query("q"); text != "" {
		rows = slices.DeleteFunc(rows,
			func(b branch) bool { return !contains(text, b.ID, b.Name, b.Kind) })
	}
	if from := v.query("cursor"); from != "" {
		if i := slices.IndexFunc(rows, func(b branch) bool { return b.ID == from }); i >= 0 {
			rows = rows[i:]
		}
	}
	p := namespacesPage{Branches: rows}
	if len(rows) > treePage {
		p.Branches, p.Next = rows[:treePage], &rows[treePage].ID
	}
	return v.show("namespaces", "Namespaces", p)
}

type namespacePage struct {
	Namespace api.Namespace
	Ancestors []api.Namespace // the outermost first
	Children  []branch
	More      bool // whether there are more children
	Grants    []memberGrant
	Roles     []api.Role
	Plans     []api.Plan
}

// A memberGrant is a grant of a member that applies in a namespace.
type memberGrant struct {
	Member api.Member
	Grant  api.Grant
	// From is the parent whose children the grant includes, or * for all namespaces. It is empty
	// for a grant in the namespace itself.
	From string
}

func (v *visit) namespaceFromPath() (api.Namespace, error) {
	return v.api.FindNamespace(v.ctx, v.r.PathValue("id"))
}

func showNamespace(v *visit) error {
	ns, err := v.namespaceFromPath()
	if err != nil {
		return err
	}
	all, err := collect(v.api.AllNamespaces(v.ctx))
	if err != nil {
		return err
	}
	p := namespacePage{Namespace: ns, Ancestors: ancestors(all, ns)}
	for _, b := range tree(all, ns.ID) {
		if b.Parent != nil && *b.Parent == ns.ID {
			p.Children = append(p.Children, b)
		}
	}
	if p.More = len(p.Children) > maxDependents; p.More {
		p.Children = p.Children[:maxDependents]
	}
	if v.may("admin.members:read") {
		members, err := collect(v.api.AllMembers(v.ctx))
		if err != nil {
			return err
		}
		p.Grants = grantsIn(ns, members)
	}
	if v.mayIn("admin.roles:read", ns.ID) {
		if p.Roles, _, err = selected("", v.listRoles,
			func(r api.Role) bool { return r.Namespace == ns.ID }); err != nil {
			return err
		}
	}
	for _, plan := range v.plans() {
		if plan.Namespace == ns.ID {
			p.Plans = append(p.Plans, plan)
		}
	}
	return v.show("namespace", namespaceTitle(ns), p)
}

func namespaceTitle(ns api.Namespace) string {
	return shownName(ns.Name, ns.ID)
}

// grantsIn returns the grants that apply in a namespace: those in it, those in its parent that
// include children, and those in all namespaces.
func grantsIn(ns api.Namespace, members []api.Member) (list []memberGrant) {
	for _, m := range members {
		for _, g := range m.Grants {
			switch {
			case g.Namespace == ns.ID:
				list = append(list, memberGrant{Member: m, Grant: g})
			case g.Namespace == keystore.AnyNamespace, g.Connected && ns.Parent != nil &&
				g.Namespace == *ns.Parent:
				list = append(list, memberGrant{Member: m, Grant: g, From: g.Namespace})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b memberGrant) int {
		return strings.Compare(strings.ToLower(a.Member.Name), strings.ToLower(b.Member.Name))
	})
	return list
}

// The rules of a form for the roles of keys.
const (
	rolesAny     = "any"
	rolesSome    = "some"
	rolesExactly = "exactly"
)

type namespaceForm struct {
	Namespace *api.Namespace // nil: a new namespace
	Parents   []choice
	Policies  []choice
	KeyRoles  []choice
	Kinds     []string // in use
	Limits    bool     // whether the visitor may set the limits
	Rules     []choice // for limits
	Plans     []choice
	Idle      []choice
	Leaks     []choice
}

// The choices for edits and roles of the keys of a namespace, for unused ones, and for those whose
// token has leaked.
var (
	editPolicies = []choice{
		{Value: string(keystore.EditFree), Label: "Add and remove permissions"},
		{Value: string(keystore.EditGrowOnly), Label: "Only add permissions",
			Hint: "For fewer permissions, create another key. Keys can still be revoked and " +
				"deactivated."},
	}
	keyRoleRules = []choice{
		{Value: rolesAny, Label: "Any or none"},
		{Value: rolesSome, Label: "At least one",
			Hint: "A key cannot be created without a role."},
		{Value: rolesExactly, Label: "Exactly these",
			Hint: "Every key has these roles and no others."},
	}
	idleChoices = []choice{
		{Value: "", Label: "As configured for the deployment"},
		{Value: string(keystore.IdleNotify), Label: "Add a row to the audit log"},
		{Value: string(keystore.IdleInactivate), Label: "Deactivate the key",
			Hint: "It can be activated again."},
	}
	leakChoices = []choice{
		{Value: string(keystore.LeakNotify), Label: "Only add a row to the audit log"},
		{Value: string(keystore.LeakInactivate), Label: "Deactivate the key",
			Hint: "It can be activated again."},
		{Value: string(keystore.LeakRevoke), Label: "Revoke the key",
			Hint: "This is final. Programs that use the key stop working."},
	}
)

// idleRule returns the rule for unused keys, or nil for none.
func (f *form) idleRule() *api.IdleRule {
	if then := f.Value("idle.then"); then != "" {
		after := strings.TrimSpace(f.Value("idle.after"))
		if after == "" {
			f.wrong("idle.after", "is required to act on unused keys")
			return nil
		}
		return &api.IdleRule{After: after, Then: then}
	}
	return nil
}

func (v *visit) namespaceForm(ns *api.Namespace, f *form) namespaceForm {
	p := namespaceForm{Namespace: ns, Limits: ns == nil || v.maySetLimits(*ns), Rules: limitRules,
		Idle: idleChoices, Leaks: leakChoices, Policies: editPolicies, KeyRoles: keyRoleRules}
	if p.Limits {
		id := ""
		if ns != nil {
			id = ns.ID
		}
		p.Plans = v.planChoices(id, "None", f.Value("default_plan"))
	}
	below := make(map[string]bool)
	all := v.namespaces()
	if ns != nil {
		for _, b := range tree(all, ns.ID) {
			below[b.ID] = true // a namespace cannot be its own ancestor
		}
	}
	for _, c := range v.places("admin.namespaces:create", "") {
		if !below[c.Value] {
			p.Parents = append(p.Parents, c)
		}
	}
	if v.mayIn("admin.namespaces:create", keystore.AnyNamespace) || f.Value("parent") == "" &&
		ns != nil {
		p.Parents = append([]choice{{Value: "", Label: "None"}}, p.Parents...)
	}
	if f.Value("parent") != "" {
		p.Parents = offer(p.Parents, f.Value("parent"))
	}
	for _, one := range all {
		if one.Kind != "" {
			p.Kinds = append(p.Kinds, one.Kind)
		}
	}
	slices.Sort(p.Kinds)
	p.Kinds = slices.Compact(p.Kinds)
	return p
}

// maySetLimits reports whether the visitor may set the limits of a namespace. Its own
// administrators may not (docs/authority.md).
func (v *visit) maySetLimits(ns api.Namespace) bool {
	parent := keystore.AnyNamespace
	if ns.Parent != nil {
		parent = *ns.Parent
	}
	return v.mayIn("admin.namespaces:update", parent)
}

// keyRoles returns the rule of a form for the roles of keys.
func (f *form) keyRoles() []string {
	switch f.rule("key_roles_rule", rolesAny, rolesSome, rolesExactly) {
	case rolesSome:
		return []string{keystore.AnyRole}
	case rolesExactly:
		list := words(f.Value("key_roles"))
		if len(list) == 0 {
			f.wrong("key_roles", "enter at least one role or choose another rule")
		}
		return list
	}
	return []string{}
}

// lines returns the lines of a field. Kinds may contain spaces.
func (f *form) lines(name string) []string {
	list := []string{}
	for line := range strings.Lines(f.Value(name)) {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, line)
		}
	}
	return list
}

func newNamespace(v *visit) error {
	f := v.kept()
	if f == nil {
		f = blank("parent", v.namespace(), "edit_policy", string(keystore.EditFree),
			"key_roles_rule", rolesAny, "idle.then", "", "on_leak", string(keystore.LeakNotify))
		f.setLimits(nil, nil)
	}
	return v.write(http.StatusOK, "namespace_form", "Create namespace", v.namespaceForm(nil, f), f)
}

func createNamespace(v *visit) error {
	f := v.form()
	again := func() error {
		return v.again("namespace_form", "Create namespace", v.namespaceForm(nil, f), f)
	}
	step := f.again()
	if step != "" && step != codeStep {
		return again()
	}
	spec := api.NamespaceRequest{
		ID: strings.TrimSpace(f.Value("id")), Kind: strings.TrimSpace(f.Value("kind")),
		Name: strings.TrimSpace(f.Value("name")), EditPolicy: f.Value("edit_policy"),
		Reach: f.lines("reach"), KeyRoles: f.keyRoles(),
		TokenPrefix: strings.TrimSpace(f.Value("token_prefix")),
		ChildPrefix: strings.TrimSpace(f.Value("child_prefix")),
		RateLimit:   f.rateLimit(), Quota: f.quota(),
		DefaultPlan: strings.TrimSpace(f.Value("default_plan")),
		MaxLifetime: strings.TrimSpace(f.Value("max_lifetime")), Idle: f.idleRule(),
		OnLeak: f.Value("on_leak"),
	}
	if parent := f.Value("parent"); parent != "" {
		spec.Parent = &parent
	}
	if step == codeStep {
		if f.require("id"); f.Ok() {
			f.Code = v.createCode("/namespaces", spec, namespaceCommand(spec))
		}
		return again()
	}
	created, err := v.api.CreateNamespace(v.refusing(f), spec)
	if err != nil {
		if f.fail(err) {
			return again()
		}
		return err
	}
	n := notice{Title: "Namespace " + created.ID + " created"}
	if !v.mayIn("admin.namespaces:read", created.ID) {
		n.Text = "You have no access to it: creating a namespace gives you no permissions in it."
		return v.done(v.link(namespacesPath), n)
	}
	return v.done(v.NamespaceLink(created.ID), n)
}

func editNamespace(v *visit) error {
	ns, err := v.namespaceFromPath()
	if err != nil {
		return err
	}
	f := cmp.Or(v.kept(), namespaceEdit(ns).now)
	return v.write(http.StatusOK, "namespace_form", "Edit "+namespaceTitle(ns),
		v.namespaceForm(&ns, f), f)
}

func namespaceEdit(ns api.Namespace) *edit {
	return newEdit("namespace", ns.ID, "", ns.Version, formOfNamespace(ns),
		func(sent *form) (l aspectList) {
			f := sent.copied()
			l.text(f, "name", "Name")
			l.text(f, "parent", "Parent")
			l.text(f, "child_prefix", "Child prefix")
			l.choice(f, "edit_policy", "Edits of keys", editPolicies)
			roles := f.keyRoles()
			if f.Value("key_roles_rule") != rolesExactly {
				roles = []string{labelOf(keyRoleRules, f.Value("key_roles_rule"))}
			}
			l.add("key_roles", "Roles of keys", roles, "key_roles_rule", "key_roles")
			l.add("reach", "Reach", sorted(f.lines("reach")), "reach")
			l.text(f, "token_prefix", "Token prefix")
			l.text(f, "max_lifetime", "Maximum lifetime")
			idle := labelOf(idleChoices, f.Value("idle.then"))
			if rule := f.idleRule(); rule != nil {
				idle += " after " + durationWords(rule.After)
			}
			l.add("idle", "Unused keys", []string{idle}, "idle.then", "idle.after")
			l.choice(f, "on_leak", "Leaked keys", leakChoices)
			l.limits(f, "No limit")
			l.text(f, "default_plan", "Default plan")
			return l
		})
}

// formOfNamespace returns the form of a namespace, filled in.
func formOfNamespace(ns api.Namespace) *form {
	f := blank("name", ns.Name, "edit_policy", ns.EditPolicy, "key_roles_rule", rolesExactly,
		"reach", strings.Join(ns.Reach, "\n"), "idle.then", "", "on_leak", ns.OnLeak,
		"parent", "", "child_prefix", "", "token_prefix", "", "max_lifetime", "",
		"default_plan", "")
	if ns.MaxLifetime != nil {
		f.values.Set("max_lifetime", *ns.MaxLifetime)
	}
	if ns.Idle != nil {
		f.values.Set("idle.then", ns.Idle.Then)
		f.values.Set("idle.after", ns.Idle.After)
	}
	if ns.Parent != nil {
		f.values.Set("parent", *ns.Parent)
	}
	if ns.TokenPrefix != nil {
		f.values.Set("token_prefix", *ns.TokenPrefix)
	}
	if ns.ChildPrefix != nil {
		f.values.Set("child_prefix", *ns.ChildPrefix)
	}
	if ns.DefaultPlan != nil {
		f.values.Set("default_plan", *ns.DefaultPlan)
	}
	f.setLimits(bounds(ns.RateLimit, ns.Quota))
	switch {
	case len(ns.KeyRoles) == 0:
		f.values.Set("key_roles_rule", rolesAny)
	case ns.KeyRoles[0] == keystore.AnyRole:
		f.values.Set("key_roles_rule", rolesSome)
	default:
		f.values.Set("key_roles", strings.Join(ns.KeyRoles, " "))
	}
	return f
}

func saveNamespace(v *visit) error {
	ns, err := v.namespaceFromPath()
	if err != nil {
		return err
	}
	f := v.form()
	title := "Edit " + namespaceTitle(ns)
	again := func() error { return v.again("namespace_form", title, v.namespaceForm(&ns, f), f) }
	if v.merge(namespaceEdit(ns), f) || f.again() != "" {
		return again()
	}
	rate, quota := bounds(ns.RateLimit, ns.Quota)
	patch := api.NamespacePatch{
		Name: api.Some(f.Value("name")), EditPolicy: api.Some(f.Value("edit_policy")),
		Reach: api.Some(f.lines("reach")), KeyRoles: api.Some(f.keyRoles()),
		Parent: api.Null[string](), TokenPrefix: api.Null[string](),
		ChildPrefix: api.Null[string](),
		RateLimit:   f.rateChange(rate), Quota: f.quotaChange(quota),
		DefaultPlan: f.planChange("default_plan", ns.DefaultPlan),
		MaxLifetime: api.Null[string](), Idle: api.Null[api.IdleRule](),
	}
	if action := f.Value("on_leak"); action != "" {
		patch.OnLeak = api.Some(action)
	}
	if lifetime := strings.TrimSpace(f.Value("max_lifetime")); lifetime != "" {
		patch.MaxLifetime = api.Some(lifetime)
	}
	if rule := f.idleRule(); rule != nil {
		patch.Idle = api.Some(*rule)
	}
	if parent := f.Value("parent"); parent != "" {
		patch.Parent = api.Some(parent)
	}
	if prefix := strings.TrimSpace(f.Value("token_prefix")); prefix != "" {
		patch.TokenPrefix = api.Some(prefix)
	}
	if prefix := strings.TrimSpace(f.Value("child_prefix")); prefix != "" {
		patch.ChildPrefix = api.Some(prefix)
	}
	done, err := v.api.EditNamespace(v.refusing(f), ns.ID, patch, f.ifVersion(), client.Wait(shortWait))
	if err != nil {
		return unsaved(v, f, err, saveNamespace, again)
	}
	return v.changed(v.NamespaceLink(ns.ID), "Changes saved", done.Propagation)
}

// namespaceRemoval lists the objects in a namespace, as far as the visitor may see them.
func (v *visit) namespaceRemoval(ns api.Namespace) removal {
	p := removal{
		Section: "Namespaces", Kind: "namespace", Name: ns.ID, List: v.link(namespacesPath),
		Back: v.NamespaceLink(ns.ID),
		Text: "The namespace is empty. The audit log keeps its changes. Its id stays taken: " +
			"using it again requires admin.namespaces:create in all namespaces.",
	}
	for _, one := range v.namespaces() {
		if one.Parent != nil && *one.Parent == ns.ID {
			p.Dependents = append(p.Dependents,
				dependent{Kind: "Child namespace", Name: one.ID, Link: v.NamespaceLink(one.ID)})
		}
	}
	if v.may("admin.roles:read") {
		roles, err := collect(v.api.AllRoles(v.ctx))
		for _, r := range roles {
			if err == nil && r.Namespace == ns.ID {
				p.Dependents = append(p.Dependents,
					dependent{Kind: "Role", Name: r.Name, Link: v.RoleLink(r.Namespace, r.Name)})
			}
		}
	}
	for _, plan := range v.plans() {
		if plan.Namespace == ns.ID {
			p.Dependents = append(p.Dependents,
				dependent{Kind: "Plan", Name: plan.Name,
					Link: v.PlanLink(plan.Namespace, plan.Name)})
		}
	}
	if v.may("admin.members:read") {
		members, err := collect(v.api.AllMembers(v.ctx))
		for _, m := range members {
			if err == nil && slices.ContainsFunc(m.Grants,
				func(g api.Grant) bool { return g.Namespace == ns.ID }) {
				p.Dependents = append(p.Dependents, dependent{Kind: "Member with access",
					Name: shownName(m.Name, m.ID), Link: v.MemberLink(m.ID)})
			}
		}
	}
	p.Keys = v.link(keysPath, "namespace", ns.ID)
	keys, err := v.api.ListKeys(v.ctx, client.KeyFilter{Namespace: ns.ID, Limit: maxDependents})
	for _, k := range keys.Items {
		if err == nil {
			p.Dependents = append(p.Dependents, v.keyDependent(k))
		}
	}
	if p.More = keys.NextCursor != nil; len(p.Dependents) > maxDependents {
		p.Dependents, p.More = p.Dependents[:maxDependents], true
	}
	return p
}

func askToDeleteNamespace(v *visit) error {
	ns, err := v.namespaceFromPath()
	if err != nil {
		return err
	}
	return v.ask("delete", "Delete "+ns.ID, v.namespaceRemoval(ns))
}

func deleteNamespace(v *visit) error {
	ns, err := v.namespaceFromPath()
	if err != nil {
		return err
	}
	done, err := v.api.DeleteNamespace(v.ctx, ns.ID, client.Wait(shortWait))
	if err != nil {
		f := v.form()
		if f.fail(err) {
			return v.again("delete", "Delete "+ns.ID, v.namespaceRemoval(ns), f)
		}
		return err
	}
	return v.changed(namespacesPath, "Namespace "+ns.ID+" deleted", done.Propagation)
}
