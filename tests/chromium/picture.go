package chromium

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/chromedp/chromedp"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// Picture keeps the whole page as NAME-WIDTH-light.png, -dark.png or with -no-script in the
// directory that SCREENSHOTS names, else in .run/screenshots.
func (p *Page) Picture(name string) {
	p.t.Helper()
	p.keep(name, chromedp.FullScreenshot(100))
}

// Window keeps what the window shows, in the same way.
func (p *Page) Window(name string) {
	p.t.Helper()
	p.keep(name, chromedp.CaptureScreenshot())
}

func (p *Page) keep(name string, take chromedp.Action[[]byte]) {
	p.t.Helper()
	scheme := "light"
	if p.look.Dark {
		scheme = "dark"
	}
	if p.look.NoScript {
		scheme += "-no-script"
	}
	name = fmt.Sprintf("%s-%d-%s.png", name, p.look.width(), scheme)
	evaluate[bool](p, `scrollTo(0, 0), true`) // what sticks to the window stands where it begins
	png, err := run(p, take)
	if err != nil {
		p.t.Fatalf("a picture of %s: %v", p.Address(), err)
	}
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		root, err := gate.Root()
		if err != nil {
			p.t.Fatal(err)
		}
		dir = filepath.Join(root, ".run", "screenshots")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
		p.t.Fatal(err)
	}
}
