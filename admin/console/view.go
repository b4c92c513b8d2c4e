package console

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

//go:embed templates
var templateFiles embed.FS

// templates are the pages by name, each with the layout and the parts.
var templates = readTemplates()

func readTemplates() map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(functions).ParseFS(templateFiles,
		"templates/layout.html", "templates/parts.html"))
	all := make(map[string]*template.Template)
	entries, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // they are part of the program
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".html")
		if name == "layout" || name == "parts" {
			continue
		}
		all[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles,
			"templates/"+e.Name()))
	}
	return all
}

// A view is what a template sees as its dot.
type view struct {
	*visit
	Title      string
	Page       any
	Form       *form // never nil
	Notice     *notice
	Member     *api.Member // who is signed in; nil: nobody
	Namespaces []api.Namespace
	Current    string // the part of the console, as in the address
}

// write answers with a page.
func (v *visit) write(status int, name, title string, data any, f *form) error {
	d := &view{visit: v, Title: title, Page: data, Form: f}
	if f == nil {
		d.Form = blank()
	}
	if v.Caller.Member() != "" && v.api == nil {
		v.api = v.clientFor(v.Caller)
	}
	if v.Caller.Member() != "" {
		// A page that says that the database is away must not need it.
		if m, err := v.api.FindMember(v.ctx, v.Caller.Member()); err == nil {
			d.Member = &m
		} else {
			d.Member = &api.Member{ID: v.Caller.Member(), Name: v.Caller.Member()}
		}
		d.Namespaces = v.namespaces()
		d.Current = path.Join(Root, strings.Split(strings.TrimPrefix(v.r.URL.Path, Root+"/"),
			"/")[0])
		d.Notice = v.takeNotice()
	}
	var b bytes.Buffer
	if err := templates[name].ExecuteTemplate(&b, "layout", d); err != nil {
		return fmt.Errorf("template %s: %w", name, err)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	if v.r.Method != http.MethodHead {
		_, _ = v.w.Write(b.Bytes())
	}
	return nil
}

// maxSwitch is how many namespaces the switcher offers. Whoever has more can type another one.
const maxSwitch = 1000

// namespaces are those that the visitor may read.
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

// A navItem is one entry of the main navigation.
type navItem struct {
	Label, Link string
	Current     bool
}

// Navigation lists the parts of the console that the visitor may see.
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

// Namespace is the one that the switcher is set to.
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

// SwitchTo is where the switcher leads: the list of the part that is open.
func (d *view) SwitchTo() string {
	for _, n := range navigation {
		if n.path == d.Current {
			return n.path
		}
	}
	return Root + "/keys"
}

// Kept are the parameters of the address, each a name and a value, that a list keeps when the
// switcher is set to another namespace.
func (d *view) Kept() [][2]string {
	if d.r.URL.Path != d.SwitchTo() {
		return nil
	}
	var kept [][2]string
	q := d.r.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if name != "namespace" && name != "cursor" && q.Get(name) != "" {
			kept = append(kept, [2]string{name, q.Get(name)})
		}
	}
	return kept
}

// Link is an address of the console: see visit.link.
func (d *view) Link(path string, parameters ...string) string {
	return d.link(Root+path, parameters...)
}

// Query is a parameter of the address.
func (d *view) Query(name string) string { return d.query(name) }

// Here is the address of this page, which forms post to.
func (d *view) Here() string { return d.r.URL.RequestURI() }

// May reports whether the visitor holds a permission in some namespace, MayIn in one.
func (d *view) May(permission string) bool              { return d.may(permission) }
func (d *view) MayIn(permission, namespace string) bool { return d.mayIn(permission, namespace) }

// MayHere reports whether the visitor holds a permission where the switcher is set to.
func (d *view) MayHere(permission string) bool {
	if in := d.namespace(); in != "" {
		return d.mayIn(permission, in)
	}
	return d.may(permission)
}

// functions are what all templates may call.
var functions = template.FuncMap{
	"asset":    func(name string) string { return assetNames[name] },
	"time":     showTime,
	"second":   showSecond,
	"field":    newField,
	"sentence": sentence,
	"join":     strings.Join,
	"part":     newPart,
	"access":   accessWords,
	"label":    namespaceLabel,
	"roles":    homeRoles,
	"name":     func(names map[string]string, id string) string { return cmp.Or(names[id], id) },
	"table":    newTable,
}

// showTime is a moment, which the script shows in the viewer's zone. It takes a time.Time, a
// *time.Time, which is not nil, or how JSON writes one.
func showTime(at any) template.HTML {
	var t time.Time
	switch at := at.(type) {
	case time.Time:
		t = at
	case *time.Time:
		t = *at
	case string:
		var err error
		if t, err = time.Parse(time.RFC3339, at); err != nil {
			return template.HTML(template.HTMLEscapeString(at))
		}
	}
	return timeElement(t, "2006-01-02 15:04")
}

// showSecond is showTime for what is about to be.
func showSecond(at time.Time) template.HTML { return timeElement(at, time.DateTime) }

func timeElement(t time.Time, layout string) template.HTML {
	t = t.UTC()
	return template.HTML(`<time datetime="` + t.Format(time.RFC3339) + `">` + t.Format(layout) +
		` UTC</time>`)
}

// A field is one input of a form with its label. Options: hint, type, value (of a box), rows (of a
// text area), placeholder, autocomplete, list, required, disabled, spellcheck.
type field struct {
	Form        *form
	Name, Label string
	Option      map[string]string
	Choices     []choice // of a list to choose from
}

// A choice is one of a list, or one box of several.
type choice struct {
	Value, Label, Hint string
	Disabled           bool
}

// ID is the input's.
func (f field) ID() string { return "f-" + f.Name }

// Error is what is wrong with it.
func (f field) Error() string { return f.Form.Error(f.Name) }

// Value is what it holds.
func (f field) Value() string { return f.Form.Value(f.Name) }

// Described lists the ids of what describes it.
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

// newField makes a field out of its form, name, label, choices (if there are any), and options,
// names and values in turn.
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
			return out, fmt.Errorf("the name of an option of field %s is %v", name, more[i])
		}
		out.Option[option] = fmt.Sprint(more[i+1])
	}
	return out, nil
}

// A part is what a part of a page gets: the page's own dot, and one thing more.
type part struct {
	*view
	It any
}

func newPart(d *view, it any) part { return part{d, it} }
