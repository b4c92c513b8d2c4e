package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A difference is one field of an object that a change has made another. Lists are told by what
// came and what went.
type difference struct {
	Field     string
	Was, Is   string
	Gone, New []string
	List      bool
	Moment    bool // of a moment
}

// silent are fields that tell nothing beside the others.
var silent = []string{"version", "id", "prefix"}

// differences compares an object before and after a change; null is none. Of an object that was
// made, or deleted, it is all that it has, or had.
func differences(before, after json.RawMessage) (list []difference) {
	was, is := objectOf(before), objectOf(after)
	names := make([]string, 0, len(was)+len(is))
	for _, o := range []map[string]any{was, is} {
		for name := range o {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if slices.Contains(silent, name) {
			continue
		}
		d := difference{Field: strings.ToUpper(name[:min(1,
			len(name))]) + strings.ReplaceAll(name[min(1, len(name)):], "_", " ")}
		a, b := was[name], is[name]
		if d.List = isList(name, a) || isList(name, b); d.List {
			old, now := items(name, a), items(name, b)
			d.Gone = slices.DeleteFunc(slices.Clone(old),
				func(s string) bool { return slices.Contains(now, s) })
			d.New = slices.DeleteFunc(now, func(s string) bool { return slices.Contains(old, s) })
			if len(d.Gone)+len(d.New) > 0 {
				list = append(list, d)
			}
			continue
		}
		if d.Was, d.Is = plainText(a), plainText(b); d.Was != d.Is {
			d.Moment = strings.HasSuffix(name, "_at")
			list = append(list, d)
		}
	}
	return list
}

// objectOf reads an object of the audit log, nil for none.
func objectOf(text json.RawMessage) (o map[string]any) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	_ = d.Decode(&o) // what cannot be read has nothing to tell
	return o
}

func isList(name string, v any) bool {
	switch v.(type) {
	case []any, map[string]any:
		return true
	}
	return name == "permissions" && v != nil
}

// items are the members of a list, each as one text.
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
			default:
				list = append(list, plainText(one))
			}
		}
	}
	return list
}

// grantItems are what one grant gives, each with where.
func grantItems(g map[string]any) (list []string) {
	in := plainText(g["namespace"]) + ": "
	if in == "*: " {
		in = "everywhere: "
	}
	for _, role := range items("roles", g["roles"]) {
		list = append(list, in+"role "+role)
	}
	for _, permission := range items("permissions", g["permissions"]) {
		list = append(list, in+permission)
	}
	if g["connected"] == true {
		list = append(list, in+"covers children too")
	}
	return list
}

func secretItem(s map[string]any) string {
	text := "made " + moment(plainText(s["created_at"]))
	if until := plainText(s["expires_at"]); until != "" {
		text += ", good until " + moment(until)
	}
	return text
}

// moment shortens a time of the log.
func moment(text string) string {
	if len(text) < len("2006-01-02T15:04") {
		return text
	}
	return strings.Replace(text[:len("2006-01-02T15:04")], "T", " ", 1) + " UTC"
}

// plainText is a value that is no list.
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
