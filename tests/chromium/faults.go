package chromium

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// faults collects the faults of a page.
type faults struct {
	sites []string // origins to which the page may send requests

	mu    sync.Mutex
	found []string
	// documents are the addresses of documents, whose status the test judges.
	documents map[string]bool
}

func (f *faults) watch(ctx context.Context, tab *chromedp.Target) error {
	if err := chromedp.Listen(ctx, f.look); err != nil {
		return err
	}
	_, err := cdp.Call(ctx, tab, audits.Enable, cdp.Empty{})
	return err
}

func (f *faults) look(event any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError ||
			e.Type == runtime.ConsoleAPICalledTypeWarning {
			f.add("console.%s: %s", e.Type, text(e.Args))
		}
	case *runtime.EventExceptionThrown:
		f.add("uncaught: %s",
			(&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *log.EventEntryAdded:
		if e.Entry.Source == log.EntrySourceNetwork && f.documents[e.Entry.URL] {
			return
		}
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			f.add("%s %s: %s (%s)", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if g := e.Issue.Details.GenericIssueDetails; g != nil &&
			g.ErrorType == audits.GenericIssueErrorTypeFormInputAssignedAutocompleteValueToIDOrNameAttributeError {
			// A field may have a name that autofill recognizes, such as "name".
			return
		}
		if q := e.Issue.Details.QuirksModeIssueDetails; q != nil &&
			strings.HasPrefix(q.URL, "chrome-error:") {
			return // a page of Chromium, such as for a 401 without a body
		}
		details, _ := json.Marshal(e.Issue.Details)
		f.add("%s: %s", e.Issue.Code, details)
	case *network.EventRequestWillBeSent:
		if e.Type == network.ResourceTypeDocument {
			if f.documents == nil {
				f.documents = map[string]bool{}
			}
			f.documents[e.Request.URL] = true
		}
		if u, err := url.Parse(e.Request.URL); err != nil || u.Host != "" &&
			!slices.Contains(f.sites, u.Scheme+"://"+u.Host) {
			f.add("a request to another origin: %s", e.Request.URL)
		}
	}
}

func (f *faults) add(format string, arguments ...any) {
	f.found = append(f.found, gate.Redact(fmt.Sprintf(format, arguments...)))
}

func (f *faults) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.found, "\n")
}

func text(values []*runtime.RemoteObject) string {
	var words []string
	for _, v := range values {
		if v.Description != "" {
			words = append(words, v.Description)
		} else {
			words = append(words, string(v.Value))
		}
	}
	return strings.Join(words, " ")
}

func (p *Page) faultless() {
	if found := p.faults.String(); found != "" {
		p.t.Errorf("%s: the browser reports:\n%s", p.site, found)
	}
}

// AllowOrigin allows requests to another origin.
func (p *Page) AllowOrigin(origin string) {
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
	p.faults.sites = append(p.faults.sites, origin)
}
