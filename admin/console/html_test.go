package console_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// check checks the rules for every page.
func (a *answer) check() {
	a.t.Helper()
	if a.Status == http.StatusNoContent {
		return // to a script
	}
	cached := "no-store"
	if keystore.ContainsToken(a.Text) {
		cached = "no-store, no-transform"
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; " +
			"img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; " +
			"base-uri 'none'",
		"X-Content-Type-Options": "nosniff", "Cache-Control": cached, "Vary": "Accept-Encoding",
		"Content-Type": "text/html; charset=utf-8", "Referrer-Policy": "same-origin",
	} {
		if got := a.Header.Get(name); got != want {
			a.t.Errorf("%s: %s is %q", a.At, name, got)
		}
	}
	if problem := wellFormed(a.Text); problem != "" {
		a.t.Errorf("%s: %s", a.At, problem)
	}
	var err error
	if a.Doc, err = html.Parse(strings.NewReader(a.Text)); err != nil {
		a.t.Fatal(err)
	}
	ids := make(map[string]bool)
	each(a.Doc, func(n *html.Node) {
		if id := attr(n, "id"); id != "" {
			if ids[id] {
				a.t.Errorf("%s: the id %s is duplicated", a.At, id)
			}
			ids[id] = true
		}
	})
	titles := 0
	each(a.Doc, func(n *html.Node) {
		switch {
		case n.Data == "h1":
			titles++
		case n.Data == "style", n.Data == "script" && attr(n, "src") == "":
			a.t.Errorf("%s: an inline %s", a.At, n.Data)
		case n.Data == "input" && attr(n, "type") != "hidden" || n.Data == "select" ||
			n.Data == "textarea":
			if !labelled(a.Doc, n) {
				a.t.Errorf("%s: no label for %s %q", a.At, n.Data, attr(n, "name"))
			}
		}
		for _, at := range n.Attr {
			if at.Key == "style" || strings.HasPrefix(at.Key, "on") {
				a.t.Errorf("%s: %s has the attribute %s", a.At, n.Data, at.Key)
			}
			if place, local := strings.CutPrefix(at.Val, "#"); local && at.Key == "href" {
				if id, err := url.PathUnescape(place); err != nil || !ids[id] {
					a.t.Errorf("%s: a link to #%s does not resolve", a.At, place)
				}
			}
			for _, reference := range []string{"for", "aria-describedby", "aria-labelledby", "list",
				"data-copy", "data-all", "data-find", "data-part", "data-resubmit"} {
				if at.Key != reference {
					continue
				}
				for id := range strings.FieldsSeq(at.Val) {
					if !ids[id] {
						a.t.Errorf("%s: %s=%s does not resolve", a.At, at.Key, id)
					}
				}
			}
		}
	})
	if titles != 1 {
		a.t.Errorf("%s has %d h1, want 1", a.At, titles)
	}
}

var void = []string{"meta", "link", "input", "img", "br", "hr", "wbr", "col"}

// wellFormed returns the errors in the tags of a page. Every tag must be closed, in order.
func wellFormed(text string) string {
	z := html.NewTokenizer(strings.NewReader(text))
	var open []string
	for {
		switch z.Next() {
		case html.ErrorToken:
			if len(open) > 0 {
				return fmt.Sprintf("%v are not closed", open)
			}
			return ""
		case html.StartTagToken:
			name, _ := z.TagName()
			if !slices.Contains(void, string(name)) {
				open = append(open, string(name))
			}
		case html.EndTagToken:
			name, _ := z.TagName()
			if len(open) == 0 || open[len(open)-1] != string(name) {
				return fmt.Sprintf("</%s> closes %v", name, open)
			}
			open = open[:len(open)-1]
		}
	}
}

func each(n *html.Node, f func(*html.Node)) {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode {
			f(d)
		}
	}
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func labelled(doc, input *html.Node) (found bool) {
	if attr(input, "aria-label") != "" || attr(input, "aria-labelledby") != "" {
		return true
	}
	for p := input.Parent; p != nil; p = p.Parent {
		if p.Data == "label" {
			return true
		}
	}
	each(doc, func(n *html.Node) {
		found = found || n.Data == "label" && attr(n, "for") != "" &&
			attr(n, "for") == attr(input, "id")
	})
	return found
}

// field returns the value of a field of the page, and whether the field exists.
func (a answer) field(name string) (value string, exists bool) {
	each(a.Doc, func(n *html.Node) {
		if attr(n, "name") != name {
			return
		}
		switch n.Data {
		case "textarea":
			value, exists = textOf(n), true
		case "select":
			exists = true
			each(n, func(o *html.Node) {
				if o.Data == "option" && has(o, "selected") {
					value = attr(o, "value")
				}
			})
		case "input":
			exists = true
			if t := attr(n, "type"); t != "checkbox" && t != "radio" || has(n, "checked") {
				value = attr(n, "value")
			}
		}
	})
	return value, exists
}

func has(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

func textOf(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}
