package chromium

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/chromedp/chromedp"
)

// Picture saves the whole page in light and in dark colours as NAME-WIDTH-light.png and
// NAME-WIDTH-dark.png, or with -no-script, in the directory that SCREENSHOTS names. Without
// SCREENSHOTS it does nothing.
func (p *Page) Picture(name string) {
	p.t.Helper()
	if os.Getenv("SCREENSHOTS") == "" {
		return
	}
	shown := p.look
	for _, dark := range []bool{false, true} {
		look := shown
		look.Dark = dark
		p.Show(look)
		p.keep(name, chromedp.FullScreenshot(100))
	}
	p.Show(shown)
}

// Window saves the part of the page that the window shows in its current colours, as Picture does.
func (p *Page) Window(name string) {
	p.t.Helper()
	p.keep(name, chromedp.CaptureScreenshot())
}

func (p *Page) keep(name string, take chromedp.Action[[]byte]) {
	p.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	scheme := "light"
	if p.look.Dark {
		scheme = "dark"
	}
	if p.look.NoScript {
		scheme += "-no-script"
	}
	name = fmt.Sprintf("%s-%d-%s.png", name, p.look.width(), scheme)
	evaluate[bool](p, `scrollTo(0, 0), true`) // so that the sticky header is at the top
	png, err := run(p, take)
	if err != nil {
		p.t.Fatalf("a picture of %s: %v", p.Address(), err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
		p.t.Fatal(err)
	}
}
