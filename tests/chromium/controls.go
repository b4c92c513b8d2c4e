package chromium

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// The roles of controls that can be pressed, and of those that can be filled in.
var (
	pressable = []string{"button", "link", "checkbox", "radio", "switch", "tab", "menuitem",
		"DisclosureTriangle"}
	fillable = []string{"textbox", "searchbox", "spinbutton", "combobox", "Date", "DateTime",
		"InputTime"}
)

// Click presses the button, link, check box or radio button with a name, and waits until the
// document of a link or form has loaded.
func (p *Page) Click(name string) {
	p.t.Helper()
	control := p.find(name, pressable)
	x, y := p.reach(control, name)
	click := chromedp.MouseClickXY(x, y)
	if p.leads(control) {
		p.load("clicking "+name, click)
		return
	}
	if _, err := run(p, click); err != nil {
		p.t.Fatalf("clicking %s: %v", name, err)
	}
}

// Fill replaces the text of the field with a name, or chooses the option of a list that has the
// text.
func (p *Page) Fill(name, text string) {
	p.t.Helper()
	control := p.find(name, fillable)
	kind := call[string](p, control, `function() {
		if (this.localName === "input" && /date|time|month|week/.test(this.type)) { return "set" }
		return this.localName === "select" ? "choose" : "type"
	}`)
	switch kind {
	case "choose":
		if !call[bool](p, control, `function(text) {
			const option = [...this.options].find(o => o.text.trim() === text)
			if (!option) { return false }
			this.value = option.value
			this.dispatchEvent(new Event("input", {bubbles: true}))
			this.dispatchEvent(new Event("change", {bubbles: true}))
			return true
		}`, text) {
			p.t.Fatalf("%s: no option “%s” in the list “%s”, which has %s", p.Address(), text, name,
				call[string](p, control,
					`function() { return [...this.options].map(o => o.text.trim()).join(", ") }`))
		}
	case "set": // the format to type depends on the language
		call[bool](p, control, `function(text) {
			this.value = text
			this.dispatchEvent(new Event("input", {bubbles: true}))
			this.dispatchEvent(new Event("change", {bubbles: true}))
			return this.value === text
		}`, text)
	default:
		x, y := p.reach(control, name)
		steps := chromedp.Steps(chromedp.MouseClickXY(x, y),
			chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
				if _,
					err := callOn[bool](ctx, tab, control,
					`function() { this.select(); return true }`); err != nil {
					return err
				}
				if text == "" {
					_, err := chromedp.KeyEvent(kb.Delete)(ctx, tab)
					return err
				}
				_, err := cdp.Call(ctx, tab, input.InsertText, input.InsertTextParams{Text: text})
				return err
			}))
		if _, err := run(p, steps); err != nil {
			p.t.Fatalf("filling in %s: %v", name, err)
		}
	}
}

// Choose chooses an option of a list that leads to another document: with Enter if there is
// JavaScript, else by pressing the button with a name.
func (p *Page) Choose(list, option, button string) {
	p.t.Helper()
	chosen := p.Value(list) == option
	p.Fill(list, option)
	if p.look.NoScript {
		p.Click(button)
	} else if !chosen {
		p.Submit(list)
	}
}

// Focus gives the focus to the control with a name.
func (p *Page) Focus(name string) {
	p.t.Helper()
	control := p.find(name, append(slices.Clone(fillable), pressable...))
	call[bool](p, control, `function() { this.focus(); return true }`)
}

// Focused returns the id of the element with the focus, or its HTML if it has no id.
func (p *Page) Focused() string {
	p.t.Helper()
	return evaluate[string](p, `(e => e?.id || e?.outerHTML?.slice(0, 200) || "")`+
		`(document.activeElement)`)
}

// Jump follows the link to the element with an id in this document.
func (p *Page) Jump(id string) {
	p.t.Helper()
	if !evaluate[bool](p, fmt.Sprintf(`(link => { link?.click(); return !!link })`+
		`([...document.links].find(a => decodeURIComponent(a.getAttribute("href")) === %q))`, "#"+id)) {
		p.t.Fatalf("%s: no link leads to #%s", p.Address(), id)
	}
}

// Leave presses a key that leads to another document.
func (p *Page) Leave(key string) {
	p.t.Helper()
	p.load(fmt.Sprintf("pressing %q", key), chromedp.KeyEvent(key))
}

// Press sends keys, such as kb.Tab, to the control with the focus. Use Leave for a key that leads
// to another document.
func (p *Page) Press(keys string) {
	p.t.Helper()
	if _, err := run(p, chromedp.KeyEvent(keys)); err != nil {
		p.t.Fatalf("pressing %q: %v", keys, err)
	}
}

// Submit presses Enter in the field with a name.
func (p *Page) Submit(name string) {
	p.t.Helper()
	control := p.find(name, fillable)
	call[bool](p, control, `function() { this.focus(); return true }`)
	p.load("Enter in "+name, chromedp.KeyEvent(kb.Enter))
}

// Value returns the value of the field with a name; "on" or "" for a check box or radio button.
func (p *Page) Value(name string) string {
	p.t.Helper()
	value := call[string](p, p.find(name, append(slices.Clone(fillable), pressable...)), `function() {
		if (this.type === "checkbox" || this.type === "radio") { return this.checked ? "on" : "" }
		return this.localName === "select" ? this.selectedOptions[0].text.trim() : this.value
	}`)
	gate.WatchTokensIn(value)
	return value
}

// Offers reports whether the page has a control with a name.
func (p *Page) Offers(name string) bool {
	p.t.Helper()
	return len(p.named(name, append(slices.Clone(fillable), pressable...))) > 0
}

// Controls returns the names of all controls.
func (p *Page) Controls() []string {
	p.t.Helper()
	nodes, err := p.query("")
	if err != nil {
		p.t.Fatal(err)
	}
	var names []string
	for _, node := range of(nodes, append(slices.Clone(fillable), pressable...)) {
		names = append(names, word(node.Name))
	}
	return names
}

// find waits for the only control with an accessible name, or the only one whose name begins with
// it, since the label of a choice may include an explanation.
func (p *Page) find(name string, roles []string) cdp.BackendNodeID {
	p.t.Helper()
	var found []*accessibility.Node
	p.until(func() string {
		return fmt.Sprintf("a %s named “%s” among %q", strings.Join(roles, "/"), name, p.Controls())
	}, func() bool {
		found = p.named(name, roles)
		return len(found) > 0
	})
	if len(found) > 1 && !p.same(found) {
		p.t.Fatalf("%s: %d controls are named “%s”", p.Address(), len(found), name)
	}
	return found[0].BackendDOMNodeID
}

// same reports whether controls are links that lead to the same place.
func (p *Page) same(controls []*accessibility.Node) bool {
	p.t.Helper()
	places := map[string]bool{}
	for _, n := range controls {
		places[call[string](p, n.BackendDOMNodeID,
			`function() { return this.href ?? "none" }`)] = true
	}
	return len(places) == 1 && !places["none"]
}

func (p *Page) named(name string, roles []string) []*accessibility.Node {
	exact, err := p.query(name)
	if exact = of(exact, roles); err != nil || len(exact) > 0 {
		return exact
	}
	all, _ := p.query("")
	return slices.DeleteFunc(of(all, roles),
		func(n *accessibility.Node) bool { return !strings.HasPrefix(word(n.Name), name+" ") })
}

// query returns the accessibility nodes with a name, or all if name is "".
func (p *Page) query(name string) ([]*accessibility.Node, error) {
	return run(p, func(ctx context.Context, tab *chromedp.Target) ([]*accessibility.Node, error) {
		document, err := cdp.Call(ctx, tab, dom.GetDocument, dom.GetDocumentParams{})
		if err != nil {
			return nil, err
		}
		r, err := cdp.Call(ctx, tab, accessibility.QueryAXTree, accessibility.QueryAXTreeParams{
			BackendNodeID: document.Root.BackendNodeID, AccessibleName: name,
		})
		return r.Nodes, err
	})
}

func of(nodes []*accessibility.Node, roles []string) []*accessibility.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *accessibility.Node) bool {
		return n.Ignored || !slices.Contains(roles, word(n.Role))
	})
}

func word(v *accessibility.Value) string {
	var text string
	if v != nil {
		json.Unmarshal(v.Value, &text)
	}
	return text
}

// reach scrolls to a control and returns a point where a click hits the control or its label. It tries
// again for a second, because a script may move the control between the two.
func (p *Page) reach(control cdp.BackendNodeID, name string) (x, y float64) {
	p.t.Helper()
	type place struct {
		X, Y float64
		Hit  bool
		Over string
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := run(p, func(ctx context.Context, tab *chromedp.Target) (cdp.Empty, error) {
			return cdp.Call(ctx, tab, dom.ScrollIntoViewIfNeeded,
				dom.ScrollIntoViewIfNeededParams{BackendNodeID: control})
		}); err != nil {
			p.t.Fatalf("%s: “%s” cannot be scrolled to: %v", p.Address(), name, err)
		}
		point := call[place](p, control, `function() {
			const targets = [this, ...(this.labels ?? [])]
			let over = ""
			for (const target of targets) {
				for (const r of target.getClientRects()) {
					const X = r.left + r.width / 2, Y = r.top + r.height / 2
					const hit = document.elementFromPoint(X, Y)
					if (hit && targets.some(t => t.contains(hit))) { return {X, Y, Hit: true, Over: ""} }
					over = hit ? hit.outerHTML.slice(0, 200) : "nothing"
				}
			}
			return {X: 0, Y: 0, Hit: false, Over: over}
		}`)
		if point.Hit {
			return point.X, point.Y
		}
		if time.Now().After(end) {
			p.t.Fatalf("%s: “%s” cannot be clicked: %s covers it", p.Address(), name,
				gate.Redact(point.Over))
		}
	}
}

// leads reports whether a click navigates to another document or to another place in this one.
func (p *Page) leads(control cdp.BackendNodeID) bool {
	p.t.Helper()
	return call[bool](p, control, `function() {
		const link = this.closest("a[href]")
		if (link) { return !link.hasAttribute("download") && link.target !== "_blank" }
		if (this.type !== "submit" || !this.form) { return false }
		return this.form.noValidate || this.formNoValidate || this.form.checkValidity()
	}`)
}

// call calls a JavaScript function with the control as `this` and returns its result.
func call[T any](p *Page, control cdp.BackendNodeID, function string, arguments ...any) T {
	p.t.Helper()
	value, err := run(p, func(ctx context.Context, tab *chromedp.Target) (T, error) {
		return callOn[T](ctx, tab, control, function, arguments...)
	})
	if err != nil {
		p.t.Fatalf("%.100s: %v", function, err)
	}
	return value
}

func callOn[T any](
	ctx context.Context, tab *chromedp.Target, control cdp.BackendNodeID, function string,
	arguments ...any,
) (T, error) {
	r, err := cdp.Call(ctx, tab, dom.ResolveNode, dom.ResolveNodeParams{BackendNodeID: control})
	if err != nil {
		var none T
		return none, err
	}
	return chromedp.CallFunctionOn[T](function,
		func(p *runtime.CallFunctionOnParams) { p.ObjectID = r.Object.ObjectID }, arguments...)(ctx,
		tab)
}
