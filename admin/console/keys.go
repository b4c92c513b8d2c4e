package console

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const keysPath = Root + "/keys"

func keyPages() []page {
	return []page{
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
	}
}

type keysPage struct {
	Keys     []api.Key
	Next     *string
	Names    map[string]string // names of members by id
	Sparks   map[string]*spark // charts of keys by id
	Owners   []choice
	Mine     string // the visitor's id on the page of its own keys, else empty
	Filtered bool
	// Unknown means that the switcher's namespace does not exist or is hidden from the visitor.
	Unknown bool
	Sort    string   // empty: newest first
	Orders  []choice // for Sort
	Form    *form    // the filters
}

// keyOrders are the orders of keys.
var keyOrders = []choice{
	{Value: "", Label: "Newest"}, {Value: "created_at", Label: "Oldest"},
	{Value: "name", Label: "Name, A to Z"}, {Value: "-name", Label: "Name, Z to A"},
	{Value: "expires_at", Label: "Expires soonest"},
	{Value: "-expires_at", Label: "Expires latest"},
	{Value: "-last_used_at", Label: "Most recently used"},
	{Value: "last_used_at", Label: "Least recently used"},
}

// A column is a sortable column of a list.
type column struct {
	Label  string
	Sorted string // ascending or descending; empty: not sorted by it
	Next   string // the order after a click
}

// Column returns a column. The first click sorts in an order, the next one in reverse.
func (p keysPage) Column(label, by string) column {
	sorted := cmp.Or(p.Sort, "-created_at")
	c := column{Label: label, Next: by}
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

// reverse returns the reverse of an order.
func reverse(sort string) string {
	if up, down := strings.CutPrefix(sort, "-"); down {
		return up
	}
	return "-" + sort
}

// pageSize is the number of rows on a page.
const pageSize = 50

func listKeys(v *visit) error {
	f := client.KeyFilter{
		Namespace: v.namespace(), Status: v.query("status"), Owner: v.query("owner"),
		Role: v.query("role"), Plan: v.query("plan"), Text: v.query("q"), Sort: v.query("sort"),
		Cursor: v.query("cursor"), Limit: pageSize,
	}
	list, err := v.api.ListKeys(v.ctx, f)
	refused, ok := errors.AsType[*client.Error](err)
	if ok && slices.ContainsFunc(refused.Errors,
		func(e api.FieldError) bool { return e.Field == "sort" }) {
		return v.done(v.With("sort", ""),
			notice{Kind: "warning", Title: "Too many keys to sort",
				Text: "They are shown newest first. At most ten thousand keys can be sorted in " +
					"another order: filter by namespace, owner or status."})
	}
	if err != nil {
		return err
	}
	p := keysPage{Keys: list.Items, Next: list.NextCursor, Names: v.names(), Sort: f.Sort,
		Sparks: v.sparks(list.Items),
		Orders: keyOrders, Form: &form{values: v.r.URL.Query()}}
	if f.Owner == v.Caller.Member() {
		p.Mine = f.Owner
	}
	if f.Namespace != "" && len(list.Items) == 0 {
		_, err := v.api.FindNamespace(v.ctx, f.Namespace)
		p.Unknown = err != nil && v.keys.Permissions(v.Caller)[f.Namespace] == nil
	}
	p.Filtered = f.Status+f.Role+f.Plan+f.Text != "" || f.Owner != p.Mine
	p.Owners = append([]choice{{Value: "", Label: "Anyone"}}, v.members()...)
	if f.Owner != "" && !slices.ContainsFunc(p.Owners,
		func(c choice) bool { return c.Value == f.Owner }) {
		p.Owners = append(p.Owners, choice{Value: f.Owner, Label: f.Owner})
	}
	return v.show("keys", "Keys", p)
}

// maxMembers is the number of members whose names a page knows and offers.
const maxMembers = 1000

// names returns the names of the members that the visitor may read, by id.
func (v *visit) names() map[string]string {
	if v.known == nil {
		v.known = map[string]string{keystore.RootMember: "root"}
		if list, err := v.api.ListMembers(v.ctx, "", maxMembers); err == nil {
			for _, m := range list.Items {
				v.known[m.ID] = m.Name
			}
		}
	}
	return v.known
}

// members returns the members that the visitor may read as choices, the visitor first.
func (v *visit) members() []choice {
	own := v.Caller.Member()
	names := v.names()
	list := []choice{{Value: own, Label: names[own] + " (you)"}}
	if v.may("admin.members:read") {
		var others []choice
		for id, name := range names {
			if id != own && id != keystore.RootMember {
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
		(k.Owner == v.Caller.Member() || v.mayIn("admin.keys:revoke", k.Namespace))
}

// MayEdit reports whether the visitor may edit a key.
func (d *view) MayEdit(k api.Key) bool {
	return k.Status != string(keystore.StatusRevoked) && d.mayIn("admin.keys:update", k.Namespace)
}

// accessWords returns the label of an access level.
func accessWords(k api.Key) string {
	if k.Access == string(keystore.ReadOnly) {
		return "Read-Only"
	}
	if k.Access == string(keystore.ReadWrite) {
		return "Read & Write"
	}
	for _, g := range k.Grants {
		if g.Namespace == k.Namespace && len(g.Permissions) == 0 && len(g.Roles) > 0 {
			return "By roles"
		}
	}
	return "Custom"
}

// homeRoles returns the roles of a key in its home namespace.
func homeRoles(k api.Key) []string {
	for _, g := range k.Grants {
		if g.Namespace == k.Namespace {
			return g.Roles
		}
	}
	return nil
}
