package chromium_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m, chromium.Close) }

// recorder records the failures of a test.
type recorder struct {
	testing.TB
	said    []string
	cleanup []func()
}

func (r *recorder) Errorf(format string, arguments ...any) {
	r.said = append(r.said, fmt.Sprintf(format, arguments...))
}

func (r *recorder) Fatalf(format string, arguments ...any) {
	r.Errorf(format, arguments...)
	runtime.Goexit()
}

func (r *recorder) Cleanup(f func()) { r.cleanup = append(r.cleanup, f) }

const good = `<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width">
<title>Test</title><link rel=icon href="data:,">
<main><h1>Test</h1>%s</main>`

func site(t *testing.T) string {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{page}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy",
			"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src * "+
				"data:; form-action 'self'")
		w.Header().Set("Content-Type", "text/html")
		if r.PathValue("page") == "refused" {
			w.WriteHeader(http.StatusForbidden)
		}
		fmt.Fprintf(w, good, pages[r.PathValue("page")])
	})
	for name, script := range scripts {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/javascript")
			fmt.Fprint(w, script)
		})
	}
	mux.HandleFunc("POST /sent", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, good, "Sent: "+r.FormValue("name")+", "+r.FormValue("level")+", "+
			r.FormValue("ends")+", "+r.FormValue("all")+".")
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

var scripts = map[string]string{
	"error.js": `console.error("broken")`,
	"throw.js": `throw new Error("thrown")`,
	// However slow the machine is, the whole page is read and painted before anything moves.
	"late.js": `addEventListener("load", () => requestAnimationFrame(() =>
		requestAnimationFrame(() => {
			const p = document.querySelector("p")
			p.style.marginTop = "300px"
			p.textContent = "moved"
		})))`,
	"copy.js": `document.querySelector("button").addEventListener("click", async (e) => {
		await navigator.clipboard.writeText("copied text")
		e.target.textContent = "Done"
	})`,
	"on.js": `document.querySelector("p").textContent = "script is on"`,
}

var pages = map[string]string{
	"plain":   `<p>Nothing here.</p><a href="/form">Next page</a>`,
	"refused": `<p>Not for you.</p>`,
	"form": `<form method=post action=/sent><label>Name <input name=name value=old></label>
		<label>Level <select name=level><option>Low<option value=h>High</select></label>
		<label>Ends <input type=date name=ends></label>
		<label style="position:relative">
			<input type=checkbox name=all style="position:absolute;opacity:0">All of them</label>
		<button>Send</button></form>`,
	"script":  `<p>script is off</p><script src=/on.js></script>`,
	"copy":    `<button>Copy</button><script src=/copy.js></script>`,
	"error":   `<script src=/error.js></script>`,
	"throw":   `<script src=/throw.js></script>`,
	"inline":  `<script>document.title = "inline"</script>`,
	"foreign": `<img src="http://localhost:1/pixel.png" alt="">`,
	"wide":    `<div style="width: 500px">wide</div>`,
	"moving":  `<p>moves</p><script src=/late.js></script>`,
	"pale":    `<p style="color: #bbb; background: #fff">pale</p>`,
	"unnamed": `<input style="display: block">`,
	"nofocus": `<a href="/plain" style="outline: none">no focus to see</a>`,
	"overlap": `<button>below</button><button style="margin-left: -2em">above</button>`,
	"broken":  `<p>Belongs to <a href="/plain"><bdi style="display: block">acme</bdi></a>.</p>`,
	"covered": `<button>below</button><div style="position: fixed; inset: 0">above</div>`,
}

// TestFaults checks the report of each fault of a page.
func TestFaults(t *testing.T) {
	url := site(t)
	for _, test := range []struct {
		page, want string
		check      func(*chromium.Page)
	}{
		{"plain", "", func(p *chromium.Page) { p.Accessible(); p.Tidy(); p.Steady(); p.ByKeyboard() }},
		{"form", "", func(p *chromium.Page) { p.Accessible(); p.Tidy(); p.Steady(); p.ByKeyboard() }},
		{"refused", "", nil},
		{"error", "broken", nil},
		{"throw", "thrown", nil},
		{"inline", "Content Security Policy", nil},
		{"foreign", "another origin: http://localhost:1/pixel.png", nil},
		{"wide", "wide in a window of 360 px", (*chromium.Page).Steady},
		{"moving", "things move", func(p *chromium.Page) { p.Sees("moved"); p.Steady() }},
		{"pale", "color-contrast", (*chromium.Page).Accessible},
		{"unnamed", "label", (*chromium.Page).Accessible},
		{"nofocus", "it has no outline", (*chromium.Page).ByKeyboard},
		{"overlap", "overlaps", (*chromium.Page).Tidy},
		{"broken", "a line of its own", (*chromium.Page).Tidy},
		{"covered", "“below” cannot be clicked", func(p *chromium.Page) { p.Click("below") }},
	} {
		t.Run(test.page, func(t *testing.T) {
			r := &recorder{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				p := chromium.New(r, url, chromium.Look{Width: 360})
				p.Open("/" + test.page)
				if test.check != nil {
					test.check(p)
				}
			}()
			<-done
			for i := range r.cleanup {
				r.cleanup[len(r.cleanup)-1-i]()
			}
			said := strings.Join(r.said, "\n")
			if test.want == "" && said != "" || !strings.Contains(said, test.want) {
				t.Errorf("want a failure with %q, got:\n%s", test.want, said)
			}
		})
	}
}

// TestForm checks the values that the server gets from fields that were filled in by name, with and
// without JavaScript.
func TestForm(t *testing.T) {
	url := site(t)
	for _, noScript := range []bool{false, true} {
		p := chromium.New(t, url, chromium.Look{NoScript: noScript})
		p.Open("/plain")
		p.Click("Next page")
		p.Fill("Name", "Zoë 🔑")
		p.Fill("Level", "High")
		p.Fill("Ends", "2031-02-03")
		p.Click("All of them")
		p.Click("Send")
		p.Sees("Sent: Zoë 🔑, h, 2031-02-03, on.")
		p.Back()
		p.Sees("Level")
	}
}

func TestScript(t *testing.T) {
	url := site(t)
	p := chromium.New(t, url, chromium.Look{NoScript: true})
	p.Open("/script")
	p.Sees("script is off")
	p.Show(chromium.Look{})
	p.Reload()
	p.Sees("script is on")
}

func TestClipboard(t *testing.T) {
	p := chromium.New(t, site(t), chromium.Look{})
	p.Open("/copy")
	p.Click("Copy")
	p.Sees("Done")
	if copied := p.Clipboard(); copied != "copied text" {
		t.Errorf("the clipboard holds %q", copied)
	}
}
