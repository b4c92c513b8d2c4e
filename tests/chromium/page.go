package chromium

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// Look is how a browser shows pages. The zero value is a desktop window in light colours, with
// JavaScript, in UTC.
type Look struct {
	Width    int // in CSS pixels; 0 means 1440
	Height   int // in CSS pixels; 0 means 900
	Dark     bool
	NoScript bool
	Zone     string // a time zone such as Asia/Kolkata
	// Forced means forced colours, as in the contrast themes of Windows.
	Forced bool
	Print  bool // as on paper
}

func (l Look) width() int {
	return cmp.Or(l.Width, 1440)
}

// Page is a tab with cookies of its own. Its methods fail the test if the page does not have the
// control or text that they name.
type Page struct {
	Status int // of the last document

	t      testing.TB
	site   string
	look   Look
	ctx    context.Context
	faults *faults
}

// New opens a browser for a site, such as http://127.0.0.1:8080.
func New(t testing.TB, site string, look Look) *Page {
	t.Helper()
	parent, err := start()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(parent, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &Page{t: t, site: site, ctx: ctx, faults: &faults{sites: []string{site}}}
	p.do(chromedp.Func(p.faults.watch))
	t.Cleanup(p.faultless)
	for _, permission := range []string{"clipboard-read", "clipboard-write"} {
		// Without windows, Chromium cannot ask the user.
		if _, err := chromedp.CallBrowser(ctx, cdpbrowser.SetPermission,
			cdpbrowser.SetPermissionParams{
				Permission:       &cdpbrowser.PermissionDescriptor{Name: permission},
				Setting:          cdpbrowser.PermissionSettingGranted,
				Origin:           site,
				BrowserContextID: chromedp.FromContext(ctx).BrowserContextID,
			}); err != nil {
			t.Fatal(err)
		}
	}
	p.do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		if _, err := cdp.Call(ctx, tab, emulation.SetFocusEmulationEnabled,
			emulation.SetFocusEmulationEnabledParams{Enabled: true}); err != nil {
			return err
		}
		_, err := cdp.Call(ctx, tab, page.AddScriptToEvaluateOnNewDocument,
			page.AddScriptToEvaluateOnNewDocumentParams{Source: notePainted})
		return err
	}))
	p.Show(look)
	return p
}

// Show changes how the browser shows pages, including the current one. NoScript applies from the
// next page on.
func (p *Page) Show(look Look) {
	p.t.Helper()
	look.Zone = cmp.Or(look.Zone, "UTC")
	if look == p.look {
		return
	}
	scheme, forced, media := "light", "none", ""
	if look.Dark {
		scheme = "dark"
	}
	if look.Forced {
		forced = "active"
	}
	if look.Print {
		media = "print"
	}
	p.do(
		chromedp.EmulateViewport(int64(look.width()), int64(cmp.Or(look.Height, 900)),
			overlayScrollbars),
		chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
			if _, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia,
				emulation.SetEmulatedMediaParams{
					Media: media,
					Features: []*emulation.MediaFeature{
						{Name: "prefers-color-scheme", Value: scheme},
						{Name: "forced-colors", Value: forced},
						// so that no picture shows half of a transition
						{Name: "prefers-reduced-motion", Value: "reduce"},
					},
				}); err != nil {
				return err
			}
			if look.Zone != p.look.Zone {
				if _, err := cdp.Call(ctx, tab, emulation.SetTimezoneOverride,
					emulation.SetTimezoneOverrideParams{TimezoneID: look.Zone}); err != nil {
					return err
				}
			}
			_,
				err := cdp.Call(ctx, tab, emulation.SetScriptExecutionDisabled,
				emulation.SetScriptExecutionDisabledParams{Value: look.NoScript})
			return err
		}),
	)
	p.look = look
}

// overlayScrollbars selects scrollbars that take no room, as on a phone.
func overlayScrollbars(
	screen *emulation.SetDeviceMetricsOverrideParams, _ *emulation.SetTouchEmulationEnabledParams,
) {
	screen.ScrollbarType = emulation.SetDeviceMetricsOverrideScrollbarTypeOverlay
}

// Open goes to a path of the site, or to an address, and waits until it has loaded.
func (p *Page) Open(path string) {
	p.t.Helper()
	address := path
	if strings.HasPrefix(path, "/") {
		address = p.site + path
	}
	p.load("opening "+path, chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, page.Navigate, page.NavigateParams{URL: address})
		return err
	}))
}

// Reload reloads the page, which sends a form again.
func (p *Page) Reload() {
	p.t.Helper()
	p.load("reloading", chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, page.Reload, page.ReloadParams{})
		return err
	}))
}

// Back goes back in the history. The page may come from the browser's back/forward cache.
func (p *Page) Back() {
	p.t.Helper()
	history, err := run(p, chromedp.NavigationEntries())
	if err != nil || history.CurrentIndex == 0 {
		p.t.Fatalf("the history has no previous page (%v)", err)
	}
	before := history.Entries[history.CurrentIndex-1]
	_,
		err = run(p, chromedp.WaitEvent(page.FrameNavigated,
		func(e page.EventFrameNavigated) bool { return e.Frame.ParentID == "" },
		chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
			_,
				err := cdp.Call(ctx, tab, page.NavigateToHistoryEntry,
				page.NavigateToHistoryEntryParams{EntryID: before.ID})
			return err
		})))
	if err != nil {
		p.t.Fatalf("going back to %s: %v", before.URL, err)
	}
	p.until(func() string { return "loaded after going back" },
		func() bool { return evaluate[string](p, `document.readyState`) == "complete" })
}

// load runs a step that navigates and waits until the document has loaded.
func (p *Page) load(what string, step chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	answer, err := chromedp.RunResponse(ctx, step)
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", what, err, p.faults)
	}
	if answer != nil { // none within the same document
		p.Status = int(answer.Status)
	}
}

// Address returns the path and query of the current address.
func (p *Page) Address() string {
	p.t.Helper()
	address, err := run(p, chromedp.Location())
	if err != nil {
		p.t.Fatal(err)
	}
	u, err := url.Parse(address)
	if err != nil {
		p.t.Fatal(err)
	}
	return u.RequestURI()
}

// Cookies returns the cookies that the browser would send to the site.
func (p *Page) Cookies() []*network.Cookie {
	p.t.Helper()
	r, err := run(p, func(ctx context.Context, tab *chromedp.Target) (network.GetCookiesResult,
		error) {
		return cdp.Call(ctx, tab, network.GetCookies,
			network.GetCookiesParams{URLs: []string{p.site + "/apikeys/"}})
	})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, cookie := range r.Cookies {
		gate.Watch(cookie.Value)
	}
	return r.Cookies
}

// SetCookies stores cookies that the site has set in an answer to another client, as Strict and
// without Secure.
func (p *Page) SetCookies(cookies []*http.Cookie) {
	p.t.Helper()
	var list []*network.CookieParam
	for _, c := range cookies {
		gate.Watch(c.Value)
		list = append(list, &network.CookieParam{Name: c.Name, Value: c.Value, URL: p.site,
			Path: c.Path, HTTPOnly: c.HttpOnly, SameSite: network.CookieSameSiteStrict})
	}
	if _, err := run(p, func(ctx context.Context, tab *chromedp.Target) (cdp.Empty, error) {
		return cdp.Call(ctx, tab, network.SetCookies, network.SetCookiesParams{Cookies: list})
	}); err != nil {
		p.t.Fatal(err)
	}
}

// Text returns the visible text of the page, with single spaces.
func (p *Page) Text() string {
	p.t.Helper()
	text := strings.Join(strings.Fields(evaluate[string](p, `document.body?.innerText ?? ""`)), " ")
	gate.WatchTokensIn(text)
	return text
}

// Sees waits until the page has all the texts.
func (p *Page) Sees(texts ...string) {
	p.t.Helper()
	for _, want := range texts {
		p.until(func() string { return "“" + want + "” on the page" },
			func() bool { return strings.Contains(p.Text(), want) })
	}
}

// DoesNotSee fails the test if the page has one of the texts.
func (p *Page) DoesNotSee(texts ...string) {
	p.t.Helper()
	text := p.Text()
	for _, unwanted := range texts {
		if strings.Contains(text, unwanted) {
			p.t.Errorf("%s should not show “%s”:\n%s", p.Address(), gate.Redact(unwanted),
				gate.Redact(text))
		}
	}
}

// until waits for a condition of the page.
func (p *Page) until(what func() string, true func() bool) {
	p.t.Helper()
	pause := 20 * time.Millisecond
	for end := time.Now().Add(patience); !true(); time.Sleep(pause) {
		if time.Now().After(end) {
			p.t.Fatalf("%s: not within %v: %s. The page reads:\n%s\n%s", p.Address(), patience,
				gate.Redact(what()), gate.Redact(p.Text()), p.faults)
		}
		pause = min(pause*5/4, 200*time.Millisecond) // each try takes CPU time
	}
}

// evaluate returns the value of a JavaScript expression in the page, regardless of the page's
// policy and of NoScript.
func evaluate[T any](p *Page, expression string) T {
	p.t.Helper()
	value, err := run(p, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%.200s: %v", expression, err)
	}
	return value
}

func run[T any](p *Page, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, action)
}

// do runs steps that only a broken browser refuses. It has no time limit, because the context of
// the first action becomes that of the tab.
func (p *Page) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// Clipboard returns the text in the clipboard.
func (p *Page) Clipboard() string {
	p.t.Helper()
	text := evaluate[string](p, `navigator.clipboard.readText()`)
	gate.WatchTokensIn(text)
	return text
}
