package chromium

import (
	"fmt"
	"strings"

	"github.com/chromedp/chromedp"
)

// Named returns the names of the elements with a role in the accessibility tree, such as
// columnheader.
func (p *Page) Named(role string) (names []string) {
	p.t.Helper()
	nodes, err := p.query("")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, node := range of(nodes, []string{role}) {
		names = append(names, word(node.Name))
	}
	return names
}

// Touch is Click for a control of a form that a script handles, so that no document is loaded.
func (p *Page) Touch(name string) {
	p.t.Helper()
	x, y := p.reach(p.find(name, pressable), name)
	if _, err := run(p, chromedp.MouseClickXY(x, y)); err != nil {
		p.t.Fatalf("touching %s: %v", name, err)
	}
}

// Style returns a computed property of the first element that a selector matches, such as
// background-color. The selector can end in a pseudo-element, such as ::after.
func (p *Page) Style(selector, property string) string {
	p.t.Helper()
	selector, pseudo, found := strings.Cut(selector, "::")
	if found {
		pseudo = "::" + pseudo
	}
	return evaluate[string](p, fmt.Sprintf(`getComputedStyle(document.querySelector(%q), %q)[%q]`,
		selector, pseudo, property))
}
