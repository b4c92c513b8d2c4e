package console

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const keysPath = Root + "/keys"

func keyPages() []page {
	return slices.Concat([]page{
		{"GET " + keysPath, anyMember, listKeys},
		{"GET " + keysPath + "/new", "admin.keys:create", newKey},
		{"POST " + keysPath + "/new", "admin.keys:create", mintKey},
		{"GET " + keysPath + "/{id}", anyMember, showKey},
		{"GET " + keysPath + "/{id}/edit", "admin.keys:update", editKey},
		{"POST " + keysPath + "/{id}/edit", "admin.keys:update", saveKey},
		{"POST " + keysPath + "/{id}/active", "admin.keys:update", switchKey},
		{"GET " + keysPath + "/{id}/rotate", "admin.keys:update", askToRotate},
		{"POST " + keysPath + "/{id}/rotate", "admin.keys:update", rotateKey},
		{"GET " + keysPath + "/{id}/revoke", anyMember, askToRevoke},
		{"POST " + keysPath + "/{id}/revoke", anyMember, revokeKey},
		{"GET " + keysPath + "/{id}/delete", "admin.keys:delete", askToDelete},
		{"POST " + keysPath + "/{id}/delete", "admin.keys:delete", deleteKey},
	}, bulkPages())
}

type keysPage struct {
	Keys     []api.Key
	Next     *string
	Sparks   map[string]*spark // charts of keys by id
	Mine     string            // the owner on the page of the visitor's own keys, else empty
	Whose    string            // the title of that page
	Count    string            // "50 of 409 keys"
	Filters  []activeFilter
	Statuses []choice
	Expiring []choice
	Unused   []choice
	Owners   []choice
	Roles    []choice // nil: a text field
	Plans    []choice // nil: a text field
	Actions  []bulkAction
	// Empty means that the list has no keys even without filters.
	Empty bool
	// Unknown means that the switcher's namespace does not exist or is hidden from the visitor.
	Unknown bool
	Sort    string   // empty: newest first
	Orders  []choice // for Sort
	Form    *form    // the filters
}

// An activeFilter is a filter of the list with the address of the list without it.
type activeFilter struct{ Label, Value, Without string }

// keyOrders are the orders of keys.
var keyOrders = []choice{
	{Value: "", Label: "Newest"}, {Value: "created_at", Label: "Oldest"},
	{Value: "name", Label: "Name, A to Z"}, {Value: "-name", Label: "Name, Z to A"},
	{Value: "expires_at", Label: "Expires soonest"},
	{Value: "-expires_at", Label: "Expires latest"},
	{Value: "-last_used_at", Label: "Most recently used"},
	{Value: "last_used_at", Label: "Least recently used"},
}

// keyStatuses are the statuses of keys with their labels.
var keyStatuses = []choice{
	{Value: string(keystore.StatusActive), Label: "Active"},
	{Value: string(keystore.StatusInactive), Label: "INACTIVE"},
	{Value: string(keystore.StatusOwnerDisabled), Label: "Owner disabled"},
	{Value: string(keystore.StatusExpired), Label: "Expired"},
	{Value: string(keystore.StatusRevoked), Label: "Revoked"},
}

// keyAges are the times of the filters for keys that expire soon or are unused.
var keyAges = []choice{{Label: "Any"}, {Value: "1d", Label: "1 day"},
	{Value: "7d", Label: "7 days"}, {Value: "30d", Label: "30 days"}, {Value: "90d", Label: "90 days"}}

// statusLabel returns the label of a status.
func statusLabel(status string) string { return labelOf(keyStatuses, status) }

// A column is a sortable column of a list.
type column struct {
	ID     string // of its header
	Label  string
	Sorted string // ascending or descending; empty: not sorted by it
	Next   string // the order after a click
}

// Column returns a column. The first click sorts in an order, the next one in reverse.
func (p keysPage) Column(label, by string) column {
	sorted := cmp.Or(p.Sort, newestFirst)
	c := column{ID: "by-" + strings.TrimPrefix(by, "-"), Label: label, Next: by}
	switch sorted {
	case by:
		c.Next = reverse(by)
	case reverse(by):
	default:
		return c
	}
	c.Sorted = "ascending"
	if strings.HasPrefix(sorted, "-") {
		c.Sorted = "descending"
	}
	return c
}

// newestFirst is the default order.
const newestFirst = "-created_at"

// reverse returns the reverse of an order.
func reverse(sort string) string {
	if up, down := strings.CutPrefix(sort, "-"); down {
		return up
	}
	return "-" + sort
}

// pageSize is the number of rows on a page.
const pageSize = 50

// keyFilter returns the filter in the address.
func (v *visit) keyFilter() client.KeyFilter {
	status := v.query("status")
	if status == string(keystore.StatusActive) { // keys of disabled owners have another filter
		status = string(keystore.StatusUsable)
	}
	return client.KeyFilter{
		Namespace: v.namespace(), Status: status, Owner: v.query("owner"),
		Role: v.query("role"), Plan: v.query("plan"), Expiring: v.query("expiring"),
		Unused: v.query("unused"), Text: v.query("q"), Sort: v.query("sort"),
		Cursor: v.query("cursor"), Limit: pageSize,
	}
}

func listKeys(v *visit) error {
	f := v.keyFilter()
	list, err := v.api.ListKeys(v.ctx, f)
	if err != nil {
		return v.withoutInvalid(err)
	}
	p := keysPage{Keys: list.Items, Next: list.NextCursor, Sort: f.Sort,
		Sparks: v.sparks(list.Items), Actions: v.bulkActions(list.Items),
		Statuses: append([]choice{{Label: "Any"}}, keyStatuses...),
		Orders:   keyOrders, Form: &form{values: v.r.URL.Query()}}
	if v.owns(f.Owner) {
		p.Mine, p.Whose = f.Owner, "My keys"
		if v.Caller.Login() != "" {
			p.Whose = "Keys of " + cmp.Or(v.names()[f.Owner], f.Owner)
		}
	}
	if f.Namespace != "" && len(list.Items) == 0 {
		_, err := v.api.FindNamespace(v.ctx, f.Namespace)
		p.Unknown = err != nil && v.keys.Permissions(v.Caller)[f.Namespace] == nil
	}
	p.Owners = offer(append([]choice{{Label: "Anyone"}}, v.members()...), f.Owner)
	p.Expiring, p.Unused = offer(keyAges, f.Expiring), offer(keyAges, f.Unused)
	p.Roles, p.Plans = v.roleFilter(f.Role), v.planFilter(f.Plan)
	p.Filters = v.activeFilters(f, p.Mine)
	p.Empty = len(p.Keys)+len(p.Filters) == 0 && p.Next == nil && f.Cursor == ""
	if p.Count, err = v.countWords(f, len(list.Items), list.NextCursor != nil); err != nil {
		return err
	}
	return v.show("keys", v.keysTitle(p), p)
}

// keysTitle returns the title of a list: "My keys – revoked, page 2".
func (v *visit) keysTitle(p keysPage) string {
	title := "Keys"
	if p.Mine != "" {
		title = p.Whose
	}
	if in := v.namespace(); in != "" {
		title += " in " + in
	}
	var details []string
	for _, f := range p.Filters {
		if f.Label == "Status" {
			details = append(details, strings.ToLower(f.Value))
		} else {
			details = append(details, strings.ToLower(f.Label)+" "+f.Value)
		}
	}
	return v.pageTitle(title, details...)
}

// activeFilters returns the filters of a list other than the owner of the visitor's own keys.
func (v *visit) activeFilters(f client.KeyFilter, mine string) (list []activeFilter) {
	add := func(label, name, value string) {
		if value != "" {
			list = append(list, activeFilter{label, value, v.With(name, "")})
		}
	}
	add("Search", "q", f.Text)
	if status := v.query("status"); status != "" {
		add("Status", "status", statusLabel(status))
	}
	if f.Owner != mine {
		add("Owner", "owner", cmp.Or(v.names()[f.Owner], f.Owner))
	}
	add("Expires within", "expiring", durationWords(f.Expiring))
	add("Unused for", "unused", durationWords(f.Unused))
	add("Role", "role", f.Role)
	add("Plan", "plan", f.Plan)
	return list
}

// maxTotal is the number up to which lists of keys are counted.
const maxTotal = 5000

// countWords says how many keys of a list the page shows: "50 of 409 keys". A list that is too long
// to be counted has no total.
func (v *visit) countWords(f client.KeyFilter, shown int, more bool) (string, error) {
	if !more && v.query("cursor") == "" {
		return counted(int64(shown), "key"), nil
	}
	counts := keystore.KeyFilter{In: f.Namespace, Status: keystore.Status(f.Status),
		Owner: f.Owner, Role: f.Role, Plan: f.Plan, Text: f.Text}
	counts.Expiring, _ = keystore.ParseLifetime(f.Expiring) // the list has checked them
	counts.Unused, _ = keystore.ParseLifetime(f.Unused)
	total, ok, err := v.keys.CountMatching(v.ctx, v.Caller, counts, maxTotal+1)
	switch {
	case err != nil || !ok:
		return counted(int64(shown), "key") + " on this page", err
	case total > maxTotal:
		return fmt.Sprintf("%d of more than %s keys", shown, humanize.Comma(maxTotal)), nil
	}
	return fmt.Sprintf("%d of %s", shown, counted(int64(total), "key")), nil
}

// roleFilter returns the names of the roles that the visitor may read as choices.
func (v *visit) roleFilter(current string) []choice {
	var names []string
	for _, r := range v.roles() {
		names = append(names, r.Name)
	}
	return v.filterChoices(names, current, "admin.roles:read")
}

// planFilter is like roleFilter for plans.
func (v *visit) planFilter(current string) []choice {
	var names []string
	for _, p := range v.plans() {
		names = append(names, p.Name)
	}
	return v.filterChoices(names, current, "admin.plans:read")
}

// maxChoices is the number of choices up to which a filter is a list. A longer one would be slow to
// load and to search.
const maxChoices = 200

// filterChoices returns names, which a visitor with a permission may read, as the choices of a
// filter. It returns nil if the visitor has to type the name, because there are too many for a list
// or because it may read none. A visitor who sees only its own keys is not asked for a name.
func (v *visit) filterChoices(names []string, current, permission string) []choice {
	slices.Sort(names)
	names = slices.Compact(names)
	list := []choice{{Label: "Any"}}
	switch readable := v.may(permission); {
	case !readable && !v.may("admin.keys:read"):
		return offer(list, current)
	case !readable, len(names) > maxChoices:
		return nil
	}
	for _, name := range names {
		list = append(list, choice{Value: name, Label: name})
	}
	return offer(list, current)
}

// withoutInvalid answers a list whose address has invalid filters, such as an old bookmark, with the
// first page without them.
func (v *visit) withoutInvalid(err error) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err
	}
	var changes, ignored []string
	for _, e := range refused.Errors {
		switch e.Field {
		case "sort":
			if slices.ContainsFunc(keyOrders,
				func(c choice) bool { return c.Value == v.query("sort") }) {
				return v.done(v.With("sort", ""),
					notice{Kind: "warning", Title: "Too many keys to sort",
						Text: "They are shown newest first. At most 10,000 keys can be " +
							"sorted in another order: filter by namespace, owner or status."})
			}
		case "cursor", "status", "owner", "role", "plan", "q", "expiring", "unused":
		default:
			return err
		}
		changes = append(changes, e.Field, "")
		ignored = append(ignored, sentence(new(form).Named(e.Field)+" "+e.Detail))
	}
	if changes == nil {
		return err
	}
	return v.done(v.With(changes...), notice{Kind: "warning", Title: invalidAddress,
		Text: strings.Join(ignored, " ")})
}

// maxMembers is the number of members whose names a page knows and offers.
const maxMembers = 1000

// names returns the names of the members that the visitor may read, by id.
func (v *visit) names() map[string]string {
	if v.known == nil {
		v.known = map[string]string{keystore.RootMember: "root"}
		if list, err := v.api.ListMembers(v.ctx, "", maxMembers); err == nil {
			for _, m := range list.Items {
				v.known[m.ID] = shownName(m.Name, m.ID)
			}
		}
		for _, id := range v.Caller.Members() { // which the visitor may not be able to list
			if m := v.keys.Policy().Member(id); m != nil {
				v.known[id] = shownName(m.Name, id)
			}
		}
	}
	return v.known
}

// members returns the members that the visitor may read as choices. The visitor or its groups come
// first.
func (v *visit) members() []choice {
	names := v.names()
	list := v.groups()
	for i := range list {
		list[i].Label += " (your group)"
	}
	if own := v.Caller.Member(); own != "" {
		list = append(list, choice{Value: own, Label: names[own] + " (you)"})
	}
	if v.may("admin.members:read") {
		var others []choice
		for id, name := range names {
			if !v.owns(id) && id != keystore.RootMember {
				others = append(others, choice{Value: id, Label: name})
			}
		}
		slices.SortFunc(others, compareChoices)
		list = append(list, others...)
	}
	return list
}

// MayRevoke reports whether the visitor may revoke a key: its own, or a key in a namespace where it
// has the permission.
func (v *visit) MayRevoke(k api.Key) bool {
	return k.Status != string(keystore.StatusRevoked) &&
		(v.owns(k.Owner) || v.mayIn("admin.keys:revoke", k.Namespace))
}

// MayEdit reports whether the visitor may edit a key.
func (v *visit) MayEdit(k api.Key) bool {
	return k.Status != string(keystore.StatusRevoked) && v.mayIn("admin.keys:update", k.Namespace)
}

// accessLabels are the labels of the access levels other than custom.
var accessLabels = map[keystore.Access]string{
	keystore.ReadOnly: "Read-Only", keystore.ReadWrite: "Read & Write"}

// accessWords returns the label of a key's access level.
func accessWords(k api.Key) string {
	if label := accessLabels[keystore.Access(k.Access)]; label != "" {
		return label
	}
	if len(ownScopes(k)) == 0 && len(homeRoles(k)) > 0 {
		return "By roles"
	}
	return "Custom"
}

// homeRoles returns the roles of a key in its home namespace.
func homeRoles(k api.Key) []string { return homeGrantOf(&k).Roles }

// ownScopes returns the permissions of a key in its home namespace, without those of roles.
func ownScopes(k api.Key) []string { return homeGrantOf(&k).Permissions }

// shownScopes is the number of scopes that a list shows of a key.
const shownScopes = 3

// A scopeList is the first scopes of a key, and how many more there are.
type scopeList struct {
	Scopes []string
	More   int
}

// scopes returns the permissions that a list shows instead of the access level Custom.
func scopes(k api.Key) scopeList {
	list := ownScopes(k)
	n := min(len(list), shownScopes)
	return scopeList{list[:n], len(list) - n}
}
