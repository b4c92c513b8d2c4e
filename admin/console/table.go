package console

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// A resource is a section of the permission table.
type resource struct {
	Name        string
	Permissions []operations
}

// Calls returns the number of calls of the resource.
func (r resource) Calls() (n int64) {
	for _, o := range r.Permissions {
		n += int64(len(o.Calls))
	}
	return n
}

// operations are the calls that one permission allows.
type operations struct {
	Permission string
	Calls      []api.Operation
}

// Class returns the class that all calls have, read or write, or an empty string.
func (o operations) Class() string {
	class := o.Calls[0].Class
	if slices.ContainsFunc(o.Calls, func(c api.Operation) bool { return c.Class != class }) {
		return ""
	}
	return class
}

// matches reports whether each of the words is in the permission or in one of its calls.
func (o operations) matches(words []string) bool {
	texts := []string{o.Permission}
	for _, c := range o.Calls {
		texts = append(texts, c.Method+" "+c.Path, c.Summary)
	}
	return !slices.ContainsFunc(words, func(w string) bool { return !contains(w, texts...) })
}

// A table is the permission table in a form. Beside the checkboxes and the text field NAME_more, its
// fields are NAME_open, the resources whose calls are all shown, NAME_find, the text to search for,
// and NAME_found, the text whose results it shows: see [form.again].
type table struct {
	Form      *form
	Name      string // the name of the checkboxes
	Resources []resource
	key       *keyForm // the form of a key; nil: the form of a role
}

// newTable returns the table of a form. It takes the name of its checkboxes, the resources and, for
// a key, its form.
func newTable(f *form, name string, resources []resource, key ...*keyForm) table {
	t := table{Form: f, Name: name, Resources: resources}
	if len(key) > 0 {
		t.key = key[0]
	}
	return t
}

// ID returns the id of the table, or of an element in it.
func (t table) ID(more ...string) string {
	return strings.Join(append([]string{"f-" +
		strings.NewReplacer("[", "-", "]", "", ".", "-").Replace(t.Name)}, more...), "-")
}

const (
	// maxWhole is the number of calls up to which the table shows all of them. A larger table shows
	// the calls of a resource when it is opened.
	maxWhole = 100
	// maxWords is the number of words that a search compares. It ignores the others.
	maxWords = 10
	// maxFound is the number of permissions that a search shows.
	maxFound = 200
	// maxSpread is the number of permissions up to which a resource is open from the start.
	maxSpread = 6
)

// A listing is what the table shows.
type listing struct {
	Groups   []group
	Calls    int64 // of all resources
	Found    int64 // calls that match the search
	Selected int   // checked boxes
}

// Large reports whether the table has more calls than it shows at once.
func (l listing) Large() bool { return l.Calls > maxWhole }

// A group is a resource as shown.
type group struct {
	resource
	Rows     []operations // the permissions with a box
	Selected int          // checked boxes, including those of the whole resource
	Open     bool
}

// All reports whether every permission has a box.
func (g group) All() bool { return len(g.Rows) == len(g.Permissions) }

// Listing returns what the table shows. Checked boxes are always shown, because a form only sends
// the boxes that it has.
func (t table) Listing() listing {
	l := listing{Selected: len(t.Form.Values(t.Name))}
	for _, r := range t.Resources {
		l.Calls += r.Calls()
	}
	find, left := words(t.Form.Value(t.Name+"_found")), maxFound
	find = find[:min(len(find), maxWords)]
	for _, r := range t.Resources {
		g := group{resource: r, Selected: t.selected(r)}
		asked := t.Form.Has(t.Name+"_open", r.Name)
		var found int64
		for _, o := range r.Permissions {
			match := len(find) > 0 && o.matches(find)
			if match {
				found += int64(len(o.Calls))
			}
			switch {
			case asked, !l.Large(), t.Box(o.Permission).Checked():
			case match && left > 0:
				left--
			default:
				continue
			}
			g.Rows = append(g.Rows, o)
		}
		l.Found += found
		if len(find) > 0 && found == 0 && g.Selected == 0 && !asked &&
			(len(r.Permissions) > 0 || !operations{Permission: r.Name}.matches(find)) {
			continue
		}
		g.Open = asked || g.Selected > 0 || found > 0 && len(g.Rows) > 0 ||
			!l.Large() && len(g.Permissions) <= maxSpread
		l.Groups = append(l.Groups, g)
	}
	return l
}

// selected returns the number of checked boxes of a resource.
func (t table) selected(r resource) (n int) {
	for _, p := range t.Form.Values(t.Name) {
		if strings.HasPrefix(p, r.Name+":") {
			n++
		}
	}
	return n
}

// A box is the checkbox of one permission.
type box struct {
	table
	Permission string
}

// Box returns the checkbox of a permission.
func (t table) Box(permission string) box { return box{t, permission} }

// Checked reports whether the box is checked.
func (b box) Checked() bool { return b.Form.Has(b.Name, b.Permission) || b.Locked() }

// Locked reports whether the permission cannot be removed from the key.
func (b box) Locked() bool {
	return b.key != nil && b.Name == "permissions" && b.key.Locked("permissions", b.Permission)
}

// Barred reports whether the permission cannot be given.
func (b box) Barred() bool {
	if b.key == nil {
		return false
	}
	if b.Name != "permissions" {
		return b.key.barredInRole(b.Permission)
	}
	return b.key.Barred(b.Permission)
}

// table returns the permission table: the operations that handlers declare, by resource, sorted by
// their paths.
func (v *visit) table() (all []resource, err error) {
	by := make(map[string]map[string][]api.Operation)
	if declared := v.resources.Load(); declared != nil {
		for _, r := range *declared {
			by[r] = make(map[string][]api.Operation)
		}
	}
	for op, err := range v.api.AllPermissions(v.ctx) {
		switch {
		case client.StatusOf(err) == http.StatusForbidden:
			// Reading the table requires admin.keys:read. A visitor without it can type
			// permissions.
			return nil, nil
		case err != nil:
			return nil, err
		}
		r, _, _ := strings.Cut(op.Permission, ":")
		if by[r] == nil {
			by[r] = make(map[string][]api.Operation)
		}
		by[r][op.Permission] = append(by[r][op.Permission], op)
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		r := resource{Name: name}
		for permission, calls := range by[name] {
			slices.SortFunc(calls, compareCalls)
			r.Permissions = append(r.Permissions, operations{permission, calls})
		}
		slices.SortFunc(r.Permissions, func(a, b operations) int {
			return cmp.Or(compareCalls(a.Calls[0], b.Calls[0]),
				cmp.Compare(a.Permission, b.Permission))
		})
		all = append(all, r)
	}
	return all, nil
}

// methods is the order of calls of one path. Other methods follow by name.
var methods = []string{http.MethodDelete, http.MethodPatch, http.MethodPut, http.MethodPost,
	http.MethodHead, http.MethodGet}

func compareCalls(a, b api.Operation) int {
	return cmp.Or(cmp.Compare(a.Path, b.Path),
		cmp.Compare(slices.Index(methods, b.Method), slices.Index(methods, a.Method)),
		cmp.Compare(a.Method, b.Method))
}

// setPermissions checks the boxes of permissions. It puts permissions without a box into the text
// field.
func (f *form) setPermissions(resources []resource, list []string) {
	offered := map[string]bool{"*": true}
	for _, r := range resources {
		for _, action := range []string{"*", "read", "write"} {
			offered[r.Name+":"+action] = true
		}
		for _, op := range r.Permissions {
			offered[op.Permission] = true
		}
	}
	var others []string
	for _, permission := range list {
		if offered[permission] {
			f.values.Add("permissions", permission)
		} else {
			others = append(others, permission)
		}
	}
	f.values.Set("permissions_more", strings.Join(others, "\n"))
}

// permissions returns the permissions that are checked or typed in the table of that name.
func (f *form) permissions(name string) []string {
	return slices.Concat(f.Values(name), words(f.Value(name+"_more")))
}
