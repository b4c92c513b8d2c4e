package console

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A difference is one changed field of an object. For a list, it holds the added and the removed
// items.
type difference struct {
	Field          string
	Before, After  string
	Removed, Added []string
	List           bool
	Moment         bool // whether the values are times
}

// ignoredFields are fields that add no information to the others.
var ignoredFields = []string{"version", "id", "prefix"}

// storedLabels holds the labels of fields of the audit log for which forms have other ones or none.
var storedLabels = map[string]string{"grants": "Permissions", "secrets": "Tokens",
	"revoke_reason": "Reason", "idle": "Unused keys"}

// differences compares an object of a kind before and after a change. null stands for no object, so
// a created or deleted object differs in all its fields.
func differences(kind string, before, after json.RawMessage) (list []difference) {
	was, is := objectOf(before), objectOf(after)
	names := make([]string, 0, len(was)+len(is))
	for _, o := range []map[string]any{was, is} {
		for name := range o {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if slices.Contains(ignoredFields, name) {
			continue
		}
		d := difference{Field: cmp.Or(storedLabels[name], new(form).Named(name))}
		a, b := shownValue(kind, name, was[name]), shownValue(kind, name, is[name])
		if d.List = isList(name, a) || isList(name, b); d.List {
			old, now := items(name, a), items(name, b)
			d.Removed = slices.DeleteFunc(slices.Clone(old),
				func(s string) bool { return slices.Contains(now, s) })
			d.Added = slices.DeleteFunc(now, func(s string) bool { return slices.Contains(old, s) })
			if len(d.Removed)+len(d.Added) > 0 {
				list = append(list, d)
			}
			continue
		}
		if d.Before, d.After = plainText(a), plainText(b); d.Before != d.After {
			d.Moment = strings.HasSuffix(name, "_at")
			list = append(list, d)
		}
	}
	return list
}

// shownValue returns a value of the audit log as forms show it, or the value itself.
func shownValue(kind, name string, v any) any {
	text, _ := v.(string)
	switch {
	case v == nil:
	case name == "edit_policy":
		return labelOf(editPolicies, text)
	case name == "on_leak":
		return labelOf(leakChoices, text)
	case name == "kind" && kind == "member":
		return labelOf(memberKinds, text)
	case name == "namespace" && text == keystore.AnyNamespace:
		return "Shared"
	case name == "max_lifetime":
		return durationWords(text)
	case name == "idle":
		rule := decoded[api.IdleRule](v)
		return labelOf(idleChoices, rule.Then) + " after " + durationWords(rule.After)
	case name == "rate_limit":
		return rateWords(decoded[*api.RateLimit](v))
	case name == "quota":
		return quotaWords(decoded[*api.Quota](v))
	}
	return v
}

// decoded returns a value of the audit log as a type of the REST interface, which has the same JSON.
func decoded[T any](v any) (out T) {
	text, err := json.Marshal(v)
	if err == nil {
		_ = json.Unmarshal(text, &out) // an unreadable value is empty
	}
	return out
}

// objectOf decodes an object of the audit log. It returns nil for null.
func objectOf(text json.RawMessage) (o map[string]any) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	_ = d.Decode(&o) // an unreadable object has no fields
	return o
}

func isList(name string, v any) bool {
	switch v.(type) {
	case []any, map[string]any:
		return true
	}
	return name == "permissions" && v != nil
}

// items returns the items of a list as texts.
func items(name string, v any) (list []string) {
	switch v := v.(type) {
	case string: // permissions are one text
		return strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' })
	case map[string]any:
		for key, value := range v {
			list = append(list, key+"="+plainText(value))
		}
		slices.Sort(list)
	case []any:
		for _, one := range v {
			grant, ok := one.(map[string]any)
			switch {
			case ok && name == "grants":
				list = append(list, grantItems(grant)...)
			case ok && name == "secrets":
				list = append(list, secretItem(grant))
			case name == "key_roles" && one == keystore.AnyRole:
				list = append(list, "at least one")
			default:
				list = append(list, plainText(one))
			}
		}
	}
	return list
}

// grantItems returns the roles and permissions of a grant, each with its namespace.
func grantItems(g map[string]any) (list []string) {
	in := inWords(plainText(g["namespace"]), g["connected"] == true)
	for _, role := range items("roles", g["roles"]) {
		list = append(list, "role "+role+in)
	}
	for _, permission := range items("permissions", g["permissions"]) {
		list = append(list, permission+in)
	}
	return list
}

func secretItem(s map[string]any) string {
	text := "created " + plainText(s["created_at"])
	if until := plainText(s["expires_at"]); until != "" {
		text += ", valid until " + until
	}
	return text
}

// moments matches the times of the audit log.
var moments = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)

// showMoments returns a text with time elements in place of its times, so that all times of a page
// are in one zone.
func showMoments(text string) template.HTML {
	var b strings.Builder
	end := 0
	for _, at := range moments.FindAllStringIndex(text, -1) {
		t, err := time.Parse(time.RFC3339, text[at[0]:at[1]])
		if err != nil {
			continue
		}
		b.WriteString(template.HTMLEscapeString(text[end:at[0]]))
		b.WriteString(string(timeElement(t, "2006-01-02 15:04")))
		end = at[1]
	}
	b.WriteString(template.HTMLEscapeString(text[end:]))
	return template.HTML(b.String()) //nolint:gosec // the text is escaped
}

// plainText returns a value other than a list as text.
func plainText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "yes"
		}
		return "no"
	}
	return fmt.Sprint(v)
}
