package console

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

//go:embed templates
var templateFiles embed.FS

// templates returns the pages by name, each with the layout, the parts and the charts. The first
// page parses them, because most Caddy processes, such as those of commands, show none.
var templates = sync.OnceValue(readTemplates)

func readTemplates() map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(functions).ParseFS(templateFiles,
		"templates/layout.html", "templates/parts.html", "templates/charts.html"))
	all := make(map[string]*template.Template)
	entries, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // the files are embedded
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".html")
		if name == "layout" || name == "parts" || name == "charts" {
			continue
		}
		all[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles,
			"templates/"+e.Name()))
	}
	return all
}

// A view is the data of a template.
type view struct {
	*visit
	Title      string
	Page       any
	Form       *form // never nil
	Composes   bool  // whether the page has a form to fill in
	Notice     *notice
	Pending    []notice    // changes of this page that some nodes have not applied
	Member     *api.Member // the signed-in member or person, or nil
	Groups     []choice    // those that the person acts for
	Namespaces []api.Namespace
	Current    string // the path of the current section
}

// write answers with the page templates/NAME.html, whose .Page is data.
func (v *visit) write(status int, name, title string, data any, f *form) error {
	d := &view{visit: v, Title: title, Page: data, Form: f, Composes: f != nil}
	if f == nil {
		d.Form = blank()
	}
	if v.Caller.Actor() != "" && v.api == nil {
		v.api = v.clientFor(v.Caller)
	}
	if v.Caller.Actor() != "" {
		d.Member, d.Groups = v.who(), v.groups()
		d.Namespaces = v.namespaces()
		d.Current = path.Join(Root, strings.Split(strings.TrimPrefix(v.r.URL.Path, Root+"/"),
			"/")[0])
		d.Notice = v.takeNotice()
		d.Pending = v.pendingHere()
	}
	var b bytes.Buffer
	if err := templates()[name].ExecuteTemplate(&b, "layout", d); err != nil {
		return fmt.Errorf("template %s: %w", name, err)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	respond(v.w, v.r, status, b.Bytes())
	return nil
}

const (
	// maxSwitch is the number of namespaces that the switcher knows. Others can be typed.
	maxSwitch = 1000
	// maxListed is the number of namespaces up to which the switcher is a list. With more, it is a
	// text field.
	maxListed = 100
)

// ListsNamespaces reports whether the switcher is a list.
func (d *view) ListsNamespaces() bool { return len(d.Namespaces) <= maxListed }

// namespaces returns the namespaces that the visitor may read, at most maxSwitch.
func (v *visit) namespaces() []api.Namespace {
	if v.listed == nil {
		page, err := v.api.ListNamespaces(v.ctx, "", maxSwitch)
		if err != nil {
			return nil
		}
		v.listed = page.Items
	}
	return v.listed
}

// WindowTitle returns the title of the window. It begins with an error or the notice, if any. A
// list names its filters, and other pages their section.
func (d *view) WindowTitle() string {
	title := d.Title
	for _, n := range navigation {
		switch {
		case n.path != d.Current:
		case d.Title == n.Label: // the list has not named its filters
			title = d.pageTitle(title, d.filters()...)
		case d.r.URL.Path != n.path && !strings.HasPrefix(title, n.Label):
			title += " · " + n.Label
		}
	}
	switch {
	case !d.Form.Ok():
		title = "Error: " + title
	case d.Notice != nil:
		title = d.Notice.Title + " · " + title
	}
	return title
}

// filters returns the parameters of a list in words.
func (d *view) filters() (list []string) {
	q := d.r.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(q)) {
		value := q.Get(name)
		switch {
		case value == "", name == "zone":
		case name == "cursor" && d.pageNumber() == 0:
			list = append(list, "another page")
		case slices.Contains(paging, name): // pageTitle names the page
		case name == "q":
			list = append(list, "search "+value)
		case name == "namespace":
			list = append(list, "in "+value)
		default:
			list = append(list, name+" "+cmp.Or(d.known[value], value))
		}
	}
	return list
}

// A navItem is one entry of the main navigation.
type navItem struct {
	Label, Link string
	Current     bool
}

// Navigation returns the sections of the console that the visitor may see.
func (d *view) Navigation() []navItem {
	var list []navItem
	for _, n := range navigation {
		if n.needs == anyMember || !n.everywhere && d.may(n.needs) || n.everywhere &&
			d.mayIn(n.needs, keystore.AnyNamespace) {
			list = append(list, navItem{n.Label, d.link(n.path), n.path == d.Current})
		}
	}
	return list
}

// Namespace returns the namespace of the switcher, or an empty string.
func (d *view) Namespace() string { return d.namespace() }

// Known reports whether the switcher offers a namespace.
func (d *view) Known(namespace string) bool {
	for _, ns := range d.Namespaces {
		if ns.ID == namespace {
			return true
		}
	}
	return false
}

// Switches reports whether the page has the namespace switcher. Forms and answers to forms do not:
// using it would lose the input or a new token.
func (d *view) Switches() bool {
	return d.Member != nil && !d.Composes && d.r.Method != http.MethodPost
}

// SwitchTo returns the target of the switcher: the list of the current section.
func (d *view) SwitchTo() string {
	for _, n := range navigation {
		if n.path == d.Current {
			return n.path
		}
	}
	return Root + "/keys"
}

// SwitchFrom returns the address to which the switcher adds a namespace, with the parameters that
// the list keeps.
func (d *view) SwitchFrom() string {
	q := make(url.Values)
	for _, kept := range d.Kept() {
		q.Set(kept[0], kept[1])
	}
	return address(d.SwitchTo(), q)
}

// Kept returns the parameters, as pairs of name and value, that a list keeps when the switcher
// changes.
func (d *view) Kept() [][2]string {
	if d.r.URL.Path != d.SwitchTo() {
		return nil
	}
	var kept [][2]string
	q := d.r.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if name != "namespace" && !slices.Contains(paging, name) && q.Get(name) != "" {
			kept = append(kept, [2]string{name, q.Get(name)})
		}
	}
	return kept
}

// Link returns an address of the console. See visit.link.
func (d *view) Link(path string, parameters ...string) string {
	return d.link(Root+path, parameters...)
}

// Theme returns the theme that the visitor has chosen, light or dark, or an empty string for that of
// the system.
func (d *view) Theme() string { return d.theme() }

// Themes returns the choices for Theme.
func (d *view) Themes() []choice { return themes }

// Query returns a parameter of the address.
func (d *view) Query(name string) string { return d.query(name) }

// Here returns the address of this page, to which forms post.
func (d *view) Here() string { return d.r.URL.RequestURI() }

// May reports whether the visitor has a permission in some namespace.
func (d *view) May(permission string) bool { return d.may(permission) }

// MayIn reports whether the visitor has a permission in a namespace.
func (d *view) MayIn(permission, namespace string) bool { return d.mayIn(permission, namespace) }

// MayHere reports whether the visitor has a permission in the switcher's namespace, or in some
// namespace if none is set. Nobody has one in a namespace that does not exist.
func (d *view) MayHere(permission string) bool {
	if in := d.namespace(); in != "" {
		return d.keys.Policy().Namespace(in) != nil && d.mayIn(permission, in)
	}
	return d.may(permission)
}

// functions are the functions of all templates.
var functions = template.FuncMap{
	"asset":     func(name string) string { return assetNames[name] },
	"time":      showTime,
	"second":    showSecond,
	"moments":   showMoments,
	"field":     newField,
	"sentence":  sentence,
	"join":      strings.Join,
	"part":      newPart,
	"access":    accessWords,
	"label":     namespaceLabel,
	"roles":     homeRoles,
	"shown":     func(name, instead string) template.HTML { return breakable(shownName(name, instead)) },
	"breakable": breakable,
	"scopes":    scopes,
	"status":    statusLabel,
	"name": func(names map[string]string, actor string) template.HTML {
		return breakable(nameOf(names, actor))
	},
	"table":     newTable,
	"rate":      rateWords,
	"quota":     quotaWords,
	"outcome":   outcomeWords,
	"grouped":   humanize.Comma,
	"bytes":     bytesWords,
	"refused":   refusedWords,
	"responses": responseWords,
	"periods":   func() []choice { return periods },
	"duration":  durationWords,
	"delivery":  deliveryError,
}

// shownName returns the name of an object. A name without a visible character could not be clicked,
// so shownName returns its id or prefix instead. Such a name can only be one that is older than the
// rule for names.
func shownName(name, instead string) string {
	if keystore.HasGlyph(name) {
		return name
	}
	return instead
}

// breakable returns a text in which e-mail addresses and URLs can be wrapped after the characters
// that separate their parts. Browsers would break them in the middle of a word.
func breakable(text string) template.HTML {
	text = template.HTMLEscapeString(text)
	if strings.Contains(text, "@") || strings.Contains(text, "://") {
		text = breaks.Replace(text)
	}
	return template.HTML(text) //nolint:gosec // the text is escaped
}

var breaks = strings.NewReplacer("://", "://<wbr>", "@", "@<wbr>", ".", ".<wbr>", "_", "_<wbr>",
	"-", "-<wbr>", "/", "/<wbr>")

// showTime returns a time element, which the script converts to the viewer's time zone. It takes a
// time.Time, a non-nil *time.Time or a time as a JSON string. Any other string is returned as it
// is, and the template escapes it.
func showTime(at any) any {
	var t time.Time
	switch at := at.(type) {
	case time.Time:
		t = at
	case *time.Time:
		t = *at
	case string:
		var err error
		if t, err = time.Parse(time.RFC3339, at); err != nil {
			return at
		}
	}
	return timeElement(t, "2006-01-02 15:04")
}

// showSecond is like showTime, with seconds.
func showSecond(at time.Time) template.HTML { return timeElement(at, time.DateTime) }

func timeElement(t time.Time, layout string) template.HTML {
	t = t.UTC()
	//nolint:gosec // a formatted time needs no escaping
	return template.HTML(`<time datetime="` + t.Format(time.RFC3339) + `">` + t.Format(layout) +
		` UTC</time>`)
}

// A field is one input of a form with its label. Options: hint, type, inputmode, value (of a
// checkbox), rows (of a text area), placeholder, autocomplete, list, required, disabled, spellcheck,
// autofocus.
type field struct {
	Form        *form
	Name, Label string
	Option      map[string]string
	Choices     []choice // of a list, radio buttons or checkboxes
}

// A choice is one option of a list, radio button or checkbox.
type choice struct {
	Value, Label, Hint string
	Disabled           bool
}

// ID returns the id of the input.
func (f field) ID() string { return "f-" + f.Name }

// Error returns the error of the field, or an empty string.
func (f field) Error() string { return f.Form.Error(f.Name) }

// Value returns the value of the field.
func (f field) Value() string { return f.Form.Value(f.Name) }

// Hints reports whether one of the choices has a hint.
func (f field) Hints() bool {
	return slices.ContainsFunc(f.Choices, func(c choice) bool { return c.Hint != "" })
}

// Described returns the ids of the elements that describe the input.
func (f field) Described() string {
	var ids []string
	if f.Option["hint"] != "" {
		ids = append(ids, f.ID()+"-hint")
	}
	if f.Error() != "" {
		ids = append(ids, f.ID()+"-error")
	}
	return strings.Join(ids, " ")
}

// newField returns a field with its form, name and label, then optional choices, then options as
// alternating names and values.
func newField(f *form, name, label string, more ...any) (field, error) {
	out := field{Form: f, Name: name, Label: label, Option: make(map[string]string)}
	if len(more) > 0 {
		if list, ok := more[0].([]choice); ok {
			out.Choices, more = list, more[1:]
		}
	}
	for i := 0; i+1 < len(more); i += 2 {
		option, ok := more[i].(string)
		if !ok {
			return out, fmt.Errorf("field %s: option names must be strings, not %v", name, more[i])
		}
		out.Option[option] = fmt.Sprint(more[i+1])
	}
	return out, nil
}

// A part is the data of a template in parts.html: the data of the page and one more value.
type part struct {
	*view
	It any
}

// newPart returns a part of a page. of is the view of the page, or another part of it. newPart
// replaces a pointer to a string by the string, because the functions of templates take strings.
func newPart(of, it any) part {
	if s, ok := it.(*string); ok && s != nil {
		it = *s
	}
	if outer, ok := of.(part); ok {
		return part{outer.view, it}
	}
	return part{of.(*view), it}
}
