package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A change describes a row of the audit log for people.
type change struct {
	Summary string // one line, with times in RFC 3339; empty: the action says everything
	Changes []difference
}

// change returns the change of a row, with names instead of the ids of members that the visitor may
// read.
func (v *visit) change(r api.AuditRow) change {
	names := v.names()
	kind, operation, _ := strings.Cut(r.Action, ".")
	c := change{Changes: differences(kind, r.Before, r.After)}
	for i := range c.Changes {
		switch d := &c.Changes[i]; d.Field {
		case "Owner", "Created by", "Revoked by":
			d.Before, d.After = cmp.Or(names[d.Before], d.Before), cmp.Or(names[d.After], d.After)
		}
	}
	before, after := objectOf(r.Before), objectOf(r.After)
	switch operation {
	case "mint", "import", "create":
		c.Summary = created(kind, after, names)
	case "rotate":
		c.Summary = rotated(r.At, after)
	case "revoke":
		if reason := plainText(after["revoke_reason"]); reason != "" {
			c.Summary = "Reason: " + reason
		}
	case "token":
		c.Summary = "Never expires"
		if at := plainText(after["expires_at"]); at != "" {
			c.Summary = "Expires " + at
		}
		if list := items("allowed_ips", after["allowed_ips"]); len(list) > 0 {
			c.Summary += ", only from " + some(list)
		}
	case "expiring", "unused", "leaked":
		c.Summary = reported(after)
	case "edit":
		c.Summary = edited(before, after, c.Changes)
	}
	return c
}

// reported sums up a reminder or the report of a leak.
func reported(after map[string]any) string {
	reminder, _ := after["reminder"].(map[string]any)
	leak, _ := after["leak"].(map[string]any)
	if since := plainText(reminder["unused_since"]); since != "" {
		return "Not used since " + since
	}
	if reminder != nil {
		return "Expires " + plainText(after["expires_at"])
	}
	if url := plainText(leak["url"]); url != "" {
		return "Found at " + url
	}
	return ""
}

// created sums up a new object: what it allows, and where.
func created(kind string, o map[string]any, names map[string]string) string {
	var parts []string
	if of := plainText(o["kind"]); of != "" && kind == "namespace" {
		parts = append(parts, "kind "+of)
	}
	grants, _ := o["grants"].([]any)
	for _, one := range grants {
		if g, ok := one.(map[string]any); ok {
			parts = append(parts, grantWords(g))
		}
	}
	if len(parts) > 2 {
		parts = append(parts[:2], "and in "+count(int64(len(parts)-2), "more namespace", "more namespaces"))
	}
	if list := items("permissions", o["permissions"]); len(list) > 0 { // of a role
		parts = append(parts, some(list))
	}
	if kind == "plan" {
		parts = append(parts, planWords(api.Plan{RateLimit: decoded[*api.RateLimit](o["rate_limit"]),
			Quota: decoded[*api.Quota](o["quota"])}))
	}
	if parent := plainText(o["parent"]); parent != "" {
		parts = append(parts, "in "+parent)
	}
	if owner := plainText(o["owner"]); owner != "" && owner != keystore.RootMember {
		parts = append(parts, "for "+cmp.Or(names[owner], owner))
	}
	if at := plainText(o["expires_at"]); at != "" {
		parts = append(parts, "expires "+at)
	}
	words := strings.Join(parts, ", ")
	for _, first := range []string{"kind ", "no ", "role ", "in ", "for ", "expires "} { // permissions stay as they are
		if strings.HasPrefix(words, first) {
			return strings.ToUpper(words[:1]) + words[1:]
		}
	}
	return words
}

// grantWords sums up a grant: "Read-Only in default".
func grantWords(g map[string]any) string {
	list := items("permissions", g["permissions"])
	words := accessLabels[accessOf(list)]
	if words == "" && len(list) > 0 {
		words = some(list)
	}
	if roles := items("roles", g["roles"]); len(roles) > 0 {
		words = strings.TrimPrefix(words+" and role "+some(roles), " and ")
	}
	return words + inWords(plainText(g["namespace"]), g["connected"] == true)
}

// rotated says until when the old token works.
func rotated(at time.Time, o map[string]any) string {
	secrets, _ := o["secrets"].([]any)
	for _, one := range secrets {
		secret, _ := one.(map[string]any)
		until, err := time.Parse(time.RFC3339, plainText(secret["expires_at"]))
		if err == nil && until.After(at) {
			return "The old token works until " + until.Format(time.RFC3339)
		}
	}
	return "The old token stopped working"
}

// edited sums up an edit by its first changes.
func edited(before, after map[string]any, changes []difference) string {
	var parts []string
	for _, d := range changes {
		switch {
		case d.Field == "Active" && after["kind"] != nil: // a member
			parts = append(parts, map[bool]string{true: "Enabled", false: "Disabled"}[after["active"] ==
				true])
		case d.Field == "Active":
			parts = append(parts,
				map[bool]string{true: "Activated", false: "Deactivated"}[after["active"] == true])
		case d.Field == "Name" && keystore.HasGlyph(plainText(before["name"])):
			parts = append(parts, fmt.Sprintf("Renamed from %s", d.Before))
		case d.List:
			parts = append(parts, d.Field+": "+listWords(d))
		case !d.Moment && len(d.Before)+len(d.After) <= 80:
			parts = append(parts, fmt.Sprintf("%s: %s → %s", d.Field, cmp.Or(d.Before, "none"),
				cmp.Or(d.After, "none")))
		default:
			parts = append(parts, d.Field)
		}
	}
	if len(parts) > 2 {
		parts = append(parts[:2], "and "+count(int64(len(parts)-2), "more field", "more fields"))
	}
	return strings.Join(parts, "; ")
}

func listWords(d difference) string {
	var parts []string
	if len(d.Added) > 0 {
		parts = append(parts, "added "+some(d.Added))
	}
	if len(d.Removed) > 0 {
		parts = append(parts, "removed "+some(d.Removed))
	}
	return strings.Join(parts, ", ")
}

// some returns the first items of a list and the number of the others.
func some(list []string) string {
	const most = 3
	if more := len(list) - most; more > 0 {
		return strings.Join(slices.Clone(list[:most]), ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(list, ", ")
}
