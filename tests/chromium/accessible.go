package chromium

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// axe returns the source of axe-core. `make deps` installs it by the hash in package-lock.json.
var axe = sync.OnceValues(func() (string, error) {
	root, err := gate.Root()
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(filepath.Join(root, ".run", "axe", "node_modules", "axe-core",
		"axe.min.js"))
	if err != nil {
		return "", fmt.Errorf("reading axe-core (run `make deps`): %w", err)
	}
	return string(source), nil
})

// The rules that axe-core checks. Rules of WCAG 2.2 are disabled unless they are named.
const (
	allRules = `
		runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
		rules: {"target-size": {enabled: true}}`
	visualRules = `runOnly: {type: "rule", values: ["color-contrast", "link-in-text-block",
		"target-size", "scrollable-region-focusable", "button-name", "link-name", "label", "select-name"]}`
	// The Tab key may have scrolled the page so that the header covers a control. Preloading style
	// sheets takes a tenth of the CPU time of TestPages, for an experimental rule that does not run.
	runAxe = `
		scrollTo(0, 0)
		axe.run(document, {%s, resultTypes: ["violations"],
			preload: {assets: ["media"]}}).then(r => r.violations.map(v =>
			v.id + ": " + v.help + v.nodes.map(n =>
				"\n\t" + n.html.slice(0, 300) + "\n\t\t" + n.failureSummary).join("")))`
)

// Accessible fails the test for every rule of axe-core that the page breaks in its current look:
// WCAG 2.0, 2.1 and 2.2 at levels A and AA, and axe-core's best practices.
func (p *Page) Accessible() {
	p.t.Helper()
	p.check(allRules)
}

// Legible is Accessible with only the rules that depend on the look, for a page that Accessible has
// checked in another look. These rules are about colours, sizes, scrolling, and the names of
// controls, some of which are shown in one width only.
func (p *Page) Legible() {
	p.t.Helper()
	p.check(visualRules)
}

func (p *Page) check(rules string) {
	p.t.Helper()
	source, err := axe()
	if err != nil {
		p.t.Fatal(err)
	}
	violations, err := run(p, func(ctx context.Context, tab *chromedp.Target) ([]string, error) {
		frames, err := cdp.Call(ctx, tab, page.GetFrameTree, cdp.Empty{})
		if err != nil {
			return nil, err
		}
		world, err := cdp.Call(ctx, tab, page.CreateIsolatedWorld,
			page.CreateIsolatedWorldParams{FrameID: frames.FrameTree.Frame.ID, WorldName: "axe"})
		if err != nil {
			return nil, err
		}
		inWorld := func(p *runtime.EvaluateParams) { p.ContextID = world.ExecutionContextID }
		loaded, err := chromedp.Evaluate[bool](`!!globalThis.axe`, inWorld)(ctx, tab)
		if err != nil {
			return nil, err
		}
		if !loaded { // there is one world for each document
			if _, err := chromedp.Evaluate[bool](source+";\ntrue", inWorld)(ctx, tab); err != nil {
				return nil, err
			}
		}
		return chromedp.Evaluate[[]string](fmt.Sprintf(runAxe, rules), inWorld,
			chromedp.EvalAwaitPromise)(ctx, tab)
	})
	if err != nil {
		p.t.Fatalf("axe-core on %s: %v", p.Address(), err)
	}
	for _, violation := range violations {
		p.t.Errorf("%s at %d px: %s", p.Address(), p.look.width(), gate.Redact(violation))
	}
}

// notePainted stores the time of the second frame after the document has been parsed. The first
// frame still paints the part that was parsed last.
const notePainted = `addEventListener("DOMContentLoaded", () => requestAnimationFrame(() =>
	requestAnimationFrame(time => { globalThis.painted = time })))`

// Fits fails the test if the page is wider than the window.
func (p *Page) Fits() {
	p.t.Helper()
	if wide := evaluate[int](p, `document.scrollingElement.scrollWidth`); wide > p.look.width() {
		widest := evaluate[string](p, `
			[...document.querySelectorAll("body *")].filter(e =>
				e.getBoundingClientRect().right > document.scrollingElement.clientWidth + 1)
				.slice(0, 5).map(e => e.outerHTML.slice(0, 100)).join("\n")`)
		p.t.Errorf("%s is %d px wide in a window of %d px: %s", p.Address(), wide, p.look.width(),
			widest)
	}
}

// Steady fails the test if the page is wider than the window, or if anything has moved after it was
// painted.
func (p *Page) Steady() {
	p.t.Helper()
	p.Fits()
	if p.look.NoScript {
		return // the observer needs JavaScript
	}
	moved := p.moved()
	if len(moved) > 0 {
		// A busy Chromium may lay a page out before it knows the size of the window. Such a page
		// does not move when it is opened again. A page that does move reports it within a moment.
		p.Open(p.Address())
		evaluate[bool](p, `new Promise(done => setTimeout(() => done(true), 500))`)
		moved = p.moved()
	}
	if len(moved) > 0 {
		p.t.Errorf("%s at %d px: things move after they were painted:\n%s", p.Address(),
			p.look.width(), gate.Redact(strings.Join(moved, "\n")))
	}
}

// moved returns what has moved in the page since it was painted, with the layout shift score.
func (p *Page) moved() []string {
	p.t.Helper()
	// A busy machine may paint part of the page, which moves when the rest is painted. Only larger
	// shifts after the whole page was painted count. People notice ten times as much.
	return evaluate[[]string](p, `new Promise(done => {
		const moved = [], painted = globalThis.painted ?? Infinity
		const count = list => {
			for (const e of list.filter(e => e.startTime >= painted && e.value > 0.01)) {
				moved.push(e.value.toFixed(4) + " " + e.sources.map(s =>
					s.node?.outerHTML?.slice(0, 100) ?? s.node?.nodeName).join(" and "))
			}
		}
		const observer = new PerformanceObserver(list => count(list.getEntries()))
		observer.observe({type: "layout-shift", buffered: true})
		requestAnimationFrame(() => setTimeout(() => { count(observer.takeRecords()); done(moved) }))
	})`)
}

// Uncut fails the test if a table is wider than its box, so that a part of it is hidden until people
// scroll sideways.
func (p *Page) Uncut() {
	p.t.Helper()
	for _, wide := range evaluate[[]string](p, `
		[...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth).map(e =>
			e.scrollWidth + " px in " + e.clientWidth + " px: " + [...e.querySelectorAll("thead th")].map(
				h => h.textContent.trim() + " " + Math.round(h.getBoundingClientRect().width)).join(", "))`) {
		p.t.Errorf("%s at %d px: a table is cut off, %s", p.Address(), p.look.width(), wide)
	}
}

// Tidy fails the test if controls overlap, or if the name of an object stands on a line of its own in
// the middle of a sentence.
func (p *Page) Tidy() {
	p.t.Helper()
	for _, fault := range evaluate[[]string](p, `(() => {
		const show = e => e.outerHTML.replace(/\s+/g, " ").slice(0, 100)
		const visible = (e, {left, right, top, bottom}) => { // the part that no ancestor clips
			while ((e = e.parentElement)) {
				if (getComputedStyle(e).overflowX === "visible") { continue }
				const r = e.getBoundingClientRect()
				left = Math.max(left, r.left), right = Math.min(right, r.right)
				top = Math.max(top, r.top), bottom = Math.min(bottom, r.bottom)
			}
			return {left, right, top, bottom}
		}
		const boxes = [...document.querySelectorAll("a, button, input, select, textarea, summary")]
			.filter(e => e.checkVisibility({visibilityProperty: true}))
			.flatMap(e => [...e.getClientRects()].map(r => [e, visible(e, r)]))
			.filter(([, r]) => r.bottom > 0 && r.right - r.left > 1 && r.bottom - r.top > 1)
		const overlap = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 &&
			a.top < b.bottom - 1 && b.top < a.bottom - 1
		const faults = boxes.flatMap(([e, r], i) => boxes.slice(i + 1)
			.filter(([f, s]) => !e.contains(f) && overlap(r, s))
			.map(([f]) => show(e) + " overlaps " + show(f)))
		const display = e => getComputedStyle(e).display
		for (const e of document.querySelectorAll("p a, p bdi")) {
			if (!display(e).startsWith("inline") && /^(inline|block)$/.test(display(e.parentElement))) {
				faults.push("a line of its own in " + show(e.closest("p")))
			}
		}
		return faults
	})()`) {
		p.t.Errorf("%s at %d px: %s", p.Address(), p.look.width(), fault)
	}
}

// stop is a control that the Tab key reaches.
type stop struct {
	Control string // "" is the end of the page
	Hidden  string // why the focus is not visible
}

// ByKeyboard presses the Tab key until the end of the page, and fails the test if a control is not
// reached or does not show that it has the focus.
func (p *Page) ByKeyboard() {
	p.t.Helper()
	expected := evaluate[[]string](p, `(() => {
		const describe = e => e.outerHTML.replace(/\s+/g, " ").slice(0, 160)
		window.stops = []
		window.onkeyup = () => {
			const e = document.activeElement
			if (!e || e === document.body || e === document.documentElement) {
				stops.push({Control: "", Hidden: ""})
				return
			}
			const style = getComputedStyle(e), r = e.getBoundingClientRect()
			let hidden = ""
			// the browser itself shows which part of these has the focus
			const parts = /date|time|month|week/.test(e.type)
			if (!parts && (style.outlineStyle === "none" || style.outlineWidth === "0px")) {
				hidden = "it has no outline"
			}
			if (r.bottom <= 0 || r.top >= innerHeight || r.right <= 0 || r.left >= innerWidth) {
				hidden = "it is outside of the window"
			}
			stops.push({Control: describe(e), Hidden: hidden})
		}
		document.body.tabIndex = -1 // the Tab key continues from where the focus was last
		document.body.focus()
		document.body.removeAttribute("tabindex")
		scrollTo(0, 0)
		return [...document.querySelectorAll(
			"a[href], button, input, select, textarea, summary, [tabindex]",
		)].filter(e => {
			if (e.disabled || e.type === "hidden" || e.tabIndex < 0 ||
				!e.checkVisibility({visibilityProperty: true})) { return false }
			if (e.type !== "radio") { return true }
			const group = [...document.getElementsByName(e.name)].filter(r => r.form === e.form)
			return e.checked || !group.some(r => r.checked) && group[0] === e // one stop a group
		}).map(describe)
	})()`)
	// Many presses at a time take less CPU time. Scrollable boxes and parts of dates are stops too.
	p.Press(strings.Repeat(kb.Tab, len(expected)+1))
	stops := evaluate[[]stop](p, `stops`)
	atEnd := func(s stop) bool { return s.Control == "" }
	for range len(expected) + 20 {
		if slices.ContainsFunc(stops, atEnd) {
			break
		}
		p.Press(kb.Tab)
		stops = evaluate[[]stop](p, `stops`)
	}
	seen := map[string]bool{}
	for _, s := range stops {
		if atEnd(s) {
			break
		}
		if s.Hidden != "" {
			p.t.Errorf("%s at %d px: the focus is not visible on %s: %s", p.Address(),
				p.look.width(), gate.Redact(s.Control), s.Hidden)
		}
		seen[s.Control] = true
	}
	var missed []string
	for _, control := range expected {
		if !seen[control] {
			missed = append(missed, gate.Redact(control))
		}
	}
	if len(missed) > 0 {
		p.t.Errorf("%s at %d px: the Tab key does not reach\n%s", p.Address(), p.look.width(),
			strings.Join(missed, "\n"))
	}
}
