package console

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const auditPath = Root + "/audit"

func auditPages() []page {
	return []page{
		{"GET " + auditPath, "admin.audit:read", listAudit},
		{"POST " + auditPath + "/verify", "admin.audit:read", verifyAudit},
	}
}

// auditActions are the actions of the audit log with their labels.
var auditActions = []choice{
	{Value: "key.mint", Label: "Key created"}, {Value: "key.import", Label: "Key imported"},
	{Value: "key.edit", Label: "Key edited"},
	{Value: "key.rotate", Label: "Token rotated"},
	{Value: "key.revoke", Label: "Key revoked"}, {Value: "key.delete", Label: "Key deleted"},
	{Value: "key.expiring", Label: "Key expires soon"},
	{Value: "key.expired", Label: "Key expired"}, {Value: "key.unused", Label: "Key unused"},
	{Value: "key.leaked", Label: "Key leaked"},
	{Value: "role.create", Label: "Role created"}, {Value: "role.edit", Label: "Role edited"},
	{Value: "role.delete", Label: "Role deleted"},
	{Value: "plan.create", Label: "Plan created"}, {Value: "plan.edit", Label: "Plan edited"},
	{Value: "plan.delete", Label: "Plan deleted"},
	{Value: "namespace.create", Label: "Namespace created"},
	{Value: "namespace.edit", Label: "Namespace edited"},
	{Value: "namespace.delete", Label: "Namespace deleted"},
	{Value: "member.create", Label: "Member created"},
	{Value: "member.edit", Label: "Member edited"},
	{Value: "member.token", Label: "Member token created"},
	{Value: "member.delete", Label: "Member deleted"},
	{Value: "quota.threshold", Label: "Quota used"},
	{Value: "webhook.replay", Label: "Webhook replayed"},
	{Value: "webhook.test", Label: "Webhook tested"},
}

type auditPage struct {
	Rows     []auditEntry
	Next     *string
	Form     *form // the filters
	Actions  []choice
	Actors   []choice // known by name
	Filtered bool
	Verify   bool // whether the visitor may verify the log
}

// An auditEntry is a row of the audit log as shown.
type auditEntry struct {
	api.AuditRow
	change
	ActionLabel string
	ActorName   string // the id if the name is unknown
	Object      string // the name of the object, or its id
	Link        string // empty: the object is deleted or has no page
}

func listAudit(v *visit) error {
	p := auditPage{Form: &form{values: v.r.URL.Query()},
		Actions: append([]choice{{Label: "Any"}}, auditActions...),
		Verify:  v.mayIn("admin.audit:read", keystore.AnyNamespace)}
	f := client.AuditFilter{Namespace: v.namespace(), Actor: v.query("actor"),
		Action: v.query("action"), Object: strings.TrimSpace(v.query("object")),
		Cursor: v.query("cursor"), Limit: pageSize}
	var fromOK, toOK bool
	f.From, fromOK = p.Form.day("from")
	f.To, toOK = p.Form.day("to")
	if !fromOK || !toOK {
		v.refuse(http.StatusUnprocessableEntity, "Invalid day",
			"From and To must be days such as 2026-01-31.")
		return nil
	}
	if !f.To.IsZero() {
		f.To = f.To.AddDate(0, 0, 1) // the form includes the day
	}
	p.Filtered = f.Actor+f.Action+f.Object != "" || !f.From.IsZero() || !f.To.IsZero()
	list, err := v.api.ListAudit(v.ctx, f)
	if err != nil {
		return err
	}
	names := v.names()
	p.Next = list.NextCursor
	for _, r := range list.Items {
		p.Rows = append(p.Rows, v.auditEntry(r, names))
	}
	for id, name := range names {
		p.Actors = append(p.Actors, choice{Value: id, Label: name})
	}
	for _, actor := range people(f.Actor, list.Items) {
		p.Actors = append(p.Actors, choice{Value: actor, Label: nameOf(names, actor)})
	}
	slices.SortFunc(p.Actors, func(a, b choice) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a.Label), strings.ToLower(b.Label)),
			cmp.Compare(a.Value, b.Value))
	})
	p.Actors = append([]choice{{Label: "Anyone"}}, p.Actors...)
	if f.Actor != "" {
		p.Actors = offer(p.Actors, f.Actor)
	}
	if f.Action != "" {
		p.Actions = offer(p.Actions, f.Action)
	}
	return v.show("audit", "Audit", p)
}

// people returns the actors of a page that are persons in groups, and the chosen one.
func people(chosen string, rows []api.AuditRow) []string {
	seen := make(map[string]bool)
	for _, r := range append(rows, api.AuditRow{Actor: chosen}) {
		if _, _, ok := keystore.ParseGroupActor(r.Actor); ok {
			seen[r.Actor] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// day parses a date in the viewer's time zone. An empty field is the zero time.
func (f *form) day(name string) (day time.Time, ok bool) {
	if f.Value(name) == "" {
		return time.Time{}, true
	}
	day, err := time.ParseInLocation(time.DateOnly, f.Value(name), f.zone())
	return day, err == nil
}

func (v *visit) auditEntry(r api.AuditRow, names map[string]string) auditEntry {
	e := auditEntry{AuditRow: r, ActionLabel: r.Action, ActorName: nameOf(names, r.Actor),
		Object: r.Object, change: v.change(r)}
	if i := slices.IndexFunc(auditActions,
		func(c choice) bool { return c.Value == r.Action }); i >= 0 {
		e.ActionLabel = auditActions[i].Label
	}
	now := objectOf(r.After)
	deleted := now == nil
	if deleted {
		now = objectOf(r.Before)
	}
	text := func(name string) string { s, _ := now[name].(string); return s }
	e.Object = shownName(text("name"), r.Object)
	kind, _, _ := strings.Cut(r.Action, ".")
	switch {
	case deleted:
	case r.Action == "key.leaked" && now["personal"] == true:
		e.ActionLabel, e.Link = "Member token leaked", v.MemberLink(text("owner"))
	case r.Action == "key.revoke" && now["personal"] == true:
		e.ActionLabel, e.Link = "Member token revoked", v.MemberLink(text("owner"))
	case r.Action == "member.token" || kind == "key" && now["personal"] == true:
		// the object is the record of the token
		e.Link = v.MemberLink(text("owner"))
	case kind == "key":
		e.Link = v.link(keysPath + "/" + r.Object)
	case kind == "role":
		e.Link = v.RoleLink(text("namespace"), r.Object)
	case kind == "plan":
		e.Link = v.PlanLink(text("namespace"), r.Object)
	case kind == "namespace":
		e.Link = v.NamespaceLink(r.Object)
	case kind == "member":
		e.Link = v.MemberLink(r.Object)
	}
	return e
}

// verifyAudit reports whether the log was changed, except for rows that were removed from the end.
func verifyAudit(v *visit) error {
	verdict, err := v.api.VerifyAudit(v.ctx)
	if err != nil {
		return err
	}
	to := v.link(auditPath)
	if !verdict.Intact {
		return v.done(to, notice{Kind: "danger", Title: "The audit log has been changed",
			Text: sentence(verdict.Cause) + " " +
				fmt.Sprintf("Someone with write access to the database has changed it. %s before "+
					"the change %s intact.", count(verdict.Rows, "row", "rows"),
					areOf(verdict.Rows))})
	}
	return v.done(to, notice{Title: "The audit log is intact",
		Text: fmt.Sprintf("It has %s. The hash of the last row is %s. Keep a copy of the hash "+
			"elsewhere: it also reveals rows that are later removed from the end.",
			count(verdict.Rows, "row", "rows"), verdict.Last)})
}

// areOf is the verb for n rows.
func areOf(n int64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// count returns a number with its noun.
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
