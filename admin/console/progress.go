package console

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const progressPath = Root + "/progress"

func progressPages() []page {
	return []page{{"GET " + progressPath, anyMember, watch}}
}

// changed answers after a change that reduces access. If the change is in force everywhere, it
// redirects to a page with a notice, else to the progress page.
func (v *visit) changed(to, title string, p api.Propagation) error {
	if p.Complete {
		return v.done(to, notice{Title: title, Propagation: &p})
	}
	since := v.keys.Now().Add(-time.Duration(p.MS) * time.Millisecond)
	q := url.Values{"revision": {strconv.FormatInt(p.Revision, 10)},
		"since": {strconv.FormatInt(since.UnixMilli(), 10)}, "next": {to}}
	return v.done(address(progressPath, q), notice{Kind: "warning", Title: title})
}

type progressPage struct {
	api.Propagation
	Next string
	Name bool // whether to name the nodes
}

// watch shows the progress of a change. The page reloads itself until the change is in force
// everywhere.
func watch(v *visit) error {
	revision, err := strconv.ParseInt(v.query("revision"), 10, 64)
	since, err2 := strconv.ParseInt(v.query("since"), 10, 64)
	if err != nil || err2 != nil {
		v.refuse(http.StatusNotFound, "Page not found", "The address is incomplete.")
		return nil //nolint:nilerr // the page reports it
	}
	p, err := v.keys.Progress(v.ctx, v.Caller, keystore.Revision(revision), time.UnixMilli(since))
	if err != nil {
		return err
	}
	shown := progressPage{Next: v.next(), Name: v.mayIn("admin.nodes:read", keystore.AnyNamespace),
		Propagation: api.Propagation{
			Revision: revision, Complete: p.Complete, Nodes: p.Nodes, Acknowledged: p.Acknowledged,
			MS: p.Took.Milliseconds(),
		}}
	for _, n := range p.Pending {
		shown.Pending = append(shown.Pending, api.PendingNode(n))
	}
	title := "Applying the change on every node"
	if p.Complete {
		title = "In force everywhere"
	}
	return v.show("progress", title, shown)
}
