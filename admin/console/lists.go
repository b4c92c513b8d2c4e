package console

import (
	"cmp"
	"fmt"
	"html/template"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxRead is the number of objects that one call for a list requests.
const maxRead = 1000

// selected returns one page of the items that match, and the cursor of the next page. The REST
// interface does not have these filters, so selected reads maxRead items at a time until it has
// at least pageSize matches, and returns all of them. A nil match selects everything.
func selected[T any](
	cursor string, list func(cursor string, limit int) (api.Page[T], error), match func(T) bool,
) (found []T, next *string, err error) {
	if match == nil {
		page, err := list(cursor, pageSize)
		return page.Items, page.NextCursor, err
	}
	pages := client.Pages(cursor, func(cursor string) (api.Page[T], error) {
		return list(cursor, maxRead)
	})
	for page, err := range pages {
		if err != nil {
			return nil, nil, err
		}
		for _, item := range page.Items {
			if match(item) {
				found = append(found, item)
			}
		}
		if next = page.NextCursor; len(found) >= pageSize {
			break
		}
	}
	return found, next, nil
}

// collect returns all items of a sequence, or its error.
func collect[T any](items iter.Seq2[T, error]) (all []T, err error) {
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

func (v *visit) listRoles(cursor string, limit int) (api.Roles, error) {
	return v.api.ListRoles(v.ctx, cursor, limit)
}

// roles returns the roles that the visitor may read.
func (v *visit) roles() []api.Role {
	if v.readable == nil {
		v.readable, _ = collect(v.api.AllRoles(v.ctx)) // fails if the visitor may read none
	}
	return v.readable
}

func (v *visit) listMembers(cursor string, limit int) (api.Members, error) {
	return v.api.ListMembers(v.ctx, cursor, limit)
}

// contains reports whether one of the texts contains part, ignoring case.
func contains(part string, texts ...string) bool {
	part = strings.ToLower(part)
	return slices.ContainsFunc(texts,
		func(t string) bool { return strings.Contains(strings.ToLower(t), part) })
}

// reachable returns the namespaces that the visitor may read, and those where it has another
// permission. The latter have only an id and a parent.
func (v *visit) reachable() []api.Namespace {
	list := slices.Clone(v.namespaces())
	known := make(map[string]bool, len(list))
	for _, ns := range list {
		known[ns.ID] = true
	}
	for id := range v.keys.Permissions(v.Caller) {
		if ns := v.keys.Policy().Namespace(id); ns != nil && !known[id] {
			list = append(list, api.Namespace{ID: id, Parent: &ns.Parent})
		}
	}
	return list
}

// places returns the namespaces in which the visitor has a permission, as choices. everywhere,
// unless empty, is the label of the choice of all namespaces, offered to a visitor that has the
// permission there.
func (v *visit) places(permission, everywhere string) []choice {
	var list []choice
	for _, ns := range v.reachable() {
		if v.mayIn(permission, ns.ID) {
			list = append(list, choice{Value: ns.ID, Label: namespaceLabel(ns)})
		}
	}
	slices.SortFunc(list, func(a, b choice) int {
		return cmp.Compare(strings.ToLower(a.Value), strings.ToLower(b.Value))
	})
	if everywhere != "" && v.mayIn(permission, keystore.AnyNamespace) {
		list = append([]choice{{Value: keystore.AnyNamespace, Label: everywhere}}, list...)
	}
	return list
}

// offer adds the value of a form to the choices if it is missing.
func offer(list []choice, value string) []choice {
	if slices.ContainsFunc(list, func(c choice) bool { return c.Value == value }) {
		return list
	}
	return append(list, choice{Value: value, Label: value})
}

func namespaceLabel(ns api.Namespace) string {
	if !keystore.HasGlyph(ns.Name) || strings.EqualFold(ns.Name, ns.ID) {
		return ns.ID
	}
	return ns.ID + " – " + ns.Name
}

// A dependent is an object that uses another one and prevents its deletion.
type dependent struct {
	Kind, Name, Link string
	Status           string // of a key
}

// keyDependent returns a key as a dependent.
func (v *visit) keyDependent(k api.Key) dependent {
	return dependent{"Key", shownName(k.Name, k.Prefix), v.keyLink(k.ID),
		strings.ToLower(statusLabel(k.EffectiveStatus()))}
}

// A removal asks for confirmation before an object is deleted.
type removal struct {
	Section    string      // the label of the section, such as "Roles"
	Kind, Name string      // of the object
	List, Back string      // addresses
	Text       string      // the consequences
	First      string      // what to do with the dependents; empty: see delete.html
	Transfer   string      // the address of the form that transfers the keys; empty: none
	Dependents []dependent // as far as the visitor may see them
	More       bool        // whether there are more dependents
	Keys       string      // the address of the list of keys that use it
}

// paging are the parameters of a page of a list: the cursor where it begins, its number, and the
// cursors of the pages before it from the second one on, separated by spaces.
var paging = []string{"cursor", "page", "before"}

// maxBefore limits the cursors in an address, in bytes. The first ones are dropped.
const maxBefore = 3000

// pageNumber returns the number of the page of a list, or 0 if it is unknown because the address has
// only a cursor.
func (v *visit) pageNumber() int {
	if v.query("cursor") == "" {
		return 1
	}
	n, err := strconv.Atoi(v.query("page"))
	if err != nil || n < 2 {
		return 0
	}
	return n
}

// pageAt returns the address of the page of a list that is some pages after this one.
func (v *visit) pageAt(cursor string, after int, before []string) string {
	number := ""
	if n := v.pageNumber(); n > 0 {
		number = strconv.Itoa(n + after)
	}
	return v.With("cursor", cursor, "page", number, "before", strings.Join(before, " "))
}

// before returns the cursors of the previous pages that the address has.
func (v *visit) before() []string { return strings.Fields(v.query("before")) }

// NextPage returns the address of the next page of a list, which begins at a cursor.
func (v *visit) NextPage(cursor string) string {
	before := v.before()
	if here := v.query("cursor"); here != "" {
		before = append(before, here)
	}
	for len(strings.Join(before, " ")) > maxBefore {
		before = before[1:]
	}
	return v.pageAt(cursor, 1, before)
}

// SamePage returns the address of this page of a list, continued from a cursor.
func (v *visit) SamePage(cursor string) string { return v.pageAt(cursor, 0, v.before()) }

// PreviousPage returns the address of the previous page of a list. It is empty on the first page,
// and where the address does not have the cursor of the previous one.
func (v *visit) PreviousPage() string {
	before := v.before()
	switch last := len(before) - 1; {
	case v.query("cursor") == "":
	case last >= 0:
		return v.pageAt(before[last], -1, before[:last])
	case v.pageNumber() == 2:
		return v.With()
	}
	return ""
}

// pageTitle returns the title of a page of a list: "Keys – revoked, page 2".
func (v *visit) pageTitle(title string, details ...string) string {
	if n := v.pageNumber(); n > 1 {
		details = append(details, "page "+strconv.Itoa(n))
	}
	if len(details) > 0 {
		title += " – " + strings.Join(details, ", ")
	}
	return title
}

// cleanAddress returns the address of this page without empty parameters, which browsers add for
// empty fields of a form. It is empty if there are none.
func (v *visit) cleanAddress() string {
	q := v.r.URL.Query()
	for _, values := range q {
		if values[0] == "" {
			return address(v.r.URL.Path, q)
		}
	}
	return ""
}

// A ref is an object with the address of its page, which is empty if the visitor may not see it.
type ref struct{ ID, Name, Link string }

// Title returns the name, which may be cut where it is shown, and the id.
func (r ref) Title() string {
	if r.ID == r.Name {
		return r.ID
	}
	return r.Name + " (" + r.ID + ")"
}

// MemberRef returns a member.
func (v *visit) MemberRef(id string) ref {
	name, known := v.names()[id]
	r := ref{ID: id, Name: shownName(name, id)}
	if known && id != keystore.RootMember && v.may("admin.members:read") {
		r.Link = v.MemberLink(id)
	}
	return r
}

// NamespaceRef returns a namespace. For *, the namespace of shared objects, the name is "Shared".
func (v *visit) NamespaceRef(id string) ref {
	r := ref{ID: id, Name: id}
	if id == keystore.AnyNamespace {
		r.Name = "Shared"
		return r
	}
	if v.mayIn("admin.namespaces:read", id) {
		r.Link = v.NamespaceLink(id)
	}
	return r
}

// RoleRef returns the role that a grant in a namespace names: one of that namespace or a shared one.
func (v *visit) RoleRef(namespace, name string) ref {
	r := ref{ID: name, Name: name}
	d := v.keys.Policy()
	switch {
	case d.Role(keystore.RoleID{Namespace: namespace, Name: name}) != nil:
		if v.mayIn("admin.roles:read", namespace) {
			r.Link = v.RoleLink(namespace, name)
		}
	case d.Role(keystore.RoleID{Namespace: keystore.AnyNamespace, Name: name}) != nil:
		if v.may("admin.roles:read") {
			r.Link = v.RoleLink(keystore.AnyNamespace, name)
		}
	}
	return r
}

// maxKeysWith is the number up to which a list of roles or plans counts the keys of each.
const maxKeysWith = 100

// keysWith returns the number of keys with a role or plan that the visitor may read, in words. The
// number links to the list of these keys. It is empty if they are not counted.
func (v *visit) keysWith(f keystore.KeyFilter) string {
	n, ok, err := v.keys.CountMatching(v.ctx, v.Caller, f, maxKeysWith+1)
	switch {
	case err != nil || !ok:
		return ""
	case n > maxKeysWith:
		return fmt.Sprintf("More than %d keys", maxKeysWith)
	}
	return counted(int64(n), "key")
}

// labelOf returns the label of a choice, or its value if there is no such choice.
func labelOf(list []choice, value string) string {
	for _, c := range list {
		if c.Value == value {
			return c.Label
		}
	}
	return value
}

// Ago returns a time relative to now, such as "3 days ago" or "in 90 days", with the exact time as
// its title. It takes a time.Time or a non-nil *time.Time.
func (v *visit) Ago(at any) template.HTML {
	t := timeOf(at)
	words := relative(t, v.keys.Now())
	//nolint:gosec // a formatted time needs no escaping
	return template.HTML(`<time class="ago" datetime="` + t.UTC().Format(time.RFC3339) +
		`" title="` + t.UTC().Format("2006-01-02 15:04") + ` UTC">` + words + `</time>`)
}

// spans are the units of relative times, each with the time from which the next one is used.
var spans = []struct {
	unit time.Duration
	name string
	end  time.Duration
}{
	{time.Second, "second", time.Minute},
	{time.Minute, "minute", time.Hour},
	{time.Hour, "hour", 48 * time.Hour},
	{day, "day", 120 * day}, // lifetimes of keys are days, such as 90
	{30 * day, "month", 720 * day},
	{365 * day, "year", 40 * 365 * day},
}

const day = 24 * time.Hour

// relative describes a time in a single rounded unit, or by its date if it is decades away.
func relative(t, now time.Time) string {
	away := t.Sub(now).Abs().Round(time.Second)
	if away == 0 {
		return "now"
	}
	for _, s := range spans {
		rounded := away.Round(s.unit)
		if rounded >= s.end {
			continue
		}
		words := counted(int64(rounded/s.unit), s.name)
		if t.After(now) {
			return "in " + words
		}
		return words + " ago"
	}
	return t.UTC().Format(time.DateOnly)
}

// durationWords returns a duration of the REST interface in words: "90 days" for 90d, and "1 day
// 12 hours" for 36h. It returns any other text as it is.
func durationWords(text string) string {
	left, err := keystore.ParseLifetime(text)
	if err != nil || left%time.Second != 0 {
		return text
	}
	var words []string
	for _, s := range slices.Backward(spans[:4]) { // days to seconds
		if n := left / s.unit; n > 0 {
			words = append(words, counted(int64(n), s.name))
			left -= n * s.unit
		}
	}
	return strings.Join(words, " ")
}

// soon is how long before its expiry a key is marked.
const soon = 7 * day

// Soon reports whether a time is in the next days.
func (v *visit) Soon(at any) bool {
	left := timeOf(at).Sub(v.keys.Now())
	return left > 0 && left <= soon
}

func timeOf(at any) time.Time {
	if t, ok := at.(*time.Time); ok {
		return *t
	}
	return at.(time.Time)
}
