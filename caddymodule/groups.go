package caddymodule

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// groupNames returns the names of groups in the value of a placeholder: a list of strings, a text
// with a JSON array of strings, or a text with names separated by commas or, if it has no comma, by
// spaces. Any other value is one name. A list or an array that contains anything but strings has no
// names; only a null of an array is ignored. The names in a list or an array are not trimmed.
func groupNames(value any) (names []string) {
	switch value := value.(type) {
	case []string:
		names = slices.Clone(value)
	case []any:
		for _, one := range value {
			name, ok := one.(string)
			if !ok {
				return nil
			}
			names = append(names, name)
		}
	case string:
		names = namesIn(strings.Trim(value, blank))
	default:
		names = []string{caddy.ToString(value)}
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// blank are the characters that separate names or surround them. Others that look like them, such as
// a no-break space, are part of a name. If they were trimmed, the members of a group whose name
// differs from that of another group only in these could act for the other group.
const blank = " \t"

func namesIn(text string) (names []string) {
	switch {
	case strings.HasPrefix(text, "["):
		if json.Unmarshal([]byte(text), &names) != nil {
			return nil
		}
		return names
	case strings.Contains(text, ","):
		for name := range strings.SplitSeq(text, ",") {
			names = append(names, strings.Trim(name, blank))
		}
		return names
	}
	return strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(blank, c) })
}
