// Package chromium drives Debian's Chromium the way a person uses it: by the roles and names in the
// accessibility tree, by the text, and by the keyboard.
//
//	page := chromium.New(t, g.URL, chromium.Look{Width: 360, Dark: true})
//	page.Open("/apikeys/keys/new")
//	page.Fill("Name", "CI")
//	page.Click("Create key")
//	page.Sees("will not be shown again")
//
// A page fails its test if it writes an error to the browser's console, violates its
// Content-Security-Policy or sends a request to another origin.
package chromium

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"github.com/chromedp/chromedp"
)

// patience limits the wait for a condition. It is long, because other tests run at the same time.
const patience = 60 * time.Second

var browser struct {
	sync.Mutex
	ctx  context.Context
	stop func()
}

// start runs one Chromium for all tests of a package.
func start() (context.Context, error) {
	browser.Lock()
	defer browser.Unlock()
	if browser.ctx != nil {
		return browser.ctx, nil
	}
	// It draws like Chromium with windows, and takes two thirds of the CPU time.
	path, err := exec.LookPath("chromium-headless-shell")
	if err != nil {
		return nil, errors.New("no chromium-headless-shell in the PATH: make deps installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // Chromium refuses to start as root with a sandbox
		chromedp.DisableGPU,
		chromedp.IgnoreCertErrors, // of the gates' own certificate
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("font-render-hinting", "none"), // for the same pictures on every machine
		chromedp.Flag("lang", "en-GB"),
		// No page lives long enough to repay the compiling of its scripts into optimized code.
		chromedp.Flag("js-flags", "--no-opt --no-maglev"),
	)
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stopBrowser := chromedp.NewContext(allocator)
	stop := func() {
		stopBrowser()
		stopAllocator()
	}
	if err := chromedp.Do(ctx); err != nil {
		stop()
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	browser.ctx, browser.stop = ctx, stop
	return ctx, nil
}

// Close ends Chromium and removes its directory. It is for gate.Main.
func Close() {
	browser.Lock()
	defer browser.Unlock()
	if browser.ctx != nil {
		browser.stop()
	}
}
