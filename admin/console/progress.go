package console

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const progressPath = Root + "/progress"

func progressPages() []page {
	return []page{{"GET " + progressPath, anyMember, watch}}
}

// A pendingChange is a change that some nodes had not applied when the response was sent. A cookie
// carries it, so that the progress page and the page of the changed object can name it. It is not
// secret, and pages show it as text.
type pendingChange struct {
	Title  string `json:"title"`
	Page   string `json:"page"` // the path of the page that follows
	Since  int64  `json:"since"`
	Member string `json:"member"` // who made the change
	// Revision is in the name of the cookie.
	Revision keystore.Revision `json:"-"`
}

// changeCookie, followed by the revision of a pendingChange, is the name of its cookie.
const changeCookie = "apikeys-change-"

const (
	// changeLife is the life of the cookie. Most leases are shorter.
	changeLife = time.Hour
	// maxPending is the number of pending changes that a page looks at.
	maxPending = 5
)

// Link returns the address of the progress page.
func (c pendingChange) Link() string {
	return address(progressPath, url.Values{"next": {c.Page},
		"revision": {strconv.FormatInt(int64(c.Revision), 10)},
		"since":    {strconv.FormatInt(c.Since, 10)}})
}

// changed answers after a change that reduces access. If all nodes have applied the change, it
// redirects to a page with a notice, else to the progress page.
func (v *visit) changed(to, title string, p api.Propagation) error {
	if p.Complete {
		return v.done(to, notice{Title: title, Propagation: &p})
	}
	since := v.keys.Now().Add(-time.Duration(p.MS) * time.Millisecond)
	c := pendingChange{Title: title, Page: to, Since: since.UnixMilli(),
		Member: v.Caller.Identity(), Revision: keystore.Revision(p.Revision)}
	if value := cookieValue(c); len(value) <= maxNotice {
		v.forgetOldest()
		v.setCookie(c.cookie(), value, changeLife)
	}
	v.redirect(c.Link())
	return nil
}

func (c pendingChange) cookie() string {
	return changeCookie + strconv.FormatInt(int64(c.Revision), 10)
}

// forgetOldest removes cookies of changes until there is room for another one. Browsers and proxies
// limit the length of all cookies.
func (v *visit) forgetOldest() {
	list := v.pendingChanges()
	slices.SortFunc(list, func(a, b pendingChange) int { return cmp.Compare(a.Revision, b.Revision) })
	for i := 0; len(list)-i >= maxPending; i++ {
		v.setCookie(list[i].cookie(), "", -time.Second)
	}
}

// pendingChanges returns the changes of the visitor that have a cookie, at most maxPending.
func (v *visit) pendingChanges() (list []pendingChange) {
	for _, cookie := range v.r.Cookies() {
		number, ok := strings.CutPrefix(cookie.Name, changeCookie)
		revision, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			continue
		}
		c := pendingChange{Revision: keystore.Revision(revision)}
		if readCookie(cookie.Value, &c) && c.Member == v.Caller.Identity() {
			list = append(list, c)
		}
		if len(list) == maxPending {
			break
		}
	}
	return list
}

// pendingHere returns warnings about changes that led to this page and that some nodes have not
// applied yet.
func (v *visit) pendingHere() (list []notice) {
	if v.r.URL.Path == progressPath {
		return nil
	}
	for _, c := range v.pendingChanges() {
		if u, err := url.Parse(c.Page); err != nil || u.Path != v.r.URL.Path {
			continue
		}
		p, err := v.progress(c.Revision, c.Since)
		switch {
		case err != nil: // the page does not depend on it
		case p.Complete:
			v.setCookie(c.cookie(), "", -time.Second)
		default:
			list = append(list, notice{Kind: "warning", Title: c.Title, Propagation: &p,
				Link: c.Link()})
		}
	}
	return list
}

// progress returns the current state of a change. It names the nodes if the visitor may read them.
func (v *visit) progress(revision keystore.Revision, since int64) (api.Propagation, error) {
	p, err := v.keys.Progress(v.ctx, v.Caller, revision, time.UnixMilli(since))
	if err != nil {
		return api.Propagation{}, err
	}
	shown := api.Propagation{Revision: int64(revision), Complete: p.Complete, Nodes: p.Nodes,
		Acknowledged: p.Acknowledged, MS: p.Took.Milliseconds()}
	for _, n := range p.Pending {
		shown.Pending = append(shown.Pending, api.PendingNode(n))
	}
	if len(p.Pending) > 0 && !v.mayIn("admin.nodes:read", keystore.AnyNamespace) {
		last := slices.MaxFunc(shown.Pending,
			func(a, b api.PendingNode) int { return a.Until.Compare(b.Until) })
		last.Node = "Another server"
		if len(p.Pending) > 1 {
			last.Node = "Other servers"
		}
		shown.Pending = []api.PendingNode{last}
	}
	return shown, nil
}

type progressPage struct {
	api.Propagation
	Change string // such as "Key revoked"; empty: unknown
	Object string // the name of the changed object; empty: the change has none
	Next   string
	// Left is the longest time in milliseconds until all nodes have applied the change.
	Left int64
}

// State changes whenever the page does.
func (p progressPage) State() string { return fmt.Sprintf("%d of %d", p.Acknowledged, p.Nodes) }

// watch shows the progress of a change. The page refreshes itself until all nodes have applied the
// change.
func watch(v *visit) error {
	revision, err := strconv.ParseInt(v.query("revision"), 10, 64)
	since, err2 := strconv.ParseInt(v.query("since"), 10, 64)
	if err != nil || err2 != nil {
		v.refuse(http.StatusNotFound, "Page not found", "The address is incomplete.")
		return nil //nolint:nilerr // the page reports it
	}
	p := progressPage{Next: v.next()}
	if p.Propagation, err = v.progress(keystore.Revision(revision), since); err != nil {
		return err
	}
	for _, c := range v.pendingChanges() {
		if int64(c.Revision) == revision {
			p.Change, p.Next = c.Title, ownPage(c.Page)
		}
	}
	p.Object = v.objectAt(p.Next)
	for _, n := range p.Pending {
		p.Left = max(p.Left, n.Until.Sub(v.keys.Now()).Milliseconds())
	}
	title := "Applying the change on all servers"
	if p.Complete {
		title = "Applied on all servers"
	}
	if p.Change != "" {
		title = p.Change + ": " + strings.ToLower(title[:1]) + title[1:]
	}
	return v.show("progress", title, p)
}

// objectAt returns the name of the object whose page a link leads to, or an empty string.
func (v *visit) objectAt(link string) string {
	u, err := url.Parse(link)
	if err != nil {
		return ""
	}
	parts := strings.Split(strings.TrimPrefix(u.Path, Root+"/"), "/")
	last := parts[len(parts)-1]
	switch {
	case len(parts) < 2:
		return ""
	case parts[0] == "keys":
		k, err := v.api.FindKey(v.ctx, last)
		if err != nil {
			return "" // the visitor may not read it any more
		}
		return k.Name
	case parts[0] == "members":
		return v.names()[last]
	}
	return last
}
