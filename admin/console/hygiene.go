package console

import (
	"net/http"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

const hygienePath = Root + "/hygiene"

func hygienePages() []page {
	return []page{
		{"GET " + hygienePath, "admin.keys:read", showHygiene},
		{"GET " + hygienePath + "/{finding}", "admin.keys:read", listFinding},
	}
}

// A finding is a reason to look at keys, with the keys that have it.
type finding struct {
	Name  manage.Finding
	Title string
	Text  string // why it matters and what to do
	Keys  []manage.KeyHygiene
	More  int    // the number of further keys
	Off   string // why keys are not examined for it; empty: they are
}

// Count returns the number of keys.
func (f finding) Count() string {
	if n := len(f.Keys) + f.More; n > 0 {
		return humanize.Comma(int64(n))
	}
	return ""
}

// Detail returns the header of the column that the finding is about.
func (f finding) Detail() string {
	switch f.Name {
	case manage.ExpiresSoon:
		return "Expires"
	case manage.UnusedPermissions:
		return "Permissions"
	}
	return "Last used"
}

var findings = []finding{
	{Name: manage.NeverUsed, Title: "Never used", Text: "Nobody notices if a token that " +
		"no program uses is stolen: revoke these keys, or start to use them."},
	{Name: manage.Unused30Days, Title: "Not used for 30 days", Text: "The programs may be gone: " +
		"ask the owners, and deactivate the keys that nobody needs."},
	{Name: manage.Unused90Days, Title: "Not used for 90 days", Text: "Most likely nobody needs " +
		"them, and a stolen token would still work: revoke them."},
	{Name: manage.NeverExpires, Title: "Without expiry", Text: "A stolen token works until " +
		"somebody revokes the key: replace these keys with ones that expire."},
	{Name: manage.ExpiresSoon, Title: "Expire within 30 days", Text: "Every server refuses keys " +
		"that have expired: create new keys for the programs that still need one."},
	{Name: manage.DisabledOwner, Title: "Owner disabled", Text: "Every server refuses them because " +
		"their owner is disabled: transfer or revoke them."},
	{Name: manage.UnusedPermissions, Title: "Permissions unused for 90 days", Text: "A stolen " +
		"token can do more than its program needs: remove the permissions that no request needed."},
}

const (
	// maxExamined bounds the keys that one page examines.
	maxExamined = 5000
	// shownFound is the number of keys of each finding on the first page.
	shownFound = 5
)

// examine calls add with active keys that have the finding, or any finding if name is empty, until
// add returns false. It examines at most maxExamined keys, atOnce at a time. It returns the cursor
// of the keys that it has not examined.
func (v *visit) examine(name manage.Finding, atOnce int, add func(manage.KeyHygiene) (more bool)) (
	next *string, err error,
) {
	f := manage.HygieneFilter{Namespace: v.namespace(), Finding: name}
	cursor, more := v.query("cursor"), true
	for examined := 0; more && examined < maxExamined; examined += atOnce {
		var keys []manage.KeyHygiene
		keys, cursor, err = v.keys.Hygiene(v.ctx, v.Caller, f, cursor, atOnce)
		if err != nil || cursor == "" {
			more = false
		}
		for _, k := range keys {
			if !v.showsUsage(k.Namespace, k.Owner) { // which the finding would reveal
				k.Findings = slices.DeleteFunc(k.Findings,
					func(f manage.Finding) bool { return f == manage.UnusedPermissions })
			}
			if name == "" || slices.Contains(k.Findings, name) {
				more = add(k) && more
			}
		}
	}
	if err != nil || cursor == "" {
		return nil, err
	}
	return &cursor, nil
}

type hygienePage struct {
	Findings []finding
	Next     *string
}

// Without returns the titles of the findings that no examined key has.
func (p hygienePage) Without() (titles []string) {
	for _, f := range p.Findings {
		if len(f.Keys) == 0 && f.Off == "" {
			titles = append(titles, f.Title)
		}
	}
	return titles
}

func showHygiene(v *visit) error {
	p := hygienePage{Findings: v.findings()}
	var err error
	p.Next, err = v.examine("", maxRead, func(k manage.KeyHygiene) bool {
		for i := range p.Findings {
			switch f := &p.Findings[i]; {
			case f.Off != "" || !slices.Contains(k.Findings, f.Name):
			case len(f.Keys) < shownFound:
				f.Keys = append(f.Keys, k)
			default:
				f.More++
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	return v.show("hygiene", v.pageTitle("Hygiene"), p)
}

// findings returns the findings that the visitor may see, without keys.
func (v *visit) findings() []finding {
	list := slices.Clone(findings)
	for i := range list {
		if list[i].Name == manage.UnusedPermissions && v.usageOff() {
			list[i].Off = notCounted
		}
	}
	return slices.DeleteFunc(list, func(f finding) bool {
		return f.Name == manage.UnusedPermissions && !v.may("admin.usage:read")
	})
}

type findingPage struct {
	finding
	Next *string
}

func listFinding(v *visit) error {
	for _, f := range v.findings() {
		if string(f.Name) != v.r.PathValue("finding") {
			continue
		}
		p := findingPage{finding: f}
		if f.Off == "" {
			var err error
			p.Next, err = v.examine(f.Name, 4*pageSize, func(k manage.KeyHygiene) bool {
				p.Keys = append(p.Keys, k)
				return len(p.Keys) < pageSize
			})
			if err != nil {
				return err
			}
		}
		return v.show("finding", v.pageTitle("Hygiene", f.Title), p)
	}
	v.refuse(http.StatusNotFound, "Page not found",
		"The address may be mistyped, or the page no longer exists.")
	return nil
}
