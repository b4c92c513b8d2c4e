// Package chromium drives Debian's Chromium by what a person perceives: the roles and names of the
// accessibility tree, the text, the keyboard.
//
//	page := chromium.New(t, g.URL, chromium.Look{Width: 360, Dark: true})
//	page.Open("/apikeys/keys/new")
//	page.Fill("Name", "CI")
//	page.Click("Create key")
//	page.Sees("will not be shown again")
//
// A page that writes an error to the console, breaks its Content-Security-Policy or asks another
// origin for anything fails its test.
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

// patience is how long a condition may take to come true: much, since CI runs everything at once
// with the race detector.
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
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, errors.New("no chromium in the PATH: make deps installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // CI is root, for whom Chromium refuses to start with it
		chromedp.DisableGPU,
		chromedp.IgnoreCertErrors, // of the gates' own certificate
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("font-render-hinting", "none"), // the same pictures wherever they are made
		chromedp.Flag("lang", "en-GB"),
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
