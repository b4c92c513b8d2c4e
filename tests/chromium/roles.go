package chromium

import (
	"fmt"
	"strings"

	"github.com/chromedp/chromedp"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
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

// Focused returns the text of the element with the focus, or its value.
func (p *Page) Focused() string {
	p.t.Helper()
	text := strings.Join(strings.Fields(evaluate[string](p, `(() => {
		const e = document.activeElement
		return e && e !== document.body ? e.value || e.innerText || e.name || e.localName : ""
	})()`)), " ")
	gate.WatchTokensIn(text)
	return text
}

// Style returns a computed property of the first element that a selector matches, such as
// background-color.
func (p *Page) Style(selector, property string) string {
	p.t.Helper()
	return evaluate[string](p, fmt.Sprintf(`getComputedStyle(document.querySelector(%q))[%q]`,
		selector, property))
}
