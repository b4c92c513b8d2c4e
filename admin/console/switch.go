package console

import (
	"net/url"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const switchPath = Root + "/switch"

func switchPages() []page {
	return []page{{"GET " + switchPath, anyMember, switchNamespace}}
}

type switchPage struct {
	Text    string // what was typed
	Found   []api.Namespace
	More    bool
	Targets map[string]string // addresses by id
	All     string            // the address for all namespaces
}

// switchNamespace redirects from the text in the switcher to the page for a namespace. If several
// namespaces match, it lists them.
func switchNamespace(v *visit) error {
	text := strings.TrimSpace(v.query("q"))
	p := switchPage{Text: text, All: v.switchedTo(""), Targets: make(map[string]string)}
	if text == "" || v.reaches(text) {
		v.redirect(v.switchedTo(text))
		return nil
	}
	// an error means that the visitor may not read namespaces
	if list, err := v.api.SearchNamespaces(v.ctx, text, "", pageSize); err == nil {
		p.Found, p.More = list.Items, list.NextCursor != nil
	}
	if len(p.Found) == 1 {
		v.redirect(v.switchedTo(p.Found[0].ID))
		return nil
	}
	for _, ns := range p.Found {
		p.Targets[ns.ID] = v.switchedTo(ns.ID)
	}
	return v.show("switch", "Choose a namespace", p)
}

// reaches reports whether the visitor may read a namespace or has another permission in it.
func (v *visit) reaches(id string) bool {
	if v.keys.Permissions(v.Caller)[id] != nil {
		return true
	}
	_, err := v.api.FindNamespace(v.ctx, id)
	return err == nil
}

// switchedTo returns the address of the page from which the visitor comes, for a namespace.
func (v *visit) switchedTo(id string) string {
	to, err := url.Parse(v.next())
	if err != nil {
		return keysPath
	}
	q := to.Query()
	for _, name := range paging {
		q.Del(name)
	}
	return address(to.EscapedPath(), q, "namespace", id)
}
